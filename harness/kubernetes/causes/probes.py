"""Containers that a probe keeps from being ready, or that it restarts."""

import re

from harness.kubernetes.causes.cause import Cause
from harness.kubernetes.causes.logs import telling_line, why_no_database
from harness.kubernetes.causes.objects import MIN_RESTARTS, Container, Objects, last_seen
from harness.kubernetes.causes.wording import container_name, one_line, read_log


def explain(objects: Objects, container: Container) -> Cause | None:
    """Explain a container whose probe fails; None if no probe is to blame."""
    unhealthy = objects.events_of(container.pod, "Unhealthy", container=container.name)
    killing = objects.events_of(container.pod, "Killing", container=container.name)
    kills = [event for event in killing if "probe" in event.get("message", "")]
    if not unhealthy or container.ended.get("exitCode", 0) not in (0, 137, 143):
        return None  # it has ended by itself
    is_of_this_start = container.running and last_seen(unhealthy[-1]) >= container.running.get("startedAt", "")
    if not kills and not is_of_this_start:
        return None
    # The probe that had it killed explains it best; without one, the probe that failed last.
    kind = re.search(r"failed (\w+) probe", kills[-1]["message"]) if kills else None
    same = [event for event in unhealthy if kind and event["message"].lower().startswith(kind[1])] or unhealthy
    first, _, message = one_line(same[-1]["message"]).partition(": ")
    text = first[:1].lower() + first[1:].replace(" and resulted in unknown state", "")
    if kills and container.restarts:
        text += ", and it was restarted" + (f" {container.restarts} times" if container.restarts > 1 else "")
    line = telling_line(objects, container)
    if why_no_database(line):
        why = f"{why_no_database(line)} ({line})"
    elif "connection refused" in message.lower():
        why = "It does not listen yet: the machine is most likely slow, or it hangs while it starts."
    elif re.search(r"timed? ?out|deadline exceeded|context canceled", message, re.IGNORECASE):
        why = "It answers too slowly: the machine is most likely overloaded."
    else:
        why = "It does not answer as the probe expects; its log most likely says why."
    what = f"{container_name(container)}: its {text}: {message or 'no message'}"
    # A readiness probe ends nothing and may still succeed; a container that was restarted often enough will not.
    return Cause("probe", what, why, read_log(container.pod), bool(kills) and container.restarts >= MIN_RESTARTS)

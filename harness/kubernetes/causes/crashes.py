"""Containers that ended: for lack of memory, or by an error of their program."""

import re
from collections.abc import Iterator

from harness.kubernetes.causes.cause import Cause
from harness.kubernetes.causes.logs import telling_line, why_no_database
from harness.kubernetes.causes.objects import MIGRATIONS, Container, Objects, component
from harness.kubernetes.causes.wording import (
    FILE,
    FREE_RESOURCES,
    NO_KNOWN_CAUSE,
    container_name,
    one_line,
    read_log,
    resources_value,
)

WAITS_FOR_MIGRATIONS = "wait-for-airflow-migrations"
# Too little memory twice is too little; the first time may have been a peak while everything started.
MIN_MEMORY_KILLS = 2


def explain_memory(container: Container) -> Cause:
    """Explain a container that was most likely killed for its memory."""
    pod, ended = container.pod, container.ended
    limit = container.spec.get("resources", {}).get("limits", {}).get("memory")
    what = f"{container_name(container)} was killed {container.times}".rstrip()
    if limit and ended.get("reason") == "OOMKilled":
        what = f"{what} for using more memory than its limit, {limit}."
        why = "It needs more than that, or keeps too much in memory at once."
        next_step = f"Raise {resources_value(pod)}.limits.memory {FILE}"
    else:
        what = f"{what}: {ended.get('reason', 'no reason')}, exit code {ended.get('exitCode')}."
        why = f"It most likely ran out of memory; its limit is {limit or 'what the node has'}."
        next_step = FREE_RESOURCES
    is_started_once = pod["spec"].get("restartPolicy") == "Never" or component(pod) == MIGRATIONS
    return Cause("memory", what, why, next_step, is_started_once or container.restarts >= MIN_MEMORY_KILLS)


def explain(objects: Objects, container: Container) -> Iterator[Cause]:
    """Explain a container whose program ended."""
    line, message = telling_line(objects, container), one_line(container.ended.get("message", ""))
    if container.name == WAITS_FOR_MIGRATIONS and ("unapplied migrations" in line or "TimeoutError" in line):
        return  # the migrations have a cause themselves
    what, next_step = f"{container_name(container)} ended with {how_ended(container, line)}", read_log(container.pod)
    why = why_no_database(line) or NO_KNOWN_CAUSE
    if not container.ended.get("exitCode"):
        why = "Its program most likely finished, though it should keep running."
    elif "exec format error" in line + message:
        why = "Its image is built for another architecture than the node's: build or pull it for that one."
    elif container.ended.get("reason") in ("StartError", "ContainerCannotRun") or "unable to start" in message:
        # The end of the runtime's chain of errors says what it could not do.
        error = re.sub(r"^.*unable to start container process: (error during container init: )?", "", message)
        what = f"{container_name(container)} could not be started: {error}"
        why = "Its image has no such program, or the program is not executable."
        next_step = f"Compare command and args {FILE} with its image."
    yield Cause("crash", what, why, next_step, container.keeps_failing)


def how_ended(container: Container, line: str) -> str:
    """Return exit code, count and the telling LINE of a container's log, or what Kubernetes says instead."""
    times = f" ({container.times})" if container.times else ""
    message = line or one_line(container.ended.get("message", "")) or "its log is empty"
    return f"exit code {container.ended.get('exitCode')}{times}: {message}"

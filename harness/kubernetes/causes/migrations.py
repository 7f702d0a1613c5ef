"""The migration of Airflow's database, and other jobs that Kubernetes gave up."""

from collections.abc import Iterator

from harness.kubernetes.causes.cause import Cause
from harness.kubernetes.causes.crashes import how_ended
from harness.kubernetes.causes.logs import WAITS_FOR_DATABASE, telling_line, why_no_database
from harness.kubernetes.causes.objects import MIGRATIONS, Container, Objects, conditions
from harness.kubernetes.causes.wording import NO_KNOWN_CAUSE, read_log

_SUBJECT = "The migration of Airflow's database"


def explain(objects: Objects, container: Container) -> Iterator[Cause]:
    """Explain a migration that failed, or still runs."""
    line = telling_line(objects, container)
    why, next_step = why_no_database(line), read_log(container.pod)
    if container.ended.get("exitCode"):
        what = f"{_SUBJECT} failed with {how_ended(container, line)}"
        yield Cause("job", what, why or NO_KNOWN_CAUSE, next_step, container.keeps_failing)
    elif container.running:
        state = line if line == WAITS_FOR_DATABASE else f"its last log line: {line}" if line else "its log is empty"
        why = why or "The machine is most likely slow: nothing reports a failure."
        next_step = f"{next_step}; if it makes progress, raise the deadline 'migrations' in cluster/versions.toml"
        yield Cause("job-running", f"{_SUBJECT} has not ended yet; {state}", why, next_step, is_final=False)


def given_up_jobs(objects: Objects) -> Iterator[Cause]:
    """Explain jobs that Kubernetes gave up; it deletes their pods, and the logs with them."""
    owners = {owner["name"] for pod in objects.pods for owner in pod["metadata"].get("ownerReferences", [])}
    for job in objects.jobs:
        name, failed = job["metadata"]["name"], conditions(job).get("Failed", {})
        if failed.get("status") != "True" or name in owners:
            continue
        subject = _SUBJECT if MIGRATIONS in name else f"The job {name}"
        why = "It failed again and again; its pods, and their logs with them, were deleted."
        if failed.get("reason") == "DeadlineExceeded":
            why = "It exceeded its deadline: the machine is most likely slow, or it waits for something."
        what = f"{subject} was given up: {failed.get('message') or failed.get('reason', '')}"
        yield Cause("job", what, why, f"Run it again: nox -s cluster -- up. {read_log(job)}", is_final=True)

"""Which line of a container's log explains its end, and what the line says about the database."""

import re

from harness.kubernetes.causes.objects import Container, Objects

WAITS_FOR_DATABASE = "it still waits for the database"
_DATABASE = {
    WAITS_FOR_DATABASE: "The database is most likely not running, or the cluster cannot reach its address.",
    "could not translate host name": "The database's host name does not resolve in the cluster.",
    "[Cc]onnection refused": "Nothing listens at the database's address: it is not running, or the address is wrong.",
    "password authentication failed|pg_hba.conf": "The database rejects the user or the password.",
}
_IS_DATABASE = re.compile(rf"OperationalError|psycopg|connection to server|\bFATAL:|asyncpg|{WAITS_FOR_DATABASE}")
_IS_ERROR = re.compile(r"^[\w.]*(Error|Exception|Exit|Interrupt|Timeout|Warning)\b(:|$)|\b(ERROR|CRITICAL)\b|[Ee]rror:")


def telling_line(objects: Objects, container: Container) -> str:
    """Return the line of a container's log that best explains its end, which is not always the last one."""
    name = container.pod["metadata"]["name"]
    log = ""
    if container.restarts and (container.waiting or container.running):
        log = objects.logs(name, container.name, True).strip()
    log = log or objects.logs(name, container.name, False).strip()
    # The official image prints a dot for each time that it has asked for the database in vain.
    if log and not log.strip(". \n"):
        return WAITS_FOR_DATABASE
    lines = [line for line in map(_message, log.splitlines()) if line]
    for pattern in (_IS_DATABASE, _IS_ERROR):
        found = [line for line in lines if pattern.search(line) and not line.startswith(("File ", "raise ", "from "))]
        if found:
            return found[-1]
    return lines[-1] if lines else ""


def _message(line: str) -> str:
    """Return a line of a log without colours, time and level."""
    line = re.sub(r"\x1b\[[0-9;]*m|\(psycopg\d?\.\w+\) ", "", line).strip()
    line = re.sub(r"^\[?\d{4}-\d\d-\d\d[T ][\d:.,]+(Z|[+-]\d\d:?\d\d)?\]?\s*", "", line)
    return " ".join(re.sub(r"^\[(debug|info|warning|error|critical)\s*\]", "", line).split())


def why_no_database(line: str) -> str:
    """Return why the database cannot be used; nothing if LINE is about something else, or says it best itself."""
    reasons = (why for pattern, why in _DATABASE.items() if re.search(pattern, line))
    return next(reasons, "") if _IS_DATABASE.search(line) else ""

"""What can go wrong in the harness and was foreseen: three lines for the terminal and an exit code of its own.

Exit codes: 10 to 29 belong to `events`, 30 to 39 to `dbt/run.py`, 40 to 69 to the harness.
"""

import re
from collections.abc import Iterable, Sequence

from events.errors import EventsError
from events.uri import shown, without_secrets


class HarnessError(EventsError):
    """A failure that was foreseen; see `EventsError` for its three lines.

    Attributes:
        evidence: Markdown that shows more of it, for the step's summary.
    """

    exit_code = 40

    def __init__(self, what: str, why: str, next_step: str, evidence: Iterable[str] = ()) -> None:
        super().__init__(what, why, next_step)
        self.evidence = list(evidence)


class UsageError(HarnessError):
    """The command line asks for what does not exist: an unknown target, say."""

    exit_code = 2


class PortTakenError(HarnessError):
    """A port that was asked for by number is in use."""

    exit_code = 41


class DiskFullError(HarnessError):
    """There is no room, or too little, for the run's directory."""

    exit_code = 42


class ServiceFailedError(HarnessError):
    """A process of the target ended, or was not ready before its deadline."""

    exit_code = 43


class DagRunFailedError(HarnessError):
    """A DAG run failed, did not end before its deadline, or its DAG was never parsed.

    Attributes:
        task_id: the task that failed, if one did.
    """

    exit_code = 44
    task_id: str | None = None


class ChecksFailedError(HarnessError):
    """The warehouse does not hold what the events file says it should."""

    exit_code = 45


class PostgresError(HarnessError):
    """No PostgreSQL could be had in the way that was asked for."""

    exit_code = 46


class LeftBehindError(HarnessError):
    """Something of the run could not be taken down."""

    exit_code = 47


class DbtFailedError(HarnessError):
    """dbt ended with another exit code than 0."""

    exit_code = 49


class DatabaseGoneError(HarnessError):
    """PostgreSQL ended, or the connection to it broke, in the middle of something."""

    exit_code = 50


class EnvironmentMissingError(HarnessError):
    """A Python environment that the harness starts programs from is not installed."""

    exit_code = 48


class ToolMissingError(HarnessError):
    """A program is missing or too old and cannot be fetched."""

    exit_code = 52


class DownloadError(HarnessError):
    """A file cannot be fetched, or is not the one that is pinned."""

    exit_code = 53


class EngineMissingError(HarnessError):
    """No Docker engine answers."""

    exit_code = 54


class TooSmallError(HarnessError):
    """The engine has too little memory or disk for a cluster."""

    exit_code = 55


class ImageMissingError(HarnessError):
    """An image is neither here nor can it be pulled."""

    exit_code = 56


class BuildFailedError(HarnessError):
    """An image of ours could not be built."""

    exit_code = 57


class ChartMissingError(HarnessError):
    """The chart is not where it is said to be."""

    exit_code = 58


class InstallFailedError(HarnessError):
    """Helm could not install the chart, or the chart does not take its values.

    Attributes:
        is_of_hook: the chart's hook, the migration, failed or timed out; not helm itself.
    """

    exit_code = 59
    is_of_hook = False


class RollOutFailedError(HarnessError):
    """A component of Airflow is not ready before its deadline, or never will be."""

    exit_code = 60


class CommandFailedError(HarnessError):
    """A program ended with another exit code than 0, or not in time.

    Attributes:
        said: what it said, both streams.
    """

    exit_code = 51

    def __init__(self, argv: Sequence[str], how: str, said: str) -> None:
        super().__init__(
            f"`{' '.join(map(shown, argv[:6]))}{' …' if len(argv) > 6 else ''}` {how}.",
            f"It said: {without_secrets(telling_line(said)) or 'nothing'}",
            "Run it by hand to see more.",
        )
        self.said = said


_TELLING = re.compile(
    r"error|fail|denied|refused|no space|no such|not found|already|cannot|could not|unable|invalid|timed out",
    re.IGNORECASE,
)
_ASIDE = re.compile(r"^(Run '|See '|To see |Usage:|For more |W\d{4} )|--help\b")  # hints, Kubernetes' warnings


def telling_line(said: str) -> str:
    """Return the line of what a program SAID that tells most about its failure: no hint at its help, no warning."""
    lines = [line.strip()[:300] for line in said.splitlines() if line.strip() and not _ASIDE.search(line.strip())]
    return next((line for line in reversed(lines) if _TELLING.search(line)), lines[-1] if lines else "")


SPEAKS_HTTP = re.compile("HTTP response to HTTPS client|first record does not look like a TLS handshake")  # a registry
LET_IT_SPEAK_HTTP = "Give it a certificate, or let {who} use HTTP: docs/operations.md, “A registry that speaks HTTP”."


class ClusterFailedError(HarnessError):
    """A cluster was not made, or does not answer."""

    exit_code = 61


class NotUpError(HarnessError):
    """There is no cluster that is up, or it is not ours."""

    exit_code = 62


class ReleaseError(HarnessError):
    """A release is not ready: its tag, its notes or what is attached to it."""

    exit_code = 64


class HistoryMissingError(HarnessError):
    """The project is no clone of its repository, or there is no git to read it."""

    exit_code = 65


class AlreadyUpError(HarnessError):
    """A cluster of this clone is up already, and nobody said that it may be used."""

    exit_code = 63

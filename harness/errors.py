"""The harness's expected errors: each has three lines for the terminal, and each kind its own exit code.

Exit codes: 10 to 29 and 36 belong to `feeds`, 30 to 35 to `dbt/run.py`, 40 to 79 to the harness.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Self

from feeds.errors import FeedError
from feeds.uri import shown, without_secrets


class HarnessError(FeedError):
    """An expected error, never changed: what passes it on raises `amended()` from it. Its `evidence` is Markdown."""

    exit_code = 40

    def __init__(
        self, what: str, why: str, next_step: str, evidence: Iterable[str] = (), *, exit_code: int | None = None
    ) -> None:
        super().__init__(what, why, next_step)
        self.evidence = list(evidence)
        if exit_code is not None:
            self.exit_code = exit_code

    def amended(
        self,
        what: str | None = None,
        why: str | None = None,
        next_step: str | None = None,
        evidence: Iterable[str] | None = None,
    ) -> Self:
        """Return a copy of this error with other lines or other evidence."""
        error = type(self).__new__(type(self))
        error.__dict__.update(self.__dict__)
        lines = (what or self.what, why or self.why, next_step or self.next_step)
        HarnessError.__init__(error, *lines, self.evidence if evidence is None else evidence, exit_code=self.exit_code)
        return error


class UsageError(HarnessError):
    """The arguments are invalid: an unknown target, for example."""

    exit_code = 2


class PortTakenError(HarnessError):
    """The port that the user chose, or that of a stopped PostgreSQL of a cluster, is in use."""

    exit_code = 41


class DiskFullError(HarnessError):
    """The disk has too little room for the run's directory."""

    exit_code = 42


class ServiceFailedError(HarnessError):
    """A process of the run failed, ended early, or was not ready before its deadline."""

    exit_code = 43


class DagRunFailedError(HarnessError):
    """A DAG run failed, did not end before its deadline, or its DAG was never parsed."""

    exit_code = 44

    def __init__(self, *lines: Any, task_id: str | None = None, **more: Any) -> None:
        super().__init__(*lines, **more)
        self.task_id = task_id  # the task that failed; None if none did


class ChecksFailedError(HarnessError):
    """A number in the warehouse differs from the one computed from the feeds' files."""

    exit_code = 45


class PostgresError(HarnessError):
    """PostgreSQL could not be started, or the given server cannot be used."""

    exit_code = 46


class LeftBehindError(HarnessError):
    """Something that the run started or made could not be removed."""

    exit_code = 47


class DbtFailedError(HarnessError):
    """dbt failed."""

    exit_code = 49


class DatabaseGoneError(HarnessError):
    """PostgreSQL ended, or the connection to it broke, during the run."""

    exit_code = 50


class EnvironmentMissingError(HarnessError):
    """A Python environment that the harness starts programs from is not installed."""

    exit_code = 48


class ToolMissingError(HarnessError):
    """A program is missing or too old, and no pinned one fits this machine."""

    exit_code = 52


class DownloadError(HarnessError):
    """A file cannot be downloaded, or its checksum is not the pinned one."""

    exit_code = 53


class EngineMissingError(HarnessError):
    """No Docker engine answers."""

    exit_code = 54


class TooSmallError(HarnessError):
    """The engine has too little memory or disk for a cluster."""

    exit_code = 55


class ImageMissingError(HarnessError):
    """An image is not in the engine and cannot be pulled."""

    exit_code = 56


class BuildFailedError(HarnessError):
    """One of the project's images could not be built."""

    exit_code = 57


class ChartMissingError(HarnessError):
    """The chart is not at its path or address."""

    exit_code = 58


class InstallFailedError(HarnessError):
    """Helm could not install the chart, or the chart does not accept the values."""

    exit_code = 59

    def __init__(self, *lines: Any, is_of_hook: bool = False, **more: Any) -> None:
        super().__init__(*lines, **more)
        self.is_of_hook = is_of_hook  # the chart's migration hook failed or timed out, not helm itself


class RollOutFailedError(HarnessError):
    """A component of Airflow is not ready before its deadline, or cannot become ready."""

    exit_code = 60


class CommandFailedError(HarnessError):
    """A program failed, could not be started, or did not end in time."""

    exit_code = 51

    def __init__(self, argv: Sequence[str], how: str, output: str) -> None:
        """Make the error for ARGV; HOW is `ended with exit code 1`, for example."""
        line = without_secrets(cause_line(output))
        super().__init__(
            f"`{' '.join(map(shown, argv[:6]))}{' …' if len(argv) > 6 else ''}` {how}.",
            f"Its output says: {line}" if line else "It printed nothing.",
            "Run it by hand to see more.",
        )
        self.output = output  # on both streams


_CAUSE = re.compile(
    r"error|fail|denied|refused|no space|no such|not found|already|cannot|could not|unable|invalid|timed out",
    re.IGNORECASE,
)
_NO_CAUSE = re.compile(r"^(Run '|See '|To see |Usage:|For more |W\d{4} )|--help\b")  # hints, Kubernetes' warnings


def cause_line(output: str) -> str:
    """Return the line of a program's OUTPUT that most likely names the cause; empty if there is none."""
    lines = [line.strip()[:300] for line in output.splitlines()]
    lines = [line for line in lines if line and not _NO_CAUSE.search(line)]
    return next((line for line in reversed(lines) if _CAUSE.search(line)), lines[-1] if lines else "")


# A registry that speaks HTTP is asked over HTTPS.
SPEAKS_HTTP = re.compile("HTTP response to HTTPS client|first record does not look like a TLS handshake")
LET_IT_SPEAK_HTTP = "Give it a certificate, or let {who} use HTTP: docs/pins.md, “A registry that speaks HTTP”."


class ClusterFailedError(HarnessError):
    """A cluster could not be created, or does not answer."""

    exit_code = 61


class NotUpError(HarnessError):
    """No cluster of this clone, or no warehouse of `nox -s dbt`, is up."""

    exit_code = 62


class ReleaseError(HarnessError):
    """A release is not ready: its tag, its changelog entry or its attachments."""

    exit_code = 64


class HistoryMissingError(HarnessError):
    """The project's folder is not a git clone, or git is not installed."""

    exit_code = 65


class NotWritableError(HarnessError):
    """A file or folder that a session writes to is read-only, or belongs to another user."""

    exit_code = 66


class AccessDeniedError(HarnessError):
    """The cluster does not accept the context's credentials, or they lack a right."""

    exit_code = 67


class BreakingChangeError(HarnessError):
    """A change of a contract breaks its readers, and the contract's major version does not say so."""

    exit_code = 68


class AlreadyUpError(HarnessError):
    """A cluster of this clone, or a deployment in the namespace, is already up, and --reuse is not set."""

    exit_code = 63


class BaseUnusableError(HarnessError):
    """The base of a comparison does not exist, is not fetched, or has no dbt project."""

    exit_code = 70


class BaseFailedError(HarnessError):
    """The base's models could not be built, or its load failed."""

    exit_code = 71


class DifferencesError(HarnessError):
    """Marts differ from the base's, and `--strict` allows no difference."""

    exit_code = 72


class ApprovalError(HarnessError):
    """`dbt/expected_changes.yml` is not valid, or the differences are not exactly those that it names."""

    exit_code = 73

"""What can go wrong in the harness and was foreseen: three lines for the terminal and an exit code of its own.

Exit codes: 10 to 29 belong to `events`, 30 to 39 to `dbt/run.py`, 40 to 69 to the harness.
"""

from events.errors import EventsError


class HarnessError(EventsError):
    """A failure that was foreseen; see `EventsError` for its three lines."""

    exit_code = 40


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
    """A DAG run failed, did not end before its deadline, or its DAG was never parsed."""

    exit_code = 44


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

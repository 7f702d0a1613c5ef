"""The errors that a load foresees: three lines for the terminal, and one exit code per kind."""

# ruff: noqa: N818 - each class is named after what has happened


class FeedError(Exception):
    """A foreseen failure; `str()` returns its three lines.

    Attributes:
        what: what happened, one line.
        why: the most likely cause, one line.
        next_step: what to run or change next, one line.
        exit_code: the exit code of the process that ends with it, 10 to 29 or 36.
    """

    exit_code: int

    def __init__(self, what: str, why: str, next_step: str) -> None:
        super().__init__(what, why, next_step)
        self.what, self.why, self.next_step = (" ".join(line.split()) for line in (what, why, next_step))

    def __str__(self) -> str:
        return "\n".join((self.what, self.why, self.next_step))


class SourceMissing(FeedError):
    """The source does not exist, a pattern matches no file, or a period has none."""

    exit_code = 10


class SourceEmpty(FeedError):
    """The source has no line, not even a header."""

    exit_code = 11


class WrongHeader(FeedError):
    """The source is of another format, or its contract does not allow its columns or their types."""

    exit_code = 12


class SourceIsDirectory(FeedError):
    """The source is a directory."""

    exit_code = 13


class SchemePackageMissing(FeedError):
    """The package that reads URIs of this scheme is not installed."""

    exit_code = 14


class SchemeUnknown(FeedError):
    """The URI's scheme is unknown."""

    exit_code = 15


class InvertedInterval(FeedError):
    """The interval's start is not before its end."""

    exit_code = 16


class TooManyRejected(FeedError):
    """More rows were rejected than allowed; the raw table is unchanged."""

    exit_code = 17


class EmptyReplacement(FeedError):
    """The load would have deleted rows and loaded none; the raw table is unchanged."""

    exit_code = 18


class SourceUnreadable(FeedError):
    """The source exists and cannot be read: permissions, a damaged file, the network."""

    exit_code = 19


class IntervalUnreadable(FeedError):
    """A bound of the interval is not a time."""

    exit_code = 21


class WarehouseBusy(FeedError):
    """Other loads or a dbt build held locks for longer than the load may wait, or no connection was free."""

    exit_code = 20


class SourceChanged(FeedError):
    """The source changed while it was read, or is still being written; the raw table is unchanged."""

    exit_code = 22


class WarehouseGone(FeedError):
    """The warehouse cannot be reached, does not accept connections, or the connection broke."""

    exit_code = 23


class WarehouseFull(FeedError):
    """The warehouse has too little disk or memory, or a limit of it is too low; the raw table is unchanged."""

    exit_code = 24


class TablesUnfit(FeedError):
    """PostgreSQL refused a statement, or a table of `raw` has something that a load cannot keep, such as a trigger."""

    exit_code = 25


class ConstraintViolated(FeedError):
    """A row violates a constraint that a user added to the raw table, which is unchanged."""

    exit_code = 26


class LoadCancelled(FeedError):
    """A user or a timeout of the server cancelled the load's statement; the raw table is unchanged."""

    exit_code = 27


class NotAllowed(FeedError):
    """PostgreSQL refused the login, the role lacks a privilege, or the database takes no writes."""

    exit_code = 28


class SettingUnusable(FeedError):
    """An argument, a variable or a part of the DSN is empty or invalid, or names no database of the server."""

    exit_code = 29


class ContractInvalid(FeedError):
    """A feed's contract is not valid, or two contracts exclude one another."""

    exit_code = 36

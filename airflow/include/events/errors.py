"""What can go wrong in a load and was foreseen: three lines for the terminal, and an exit code for each kind."""

# ruff: noqa: N818 - each is named for what has happened


class EventsError(Exception):
    """A failure that was foreseen; `str()` gives its three lines.

    Attributes:
        what: what happened, one line.
        why: the most likely cause, one line.
        next_step: what to run or change next, one line.
        exit_code: the exit code of the process that ends with it, 10 to 29.
    """

    exit_code: int

    def __init__(self, what: str, why: str, next_step: str) -> None:
        super().__init__(what, why, next_step)
        self.what, self.why, self.next_step = (" ".join(line.split()) for line in (what, why, next_step))

    def __str__(self) -> str:
        return "\n".join((self.what, self.why, self.next_step))


class SourceMissing(EventsError):
    """Nothing is stored at the source's URI."""

    exit_code = 10


class SourceEmpty(EventsError):
    """The source has no line, not even a header."""

    exit_code = 11


class WrongHeader(EventsError):
    """The source's first line is not the header of an events file."""

    exit_code = 12


class SourceIsDirectory(EventsError):
    """The source's URI names a directory."""

    exit_code = 13


class SchemePackageMissing(EventsError):
    """The package that reads URIs of this scheme is not installed."""

    exit_code = 14


class SchemeUnknown(EventsError):
    """Nothing is known that reads URIs of this scheme."""

    exit_code = 15


class IntervalUpsideDown(EventsError):
    """The interval's end is not after its start."""

    exit_code = 16


class TooManyRejected(EventsError):
    """A larger share of the rows than allowed was rejected; nothing was published."""

    exit_code = 17


class EmptyReplacement(EventsError):
    """The load would have replaced an interval's events by nothing; nothing was published."""

    exit_code = 18


class SourceUnreadable(EventsError):
    """The source is there and cannot be read: no permission, a damaged gzip file, the network."""

    exit_code = 19


class IntervalUnreadable(EventsError):
    """A bound of the interval is not a time."""

    exit_code = 21


class WarehouseBusy(EventsError):
    """Other loads or a dbt build kept the warehouse for longer than the load may wait."""

    exit_code = 20


class SourceChanged(EventsError):
    """The source was written to while it was read; nothing was published."""

    exit_code = 22


class WarehouseGone(EventsError):
    """The warehouse was not reached, or the connection to it broke."""

    exit_code = 23


class WarehouseFull(EventsError):
    """The warehouse has no room for the load; nothing was published."""

    exit_code = 24


class TablesUnfit(EventsError):
    """A table of `raw` is not this project's, or has something that a load cannot keep: a trigger, say."""

    exit_code = 25


class ConstraintViolated(EventsError):
    """A row violates a constraint that somebody has added to `raw.events`; nothing was published."""

    exit_code = 26


class LoadCancelled(EventsError):
    """Somebody has cancelled the load's statement on the server; nothing was published."""

    exit_code = 27


class NotAllowed(EventsError):
    """The role may not do what a load does there, or nobody may; nothing was published."""

    exit_code = 28


class SettingUnusable(EventsError):
    """What says which file or which warehouse is meant is empty, or cannot be read."""

    exit_code = 29

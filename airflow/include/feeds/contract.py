"""Feeds, as their contracts say they are: `airflow/feeds/<feed>.yaml`, which docs/contracts.md describes."""

import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from feeds.errors import ContractInvalid

CONTRACTS = Path(__file__).parents[2] / "feeds"  # one per feed
# With a load's number and a random part it is a table's name; in capitals, variables begin with it: ORDERS_NOT_BEFORE.
FEED_NAME = re.compile("(?!.*_not$)[a-z][a-z0-9_]{0,29}")
# That a raw table or its history has beside the contract's, and those that every table of PostgreSQL has.
OWN_COLUMNS = frozenset({"load_id", "other_columns", "valid_from", "valid_to"})
OWN_COLUMNS |= {"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}
OWN_TABLES = frozenset({"loads", "loaded_files", "rejected_rows", "partitions", "snapshot_days"})
OWN_TABLES |= {"rejected_events", "events_partitions"}  # of an earlier version
HISTORY = "_history"
# The parts of a location that are the time of its files: {start:%Y/%m/%d}.
TIME_IN_LOCATION = re.compile(r"\{start:([^{}]*)\}")
PERIODS = ("%Y", "%m", "%d", "%H")


def are_times(location: str) -> bool:
    """Return whether the parts in braces of LOCATION, which has some, are times that a load knows."""
    parts = {part for times in TIME_IN_LOCATION.findall(location) for part in re.findall("%.?", times)}
    return bool(parts) and parts == set(PERIODS[: len(parts)]) and "{" not in TIME_IN_LOCATION.sub("", location)


Format = Literal["csv", "jsonl", "parquet"]
Cadence = Literal["daily", "weekly", "monthly"]
CADENCES: tuple[Cadence, ...] = get_args(Cadence)
LATENCY = timedelta(hours=2)  # a load waits for a missing file for one hour; a run is stopped after three
Type = Literal["integer", "number", "string", "boolean", "date", "timestamp", "uuid", "json"]
SQL_TYPES: dict[str, str] = {
    "integer": "bigint",
    "number": "numeric",
    "string": "text",
    "boolean": "boolean",
    "date": "date",
    "timestamp": "timestamp with time zone",
    "uuid": "uuid",
    "json": "jsonb",
}


@dataclass(frozen=True)
class Column:
    """A column of a feed.

    Attributes:
        name: in the raw table.
        header: in the file.
        type: what a value is.
        sql_type: as PostgreSQL's format_type() writes it.
        is_required: whether each row has a value.
        pattern: a regular expression of RE2 that the whole of a string matches.
        lengths: the fewest and the most characters of a string; None for no bound.
        digits: the most digits of a number before and after the point.
        values: all valid values, as text.
    """

    name: str
    header: str
    type: Type
    sql_type: str
    is_required: bool = False
    pattern: str | None = None
    lengths: tuple[int, int | None] = (0, None)
    digits: tuple[int, int] | None = None
    values: tuple[str, ...] = ()


class Rule(BaseModel):
    """A condition in SQL over the columns of a row, which is not false for a valid one."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(pattern="^[a-z][a-z0-9_]{0,49}$")
    sql: str = Field(pattern=r"\S")


class Csv(BaseModel):
    """How a CSV file is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    quote: str = Field(default='"', min_length=1, max_length=1)
    null_text: str = ""  # `null` is no text in YAML
    encoding: Literal["utf-8", "latin-1", "windows-1252"] = "utf-8"
    decimal: Literal[".", ","] = "."


class Drift(BaseModel):
    """What a load does when a file's columns are not the contract's."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    new_column: Literal["refuse", "ignore", "keep"] = "refuse"
    missing_column: Annotated[Literal["refuse", "null"], BeforeValidator(lambda word: word or "null")] = "refuse"
    column_order: Literal["refuse", "accept"] = "refuse"  # of CSV
    changed_type: Literal["refuse", "reject"] = "refuse"  # of Parquet


# Has what a file has beside the contract's columns, if the contract says so.
OTHER_COLUMNS = Column("other_columns", "", "json", SQL_TYPES["json"])


def _each_once(words: tuple[Cadence, ...]) -> tuple[Cadence, ...]:
    if len(set(words)) < len(words):
        raise ValueError("one is there twice")
    return words


class Properties(BaseModel):
    """The contract's custom properties."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    time_column: str | None = Field(default=None, alias="timeColumn")
    history: bool = False
    max_rejected: float = Field(default=0.01, ge=0, le=1, strict=True, alias="maxRejected")
    cadences: Annotated[tuple[Cadence, ...], AfterValidator(_each_once)] = Field(default=("daily",), min_length=1)
    time_zone: str = Field(default="UTC", alias="timeZone")
    csv: Csv = Csv()
    drift: Drift = Drift()


@dataclass(frozen=True)
class Feed:
    """One kind of row that arrives in files; its raw table has its name.

    Attributes:
        columns: of a file, in their order.
        key: the primary key's columns.
        location: an absolute path, a pattern or a URI of the files, which may have `{start:…}` in it.
        format: of the files.
        rules: over the columns of a row.
        properties: the contract's custom properties.
        version: the contract's.
        latency: by when a run must have ended after it was queued; later it is late.
    """

    name: str
    version: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    location: str
    format: Format
    rules: tuple[Rule, ...]
    properties: Properties
    latency: timedelta = LATENCY

    @property
    def time_column(self) -> str | None:
        """The column whose values are in a load's interval; None for a snapshot, which a load replaces as a whole."""
        return self.properties.time_column

    @property
    def table_columns(self) -> tuple[Column, ...]:
        """The columns of the raw table that a file fills."""
        return (*self.columns, OTHER_COLUMNS) if self.properties.drift.new_column == "keep" else self.columns

    def column(self, name: str) -> Column:
        """Return the column NAME."""
        return next(column for column in self.columns if column.name == name)


def contracts(folder: Path = CONTRACTS) -> list[Path]:
    """Return the contracts of FOLDER, also those that `read_feed` refuses for their ending."""
    return sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))


def feed_names() -> list[str]:
    """Return the names of all feeds, also of those whose contracts are not valid."""
    return [path.stem for path in contracts()]


def read_feeds(folder: Path = CONTRACTS) -> dict[str, Feed]:
    """Return the feeds of FOLDER by name.

    Raises:
        ContractInvalid: a contract is not valid, or is of a feed that another one has the name of.
    """
    feeds = {path.stem: read_feed(path) for path in contracts(folder)}
    for name, feed in feeds.items():
        if feed.properties.history and name + HISTORY in feeds:
            raise ContractInvalid(
                f"{folder / (name + HISTORY)}.yaml: raw.{name}{HISTORY} is the table of {name}'s history.",
                f"The contract of {name} asks for it, and two feeds cannot have one table.",
                "Use another name for one of them.",
            )
    return feeds


def read_feed(path: Path) -> Feed:
    """Return the feed of the contract at PATH.

    Raises:
        ContractInvalid: it is not YAML, not of the standard, or says something that a load cannot do.
    """
    from feeds.contract_file import read_contract  # needs this module, and the models of the whole standard

    return read_contract(path)

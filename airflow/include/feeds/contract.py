"""Read a feed's contract, `airflow/feeds/<feed>.yaml`, in the Open Data Contract Standard 3.1. No other module does.

The standard has no field for some of what a feed needs; docs/contracts.md lists the custom properties that say it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import re2
import yaml
from open_data_contract_standard.model import OpenDataContractStandard, SchemaProperty
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from feeds.errors import ContractInvalid

CONTRACTS = Path(__file__).parents[2] / "feeds"  # one per feed
ROOT = Path(__file__).parents[3]  # of the repository, where a contract's relative path begins; see airflow/entrypoint.sh
FEED_NAME = re.compile("[a-z][a-z0-9_]{0,29}")  # with a load's number and a random part it is a table's name
COLUMN_NAME = re.compile("[a-z_][a-z0-9_]{0,62}")
OWN_COLUMNS = ("load_id",)  # that each raw table has beside the contract's
CHECK = "Correct it, then run: nox -s feed -- check"
DELIMITERS_NOT_ALLOWED = "\\.\r\n\0-+_ :abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
OWN_TABLES = ("loads", "rejected_rows", "partitions")
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
        is_optional: whether a file may lack the column.
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
    is_optional: bool = False
    pattern: str | None = None
    lengths: tuple[int, int | None] = (0, None)
    digits: tuple[int, int] | None = None
    values: tuple[str, ...] = ()


class Rule(BaseModel):
    """A condition in SQL over the columns of a row, which is not false for a valid one."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(pattern="^[a-z][a-z0-9_]{0,49}$")
    sql: str = Field(min_length=1)


class Csv(BaseModel):
    """How a CSV file is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    quote: str = Field(default='"', min_length=1, max_length=1)
    null: str = ""
    encoding: Literal["utf-8", "latin-1", "windows-1252"] = "utf-8"
    decimal: Literal[".", ","] = "."


class Drift(BaseModel):
    """What a load does when a file's columns are not the contract's."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    new_column: Literal["refuse", "ignore", "keep"] = "refuse"
    missing_column: Literal["refuse", "null"] = "refuse"  # one that is optional
    column_order: Literal["refuse", "accept"] = "refuse"
    changed_type: Literal["refuse", "reject"] = "refuse"


class Properties(BaseModel):
    """The contract's custom properties."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    time_column: str | None = Field(default=None, alias="timeColumn")
    history: bool = False
    max_rejected: float = Field(default=0.01, ge=0, le=1, alias="maxRejected")
    cadences: tuple[Literal["daily", "weekly", "monthly"], ...] = ("daily",)
    time_zone: str = Field(default="UTC", alias="timeZone")
    csv: Csv = Csv()
    drift: Drift = Drift()


@dataclass(frozen=True)
class Feed:
    """One kind of row that arrives in files; its raw table has its name.

    Attributes:
        columns: in the order of a file.
        key: the primary key's columns.
        location: an absolute path, a pattern or a URI of the files, which may have `{start:…}` and `{end:…}` in it.
        format: of the files.
        rules: over the columns of a row.
        properties: the contract's custom properties.
        version: the contract's.
    """

    name: str
    version: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    location: str
    format: Literal["csv", "jsonl", "parquet"]
    rules: tuple[Rule, ...]
    properties: Properties

    @property
    def time_column(self) -> str | None:
        """The column whose values are in a load's interval; None for a snapshot, which a load replaces as a whole."""
        return self.properties.time_column

    def column(self, name: str) -> Column:
        """Return the column NAME."""
        return next(column for column in self.columns if column.name == name)


def feed_names() -> list[str]:
    """Return the names of all feeds, also of those whose contracts are not valid."""
    return sorted(path.stem for path in CONTRACTS.glob("*.yaml"))


def read_feeds(folder: Path = CONTRACTS) -> dict[str, Feed]:
    """Return the feeds of FOLDER by name.

    Raises:
        ContractInvalid: a contract is not valid.
    """
    return {path.stem: read_feed(path) for path in sorted(folder.glob("*.yaml"))}


def read_feed(path: Path) -> Feed:
    """Return the feed of the contract at PATH.

    Raises:
        ContractInvalid: it is not YAML, not of the standard, or says something that a load cannot do.
    """
    return _Reader(path).feed()


class _Reader:
    """Reads one contract, and knows the line of each of its fields."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def feed(self) -> Feed:
        contract, properties = self._contract()
        table = self._only(contract.schema_ or [], "schema")
        server = self._only(contract.servers or [], "servers")
        name = self._path.stem
        if not FEED_NAME.fullmatch(name) or name in OWN_TABLES:
            raise self._invalid((), f"a feed cannot be named {name!r}", "Use another name of a-z, 0-9 and _.")
        for field, value in (("name", contract.name), ("schema.0.name", table.name)):
            if value != name:
                raise self._invalid(
                    tuple(field.split(".")),
                    f"is {value!r}, and the file's name says {name!r}",
                    "Use one name for both.",
                )
        columns = tuple(self._column(number, column) for number, column in enumerate(table.properties or []))
        if len(columns) == 0:
            raise self._invalid(("schema",), "has no properties", "Name the columns of a file, in their order.")
        for attribute in ("name", "header"):
            names = [getattr(column, attribute) for column in columns]
            if twice := next((one for one in names if names.count(one) > 1), None):
                raise self._invalid(("schema",), f"has two columns with the {attribute} {twice!r}", "Rename one.")
        keys = [
            (column.primaryKeyPosition or position, column.name or "")
            for position, column in enumerate(table.properties or [], 1)
            if column.primaryKey
        ]
        if not keys:
            raise self._invalid(
                ("schema",), "has no column with primaryKey: true", "Say which columns together are unique in a file."
            )
        format_ = server.format
        if format_ not in ("csv", "jsonl", "parquet"):
            raise self._invalid(("servers", "0", "format"), f"is {format_!r}", "Use csv, jsonl or parquet.")
        location = server.location or server.path
        if not location:
            raise self._invalid(("servers", "0"), "has neither path nor location", "Name the file, or its URI.")
        if server.delimiter:
            properties = properties.model_copy(
                update={"csv": Csv(**properties.csv.model_dump() | {"delimiter": server.delimiter})}
            )
        self._check_csv(properties.csv)
        own = {prop.property: prop.value for prop in table.customProperties or []}
        rules = self._rules(own.pop("rules", []))
        if own:
            raise self._invalid(("schema", "0", "customProperties"), f"has {sorted(own)[0]!r}", "Only rules is known.")
        feed = Feed(
            name=name,
            version=contract.version or "",
            columns=columns,
            key=tuple(key for _, key in sorted(keys)),
            location=location if "://" in location or "::" in location else str(ROOT / location),
            format=format_,
            rules=rules,
            properties=properties,
        )
        self._check_columns(feed)
        return feed

    def _contract(self) -> tuple[OpenDataContractStandard, Properties]:
        """Return the contract and its custom properties, as the standard and `Properties` say they must be."""
        try:
            text = self._path.read_text(encoding="utf-8")
            self._tree = yaml.compose(text, Loader=yaml.SafeLoader)
            data = yaml.safe_load(text)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            mark = getattr(error, "problem_mark", None)
            line = f", line {mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or "it is not UTF-8"
            raise ContractInvalid(
                f"{self._path}{line}: it is not YAML: {problem}.",
                "A contract is YAML, with spaces for indentation and quotes around texts with special characters.",
                CHECK,
            ) from None
        if not isinstance(data, dict):
            raise self._invalid((), "is no mapping", "Begin it with apiVersion: v3.1.0")
        try:
            contract = OpenDataContractStandard(**data)
        except (ValidationError, TypeError) as error:
            raise self._not_of_the_standard(error) from None
        if contract.kind != "DataContract" or not re.fullmatch(r"v3\.[01]\.[0-9]+", contract.apiVersion or ""):
            raise self._invalid(("apiVersion",), "is not v3.1.0 of a DataContract", "Write apiVersion: v3.1.0")
        if not re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", contract.version or ""):
            raise self._invalid(("version",), f"is {contract.version!r}", "Write three numbers, such as 1.0.0.")
        custom = {prop.property: prop.value for prop in contract.customProperties or []}
        try:
            return contract, Properties(**custom)
        except (ValidationError, TypeError) as error:
            raise self._not_of_the_standard(error, ("customProperties",), list(custom)) from None

    def _not_of_the_standard(
        self, error: Exception, at: tuple[str, ...] = (), names: Sequence[str] = ()
    ) -> ContractInvalid:
        """Return the error that names the first field that ERROR is about, below the field AT."""
        if not isinstance(error, ValidationError):
            return self._invalid(at, f"cannot be read: {error}", CHECK)
        first = error.errors()[0]
        place = [str(part) for part in first["loc"]]
        if at and place and place[0] in names:
            place = [str(names.index(place[0])), "value", *place[1:]]
        return self._invalid((*at, *place), f"is not valid: {first['msg']}", "docs/contracts.md has all fields.")

    def _column(self, number: int, prop: SchemaProperty) -> Column:
        at = ("schema", "0", "properties", str(number))
        name = prop.name or ""
        if not COLUMN_NAME.fullmatch(name) or name in OWN_COLUMNS:
            raise self._invalid((*at, "name"), f"is {name!r}", "Name a column with a-z, 0-9 and _, not load_id.")
        options = prop.logicalTypeOptions or {}
        type_ = self._type(at, prop, options)
        digits = None
        sql_type = SQL_TYPES[type_]
        if type_ == "number" and prop.physicalType:
            if not (found := re.fullmatch(r"(?:numeric|decimal) ?\(([0-9]+) ?, ?([0-9]+)\)", prop.physicalType)):
                raise self._invalid((*at, "physicalType"), f"is {prop.physicalType!r}", "Write numeric(p, s).")
            precision, scale = int(found[1]), int(found[2])
            if not 0 < precision <= 1000 or scale > precision:
                raise self._invalid((*at, "physicalType"), f"is {prop.physicalType!r}", "Use at most 1000 digits.")
            digits, sql_type = (precision - scale, scale), f"numeric({precision},{scale})"
        pattern = options.get("pattern")
        if pattern is not None:
            if type_ != "string":
                raise self._invalid((*at, "logicalTypeOptions", "pattern"), "is for strings", "Leave it out.")
            try:
                re2.compile(pattern)
            except re2.error as error:
                what = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
                raise self._invalid(
                    (*at, "logicalTypeOptions", "pattern"),
                    f"is no regular expression of RE2: {what}",
                    "RE2 has neither look-around nor back references, so that no pattern takes forever.",
                ) from None
        values: list[str] = []
        for position, quality in enumerate(prop.quality or []):
            listed = (quality.arguments or {}).get("validValues")
            if quality.metric != "invalidValues" or quality.mustBe != 0 or not isinstance(listed, list):
                raise self._invalid(
                    (*at, "quality", str(position)),
                    "is a check that a load does not know",
                    "A load knows invalidValues with validValues and mustBe: 0; write others as dbt tests.",
                )
            values += [str(value) for value in listed]
        own = {one.property: one.value for one in prop.customProperties or []}
        header, is_optional = own.pop("header", name), own.pop("optional", False)
        if own:
            raise self._invalid(
                (*at, "customProperties"), f"has {sorted(map(str, own))[0]!r}", "Known: header, optional."
            )
        if is_optional and (prop.required or prop.primaryKey):
            raise self._invalid((*at, "required"), "is true, and optional too", "Leave one of the two out.")
        return Column(
            name=name,
            header=str(header),
            type=type_,
            sql_type=sql_type,
            is_required=bool(prop.required or prop.primaryKey),
            is_optional=bool(is_optional),
            pattern=pattern,
            lengths=(int(options.get("minLength") or 0), options.get("maxLength")),
            digits=digits,
            values=tuple(values),
        )

    def _type(self, at: tuple[str, ...], prop: SchemaProperty, options: dict[str, Any]) -> Type:
        """Return the type of a column; the standard writes a uuid as a string, and json as an object or array."""
        logical = prop.logicalType
        if logical == "string":
            return "uuid" if options.get("format") == "uuid" else "string"
        if logical in ("object", "array"):
            return "json"
        if logical in ("integer", "number", "boolean", "date", "timestamp"):
            return logical  # type: ignore[return-value] # mypy does not narrow a str to a Literal
        raise self._invalid(
            (*at, "logicalType"),
            f"is {logical!r}",
            "Use integer, number, string, boolean, date, timestamp, object or array; a uuid is a string of this format.",
        )

    def _rules(self, value: Any) -> tuple[Rule, ...]:
        at = ("schema", "0", "customProperties")
        if not isinstance(value, list):
            raise self._invalid(at, "has rules that are no list", "Write each as {name: …, sql: …}.")
        try:
            return tuple(Rule.model_validate(rule) for rule in value)
        except ValidationError as error:
            raise self._not_of_the_standard(error, at) from None

    def _check_csv(self, csv: Csv) -> None:
        """Refuse characters that cannot separate fields: PostgreSQL's COPY reads clean lines as they are."""
        if csv.delimiter in DELIMITERS_NOT_ALLOWED or not csv.delimiter.isascii():
            raise self._invalid(
                ("servers", "0", "delimiter"),
                f"is {csv.delimiter!r}",
                "Use a character that is no letter, no digit and part of no value, such as a comma or a semicolon.",
            )
        if csv.quote == csv.delimiter or csv.quote in DELIMITERS_NOT_ALLOWED or not csv.quote.isascii():
            raise self._invalid(("customProperties",), f"has the quote {csv.quote!r}", "Use another character.")

    def _check_columns(self, feed: Feed) -> None:
        """Check what concerns several columns: the time column, and history."""
        names = {column.name: column for column in feed.columns}
        if (time := feed.time_column) is None:
            return
        if time not in names or names[time].type not in ("timestamp", "date") or not names[time].is_required:
            raise self._invalid(
                ("customProperties",),
                f"has the time column {time!r}",
                "It must be a required column of the type timestamp or date.",
            )
        if feed.properties.history:
            raise self._invalid(
                ("customProperties",), "asks for the history of an interval feed", "Only snapshots have a history."
            )

    def _only(self, items: Sequence[Any], field: str) -> Any:
        if len(items) != 1:
            raise self._invalid(
                (field,), f"has {len(items)} entries", "A feed has one table, and one server with its files."
            )
        return items[0]

    def _invalid(self, at: tuple[str, ...], what: str, next_step: str) -> ContractInvalid:
        """Return the error that names the field AT with its line, WHAT is wrong there, and the NEXT_STEP."""
        field, line = ".".join(at), _line(getattr(self, "_tree", None), at)
        place = f"{self._path}, line {line}: {field}".removesuffix(": ")
        return ContractInvalid(
            f"{place} {what}.", "The contract says what a load can read, and a load cannot read this.", next_step
        )


def _line(node: Any, at: Sequence[str]) -> int:
    """Return the line of the field AT below NODE, or of the nearest one that is there; from 1."""
    line = node.start_mark.line + 1 if node is not None else 1
    for part in at:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == part), None)
            if found is None:
                return line
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            node = node.value[int(part)]
            line = node.start_mark.line + 1
        else:
            return line
    return line

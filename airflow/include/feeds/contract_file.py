"""Read a contract in the Open Data Contract Standard 3.1, and refuse what a load cannot do.

The standard has no field for some of what a feed needs: custom properties say it, see `feeds.contract.Properties`.
"""

import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast, get_args
from zoneinfo import ZoneInfo

from open_data_contract_standard.model import SchemaObject, Server
from pydantic import ValidationError

from feeds.contract import FEED_NAME, LATENCY, OWN_TABLES, Csv, Feed, Format, Properties, Rule, are_times
from feeds.contract_column import read_column
from feeds.contract_document import Document

# Of the repository, where a contract's relative path begins; see airflow/entrypoint.sh.
ROOT = Path(__file__).parents[3]
_UNITS = {  # of a time, as the standard writes them
    **dict.fromkeys(("min", "minute", "minutes"), timedelta(minutes=1)),
    **dict.fromkeys(("h", "hr", "hour", "hours"), timedelta(hours=1)),
    **dict.fromkeys(("d", "day", "days"), timedelta(days=1)),
}
_LONGEST = timedelta(days=366)
_MOST_IN_KEY = 32
_MOST_COLUMNS = 1_590  # PostgreSQL takes 1,600, with those that a load adds
_PART_OF_VALUES = "\\.\r\n\0-+_ :abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def read_contract(path: Path) -> Feed:
    """Return the feed that the contract at PATH describes; raise ContractInvalid if it does not."""
    document = Document(path)
    contract = document.contract
    table = _only(document, contract.schema_ or [], "schema")
    server = _only(document, contract.servers or [], "servers")
    _check_name(document, table)
    columns = tuple(read_column(document, number, column) for number, column in enumerate(table.properties or []))
    if len(columns) == 0:
        raise document.invalid(("schema",), "has no properties", "Name the columns of a file, in their order.")
    for attribute in ("name", "header"):
        names = [getattr(column, attribute) for column in columns]
        if twice := next((one for one in names if names.count(one) > 1), None):
            raise document.invalid(("schema",), f"has two columns with the {attribute} {twice!r}", "Rename one.")
    keys = [
        (column.primaryKeyPosition or position, column.name or "")
        for position, column in enumerate(table.properties or [], 1)
        if column.primaryKey
    ]
    positions = [position for position, _ in keys]
    if len(set(positions)) < len(positions) or min(positions, default=1) < 1:
        raise document.invalid(("schema",), "has two equal primaryKeyPosition, or one below 1", "Count from 1.")
    if not keys:
        raise document.invalid(
            ("schema",), "has no column with primaryKey: true", "Say which columns together are unique in a file."
        )
    if len(keys) > _MOST_IN_KEY or len(columns) > _MOST_COLUMNS:
        raise document.invalid(
            ("schema",),
            f"has {len(columns)} columns, {len(keys)} of them in the key",
            f"PostgreSQL takes {_MOST_COLUMNS} columns, and {_MOST_IN_KEY} in a key: leave some out.",
        )
    if table.quality:
        raise document.invalid(("schema", "0", "quality"), "is not known to a load", "Write a rule, or a dbt test.")
    own = document.custom_properties(("schema", "0"), table)
    rules = _rules(document, own.pop("rules", []))
    for name in own:
        raise document.invalid(("schema", "0", "customProperties", name), "is unknown", "Only rules is known.")
    feed = Feed(
        name=document.path.stem,
        version=contract.version or "",
        columns=columns,
        key=tuple(key for _, key in sorted(keys)),
        location=_location(document, server),
        format=_format(document, server),
        rules=rules,
        properties=_with_delimiter(document, server),
        latency=_latency(document),
    )
    _check_csv(document, feed)
    _check_columns(document, feed)
    return feed


def _check_name(document: Document, table: SchemaObject) -> None:
    name = document.path.stem
    if document.path.suffix != ".yaml":
        raise document.invalid((), f"is not named {name}.yaml", f"Rename it: git mv {document.path} {name}.yaml")
    if not FEED_NAME.fullmatch(name) or name in OWN_TABLES:
        raise document.invalid((), f"is of a feed that cannot be named {name!r}", "Use another name of a-z, 0-9 and _.")
    for field, value in (("name", document.contract.name), ("schema.0.name", table.name)):
        if value != name:
            raise document.invalid(
                tuple(field.split(".")),
                f"is {value!r}, and the file's name says {name!r}",
                "Use one name for both.",
            )


def _format(document: Document, server: Server) -> Format:
    if server.format not in get_args(Format):
        raise document.invalid(
            ("servers", "0", "format"), f"is {server.format!r}", f"Use one of: {', '.join(get_args(Format))}."
        )
    return cast(Format, server.format)


def _with_delimiter(document: Document, server: Server) -> Properties:
    """Return the custom properties with the delimiter of SERVER, which the standard has a field for."""
    properties = document.properties
    if not server.delimiter or server.format != "csv":
        return properties
    try:
        csv = Csv.model_validate(properties.csv.model_dump() | {"delimiter": server.delimiter})
    except ValidationError as error:
        raise document.invalid_field(error, ("servers", "0")) from None
    return properties.model_copy(update={"csv": csv})


def _location(document: Document, server: Server) -> str:
    """Return where the files are."""
    if not (location := server.location or server.path):
        raise document.invalid(("servers", "0"), "has neither path nor location", "Name the file, or its URI.")
    at = ("servers", "0", "location" if server.location else "path")
    if "{" in location and not are_times(location):
        raise document.invalid(
            at,
            "has a part in braces that is no time",
            "Write {start:%Y/%m/%d}: first %Y, then %m, %d and %H as far as there is a file for each.",
        )
    return location if "://" in location or "::" in location else str(ROOT / location)


def _latency(document: Document) -> timedelta:
    """Return the contract's service level `latency`."""
    found = [level for level in document.contract.slaProperties or [] if level.property == "latency"]
    if not found:
        return LATENCY
    at = ("slaProperties", "latency")
    if len(found) > 1:
        raise document.invalid(at, "is there twice", "Write one, which holds for every cadence.")
    value, unit = found[0].value, found[0].unit or ""
    if unit not in _UNITS:
        raise document.invalid((*at, "unit"), f"is {unit!r}", f"Use one of: {', '.join(_UNITS)}.")
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= _LONGEST / _UNITS[unit]:
        return value * _UNITS[unit]
    raise document.invalid((*at, "value"), f"is {value!r}", "Use a number above 0, of at most a year.")


def _rules(document: Document, value: Any) -> tuple[Rule, ...]:
    at = ("schema", "0", "customProperties", "rules", "value")
    if not isinstance(value, list):
        raise document.invalid(at, "is no list", "Write each rule as {name: …, sql: …}.")
    rules = []
    for number, rule in enumerate(value):
        try:
            rules.append(Rule.model_validate(rule))
        except ValidationError as error:
            raise document.invalid_field(error, (*at, str(number))) from None
    names = [rule.name for rule in rules]
    for rule in rules:
        if names.count(rule.name) > 1:
            raise document.invalid((*at, rule.name), "is the name of two rules", "Rename one.")
        if flaw := _flaw_of_expression(rule.sql):
            raise document.invalid((*at, rule.name, "sql"), flaw, "Write one condition in SQL.")
    return tuple(rules)


def _check_csv(document: Document, feed: Feed) -> None:
    """Refuse characters that cannot separate fields: PostgreSQL's COPY reads clean lines as they are."""
    csv, at = feed.properties.csv, ("customProperties", "csv", "value")
    if feed.format != "csv":
        if feed.properties.csv != Csv():
            raise document.invalid(at, f"is for CSV, and the format is {feed.format}", "Leave it out.")
        return
    if csv.delimiter in _PART_OF_VALUES or not csv.delimiter.isascii():
        raise document.invalid(
            ("servers", "0", "delimiter"),
            f"is {csv.delimiter!r}",
            "Use a character that is no letter, no digit and part of no value, such as a comma or a semicolon.",
        )
    if csv.quote == csv.delimiter or csv.quote in _PART_OF_VALUES or not csv.quote.isascii():
        raise document.invalid((*at, "quote"), f"is {csv.quote!r}", "Use another character.")
    special = {csv.delimiter, csv.quote, "\r", "\n", "\0", "\\"}
    if set(csv.null_text.replace("\\N", "", 1)) & special:
        raise document.invalid(
            (*at, "null_text"),
            f"is {csv.null_text!r}",
            "Use a text without delimiter, quote, line end and backslash, or \\N.",
        )
    for column in feed.columns:
        if csv.null_text in column.values:
            raise document.invalid(
                (*at, "null_text"),
                f"is {csv.null_text!r}, a valid value of {column.name}",
                "Use another token, or remove the value: a field with this text is null.",
            )
        if set(column.header) & set("\r\n\0"):
            raise document.invalid(("schema",), f"has the header {column.header!r}", "A header is one line.")


def _check_columns(document: Document, feed: Feed) -> None:
    """Check what concerns several fields: the key, the time column, time zone, and history."""
    names = {column.name: column for column in feed.columns}
    if found := next((name for name in feed.key if names[name].type == "json"), None):
        raise document.invalid(
            ("schema", "0", "properties", found, "primaryKey"),
            "is true, and the column is json",
            "Use columns of other types: equal json can be written in several ways.",
        )
    try:
        ZoneInfo(feed.properties.time_zone)
    except (KeyError, ValueError, OSError):  # unknown, or no name of one
        raise document.invalid(
            ("customProperties", "timeZone"),
            f"is {feed.properties.time_zone!r}",
            "Name one of IANA, such as Europe/Amsterdam.",
        ) from None
    if (time := feed.time_column) is None:
        return
    if time not in names or names[time].type not in ("timestamp", "date") or not names[time].is_required:
        raise document.invalid(
            ("customProperties", "timeColumn"),
            f"is {time!r}",
            "It must be a required column of the type timestamp or date.",
        )
    if feed.properties.history:
        raise document.invalid(
            ("customProperties", "history"),
            "is of an interval feed",
            "Only snapshots, without timeColumn, have one.",
        )


def _only(document: Document, items: Sequence[Any], field: str) -> Any:
    if len(items) != 1:
        raise document.invalid(
            (field,), f"has {len(items)} entries", "A feed has one table, and one server with its files."
        )
    return items[0]


def _flaw_of_expression(text: str) -> str | None:
    """Return why TEXT is not one expression of SQL, as far as a program without a server can tell."""
    code = re.sub(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"", "x", text)
    if "'" in code or '"' in code:
        return "has a quote that is not closed"
    if ";" in code or "--" in code or "/*" in code:
        return "has a semicolon or a comment"
    depth = 0
    for character in code:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            break
    return "has parentheses that do not pair" if depth else None

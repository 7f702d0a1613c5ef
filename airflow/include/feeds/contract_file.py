"""Read a contract in the Open Data Contract Standard 3.1, and refuse what a load cannot do. No other module does.

The standard has no field for some of what a feed needs: custom properties say it, see `feeds.contract.Properties`.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args
from zoneinfo import ZoneInfo

import re2
import yaml
from open_data_contract_standard.model import OpenDataContractStandard, SchemaObject, SchemaProperty, Server
from pydantic import ValidationError

from feeds.contract import (
    FEED_NAME,
    OWN_COLUMNS,
    OWN_TABLES,
    PERIODS,
    SQL_TYPES,
    TIME_IN_LOCATION,
    Column,
    Csv,
    Feed,
    Format,
    Properties,
    Rule,
    Type,
)
from feeds.errors import ContractInvalid
from feeds.values import Flaw, reader

# Of the repository, where a contract's relative path begins; see airflow/entrypoint.sh.
ROOT = Path(__file__).parents[3]
COLUMN_NAME = re.compile("[a-z_][a-z0-9_]{0,62}")
CHECK = "Correct it, then run: nox -s feed -- check"
_PART_OF_VALUES = "\\.\r\n\0-+_ :abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_RE2_OPTIONS = re2.Options()
_RE2_OPTIONS.log_errors = False


class Reader:
    """Reads one contract, and knows the line of each of its fields."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def feed(self) -> Feed:
        """Return the feed that the contract describes; raise ContractInvalid if it does not."""
        contract, properties = self._contract()
        table = self._only(contract.schema_ or [], "schema")
        server = self._only(contract.servers or [], "servers")
        self._check_name(contract, table)
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
        if table.quality:
            raise self._invalid(("schema", "0", "quality"), "is not known to a load", "Write a rule, or a dbt test.")
        own = self._own(("schema", "0"), table)
        rules = self._rules(own.pop("rules", []))
        for name in own:
            raise self._invalid(("schema", "0", "customProperties", name), "is unknown", "Only rules is known.")
        feed = Feed(
            name=self._path.stem,
            version=contract.version or "",
            columns=columns,
            key=tuple(key for _, key in sorted(keys)),
            location=self._location(server),
            format=self._format(server),
            rules=rules,
            properties=self._with_delimiter(properties, server),
        )
        self._check_csv(feed)
        self._check_columns(feed)
        return feed

    def _check_name(self, contract: OpenDataContractStandard, table: SchemaObject) -> None:
        name = self._path.stem
        if self._path.suffix != ".yaml":
            raise self._invalid((), f"is not named {name}.yaml", f"Rename it: git mv {self._path} {name}.yaml")
        if not FEED_NAME.fullmatch(name) or name in OWN_TABLES:
            raise self._invalid(
                (), f"is of a feed that cannot be named {name!r}", "Use another name of a-z, 0-9 and _."
            )
        for field, value in (("name", contract.name), ("schema.0.name", table.name)):
            if value != name:
                raise self._invalid(
                    tuple(field.split(".")),
                    f"is {value!r}, and the file's name says {name!r}",
                    "Use one name for both.",
                )

    def _format(self, server: Server) -> Format:
        if server.format not in get_args(Format):
            raise self._invalid(
                ("servers", "0", "format"), f"is {server.format!r}", f"Use one of: {', '.join(get_args(Format))}."
            )
        return cast(Format, server.format)

    def _with_delimiter(self, properties: Properties, server: Server) -> Properties:
        """Return PROPERTIES with the delimiter of SERVER, which the standard has a field for."""
        if not server.delimiter or server.format != "csv":
            return properties
        try:
            csv = Csv.model_validate(properties.csv.model_dump() | {"delimiter": server.delimiter})
        except ValidationError as error:
            raise self._not_of_the_standard(error, ("servers", "0")) from None
        return properties.model_copy(update={"csv": csv})

    def _location(self, server: Server) -> str:
        """Return where the files are."""
        if not (location := server.location or server.path):
            raise self._invalid(("servers", "0"), "has neither path nor location", "Name the file, or its URI.")
        at = ("servers", "0", "location" if server.location else "path")
        found = TIME_IN_LOCATION.findall(location)
        parts = {part for times in found for part in re.findall("%.?", times)}
        if (
            parts != set(PERIODS[: len(parts)])
            or len(parts) < len(found[:1])
            or "{" in TIME_IN_LOCATION.sub("", location)
        ):
            raise self._invalid(
                at,
                "has a part in braces that is no time",
                "Write {start:%Y/%m/%d}: first %Y, then %m, %d and %H as far as there is a file for each.",
            )
        return location if "://" in location or "::" in location else str(ROOT / location)

    def _contract(self) -> tuple[OpenDataContractStandard, Properties]:
        """Return the contract and its custom properties, as the standard and `Properties` say they must be."""
        try:
            text = self._path.read_text(encoding="utf-8")
            self._tree = yaml.compose(text, Loader=yaml.SafeLoader)
            data = yaml.safe_load(text)
        except OSError as error:
            raise ContractInvalid(
                f"{self._path} cannot be read: {error.strerror}.",
                "The name of the feed is most likely misspelt, or its contract was moved.",
                CHECK,
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
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
        if twice := next(_keys_twice(self._tree), None):
            raise self._invalid(twice, "is there twice", "Remove one: YAML would take the last.")
        try:
            contract = OpenDataContractStandard(**data)
        except (ValidationError, TypeError) as error:
            raise self._not_of_the_standard(error) from None
        if contract.kind != "DataContract" or not re.fullmatch(r"v3\.[01]\.[0-9]+", contract.apiVersion or ""):
            raise self._invalid(("apiVersion",), "is not v3.1.0 of a DataContract", "Write apiVersion: v3.1.0")
        if not re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", contract.version or ""):
            raise self._invalid(("version",), f"is {contract.version!r}", "Write three numbers, such as 1.0.0.")
        if unknown := next(_unknown(data, contract.model_dump(by_alias=True, exclude_unset=True)), None):
            raise self._invalid(unknown, "is no field of the standard", "It is most likely misspelt, or too far in.")
        custom = self._own((), contract)
        try:
            return contract, Properties.model_validate(custom)
        except ValidationError as error:
            raise self._not_of_the_standard(error, ("customProperties",)) from None

    def _own(self, at: tuple[str, ...], of: OpenDataContractStandard | SchemaObject | SchemaProperty) -> dict[str, Any]:
        """Return the custom properties OF the field AT by name."""
        found = [(str(one.property), one.value) for one in of.customProperties or []]
        names = [name for name, _ in found]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise self._invalid((*at, "customProperties", twice), "is there twice", "Write one, with all that it says.")
        return dict(found)

    def _not_of_the_standard(self, error: Exception, at: tuple[str, ...] = ()) -> ContractInvalid:
        """Return the error that names the first field that ERROR is about, below the field AT."""
        if not isinstance(error, ValidationError):
            return self._invalid(at, f"cannot be read: {error}", CHECK)
        first = error.errors()[0]
        place = [str(part) for part in first["loc"]]
        if at == ("customProperties",) and len(place) > 1:
            place.insert(1, "value")
        return self._invalid((*at, *place), f"is not valid: {first['msg']}", "docs/contracts.md has all fields.")

    def _column(self, number: int, prop: SchemaProperty) -> Column:
        at = ("schema", "0", "properties", str(number))
        name = prop.name or ""
        if not COLUMN_NAME.fullmatch(name) or name in OWN_COLUMNS:
            raise self._invalid((*at, "name"), f"is {name!r}", "Name a column with a-z, 0-9 and _, not load_id.")
        options = prop.logicalTypeOptions or {}
        type_ = self._type(at, prop, options)
        known = {"string": ("pattern", "minLength", "maxLength"), "uuid": ("format",)}.get(type_, ())
        if unknown := next((option for option in options if option not in known), None):
            raise self._invalid(
                (*at, "logicalTypeOptions", unknown),
                f"is not known to a load of {type_}",
                "Write it as a rule, in SQL; docs/contracts.md has the options of each type.",
            )
        digits = None
        sql_type = SQL_TYPES[type_]
        if type_ == "number" and prop.physicalType not in (None, "numeric", "decimal"):
            if not (found := re.fullmatch(r"(?:numeric|decimal) ?\(([0-9]+) ?, ?([0-9]+)\)", prop.physicalType)):
                raise self._invalid((*at, "physicalType"), f"is {prop.physicalType!r}", "Write numeric(p, s).")
            precision, scale = int(found[1]), int(found[2])
            if not 0 < precision <= 1000 or scale > precision:
                raise self._invalid((*at, "physicalType"), f"is {prop.physicalType!r}", "Use at most 1000 digits.")
            digits, sql_type = (precision - scale, scale), f"numeric({precision},{scale})"
        own = self._own(at, prop)
        header = own.pop("header", name)
        for unknown_property in own:
            raise self._invalid((*at, "customProperties", unknown_property), "is unknown", "Only header is known.")
        if prop.unique and not prop.primaryKey:
            raise self._invalid((*at, "unique"), "is not checked by a load", "Write a dbt test, or make it the key.")
        column = Column(
            name=name,
            header=str(header),
            type=type_,
            sql_type=sql_type,
            is_required=bool(prop.required or prop.primaryKey),
            pattern=self._pattern(at, type_, options),
            lengths=self._lengths(at, type_, options),
            digits=digits,
        )
        return replace(column, values=self._values(at, prop, column))

    def _pattern(self, at: tuple[str, ...], type_: Type, options: dict[str, Any]) -> str | None:
        at = (*at, "logicalTypeOptions", "pattern")
        if (pattern := options.get("pattern")) is None:
            return None
        if type_ != "string" or not isinstance(pattern, str):
            raise self._invalid(at, "is for strings, and a string itself", "Leave it out, or write it in quotes.")
        try:
            re2.compile(pattern, _RE2_OPTIONS)
        except re2.error as error:
            what = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
            raise self._invalid(
                at,
                f"is no regular expression of RE2: {what[:200]}",
                "RE2 has neither look-around nor back references, so that no pattern takes forever.",
            ) from None
        return pattern

    def _lengths(self, at: tuple[str, ...], type_: Type, options: dict[str, Any]) -> tuple[int, int | None]:
        shortest, longest = options.get("minLength", 0), options.get("maxLength")
        for name, length in (("minLength", shortest), ("maxLength", longest)):
            if name in options and (type_ != "string" or type(length) is not int or length < 0):
                raise self._invalid(
                    (*at, "logicalTypeOptions", name), "is for strings, and a number of characters", "Leave it out."
                )
        if longest is not None and longest < max(shortest, 1):
            raise self._invalid((*at, "logicalTypeOptions", "maxLength"), "allows no string", "Write a larger one.")
        return shortest, longest

    def _values(self, at: tuple[str, ...], prop: SchemaProperty, column: Column) -> tuple[str, ...]:
        """Return the valid values, each of which is one of COLUMN."""
        values: list[str] = []
        for position, quality in enumerate(prop.quality or []):
            place = (*at, "quality", str(position))
            if quality.type == "text":
                continue
            listed = (quality.arguments or {}).get("validValues")
            if quality.metric != "invalidValues" or quality.mustBe != 0 or not isinstance(listed, list) or not listed:
                raise self._invalid(
                    place,
                    "is a check that a load does not know",
                    "A load knows invalidValues with validValues and mustBe: 0; write others as dbt tests.",
                )
            for value in listed:
                text = json.dumps(value) if isinstance(value, bool) else str(value)
                try:
                    if column.type == "json":
                        raise Flaw("type")
                    reader(column)(text)
                except Flaw as flaw:
                    raise self._invalid(
                        (*place, "arguments", "validValues"),
                        f"has {text!r}, which is none of the column: {flaw}",
                        f"Correct it; the column is of the type {column.type}.",
                    ) from None
                values.append(text)
        return tuple(values)

    def _type(self, at: tuple[str, ...], prop: SchemaProperty, options: dict[str, Any]) -> Type:
        """Return the type of a column; the standard writes a uuid as a string, and json as an object or array."""
        logical = prop.logicalType
        if logical == "string":
            if options.get("format") not in (None, "uuid"):
                raise self._invalid((*at, "logicalTypeOptions", "format"), "is not uuid", "Write a pattern.")
            return "uuid" if "format" in options else "string"
        if logical in ("object", "array"):
            return "json"
        if logical in ("integer", "number", "boolean", "date", "timestamp"):
            return logical  # type: ignore[return-value] # mypy does not narrow a str to a Literal
        raise self._invalid(
            (*at, "logicalType"),
            f"is {logical!r}",
            "Use integer, number, string, boolean, date, timestamp, object, array; a uuid is a string of this format.",
        )

    def _rules(self, value: Any) -> tuple[Rule, ...]:
        at = ("schema", "0", "customProperties", "rules", "value")
        if not isinstance(value, list):
            raise self._invalid(at, "is no list", "Write each rule as {name: …, sql: …}.")
        rules = []
        for number, rule in enumerate(value):
            try:
                rules.append(Rule.model_validate(rule))
            except ValidationError as error:
                raise self._not_of_the_standard(error, (*at, str(number))) from None
        names = [rule.name for rule in rules]
        for rule in rules:
            if names.count(rule.name) > 1:
                raise self._invalid((*at, rule.name), "is the name of two rules", "Rename one.")
            if flaw := _flaw_of_expression(rule.sql):
                raise self._invalid((*at, rule.name, "sql"), flaw, "Write one condition in SQL.")
        return tuple(rules)

    def _check_csv(self, feed: Feed) -> None:
        """Refuse characters that cannot separate fields: PostgreSQL's COPY reads clean lines as they are."""
        csv, at = feed.properties.csv, ("customProperties", "csv", "value")
        if feed.format != "csv":
            if feed.properties.csv != Csv():
                raise self._invalid(at, f"is for CSV, and the format is {feed.format}", "Leave it out.")
            return
        if csv.delimiter in _PART_OF_VALUES or not csv.delimiter.isascii():
            raise self._invalid(
                ("servers", "0", "delimiter"),
                f"is {csv.delimiter!r}",
                "Use a character that is no letter, no digit and part of no value, such as a comma or a semicolon.",
            )
        if csv.quote == csv.delimiter or csv.quote in _PART_OF_VALUES or not csv.quote.isascii():
            raise self._invalid((*at, "quote"), f"is {csv.quote!r}", "Use another character.")
        special = {csv.delimiter, csv.quote, "\r", "\n", "\0", "\\"}
        if set(csv.null_text.replace("\\N", "", 1)) & special:
            raise self._invalid(
                (*at, "null_text"),
                f"is {csv.null_text!r}",
                "Use a text without delimiter, quote, line end and backslash, or \\N.",
            )
        for column in feed.columns:
            if csv.null_text in column.values:
                raise self._invalid(
                    (*at, "null_text"),
                    f"is {csv.null_text!r}, a valid value of {column.name}",
                    "Use another token, or remove the value: a field with this text is null.",
                )
            if set(column.header) & set("\r\n\0"):
                raise self._invalid(("schema",), f"has the header {column.header!r}", "A header is one line.")

    def _check_columns(self, feed: Feed) -> None:
        """Check what concerns several fields: the key, the time column, time zone, and history."""
        names = {column.name: column for column in feed.columns}
        if found := next((name for name in feed.key if names[name].type == "json"), None):
            raise self._invalid(
                ("schema", "0", "properties", found, "primaryKey"),
                "is true, and the column is json",
                "Use columns of other types: equal json can be written in several ways.",
            )
        try:
            ZoneInfo(feed.properties.time_zone)
        except (KeyError, ValueError, OSError):  # unknown, or no name of one
            raise self._invalid(
                ("customProperties", "timeZone"),
                f"is {feed.properties.time_zone!r}",
                "Name one of IANA, such as Europe/Amsterdam.",
            ) from None
        if (time := feed.time_column) is None:
            return
        if time not in names or names[time].type not in ("timestamp", "date") or not names[time].is_required:
            raise self._invalid(
                ("customProperties", "timeColumn"),
                f"is {time!r}",
                "It must be a required column of the type timestamp or date.",
            )
        if feed.properties.history:
            raise self._invalid(
                ("customProperties", "history"),
                "is of an interval feed",
                "Only snapshots, without timeColumn, have one.",
            )

    def _only(self, items: Sequence[Any], field: str) -> Any:
        if len(items) != 1:
            raise self._invalid(
                (field,), f"has {len(items)} entries", "A feed has one table, and one server with its files."
            )
        return items[0]

    def _invalid(self, at: tuple[str, ...], what: str, next_step: str) -> ContractInvalid:
        """Return the error that names the field AT with its line, WHAT is wrong there, and the NEXT_STEP."""
        field, line = _place(getattr(self, "_tree", None), at)
        return ContractInvalid(
            f"{self._path}, line {line}: {field or 'it'} {what}.",
            "The contract says what a load can read, and a load cannot read this.",
            next_step,
        )


def _place(node: Any, at: Sequence[str]) -> tuple[str, int]:
    """Return the name and the line (from 1) of the field AT below NODE, or of the nearest one that is there.

    A part of AT is a key, or the position of an item in a list, or its name.
    """
    line = node.start_mark.line + 1 if node is not None else 1
    names = []
    for part in at:
        name = part
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == part), None)
            line, node = (found[0].start_mark.line + 1, found[1]) if found else (line, None)
        elif isinstance(node, yaml.SequenceNode):
            items = {str(number): item for number, item in enumerate(node.value)}
            items |= {_name(item): item for item in reversed(node.value) if _name(item)}
            node = items.get(part)
            if node is not None:
                line, name = node.start_mark.line + 1, _name(node) or part
        names.append(name)
    return ".".join(names).replace(".value.", ".").removesuffix(".value"), line


def _name(node: Any) -> str:
    """Return the name of NODE, an item of a list, if it has one."""
    if not isinstance(node, yaml.MappingNode):
        return ""
    return next((str(value.value) for key, value in node.value if key.value in ("name", "property")), "")


def _keys_twice(node: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the fields below NODE whose mapping has them twice."""
    if isinstance(node, yaml.MappingNode):
        names = [str(key.value) for key, _ in node.value]
        yield from ((*at, name) for name in names if names.count(name) > 1)
        for name, (_, value) in zip(names, node.value, strict=True):
            yield from _keys_twice(value, (*at, name))
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _keys_twice(item, (*at, str(number)))


def _unknown(data: Any, known: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the fields of DATA that are not in KNOWN, what a model has kept of it."""
    if isinstance(data, dict) and isinstance(known, dict):
        for name, value in data.items():
            if name in known:
                yield from _unknown(value, known[name], (*at, str(name)))
            else:
                yield (*at, str(name))
    elif isinstance(data, list) and isinstance(known, list):
        for number, (item, kept) in enumerate(zip(data, known, strict=False)):
            yield from _unknown(item, kept, (*at, str(number)))


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

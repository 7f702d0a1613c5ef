"""A column of a contract: its type, and what the standard says of its values."""

import json
import re
from dataclasses import replace
from typing import Any

import re2
from open_data_contract_standard.model import SchemaProperty

from feeds.contract import OWN_COLUMNS, SQL_TYPES, Column, Type
from feeds.contract_document import Document, Field
from feeds.values import Flaw, reader

COLUMN_NAME = re.compile("[a-z_][a-z0-9_]{0,62}")
_RE2_OPTIONS = re2.Options()
_RE2_OPTIONS.log_errors = False


def read_column(document: Document, number: int, prop: SchemaProperty) -> Column:
    """Return the column PROP of DOCUMENT, at the position NUMBER; raise ContractInvalid if a load cannot read it."""
    at = ("schema", "0", "properties", str(number))
    name = prop.name or ""
    if not COLUMN_NAME.fullmatch(name) or name in OWN_COLUMNS:
        raise document.invalid((*at, "name"), f"is {name!r}", "Name a column with a-z, 0-9 and _, not load_id.")
    options = prop.logicalTypeOptions or {}
    type_ = _type(document, at, prop, options)
    known = {"string": ("pattern", "minLength", "maxLength"), "uuid": ("format",)}.get(type_, ())
    if unknown := next((option for option in options if option not in known), None):
        raise document.invalid(
            (*at, "logicalTypeOptions", unknown),
            f"is not known to a load of {type_}",
            "Write it as a rule, in SQL; docs/contracts.md has the options of each type.",
        )
    digits = None
    sql_type = SQL_TYPES[type_]
    if type_ == "number" and prop.physicalType not in (None, "numeric", "decimal"):
        if not (found := re.fullmatch(r"(?:numeric|decimal) ?\(([0-9]{1,9}) ?, ?([0-9]{1,9})\)", prop.physicalType)):
            raise document.invalid((*at, "physicalType"), f"is {prop.physicalType!r}", "Write numeric(p, s).")
        precision, scale = int(found[1]), int(found[2])
        if not 0 < precision <= 1000 or scale > precision:
            raise document.invalid((*at, "physicalType"), f"is {prop.physicalType!r}", "Use at most 1000 digits.")
        digits, sql_type = (precision - scale, scale), f"numeric({precision},{scale})"
    own = document.custom_properties(at, prop)
    header = own.pop("header", name)
    if not isinstance(header, str):
        raise document.invalid((*at, "customProperties", "header"), f"is {header!r}", "Write a text, in quotes.")
    for unknown_property in own:
        raise document.invalid((*at, "customProperties", unknown_property), "is unknown", "Only header is known.")
    if prop.unique and not prop.primaryKey:
        raise document.invalid((*at, "unique"), "is not checked by a load", "Write a dbt test, or make it the key.")
    column = Column(
        name=name,
        header=header,
        type=type_,
        sql_type=sql_type,
        is_required=bool(prop.required or prop.primaryKey),
        pattern=_pattern(document, at, type_, options),
        lengths=_lengths(document, at, type_, options),
        digits=digits,
    )
    return replace(column, values=_values(document, at, prop, column))


def _type(document: Document, at: Field, prop: SchemaProperty, options: dict[str, Any]) -> Type:
    """Return the type of a column; the standard writes a uuid as a string, and json as an object or array."""
    logical = prop.logicalType
    if logical == "string":
        if options.get("format") not in (None, "uuid"):
            raise document.invalid((*at, "logicalTypeOptions", "format"), "is not uuid", "Write a pattern.")
        return "uuid" if "format" in options else "string"
    if logical in ("object", "array"):
        return "json"
    if logical in ("integer", "number", "boolean", "date", "timestamp"):
        return logical  # type: ignore[return-value] # mypy does not narrow a str to a Literal
    raise document.invalid(
        (*at, "logicalType"),
        f"is {logical!r}",
        "Use integer, number, string, boolean, date, timestamp, object, array; a uuid is a string of this format.",
    )


def _pattern(document: Document, at: Field, type_: Type, options: dict[str, Any]) -> str | None:
    at = (*at, "logicalTypeOptions", "pattern")
    if (pattern := options.get("pattern")) is None:
        return None
    if type_ != "string" or not isinstance(pattern, str):
        raise document.invalid(at, "is for strings, and a string itself", "Leave it out, or write it in quotes.")
    try:
        re2.compile(pattern, _RE2_OPTIONS)
    except re2.error as error:
        what = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        raise document.invalid(
            at,
            f"is no regular expression of RE2: {what[:200]}",
            "RE2 has neither look-around nor back references, so that no pattern takes forever.",
        ) from None
    return pattern


def _lengths(document: Document, at: Field, type_: Type, options: dict[str, Any]) -> tuple[int, int | None]:
    shortest, longest = options.get("minLength", 0), options.get("maxLength")
    for name, length in (("minLength", shortest), ("maxLength", longest)):
        if name in options and (type_ != "string" or type(length) is not int or length < 0):
            raise document.invalid(
                (*at, "logicalTypeOptions", name), "is for strings, and a number of characters", "Leave it out."
            )
    if longest is not None and longest < max(shortest, 1):
        raise document.invalid((*at, "logicalTypeOptions", "maxLength"), "allows no string", "Write a larger one.")
    return shortest, longest


def _values(document: Document, at: Field, prop: SchemaProperty, column: Column) -> tuple[str, ...]:
    """Return the valid values, each of which is one of COLUMN."""
    values: list[str] = []
    for position, quality in enumerate(prop.quality or []):
        place = (*at, "quality", str(position))
        if quality.type == "text":
            continue
        listed = (quality.arguments or {}).get("validValues")
        if quality.metric != "invalidValues" or quality.mustBe != 0 or not isinstance(listed, list) or not listed:
            raise document.invalid(
                place,
                "is a check that a load does not know",
                "A load knows invalidValues with validValues and mustBe: 0; write others as dbt tests.",
            )
        for value in listed:
            if value is None or isinstance(value, (dict, list)):
                raise document.invalid((*place, "arguments", "validValues"), f"has {value!r}", "Put it into quotes.")
            text = json.dumps(value) if isinstance(value, bool) else str(value)
            try:
                if column.type == "json":
                    raise Flaw("type")
                reader(column)(text)
            except Flaw as flaw:
                raise document.invalid(
                    (*place, "arguments", "validValues"),
                    f"has {text!r}, which is none of the column: {flaw}",
                    f"Correct it; the column is of the type {column.type}.",
                ) from None
            values.append(text)
    return tuple(values)

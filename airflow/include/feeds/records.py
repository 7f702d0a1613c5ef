"""Parse one line of an events file into an event, or return the reason why it is not valid. Pure: no I/O.

`parse` defines the format, one line at a time. `CLEAN` matches many lines at once that PostgreSQL's COPY reads as
`parse` does: nearly all lines of most files.

| reason                | the row |
| --------------------- | ------- |
| `too_long`            | is longer than 1 MiB |
| `not_utf8`            | has bytes that are not UTF-8 |
| `nul_byte`            | has a NUL, which PostgreSQL cannot store |
| `quoting`             | has an unclosed quote, text after a closing quote, or a quote in an unquoted field |
| `field_count`         | does not have five fields |
| `event_id`            | has an event id that is not an integer of 64 bits |
| `event_type`          | has an unknown event type |
| `professional_id`     | has a professional's id that is not an integer of 64 bits |
| `created_at`          | has no valid time, `YYYY-MM-DD HH:MM:SS[.ffffff][Z]` or `…[±HH:MM]`, or `T` for the space |
| `metadata_missing`    | is a proposal without metadata |
| `metadata_unexpected` | has metadata and is not a proposal |
| `metadata`            | has metadata that is not `<service id>_<name>_<name>_<fee>` with both names |
| `service_id`          | has a service id that is not an integer of 64 bits |
| `lead_fee`            | has a fee that is not a number of at most 12 digits before and 6 after the point |
| `out_of_range`        | has a time outside the bounds that a user has set (found by the load, not by `parse`) |
| `duplicate_event_id`  | has the event id of an earlier valid row (found by the load, not by `parse`) |

They are checked in this order; the first that applies is the row's reason.
"""

import re
from datetime import UTC, datetime
from typing import NamedTuple

COLUMNS = ("event_id", "event_type", "professional_id_anonymized", "created_at", "meta_data")
EVENT_TYPES = frozenset({"created_account", "became_able_to_propose", "became_unable_to_propose", "proposed"})
DUPLICATE = "duplicate_event_id"
MAX_LINE_BYTES = 1 << 20

_FIELD = re.compile(r'(?:"([^"]*(?:""[^"]*)*)"|([^";]*))(;|\Z)')
# Any number of leading zeros is valid; int() gets at most the 19 digits of a bigint.
_ID = re.compile(r"(-?)0*([1-9][0-9]{0,18}|0)")
# fromisoformat() accepts more than the format allows, some of it (24:00) only in some versions of Python.
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[ T](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
    r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])?"
)
_FEE = re.compile(r"[+-]?[0-9]{1,12}(?:\.[0-9]{1,6})?")


def _clean_lines() -> re.Pattern[bytes]:
    """Return the pattern of a run of clean lines of one day; its group `day` is the day, `YYYY-MM-DD`.

    A clean line is valid and has nothing quoted or to be escaped in COPY's text format, numbers without leading zeros
    and of at most 18 digits, a year from 1000 on, and a time in UTC. The caller checks that it is UTF-8.

    A match has at most 1000 lines, since `re` keeps a kilobyte of state for each. Possessive quantifiers would keep
    none, but match wrongly in Python up to 3.11.4 (https://github.com/python/cpython/issues/106052, …/100061).
    For speed, alternatives begin with different bytes where possible, and replace options (`?`).
    """
    number = rb"(?:[1-9][0-9]{0,17}|-[1-9][0-9]{0,17}|0)"
    leap_year = rb"(?:[1-9][0-9](?:0[48]|[2468][048]|[13579][26])|(?:[2468][048]|[13579][26])00)"
    day = (
        rb"(?:[1-9][0-9]{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
        rb"|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))|" + leap_year + rb"-02-29)"
    )
    moment = rb"(?P=day)[ T](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:;|Z;|\.[0-9]{1,6}Z?;)"
    in_names = bytes(byte for byte in range(256) if byte not in b'_;"\\\r\n\0')
    name = rb"[" + re.escape(in_names) + rb"]{1,4000}"  # faster than [^…]
    fee = rb"[0-9]{1,12}(?:\n|\.[0-9]{1,6}\n)"
    metadata = rb"(?:[0-9]{1,18}|-[0-9]{1,18})_" + name + rb"_" + name + rb"_(?:" + fee + rb"|[+-]" + fee + rb")"
    other_type = rb"(?:created_account|became_able_to_propose|became_unable_to_propose);"
    rest = number + rb";" + moment
    line = number + rb";(?:proposed;" + rest + metadata + rb"|" + other_type + rest + rb"\n)"
    first_day = rb"(?=[^;\n]*;[^;\n]*;[^;\n]*;(?P<day>" + day + rb"))"
    return re.compile(first_day + rb"(?:" + line + rb"){1,1000}")


CLEAN = _clean_lines()


class Event(NamedTuple):
    """A valid row with the fields COLUMNS; `created_at` is in UTC, and `meta_data` is None unless it is a proposal."""

    event_id: int
    event_type: str
    professional_id_anonymized: int
    created_at: datetime
    meta_data: str | None


class Reject(NamedTuple):
    """The reason why a row is not valid, one of the table above."""

    reason: str


def is_header(line: bytes) -> bool:
    """Return whether LINE (no line end, no byte order mark) is the header of an events file."""
    return _split(line.decode(errors="replace")) == [*COLUMNS]


def parse(line: bytes) -> Event | Reject:  # noqa: PLR0911 - a return per reason, in their order
    """Return the event in LINE (no line end), or the reason why it is not valid."""
    if len(line) > MAX_LINE_BYTES:
        return Reject("too_long")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return Reject("not_utf8")
    if "\0" in text:
        return Reject("nul_byte")
    if (fields := _split(text)) is None:
        return Reject("quoting")
    if len(fields) != len(COLUMNS):
        return Reject("field_count")
    event_id, event_type, professional_id, created_at, meta_data = fields
    if (event_key := _id(event_id)) is None:
        return Reject("event_id")
    if event_type not in EVENT_TYPES:
        return Reject("event_type")
    if (professional_key := _id(professional_id)) is None:
        return Reject("professional_id")
    if (moment := _moment(created_at)) is None:
        return Reject("created_at")
    if event_type == "proposed":
        if reason := _metadata_flaw(meta_data):
            return Reject(reason)
    elif meta_data:
        return Reject("metadata_unexpected")
    return Event(event_key, event_type, professional_key, moment, meta_data or None)


def raw_text(line: bytes) -> str:
    r"""Return LINE as text that PostgreSQL can store.

    Bytes that are not UTF-8, and NULs, become `\xNN`; a line that is too long is cut.
    """
    if len(line) > MAX_LINE_BYTES:
        return raw_text(line[:1000]) + "…"
    return line.decode(errors="backslashreplace").replace("\0", "\\x00")


def _split(text: str) -> list[str] | None:
    """Return the fields of TEXT, or None if its quoting is invalid."""
    if '"' not in text:
        return text.split(";")
    fields: list[str] = []
    position = 0
    while match := _FIELD.match(text, position):
        fields.append(match[2] if match[1] is None else match[1].replace('""', '"'))
        if not match[3]:
            return fields
        position = match.end()
    return None


def _id(text: str) -> int | None:
    if not (match := _ID.fullmatch(text)):
        return None
    number = int(match[1] + match[2])
    return number if -(2**63) <= number < 2**63 else None


def _moment(text: str) -> datetime | None:
    if not _TIME.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # no such day, or in UTC outside the years 1 to 9999
        return None


def _metadata_flaw(meta_data: str) -> str | None:
    if not meta_data:
        return "metadata_missing"
    parts = meta_data.split("_")
    if len(parts) != 4 or not (parts[1] and parts[2]):
        return "metadata"
    if _id(parts[0]) is None:
        return "service_id"
    if not _FEE.fullmatch(parts[3]):
        return "lead_fee"
    return None

"""Read an events file as `docs/events-format.md` describes it; of the pipeline it shares only how to connect."""

import gzip
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO, NamedTuple, cast

import fsspec

from feeds.source import http_options

COLUMNS = ["event_id", "event_type", "professional_id_anonymized", "created_at", "meta_data"]
EVENT_TYPES = {"created_account", "became_able_to_propose", "became_unable_to_propose", "proposed"}
LINE_LIMIT_BYTES = 1 << 20
BOM = b"\xef\xbb\xbf"
GZIP_MAGIC = b"\x1f\x8b"

ID = re.compile(r"(-?)0*([0-9]{1,19})")
CLOCK = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
MOMENT = re.compile(rf"([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})[ T]({CLOCK}:[0-5][0-9])(\.[0-9]{{1,6}})?(Z|[+-]{CLOCK})?")
FEE = re.compile(r"[+-]?[0-9]{1,12}(\.[0-9]{1,6})?")
FIELD = re.compile(r'"([^"]*(?:""[^"]*)*)"|([^";]*)')


class UnreadableError(Exception):
    """A row that the format does not allow; the message is the reason."""


class Event(NamedTuple):
    """One valid row; `created_at` is in UTC, `meta_data` is None unless the event is a proposal."""

    event_id: int
    event_type: str
    professional_id: int
    created_at: datetime
    meta_data: str | None = None


def read_events(uri: str) -> Iterator[Event | str]:
    """Yield the event in each row of the file at URI, or why it is rejected.

    Raises ValueError for a wrong header; what cannot be read raises many kinds, of fsspec and gzip.
    """
    seen: set[int] = set()
    with open_lines(uri) as lines:
        check_header(uri, lines)
        for line in lines:
            try:
                event = parse(line)
            except UnreadableError as error:
                yield str(error)
                continue
            yield "duplicate_event_id" if event.event_id in seen else event
            seen.add(event.event_id)


@contextmanager
def open_lines(uri: str) -> Iterator[Iterator[bytes | None]]:
    """Open the file at URI, gzipped or not, as its lines, without line ends; None stands for a line too long."""
    options: dict[str, Any] = {}
    if uri.startswith(("http://", "https://")):
        options = {"block_size": 0, **http_options(uri)}  # 0: not every server supports ranges
    with fsspec.open(uri, "rb", **options) as opened:
        # fsspec's files read lines slowly, and some cannot peek.
        file = io.BufferedReader(cast(io.RawIOBase, opened), buffer_size=1 << 20)
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if file.peek(2).startswith(GZIP_MAGIC) else file
        yield read_lines(stream)


def read_lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """Yield the lines of STREAM as `open_lines` describes them, except blank ones."""
    bom = BOM
    while line := stream.readline(LINE_LIMIT_BYTES + 8):
        line = line.removeprefix(bom)
        bom = b""
        complete = line
        while not complete.endswith(b"\n") and (more := stream.readline(LINE_LIMIT_BYTES)):
            complete = more
        text = line.removesuffix(b"\n").removesuffix(b"\r")
        if len(text) > LINE_LIMIT_BYTES:
            yield None
        elif text.strip():
            yield text


def check_header(uri: str, lines: Iterator[bytes | None]) -> None:
    """Take the header from LINES; raise ValueError if it is not that of an events file."""
    header = next(lines, b"") or b""
    try:
        names = split(header.decode())
    except (UnreadableError, UnicodeDecodeError):
        names = []
    if names != COLUMNS:
        raise ValueError(f"{uri} does not start with the header {';'.join(COLUMNS)}")


def split(line: str) -> list[str]:
    """Return the fields of LINE; raise UnreadableError if its quotes do not pair."""
    if '"' not in line:
        return line.split(";")
    fields: list[str] = []
    position = -1
    while position < len(line):
        if position >= 0 and line[position] != ";":
            raise UnreadableError("quoting")
        match = cast(re.Match[str], FIELD.match(line, position + 1))  # it matches the empty string, too
        fields.append(match[2] if match[1] is None else match[1].replace('""', '"'))
        position = match.end()
    return fields


def parse(line: bytes | None) -> Event:
    """Return the event in LINE; raise UnreadableError with the first reason against it in the format's order."""
    if line is None:
        raise UnreadableError("too_long")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise UnreadableError("not_utf8") from None
    if "\0" in text:
        raise UnreadableError("nul_byte")
    fields = split(text)
    if len(fields) != len(COLUMNS):
        raise UnreadableError("field_count")
    event_id = parse_id(fields[0], "event_id")
    event_type, meta_data = fields[1], fields[4]
    if event_type not in EVENT_TYPES:
        raise UnreadableError("event_type")
    professional_id = parse_id(fields[2], "professional_id")
    created_at = parse_moment(fields[3])
    if event_type == "proposed":
        check_meta_data(meta_data)
    elif meta_data:
        raise UnreadableError("metadata_unexpected")
    return Event(event_id, event_type, professional_id, created_at, meta_data or None)


def check_meta_data(meta_data: str) -> None:
    """Raise UnreadableError if META_DATA is not that of a proposal."""
    if not meta_data:
        raise UnreadableError("metadata_missing")
    parts = meta_data.split("_")
    if len(parts) != 4 or not parts[1] or not parts[2]:
        raise UnreadableError("metadata")
    parse_id(parts[0], "service_id")
    if not FEE.fullmatch(parts[3]):
        raise UnreadableError("lead_fee")


def parse_id(text: str, reason: str) -> int:
    """Return the bigint in TEXT; raise UnreadableError with REASON if it is none."""
    match = ID.fullmatch(text)
    value = int(match[1] + match[2]) if match else 1 << 63
    if not -(1 << 63) <= value < 1 << 63:
        raise UnreadableError(reason)
    return value


def parse_moment(text: str) -> datetime:
    """Return the moment in TEXT, in UTC; raise UnreadableError if it is none."""
    match = MOMENT.fullmatch(text)
    if not match:
        raise UnreadableError("created_at")
    day, time, fraction, offset = match.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{time}").replace(tzinfo=UTC)
        if fraction:
            moment += timedelta(microseconds=int(fraction[1:].ljust(6, "0")))
        if offset and offset != "Z":
            ahead = timedelta(hours=int(offset[1:3]), minutes=int(offset[4:6]))
            moment += -ahead if offset[0] == "+" else ahead
    except (ValueError, OverflowError):
        raise UnreadableError("created_at") from None
    return moment

"""Compute from an events file alone what the warehouse must hold, and compare the two.

This shares no code with the pipeline: it is written from `docs/events-format.md` and the definitions of the models, in
plain Python, so that a mistake has to be made twice, in different ways, to go unseen.
"""

import gzip
import hashlib
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from itertools import accumulate
from typing import Any, BinaryIO, NamedTuple, cast

import fsspec
import psycopg
from psycopg import sql

COLUMNS = ["event_id", "event_type", "professional_id_anonymized", "created_at", "meta_data"]
EVENT_TYPES = {"created_account", "became_able_to_propose", "became_unable_to_propose", "proposed"}
TABLES = (
    "raw.events",
    "raw.rejected_events",
    "staging.stg_events",
    "dim.dim_date",
    "dim.dim_professionals",
    "dim.dim_services",
    "fact.fct_events",
    "analysis.availability_snapshot",
    "analysis.service_revenue_daily",
    "analysis.professional_funnel",
    "analysis.professional_productivity_daily",
)
COLUMNS_OF = {
    "analysis.service_revenue_daily": ("service_id", "date", "proposals", "lead_fee_revenue"),
    "analysis.professional_funnel": (
        "professional_id",
        "cohort_week_id",
        "account_created_at",
        "first_able_at",
        "first_proposed_at",
        "days_account_to_able",
        "days_able_to_proposal",
        "days_account_to_proposal",
    ),
    "analysis.professional_productivity_daily": (
        "date",
        "active_professionals",
        "proposals",
        "lead_fee_revenue",
        "proposals_per_active_professional",
        "lead_fee_revenue_per_active_professional",
    ),
}
STAGES = ("created_account", "became_able_to_propose", "proposed")
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
    """One valid row; `created_at` is in UTC without saying so, and service and fee are those of a proposal."""

    event_id: int
    event_type: str
    professional_id: int
    created_at: datetime
    service_id: int | None
    lead_fee: Decimal | None


@dataclass(frozen=True)
class Expected:
    """What the warehouse must hold after a load of the whole file and a build."""

    read: int
    rejected: int
    rejected_by_reason: dict[str, int]
    rows: dict[str, int]
    lead_fees: Decimal
    active_professionals: dict[date, int]
    services: int
    professionals: int
    content: dict[str, set[tuple[Any, ...]]]  # of the tables of COLUMNS_OF, their rows in the order of those columns


@dataclass(frozen=True)
class Check:
    """One comparison of what must be with what is."""

    name: str
    expected: object
    actual: object
    holds: bool


def compute(uri: str, start: datetime | None = None, end: datetime | None = None) -> Expected:
    """Return what an empty warehouse must hold after a load of the events file at URI, any that fsspec opens.

    START and END, in UTC, are the half-open interval that is loaded; None is an open bound.

    Raises ValueError if the file has no header or another one, and what fsspec and gzip raise if it cannot be read.
    """
    reasons: Counter[str] = Counter()
    seen: set[int] = set()
    loaded = 0
    services: set[int] = set()
    professionals: set[int] = set()
    days: set[date] = set()
    statuses: list[tuple[datetime, int, int, bool]] = []
    proposals = 0
    fees = Decimal(0)
    revenue: dict[tuple[int, date], list[Decimal]] = defaultdict(lambda: [Decimal(0), Decimal(0)])  # proposals, fees
    reached: dict[int, dict[str, datetime]] = defaultdict(dict)  # by professional: the first event of each type
    with open_lines(uri) as lines:
        check_header(uri, lines)
        for line in lines:
            try:
                event = parse(line)
                if event.event_id in seen:
                    raise UnreadableError("duplicate_event_id")
            except UnreadableError as error:
                reasons[str(error)] += 1
                continue
            seen.add(event.event_id)
            created_at = event.created_at.replace(tzinfo=UTC)
            if (start is not None and created_at < start) or (end is not None and created_at >= end):
                continue
            loaded += 1
            professionals.add(event.professional_id)
            days.add(event.created_at.date())
            first = reached[event.professional_id].setdefault(event.event_type, event.created_at)
            reached[event.professional_id][event.event_type] = min(first, event.created_at)
            if event.service_id is not None and event.lead_fee is not None:
                proposals += 1
                services.add(event.service_id)
                fees += event.lead_fee
                total = revenue[event.service_id, event.created_at.date()]
                total[0] += 1
                total[1] += event.lead_fee
            elif event.event_type != "created_account":
                able = event.event_type == "became_able_to_propose"
                statuses.append((event.created_at, event.event_id, event.professional_id, able))
    active = active_by_day(statuses, min(days), max(days)) if days else {}
    rows = (
        loaded,
        reasons.total(),
        loaded,
        len(active),
        len(professionals),
        len(services),
        proposals,
        len(active),
        len(revenue),
        len(professionals),
        len(active),
    )
    return Expected(
        read=len(seen) + reasons.total(),
        rejected=reasons.total(),
        rejected_by_reason=dict(sorted(reasons.items())),
        rows=dict(zip(TABLES, rows, strict=True)),
        lead_fees=fees,
        active_professionals=active,
        services=len(services),
        professionals=len(professionals),
        content={
            "analysis.service_revenue_daily": {(*key, *total) for key, total in revenue.items()},
            "analysis.professional_funnel": {funnel(who, firsts) for who, firsts in reached.items()},
            "analysis.professional_productivity_daily": productivity(active, revenue),
        },
    )


def funnel(professional: int, firsts: dict[str, datetime]) -> tuple[Any, ...]:
    """Return the row of PROFESSIONAL, whose first event of each type is in FIRSTS; days are those of the calendar."""
    account, able, proposed = (firsts.get(stage) for stage in STAGES)

    def days(start: datetime | None, end: datetime | None) -> int | None:
        return (end.date() - start.date()).days if start and end else None

    cohort = account.isocalendar().year * 100 + account.isocalendar().week if account else None
    return (
        professional,
        cohort,
        account,
        able,
        proposed,
        days(account, able),
        days(able, proposed),
        days(account, proposed),
    )


def productivity(active: dict[date, int], revenue: dict[tuple[int, date], list[Decimal]]) -> set[tuple[Any, ...]]:
    """Return the rows of the days of ACTIVE: what all services' REVENUE is for each professional active that day."""
    totals: dict[date, list[Decimal]] = {day: [Decimal(0), Decimal(0)] for day in active}
    for (_, day), (proposals, fees) in revenue.items():
        totals[day][0] += proposals
        totals[day][1] += fees

    def per(total: Decimal, count: int) -> Decimal | None:
        return (total / count).quantize(Decimal("0.000001"), ROUND_HALF_UP) if count else None

    return {(day, count, *totals[day], *(per(total, count) for total in totals[day])) for day, count in active.items()}


def active_by_day(statuses: list[tuple[datetime, int, int, bool]], first: date, last: date) -> dict[date, int]:
    """Return how many professionals are active at the end of each day from FIRST to LAST.

    STATUSES are (created_at, event_id, professional, able). In their order, somebody not able who becomes able adds one
    to the day, somebody able who becomes unable takes one away; the rest changes nothing.
    """
    changes: Counter[date] = Counter()
    able_now: set[int] = set()
    for created_at, _, professional, able in sorted(statuses):
        if able and professional not in able_now:
            able_now.add(professional)
            changes[created_at.date()] += 1
        elif not able and professional in able_now:
            able_now.remove(professional)
            changes[created_at.date()] -= 1
    days = [date.fromordinal(number) for number in range(first.toordinal(), last.toordinal() + 1)]
    return dict(zip(days, accumulate(changes[day] for day in days), strict=True))


@contextmanager
def open_lines(uri: str) -> Iterator[Iterator[bytes | None]]:
    """Open the file at URI, gzipped or not, as its lines, without line ends; None stands for a line too long."""
    streamed = {"block_size": 0} if uri.startswith(("http://", "https://")) else {}  # not each server knows of ranges
    with fsspec.open(uri, "rb", **streamed) as opened:
        # fsspec's files read lines slowly and need not peek.
        file = io.BufferedReader(cast(io.RawIOBase, opened), buffer_size=1 << 20)
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if file.peek(2).startswith(GZIP_MAGIC) else file
        yield read_lines(stream)


def read_lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """Yield the lines of STREAM as `open_lines` says, except blank ones."""
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
        match = cast(re.Match[str], FIELD.match(line, position + 1))  # matches at least nothing
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
    event_id_text, event_type, professional_text, created_text, metadata = fields
    event_id = parse_id(event_id_text, "event_id")
    if event_type not in EVENT_TYPES:
        raise UnreadableError("event_type")
    professional_id = parse_id(professional_text, "professional_id")
    created_at = parse_moment(created_text)
    if event_type != "proposed":
        if metadata:
            raise UnreadableError("metadata_unexpected")
        return Event(event_id, event_type, professional_id, created_at, None, None)
    if not metadata:
        raise UnreadableError("metadata_missing")
    parts = metadata.split("_")
    if len(parts) != 4 or not parts[1] or not parts[2]:
        raise UnreadableError("metadata")
    service_id = parse_id(parts[0], "service_id")
    if not FEE.fullmatch(parts[3]):
        raise UnreadableError("lead_fee")
    return Event(event_id, event_type, professional_id, created_at, service_id, Decimal(parts[3]))


def parse_id(text: str, reason: str) -> int:
    """Return the bigint in TEXT; raise UnreadableError with REASON if it is none."""
    match = ID.fullmatch(text)
    value = int(match[1] + match[2]) if match else 1 << 63
    if not -(1 << 63) <= value < 1 << 63:
        raise UnreadableError(reason)
    return value


def parse_moment(text: str) -> datetime:
    """Return the moment in TEXT, in UTC but naive; raise UnreadableError if it is none."""
    match = MOMENT.fullmatch(text)
    if not match:
        raise UnreadableError("created_at")
    day, time, fraction, offset = match.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{time}")
        if fraction:
            moment += timedelta(microseconds=int(fraction[1:].ljust(6, "0")))
        if offset and offset != "Z":
            ahead = timedelta(hours=int(offset[1:3]), minutes=int(offset[4:6]))
            moment += -ahead if offset[0] == "+" else ahead
    except (ValueError, OverflowError):
        raise UnreadableError("created_at") from None
    return moment


def compare(expected: Expected, conn: psycopg.Connection[Any]) -> list[Check]:
    """Compare EXPECTED with the warehouse behind CONN, whose role may read `raw` and the models.

    A table that does not exist has None rows; then the checks end with those of the rows.
    """
    counts = {table: count_rows(conn, table) for table in TABLES}
    checks = [equal(f"rows of {table}", expected.rows[table], counts[table]) for table in TABLES]
    if None in counts.values():
        return checks

    def value(query: sql.SQL) -> Any:
        row = conn.execute(query).fetchone()
        return row[0] if row else None

    fees = value(sql.SQL("select coalesce(sum(service_lead_fee), 0) from fact.fct_events"))
    checks += [
        # A float would hide in a comparison by value.
        Check("sum of lead fees", expected.lead_fees, fees, isinstance(fees, Decimal) and fees == expected.lead_fees),
        equal(
            "services in fct_events",
            expected.services,
            value(sql.SQL("select count(distinct service_id) from fact.fct_events")),
        ),
        equal(
            "services in dim_services",
            expected.services,
            value(sql.SQL("select count(distinct service_id) from dim.dim_services")),
        ),
        equal(
            "professionals in stg_events",
            expected.professionals,
            value(sql.SQL("select count(distinct professional_id) from staging.stg_events")),
        ),
        equal(
            "professionals in dim_professionals",
            expected.professionals,
            value(sql.SQL("select count(distinct professional_id) from dim.dim_professionals")),
        ),
    ]
    days = conn.execute("select date, active_professionals from analysis.availability_snapshot").fetchall()
    checks.append(compare_days(expected.active_professionals, days))
    for table, columns in COLUMNS_OF.items():
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        query = sql.SQL("select {} from {}").format(names, sql.Identifier(*table.split(".")))
        checks.append(compare_rows(table, expected.content[table], conn.execute(query).fetchall()))
    reasons = dict(conn.execute("select reason, count(*) from raw.rejected_events group by reason").fetchall())
    checks.append(equal("rejected rows", expected.rejected, sum(reasons.values())))
    checks += [
        equal(f"rejected rows: {reason}", expected.rejected_by_reason.get(reason, 0), reasons.get(reason, 0))
        for reason in sorted(expected.rejected_by_reason.keys() | reasons.keys())
    ]
    return checks


def count_rows(conn: psycopg.Connection[Any], table: str) -> int | None:
    """Return the number of rows of TABLE, given as schema.name, or None if it does not exist."""
    found = conn.execute("select to_regclass(%s)", [table]).fetchone()
    if not found or found[0] is None:
        return None
    row = conn.execute(sql.SQL("select count(*) from {}").format(sql.Identifier(*table.split(".")))).fetchone()
    return row[0] if row else None


def equal(name: str, expected: object, actual: object) -> Check:
    """Return the check that ACTUAL equals EXPECTED."""
    return Check(name, expected, actual, expected == actual)


def compare_days(expected: dict[date, int], rows: list[tuple[date, int]]) -> Check:
    """Return the check that ROWS, (day, active professionals), are EXPECTED; it names the first days that differ."""
    name = "active professionals per day"
    found = dict(rows)
    wrong = sorted(day for day in expected.keys() | found.keys() if expected.get(day) != found.get(day))
    if not wrong and len(rows) == len(expected):
        same = f"{len(expected)} days"
        return Check(name, same, same, True)
    if not wrong:
        return Check(name, f"{len(expected)} days", f"{len(rows)} rows for {len(found)} days", False)
    shown = wrong[:3]
    more = f" and {len(wrong) - len(shown)} more" if len(wrong) > len(shown) else ""

    def describe(counts: dict[date, int]) -> str:
        return ", ".join(f"{day}: {counts.get(day, 'no row')}" for day in shown) + more

    return Check(name, describe(expected), describe(found), False)


def compare_rows(table: str, expected: set[tuple[Any, ...]], rows: list[tuple[Any, ...]]) -> Check:
    """Return the check that ROWS of TABLE are EXPECTED, each once; it names a row of either that the other has not."""
    name = f"content of {table}"
    found = set(rows)
    if found == expected and len(rows) == len(expected):
        return Check(name, f"{len(rows)} rows", f"{len(rows)} rows", True)

    def describe(mine: set[tuple[Any, ...]], other: set[tuple[Any, ...]], count: int) -> str:
        odd = sorted(mine - other, key=str)[:1]
        return f"{count} rows" + "".join(
            f", {len(mine - other)} of them else: {', '.join(map(str, row))}" for row in odd
        )

    return Check(name, describe(expected, found, len(expected)), describe(found, expected, len(rows)), False)


def fingerprint(conn: psycopg.Connection[Any]) -> dict[str, str]:
    """Return a hash of the content of each table, whatever the order of its rows; which load brought a row is left out.

    Hashes are compared within one server: another may compute others. Their sum keeps memory flat and, unlike an
    exclusive or, sees a row that occurs twice. Raises psycopg.errors.UndefinedTable if a table does not exist.
    """
    prints = {}
    for table in TABLES:
        name = sql.Identifier(*table.split("."))
        columns = conn.execute(sql.SQL("select * from {} limit 0").format(name)).description or []
        content = sql.SQL(", ").join(sql.Identifier(column.name) for column in columns if column.name != "load_id")
        query = sql.SQL("select count(*), coalesce(sum(hash_record_extended(row({}), 0)), 0) from {}").format(
            content, name
        )
        rows, total = conn.execute(query).fetchone() or (0, 0)
        names = ", ".join(column.name for column in columns)
        prints[table] = hashlib.sha256(f"{names}; {rows} rows; {total}".encode()).hexdigest()
    return prints

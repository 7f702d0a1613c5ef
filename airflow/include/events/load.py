"""Load an events file into `raw`: afterwards an interval of `raw.events` holds exactly the file's valid rows of it.

A load has two steps, in one transaction. It copies the file's rows into tables of its own, which takes long and
disturbs nobody; then it puts these tables in the place of the partitions of its interval, one load at a time. So a load
that fails, or is killed, leaves `raw.events` as it was and nothing else behind. `raw.loads` has a row for each load,
from its beginning.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import NoReturn

import psycopg
from psycopg import sql

from events import ledger, records
from events.connection import connect, foreseen, owner, transaction
from events.definition import Definition, read_definition
from events.errors import EmptyReplacement, EventsError, TablesUnfit, TooManyRejected
from events.interval import Interval, utc
from events.ledger import Earlier, LoadResult
from events.partitions import drop_leftovers
from events.progress import Progress
from events.publishing import Replacement, cut_partitions, swap
from events.source import digest, open_source, size
from events.staging import EXAMPLES, Staging
from events.tables import make_missing
from events.uri import clean_logs, shown

__all__ = ["PUBLISH_LOCK", "Interval", "LoadResult", "load"]

PUBLISH_LOCK = 0x6576656E7473  # "events": who changes raw.events, or wants it unchanged (dbt), holds this advisory lock

logger = logging.getLogger(__name__)


def load(
    source_uri: str,
    dsn: str,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    max_rejected: float = 0.01,
    allow_empty: bool = False,
    force: bool = False,
    run_id: str | None = None,
    lock_timeout_s: float = 1800.0,
    dry_run: bool = False,
    say: Callable[[str], None] = logger.info,
    say_every_s: float = 5.0,
) -> LoadResult:
    """Make `raw.events` in `[start, end)` of `created_at` hold exactly the file's valid rows of that interval.

    Args:
        source_uri: the events file, a path or any fsspec URI.
        dsn: the warehouse as the role `loader`, a libpq URL.
        start: first moment of the interval; UTC if naive; None for no bound.
        end: first moment after the interval; UTC if naive; None for no bound.
        max_rejected: the largest fraction of the rows read, 0 to 1, that may be rejected.
        allow_empty: whether events of the interval may be replaced by nothing.
        force: whether to load the file even if an earlier load brought the same and still stands.
        run_id: what asked for the load, for the ledger.
        lock_timeout_s: how long, in seconds, it waits for other loads, dbt builds, readers and whoever has a lock.
        dry_run: find out what the load would do, and leave everything as it is, the ledger too.
        say: what is told how far the load has come.
        say_every_s: how often that is said, in seconds.

    Raises:
        EventsError: as its subclasses say; `raw.events` is as it was, and the ledger says what happened.
        psycopg.Error: the warehouse failed in a way that was not foreseen; likewise, if it can still be written.
    """
    interval = Interval(utc(start), utc(end))
    with clean_logs(source_uri, dsn), foreseen(lock_timeout_s), connect(dsn) as connection:
        role = owner(connection)
        report = _Report(say, say_every_s)
        job = _Load(connection, dsn, role, source_uri, interval, max_rejected, allow_empty, lock_timeout_s, report)
        if dry_run:
            result = job.try_out()
            logger.info("dry run of %s, %s: %s", shown(source_uri), interval, result)
            return result
        with transaction(connection, role, lock_timeout_s):
            ledger.tidy(connection)
        drop_leftovers(connection, role)
        with transaction(connection, role, lock_timeout_s):
            load_id = ledger.begin(connection, source_uri, interval, run_id)
        try:
            with foreseen(lock_timeout_s):
                result = job.run(load_id, force=force)
        except BaseException as error:  # an interrupt too
            connection.close()  # the role may have one connection only
            ledger.record_failure(dsn, role, load_id, source_uri, error)
            raise
        with suppress(psycopg.Error):  # the load is published; the next one does it
            drop_leftovers(connection, role)
    logger.info("load %d of %s, %s: %s", load_id, shown(source_uri), interval, result)
    return result


@cache
def rules_sha256() -> str:
    """Return the SHA-256 of the rules that decide which rows are valid, which are code."""
    return hashlib.sha256(Path(records.__file__).read_bytes()).hexdigest()


@dataclass(frozen=True)
class _Report:
    """Who is told how far a load has come, and how often, in seconds."""

    say: Callable[[str], None]
    every_s: float


@dataclass(frozen=True)
class _Load:
    """One load: what was asked for, as `load` says, and its steps."""

    connection: psycopg.Connection
    dsn: str
    role: str | None
    source_uri: str
    interval: Interval
    max_rejected: float
    allow_empty: bool
    lock_timeout_s: float
    report: _Report
    began: float = field(default_factory=time.monotonic)

    def try_out(self) -> LoadResult:
        """Find out what the load would do, and leave everything as it is."""
        with transaction(self.connection, self.role, self.lock_timeout_s):
            if self.connection.execute("select to_regclass('raw.loads')").fetchone() == (None,):
                make_missing(self.connection)
            load_id = ledger.begin(self.connection, self.source_uri, self.interval, None)
            definition = read_definition(self.connection)
            staging, _ = self._stage(definition, load_id)
            if refusal := self._too_many_rejected(staging, "Load it to see the rows"):
                raise refusal
            self.connection.execute("lock table only raw.events in access share mode")  # no partition goes meanwhile
            replacement = Replacement(self.connection, definition, load_id, self.interval)
            rows_now = replacement.rows()
            if refusal := self._empty_replacement(staging, rows_now):
                raise refusal
            result = self._result(staging, load_id, rows_now + self._find_moved(replacement, staging))
            self.connection.execute("rollback")
        return result

    def run(self, load_id: int, *, force: bool) -> LoadResult:
        """Do all of it; nothing of it is there if that fails."""
        if not force and (result := self._repeat(load_id)):
            return result
        connection = self.connection
        with transaction(connection, self.role, self.lock_timeout_s):
            ledger.hold(connection, load_id)
            definition = read_definition(connection)
            staging, source = self._stage(definition, load_id)
            if staging.rejected:
                logger.warning(
                    "load %d: rejected %d rows: %s", load_id, staging.rejected.total(), _text(staging.rejected)
                )
            look = f"Look at the rows of load {load_id} in raw.rejected_events"
            if refusal := self._too_many_rejected(staging, look):
                self._refuse(load_id, staging, source, refusal)
            staging.finish()
            deadline = time.monotonic() + self.lock_timeout_s
            self._wait_for_turn()
            with ExitStack() as stack:
                cut = cut_partitions(connection, self.interval)
                reader = stack.enter_context(self._reader(cut)) if cut else None
                self._keep_writers_away()
                if read_definition(connection) != definition:
                    raise TablesUnfit(
                        "raw.events was altered while the load was under way.",
                        "Somebody has added or removed a column, a constraint or an index.",
                        "Run the load again; nothing was changed.",
                    )
                replacement = Replacement(connection, definition, load_id, self.interval)
                rows_now = replacement.rows()
                if refusal := self._empty_replacement(staging, rows_now):
                    self._refuse(load_id, staging, source, refusal)
                result = self._result(staging, load_id, rows_now + self._find_moved(replacement, staging))
                if replacement.moved_from and not reader:  # of a partition that an event moved from, the rest is kept
                    reader = stack.enter_context(self._reader([]))
                replacement.prepare(staging, reader)
            staging.quarantine()
            ledger.forget_rejects(connection, self.source_uri, load_id)
            ledger.close(connection, load_id, source, result, rules=rules_sha256(), moved_from=replacement.moved_from)
            swap(connection, replacement.swap_statement(), deadline)
        return replace(result, seconds=round(time.monotonic() - self.began, 3))

    def _repeat(self, load_id: int) -> LoadResult | None:
        """Close the load if an earlier one brought the same and still stands; else return None."""
        connection = self.connection
        with transaction(connection, self.role, self.lock_timeout_s):
            ledger.hold(connection, load_id)
            size_bytes = size(self.source_uri)
            earlier = ledger.find_earlier(connection, self.source_uri, size_bytes, self.interval, rules_sha256())
            if not earlier or (earlier.rejected and earlier.rejected / earlier.read > self.max_rejected):
                return None
            source = digest(self.source_uri)
            if source[1] != earlier.sha256:
                return None
            self._wait_for_turn()
            self._keep_writers_away()
            if not self._stands(earlier):
                return None
            reasons = connection.execute(
                "select reason, count(*) from only raw.rejected_events where load_id = %s"
                " group by reason order by 2 desc",
                (earlier.load_id,),
            )
            result = LoadResult(
                load_id,
                read=earlier.read,
                loaded=earlier.loaded,
                rejected=earlier.rejected,
                outside=earlier.outside,
                replaced=0,
                reasons=dict(reasons.fetchall()),
                same_as_load_id=earlier.load_id,
                seconds=round(time.monotonic() - self.began, 3),
            )
            if result.rejected:
                logger.warning("load %d: rejected %d rows: %s", load_id, result.rejected, _text(result.reasons))
            ledger.forget_rejects(connection, self.source_uri, earlier.load_id)
            ledger.close(connection, load_id, source, result, rules=rules_sha256())
        return result

    def _stands(self, earlier: Earlier) -> bool:
        """Say whether the tables hold what EARLIER left there, nothing more and nothing less.

        A row that was changed or added since, by hand or by another load, was written by another transaction; one that
        was removed is missing in the count.
        """
        [events] = self.connection.execute(
            "select count(*), count(*) filter (where xmin = %s::xid8::xid) from raw.events"
            " where created_at >= %s and created_at < %s",
            (earlier.transaction_id, *self.interval.bounds),
        )
        [rejects] = self.connection.execute(
            "select count(*), count(*) filter (where xmin = %s::xid8::xid) from only raw.rejected_events"
            " where load_id = %s",
            (earlier.transaction_id, earlier.load_id),
        )
        if events != (earlier.loaded,) * 2 or rejects != (earlier.rejected,) * 2:
            return False
        definition = read_definition(self.connection)
        return Replacement(self.connection, definition, earlier.load_id, self.interval).find_moved() == 0

    def _stage(self, definition: Definition, load_id: int) -> tuple[Staging, tuple[int | None, str | None]]:
        """Bring the file's rows to the warehouse; return them, and the file's size and SHA-256 as far as known."""
        staging = Staging(self.connection, definition, load_id, self.interval)
        with open_source(self.source_uri) as source:
            progress = Progress(source.total_bytes, self.report.say, self.report.every_s)
            staging.stage(source, self.max_rejected, lambda rows: progress.advance(rows, source.size_bytes))
            if staging.is_hopeless:
                return staging, (source.total_bytes, None)
            return staging, (source.size_bytes, source.sha256)

    def _find_moved(self, replacement: Replacement, staging: Staging) -> int:
        return replacement.find_moved([part.table for part in staging.parts])

    def _result(self, staging: Staging, load_id: int, replaced: int) -> LoadResult:
        return LoadResult(
            load_id,
            read=staging.read,
            loaded=staging.loaded,
            rejected=staging.rejected.total(),
            outside=staging.outside,
            replaced=replaced,
            reasons=dict(staging.rejected.most_common()),
            seconds=round(time.monotonic() - self.began, 3),
        )

    def _wait_for_turn(self) -> None:
        """Wait until no other load publishes and no dbt build runs."""
        [(is_free,)] = self.connection.execute("select pg_try_advisory_xact_lock(%s)", (PUBLISH_LOCK,))
        if not is_free:
            logger.info("waiting for another load or a dbt build, at most %g s", self.lock_timeout_s)
            self.connection.execute("select pg_advisory_xact_lock(%s)", (PUBLISH_LOCK,))

    def _keep_writers_away(self) -> None:
        """Keep others from writing to raw.events and, by their names, to its partitions, while rows are copied."""
        self.connection.execute("lock table raw.events in share row exclusive mode")

    @contextmanager
    def _reader(self, tables: Sequence[sql.Composable]) -> Iterator[psycopg.Connection]:
        """Have a second connection that reads TABLES, whose rows are kept in part.

        It has its locks before the load has its own: who wants a partition for himself and waits for the load would
        otherwise hold up the reader, for which the load waits.
        """
        with connect(self.dsn) as reader, transaction(reader, self.role, self.lock_timeout_s):
            for table in tables:
                reader.execute(sql.SQL("lock table only {} in access share mode").format(table))
            yield reader

    def _too_many_rejected(self, staging: Staging, to_see_the_rows: str) -> EventsError | None:
        """Return why the load must not be published, if a larger share of the rows than allowed was rejected."""
        rejected = staging.rejected.total()
        if not rejected or rejected / staging.read <= self.max_rejected:
            return None
        of = "the first " if staging.is_hopeless else ""
        return TooManyRejected(
            f"{rejected} of {of}{staging.read} rows of {shown(self.source_uri)} were rejected;"
            f" at most {self.max_rejected * 100:g}% may be.",
            f"The file is most likely damaged, or its format has changed: {_text(staging.rejected)}.",
            f"{to_see_the_rows}; a larger max_rejected allows them.",
        )

    def _empty_replacement(self, staging: Staging, rows_now: int) -> EventsError | None:
        """Return why the load must not be published, if it would replace ROWS_NOW by nothing."""
        if not rows_now or staging.loaded or self.allow_empty:
            return None
        return EmptyReplacement(
            f"The load of {shown(self.source_uri)} would replace the events of {self.interval} by nothing.",
            "The file is most likely another one, or is not complete.",
            "Check the file; if the interval is to be empty, load it again with allow_empty.",
        )

    def _refuse(
        self, load_id: int, staging: Staging, source: tuple[int | None, str | None], refusal: EventsError
    ) -> NoReturn:
        """Leave examples of the rejected rows and the reason, and nothing else of the load; raise REFUSAL."""
        counts = {"read": staging.read, "rejected": staging.rejected.total(), "outside": staging.outside}
        staging.discard()
        staging.quarantine(EXAMPLES)
        ledger.forget_rejects(self.connection, self.source_uri, load_id)
        ledger.close(self.connection, load_id, source, (refusal, counts))
        self.connection.execute("commit")
        raise refusal


def _text(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items(), key=lambda item: -item[1]))

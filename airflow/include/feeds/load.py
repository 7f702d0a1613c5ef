"""Load an events file into `raw`: afterwards `raw.events` has exactly the file's valid rows of an interval.

A load has two steps, in one transaction. It copies the file's rows into staging tables, which takes long and blocks
nobody. Then it swaps these tables for the partitions of its interval, one load at a time. So a load that fails or is
killed leaves `raw.events` unchanged and no tables behind. `raw.loads` has a row for each load from its start.
"""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import NoReturn

import psycopg

from feeds import ledger
from feeds.connection import connect, foreseen, owner, transaction
from feeds.days import far_days, far_days_text
from feeds.definition import Definition, read_definition
from feeds.errors import EmptyReplacement, EventsError, TablesUnfit, TooManyRejected
from feeds.interval import ALWAYS, Interval, utc
from feeds.ledger import LoadResult
from feeds.locks import block_writers, reader, wait_for_turn
from feeds.partitions import cut_partitions, drop_replaced
from feeds.progress import Progress
from feeds.replacement import Replacement
from feeds.source import open_source
from feeds.staging import EXAMPLES, Staging
from feeds.swap import swap, swap_statement
from feeds.tables import make_missing
from feeds.unchanged import find_unchanged, rules_sha256
from feeds.uri import clean_logs, shown

logger = logging.getLogger(__name__)


def load(
    source_uri: str,
    dsn: str,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    valid: Interval = ALWAYS,
    max_rejected: float = 0.01,
    allow_empty: bool = False,
    force: bool = False,
    run_id: str | None = None,
    lock_timeout_s: float = 1800.0,
    dry_run: bool = False,
    report: Callable[[str], None] = logger.info,
    report_every_s: float = 5.0,
) -> LoadResult:
    """Make `raw.events` in `[start, end)` of `created_at` contain exactly the file's valid rows of that interval.

    Args:
        source_uri: the events file, a path or any fsspec URI.
        dsn: the warehouse as the role `loader`, a libpq URL.
        start: first moment of the interval; UTC if naive; None for no bound.
        end: first moment after the interval; UTC if naive; None for no bound.
        valid: the interval in which `created_at` is valid; rows outside of it are rejected.
        max_rejected: the largest share of the rows read, 0 to 1, that may be rejected.
        allow_empty: whether a load without events may delete those of its interval.
        force: whether to load the file even if it was loaded before and its rows are unchanged.
        run_id: an identifier of the caller, for the ledger.
        lock_timeout_s: the longest wait for a lock of another load, dbt build, reader or user, in seconds.
        dry_run: only return what the load would do; change nothing, not even the ledger.
        report: gets the load's progress as text.
        report_every_s: the shortest time between two reports, in seconds.

    Raises:
        EventsError: see its subclasses; `raw.events` is unchanged, and the ledger has the failure.
    """
    interval = Interval(utc(start), utc(end))
    with clean_logs(source_uri, dsn), foreseen(lock_timeout_s), connect(dsn) as connection:
        role = owner(connection)
        progress = partial(Progress, report=report, every_s=report_every_s)
        job = _Load(
            connection,
            dsn,
            role,
            source_uri,
            interval,
            valid,
            max_rejected,
            allow_empty,
            lock_timeout_s,
            progress,
        )
        if dry_run:
            result = job.dry_run()
            logger.info("dry run of %s, %s: %s", shown(source_uri), interval, result)
            return result
        drop_replaced(connection, role)
        with transaction(connection, role, lock_timeout_s):
            ledger.mark_killed_as_failed(connection)
            ledger.remove_old_secrets(connection)
            load_id = ledger.begin(connection, source_uri, interval, run_id)
        try:
            with foreseen(lock_timeout_s):
                result = job.run(load_id, force=force)
        except BaseException as error:  # an interrupt too
            connection.close()  # the role may have only one connection
            ledger.record_failure(dsn, role, load_id, source_uri, error)
            raise
        with suppress(psycopg.Error):  # the load has succeeded; the next one drops them
            drop_replaced(connection, role)
    logger.info("load %d of %s, %s: %s", load_id, shown(source_uri), interval, result)
    return result


@dataclass(frozen=True)
class _Load:
    """One load: the arguments of `load`, and its steps."""

    connection: psycopg.Connection
    dsn: str
    role: str | None
    source_uri: str
    interval: Interval
    valid: Interval
    max_rejected: float
    allow_empty: bool
    lock_timeout_s: float
    progress: Callable[[int | None], Progress]
    started: float = field(default_factory=time.monotonic)

    def dry_run(self) -> LoadResult:
        """Return what the load would do, and roll back."""
        connection = self.connection
        with transaction(connection, self.role, self.lock_timeout_s):
            if connection.execute("select to_regclass('raw.loads')").fetchone() == (None,):
                make_missing(connection)
            load_id = ledger.begin(connection, self.source_uri, self.interval, None)
            definition = read_definition(connection)
            staging, _ = self._stage(definition, load_id)
            if refusal := self._too_many_rejected(staging, "Load it to see the rows"):
                raise refusal
            _warn_of_far_days(load_id, staging)
            connection.execute("lock table only raw.events in access share mode")  # keeps the partitions
            replacement = Replacement(connection, definition, load_id, self.interval)
            result = self._result(load_id, staging, replacement)
            if refusal := self._empty_replacement(result):
                raise refusal
            connection.execute("rollback")
        return result

    def run(self, load_id: int, *, force: bool) -> LoadResult:
        """Load the file, or nothing of it if that fails."""
        if not force and (result := self._skip_if_unchanged(load_id)):
            return result
        connection = self.connection
        with transaction(connection, self.role, self.lock_timeout_s):
            ledger.lock(connection, load_id)
            definition = read_definition(connection)
            staging, source = self._stage(definition, load_id)
            if staging.rejected:
                _warn(load_id, staging.rejected)
            hint = f"Look at the rows of load {load_id} in raw.rejected_events"
            if refusal := self._too_many_rejected(staging, hint):
                self._refuse(load_id, staging, source, refusal)
            _warn_of_far_days(load_id, staging)
            staging.add_keys()
            deadline = time.monotonic() + self.lock_timeout_s
            wait_for_turn(connection, self.lock_timeout_s)
            with ExitStack() as stack:
                read_from = None
                if cut := cut_partitions(connection, self.interval):
                    read_from = stack.enter_context(reader(self.dsn, self.role, self.lock_timeout_s, cut))
                block_writers(connection)
                if read_definition(connection) != definition:
                    raise TablesUnfit(
                        "raw.events was altered during the load.",
                        "A user added or removed a column, a constraint or an index.",
                        "Run the load again; nothing was changed.",
                    )
                replacement = Replacement(connection, definition, load_id, self.interval)
                result = self._result(load_id, staging, replacement)
                if refusal := self._empty_replacement(result):
                    self._refuse(load_id, staging, source, refusal)
                if replacement.moved_from and not read_from:  # their partitions keep their other rows
                    read_from = stack.enter_context(reader(self.dsn, self.role, self.lock_timeout_s, []))
                replacement.make_partitions(staging, read_from)
            staging.quarantine()
            ledger.forget_rejects(connection, self.source_uri, load_id)
            rules = rules_sha256(self.valid)
            ledger.close(connection, load_id, source, result, rules=rules, moved_from=replacement.moved_from)
            swap(connection, swap_statement(replacement), deadline)
        return replace(result, seconds=self._seconds())

    def _skip_if_unchanged(self, load_id: int) -> LoadResult | None:
        """Close the load if a previous one of the same file is intact; else return None."""
        connection, rules = self.connection, rules_sha256(self.valid)
        with transaction(connection, self.role, self.lock_timeout_s):
            ledger.lock(connection, load_id)
            found = find_unchanged(
                connection,
                self.source_uri,
                self.interval,
                rules,
                max_rejected=self.max_rejected,
                lock_timeout_s=self.lock_timeout_s,
            )
            if not found:
                return None
            previous, source = found
            reasons: dict[str, int] = dict(
                connection.execute(
                    "select reason, count(*) from only raw.rejected_events where load_id = %s"
                    " group by reason order by 2 desc",
                    (previous.load_id,),
                ).fetchall()
            )
            result = LoadResult(
                load_id,
                read=previous.read,
                loaded=previous.loaded,
                rejected=previous.rejected,
                outside=previous.outside,
                replaced=0,
                reasons=reasons,
                same_as_load_id=previous.load_id,
                seconds=self._seconds(),
            )
            if reasons:
                _warn(load_id, reasons)
            ledger.forget_rejects(connection, self.source_uri, previous.load_id)
            ledger.close(connection, load_id, source, result, rules=rules)
        return result

    def _stage(self, definition: Definition, load_id: int) -> tuple[Staging, tuple[int | None, str | None]]:
        """Copy the file's rows to staging tables; return them, and the file's size and SHA-256 as far as known."""
        staging = Staging(self.connection, definition, load_id, self.interval, self.valid)
        with open_source(self.source_uri) as source:
            progress = self.progress(source.total_bytes)
            staging.stage(source, self.max_rejected, lambda rows: progress.advance(rows, source.size_bytes))
            if staging.is_hopeless:
                return staging, (source.total_bytes, None)
            return staging, (source.size_bytes, source.sha256)

    def _result(self, load_id: int, staging: Staging, replacement: Replacement) -> LoadResult:
        return LoadResult(
            load_id,
            read=staging.read,
            loaded=staging.loaded,
            rejected=staging.rejected.total(),
            outside=staging.outside,
            replaced=replacement.count_rows() + replacement.find_moved([part.table for part in staging.parts]),
            reasons=dict(staging.rejected.most_common()),
            seconds=self._seconds(),
        )

    def _seconds(self) -> float:
        return round(time.monotonic() - self.started, 3)

    def _too_many_rejected(self, staging: Staging, hint: str) -> EventsError | None:
        """Return the reason to refuse the load if more rows than allowed were rejected."""
        rejected = staging.rejected.total()
        if not rejected or rejected / staging.read <= self.max_rejected:
            return None
        of = "the first " if staging.is_hopeless else ""
        return TooManyRejected(
            f"{rejected} of {of}{staging.read} rows of {shown(self.source_uri)} were rejected;"
            f" at most {self.max_rejected * 100:g}% are allowed.",
            f"The file is most likely damaged, or its format has changed: {_text(staging.rejected)}.",
            f"{hint}; a larger max_rejected allows them.",
        )

    def _empty_replacement(self, result: LoadResult) -> EventsError | None:
        """Return the reason to refuse the load if it would delete events and load none."""
        if not result.replaced or result.loaded or self.allow_empty:
            return None
        return EmptyReplacement(
            f"The load of {shown(self.source_uri)} would delete {result.replaced} events and load none"
            f" ({self.interval}).",
            "It is most likely the wrong file or the wrong interval, or the file is incomplete.",
            "Check the file; to delete all events of the interval, load again with allow_empty.",
        )

    def _refuse(
        self, load_id: int, staging: Staging, source: tuple[int | None, str | None], refusal: EventsError
    ) -> NoReturn:
        """Commit examples of the rejected rows and the failure, and nothing else of the load; raise REFUSAL."""
        counts = {"read": staging.read, "rejected": staging.rejected.total(), "outside": staging.outside}
        staging.discard()
        staging.quarantine(EXAMPLES)
        ledger.forget_rejects(self.connection, self.source_uri, load_id)
        ledger.close(self.connection, load_id, source, (refusal, counts))
        self.connection.execute("commit")
        raise refusal


def _warn(load_id: int, reasons: Mapping[str, int]) -> None:
    logger.warning("load %d: rejected %d rows: %s", load_id, sum(reasons.values()), _text(reasons))


def _warn_of_far_days(load_id: int, staging: Staging) -> None:
    if days := far_days(staging.rows_by_day):
        logger.warning("load %d: %s", load_id, far_days_text(days))


def _text(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items(), key=lambda item: -item[1]))

"""Load a feed's files: afterwards its raw table has exactly the files' valid rows of an interval.

A load has two steps, in one transaction. It copies the files' rows into staging tables, which takes long and blocks
nobody. Then it swaps these tables for the partitions of its interval, one load at a time. So a load that fails or is
killed leaves the raw table unchanged and no tables behind. `raw.loads` has a row for each load from its start.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import NoReturn

import psycopg

from feeds import history, ledger, loaded_days
from feeds.connection import connect, foreseen, owner, transaction
from feeds.contract import Feed
from feeds.days import absent_text, far_days, far_days_text, has_late
from feeds.definition import Definition, read_definition
from feeds.errors import EmptyReplacement, FeedError, InvertedInterval, SourceChanged, TablesUnfit, TooManyRejected
from feeds.files import find_files, is_by_period
from feeds.formats import read
from feeds.interval import ALWAYS, Interval, utc
from feeds.keys import KnownDuplicates
from feeds.ledger import LoadedFile, LoadResult, together
from feeds.lineage import LoadRun, emitted
from feeds.lines import Reject, raw_text
from feeds.locks import block_writers, reader, wait_for_turn
from feeds.partitions import cut_partitions, drop_replaced
from feeds.progress import Progress
from feeds.replacement import Replacement
from feeds.source import Source, open_source, size
from feeds.staging import EXAMPLES, QUARANTINE_ROWS, Staging
from feeds.swap import swap, swap_statement
from feeds.table import RawTable
from feeds.tables import make_missing
from feeds.unchanged import find_unchanged, rules_sha256
from feeds.uri import clean_logs, shown

logger = logging.getLogger(__name__)


def load(
    feed: Feed,
    dsn: str,
    *,
    source_uri: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    valid: Interval = ALWAYS,
    max_rejected: float | None = None,
    allow_empty: bool = False,
    force: bool = False,
    run_id: str | None = None,
    parent: Mapping[str, str] = {},
    lock_timeout_s: float = 1800.0,
    dry_run: bool = False,
    report: Callable[[str], None] = logger.info,
    report_every_s: float = 5.0,
) -> LoadResult:
    """Make FEED's raw table in `[start, end)` of its time column contain exactly the files' valid rows of it.

    Of a snapshot it is the whole table, and the files are the state on the last day of `[start, end)`, by default today
    in UTC. If a later day was loaded already, the table keeps its rows, and only a history gets those of the files.

    Args:
        feed: what is loaded.
        dsn: the warehouse as the role `loader`, a libpq URL.
        source_uri: the files, a path, a pattern or any fsspec URI; by default the contract's.
        start: first moment of the interval; UTC if naive; None for no bound.
        end: first moment after the interval; UTC if naive; None for no bound.
        valid: the interval in which times are valid; rows outside of it are rejected.
        max_rejected: the largest share of the rows read, 0 to 1, that may be rejected; by default the contract's.
        allow_empty: whether a load without rows may delete those of its interval.
        force: whether to load files even if they were loaded before and their rows are unchanged.
        run_id: an identifier of the caller, for the ledger.
        parent: the caller's run, for lineage; see `feeds.lineage.parents`.
        lock_timeout_s: the longest wait for a lock of another load, dbt build, reader or user, in seconds.
        dry_run: only return what the load would do; change nothing, not even the ledger.
        report: gets the load's progress as text.
        report_every_s: the shortest time between two reports, in seconds.

    Raises:
        FeedError: see its subclasses; the raw table is unchanged, and the ledger has the failure.
    """
    raw, interval = RawTable(feed), interval_of(feed, utc(start), utc(end))
    source_uri = source_uri or feed.location
    with clean_logs(source_uri, dsn), foreseen(lock_timeout_s), connect(dsn) as connection:
        role = owner(connection, feed)
        day = _snapshot_day(utc(end) if feed.time_column is None else None)
        progress = partial(Progress, report=report, every_s=report_every_s)
        job = _Load(
            connection,
            dsn,
            role,
            raw,
            source_uri,
            Interval(utc(start), utc(end)),
            interval,
            day,
            valid,
            feed.properties.max_rejected if max_rejected is None else max_rejected,
            allow_empty,
            lock_timeout_s,
            progress,
            LoadRun(feed, dsn, source_uri, parent),
        )
        if dry_run:
            result = job.dry_run()
            logger.info("dry run of %s, %s: %s", shown(source_uri), interval, result)
            return result
        drop_replaced(connection, raw, role)
        with transaction(connection, role, lock_timeout_s):
            ledger.mark_killed_as_failed(connection)
            ledger.remove_old_secrets(connection)
            load_id = ledger.begin(connection, feed.name, source_uri, interval, run_id)
        with emitted(job.lineage):
            try:
                with foreseen(lock_timeout_s):
                    result = job.lineage.result = job.run(load_id, force=force)
            except BaseException as error:  # an interrupt too
                connection.close()  # the role may have only one connection
                ledger.record_failure(dsn, role, load_id, source_uri, error)
                raise
        with suppress(psycopg.Error):  # the load has succeeded; the next one drops them
            drop_replaced(connection, raw, role)
    logger.info("load %d of %s, %s: %s", load_id, shown(source_uri), interval, result)
    return result


@dataclass(frozen=True)
class _Load:
    """One load: the arguments of `load`, and its steps."""

    connection: psycopg.Connection
    dsn: str
    role: str | None
    raw: RawTable
    source_uri: str
    asked: Interval  # whose files are read
    interval: Interval
    day: date  # of a snapshot
    valid: Interval
    max_rejected: float
    allow_empty: bool
    lock_timeout_s: float
    progress: Callable[[int | None], Progress]
    lineage: LoadRun
    started: float = field(default_factory=time.monotonic)

    def dry_run(self) -> LoadResult:
        """Return what the load would do, and roll back."""
        return _with_duplicates(self._dry_run)

    def _dry_run(self, duplicates: KnownDuplicates) -> LoadResult:
        connection = self.connection
        with transaction(connection, self.role, self.lock_timeout_s):
            if connection.execute("select to_regclass(%s)", (str(self.raw),)).fetchone() == (None,):
                make_missing(connection, self.raw)
            load_id = ledger.begin(connection, self.raw.feed.name, self.source_uri, self.interval, None)
            definition = read_definition(connection, self.raw)
            staging, _ = self._stage(definition, load_id, self._files(), duplicates)
            if refusal := self._too_many_rejected(staging, "Load it to see the rows"):
                raise refusal
            _warn_of_far_days(self.raw.feed, load_id, staging)
            connection.execute(f"lock table only {self.raw} in access share mode".encode())  # keeps the partitions
            replacement = Replacement(connection, definition, load_id, self.interval)
            absent = self._find_absent(staging)
            result = self._result(load_id, staging, replacement, absent)
            if refusal := self._empty_replacement(result):
                raise refusal
            self._warn_of_absent(load_id, staging, absent)
            connection.execute("rollback")
        return result

    def run(self, load_id: int, *, force: bool) -> LoadResult:
        """Load the files, or nothing of them if that fails."""
        uris = self._files()
        # Whether nobody has changed a history since cannot be seen.
        if not (force or self.raw.feed.properties.history) and (result := self._skip_if_unchanged(load_id, uris)):
            return result
        return _with_duplicates(partial(self._run, load_id, uris))

    def _run(self, load_id: int, uris: Sequence[str], duplicates: KnownDuplicates) -> LoadResult:
        connection, raw = self.connection, self.raw
        with transaction(connection, self.role, self.lock_timeout_s):
            ledger.lock(connection, load_id)
            definition = read_definition(connection, raw)
            staging, files = self._stage(definition, load_id, uris, duplicates)
            if staging.rejected:
                _warn(load_id, _counts(staging))
            hint = f"Look at the rows of load {load_id} in raw.rejected_rows"
            if refusal := self._too_many_rejected(staging, hint):
                self._refuse(load_id, staging, files, refusal)
            _warn_of_far_days(self.raw.feed, load_id, staging)
            staging.add_keys()
            deadline = time.monotonic() + self.lock_timeout_s
            wait_for_turn(connection, self.lock_timeout_s)
            with ExitStack() as stack:
                read_from = None
                if cut := cut_partitions(connection, raw, self.interval):
                    read_from = stack.enter_context(reader(self.dsn, self.role, self.lock_timeout_s, cut))
                block_writers(connection, raw)
                if read_definition(connection, raw) != definition:
                    raise TablesUnfit(
                        f"{raw} was altered during the load.",
                        "A user added or removed a column, a constraint or an index.",
                        "Run the load again; nothing was changed.",
                    )
                replacement = Replacement(connection, definition, load_id, self.interval)
                absent = self._find_absent(staging)
                result = self._result(load_id, staging, replacement, absent)
                if refusal := self._empty_replacement(result):
                    self._refuse(load_id, staging, files, refusal)
                if raw.feed.time_column is None and self._take_snapshot(load_id, staging):
                    staging.discard()
                    if raw.feed.properties.history:
                        ledger.quarantine(connection, load_id)
                    self._close(load_id, files, result)
                    return replace(result, seconds=self._seconds())
                if raw.feed.time_column:
                    self._warn_of_absent(load_id, staging, absent)
                    loaded_days.record(connection, load_id, staging, replacement, absent)
                if replacement.has_moved and not read_from:  # their partitions keep their other rows
                    read_from = stack.enter_context(reader(self.dsn, self.role, self.lock_timeout_s, []))
                replacement.make_partitions(staging, read_from)
            ledger.quarantine(connection, load_id, moves=raw.feed.time_column is not None)
            self._close(load_id, files, result)
            swap(connection, raw, swap_statement(replacement), deadline)
        return replace(result, seconds=self._seconds())

    def _take_snapshot(self, load_id: int, staging: Staging) -> bool:
        """Write the day of the snapshot down, and its history; return whether a later day was loaded before."""
        connection, raw = self.connection, self.raw
        is_past = self._is_past()
        if raw.feed.properties.history:
            snapshot = staging.parts[0].table if staging.parts else None
            history.write(connection, raw, snapshot, self.day, load_id)
        elif not is_past:
            history.record(connection, raw, self.day, load_id)
        if is_past:
            to = "only its history was written" if raw.feed.properties.history else "nothing was written"
            logger.info("load %d: %s: %s keeps the rows of a later day", load_id, to, raw)
        return is_past

    def _files(self) -> list[str]:
        is_snapshot = self.raw.feed.time_column is None
        return find_files(self.source_uri, self.asked, is_latest=is_snapshot, allow_missing=self.allow_empty)

    def _close(
        self,
        load_id: int,
        files: Sequence[LoadedFile],
        outcome: LoadResult | tuple[FeedError, dict[str, int]],
    ) -> None:
        """Write the load's end into the ledger, and forget what earlier loads of the same source rejected."""
        connection, feed = self.connection, self.raw.feed
        self.lineage.files[:] = files
        kept = outcome.same_as_load_id if isinstance(outcome, LoadResult) else None
        if feed.properties.history or not self._is_past():
            is_refused = not isinstance(outcome, LoadResult)
            is_whole = feed.time_column is None and not feed.properties.history and not is_refused
            ledger.forget_rejects(connection, load_id, kept or load_id, is_refused=is_refused, is_whole=is_whole)
        source = together(files) if files else (None, None)
        rules = rules_sha256(feed, self.valid)
        ledger.close(connection, load_id, source, outcome, rules=rules)

    def _skip_if_unchanged(self, load_id: int, uris: Sequence[str]) -> LoadResult | None:
        """Close the load if a previous one of the same files is intact; else return None."""
        connection = self.connection
        with transaction(connection, self.role, self.lock_timeout_s):
            ledger.lock(connection, load_id)
            found = find_unchanged(
                connection,
                self.raw,
                self.source_uri,
                uris,
                self.interval,
                rules=rules_sha256(self.raw.feed, self.valid),
                max_rejected=self.max_rejected,
                lock_timeout_s=self.lock_timeout_s,
            )
            if not found or self._is_past():
                return None
            previous, files = found
            if self.raw.feed.time_column is None:
                history.record(connection, self.raw, self.day, previous.load_id)
            counts = connection.execute(
                "select reason, column_name, count(*) from only raw.rejected_rows where load_id = %s"
                " group by reason, column_name order by 3 desc",
                (previous.load_id,),
            )
            reasons = {str(Reject(reason, column)): count for reason, column, count in counts}
            result = LoadResult(
                load_id,
                read=previous.read,
                loaded=previous.loaded,
                rejected=previous.rejected,
                outside=previous.outside,
                replaced=0,
                reasons=reasons,
                absent=previous.absent,
                same_as_load_id=previous.load_id,
                seconds=self._seconds(),
            )
            if reasons:
                _warn(load_id, reasons)
            for number, file in enumerate(files, 1):
                ledger.record_file(connection, load_id, number, file)
            self._close(load_id, files, result)
        return result

    def _stage(
        self, definition: Definition, load_id: int, uris: Sequence[str], duplicates: KnownDuplicates
    ) -> tuple[Staging, list[LoadedFile]]:
        """Copy the rows of the files to staging tables; return them, and the files that were read to their ends.

        Raises:
            DuplicateKeys: several rows have the same key, which DUPLICATES does not name.
        """
        staging = Staging(self.connection, definition, load_id, self.interval, self.valid, duplicates=duplicates)
        files: list[LoadedFile] = []
        sizes = [size(uri) for uri in uris]
        total = None if None in sizes else sum(number for number in sizes if number is not None)
        progress = self.progress(total)
        read_bytes = 0
        for number, uri in enumerate(uris, 1):
            with open_source(uri) as source:
                rows = read(source, self.raw.feed)
                header = None if rows.header is None else raw_text(rows.header)
                # How many rows the later files have is not known.
                is_last = number == len(uris)
                most_rows = staging.most_rows(rows, source.text_bytes) if is_last else None
                if number == 1:
                    staging.begin(total, most_rows)
                report = partial(_report, progress, source, read_bytes)
                staging.stage(rows, number, most_rows, self.max_rejected, report, is_last=is_last)
                if staging.is_hopeless:
                    return staging, files
                files.append(LoadedFile(uri, source.size_bytes, source.sha256, header))
                ledger.record_file(self.connection, load_id, number, files[-1])
                read_bytes += source.size_bytes
        staging.end()
        if duplicates and duplicates.files != files:
            raise SourceChanged(
                f"{shown(self.source_uri)} changed while it was read twice, since it has duplicate keys.",
                "Its export most likely has not finished, or another one has started.",
                "Run the load again when the file is complete; nothing was changed.",
            )
        if (found := staging.find_duplicates()) and not staging.is_hopeless:
            found.files = files
            raise DuplicateKeys(found)
        return staging, files

    def _find_absent(self, staging: Staging) -> dict[str, int]:
        if self.raw.feed.time_column is None:
            return {}
        return loaded_days.find_absent(self.connection, self.raw, self.interval, staging)

    def _warn_of_absent(self, load_id: int, staging: Staging, absent: Mapping[str, int]) -> None:
        if absent:
            # Those after the interval come with later runs.
            level = logging.WARNING if has_late(absent, self.interval) else logging.INFO
            loaded = {day.decode(): rows for day, rows in staging.rows_by_day.items()}
            needed = self.asked if is_by_period(self.source_uri) else None
            logger.log(level, "load %d: %s", load_id, absent_text(self.raw.feed, absent, loaded, needed))

    def _result(
        self, load_id: int, staging: Staging, replacement: Replacement, absent: Mapping[str, int]
    ) -> LoadResult:
        loaded, outside = staging.loaded, staging.outside
        if self._is_past() and not self.raw.feed.properties.history:  # nobody needs them
            loaded, outside = 0, loaded + outside
        return LoadResult(
            load_id,
            read=staging.read,
            loaded=loaded,
            rejected=staging.rejected.total(),
            outside=outside,
            replaced=self._count_replaced(staging, replacement),
            reasons=_counts(staging),
            absent=sum(absent.values()) if self.raw.feed.time_column else None,
            seconds=self._seconds(),
        )

    def _count_replaced(self, staging: Staging, replacement: Replacement) -> int:
        if self._is_past():
            return history.count_rows(self.connection, self.raw, self.day) if self.raw.feed.properties.history else 0
        return replacement.count_rows() + replacement.find_moved([part.table for part in staging.parts])

    def _is_past(self) -> bool:
        """Return whether the files are a snapshot of a day before one that was loaded."""
        return self.raw.feed.time_column is None and not history.is_latest(self.connection, self.raw, self.day)

    def _seconds(self) -> float:
        return round(time.monotonic() - self.started, 3)

    def _too_many_rejected(self, staging: Staging, hint: str) -> FeedError | None:
        """Return the reason to refuse the load if more rows than allowed were rejected."""
        rejected = staging.rejected.total()
        if not rejected or (rejected / staging.read <= self.max_rejected and not staging.is_hopeless):
            return None
        of = "the first " if staging.is_hopeless else ""
        most = f"{QUARANTINE_ROWS:,}" if rejected > QUARANTINE_ROWS else f"{self.max_rejected * 100:g}%"
        reasons: Counter[str] = Counter()
        for reject, count in staging.rejected.items():
            reasons[reject.reason] += count
        allows = "a larger max_rejected"
        if reasons.most_common(1)[0][0] == "unknown_column":
            contract = f"airflow/feeds/{self.raw.feed.name}.yaml"
            allows = f"new_column: ignore, or keep, in the custom property drift of {contract}"
        return TooManyRejected(
            f"{rejected} of {of}{staging.read} rows of {shown(self.source_uri)} were rejected;"
            f" at most {most} are allowed.",
            f"The file is most likely damaged, or its format has changed: {_text(_counts(staging))}.",
            f"{hint}; {allows} allows them.",
        )

    def _empty_replacement(self, result: LoadResult) -> FeedError | None:
        """Return the reason to refuse the load if it would delete rows and load none."""
        if not result.replaced or result.loaded or self.allow_empty:
            return None
        return EmptyReplacement(
            f"The load of {shown(self.source_uri)} would delete {result.replaced} rows and load none"
            f" ({self.interval}).",
            "It is most likely the wrong file or the wrong interval, or the file is incomplete.",
            "Check the file; to delete all rows of the interval, load again with allow_empty.",
        )

    def _refuse(self, load_id: int, staging: Staging, files: Sequence[LoadedFile], refusal: FeedError) -> NoReturn:
        """Commit examples of the rejected rows and the failure, and nothing else of the load; raise REFUSAL."""
        counts = {"read": staging.read, "rejected": staging.rejected.total(), "outside": staging.outside}
        staging.discard()
        ledger.quarantine(self.connection, load_id, limit=EXAMPLES)
        self._close(load_id, files, (refusal, counts))
        self.connection.execute("commit")
        raise refusal


class DuplicateKeys(Exception):  # noqa: N818 - no failure: the load goes on
    """Several rows of the files have the same keys, `keys`."""

    def __init__(self, keys: KnownDuplicates) -> None:
        super().__init__(f"{len(keys)} keys")
        self.keys = keys


def _with_duplicates(step: Callable[[KnownDuplicates], LoadResult]) -> LoadResult:
    """Return the result of STEP; if it finds duplicates, of a second one that knows and rejects them."""
    try:
        return step(KnownDuplicates())
    except DuplicateKeys as found:
        return step(found.keys)


def interval_of(feed: Feed, start: datetime | None, end: datetime | None) -> Interval:
    """Return the interval of a load of FEED: of a snapshot always the whole, of days whole days."""
    if feed.time_column is None:
        return ALWAYS
    interval = Interval(start, end)
    if feed.column(feed.time_column).type != "date":
        return interval
    first, last = (_next_midnight(bound) if bound else None for bound in (start, end))
    if first and first == last:
        raise InvertedInterval(
            f"Invalid interval: no day begins {interval}.",
            f"{feed.time_column} of {feed.name} is a date, which is in an interval if the day begins in it.",
            "Give an interval of whole days.",
        )
    return Interval(first, last)


def _snapshot_day(end: datetime | None) -> date:
    """Return the day of a snapshot whose interval ends at END."""
    return (end - timedelta.resolution if end else datetime.now(UTC)).date()


def _next_midnight(moment: datetime) -> datetime:
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if midnight == moment:
        return midnight
    return midnight + timedelta(days=1) if midnight.date() < date.max else datetime.max.replace(tzinfo=UTC)


def _report(progress: Progress, source: Source, bytes_before: int, rows: int) -> None:
    progress.advance(rows, bytes_before + source.read_bytes)


def _counts(staging: Staging) -> dict[str, int]:
    return {str(reject): count for reject, count in staging.rejected.most_common()}


def _warn(load_id: int, reasons: Mapping[str, int]) -> None:
    logger.warning("load %d: rejected %d rows: %s", load_id, sum(reasons.values()), _text(reasons))


def _warn_of_far_days(feed: Feed, load_id: int, staging: Staging) -> None:
    if days := far_days(staging.rows_by_day):
        logger.warning("load %d: %s", load_id, far_days_text(feed, days))


def _text(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items(), key=lambda item: -item[1]))

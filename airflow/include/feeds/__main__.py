"""Load a feed from a shell, show past loads and rejected rows, load those that have become valid, and serve metrics.

    python -m feeds load FEED [URI] [--start INSTANT] [--end INSTANT] [--dry-run]
    python -m feeds loads [FEED]
    python -m feeds rejects [FEED]
    python -m feeds replay-rejects FEED
    python -m feeds metrics [--address ADDRESS] [--port PORT]

FEED is the name of a contract in airflow/feeds. Without URI it loads the files that <FEED>_URI names, such as
ORDERS_URI for the feed `orders`, or else those that the contract names. EVENTS_DSN names the warehouse, a libpq URL as
the role `loader`, for metrics as `reader`; without it, libpq's variables do (PGHOST, PGUSER, PGPASSWORD …).
"""

import argparse
import contextlib
import io
import logging
import os
import signal
import sys
from collections.abc import Sequence

import psycopg

from feeds.arguments import Parser, share, whole_number
from feeds.connection import connect, foreseen
from feeds.contract import Feed
from feeds.days import valid_times
from feeds.dsn import libpq_dsn, names_a_database
from feeds.errors import FeedError, SettingUnusable
from feeds.interval import Interval
from feeds.ledger import IS_KILLED, LoadResult, printable
from feeds.load import load
from feeds.replayed_rejects import replay
from feeds.settings import find_feed, max_rejected, source_uri
from feeds.tables import create_tables

_ERASE = "\r\x1b[K"  # the present line of the terminal
_TERMINAL_EVERY_S = 0.2
_LINES_EVERY_S = 5.0
_LOADS = f"""
    select
        load_id, feed, case when {IS_KILLED} then 'killed' else status end as status,
        to_char(started_at, 'YYYY-MM-DD HH24:MI:SS') as started_at, round(seconds, 1) as seconds,
        interval_start::text, interval_end::text, rows_read as read, rows_loaded as loaded, rows_rejected as rejected,
        rows_outside as outside, rows_absent as absent, rows_replaced as replaced, same_as_load_id as same_as, run_id,
        source_size_bytes as bytes, left(source_sha256, 12) as sha256, source_uri,
        split_part(failure, E'\\n', 1) as failure
    from raw.loads where %(feed)s::text is null or feed = %(feed)s order by load_id desc limit %(limit)s
"""  # noqa: S608 - constants
_REJECTS = """
    select
        rejected.feed, rejected.load_id, coalesce(regexp_replace(source_uri, '^.*/', ''), file_number::text) as file,
        line_number, reason, column_name as column, raw_text
    from raw.rejected_rows as rejected left join raw.loaded_files using (load_id, file_number)
    where (%(feed)s::text is null or rejected.feed = %(feed)s) and (
        %(load)s::bigint is null
        or load_id = (select coalesce(same_as_load_id, load_id) from raw.loads where load_id = %(load)s)
    )
    order by load_id desc, file_number, line_number limit %(limit)s
"""
_INTERRUPTED = """✗ Interrupted by SIGINT.
  A load that had not ended has changed nothing.
  See how it ended: python -m feeds loads"""

logger = logging.getLogger("feeds")


def main(arguments: Sequence[str]) -> int:
    """Run the command in ARGUMENTS and return the process's exit code."""
    parser = Parser(
        "python -m feeds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    loading = commands.add_parser("load", help="load a feed's files", allow_abbrev=False)
    loading.add_argument("feed", metavar="FEED", help="the name of a contract in airflow/feeds")
    loading.add_argument("uri", metavar="URI", nargs="?", help="the files: a path, a pattern or any fsspec URI")
    loading.add_argument("--start", metavar="INSTANT", help="first instant to load, UTC, e.g. 2020-02-01T09:00:00Z")
    loading.add_argument("--end", metavar="INSTANT", help="first instant after the interval")
    loading.add_argument(
        "--max-rejected",
        type=share,
        metavar="SHARE",
        help="0.01 is 1%%; by default <FEED>_MAX_REJECTED or the contract's",
    )
    loading.add_argument("--allow-empty", action="store_true", help="delete the interval's rows if the files have none")
    loading.add_argument("--force", action="store_true", help="load the files even if nothing has changed")
    loading.add_argument("--dry-run", action="store_true", help="show what a load would do, and change nothing")
    loading.set_defaults(run=_load)
    loads = commands.add_parser("loads", help="show the ledger, latest load first", allow_abbrev=False)
    loads.add_argument("feed", metavar="FEED", nargs="?", help="show only the loads of this feed")
    loads.add_argument(
        "--limit", type=whole_number, default=20, metavar="N", help="how many loads to show; 20 by default"
    )
    loads.set_defaults(run=_show_loads)
    rejects = commands.add_parser("rejects", help="show the rejected rows", allow_abbrev=False)
    rejects.add_argument("feed", metavar="FEED", nargs="?", help="show only the rejected rows of this feed")
    rejects.add_argument("--load", type=whole_number, metavar="ID", help="show only the rejected rows of this load")
    rejects.add_argument(
        "--limit", type=whole_number, default=100, metavar="N", help="how many rows to show; 100 by default"
    )
    rejects.set_defaults(run=_show_rejects)
    text = "load the rejected rows that are valid by the contract as it is now"
    replaying = commands.add_parser("replay-rejects", help=text, allow_abbrev=False)
    replaying.add_argument("feed", metavar="FEED", help="the name of a contract in airflow/feeds")
    replaying.set_defaults(run=_replay_rejects)
    serving = commands.add_parser("metrics", help="serve metrics for Prometheus", allow_abbrev=False)
    serving.add_argument("--address", default="127.0.0.1", help="the address to listen at; 127.0.0.1 by default")
    serving.add_argument("--port", type=whole_number, default=9102, help="the port to listen at; 9102 by default")
    serving.set_defaults(run=_serve_metrics, feed=None)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal without UTF-8 shows other characters escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        options = parser.parse_args(arguments)
        feed = None if options.feed is None else find_feed(options.feed)
        dsn = os.environ.get("EVENTS_DSN")
        if dsn is not None and not names_a_database(libpq_dsn(dsn, "EVENTS_DSN")):
            raise SettingUnusable(
                "EVENTS_DSN is set but names no database.",
                "It is most likely built from variables that are not set; libpq would then choose a database itself.",
                "Name the warehouse in it, or unset it to use libpq's variables (PGHOST, PGUSER …).",
            )
        with foreseen():
            options.run(options, feed, dsn or "")
        sys.stdout.flush()
    except FeedError as error:
        print(f"✗ {error.what}\n  {error.why}\n  {error.next_step}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(_INTERRUPTED, file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # of a pager or `head` that has read enough; Python would fail once more when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return 0


def _load(options: argparse.Namespace, feed: Feed, dsn: str) -> None:
    terminal = sys.stderr.isatty()
    line = f"{_ERASE}%(message)s" if terminal else "%(message)s"
    handler = logging.StreamHandler()
    handler.addFilter(lambda record: record.name.startswith("feeds") or record.levelno >= logging.WARNING)
    logging.basicConfig(level=logging.INFO, format=line, handlers=[handler])
    interval, valid = Interval.parse(options.start, options.end), valid_times(feed)
    uri = source_uri(feed, options.uri)
    most = max_rejected(feed) if options.max_rejected is None else options.max_rejected
    if not options.dry_run:
        create_tables(dsn, feed)
    try:
        result = load(
            feed,
            dsn,
            source_uri=uri,
            start=interval.start,
            end=interval.end,
            valid=valid,
            max_rejected=most,
            allow_empty=options.allow_empty,
            force=options.force,
            dry_run=options.dry_run,
            run_id="shell",
            report=_redraw if terminal else logger.info,
            report_every_s=_TERMINAL_EVERY_S if terminal else _LINES_EVERY_S,
        )
    finally:
        if terminal:
            _redraw("")
    would = "would be " if options.dry_run else ""
    absent = f", {result.absent:,} of these not in raw.{feed.name}" if result.absent else ""
    print(f"{result.read:,} rows read, {result.outside:,} of them outside the interval{absent}")
    print(f"{result.loaded:,} {would}loaded, {result.replaced:,} {would}replaced")
    print(f"{result.rejected:,} {would}rejected{_reasons(result)}")


def _replay_rejects(_options: argparse.Namespace, feed: Feed, dsn: str) -> None:
    valid = valid_times(feed)
    create_tables(dsn, feed)
    result = replay(feed, dsn, valid=valid)
    print(
        f"{result.read:,} rejected rows read, {result.outside:,} of them replaced since or outside the load's interval"
    )
    print(f"{result.loaded:,} loaded")
    print(f"{result.rejected:,} still rejected{_reasons(result)}")


def _serve_metrics(options: argparse.Namespace, _feed: Feed | None, dsn: str) -> None:
    try:
        from feeds.metrics import serve
    except ModuleNotFoundError as error:
        raise SettingUnusable(
            f"This Python has no package {error.name}, which serves the metrics.",
            "It has the packages of a load, and not those of requirements/metrics.txt.",
            "Install these, too, or use that of Airflow: docs/metrics.md",
        ) from None

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        _, thread = serve(dsn, options.address, options.port)
    except OSError as error:
        raise SettingUnusable(
            f"Nothing can listen at {options.address}:{options.port}: {error.strerror}.",
            "Another program has the port, or this machine has not the address.",
            "Name another: --port PORT, --address ADDRESS",
        ) from None
    logger.info("metrics at http://%s:%d/metrics", options.address, options.port)
    with contextlib.suppress(KeyboardInterrupt):
        thread.join()


def _reasons(result: LoadResult) -> str:
    counts = ", ".join(f"{reason} {count:,}" for reason, count in result.reasons.items())
    return f": {counts}" if counts else ""


def _redraw(text: str) -> None:
    """Replace the present line of the terminal by TEXT."""
    sys.stderr.write(_ERASE + text)
    sys.stderr.flush()


def _show_loads(options: argparse.Namespace, _feed: Feed | None, dsn: str) -> None:
    with connect(dsn) as connection:
        _print_table(connection.execute(_LOADS, vars(options)))


def _show_rejects(options: argparse.Namespace, _feed: Feed | None, dsn: str) -> None:
    with connect(dsn) as connection:
        _print_table(connection.execute(_REJECTS, vars(options)))


def _print_table(cursor: psycopg.Cursor) -> None:
    names = [column.name for column in cursor.description or []]
    rows = [["" if value is None else printable(str(value)) for value in row] for row in cursor]
    widths = [max(len(row[number]) for row in [names, *rows]) for number in range(len(names))]
    for row in [names, *rows]:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Make a feed of your own file, check contracts, and load rejected rows that have become valid."""

import argparse
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from feeds.contract import CONTRACTS, FEED_NAME, OWN_TABLES, Feed, contracts, feed_names, read_feed, read_feeds
from feeds.days import valid_times
from feeds.dsn import libpq_dsn
from feeds.errors import ContractInvalid
from feeds.files import find_files
from feeds.replayed_rejects import replay
from feeds.settings import find_feed
from feeds.source import named, open_source
from feeds.tables import create_tables
from feeds.uri import shown
from harness.contracts import new_feed
from harness.contracts.base_contracts import contracts_of
from harness.contracts.contract_changes import Project, breaking, compare, is_major
from harness.contracts.file_layout import FORMATS
from harness.contracts.inference import Guess, guess
from harness.errors import BreakingChangeError, UsageError
from harness.processes.git import base_of_pull_request
from harness.project.paths import ROOT, expanded, from_root
from harness.reporting import console
from harness.reporting.console import say
from harness.reporting.summary import Section

DATA = ROOT / "airflow" / "data"
MODELS = ROOT / "dbt" / "models"
STAGING = MODELS / "staging"
MOST_SHOWN = 30  # columns


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `nox -s feed`."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="COMMAND")
    new = commands.add_parser(
        "new", help="make a feed: its contract, a sample, and a staging model", allow_abbrev=False
    )
    new.add_argument("name", metavar="NAME", help="of the feed and of its table, raw.NAME")
    new.add_argument(
        "--from", dest="source", required=True, metavar="URI", type=named, help="a file of it: a path or any fsspec URI"
    )
    new.add_argument(
        "--key", default="", metavar="COLUMNS", help="the primary key's columns, as in a,b; guessed by default"
    )
    new.set_defaults(run=run_new)
    check = commands.add_parser("check", help="check every contract", allow_abbrev=False)
    check.add_argument(
        "--base",
        metavar="COMMIT",
        default=base_of_pull_request(),
        help="refuse changes since this commit or branch that break readers; on a pull request its base",
    )
    check.set_defaults(run=run_check)
    replayed = commands.add_parser(
        "replay-rejects", help="load the rejected rows that are valid now", allow_abbrev=False
    )
    replayed.add_argument("name", metavar="NAME", help="of the feed; EVENTS_DSN names the warehouse")
    replayed.set_defaults(run=run_replay)


def run_new(parsed: argparse.Namespace, section: Section) -> None:
    """Write the files of a new feed, and say what was guessed."""
    name: str = parsed.name
    if not FEED_NAME.fullmatch(name) or name in OWN_TABLES:
        raise UsageError(
            f"A feed cannot be named {name!r}.",
            "Its name is also that of its table and of its DAGs.",
            "Use at most 30 of a-z, 0-9 and _, a letter first, such as: orders",
        )
    paths = [CONTRACTS / f"{name}.yaml", STAGING / f"stg_{name}.sql", STAGING / f"stg_{name}.yml"]
    taken = [*paths, *(DATA / f"{name}.{suffix}" for suffix in FORMATS), CONTRACTS / f"{name}.yml"]
    if there := [from_root(path) for path in taken if path.exists()]:
        raise UsageError(
            f"{there[0]} is there already.",
            "A feed of this name exists, and its files are not overwritten.",
            f"Use another name, or remove the feed's files first: {shlex.join(['rm', *there])}",
        )
    say(f"… reading {shown(parsed.source)}; a large file takes a minute")
    found = guess(name, parsed.source, [column.strip() for column in parsed.key.split(",") if column.strip()])
    sample = DATA / f"{name}.{found.feed.format}"
    contract, sql, yml = paths
    texts = {
        sql: new_feed.staging_sql(found.feed),
        yml: new_feed.staging_yml(found.feed),
        contract: new_feed.contract(found, from_root(sample)),
    }
    with written_together({sample: sample_of(parsed.source, found), **{p: t.encode() for p, t in texts.items()}}):
        read_feed(contract)  # what was written is valid, or this is a defect
    for path in (*paths, sample):
        say(f"✓ {from_root(path)} written")
    say_guess(parsed.source, found, contract)
    section.headline = f"{name}: {len(found.feed.columns)} columns"


def refuse_expanded(parsed: argparse.Namespace, unknown: Sequence[str]) -> None:
    """Raise UsageError if files are among the UNKNOWN arguments of `new`: a shell has made them of a pattern."""
    if parsed.action != "new" or any(text.startswith("-") for text in unknown):
        return
    files = [text for text in (parsed.name, *unknown) if os.path.isfile(expanded(text))]  # noqa: PTH113 - it never fails
    if files:
        raise UsageError(
            f"--from takes one path or pattern, and {shown(files[0])} is one more file.",
            "The shell has most likely put the files in the place of a pattern.",
            "Put the pattern in quotes, such as: --from 'orders/*.csv'",
        )


def say_guess(uri: str, found: Guess, contract: Path) -> None:
    """Print what was guessed, and what to look at."""
    feed, notes = found.feed, found.notes
    some = "all" if found.is_all else "the first"
    options = [f"{name} {value!r}" for name, value in feed.properties.csv.model_dump(exclude_defaults=True).items()]
    columns = [f"{column.name}: {column.sql_type}" for column in feed.columns[:MOST_SHOWN]]
    columns += [f"{len(feed.columns) - MOST_SHOWN} more"] if len(feed.columns) > MOST_SHOWN else []
    say(f"\nGuessed from {some} {found.rows:,} rows of {shown(uri)}:")
    say(f"  format: {', '.join([FORMATS[feed.format], *options])}")
    say("\n    ".join(["  columns:", *columns]))
    say(f"  key: {', '.join(feed.key)}, {notes['key']}")
    say(f"  kind: {notes['time']}")
    say(f"\nLook at these in {from_root(contract)}:")
    others = {about: note for about, note in notes.items() if about not in ("key", "time")}
    for about, note in (*others.items(), *found.column_notes.items()):
        say(f"  {about}: {note}")
    say("  servers: the path is that of the sample; write there where the feed's files will be")
    say("  the sample has rows of your file, and will be committed: may everybody who reads the repository see them?")
    say("\n  run its pipelines: nox -s e2e -- --target embedded\n  check its contract: nox -s feed -- check")


@contextmanager
def written_together(contents: Mapping[Path, bytes]) -> Iterator[None]:
    """Write CONTENTS by path, none of which is there; if that or the block fails or is interrupted, none is left."""
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        yield
    except BaseException:  # an interrupt too
        for path in contents:
            path.unlink(missing_ok=True)
        raise


def sample_of(uri: str, found: Guess) -> bytes:
    """Return a small file of rows of the files at URI that has all kinds of values."""
    if found.feed.format != "parquet":
        header = [found.header + b"\n"] if found.feed.format == "csv" else []
        return b"".join([*header, *(row for row in found.sample if isinstance(row, bytes))])
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = {number for number in found.sample if isinstance(number, int)}
    batches: list[pa.RecordBatch] = []
    first = 1
    for uri_of_file in find_files(uri):
        with open_source(uri_of_file) as source:
            for batch in pq.ParquetFile(source.whole()).iter_batches():
                numbers = [n for n in range(batch.num_rows) if first + n in wanted]
                if numbers and (not batches or batch.schema.equals(batches[0].schema)):  # a file has one schema
                    batches.append(batch.take(numbers))
                first += batch.num_rows
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_batches(batches), buffer)
    return bytes(buffer.getvalue())


def run_check(parsed: argparse.Namespace, section: Section) -> None:
    """Read every contract, and compare it with that of another commit if one is given."""
    check(parsed.base)
    section.headline = f"{len(feed_names())} contracts"


def check(base: str | None = None) -> None:
    """Read every contract and report all errors; with BASE, a commit, refuse changes since then that break readers.

    Raises:
        ContractInvalid: a contract is not valid.
        BreakingChangeError: a change breaks readers, and the major version is the same.
        HistoryMissingError: there is no commit BASE, or no git.
    """
    feeds, invalid = {}, []
    for path in contracts(CONTRACTS):
        try:
            feed = feeds[path.stem] = read_feed(path)
            say(f"✓ {from_root(path)}: {len(feed.columns)} columns, version {feed.version}")
        except ContractInvalid as error:
            invalid.append(error)
    for one in invalid[:-1]:
        console.error(one.what, one.why, one.next_step)
    if invalid:
        raise invalid[-1]
    read_feeds(CONTRACTS)  # two contracts that exclude one another
    if base:
        refuse_breaking(base, feeds)


def refuse_breaking(base: str, feeds: Mapping[str, Feed]) -> None:
    """List the changes of contracts since the commit BASE to FEEDS; raise BreakingChangeError if one breaks readers."""
    project, broken = Project(MODELS.parent), []
    for name, before in contracts_of(base, CONTRACTS).items():
        after = feeds.get(name)
        if isinstance(before, ContractInvalid):
            say(f"… {name}: its contract in {base} is not valid now, so it is not compared: {before.what}")
        elif after is None:
            readers = project.readers(name)
            say(f"{name}: its contract was removed; {readers}")
            broken += [f"{name} was removed; {readers.short}"] if readers.models else []
        elif changes := compare(before, after):
            breaks = dict(breaking(project, name, changes))
            say(f"{name}: {before.version} → {after.version}")
            for change in changes:
                say(f"  ✗ {change.what}; {breaks[change]}" if change in breaks else f"  · {change.what}")
            if not is_major(before, after):
                broken += [f"{name}: {change.what}; {readers.short}" for change, readers in breaks.items()]
    if broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise BreakingChangeError(
            f"A contract's change since {base} breaks its readers: {broken[0]}{more}.",
            "Readers rely on the columns of the earlier version, and the contract's major version is the same.",
            "Undo it, or change its readers too and raise the first number of the contract's version.",
        )


def run_replay(parsed: argparse.Namespace, section: Section) -> None:
    """Load the rejected rows of a feed that its contract accepts now, in the warehouse that EVENTS_DSN names."""
    feed, dsn = find_feed(parsed.name), libpq_dsn(os.environ.get("EVENTS_DSN", ""), "EVENTS_DSN")
    create_tables(dsn, feed)  # a column that was added to the contract
    result = replay(feed, dsn, valid=valid_times(feed))
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in result.reasons.items())
    section.headline = f"{feed.name}: {result.loaded:,} of {result.read:,} rows loaded"
    say(f"✓ {result.loaded:,} of {result.read:,} rejected rows of {feed.name} loaded")
    say(f"  {result.rejected:,} are still rejected{': ' if reasons else ''}{reasons}")
    say(f"  {result.outside:,} are of times that were not loaded from their file")

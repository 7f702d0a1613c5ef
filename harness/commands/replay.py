"""Play weeks or a year of deliveries and scheduled runs in minutes, and check every number after every run.

Without Airflow, the default, the load and dbt run in this process and beside it, as the tasks run them.
"""

import argparse
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Any

import psycopg

from feeds.contract import Feed, read_feeds
from feeds.interval import ALWAYS
from feeds.uri import shown
from harness.commands.arguments import absolute_uri
from harness.commands.arguments import dsn as valid_dsn
from harness.errors import ChecksFailedError, UsageError
from harness.oracle.file_rows import rows as rows_of_file
from harness.oracle.raw_rows import moment_of
from harness.oracle.row_values import RejectedError, Row, written
from harness.pipeline.feed_files import check_files
from harness.project.paths import BUILD, expanded, from_root
from harness.replay.airflow_player import DAYS, AirflowPlayer, for_airflow
from harness.replay.comparison import Difference, Settled
from harness.replay.making import make_script
from harness.replay.player import Player, open_player
from harness.replay.script import Delivery, Script, Texts, read_script, write_script
from harness.replay.shrinking import shrink
from harness.reporting.console import Phases, say, table
from harness.reporting.summary import Section, code
from harness.reporting.summary import table as markdown_table
from harness.targets.choice import choose
from harness.targets.options import RunOptions
from harness.warehouse.ephemeral import ephemeral_server
from harness.warehouse.roles import create_warehouse, make_passwords

SCRIPT = BUILD / "replay" / "script.yaml"
PLAYED_ON = ("embedded", "kind")
ON_NODES = "file:///opt/airflow/logs/replay"  # on the volume that all of Airflow's pods mount
YEAR = 366  # days
MOST_ROWS = 20_000  # of a user's file: each run reads all of them
SHRINK_TIMEOUT_S = 600.0
SETTLED = ("rows", "proposals", "lead fees", "active professionals")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `nox -s replay`."""
    parser.add_argument("--seed", type=whole_number, default=1, metavar="N", help="of the script (default: 1)")
    parser.add_argument("--days", type=whole_number, default=YEAR, metavar="N", help=f"to play (default: {YEAR})")
    parser.add_argument("--feed", default="events", metavar="NAME", help="the feed to play (default: events)")
    parser.add_argument(
        "--events",
        metavar="PATH_OR_URI",
        type=absolute_uri,
        help="files with rows of the feed; deliveries are invented",
    )
    parser.add_argument("--script", metavar="FILE", type=expanded, help="play this script; no seed makes one")
    parser.add_argument("--target", metavar="TARGET", help=f"play {DAYS} days through Airflow: {', '.join(PLAYED_ON)}")
    parser.add_argument(
        "--postgres", type=valid_dsn, metavar="DSN", help="an administrator's DSN of a PostgreSQL, 14 to 18, to use"
    )
    parser.set_defaults(run=run_command)


def whole_number(text: str) -> int:
    """Return the number in TEXT, 1 or more."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 on")
    return int(text)


def run_command(parsed: argparse.Namespace, section: Section) -> None:
    """Run `nox -s replay`."""
    logging.getLogger("feeds").setLevel(logging.ERROR)  # the script provokes what loads warn of
    feeds = read_feeds()
    if parsed.target:
        play_on_airflow(parsed, feeds, section)
        return
    if parsed.script:
        script = read_script(parsed.script, feeds)
    else:
        feed = playable(parsed.feed, feeds)
        rows = user_rows(feed, parsed.events) if parsed.events else sample_rows(feed)
        script = make_script(feed, parsed.seed, parsed.days, rows)
    feed = playable(script.feed, feeds)
    begin(script, section)
    with ephemeral_server(parsed.postgres) as server:
        if not parsed.postgres:  # nothing of it has to survive a crash, which saves a twentieth of the time
            with psycopg.connect(server.dsn, autocommit=True) as connection:
                connection.execute("alter system set synchronous_commit = off")
                connection.execute("select pg_reload_conf()")
        template = create_warehouse(server, "replay_template", make_passwords())
        with open_player(template, feed, feeds.values()) as player:
            play(player, script, section)


def begin(script: Script, section: Section) -> None:
    """Keep SCRIPT, which is to be played, and say so."""
    write_script(SCRIPT, script)
    section.title = f"replay of {script.title()}"
    say(section.title)


def play_on_airflow(parsed: argparse.Namespace, feeds: dict[str, Feed], section: Section) -> None:
    """Play a script of PARSED options through an Airflow on its target."""
    if parsed.target not in PLAYED_ON:
        raise UsageError(
            f"A replay has no target {shown(parsed.target)!r}.",
            f"It plays through Airflow on: {', '.join(PLAYED_ON)}.",
            "Name one of them, or leave --target out to play without Airflow.",
        )
    if others := [name for name in ("script", "events", "postgres") if getattr(parsed, name)]:
        raise UsageError(
            f"--{others[0]} is for a replay without Airflow.",
            "Through Airflow the days are the last two weeks, and all is made for them.",
            "Leave --target out, or this option.",
        )
    feed = playable(parsed.feed, feeds)
    today = datetime.now(UTC).date()
    script = for_airflow(make_script(feed, parsed.seed, DAYS, last_day=today - timedelta(1)))
    begin(script, section)
    target, _ = choose(parsed.target)
    uri = str(SCRIPT.with_name(f"{feed.name}.csv")) if parsed.target == "embedded" else f"{ON_NODES}/{feed.name}.csv"
    phases = Phases()
    with target.up(RunOptions(target=parsed.target, uris={feed.name: uri}), phases) as deployment:
        player = AirflowPlayer(deployment, feed, uri, lambda line: say(f"  {line}"))
        with phases.phase("days played") as phase:
            try:
                player.play(script)
            except Difference as difference:
                say_difference(difference, script)
                raise different(difference, [code("\n".join(difference.lines))]) from difference
            phase.text = f"{len(player.run_ids)} runs of {DAYS} days: every table right after each delivery"
    say_settled(player.comparison.settled, section)
    section.headline = f"{len(player.run_ids)} runs, every table right after each delivery"


def different(difference: Difference, evidence: Sequence[str]) -> ChecksFailedError:
    """Return the error for DIFFERENCE."""
    return ChecksFailedError(
        str(difference),
        "A change to the load or to a model most likely broke what it does with late, corrected or repeated rows.",
        f"Play the script that shows it without Airflow: nox -s replay -- --script {from_root(SCRIPT)}",
        evidence,
    )


def playable(name: str, feeds: dict[str, Feed]) -> Feed:
    """Return the feed NAME; raise UsageError if there is none, or if its loads have no interval."""
    if name not in feeds:
        raise UsageError(
            f"There is no feed {shown(name)!r}.", f"The feeds are: {', '.join(feeds)}.", "Name one: --feed NAME"
        )
    if feeds[name].time_column is None:
        raise UsageError(
            f"{name} is a snapshot, and a replay plays feeds whose loads have an interval.",
            "Each of its loads replaces the whole table, so its runs do not depend on one another.",
            "Name a feed with a timeColumn: --feed NAME",
        )
    return feeds[name]


def play(player: Player, script: Script, section: Section) -> None:
    """Play SCRIPT and report it; after a difference, write the smallest script that shows it and raise it again."""
    day: date | None = None
    month = ""

    def progress(delivery: Delivery) -> None:
        nonlocal day, month
        if f"{delivery.day:%Y-%m}" != month and month:
            say(f"  {delivery.day}: {player.runs} of {script.runs} runs checked")
        day, month = delivery.day, f"{delivery.day:%Y-%m}"

    player.progress = progress
    try:
        player.play(script)
    except Difference as difference:
        say_difference(difference, script)
        evidence = [code("\n".join(difference.lines)), shrunk(player, script, difference)]
        raise different(difference, evidence) from difference
    except BaseException:  # an interrupt too
        if day:
            say(f"  it ended on the simulated day {day}; its script is {from_root(SCRIPT)}")
        raise
    say_settled(player.settled, section)
    seconds = ", ".join(f"{name} {taken:.0f} s" for name, taken in player.seconds.items())
    section.headline = f"{player.runs} runs, every table right after each"
    say(f"✓ {section.headline} ({seconds})")


def say_difference(difference: Difference, script: Script) -> None:
    """Print where SCRIPT has shown DIFFERENCE."""
    say(f"✗ {script.title()}: {difference.table} after the {difference.run} run of {difference.day}")
    for line in difference.lines:
        say(f"  {line}")
    say("… shrinking the script")


def shrunk(player: Player, script: Script, difference: Difference) -> str:
    """Write the smallest script that shows DIFFERENCE, print it, and return it as Markdown."""
    player.progress = lambda _: None
    until_then = tuple(delivery for delivery in script.deliveries if delivery.day <= difference.day)
    script = script.model_copy(update={"deliveries": until_then})
    smallest, is_smallest = shrink(script, lambda some: shows(player, some, difference), SHRINK_TIMEOUT_S)
    write_script(SCRIPT, smallest)
    text = SCRIPT.read_text(encoding="utf-8")
    say(f"\n{'The smallest' if is_smallest else 'A smaller'} script that shows it, {from_root(SCRIPT)}:\n\n{text}")
    return code(text)


def shows(player: Player, script: Script, difference: Difference) -> bool:
    """Return whether SCRIPT shows a difference in the table of DIFFERENCE."""
    try:
        player.play(script)
    except Difference as other:
        return other.table == difference.table
    return False


def say_settled(settled: Settled, section: Section) -> None:
    """Report how the numbers of the day that changed most often have settled."""
    if not settled:
        return
    day, changes = max(settled.items(), key=lambda item: (len(item[1]), item[0]))
    header = ("after the run", *SETTLED[: len(changes[0][1])])
    rows = [(run, *map(str, numbers)) for run, numbers in changes]
    say(f"\n  how the numbers of {day} settled\n")
    table(header, rows)
    say("")
    section.add(f"How the numbers of {day} settled:", markdown_table(header, rows, numbers=header[1:]))


def sample_rows(feed: Feed) -> list[tuple[date, Texts]] | None:
    """Return the rows of FEED's sample; None for the marketplace's events, which are invented."""
    return None if feed.name == "events" else user_rows(feed, feed.location)


def user_rows(feed: Feed, uri: str) -> list[tuple[date, Texts]]:
    """Return the first valid rows of FEED in the files at URI, each with its day, one for each key.

    Raises:
        UsageError: there is none.
        FeedError: the files cannot be read.
    """
    check_files(feed, uri, ALWAYS)
    found = {tuple(row[name] for name in feed.key): row for row in islice(valid_rows(feed, uri), MOST_ROWS)}
    if not found:
        raise UsageError(
            f"{shown(uri)} has no valid row of {feed.name}.",
            "It is most likely a file of another feed.",
            "See what a valid row is: docs/contracts.md",
        )
    names = [column.name for column in feed.columns]
    days = Counter(day_of(feed, row) for row in found.values())
    say(f"  {len(found):,} rows of {shown(uri)}, {min(days)} to {max(days)}")
    rows = [(day_of(feed, row), tuple(text_of(row[name]) for name in names)) for row in found.values()]
    return sorted(rows, key=lambda item: item[0])


def valid_rows(feed: Feed, uri: str) -> Iterator[Row]:
    """Yield the rows of the files at URI that are valid, rules aside."""
    for row in rows_of_file(feed, uri):
        if not isinstance(row, RejectedError):
            yield row


def day_of(feed: Feed, row: Row) -> date:
    """Return the day of ROW, in UTC."""
    return moment_of(row[str(feed.time_column)]).date()


def text_of(value: Any) -> str | None:
    """Return VALUE as a CSV file has it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (dict, list)):
        return written(value)
    return str(value)

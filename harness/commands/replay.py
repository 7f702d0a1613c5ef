"""Play weeks or a year of deliveries and scheduled runs in minutes, and check every number after every run.

Without Airflow, the default, the load and dbt run in this process and beside it, as the tasks run them.
"""

import argparse
import logging
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial

import psycopg

from feeds.contract import Feed, read_feeds
from feeds.uri import shown
from harness.commands.arguments import absolute_uri
from harness.commands.arguments import dsn as valid_dsn
from harness.errors import ChecksFailedError, UsageError
from harness.oracle.expected_numbers import MARKETPLACE
from harness.pipeline import lineage, run_data
from harness.project.paths import BUILD, expanded, from_root
from harness.replay.airflow_player import DAYS, AirflowPlayer, for_airflow
from harness.replay.comparison import Difference, Settled
from harness.replay.given_rows import user_rows, without_refused
from harness.replay.making import make_script
from harness.replay.player import Player, open_player
from harness.replay.script import Delivery, Script, read_script, write_script
from harness.replay.shrinking import shrink
from harness.reporting.console import say, table
from harness.reporting.report.run import Run
from harness.reporting.report.writing import begin as begin_report
from harness.reporting.report.writing import compare_with_last, keep_figures
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
SHRINK_TIMEOUT_S = 600.0
SETTLED = ("rows", "proposals", "lead fees", "active professionals")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `nox -s replay`."""
    parser.add_argument("--seed", type=whole_number, metavar="N", help="of the script (default: 1)")
    parser.add_argument("--days", type=whole_number, metavar="N", help=f"to play (default: {YEAR})")
    parser.add_argument("--feed", metavar="NAME", help="the feed to play (default: events)")
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
    begin_report(section, section.title)  # before anything can fail
    logging.getLogger("feeds").setLevel(logging.ERROR)  # the script provokes what loads warn of
    feeds = read_feeds()
    if parsed.target:
        play_on_airflow(parsed, feeds, section)
        return
    if parsed.script:
        refuse_with(parsed, "--script", "The script says it.", ("seed", "days", "feed", "events"))
        script = read_script(parsed.script, feeds)
    else:
        feed = playable(parsed.feed or MARKETPLACE, feeds)
        uri = parsed.events or (None if feed.name == MARKETPLACE else feed.location)  # events are invented
        rows = user_rows(feed, uri) if uri else None
        script = make_script(feed, parsed.seed or 1, parsed.days or YEAR, rows)
    feed = playable(script.feed, feeds)
    with ephemeral_server(parsed.postgres) as server:
        if not parsed.postgres:  # nothing of it has to survive a crash, which saves a twentieth of the time
            with psycopg.connect(server.dsn, autocommit=True) as connection:
                connection.execute("alter system set synchronous_commit = off")
                connection.execute("select pg_reload_conf()")
        if not parsed.script:
            with psycopg.connect(server.dsn, autocommit=True) as connection:
                script = without_refused(script, feed, connection)
        report = begin(script, section)
        is_usual = not any((parsed.seed, parsed.days, parsed.events, parsed.script, parsed.postgres))
        if is_usual:
            compare_with_last(report, f"replay-{feed.name}")
        template = create_warehouse(server, "replay_template", make_passwords())
        with open_player(template, feed, feeds.values()) as player, run_data.lineage_kept(report):
            player.look = partial(run_data.add_warehouse, report)
            try:
                play(player, script, section)
            finally:
                report.phases.seconds |= player.seconds
    report.lines = [section.headline]
    if is_usual:
        keep_figures(report, f"replay-{feed.name}", report.phases.figures())


def begin(script: Script, section: Section) -> Run:
    """Keep SCRIPT, which is to be played, say so, and return its report."""
    write_script(SCRIPT, script)
    section.title = f"replay of {script.title()}"
    say(section.title)
    report = begin_report(section, section.title, script=from_root(SCRIPT))
    run_data.add_clone(report)
    return report


def play_on_airflow(parsed: argparse.Namespace, feeds: dict[str, Feed], section: Section) -> None:
    """Play a script of PARSED options through an Airflow on its target."""
    if parsed.target not in PLAYED_ON:
        raise UsageError(
            f"A replay has no target {shown(parsed.target)!r}.",
            f"It plays through Airflow on: {', '.join(PLAYED_ON)}.",
            "Name one of them, or leave --target out to play without Airflow.",
        )
    refuse_with(parsed, "--target", "It plays the last two weeks.", ("script", "events", "days", "postgres"))
    feed = playable(parsed.feed or MARKETPLACE, feeds)
    today = datetime.now(UTC).date()
    script = for_airflow(make_script(feed, parsed.seed or 1, DAYS, last_day=today - timedelta(1)))
    report = begin(script, section)
    lineage.forget()
    target, _ = choose(parsed.target)
    uri = str(SCRIPT.with_name(f"{feed.name}.csv")) if parsed.target == "embedded" else f"{ON_NODES}/{feed.name}.csv"
    with target.up(RunOptions(target=parsed.target, uris={feed.name: uri}), report.phases) as deployment:
        player = AirflowPlayer(deployment, feed, uri, lambda line: say(f"  {line}"))
        with report.phases.phase("days played") as phase:
            try:
                player.play(script)
            except Difference as difference:
                say_difference(difference, script)
                raise different(difference, [code("\n".join(difference.lines))]) from difference
            except BaseException:  # an interrupt too
                say_day(player.day)
                raise
            finally:
                run_data.add_airflow(report, deployment.api)
                run_data.add_warehouse(report, deployment.warehouse, player.comparison.marts)
                # Of the last day, as without Airflow.
                run_data.add_lineage(report, partial(lineage.of_run, deployment.lineage_folders, player.begun))
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


def refuse_with(parsed: argparse.Namespace, option: str, why: str, others: Sequence[str]) -> None:
    """Raise UsageError if one of the options OTHERS was given beside OPTION."""
    if given := [name for name in others if getattr(parsed, name) is not None]:
        raise UsageError(f"--{given[0]} cannot be given with {option}.", why, f"Leave --{given[0]} or {option} out.")


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
        say_day(day)
        raise
    say_settled(player.settled, section)
    seconds = ", ".join(f"{name} {taken:.0f} s" for name, taken in player.seconds.items())
    section.headline = f"{player.runs} runs, every table right after each"
    say(f"✓ {section.headline} ({seconds})")


def say_day(day: date | None) -> None:
    """Print the simulated DAY on which a replay has ended early; None if it had not begun."""
    if day:
        say(f"  it ended on the simulated day {day}; its script is {from_root(SCRIPT)}")


def say_difference(difference: Difference, script: Script) -> None:
    """Print where SCRIPT has shown DIFFERENCE."""
    say(f"✗ {script.title()}: {difference.table} after the {difference.run} run of {difference.day}")
    for line in difference.lines:
        say(f"  {line}")


def shrunk(player: Player, script: Script, difference: Difference) -> str:
    """Write the smallest script that shows DIFFERENCE, print it, and return it as Markdown."""
    say("… shrinking the script")
    player.progress, player.look, player.emits = lambda _: None, lambda *_: None, False
    until_then = tuple(delivery for delivery in script.deliveries if delivery.day <= difference.day)
    script = script.model_copy(update={"deliveries": until_then})

    def still_shows(some: Script) -> bool:
        if not shows(player, some, difference):
            return False
        write_script(SCRIPT, some)  # it stays if somebody interrupts
        return True

    smallest, is_smallest = shrink(script, still_shows, SHRINK_TIMEOUT_S)
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
    rows = [(run, *numbers) for run, numbers in changes]
    say(f"\n  how the numbers of {day} settled\n")
    table(header, rows)
    say("")
    section.add(f"How the numbers of {day} settled:", markdown_table(header, rows, numbers=header[1:]))

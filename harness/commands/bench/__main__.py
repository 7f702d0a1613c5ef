"""Measure the load, dbt and the comparison of tables: what `nox -s bench` does.

Everything runs on one PostgreSQL from the wheel, with its default settings. The figures go to `build/bench/`.
"""

import argparse
import sys
from collections.abc import Sequence

from feeds.errors import FeedError
from harness.commands.bench import dbt, diff, load
from harness.commands.bench.common import REPORT, Figure, machine, report
from harness.commands.interrupts import interrupts_as_errors, raise_interrupts
from harness.errors import ChecksFailedError
from harness.pipeline.run_data import add_clone
from harness.processes.supervisor import Supervisor
from harness.project.paths import ROOT
from harness.reporting import console
from harness.reporting.console import say
from harness.reporting.report.writing import begin, reported
from harness.reporting.summary import Section
from harness.warehouse.server import describe
from harness.warehouse.wheel import binaries, start_from_wheel

EVENTS = 5_000_000
ROUNDS = 3
TITLES = {"load": "The load", "dbt": "dbt", "diff": "The comparison of tables"}


def main(arguments: Sequence[str]) -> int:
    """Measure, print and write the reports; return the process's exit code."""
    parser = argparse.ArgumentParser("nox -s bench --", description=__doc__, allow_abbrev=False)
    parser.add_argument("what", nargs="*", metavar="load|dbt|diff", help="what to measure; all by default")
    parser.add_argument(
        "--events", type=int, default=EVENTS, metavar="N", help=f"events in the file; {EVENTS:,} by default"
    )
    parser.add_argument("--large", type=int, metavar="N", help="events in the large file; ten times as many by default")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, metavar="N", help=f"keep the best of N; {ROUNDS} by default"
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.what) - set(TITLES):
        parser.error(f"{' and '.join(sorted(unknown))}: it measures load, dbt and diff")
    large = load.LARGE_FACTOR * options.events if options.large is None else options.large
    try:
        interrupts = [interrupts_as_errors(["bench", *arguments]) for _ in range(2)]  # as in command_line
        with Section("bench") as section, interrupts[0], reported(section), interrupts[1]:
            run = begin(section, "bench", hardware=machine())
            add_clone(run)
            run.figures_unit = ""
            missed: dict[str, list[Figure]] = {}
            for what in options.what or TITLES:
                with run.phases.phase(what) as phase, Supervisor.launch() as supervisor:
                    phase.went_well = False  # its figures say how it went
                    server = start_from_wheel(supervisor, settings={})
                    say(f"✓ {describe(server)}, default settings; {machine()}")
                    on = (server, supervisor.directory, binaries(supervisor.directory))
                    if what == "load":
                        figures = load.measure(load.LoadBench(*on), options.events, large, options.rounds)
                    elif what == "diff":
                        figures = diff.measure(diff.DiffBench(*on), options.events, options.rounds)
                    else:
                        figures = dbt.measure(dbt.DbtBench(*on), options.events, options.rounds)
                report(what, TITLES[what], figures, options.events, section)
                missed[what] = [figure for figure in figures if figure.reached is False]
            if any(missed.values()) and options.events >= EVENTS:  # fewer show only that it runs
                check(missed)
    except FeedError as error:
        console.error(error.what, error.why, error.next_step)
        return error.exit_code
    return 0


def check(missed: dict[str, list[Figure]]) -> None:
    """Raise ChecksFailedError for the figures, by benchmark, that MISSED their targets; on GitHub only report them.

    GitHub's machines are shared: one slow night says nothing of a change. The summary compares it with the last night.
    """
    all_missed = [figure for figures in missed.values() for figure in figures]
    if console.on_github():
        names = "; ".join(f"{figure.name}: {figure.value:,g} {figure.unit}" for figure in all_missed)
        say(f"::warning title=bench::{len(all_missed)} figures miss their targets, reported and not enforced: {names}")
        return
    reports = ", ".join(str((REPORT / f"{what}.md").relative_to(ROOT)) for what, figures in missed.items() if figures)
    raise ChecksFailedError(
        f"{len(all_missed)} figures miss their targets, the first: {all_missed[0].name}.",
        "The machine is most likely busy with other work, or a change made something slower.",
        f"See {reports}, and run it again on a quiet machine: nox -s bench",
    )


if __name__ == "__main__":
    raise_interrupts()
    sys.exit(main(sys.argv[1:]))

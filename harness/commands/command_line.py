"""Parse `python -m harness COMMAND …`, run the command, and return its exit code."""

import contextlib
import sys
import traceback

from feeds.errors import FeedError
from feeds.uri import without_secrets
from harness.commands import cluster, dbt, diff, e2e, feed, release, replay, takedown
from harness.commands.arguments import Parser, invalid_arguments, shown_command
from harness.commands.common_errors import expected_errors
from harness.commands.empty_values import check_not_empty
from harness.commands.interrupts import interrupts_as_errors
from harness.reporting import console
from harness.reporting.report.writing import reported
from harness.reporting.summary import Section


def parser() -> Parser:
    """Return the parser of all commands; each sets `run`, a function of the parsed arguments and the summary."""
    parser = Parser(prog="nox -s", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (e2e, diff, replay, cluster, feed, release, takedown):
        name = command.__name__.rpartition(".")[2]
        help_line = (command.__doc__ or "").partition("\n")[0]
        subparser = commands.add_parser(name, prog=f"nox -s {name} --", help=help_line, allow_abbrev=False)
        subparser.set_defaults(parser=subparser)
        command.add_options(subparser)
    # dbt gets every argument that is not ours, --help too.
    usage = "nox -s dbt -- [--keep | --reuse | --down | --postgres DSN] [COMMAND OF DBT, ITS OPTIONS]"
    dbt.add_options(commands.add_parser("dbt", usage=usage, add_help=False, allow_abbrev=False))
    return parser


def run(arguments: list[str]) -> int:
    """Run the command that ARGUMENTS name and return the exit code; the step's summary gets its result."""
    section = Section(shown_command(arguments[: 2 if arguments[:1] == ["cluster"] else 1]), cleaned=without_secrets)
    # A takedown is part of another command, which has a section.
    in_summary = contextlib.nullcontext() if arguments[:1] == ["takedown"] else section
    try:
        # A second time around the report: it is written after an interrupt, and one may come while it is written.
        interrupts = [interrupts_as_errors(arguments), interrupts_as_errors(arguments)]
        with in_summary, interrupts[0], reported(section), interrupts[1], expected_errors():
            check_not_empty(arguments)
            parsed, unknown = parser().parse_known_args(arguments)
            if unknown and parsed.command != "dbt":
                if parsed.command == "feed":
                    feed.refuse_expanded(parsed, unknown)
                what = f"nox -s {parsed.command} does not know {shown_command(unknown)}."
                raise invalid_arguments(what + parsed.parser.suggestion(unknown))
            parsed.unknown = unknown
            parsed.run(parsed, section)
    except FeedError as error:
        console.error(error.what, error.why, error.next_step)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - a defect: its traceback is printed as Python does, without secrets
        sys.stderr.write(without_secrets("".join(traceback.format_exception(error))))
        return 1
    return 0

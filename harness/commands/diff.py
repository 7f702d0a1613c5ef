"""Show what the working tree's change does to the data: its marts beside those of a base commit, on the same rows.

Without a base it is the commit where the branch left the default branch.
"""

import argparse

from feeds.contract import read_feeds
from feeds.uri import shown
from harness.commands.arguments import absolute_uri
from harness.commands.arguments import dsn as valid_dsn
from harness.diff.approval import FILE, approved_differences, compare_with_approved
from harness.diff.base import checked_out, find_base
from harness.diff.results import Diff
from harness.diff.run import Options, compare
from harness.diff.sentences import listed
from harness.diff.warehouse_copy import find_source
from harness.diff.writing import JSON, PAGE, say_diff, write_files
from harness.errors import ApprovalError, DbtFailedError, DifferencesError, UsageError
from harness.oracle.expected_numbers import MARKETPLACE
from harness.project.paths import BUILD, ROOT
from harness.project.session_lock import session_lock
from harness.reporting.summary import Section
from harness.warehouse.ephemeral import ephemeral_server

FOLDER = BUILD / "diff"
SHOWN = 8  # names of marts


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `nox -s diff`."""
    parser.add_argument("--base", metavar="REF", help="the commit, branch or tag to compare with")
    parser.add_argument("--events", metavar="PATH_OR_URI", type=absolute_uri, help="the files of the feed events")
    parser.add_argument(
        "--feed", metavar="NAME=URI", type=feed_files, action="append", default=[], help="the files of another feed"
    )
    parser.add_argument(
        "--warehouse-dsn", metavar="DSN", type=valid_dsn, help="compare on a copy of this warehouse, which is only read"
    )
    parser.add_argument("--all", action="store_true", help="build every model, also those that cannot differ")
    parser.add_argument("--strict", action="store_true", help="fail if marts differ and nothing approves it")
    parser.add_argument(
        "--postgres", type=valid_dsn, metavar="DSN", help="an administrator's DSN of a PostgreSQL, 14 to 18, to use"
    )
    parser.set_defaults(run=run_command)


def feed_files(text: str) -> tuple[str, str]:
    """Return the name and the URI in TEXT, `orders=files/*.csv`."""
    name, equals, uri = text.partition("=")
    if not equals or not name or not uri:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not NAME=URI")
    return name, absolute_uri(uri)


def run_command(parsed: argparse.Namespace, section: Section) -> None:
    """Run `nox -s diff`."""
    options = read_options(parsed)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with session_lock(FOLDER / ".lock", "compares in this clone"):
        for name in (PAGE, JSON):  # of the last run, which would be taken for those of one that fails
            (FOLDER / name).unlink(missing_ok=True)
        base = find_base(parsed.base)
        with checked_out(base) as base, ephemeral_server(parsed.postgres) as server:
            approved = approved_differences(ROOT, base.folder)  # an invalid file is said before anything is built
            diff = compare(base, server, options)
            diff.approval = compare_with_approved((each for mart in diff.marts for each in mart.differences), approved)
        write_files(diff, FOLDER, section)
    say_diff(diff, FOLDER)
    if diff.failure:
        raise DbtFailedError(*diff.failure)
    check(diff, strict=parsed.strict)


def read_options(parsed: argparse.Namespace) -> Options:
    """Return the options of `nox -s diff`; raise UsageError for feeds that are not there or given twice."""
    given = [*([(MARKETPLACE, parsed.events)] if parsed.events else []), *parsed.feed]
    if parsed.warehouse_dsn and given:
        raise UsageError(
            "--warehouse-dsn cannot be given with --events or --feed.",
            "The rows are those of the warehouse.",
            "Leave one of them out.",
        )
    names = [name for name, _ in given]
    feeds = read_feeds()
    if unknown := [name for name in names if name not in feeds]:
        raise UsageError(
            f"There is no feed {shown(unknown[0])!r}.",
            f"The feeds are: {', '.join(sorted(feeds))}.",
            "Name one of them, or make it: nox -s feed -- new NAME --from FILE",
        )
    if twice := [name for name in feeds if names.count(name) > 1]:
        raise UsageError(
            f"The files of {twice[0]} are given twice.",
            "--feed events=URI is the same as --events URI, and a pattern may name several files.",
            f"Give them once: --feed {twice[0]}=URI",
        )
    source = find_source(parsed.warehouse_dsn) if parsed.warehouse_dsn else None
    return Options(parsed.events, dict(parsed.feed), source, builds_all=parsed.all)


def check(diff: Diff, *, strict: bool) -> None:
    """Raise ApprovalError if the differences of DIFF are not those approved; DifferencesError for any, if STRICT."""
    page = "They are described in build/diff/index.html."
    if approval := diff.approval:
        wrong = [
            *(f"{each} is not approved" for each in approval.unapproved),
            *(f"{each} is approved, and does not happen" for each in approval.absent),
        ]
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise ApprovalError(
                f"The differences are not those of {FILE}: {wrong[0]}{more}.",
                page,
                f"Change the models until they do what is meant, or the entries of {FILE}.",
            )
        return
    different = [mart.name for mart in diff.marts if mart.differences]
    if strict and different:
        raise DifferencesError(
            f"{listed(different, SHOWN)} {'differs' if len(different) == 1 else 'differ'} from the base, "
            "and --strict is set.",
            page,
            f"If they are meant, name them in {FILE}: docs/diff.md shows how.",
        )

"""The harness's command line: `python -m harness e2e`, `cluster` and `dbt`. Sessions call it; see the noxfile."""

import argparse
import contextlib
import errno
import itertools
import os
import shlex
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psycopg

from events.errors import EventsError
from events.source import check_source
from events.uri import shown, without_secrets
from harness import targets
from harness.ci import release as publishing
from harness.commands import cluster, dbt, e2e
from harness.errors import DatabaseGoneError, DiskFullError, HarnessError, LeftBehindError, UsageError
from harness.processes.orphans import abandoned, kept, remove_orphans
from harness.processes.supervisor import ANSWER_TIMEOUT_S
from harness.project.paths import BUILD
from harness.reporting import console
from harness.reporting.summary import Section, table
from harness.warehouse.given import dsn_parts

PARENT_POLL_INTERVAL_S = 1.0
# Where one of these is empty, another place is meant than the one that a script would have named.
PLACES = (
    "DBT_TARGET",
    "EVENTS_URI",
    *(f"WAREHOUSE_{what}" for what in ("HOST", "PORT", "DATABASE", "USER", "SCHEMA", "READER")),
)


def main(arguments: list[str]) -> int:
    """Run the command that ARGUMENTS name and return the process's exit code; tell the step's summary how it ended."""
    parser = Parser(prog="nox -s", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    add_e2e(commands.add_parser("e2e", prog="nox -s e2e --", help="run the pipelines end to end", allow_abbrev=False))
    add_cluster(commands.add_parser("cluster", prog="nox -s cluster --", allow_abbrev=False))
    takedown = commands.add_parser("takedown", prog="python -m harness takedown", help="for a run's supervisor alone")
    takedown.add_argument("target")
    takedown.set_defaults(run=lambda options, *_: cluster.take_down_after_run(options.target))
    add_release(commands.add_parser("release", prog="nox -s release --", allow_abbrev=False))
    # What it does not know is dbt's, --help too.
    add_dbt(commands.add_parser("dbt", prog="nox -s dbt --", add_help=False, allow_abbrev=False))
    raise_interrupts()
    os.environ.setdefault("KUBECACHEDIR", str(BUILD / "kube-cache"))  # else kubectl and helm write to the user's own
    section = Section(shown_command(arguments[: 2 if arguments[:1] == ["cluster"] else 1]), cleaned=without_secrets)
    # A run's takedown is no session of its own: the run itself tells of it.
    told = contextlib.nullcontext(section) if arguments[:1] == ["takedown"] else section
    try:
        with told, translated_interrupts(arguments), translated_errors():
            check_not_empty(arguments)
            options, rest = parser.parse_known_args(arguments)
            options.run(options, rest, section)
    except EventsError as error:
        console.error(error.what, error.why, error.next_step)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - a defect: shown as Python would, but for secrets
        sys.stderr.write(without_secrets("".join(traceback.format_exception(error))))
        return 1
    return 0


def check_not_empty(arguments: list[str]) -> None:
    """Raise UsageError where a script has left an option or a variable empty: what it names would be all, or another's.

    Of dbt's own arguments, too: without a selection it builds every model.
    """
    for before, argument in itertools.pairwise(["", *arguments]):
        option, is_value, value = argument.partition("=") if argument.startswith("--") else (before, True, argument)
        if is_value and not value.strip():
            raise empty(shown(option) if option.startswith("-") else "An argument")
    for name in PLACES:
        if not os.environ.get(name, name).strip():
            raise empty(name)


def empty(name: str) -> UsageError:
    """Return the error for the option or variable NAME that is empty."""
    return UsageError(
        f"{name} is empty.",
        "A script most likely takes it from a variable that is not set.",
        "Give it a value, or leave it out to get what the README says for it.",
    )


def shown_command(arguments: Iterable[str]) -> str:
    """Return ARGUMENTS as a shell has them, without secrets."""
    return shlex.join(map(shown, arguments))


@contextlib.contextmanager
def translated_interrupts(arguments: list[str]) -> Iterator[None]:
    """Raise an interrupt, which everything inside has heeded by then, as a foreseen error; ARGUMENTS are to repeat."""
    try:
        yield
    except Interrupted as interrupt:
        name = signal.Signals(interrupt.number).name
        what_is_up, next_step = "What was up is taken down; what is not is named above.", f"nox -s {arguments[0]}"
        if arguments[0] == "cluster" or {"--reuse", "--keep"} & set(arguments):
            what_is_up = "What is named above stays as it is; a cluster that was up before is up."
            next_step = f"nox -s {arguments[0]} -- {shown_command(arguments[1:])}"
        error = HarnessError(f"Interrupted by {name}.", what_is_up, f"Run it again: {next_step}")
        error.exit_code = 128 + interrupt.number
        raise error from None


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Raise what anything may run into, a full disk and a PostgreSQL that is gone, as foreseen errors."""
    try:
        yield
    except (OSError, psycopg.errors.DiskFull) as error:
        if isinstance(error, OSError) and error.errno != errno.ENOSPC:
            raise
        raise DiskFullError(
            f"The disk is full: {without_secrets(str(error).splitlines()[0])}",
            f"The run's files go to {tempfile.gettempdir()}, diagnostics and documentation to build/.",
            "Free some room, or point TMPDIR at a directory that has it.",
        ) from error
    except psycopg.OperationalError as error:
        raise DatabaseGoneError(
            f"The connection to PostgreSQL broke: {without_secrets(str(error).strip().splitlines()[0])}",
            "PostgreSQL ended, or somebody ended the connection.",
            "Run it again; if it happens again, see whether memory is short (dmesg).",
        ) from error


def add_e2e(parser: argparse.ArgumentParser) -> None:
    """Add the options of `nox -s e2e`."""
    default = e2e.Options()
    parser.add_argument("--target", default=default.target, help=f"one of {', '.join(targets.NAMES)}")
    add_deployment(parser)
    parser.add_argument("--start", metavar="INSTANT", help="load only from here on, 2020-02-01T09:00:00Z say")
    parser.add_argument("--end", metavar="INSTANT", help="load only up to here, and without it")
    parser.add_argument("--reuse", action="store_true", help="use the cluster that is up, and leave it up")
    parser.add_argument("--keep", action="store_true", help="leave it up and say how to reach it")
    parser.add_argument("--down", action="store_true", help="take down what --keep left up, and nothing else")
    parser.set_defaults(run=run_e2e)


def add_deployment(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is deployed, and where."""
    default = e2e.Options()
    events = os.environ.get("EVENTS_URI", default.events)  # a URI with a secret in it is for nobody to see
    parser.add_argument("--events", default=events, metavar="PATH_OR_URI", help="your own events file; or EVENTS_URI")
    parser.add_argument("--max-rejected", type=share, default=default.max_rejected, metavar="SHARE", help="0.01 is 1%%")
    parser.add_argument("--ui-port", type=port, metavar="PORT", help="for Airflow's UI; a free one by default")
    parser.add_argument("--namespace", metavar="NAME", help="target context: the namespace to use")
    parser.add_argument("--registry", metavar="PREFIX", help="target context: where to push the images to")
    parser.add_argument(
        "--warehouse-dsn", type=dsn, metavar="DSN", help="target context: an administrator's DSN of a PostgreSQL 18"
    )
    parser.add_argument("--storage-class", metavar="NAME", help="target context: of the volume for task logs")
    parser.add_argument(
        "--values", type=absolute_file, metavar="FILE", help="clusters: values for the chart, over the project's own"
    )


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add the commands of `nox -s cluster`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="up|status|ui|logs|down")
    for name in ("up", "status", "ui", "logs", "down"):
        action = actions.add_parser(name, prog=f"nox -s cluster -- {name}", allow_abbrev=False)
        action.add_argument("--target", default="kind", help="kind (the default), minikube or context")
        add_deployment(action)
        if name == "up":
            action.add_argument("--recreate", action="store_true", help="take down what is there first")
        if name == "logs":
            action.add_argument("names", nargs="*", metavar="COMPONENT | DAG_ID TASK_ID")
        if name == "down":
            action.add_argument("--images", action="store_true", help="remove the images that were built, too")
    parser.set_defaults(run=run_cluster)


def run_cluster(options: argparse.Namespace, rest: list[str], section: Section) -> None:
    """Run `nox -s cluster`."""
    if rest:
        raise usage_error(f"nox -s cluster does not know {shown_command(rest)}.")
    if options.target not in targets.CLUSTERS:
        raise usage_error(f"{shown(options.target)!r} is no cluster: there are {', '.join(targets.CLUSTERS)}.")
    settings = e2e.settings(options, e2e.absolute(options.events))
    match options.action:
        case "up":
            check_source(settings.events_uri)
            cluster.up(options.target, settings, section, recreate=options.recreate)
        case "status":
            cluster.status(options.target, settings)
        case "ui":
            cluster.ui(options.target, settings)
        case "logs":
            cluster.logs(options.target, settings, options.names)
        case "down":
            cluster.down(options.target, settings, also_images=options.images)


def run_e2e(options: argparse.Namespace, rest: list[str], section: Section) -> None:
    """Run `nox -s e2e`."""
    if rest:
        raise usage_error(f"nox -s e2e does not know {shown_command(rest)}.")
    if options.down:
        take_down_kept()
        return
    asked_for = vars(options)
    e2e.run(e2e.Options(**{field.name: asked_for[field.name] for field in fields(e2e.Options)}), section)


def take_down_kept() -> None:
    """Take down each run of this clone that --keep left up, and remove those whose supervisor was killed."""
    for directory in remove_orphans():
        console.say(f"✓ {directory.name}, whose supervisor was killed, taken down")
    runs = kept()
    for run in runs:
        if not run.take_down(ANSWER_TIMEOUT_S):
            raise LeftBehindError(
                f"{run.directory} could not be taken down within {ANSWER_TIMEOUT_S:.0f} s.",
                f"Its supervisor, process {run.pid}, is stuck or stopped, or runs in another container.",
                f"Kill it and the processes below it, and remove the directory: kill -9 {run.pid}",
            )
        console.say(f"✓ {run.directory.name} taken down")
    if not runs:
        console.say(f"no run of this clone is up in {tempfile.gettempdir()}; a cluster: nox -s cluster -- down")
    for run in abandoned():
        owner = f"the clone {run.clone}, which no longer exists" if run.clone else "an older version"
        console.say(f"… {run.directory.name} stays up: it belongs to {owner}. Take it down: kill {run.pid}")


def add_release(parser: argparse.ArgumentParser) -> None:
    """Add the options of `nox -s release`."""
    parser.add_argument("--tag", help="the release's; that of the version by default")
    parser.add_argument("--check", action="store_true", help="check tag and CHANGELOG.md, and make nothing")
    parser.add_argument("--push", metavar="REGISTRY", help="build both images and push them below this name")
    parser.add_argument("--source", default="", metavar="URL", help="the repository's address, for the images' labels")
    parser.set_defaults(run=run_release)


def run_release(options: argparse.Namespace, rest: list[str], section: Section) -> None:
    """Run `nox -s release`."""
    if rest:
        raise usage_error(f"nox -s release does not know {shown_command(rest)}.")
    tag = options.tag or f"v{publishing.version()}"
    if options.check:
        publishing.check(tag)
        console.say(f"✓ {tag} is the version's tag, and CHANGELOG.md has its entry")
    else:
        section.add(table(("made", "size"), publishing.run(tag, options.push, shown(options.source))))


def add_dbt(parser: argparse.ArgumentParser) -> None:
    """Add the options of `nox -s dbt`; the rest goes to dbt."""
    parser.add_argument("--postgres", type=dsn, metavar="DSN", help="an administrator's DSN of a PostgreSQL 18 to use")
    parser.add_argument("--keep", action="store_true", help="leave the ephemeral warehouse up and print its DSN")
    parser.add_argument("--down", action="store_true", help="take down what --keep left up, and nothing else")
    parser.set_defaults(run=run_dbt)


def run_dbt(options: argparse.Namespace, rest: list[str], section: Section) -> None:
    """Run `nox -s dbt`."""
    if options.down:
        take_down_kept()
    else:
        dbt.run(rest, options.postgres, section, keep=options.keep)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are foreseen ones: three lines."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with MESSAGE."""
        raise usage_error(without_secrets(message).removeprefix("argument ").rstrip(".") + ".")


def usage_error(what: str) -> UsageError:
    """Return the error for a command line that makes no sense."""
    return UsageError(what, "The option or its value is most likely misspelt.", "The README lists what there is.")


def share(text: str) -> float:
    """Return the share, 0 to 1, that TEXT says."""
    if not 0 <= (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share from 0 to 1")
    return value


def dsn(text: str) -> str:
    """Return the DSN TEXT; of one that makes no sense nothing is shown, since it may be the password."""
    if not dsn_parts(text):
        raise argparse.ArgumentTypeError("is no DSN; in a password, @ is %40, / is %2F, or give it in PGPASSWORD")
    return text


def absolute_file(text: str) -> str:
    """Return the absolute path of the file TEXT."""
    if not Path(text).expanduser().is_file():
        raise argparse.ArgumentTypeError(f"{text} is no file")
    return str(Path(text).expanduser().absolute())


def port(text: str) -> int:
    """Return the port that TEXT says."""
    if not 1 <= (value := int(text)) <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port from 1 to 65535")
    return value


class Interrupted(BaseException):
    """The process was told to end. Not an Exception: nothing but `main` handles it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def raise_interrupts() -> None:
    """Have Interrupted raised, once, at the first signal to end or when nox is gone; the takedown is not disturbed."""
    interrupted = threading.Event()

    def interrupt(number: int, _frame: FrameType | None) -> None:
        if not interrupted.is_set():  # and nothing is said here: it may have interrupted just that
            interrupted.set()
            raise Interrupted(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    parent = int(os.environ.get("NOX_PID", os.getppid()))
    threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()


def _watch_parent(parent: int) -> None:
    """Interrupt this process when nox, its parent, is killed and cannot do so."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_INTERVAL_S)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The harness's command line: `python -m harness e2e`, `python -m harness dbt`. Sessions call it; see the noxfile."""

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

import psutil

from events.errors import EventsError
from harness import console, dbt, e2e
from harness.errors import UsageError
from harness.supervisor import TAKEDOWN_TIMEOUT_S, kept

PARENT_POLL_INTERVAL_S = 1.0


def main(arguments: list[str]) -> int:
    """Run the command that ARGUMENTS name and return the process's exit code."""
    parser = Parser(prog="nox -s", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    add_e2e(commands.add_parser("e2e", prog="nox -s e2e --", help="run the pipelines end to end", allow_abbrev=False))
    add_dbt(commands.add_parser("dbt", prog="nox -s dbt --", help="run dbt on the sample", allow_abbrev=False))
    with interruptible():
        try:
            options, rest = parser.parse_known_args(arguments)
            options.run(options, rest)
        except EventsError as error:
            console.error(error.what, error.why, error.next_step)
            return error.exit_code
        except Interrupted as interrupt:
            console.say(f"✗ interrupted ({signal.Signals(interrupt.number).name})")
            return 128 + interrupt.number
    return 0


def add_e2e(parser: argparse.ArgumentParser) -> None:
    """Add the options of `nox -s e2e`."""
    default = e2e.Options()
    parser.add_argument("--target", default=default.target, help="auto (the default) or embedded")
    parser.add_argument("--events", default=default.events, metavar="PATH_OR_URI", help="your own events file")
    parser.add_argument("--max-rejected", type=share, default=default.max_rejected, metavar="SHARE", help="0.01 is 1%%")
    parser.add_argument("--ui-port", type=port, metavar="PORT", help="for Airflow's UI; a free one by default")
    parser.add_argument("--keep", action="store_true", help="leave it up and say how to reach it")
    parser.add_argument("--down", action="store_true", help="take down what --keep left up, and nothing else")
    parser.set_defaults(run=run_e2e)


def run_e2e(options: argparse.Namespace, rest: list[str]) -> None:
    """Run `nox -s e2e`."""
    if rest:
        raise usage_error(f"nox -s e2e does not know {' '.join(rest)}.")
    if options.down:
        take_down_kept()
        return
    e2e.run(e2e.Options(options.target, options.events, options.max_rejected, options.keep, options.ui_port))


def take_down_kept() -> None:
    """Take down every run that --keep left up."""
    runs = kept()
    for process_id, directory in runs:
        process = psutil.Process(process_id)
        process.terminate()
        process.wait(TAKEDOWN_TIMEOUT_S)
        console.say(f"✓ {directory.name} taken down")
    if not runs:
        console.say("nothing was left up")


def add_dbt(parser: argparse.ArgumentParser) -> None:
    """Add the options of `nox -s dbt`; the rest goes to dbt."""
    parser.add_argument("--postgres", metavar="DSN", help="an administrator's DSN of a PostgreSQL 18 to use")
    parser.set_defaults(run=lambda options, rest: dbt.run(rest, options.postgres))


class Parser(argparse.ArgumentParser):
    """A parser whose errors are foreseen ones: three lines."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with MESSAGE."""
        raise usage_error(message.removeprefix("argument ").rstrip(".") + ".")


def usage_error(what: str) -> UsageError:
    """Return the error for a command line that makes no sense."""
    return UsageError(
        what, "The option or its value is most likely misspelt.", "See what there is: nox -s e2e -- --help"
    )


def share(text: str) -> float:
    """Return the share, 0 to 1, that TEXT says."""
    if not 0 <= (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share from 0 to 1")
    return value


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


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise Interrupted once, at the first signal to end or when the parent is gone; then take down undisturbed."""
    interrupted = threading.Event()

    def interrupt(number: int, _frame: FrameType | None) -> None:
        if interrupted.is_set():
            return
        interrupted.set()
        console.say("… interrupted; taking everything down")
        raise Interrupted(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()
    yield


def _watch_parent(parent: int) -> None:
    """Interrupt this process when nox, its parent, is killed and cannot do so."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_INTERVAL_S)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

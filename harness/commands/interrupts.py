"""Turn the signals that end a program into an expected error, after everything was taken down."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from harness.commands.arguments import shown_command
from harness.errors import HarnessError

PARENT_POLL_INTERVAL_S = 1.0
REPEATED_AFTER_S = 0.05


class Interrupted(BaseException):
    """The process received a signal to end. It has the signal's number, and whether nox still ran.

    Only `interrupts_as_errors` handles it.
    """


def raise_interrupts() -> None:
    """Raise Interrupted at the first signal to end, or when nox is gone; later ones do not disturb the takedown."""
    interrupted = threading.Event()

    def interrupt(number: int, _frame: FrameType | None) -> None:
        if not interrupted.is_set():  # nothing may be printed here: the signal may have interrupted a print
            interrupted.set()
            raise Interrupted(number, os.getppid() == parent)

    def repeat(lost: "sys.UnraisableHookArgs") -> None:
        """Repeat a signal that came while Python called a finalizer or the like, where an exception ends nothing."""
        if not isinstance(lost.exc_value, Interrupted):
            sys.__unraisablehook__(lost)
            return
        interrupted.clear()
        repeated = threading.Timer(REPEATED_AFTER_S, os.kill, (os.getpid(), lost.exc_value.args[0]))
        repeated.daemon = True
        repeated.start()

    parent = int(os.environ.get("NOX_PID", os.getppid()))
    sys.unraisablehook = repeat
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()


def _watch_parent(parent: int) -> None:
    """Interrupt this process when nox, its parent, was killed and could not do so itself."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_INTERVAL_S)
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def interrupts_as_errors(arguments: list[str]) -> Iterator[None]:
    """Raise HarnessError for Interrupted; its next step repeats the command ARGUMENTS."""
    try:
        yield
    except Interrupted as interrupt:
        number, nox_runs = interrupt.args
        why = "Everything was taken down, unless it is named above."
        if arguments[0] == "cluster" or {"--reuse", "--keep"} & set(arguments):
            why = "A cluster that was up, or partly up, stays; everything else was taken down."
        options = f" -- {shown_command(arguments[1:])}" if arguments[1:] else ""
        raise HarnessError(
            f"Interrupted by {signal.Signals(number).name}." if nox_runs else "nox, which ran this, was killed.",
            why,
            f"Run it again: nox -s {arguments[0]}{options}",
            exit_code=128 + number,
        ) from None

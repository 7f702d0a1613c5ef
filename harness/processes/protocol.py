"""The messages between the harness and a run's supervisor: one JSON object a line, each request answered by one.

The supervisor sends two answers without a request: `Ready` or `Failed` when it starts, `TakenDown` when it ends.
"""

import json
import signal
from dataclasses import asdict, dataclass, field
from typing import get_args

STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Command:
    """A process to start, and how to stop it.

    Attributes:
        name: unique in the run.
        argv: the argument list; nothing secret, other users see it in the list of processes.
        env: its whole environment; secrets may be in here.
        log: the file that both its output streams are appended to.
        stage: higher stages are stopped first.
        stop_timeout_s: how many seconds after its stop signal it is killed.
        user: user and group id to run as; None for those of the harness.
    """

    name: str
    argv: list[str]
    env: dict[str, str] = field(repr=False)
    log: str
    cwd: str
    stage: int = 0
    stop_signal: int = signal.SIGTERM
    stop_timeout_s: float = STOP_TIMEOUT_S
    user: tuple[int, int] | None = None


@dataclass(frozen=True)
class Start:
    """Start a process; answered by `Done` or `Failed`."""

    command: Command


@dataclass(frozen=True)
class Poll:
    """Get the exit code of a process; answered by `ExitCode`."""

    name: str


@dataclass(frozen=True)
class Stop:
    """Send a process its stop signal."""

    name: str


@dataclass(frozen=True)
class AtEnd:
    """Run a command at the takedown, after all processes have ended; kill it after the timeout."""

    command: Command
    timeout_s: float


@dataclass(frozen=True)
class CancelAtEnd:
    """Forget every `AtEnd` so far."""


@dataclass(frozen=True)
class Keep:
    """Stay up when the harness ends, until SIGTERM."""


@dataclass(frozen=True)
class Ready:
    """The run's directory is made."""

    directory: str


@dataclass(frozen=True)
class Done:
    """The request was carried out."""


@dataclass(frozen=True)
class Failed:
    """The request was not carried out; `error` is the system's message."""

    error: str


@dataclass(frozen=True)
class ExitCode:
    """The exit code of a process; None while it runs."""

    code: int | None


@dataclass(frozen=True)
class TakenDown:
    """Everything is taken down, except what `left_behind` lists, one line each."""

    left_behind: list[str]


Request = Start | Poll | Stop | AtEnd | CancelAtEnd | Keep
Answer = Ready | Done | Failed | ExitCode | TakenDown
_KINDS = {kind.__name__: kind for kind in get_args(Request | Answer)}


def encode(message: Request | Answer) -> str:
    """Return MESSAGE as a line."""
    return json.dumps({"kind": type(message).__name__, **asdict(message)}) + "\n"


def decode(line: str | bytes) -> Request | Answer:
    """Return the message in LINE."""
    fields = json.loads(line)
    kind = _KINDS[fields.pop("kind")]
    if "command" in fields:
        fields["command"] = Command(**fields["command"])
    message: Request | Answer = kind(**fields)
    return message

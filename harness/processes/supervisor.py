"""Start a run's processes, and take everything down however the run ends.

A run's processes are children of a *supervisor*, a small process in its own session that the harness talks to over a
pipe. Everything is taken down when that pipe closes: the harness has finished, failed, or was interrupted or killed.
The supervisor then stops the processes stage by stage, kills what remains below it, runs the commands of `at_end`, and
removes the run's directory. On Linux it is a subreaper: daemons that its processes start stay below it and are found.
When the supervisor itself is killed, the kernel sends its processes their stop signal, and the clone's next run kills
the rest and removes the directory (`harness.processes.orphans`).

    with Supervisor.launch() as supervisor:
        supervisor.run("initdb", [...])                     # to its end
        supervisor.start("postgres", [...], stage=0)        # a service; higher stages are stopped first

After `keep()` the processes outlive the harness, until the supervisor gets SIGTERM.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness.errors import CommandFailedError, DiskFullError, ServiceFailedError
from harness.processes import protocol
from harness.processes.failures import how_ended, service_ended, service_failed
from harness.processes.orphans import remove_orphans
from harness.processes.protocol import Answer, Command, Request, decode, encode

MODULE = "harness.processes.supervisor_process"
ANSWER_TIMEOUT_S = 60.0  # for an answer, the one after the takedown included
POLL_INTERVAL_S = 0.02


class Supervisor:
    """The harness's end of the pipe. Use `launch()` as a context manager; leaving it takes everything down.

    Attributes:
        directory: the run's directory, removed at the takedown.
        left_behind: after the takedown, a line for each thing that could not be taken down.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._pipe = threading.Lock()  # one request and its answer at a time
        self.directory = Path()
        self.left_behind: list[str] = []
        self.kept = False
        self._closing = False
        self._ended = False
        self._answer_timeout_s = ANSWER_TIMEOUT_S
        self._counts: dict[str, int] = {}
        self._at_end: list[str] = []

    @classmethod
    def launch(cls, hold: Sequence[int] = ()) -> Self:
        """Start a supervisor, which makes the run's directory in the system's temporary directory.

        It keeps the files of the descriptors HOLD open, and their locks with them, until everything is taken down.
        Raises DiskFullError if the directory cannot be made.
        """
        remove_orphans()
        process = subprocess.Popen(
            [sys.executable, "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C at the terminal is for the harness alone
            cwd="/",
            pass_fds=hold,
            env=os.environ | {"TMPDIR": tempfile.gettempdir()},
        )
        supervisor = cls(process)
        answer = supervisor._receive()
        if isinstance(answer, protocol.Failed):
            process.wait()
            raise DiskFullError(
                f"No directory can be created under {tempfile.gettempdir()}: {answer.error}.",
                "The disk is most likely full, or the directory is not writable.",
                "Free some disk space, or set TMPDIR to a directory with 2 GB free, and try again.",
            )
        assert isinstance(answer, protocol.Ready)
        supervisor.directory = Path(answer.directory)
        return supervisor

    def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        stage: int = 1,
        stop_signal: signal.Signals = signal.SIGTERM,
        stop_timeout_s: float = protocol.STOP_TIMEOUT_S,
        user: tuple[int, int] | None = None,
    ) -> Path:
        """Start a process and return its log's path; see `Command`. Raises ServiceFailedError if it does not start."""
        log, cwd = self._log(name), cwd or self.directory
        command = Command(
            name, list(map(str, argv)), dict(env), str(log), str(cwd), stage, int(stop_signal), stop_timeout_s, user
        )
        answer = self._ask(protocol.Start(command))
        if isinstance(answer, protocol.Failed):
            raise ServiceFailedError(
                f"{name} could not be started: {answer.error}.",
                "Its program is most likely missing, or the disk is full.",
                "Install the environments again: delete .nox and repeat the command.",
            )
        return log

    def returncode(self, name: str) -> int | None:
        """Return the exit code of the process NAME, or None while it runs."""
        answer = self._ask(protocol.Poll(name))
        assert isinstance(answer, protocol.ExitCode)
        return answer.code

    def run(self, name: str, argv: Sequence[str | Path], *, timeout_s: float, **options: Any) -> Path:
        """Run a process, as `start` does, to its end; return its log's path, or raise ServiceFailedError."""
        log = self.start(name, argv, **options)
        code = self._wait(name, timeout_s)
        if code is None:
            raise service_failed(name, log, f"did not end within {timeout_s:.0f} s")
        if code:
            raise service_ended(name, log, code)
        return log

    def command(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        watch: Callable[[], None] = lambda: None,
    ) -> str:
        """Run a program to its end, but not longer than the harness lives, and return its output, both streams.

        NAME, in the run's logs, may be used again; the other arguments are those of `harness.processes.command.run`.
        WATCH is called repeatedly while the program runs; what it raises ends the waiting. Raises CommandFailedError.
        """
        count = self._counts[name] = self._counts.get(name, 0) + 1
        name = f"{name}-{count}" if count > 1 else name
        log = self.start(name, argv, env=os.environ | dict(env or {}), cwd=Path.cwd())
        code = self._wait(name, timeout_s, watch)
        if code is None:
            self.stop(name)
        output = log.read_text(errors="replace")
        if code != 0:
            how = f"did not end within {timeout_s:.0f} s" if code is None else how_ended(code)
            raise CommandFailedError(list(map(str, argv)), how, output)
        return output

    def stop(self, name: str) -> None:
        """Send a process its stop signal, if it still runs."""
        self._ask(protocol.Stop(name))

    def at_end(self, name: str, argv: Sequence[str | Path], env: Mapping[str, str], timeout_s: float) -> None:
        """Have a command run at the takedown, after every process has ended: it removes what is not a process.

        ENV are variables on top of the harness's environment. After TIMEOUT_S seconds it is killed, and has failed.
        """
        # Without NOX_PID: nox may have ended by then, and a harness whose nox has ended stops.
        environment = {name: value for name, value in os.environ.items() if name != "NOX_PID"} | dict(env)
        command = Command(name, list(map(str, argv)), environment, str(self._log(name)), str(Path.cwd()))
        self._answer_timeout_s += timeout_s
        self._at_end.append(name)
        self._ask(protocol.AtEnd(command, timeout_s))

    def cancel_at_end(self) -> None:
        """Do not run the commands of `at_end`."""
        self._at_end.clear()
        self._ask(protocol.CancelAtEnd())

    def keep(self) -> None:
        """Let everything outlive the harness; `harness.processes.orphans.kept` finds it again."""
        self.kept = True  # first: an interrupt in the next line must not wait for a takedown
        self._ask(protocol.Keep())

    def close(self) -> None:
        """Take everything down, wait for it, and set `left_behind`; called again after an interrupt, go on waiting."""
        if self.kept or self._ended:
            return
        assert self._process.stdin is not None
        with self._pipe, contextlib.suppress(BrokenPipeError):  # the supervisor is gone: `_receive` raises
            self._closing = True
            self._process.stdin.close()
        try:
            while not isinstance(answer := self._receive(), protocol.TakenDown):
                pass  # the answer to a request that was interrupted
            self._process.wait(self._answer_timeout_s)
            self.left_behind = answer.left_behind
        except (ServiceFailedError, subprocess.TimeoutExpired):
            self.left_behind = [
                f"the run's directory {self.directory}, and perhaps processes: its supervisor was killed",
                *(f"everything that `{name}` should have removed" for name in self._at_end),
            ]
        self._ended = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _log(self, name: str) -> Path:
        return self.directory / "logs" / f"{name}.log"

    def _wait(self, name: str, timeout_s: float, watch: Callable[[], None] = lambda: None) -> int | None:
        """Wait for the process NAME; return its exit code, or None if it still runs after TIMEOUT_S seconds."""
        deadline = time.monotonic() + timeout_s
        while (code := self.returncode(name)) is None and time.monotonic() < deadline:
            watch()
            time.sleep(POLL_INTERVAL_S)
        return code

    def _ask(self, request: Request) -> Request | Answer:
        assert self._process.stdin is not None
        with self._pipe:
            if self._closing:  # the next message is for `close`
                raise ServiceFailedError(
                    "The run is being taken down.", "It was interrupted, or another part of it failed.", "Run it again."
                )
            with contextlib.suppress(BrokenPipeError, ValueError):  # the supervisor is gone: `_receive` raises
                self._process.stdin.write(encode(request).encode())
            return self._receive()

    def _receive(self) -> Request | Answer:
        assert self._process.stdout is not None
        is_ready, _, _ = select.select([self._process.stdout], [], [], self._answer_timeout_s)  # it is unbuffered
        line = self._process.stdout.readline() if is_ready else b""
        if not line:
            raise ServiceFailedError(
                "The supervisor of this run's processes has ended, or does not answer.",
                "Another program ended or stopped it, most likely with the processes that it had started.",
                "End the processes that remain (ps -ef | grep harness), and try again.",
            )
        return decode(line)

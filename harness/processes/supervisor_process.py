"""The supervisor's own process, started by `harness.processes.supervisor` with `python -m`.

It reads requests from standard input until that closes, then takes everything down.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from harness.processes import protocol
from harness.processes.failures import how_ended
from harness.processes.orphans import KILL_TIMEOUT_S, PREFIX, RECORD
from harness.processes.protocol import Answer, Command, decode, encode
from harness.project.paths import ROOT

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
_LIBC = ctypes.CDLL(None)  # loaded here: a process that was just forked must not load anything


class _Services:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.chmod(0o711)  # as root, PostgreSQL runs as another user and must reach its own folder below
        (directory / "logs").mkdir(mode=0o700)
        self._record = (directory / RECORD).open("w")
        fcntl.flock(self._record, fcntl.LOCK_EX)  # until this process ends, even when it is killed
        self.record(kept=False)
        self.processes: dict[str, tuple[Command, psutil.Popen]] = {}
        self.at_end: list[protocol.AtEnd] = []

    def record(self, *, kept: bool) -> None:
        """Write the run's record; see `harness.processes.orphans`."""
        self._record.seek(0)
        self._record.write(json.dumps({"pid": os.getpid(), "kept": kept, "clone": str(ROOT)}))
        self._record.truncate()
        self._record.flush()

    def start(self, command: Command) -> str:
        """Start a process; return why it could not be started, or nothing."""
        uid, gid = command.user or (None, None)
        try:
            with open(command.log, "ab") as log:
                process = psutil.Popen(
                    command.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=command.env,
                    cwd=command.cwd,
                    start_new_session=True,
                    user=uid,
                    group=gid,
                    extra_groups=[] if command.user else None,
                    preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, command.stop_signal),
                )
        except OSError as error:
            return str(error)
        self.processes[command.name] = (command, process)
        return ""

    def stop(self, name: str) -> None:
        """Send the process NAME its stop signal."""
        command, process = self.processes[name]
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(command.stop_signal)

    def take_down(self) -> list[str]:
        """Stop all processes, highest stage first, run `at_end`, remove the directory; return lines of what is left."""
        for stage in sorted({command.stage for command, _ in self.processes.values()}, reverse=True):
            services = [(command, process) for command, process in self.processes.values() if command.stage == stage]
            for command, _ in services:
                self.stop(command.name)
            timeout_s = max(command.stop_timeout_s for command, _ in services)
            psutil.wait_procs([process for _, process in services], timeout=timeout_s)
        left_behind = [f"process {process.pid}" for process in _kill_descendants()]
        for request in self.at_end:
            if error := self._run(request):
                left_behind.append(f"everything that `{request.command.name}` should have removed: {error}")
        left_behind += [f"process {process.pid}" for process in _kill_descendants()]  # of those commands
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.directory.exists():
            left_behind.append(f"directory {self.directory}")
        return left_behind

    def _run(self, request: protocol.AtEnd) -> str:
        """Run a command to its end; return why it failed, or nothing."""
        command = request.command
        if error := self.start(command):
            return error
        try:
            code = self.processes[command.name][1].wait(request.timeout_s)
        except psutil.TimeoutExpired:
            _kill_descendants()
            return f"it did not end within {request.timeout_s:.0f} s"
        lines = [line.strip() for line in Path(command.log).read_text(errors="replace").splitlines()]
        return " ".join([line for line in lines if line][-3:]) or f"it {how_ended(code)}" if code else ""


def _kill_descendants() -> list[psutil.Process]:
    """Kill every process below this one, until there is none; return those that are alive after the timeout."""
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while (descendants := _descendants()) and time.monotonic() < deadline:
        for process in descendants:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(descendants, timeout=1)
    return descendants


def _descendants() -> list[psutil.Process]:
    alive = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            if process.status() == psutil.STATUS_ZOMBIE:
                process.wait(0)
            else:
                alive.append(process)
    return alive


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        _LIBC.prctl(option, value, 0, 0, 0)


def _exit(*_: object) -> None:
    raise SystemExit


def _ignore(*_: object) -> None:
    """Ignore a signal: SIG_IGN instead would be inherited by every process that is started from here."""


def main() -> None:
    """Serve one run."""
    signal.signal(signal.SIGINT, _ignore)
    signal.signal(signal.SIGHUP, _ignore)
    signal.signal(signal.SIGTERM, _exit)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)

    try:
        directory = Path(tempfile.mkdtemp(prefix=PREFIX))
    except OSError as error:
        _answer(protocol.Failed(error.strerror or str(error)))
        return
    try:
        services = _Services(directory)
    except (OSError, SystemExit) as error:
        shutil.rmtree(directory, ignore_errors=True)
        _answer(protocol.Failed(str(error) or type(error).__name__))
        return
    _answer(protocol.Ready(str(directory)))
    try:
        _serve(services)
    finally:
        signal.signal(signal.SIGTERM, _ignore)
        _answer(protocol.TakenDown(services.take_down()))


def _serve(services: _Services) -> None:
    """Answer requests until standard input closes; when the run is kept, until SIGTERM."""
    kept = False
    for line in sys.stdin:
        if not line.endswith("\n"):
            break  # the harness ended while it wrote
        answer: Answer = protocol.Done()
        match decode(line):
            case protocol.Start(command):
                if error := services.start(command):
                    answer = protocol.Failed(error)
            case protocol.Poll(name):
                answer = protocol.ExitCode(services.processes[name][1].poll())
            case protocol.Stop(name):
                services.stop(name)
            case protocol.AtEnd() as request:
                services.at_end.append(request)
            case protocol.CancelAtEnd():
                services.at_end.clear()
            case protocol.Keep():
                kept = True
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a reader of the harness's output must see its end
                services.record(kept=True)
        _answer(answer)
    while kept:
        signal.pause()


def _answer(answer: Answer) -> None:
    try:
        print(encode(answer), end="", flush=True)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the harness is gone: go on, and say nothing more


if __name__ == "__main__":
    main()

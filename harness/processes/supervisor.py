"""Own every process and file of a run, and take them all down however the run ends.

A run's processes are children of one *supervisor*, a small process in a session of its own that the harness talks to
over a pipe. There is one way down: the pipe closes. It does so when the harness is done, fails, is interrupted or is
killed, and in each case the supervisor stops the services stage by stage, ends what is left below it and removes the
run's directory. On Linux it is a subreaper: whatever its services start, daemons too, stays below it and is found.
Should it be killed itself, its services get their stop signal from the kernel, and the clone's next run ends what is
left and removes the directory.

    with Supervisor.launch() as supervisor:
        supervisor.run("initdb", [...])                     # to its end
        supervisor.start("postgres", [...], stage=0)        # a service; higher stages are stopped first

`keep()` lets the services outlive the harness; SIGTERM to the supervisor then takes them down (see `kept`). What is
not a process, a cluster say, has a command that removes it: `at_end()`.

Other clones have their runs in the same temporary directory. A run records whose it is, and other clones leave it
alone; only what is left of a killed supervisor whose clone was deleted is anybody's to remove.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from events.uri import without_secrets
from harness.errors import CommandFailedError, DiskFullError, HarnessError, ServiceFailedError
from harness.project.paths import ROOT

PREFIX = "events-platform-"
STOP_TIMEOUT_S = 10.0  # for one stage to end by itself after its stop signal
ANSWER_TIMEOUT_S = 60.0  # for the supervisor to do what it is asked and say so, the takedown included
MIN_FREE_BYTES = 20_000_000  # with less, a disk is as good as full: PostgreSQL's next WAL segment has 16 MB
RECORD = "supervisor.json"  # in the run's directory: whose it is
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


@dataclass(frozen=True)
class Command:
    """One process to start: its argument list, environment, log file, and how it is stopped."""

    name: str
    argv: list[str]
    env: dict[str, str] = field(repr=False)  # secrets live here
    log: str
    cwd: str
    stage: int
    stop_signal: int
    uid: int | None
    gid: int | None


class Supervisor:
    """The harness's end of the pipe. Use `launch()` as a context manager; leaving it takes everything down.

    Attributes:
        directory: the run's own directory, removed when it is taken down.
        left: after leaving, one line for each thing that could not be taken down.
        kept: whether everything outlives the harness.
    """

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        self._process = process
        self._pipe = threading.Lock()  # one request and its answer at a time
        self.directory = directory
        self.left: list[str] = []
        self.kept = False
        self._closing = False
        self._ended = False
        self._answer_timeout_s = ANSWER_TIMEOUT_S
        self._counts: dict[str, int] = {}
        self._at_end: list[str] = []

    @classmethod
    def launch(cls, hold: Sequence[int] = ()) -> Self:
        """Start a supervisor and make its run directory under the system's temporary directory.

        Args:
            hold: descriptors of files that it holds open, and with them their locks, until all is taken down.

        Raises:
            DiskFullError: the directory cannot be made.
        """
        remove_orphans()
        process = subprocess.Popen(
            [sys.executable, "-m", "harness.processes.supervisor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # a Ctrl-C at the terminal is for the harness alone
            cwd="/",
            pass_fds=hold,
            env=os.environ | {"TMPDIR": tempfile.gettempdir()},
        )
        supervisor = cls(process, Path())
        answer = supervisor._receive()
        if "error" in answer:
            process.wait()
            raise DiskFullError(
                f"No directory can be made under {tempfile.gettempdir()}: {answer['error']}.",
                "The disk is most likely full, or the directory is not writable.",
                "Free some room, or point TMPDIR at a directory with 2 GB free, and try again.",
            )
        supervisor.directory = Path(answer["directory"])
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
        user: tuple[int, int] | None = None,
    ) -> Path:
        """Start a process with exactly the environment ENV, as USER (uid, gid) if given, and return its log's path.

        Raises:
            ServiceFailedError: it could not be started.
        """
        log = self.directory / "logs" / f"{name}.log"
        uid, gid = user or (None, None)
        command = Command(
            name,
            [str(a) for a in argv],
            dict(env),
            str(log),
            str(cwd or self.directory),
            stage,
            int(stop_signal),
            uid,
            gid,
        )
        answer = self._ask({"op": "start", "command": asdict(command)})
        if "error" in answer:
            raise ServiceFailedError(
                f"{name} could not be started: {answer['error']}.",
                "Its program is most likely missing, or the disk is full.",
                "Install the environments again: delete .nox and repeat the command.",
            )
        return log

    def returncode(self, name: str) -> int | None:
        """Return the exit code of the process NAME, or None while it runs."""
        code: int | None = self._ask({"op": "poll", "name": name})["returncode"]
        return code

    def run(self, name: str, argv: Sequence[str | Path], *, timeout_s: float, **options: Any) -> Path:
        """Run a process to its end and return its log's path; OPTIONS are those of `start`.

        Raises:
            ServiceFailedError: it failed, or did not end in TIMEOUT_S seconds.
        """
        log = self.start(name, argv, **options)
        deadline = time.monotonic() + timeout_s
        while (code := self.returncode(name)) is None:
            if time.monotonic() > deadline:
                raise service_failed(name, log, f"did not end within {timeout_s:.0f} s")
            time.sleep(0.02)
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
        """Run a program to its end, for as long as this run lives, and return what it says on both streams.

        Args:
            name: its name in the run's logs; it may be run again under the same.
            argv: the argument list; nothing secret, it is shown in the list of processes.
            timeout_s: after so many seconds it has failed.
            env: variables on top of the environment.
            watch: called again and again while it runs; raises where waiting has become pointless.

        Raises:
            CommandFailedError: it failed, or took too long.
        """
        count = self._counts[name] = self._counts.get(name, 0) + 1
        name = f"{name}-{count}" if count > 1 else name
        log = self.start(name, argv, env=os.environ | dict(env or {}), cwd=Path.cwd())
        deadline = time.monotonic() + timeout_s
        while (code := self.returncode(name)) is None:
            if time.monotonic() > deadline:
                self.stop(name)
                said = log.read_text(errors="replace")
                raise CommandFailedError([str(a) for a in argv], f"did not end within {timeout_s:.0f} s", said)
            watch()
            time.sleep(0.05)
        said = log.read_text(errors="replace")
        if code:
            raise CommandFailedError([str(a) for a in argv], f"ended with exit code {code}", said)
        return said

    def stop(self, name: str) -> None:
        """Send a process its stop signal, if it still runs."""
        self._ask({"op": "stop", "name": name})

    def at_end(self, name: str, argv: Sequence[str | Path], told: Mapping[str, str], timeout_s: float) -> None:
        """Have a command run when everything is taken down, after the services have ended; it removes what is left.

        TOLD are variables on top of the environment. After TIMEOUT_S seconds it is killed, and has failed.
        """
        log = str(self.directory / "logs" / f"{name}.log")
        env = {name: value for name, value in os.environ.items() if name != "NOX_PID"} | dict(
            told
        )  # nox may be gone by then
        mine = Command(name, [str(a) for a in argv], env, log, str(Path.cwd()), 0, int(signal.SIGTERM), None, None)
        self._answer_timeout_s += timeout_s
        self._at_end.append(name)
        self._ask({"op": "at_end", "command": asdict(mine), "timeout_s": timeout_s})

    def call_off(self) -> None:
        """Let what `at_end` would remove stay."""
        self._at_end.clear()
        self._ask({"op": "call_off"})

    def keep(self) -> None:
        """Let everything outlive the harness; `kept` tells how to find it."""
        self.kept = True  # first: who is interrupted in the next line must not wait for a takedown
        self._ask({"op": "keep"})

    def close(self) -> None:
        """Take everything down and wait for it; afterwards `left` says what could not be.

        May be called again, by who was interrupted in it: it then goes on waiting.
        """
        if self.kept or self._ended:
            return
        assert self._process.stdin is not None
        with self._pipe, contextlib.suppress(BrokenPipeError):  # the supervisor is gone; what follows says so
            self._closing = True
            self._process.stdin.close()
        try:
            while "left" not in (answer := self._receive()):
                pass  # an answer that nobody waited for any more
            self._process.wait(self._answer_timeout_s)
            self.left = answer["left"]
        except (ServiceFailedError, subprocess.TimeoutExpired):
            self.left = [f"the run's directory {self.directory}, and perhaps processes: its supervisor was killed"]
            self.left += [f"what its {name} should have removed" for name in self._at_end]
        self._ended = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        with self._pipe:
            if self._closing:  # what comes next on the pipe is for `close`
                raise ServiceFailedError(
                    "The run is being taken down.", "It was interrupted, or another part failed.", "Run it again."
                )
            with contextlib.suppress(BrokenPipeError, ValueError):  # the answer, or its absence, tells
                self._process.stdin.write(json.dumps(request).encode() + b"\n")
            return self._receive()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        is_ready, _, _ = select.select([self._process.stdout], [], [], self._answer_timeout_s)  # it is unbuffered
        line = self._process.stdout.readline() if is_ready else b""
        if not line:
            raise ServiceFailedError(
                "The supervisor of this run's processes is gone, or does not answer.",
                "Somebody ended or stopped it, most likely together with what it had started.",
                "Look for processes that were left (ps -ef | grep harness), end them, and try again.",
            )
        answer: dict[str, Any] = json.loads(line)
        return answer


def service_ended(name: str, log: Path, code: int) -> HarnessError:
    """Return the error for a process that ended with the exit code CODE, or by the signal -CODE."""
    if code < 0 and not disk_full(log.parent):
        return ServiceFailedError(
            f"{name} was ended by {signal.Signals(-code).name}.",
            "Somebody killed it, or the machine ran out of memory.",
            f"See whether memory was short (dmesg), and read its log, {log.name}.",
        )
    return service_failed(name, log, f"ended with exit code {code}")


def service_failed(name: str, log: Path, how: str) -> HarnessError:
    """Return the error for a process that failed, with the line of its log that most likely says why."""
    lines = (
        [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    )
    if any("No space left on device" in line for line in lines) or disk_full(log.parent):
        return disk_full_error(log.parent)
    telling = [line for line in lines if any(word in line for word in ("FATAL", "ERROR", "Error", "error:"))]
    said = (telling or lines or ["(its log is empty)"])[-1]
    return ServiceFailedError(
        f"{name} {how}.", f"Its log says: {without_secrets(said)[:300]}", f"Read its whole log, {log.name}."
    )


def disk_full(path: Path) -> bool:
    """Say whether the disk that holds PATH is as good as full."""
    return shutil.disk_usage(path).free < MIN_FREE_BYTES


def disk_full_error(path: Path) -> DiskFullError:
    """Return the error for the disk that holds PATH."""
    return DiskFullError(
        f"The disk that holds {path} is full: {shutil.disk_usage(path).free / 1e6:,.0f} MB are left.",
        "The events, or something else on the machine, took the room while the run went on.",
        "Free some room, or point TMPDIR at a directory that has it.",
    )


@dataclass(frozen=True)
class Run:
    """A run of this user, as its supervisor recorded it.

    Attributes:
        directory: the run's own directory.
        pid: the supervisor's process id.
        is_kept: `keep()` was called.
        clone: the root of the clone that it is of; empty if its version of the project recorded none.
        is_alive: the supervisor lives.
    """

    directory: Path
    pid: int
    is_kept: bool
    clone: str
    is_alive: bool

    @property
    def is_ours(self) -> bool:
        """Whether this clone made it."""
        return self.clone == str(ROOT)

    @property
    def is_abandoned(self) -> bool:
        """Whether its clone is gone: deleted or moved. One that may not be looked at is there."""
        try:
            Path(self.clone).stat()
        except OSError as error:
            return isinstance(error, FileNotFoundError | NotADirectoryError)
        return not self.clone


def kept() -> list[Run]:
    """Return this clone's runs that `keep()` left up and that still are."""
    return [run for run in _runs() if run.is_alive and run.is_kept and run.is_ours]


def abandoned() -> list[Run]:
    """Return the runs that `keep()` left up and whose clone is gone since."""
    return [run for run in _runs() if run.is_alive and run.is_kept and run.is_abandoned]


def remove_orphans() -> list[Path]:
    """End what is left of this clone's runs whose supervisor was killed, remove their directories, and return them.

    So it does with those of clones that are gone: no run of theirs will.
    """
    orphans = [run.directory for run in _runs() if not run.is_alive and (run.is_ours or run.is_abandoned)]
    for directory in orphans:
        left = []
        for process in psutil.process_iter():
            # By the working directory, which a run's processes inherit: their titles and environments are overwritten.
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                if Path(process.cwd()).is_relative_to(directory):
                    process.kill()
                    left.append(process)
        psutil.wait_procs(left, timeout=STOP_TIMEOUT_S)
        shutil.rmtree(directory, ignore_errors=True)
    return orphans


def _runs() -> Iterator[Run]:
    """Yield each run of this user in the temporary directory, whichever clone it is of."""
    for path in sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{RECORD}")):
        with contextlib.suppress(OSError, ValueError), path.open() as file:  # just being made, or removed
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                continue
            record = json.load(file)
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                is_alive = False
            except BlockingIOError:
                is_alive = True
            yield Run(path.parent, record["pid"], record["kept"], record.get("clone", ""), is_alive)


# --- the supervisor's own side of the pipe --------------------------------------------------------------------------


_LIBC = ctypes.CDLL(None)  # loaded once: after a fork nothing may be


class _Services:
    """The processes of a run and its directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.chmod(0o711)  # as root, PostgreSQL runs as another user and must reach its own folder below
        (directory / "logs").mkdir(mode=0o700)
        self._record = (directory / RECORD).open("w")
        fcntl.flock(self._record, fcntl.LOCK_EX)  # held for as long as this process lives, whatever ends it
        self.record(kept=False)
        self.processes: dict[str, tuple[Command, psutil.Popen]] = {}
        self.at_end: list[tuple[Command, float]] = []

    def record(self, *, kept: bool) -> None:
        """Write down whose the directory is."""
        self._record.seek(0)
        self._record.write(json.dumps({"pid": os.getpid(), "kept": kept, "clone": str(ROOT)}))
        self._record.truncate()
        self._record.flush()

    def start(self, command: Command) -> dict[str, Any]:
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
                    user=command.uid,
                    group=command.gid,
                    extra_groups=[] if command.uid is not None else None,
                    preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, command.stop_signal),
                )
        except OSError as error:
            return {"error": str(error)}
        self.processes[command.name] = (command, process)
        return {"pid": process.pid}

    def run(self, command: Command, timeout_s: float) -> str:
        """Run a command of `at_end` to its end; return why it failed, or nothing."""
        if told := self.start(command).get("error"):
            return str(told)
        try:
            code = self.processes[command.name][1].wait(timeout_s)
        except psutil.TimeoutExpired:
            self._kill_descendants()
            return f"it did not end within {timeout_s:.0f} s"
        lines = Path(command.log).read_text(errors="replace").split("\n")
        return " ".join([line.strip() for line in lines if line.strip()][-3:]) or f"exit code {code}" if code else ""

    def stop(self, name: str) -> None:
        """Send a process its stop signal."""
        command, process = self.processes[name]
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(command.stop_signal)

    def take_down(self) -> list[str]:
        """Stop every service, highest stage first, then all that is left below, and remove the directory."""
        for stage in sorted({command.stage for command, _ in self.processes.values()}, reverse=True):
            running = []
            for command, process in self.processes.values():
                if command.stage == stage:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.send_signal(command.stop_signal)
                    running.append(process)
            psutil.wait_procs(running, timeout=STOP_TIMEOUT_S)
        left = [f"process {process.pid}" for process in self._kill_descendants()]
        for command, timeout_s in self.at_end:
            if said := self.run(command, timeout_s):
                left.append(f"what its {command.name} should have removed: {said}")
        left += [f"process {process.pid}" for process in self._kill_descendants()]  # of those commands
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.directory.exists():
            left.append(f"directory {self.directory}")
        return left

    def _kill_descendants(self) -> list[psutil.Process]:
        """Kill everything below this process until there is nothing; return what would not die."""
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while (descendants := self._descendants()) and time.monotonic() < deadline:
            for process in descendants:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(descendants, timeout=1)
        return descendants

    @staticmethod
    def _descendants() -> list[psutil.Process]:
        alive = []
        for process in psutil.Process().children(recursive=True):
            try:
                if process.status() == psutil.STATUS_ZOMBIE:
                    process.wait(0)
                else:
                    alive.append(process)
            except (psutil.NoSuchProcess, psutil.TimeoutExpired):
                pass
        return alive


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        _LIBC.prctl(option, value, 0, 0, 0)


def _terminated(*_: object) -> None:
    raise SystemExit


def _serve() -> None:
    """Be the supervisor: read requests from standard input until it closes, then take everything down."""
    # Handlers, not SIG_IGN: an ignored signal would stay ignored in every process that is started from here.
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, lambda *_: None)
    signal.signal(signal.SIGTERM, _terminated)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)

    try:
        directory = Path(tempfile.mkdtemp(prefix=PREFIX))
    except OSError as error:
        _answer({"error": error.strerror})
        return
    try:
        services = _Services(directory)
    except (OSError, SystemExit) as error:
        shutil.rmtree(directory, ignore_errors=True)
        _answer({"error": str(error) or type(error).__name__})
        return
    _answer({"directory": str(directory)})
    try:
        _handle_requests(services)
    finally:
        signal.signal(signal.SIGTERM, lambda *_: None)
        _answer({"left": services.take_down()})


def _handle_requests(services: _Services) -> None:
    kept = False
    for line in sys.stdin:
        if not line.endswith("\n"):
            break  # the harness ended while it wrote
        request = json.loads(line)
        match request["op"]:
            case "start":
                _answer(services.start(Command(**request["command"])))
            case "poll":
                _answer({"returncode": services.processes[request["name"]][1].poll()})
            case "stop":
                services.stop(request["name"])
                _answer({})
            case "at_end":
                services.at_end.append((Command(**request["command"]), request["timeout_s"]))
                _answer({})
            case "call_off":
                services.at_end.clear()
                _answer({})
            case "keep":
                kept = True
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # whoever reads the harness's output must see its end
                services.record(kept=True)
                _answer({})
    while kept:
        signal.pause()


def _answer(message: dict[str, Any]) -> None:
    try:
        print(json.dumps(message), flush=True)
    except BrokenPipeError:
        # The harness is gone. What is to be done is done all the same, and nothing more can be said.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


if __name__ == "__main__":
    _serve()

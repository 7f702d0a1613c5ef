"""A run's processes are started, stopped in order, and their failures explained; commands run at the takedown."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.errors import CommandFailedError, DiskFullError, HarnessError, ServiceFailedError
from harness.processes.orphans import remove_orphans
from harness.processes.supervisor import Supervisor
from tests.harness.processes.waiting import eventually, has_ended

ENV = {"PATH": os.defpath}
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
# At SIGTERM, appends its second argument to the file that its first one names.
APPEND_AT_STOP = """
import signal, sys, time
def end(*_):
    time.sleep(0.1)
    open(sys.argv[1], "a").write(sys.argv[2])
    sys.exit()
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
time.sleep(600)
"""


def python(program: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", program, *map(str, arguments)]


def append(path: Path, text: str) -> list[str]:
    """Return a command that appends TEXT to the file PATH."""
    return python("import sys; open(sys.argv[1], 'a').write(sys.argv[2])", path, text)


def test_a_process_has_exactly_its_environment_and_nothing_is_left_behind() -> None:
    with Supervisor.launch() as supervisor:
        argv = python("import os; print(sorted(set(os.environ) - {'LC_CTYPE'}))")
        log = supervisor.run("env", argv, env={"ONE": "1"}, timeout_s=30)
        assert log.read_text() == "['ONE']\n"
        directory = supervisor.directory
    assert supervisor.left_behind == []
    assert not directory.exists()


@pytest.mark.parametrize(
    ("program", "timeout_s", "what", "why"),
    [
        (
            "import sys; print('INFO fine'); print('FATAL:  it is broken'); print('bye'); sys.exit(3)",
            30,
            "part ended with exit code 3.",
            "Its log says: FATAL: it is broken",
        ),
        ("raise SystemExit(4)", 30, "part ended with exit code 4.", "Its log is empty."),
        (
            "import os; os.kill(os.getpid(), 9)",
            30,
            "part was ended by SIGKILL.",
            "Another program killed it, or the machine ran out of memory.",
        ),
        ("import time; time.sleep(600)", 0.1, "part did not end within 0 s.", "Its log is empty."),
    ],
)
def test_a_failed_process_is_explained(program: str, timeout_s: float, what: str, why: str) -> None:
    with Supervisor.launch() as supervisor, pytest.raises(ServiceFailedError) as caught:
        supervisor.run("part", python(program), env=ENV, timeout_s=timeout_s)
    assert (caught.value.what, caught.value.why) == (what, why)
    assert "part.log" in caught.value.next_step


def test_a_full_disk_is_named_as_the_cause() -> None:
    argv = python("raise OSError(28, 'No space left on device')")
    with (
        Supervisor.launch() as supervisor,
        pytest.raises(DiskFullError, match=r"The disk that holds .* was full: [\d,]+ MB are free"),
    ):
        supervisor.run("part", argv, env=ENV, timeout_s=30)


def test_a_missing_program_is_an_error() -> None:
    with Supervisor.launch() as supervisor, pytest.raises(ServiceFailedError, match="part could not be started"):
        supervisor.start("part", ["/no/such/program"], env=ENV)


def test_a_supervisor_that_was_killed_is_reported() -> None:
    with Supervisor.launch() as supervisor:
        supervisor.at_end("takedown", SLEEP, {}, 60)
        os.kill(supervisor._process.pid, signal.SIGKILL)
        with pytest.raises(ServiceFailedError, match="supervisor of this run's processes has ended, or does not answe"):
            supervisor.start("late", SLEEP, env=ENV)
    assert supervisor.left_behind == [
        f"the run's directory {supervisor.directory}, and perhaps processes: its supervisor was killed",
        "everything that `takedown` should have removed",
    ]
    assert supervisor.directory in remove_orphans()


def test_a_command_returns_both_streams(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ONE", "1")
    monkeypatch.chdir(tmp_path)
    argv = python(
        "import os, sys; print(os.environ['ONE'], os.environ['TWO'], flush=True); print(os.getcwd(), file=sys.stderr)"
    )
    calls: list[int] = []
    with Supervisor.launch() as supervisor:
        output = supervisor.command("part", argv, timeout_s=30, env={"TWO": "2"}, watch=lambda: calls.append(1))
        assert output == f"1 2\n{tmp_path}\n"
        assert calls
        # The same name again: another log, with the second output alone.
        assert supervisor.command("part", argv, timeout_s=30, env={"TWO": "3"}).startswith("1 3\n")
        assert sorted(log.name for log in (supervisor.directory / "logs").iterdir()) == ["part-2.log", "part.log"]


def test_a_failed_command_is_explained_by_its_output() -> None:
    argv = python("import sys; print('out', flush=True); print('because', file=sys.stderr); sys.exit(3)")
    with Supervisor.launch() as supervisor, pytest.raises(CommandFailedError) as caught:
        supervisor.command("part", argv, timeout_s=30)
    assert caught.value.what.endswith("ended with exit code 3.")
    assert (caught.value.output, caught.value.why) == ("out\nbecause\n", "Its output says: because")


def test_a_command_that_takes_too_long_is_stopped_and_others_can_run() -> None:
    argv = python("import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    with Supervisor.launch() as supervisor:
        with pytest.raises(CommandFailedError, match=r"did not end within 1 s\.") as caught:
            supervisor.command("part", argv, timeout_s=1)
        assert eventually(lambda: has_ended(int(caught.value.output)))
        assert supervisor.command("next", ["echo", "next"], timeout_s=30) == "next\n"


def test_what_watches_a_command_can_end_the_waiting() -> None:
    def watch() -> None:
        raise HarnessError("It cannot succeed.", "why", "next")

    with Supervisor.launch() as supervisor:
        with pytest.raises(HarnessError, match=r"It cannot succeed\."):
            supervisor.command("part", SLEEP, timeout_s=600, watch=watch)
        [child] = psutil.Process(supervisor._process.pid).children()
    assert has_ended(child.pid)


def test_higher_stages_are_stopped_first_and_commands_run_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOX_PID", "1")  # not passed on: nox may have ended by then
    file = tmp_path / "file"
    check = python(
        "import os, sys; sys.exit(os.environ['ONE'] != '1' or 'NOX_PID' in os.environ or 'PATH' not in os.environ)"
    )
    with Supervisor.launch() as supervisor:
        supervisor.at_end("cancelled", append(file, "0"), {}, 60)
        supervisor.cancel_at_end()
        supervisor.at_end("first", append(file, "1"), {}, 60)
        supervisor.at_end("second", append(file, "2"), {}, 60)
        supervisor.at_end("check", check, {"ONE": "1"}, 60)
        for name, stage in (("a", 0), ("b", 2), ("c", 1)):
            log = supervisor.start(name, python(APPEND_AT_STOP, file, name), env=ENV, stage=stage)
            assert eventually(lambda log=log: "ready" in log.read_text())  # type: ignore[misc]
        assert not file.exists()
    assert file.read_text() == "bca12"
    assert supervisor.left_behind == []


def test_a_process_that_ignores_its_stop_signal_is_killed() -> None:
    argv = python(
        "import signal as s, time; s.signal(s.SIGTERM, s.SIG_IGN); print('ready', flush=True); time.sleep(600)"
    )
    with Supervisor.launch() as supervisor:
        log = supervisor.start("stubborn", argv, env=ENV, stop_timeout_s=0.2)
        assert eventually(lambda: "ready" in log.read_text())
        [child] = psutil.Process(supervisor._process.pid).children()
        begun = time.monotonic()
    assert time.monotonic() - begun < 5
    assert supervisor.left_behind == []
    assert has_ended(child.pid)


def test_a_command_that_fails_at_the_takedown_is_left_behind_and_the_others_run(tmp_path: Path) -> None:
    program = "import sys; print('first'); print('second'); print('third'); print('fourth'); sys.exit(3)"
    with Supervisor.launch() as supervisor:
        supervisor.at_end("fails", python(program), {}, 60)
        supervisor.at_end("silent", python("raise SystemExit(4)"), {}, 60)
        supervisor.at_end("slow", SLEEP, {}, 0.1)
        supervisor.at_end("missing", ["/no/such/program"], {}, 60)
        supervisor.at_end("last", append(tmp_path / "file", "last"), {}, 60)
    *others, missing = supervisor.left_behind
    assert others == [
        "everything that `fails` should have removed: second third fourth",
        "everything that `silent` should have removed: it ended with exit code 4",
        "everything that `slow` should have removed: it did not end within 0 s",
    ]
    assert missing.startswith("everything that `missing` should have removed: [Errno 2]")
    assert (tmp_path / "file").read_text() == "last"
    assert not supervisor.directory.exists()


# Holds the lock of the file that its first argument names, has the commands of its third one run at the takedown, and
# waits to be killed.
LOCK_HOLDER = """
import fcntl, json, sys, time
from harness.processes.supervisor import Supervisor
with open(sys.argv[1], "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    with Supervisor.launch([lock.fileno()]) as supervisor:
        supervisor.start("sleep", json.loads(sys.argv[2]), env={"PATH": "/bin:/usr/bin"})
        for number, argv in enumerate(json.loads(sys.argv[3])):
            supervisor.at_end(f"command-{number}", argv, {}, 60)
        print(supervisor.directory, flush=True)
        time.sleep(600)
"""


def test_the_supervisor_of_a_killed_harness_holds_its_lock_until_everything_is_taken_down(tmp_path: Path) -> None:
    lock, file, go = tmp_path / "lock", tmp_path / "file", tmp_path / "go"
    wait = python(f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)")
    commands = [append(file, "1"), wait, append(file, "2")]
    argv = python(LOCK_HOLDER, lock, json.dumps(SLEEP), json.dumps(commands))
    holder = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    directory = Path(holder.stdout.readline().strip())

    def is_locked() -> bool:
        with lock.open() as opened:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    try:
        assert is_locked()
        assert not file.exists()
        holder.kill()
        holder.wait(60)
        assert eventually(file.exists)  # the processes have ended, and the second command waits
        assert is_locked()
        assert directory.exists()
    finally:
        go.touch()
    assert eventually(lambda: not is_locked())
    assert file.read_text() == "12"
    assert not directory.exists()

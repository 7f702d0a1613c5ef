"""However a run ends, nothing of it is left: no process, not even a daemon, and no directory."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from harness.errors import DiskFullError, ServiceFailedError
from harness.supervisor import Supervisor, kept, remove_orphans

ENV = {"PATH": os.defpath}
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
# A service that leaves its session and its parent, as daemons do, and says who the daemon is.
DAEMON = [
    sys.executable,
    "-c",
    "import os, time\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    if os.fork() == 0:\n"
    "        print(os.getpid(), flush=True)\n"
    "        time.sleep(600)\n"
    "    os._exit(0)\n"
    "time.sleep(600)",
]
# A process that launches a supervisor with two services, says what there is, and waits to be killed.
OWNER = """
import json, sys, time
from harness.supervisor import Supervisor
with Supervisor.launch() as supervisor:
    env = {"PATH": "/bin:/usr/bin"}
    log = supervisor.start("daemon", json.loads(sys.argv[1]), env=env)
    supervisor.start("sleep", json.loads(sys.argv[2]), env=env)
    while not (daemon := log.read_text()):
        time.sleep(0.01)
    if "--keep" in sys.argv:
        supervisor.keep()
    pids = [supervisor._process.pid, int(daemon)]
    print(json.dumps({"directory": str(supervisor.directory), "pids": pids}), flush=True)
    if "--keep" not in sys.argv:
        time.sleep(600)
"""


@pytest.fixture(autouse=True)
def own_temporary_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep apart from runs elsewhere on the machine, which remove orphans as well."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def eventually(holds: Callable[[], bool], timeout_s: float = 30) -> bool:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def start_owner(*options: str) -> tuple[subprocess.Popen[str], Path, list[int]]:
    argv = [sys.executable, "-c", OWNER, json.dumps(DAEMON), json.dumps(SLEEP), *options]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    owner = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=env)
    assert owner.stdout is not None
    told = json.loads(owner.stdout.readline())
    directory, pids = Path(told["directory"]), told["pids"]
    pids += [child.pid for child in psutil.Process(pids[0]).children(recursive=True) if not gone(child.pid)]
    assert len(set(pids)) >= 4  # the supervisor, the daemon, the service that made it, and the other service
    return owner, directory, pids


def test_a_process_runs_to_its_end_with_exactly_its_environment() -> None:
    with Supervisor.launch() as supervisor:
        program = "import os; print(sorted(set(os.environ) - {'LC_CTYPE'}))"
        log = supervisor.run("env", [sys.executable, "-c", program], env={"ONE": "1"}, timeout_s=30)
        assert log.read_text() == "['ONE']\n"
        directory = supervisor.directory
    assert supervisor.left == []
    assert not directory.exists()


def test_a_failed_process_is_explained_by_its_log() -> None:
    program = "import sys; print('INFO fine'); print('FATAL:  it is broken'); print('bye'); sys.exit(3)"
    with Supervisor.launch() as supervisor, pytest.raises(ServiceFailedError) as caught:
        supervisor.run("part", [sys.executable, "-c", program], env=ENV, timeout_s=30)
    assert caught.value.what == "part ended with exit code 3."
    assert caught.value.why == "Its log says: FATAL: it is broken"
    assert caught.value.next_step == "Read its whole log, part.log."


def test_a_process_that_was_killed_is_said_to_be() -> None:
    program = "import os; os.kill(os.getpid(), 9)"
    with Supervisor.launch() as supervisor, pytest.raises(ServiceFailedError) as caught:
        supervisor.run("part", [sys.executable, "-c", program], env=ENV, timeout_s=30)
    assert caught.value.what == "part was ended by SIGKILL."
    assert caught.value.why == "Somebody killed it, or the machine ran out of memory."


def test_a_full_disk_is_named_as_the_cause() -> None:
    program = "raise OSError(28, 'No space left on device')"
    with Supervisor.launch() as supervisor, pytest.raises(DiskFullError, match=r"The disk that holds .* is full"):
        supervisor.run("part", [sys.executable, "-c", program], env=ENV, timeout_s=30)


def test_a_process_that_takes_too_long_is_an_error() -> None:
    with Supervisor.launch() as supervisor, pytest.raises(ServiceFailedError, match=r"part did not end within 0 s\."):
        supervisor.run("part", SLEEP, env=ENV, timeout_s=0.1)


def test_a_program_that_does_not_exist_is_an_error() -> None:
    with Supervisor.launch() as supervisor, pytest.raises(ServiceFailedError, match="part could not be started"):
        supervisor.start("part", ["/no/such/program"], env=ENV)


def test_higher_stages_are_stopped_first(tmp_path: Path) -> None:
    told = tmp_path / "told"
    program = (
        "import signal, sys, time\n"
        "def end(*_):\n open(sys.argv[1], 'a').write(sys.argv[2]); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end); print('ready', flush=True); time.sleep(600)"
    )
    with Supervisor.launch() as supervisor:
        for name, stage in (("a", 0), ("b", 2), ("c", 1)):
            log = supervisor.start(name, [sys.executable, "-c", program, told, name], env=ENV, stage=stage)
            assert eventually(lambda log=log: "ready" in log.read_text())  # type: ignore[misc]
    assert told.read_text() == "bca"


def test_a_service_that_ignores_its_stop_signal_is_killed() -> None:
    program = (
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
    )
    with Supervisor.launch() as supervisor:
        log = supervisor.start("stubborn", [sys.executable, "-c", program], env=ENV)
        assert eventually(lambda: "ready" in log.read_text())
        children = psutil.Process(supervisor._process.pid).children()
    assert supervisor.left == []
    assert all(gone(child.pid) for child in children)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_when_the_owner_is_killed(number: signal.Signals) -> None:
    owner, directory, pids = start_owner()
    owner.send_signal(number)
    owner.wait(60)
    assert eventually(lambda: all(map(gone, pids)))
    assert eventually(lambda: not directory.exists())


def test_a_killed_supervisor_takes_its_services_along_and_the_next_run_its_directory() -> None:
    owner, directory, pids = start_owner()
    service = [pid for pid in pids if psutil.Process(pid).ppid() == pids[0] and pid != pids[1]]
    os.kill(pids[0], signal.SIGKILL)
    try:
        assert service
        assert eventually(lambda: all(map(gone, service)))
        assert not gone(pids[1])  # a daemon of a service: nobody has told it
        assert directory in remove_orphans()
        assert not directory.exists()
        assert eventually(lambda: all(map(gone, pids)))
    finally:
        owner.kill()
        owner.wait()


def test_a_killed_supervisor_is_reported() -> None:
    with Supervisor.launch() as supervisor:
        os.kill(supervisor._process.pid, signal.SIGKILL)
        with pytest.raises(ServiceFailedError, match="supervisor of this run's processes is gone, or does not answer"):
            supervisor.start("late", SLEEP, env=ENV)
    assert supervisor.left == [
        f"the run's directory {supervisor.directory}, and perhaps processes: its supervisor was killed"
    ]
    assert supervisor.directory in remove_orphans()


def test_a_kept_run_outlives_its_owner_until_it_is_ended() -> None:
    owner, directory, pids = start_owner("--keep")
    assert owner.wait(60) == 0
    assert (pids[0], directory) in kept()
    assert directory.exists()
    assert not any(map(gone, pids))
    assert directory not in remove_orphans()
    os.kill(pids[0], signal.SIGTERM)
    assert eventually(lambda: all(map(gone, pids)))
    assert not directory.exists()
    assert (pids[0], directory) not in kept()


def test_errors_say_what_why_and_what_next() -> None:
    error = DiskFullError("what", "why", "next")
    assert (str(error), error.exit_code) == ("what\nwhy\nnext", 42)

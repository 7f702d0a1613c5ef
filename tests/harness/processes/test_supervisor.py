"""However a run ends, nothing of it is left: no process, not even a daemon, and no directory."""

import fcntl
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

from harness.errors import CommandFailedError, DiskFullError, HarnessError, ServiceFailedError
from harness.processes.supervisor import Run, Supervisor, kept, remove_orphans
from harness.project.paths import ROOT
from harness.targets.takedown import down_command

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
from harness.processes.supervisor import Supervisor
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


def env_of(root: Path) -> dict[str, str]:
    """Return the environment of a process that runs the harness of the clone at ROOT."""
    mine = {name: value for name, value in os.environ.items() if name != "NOX_PID"}
    return mine | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'airflow' / 'include'}"}


def start_owner(*options: str, root: Path = ROOT) -> tuple[subprocess.Popen[str], Path, list[int]]:
    argv = [sys.executable, "-c", OWNER, json.dumps(DAEMON), json.dumps(SLEEP), *options]
    owner = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=env_of(root))
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
    assert [(run.pid, run.directory) for run in kept()] == [(pids[0], directory)]
    assert directory.exists()
    assert not any(map(gone, pids))
    assert directory not in remove_orphans()
    os.kill(pids[0], signal.SIGTERM)
    assert eventually(lambda: all(map(gone, pids)))
    assert not directory.exists()
    assert kept() == []


def down(root: Path) -> list[str]:
    """Run `nox -s dbt -- --down` in the clone at ROOT, and return what it says."""
    argv = [sys.executable, "-m", "harness", "dbt", "--down"]
    return subprocess.run(argv, env=env_of(root), check=True, capture_output=True, text=True).stdout.splitlines()


def test_a_clone_takes_down_its_own_runs_alone(clone: Path, tmp_path: Path) -> None:
    owner, directory, pids = start_owner("--keep", root=clone)
    assert owner.wait(60) == 0
    try:
        assert down(ROOT) == [
            f"nothing of this clone was left up in {tmp_path}, a cluster aside: nox -s cluster -- down"
        ]
        assert not any(map(gone, pids))
        assert directory.exists()
    finally:
        (link := tmp_path / "link").symlink_to(clone)
        assert down(link) == [f"✓ {directory.name} taken down"]
    assert all(map(gone, pids))
    assert not directory.exists()


def test_what_another_clone_left_stays_until_that_clone_is_gone(clone: Path) -> None:
    owner, directory, pids = start_owner(root=clone)
    os.kill(pids[0], signal.SIGKILL)
    owner.kill()
    owner.wait()
    try:
        assert eventually(lambda: all(gone(pid) for pid in pids if pid != pids[1]))
        assert remove_orphans() == []
        assert not gone(pids[1])
        assert directory.exists()
    finally:
        clone.rename(clone.with_name("moved"))
        assert remove_orphans() == [directory]
    assert eventually(lambda: gone(pids[1]))
    assert not directory.exists()


def test_what_a_clone_that_is_gone_has_kept_is_named_and_stays(clone: Path) -> None:
    owner, directory, pids = start_owner("--keep", root=clone)
    assert owner.wait(60) == 0
    clone.rename(clone.with_name("moved"))
    try:
        whose = f"the clone {clone}, which is not there any more"
        assert down(ROOT)[1:] == [f"… {directory.name} stays: it is of {whose}. Take it down: kill {pids[0]}"]
        assert not any(map(gone, pids))
    finally:
        os.kill(pids[0], signal.SIGTERM)
        assert eventually(lambda: not directory.exists())


@pytest.mark.parametrize(
    ("clone", "is_abandoned"),
    [(str(ROOT), False), ("/no/such/clone", True), (f"/{'x' * 300}", False), ("", True)],
)
def test_a_clone_whose_path_cannot_be_looked_at_is_not_gone(clone: str, is_abandoned: bool) -> None:
    assert Run(Path(), 1, is_kept=True, clone=clone, is_alive=True).is_abandoned is is_abandoned


def test_what_a_version_left_that_recorded_no_clone_is_removed(tmp_path: Path) -> None:
    (directory := tmp_path / "events-platform-older").mkdir()
    (directory / "supervisor.json").write_text('{"pid": 1, "kept": true}')
    assert remove_orphans() == [directory]
    assert not directory.exists()


@pytest.mark.parametrize(
    ("temporary", "command"),
    [("", "nox -s dbt -- --down"), ("/mnt/large disk", "TMPDIR='/mnt/large disk' nox -s dbt -- --down")],
)
def test_the_command_that_takes_down_finds_the_runs_directory(
    monkeypatch: pytest.MonkeyPatch, temporary: str, command: str
) -> None:
    monkeypatch.setenv("TMPDIR", temporary)
    assert down_command("dbt") == command


def test_errors_say_what_why_and_what_next() -> None:
    error = DiskFullError("what", "why", "next")
    assert (str(error), error.exit_code) == ("what\nwhy\nnext", 42)


# Appends a word to the file TOLD; a program of its own, so that it can be a service, a command, or what ends a run.
APPEND = "import os, sys; open(os.environ['TOLD'], 'a').write(sys.argv[1] + '\\n')"
# A process that holds a lock and has commands run at its end, and waits to be killed.
HOLDER = """
import fcntl, json, sys, time
from harness.processes.supervisor import Supervisor
with open(sys.argv[1], "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    with Supervisor.launch([lock.fileno()]) as supervisor:
        supervisor.start("sleep", json.loads(sys.argv[2]), env={"PATH": "/bin:/usr/bin"})
        for name, argv in json.loads(sys.argv[3]).items():
            supervisor.at_end(name, argv, {"TOLD": sys.argv[4]}, 60)
        print(supervisor.directory, flush=True)
        time.sleep(600)
"""


def append(word: str) -> list[str]:
    return [sys.executable, "-c", APPEND, word]


def test_a_command_says_what_it_says_on_both_streams(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ONE", "1")
    monkeypatch.chdir(tmp_path)
    program = (
        "import os, sys; print(os.environ['ONE'], os.environ['TWO'], flush=True); print(os.getcwd(), file=sys.stderr)"
    )
    looks: list[int] = []
    with Supervisor.launch() as supervisor:
        argv = [sys.executable, "-c", program]
        said = supervisor.command("part", argv, timeout_s=30, env={"TWO": "2"}, watch=lambda: looks.append(1))
        assert said == f"1 2\n{tmp_path}\n"
        assert looks
        again = supervisor.command("part", argv, timeout_s=30, env={"TWO": "3"})
        assert again.startswith("1 3\n")  # and not what the first said
        assert sorted(log.name for log in (supervisor.directory / "logs").iterdir()) == ["part-2.log", "part.log"]


def test_a_command_that_fails_is_explained_by_what_it_said() -> None:
    program = "import sys; print('out', flush=True); print('because', file=sys.stderr); sys.exit(3)"
    with Supervisor.launch() as supervisor, pytest.raises(CommandFailedError) as caught:
        supervisor.command("part", [sys.executable, "-c", program], timeout_s=30)
    assert caught.value.what.endswith("ended with exit code 3.")
    assert (caught.value.output, caught.value.why) == ("out\nbecause\n", "Its output says: because")


def test_a_command_that_takes_too_long_is_stopped() -> None:
    program = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with Supervisor.launch() as supervisor:
        with pytest.raises(CommandFailedError, match=r"did not end within 1 s\.") as caught:
            supervisor.command("part", [sys.executable, "-c", program], timeout_s=1)
        assert eventually(lambda: gone(int(caught.value.output)))
        assert supervisor.command("next", ["echo", "well"], timeout_s=30) == "well\n"


def test_who_watches_a_command_may_end_the_waiting() -> None:
    def watch() -> None:
        raise HarnessError("It will never be.", "why", "next")

    with Supervisor.launch() as supervisor:
        with pytest.raises(HarnessError, match=r"It will never be\."):
            supervisor.command("part", SLEEP, timeout_s=600, watch=watch)
        [child] = psutil.Process(supervisor._process.pid).children()
    assert gone(child.pid)


def test_what_is_to_be_done_at_the_end_is_done_after_the_services_and_in_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NOX_PID", "1")  # nox may be gone by then, and whoever sees that would end itself
    told = tmp_path / "told"
    service = (
        "import signal, sys, time\n"
        "def end(*_):\n time.sleep(0.2); open(sys.argv[1], 'a').write('service\\n'); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end); print('ready', flush=True); time.sleep(600)"
    )
    seen = (
        "import os, sys; sys.exit(os.environ['MINE'] != 'mine' or 'NOX_PID' in os.environ or 'PATH' not in os.environ)"
    )
    with Supervisor.launch() as supervisor:
        log = supervisor.start("service", [sys.executable, "-c", service, told], env=ENV)
        supervisor.at_end("one", append("one"), {"TOLD": str(told)}, 60)
        supervisor.at_end("two", append("two"), {"TOLD": str(told)}, 60)
        supervisor.at_end("three", [sys.executable, "-c", seen], {"MINE": "mine"}, 60)
        assert eventually(lambda: "ready" in log.read_text())
        assert not told.exists()
    assert told.read_text() == "service\none\ntwo\n"
    assert supervisor.left == []
    assert not supervisor.directory.exists()


def test_what_cannot_be_done_at_the_end_is_left_and_the_rest_is_done(tmp_path: Path) -> None:
    fails = "import sys; print('first'); print('second'); print('third'); print('fourth'); sys.exit(3)"
    with Supervisor.launch() as supervisor:
        supervisor.at_end("fails", [sys.executable, "-c", fails], {}, 60)
        supervisor.at_end("silent", [sys.executable, "-c", "raise SystemExit(4)"], {}, 60)
        supervisor.at_end("missing", ["/no/such/program"], {}, 60)
        supervisor.at_end("last", append("last"), {"TOLD": str(tmp_path / "told")}, 60)
    *others, missing = supervisor.left
    removed = "should have removed"
    assert others == [f"what its fails {removed}: second third fourth", f"what its silent {removed}: exit code 4"]
    assert missing.startswith(f"what its missing {removed}: [Errno 2]")
    assert (tmp_path / "told").read_text() == "last\n"
    assert not supervisor.directory.exists()


def test_what_was_called_off_is_not_done(tmp_path: Path) -> None:
    with Supervisor.launch() as supervisor:
        supervisor.at_end("one", append("one"), {"TOLD": str(tmp_path / "told")}, 60)
        supervisor.call_off()
        supervisor.at_end("two", append("two"), {"TOLD": str(tmp_path / "told")}, 60)
    assert (tmp_path / "told").read_text() == "two\n"
    assert supervisor.left == []


def test_a_killed_harness_leaves_its_lock_to_the_supervisor_until_all_is_done(tmp_path: Path) -> None:
    lock, told, go = tmp_path / "lock", tmp_path / "told", tmp_path / "go"
    wait = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)"
    commands = {"one": append("one"), "wait": [sys.executable, "-c", wait], "two": append("two")}
    argv = [sys.executable, "-c", HOLDER, str(lock), json.dumps(SLEEP), json.dumps(commands), str(told)]
    holder = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    directory = Path(holder.stdout.readline().strip())

    def is_locked() -> bool:
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    try:
        assert is_locked()
        assert not told.exists()
        holder.kill()
        holder.wait(60)
        assert eventually(told.exists)  # the services have ended, and the second command waits
        assert is_locked()
        assert directory.exists()
    finally:
        go.touch()
    assert eventually(lambda: not is_locked())
    assert told.read_text() == "one\ntwo\n"
    assert not directory.exists()

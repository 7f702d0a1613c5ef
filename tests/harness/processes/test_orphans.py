"""However a run ends, nothing of it stays: no process, not even a daemon, and no directory; and no other run ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from harness.processes.orphans import Run, kept, remove_orphans
from harness.project.paths import ROOT
from tests import clones
from tests.harness.processes.waiting import eventually, has_ended

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
# A service that starts a daemon, which leaves its session and its parent, and prints the daemon's process id.
DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(600)
    os._exit(0)
time.sleep(600)
"""
# A harness with two services that prints its supervisor, the daemon and the directory, and waits to be killed.
HARNESS = """
import json, sys, time
from harness.processes.supervisor import Supervisor
with Supervisor.launch() as supervisor:
    daemon, sleep, keep = map(json.loads, sys.argv[1:])
    env = {"PATH": "/bin:/usr/bin"}
    log = supervisor.start("daemon", daemon, env=env)
    supervisor.start("sleep", sleep, env=env)
    while not log.read_text():
        time.sleep(0.01)
    if keep:
        supervisor.keep()
    print(json.dumps([supervisor._process.pid, int(log.read_text()), str(supervisor.directory)]), flush=True)
    if not keep:
        time.sleep(600)
"""


class Started:
    """A harness of the clone ROOT, its run's directory, and the ids of its processes."""

    def __init__(self, root: Path = ROOT, *, keep: bool = False) -> None:
        arguments = map(json.dumps, ([sys.executable, "-c", DAEMON], SLEEP, keep))
        argv = [clones.python_of(root), "-c", HARNESS, *arguments]
        self.harness = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=clones.environment(), cwd=root)
        assert self.harness.stdout is not None
        self.supervisor, self.daemon, directory = json.loads(self.harness.stdout.readline())
        self.directory = Path(directory)
        below = [child.pid for child in psutil.Process(self.supervisor).children(recursive=True)]
        self.services = [pid for pid in below if pid != self.daemon and not has_ended(pid)]
        assert len(self.services) == 2
        if keep:
            assert self.harness.wait(60) == 0

    @property
    def processes(self) -> list[int]:
        return [self.supervisor, self.daemon, *self.services]

    @property
    def is_up(self) -> bool:
        return self.directory.exists() and not any(map(has_ended, self.processes))

    @property
    def is_gone(self) -> bool:
        return not self.directory.exists() and all(map(has_ended, self.processes))

    def kill_supervisor(self) -> None:
        """Kill the supervisor and the harness; wait until the kernel has ended the services, but not the daemon."""
        os.kill(self.supervisor, signal.SIGKILL)
        self.harness.kill()
        self.harness.wait()
        assert eventually(lambda: all(map(has_ended, self.services)))
        assert not has_ended(self.daemon)
        assert self.directory.exists()


def down(root: Path) -> list[str]:
    """Run `nox -s dbt -- --down` in the clone at ROOT, and return the lines of its output."""
    argv = [clones.python_of(root), "-m", "harness", "dbt", "--down"]
    run = subprocess.run(argv, env=clones.environment(), cwd=root, check=True, capture_output=True, text=True)
    return run.stdout.splitlines()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_everything_is_taken_down_when_the_harness_is_killed(number: signal.Signals) -> None:
    run = Started()
    run.harness.send_signal(number)
    run.harness.wait(60)
    assert eventually(lambda: run.is_gone)


def test_the_services_of_a_killed_supervisor_end_and_the_next_run_removes_the_rest() -> None:
    run = Started()
    run.kill_supervisor()
    assert run.directory in remove_orphans()
    assert eventually(lambda: run.is_gone)


def test_a_kept_run_stays_up_until_its_supervisor_is_terminated() -> None:
    run = Started(keep=True)
    assert [(found.pid, found.directory) for found in kept()] == [(run.supervisor, run.directory)]
    assert remove_orphans() == []
    assert run.is_up
    os.kill(run.supervisor, signal.SIGTERM)
    assert eventually(lambda: run.is_gone)
    assert kept() == []


def test_down_takes_down_the_kept_runs_of_its_own_clone_only(clone: Path, tmp_path: Path) -> None:
    run = Started(clone, keep=True)
    try:
        assert down(ROOT) == [
            f"no run of this clone is up in {tmp_path}; to take down a cluster: nox -s cluster -- down"
        ]
        assert run.is_up
    finally:
        (link := tmp_path / "link").symlink_to(clone)
        assert down(link) == [f"✓ {run.directory.name} taken down"]
    assert run.is_gone


def test_another_program_with_the_supervisors_process_id_is_not_ended(tmp_path: Path) -> None:
    (tmp_path / "supervisor.json").touch()
    with subprocess.Popen(SLEEP, cwd=tmp_path) as other:
        run = Run(tmp_path, other.pid, is_kept=True, clone=str(ROOT), is_alive=True)
        assert not run.take_down(timeout_s=1)
        assert other.poll() is None
        other.kill()


def test_orphans_of_another_clone_stay_until_that_clone_is_gone(clone: Path) -> None:
    run = Started(clone)
    run.kill_supervisor()
    try:
        assert remove_orphans() == []
        assert not has_ended(run.daemon)
        assert run.directory.exists()
    finally:
        clone.rename(clone.with_name("moved"))
        assert remove_orphans() == [run.directory]
    assert eventually(lambda: run.is_gone)


def test_a_kept_run_whose_clone_is_gone_stays_up_and_is_named(clone: Path) -> None:
    run = Started(clone, keep=True)
    clone.rename(clone.with_name("moved"))
    try:
        owner = f"the clone {clone}, which no longer exists"
        command = f"kill {run.supervisor}"
        assert down(ROOT)[1:] == [f"… {run.directory.name} stays up: it belongs to {owner}. Take it down: {command}"]
        assert run.is_up
    finally:
        os.kill(run.supervisor, signal.SIGTERM)
        assert eventually(lambda: run.is_gone)


@pytest.mark.parametrize(
    ("clone", "is_abandoned"),
    [(str(ROOT), False), ("/no/such/clone", True), (f"/{'x' * 300}", False), ("", True)],
)
def test_a_clone_whose_path_cannot_be_read_counts_as_existing(clone: str, is_abandoned: bool) -> None:
    assert Run(Path(), 1, is_kept=True, clone=clone, is_alive=True).is_abandoned is is_abandoned


def test_an_orphan_of_a_version_that_recorded_no_clone_is_removed(tmp_path: Path) -> None:
    (directory := tmp_path / "events-platform-older").mkdir()
    (directory / "supervisor.json").write_text('{"pid": 1, "kept": true}')
    assert remove_orphans() == [directory]
    assert not directory.exists()

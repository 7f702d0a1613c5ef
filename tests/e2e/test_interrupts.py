"""An end-to-end run that is interrupted in a phase takes everything down: processes, ports, directory, users."""

import os
import pwd
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.locks import ROOT

TIMEOUT_S = 150
# The line after which the phase is under way, the signal, and the exit code of the harness.
INTERRUPTS = {
    "PostgreSQL starts": ("target embedded", signal.SIGINT, 130),
    "the metadata database is migrated": ("✓ PostgreSQL", signal.SIGTERM, 143),
    "Airflow starts": ("✓ Airflow's metadata", signal.SIGHUP, 129),
    "a DAG runs": ("create_tables  running", signal.SIGINT, 130),
    "killed while a DAG runs": ("load_events    running", signal.SIGKILL, -9),
}


def processes_below(directory: Path) -> list[str]:
    """Return the processes whose command line, working directory or environment names DIRECTORY."""
    found = []
    for process in psutil.process_iter():
        try:
            told = [*process.cmdline(), process.cwd(), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # zombies are no such process, too
            continue
        if process.pid != os.getpid() and any(str(directory) in text for text in told):
            found.append(f"{process.pid} {' '.join(process.cmdline())}")
    return found


@pytest.mark.parametrize("phase", INTERRUPTS)
def test_an_interrupt_leaves_nothing(phase: str, tmp_path: Path) -> None:
    begun, number, code = INTERRUPTS[phase]
    users = {user.pw_name for user in pwd.getpwall()}
    path = os.pathsep.join((str(ROOT / "cluster"), str(ROOT / "airflow" / "include")))
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:  # as root, PostgreSQL runs as nobody and must reach its folder
        parent.chmod(parent.stat().st_mode | 0o011)
    harness = subprocess.Popen(
        [sys.executable, "-m", "harness", "e2e", "--target", "embedded"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": path, "TMPDIR": str(tmp_path)},
    )
    assert harness.stdout is not None
    said = []
    for line in harness.stdout:
        said.append(line)
        if begun in line:
            time.sleep(0.5)  # into the phase
            harness.send_signal(number)
            break
    said += harness.stdout.readlines()
    assert harness.wait(TIMEOUT_S) == code, "".join(said)
    if number != signal.SIGKILL:
        assert said[-1] == f"✗ interrupted ({number.name})\n"
        assert any(line.startswith("✓ everything taken down") for line in said)
        assert "Traceback" not in "".join(said)
    deadline = time.monotonic() + TIMEOUT_S  # after SIGKILL the supervisor goes on alone
    while (left := [*processes_below(tmp_path), *tmp_path.iterdir()]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    assert {user.pw_name for user in pwd.getpwall()} == users

"""An interrupt while Python imports, and a file that cannot be written, end a session without a traceback."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.commands.common_errors import expected_errors
from harness.errors import DiskFullError, NotWritableError
from harness.project import os_errors
from tests import clones


def start(tmp_path: Path, name: str, program: str) -> subprocess.Popen[str]:
    """Start PROGRAM by its NAME, as a session does."""
    (tmp_path / "program.py").write_text(program)
    module = str(tmp_path / name) if name.endswith(".py") else name
    return subprocess.Popen(
        [sys.executable, "-m", "harness.project.posargs", module],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=clones.environment(PYTHONPATH=str(tmp_path), TMPDIR="/tmp"),  # noqa: S108 - shown, not used
    )


@pytest.mark.parametrize("name", ["program.py", "program"])  # a file, and a module
def test_an_interrupt_during_the_imports_prints_no_traceback(tmp_path: Path, name: str) -> None:
    process = start(tmp_path, name, "import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0] == "✗ Interrupted by SIGINT.\n"
    assert process.returncode == 130


def test_a_folder_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    error = "OSError(30, 'Read-only file system', 'build')"
    process = start(tmp_path, "program.py", f"raise {error}")
    assert process.communicate(timeout=30)[0] == (
        "✗ build cannot be used: Read-only file system.\n"
        "  Its file system is read-only, or it belongs to another user: an earlier run with sudo, for example.\n"
        "  Make it writable. Sessions write to build/, to .nox/ and to /tmp (TMPDIR).\n"
    )
    assert process.returncode == NotWritableError.exit_code == 66
    with pytest.raises(NotWritableError, match=r"^build cannot be used: Read-only file system\.\n"), expected_errors():
        raise OSError(30, "Read-only file system", "build")


def test_a_full_disk_is_explained() -> None:
    assert DiskFullError.exit_code == os_errors.DISK_FULL
    with pytest.raises(DiskFullError, match=r"^The disk is full: "), expected_errors(), open("/dev/full", "w") as file:
        file.write("x")


def test_other_errors_of_the_system_are_not(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), expected_errors():
        (tmp_path / "missing").read_text()

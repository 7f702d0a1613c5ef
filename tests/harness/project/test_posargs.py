"""What a session runs ends as elsewhere when it is interrupted before it can handle that: while Python imports."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import clones


@pytest.mark.parametrize("name", ["slow.py", "slow"])  # a file, and a module
def test_an_interrupt_during_the_imports_prints_no_traceback(tmp_path: Path, name: str) -> None:
    (tmp_path / "slow.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.project.posargs", str(tmp_path / name) if name.endswith(".py") else name],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=clones.environment(PYTHONPATH=str(tmp_path)),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0] == "✗ Interrupted by SIGINT.\n"
    assert process.returncode == 130

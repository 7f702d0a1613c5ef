"""The feeds' contracts are valid and, on a pull request, change nothing that breaks readers unless they say so."""

import subprocess
import sys
from pathlib import Path


def test_nox_s_feed_check_finds_nothing() -> None:
    argv = [sys.executable, "-m", "harness", "feed", "check"]
    checked = subprocess.run(argv, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr

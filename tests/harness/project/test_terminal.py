"""A terminal without UTF-8 gets `?` for other characters."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import clones

PROGRAM = "from harness.reporting.console import error, say; say('✓ é done'); error('what', 'why', 'next')"


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", b"? ? done\n"), ("latin-1", b"? \xe9 done\n"), ("utf-8", "✓ é done\n".encode())]
)
def test_characters_that_the_encoding_lacks_are_replaced(tmp_path: Path, encoding: str, shown: bytes) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    argv = [sys.executable, "-m", "harness.project.posargs", str(tmp_path / "program.py")]
    done = subprocess.run(argv, env=clones.environment(PYTHONIOENCODING=encoding), capture_output=True, check=True)
    assert done.stdout == shown
    assert len(done.stderr.splitlines()) == 3

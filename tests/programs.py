"""Programs in Python that tests put in the place of real ones."""

import sys
from pathlib import Path


def write(path: Path, source: str) -> Path:
    """Write a program to PATH and return it.

    A shell reads its first lines: `#!` takes no path with a space in it, and this Python is below the project's folder.
    """
    path.write_text(f"""#!/bin/sh\n'''exec' "{sys.executable}" "$0" "$@"\n' '''\n{source}""")
    path.chmod(0o755)
    return path

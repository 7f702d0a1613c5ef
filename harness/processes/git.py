"""Ask git about a clone."""

import os
from pathlib import Path

from harness.errors import CommandFailedError
from harness.processes.command import run


def git(folder: Path, *arguments: str | Path) -> str:
    """Return the output of git in FOLDER; raise CommandFailedError."""
    return run("git", "-C", folder, *arguments).removesuffix("\n")


def said_by(error: CommandFailedError) -> str:
    """Return what git says of a command that failed: its first line that says `fatal`, else its last."""
    lines = error.output.strip().splitlines()
    fatal = [line.removeprefix("fatal: ") for line in lines if line.startswith("fatal: ")]
    return (fatal or lines[-1:] or [error.what])[0]


def base_of_pull_request() -> str | None:
    """Return the branch that a pull request asks to merge into, as its checkout names it; None if this is none."""
    branch = os.environ.get("GITHUB_BASE_REF")
    return f"origin/{branch}" if branch else None

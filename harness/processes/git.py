"""Ask git about a clone."""

import os
from pathlib import Path

from harness.errors import CommandFailedError
from harness.processes.command import run

DEFAULT_BRANCHES = ("origin/main", "origin/master", "main", "master")


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


def default_branch(folder: Path) -> str | None:
    """Return the default branch of the remote of the clone in FOLDER, or a local one of a usual name; None without."""
    for candidate in ("refs/remotes/origin/HEAD", *DEFAULT_BRANCHES):
        try:
            return git(folder, "rev-parse", "--verify", "--quiet", "--abbrev-ref", candidate)
        except CommandFailedError:
            continue
    return None


def is_on(folder: Path, branch: str) -> bool:
    """Return whether the commit that the clone in FOLDER has checked out is one of BRANCH."""
    try:
        git(folder, "merge-base", "--is-ancestor", "HEAD", branch)
    except CommandFailedError:
        return False
    return True

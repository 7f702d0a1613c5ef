"""The base of a comparison: a commit, and its files in a folder of their own."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from feeds.uri import shown
from harness.errors import BaseFailedError, BaseUnusableError, CommandFailedError, HistoryMissingError
from harness.processes.command import run
from harness.processes.git import DEFAULT_BRANCHES, base_of_pull_request, default_branch, git, said_by
from harness.project import environments, locks
from harness.project.paths import ROOT

ALL_BRANCHES = "'+refs/heads/*:refs/remotes/origin/*'"  # a clone of one branch fetches only that one by itself
CHECKOUT_TIMEOUT_S = 300.0
PACKAGES = Path("dbt", "dbt_packages")


@dataclass(frozen=True)
class Base:
    """A commit.

    Attributes:
        name: what it is for people: `v1.2`, `the merge base with origin/main`.
        folder: where its files are; only while they are `checked_out`.
    """

    name: str
    commit: str
    folder: Path = Path()

    def __str__(self) -> str:
        short = self.commit[:8]
        return short if self.commit.startswith(self.name) else f"{self.name} ({short})"


def find_base(ref: str | None, root: Path = ROOT) -> Base:
    """Return the base REF; without one the commit where this branch left the default branch.

    On a pull request the default branch is the one that it asks to merge into. Raises HistoryMissingError if there is
    no git or ROOT is no clone, BaseUnusableError if there is no such commit.
    """
    if not shutil.which("git"):
        raise HistoryMissingError(
            "git is not installed, and the base is a commit.",
            "There is no program `git` on the PATH.",
            "Install it, and try again: apt-get install git",
        )
    try:
        git(root, "rev-parse", "--verify", "HEAD")
    except CommandFailedError as error:
        raise HistoryMissingError(
            "This folder has no history to compare with.",
            f"git says: {said_by(error)}",
            "Clone the repository with git, or commit once: git init && git add . && git commit",
        ) from error
    if ref is not None:
        return Base(shown(ref), commit_of(root, ref))
    branch = base_of_pull_request() or default_branch(root)
    if branch is None:
        raise BaseUnusableError(
            "It is not known which branch this one is compared with.",
            f"There is no default branch of a remote `origin`, and none of: {', '.join(DEFAULT_BRANCHES)}.",
            "Name a commit or a branch: nox -s diff -- --base REF",
        )
    commit = commit_of(root, branch)
    try:
        return Base(f"the merge base with {branch}", git(root, "merge-base", commit, "HEAD"))
    except CommandFailedError as error:
        why = "Their histories began apart, so this branch did not leave that one."
        next_step = f"Compare with its present state: nox -s diff -- --base {branch}"
        raise unusable(root, f"{branch} and this branch have no commit in common.", why, next_step) from error


def commit_of(root: Path, ref: str) -> str:
    """Return the commit that REF names."""
    try:
        return git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    except CommandFailedError as error:
        raise unusable(
            root,
            f"There is no commit {shown(ref)!r} in this clone.",
            "It is misspelt, or it was not fetched yet.",
            f"Fetch what the remote has, and try again: git fetch --tags origin {ALL_BRANCHES}",
        ) from error


def unusable(root: Path, what: str, why: str, next_step: str) -> BaseUnusableError:
    """Return the error for a base of which WHAT is wrong; in a shallow clone that is the most likely reason."""
    if git(root, "rev-parse", "--is-shallow-repository") == "true":
        why = "This clone is shallow: it has only the latest commits."
        next_step = f"Fetch the others, and try again: git fetch --unshallow --tags origin {ALL_BRANCHES}"
    return BaseUnusableError(what, why, next_step)


@contextmanager
def checked_out(base: Base, root: Path = ROOT) -> Iterator[Base]:
    """Put BASE's files into a folder below `build/`, which is removed at the end; the clone's index stays as it is.

    What a killed run has left there goes first.
    """
    work = root / "build" / "diff" / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        target = work / "base"
        env = {"GIT_INDEX_FILE": str(work / "index")}
        for arguments in (("read-tree", base.commit), ("checkout-index", "--all", "--quiet", f"--prefix={target}/")):
            run("git", "-C", root, *arguments, env=env, timeout_s=CHECKOUT_TIMEOUT_S)
        folder = target / git(root, "rev-parse", "--show-prefix")  # the project may be in a folder of a repository
        if not (folder / "dbt" / "dbt_project.yml").is_file():
            raise BaseUnusableError(
                f"The base, {base}, has no dbt project.",
                "There is no dbt/dbt_project.yml in it: it is most likely from before the project had models.",
                "Name a later commit: nox -s diff -- --base REF",
            )
        link_packages(folder, root)
        yield Base(base.name, base.commit, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def link_packages(folder: Path, root: Path) -> None:
    """Give the base in FOLDER the packages that `dbt deps` has installed in ROOT, if both ask for the same."""
    installed, names = root / PACKAGES, ("packages.yml", "dependencies.yml", "package-lock.yml")
    is_same = not differing_files(folder, root, *(f"dbt/{name}" for name in names))
    if installed.is_dir() and is_same and not (folder / PACKAGES).exists():
        (folder / PACKAGES).symlink_to(installed.absolute(), target_is_directory=True)


def uncommitted(root: Path = ROOT) -> list[str]:
    """Return the files of ROOT with changes that are not committed, new ones too."""
    options = ("--porcelain", "-z", "--untracked-files=all", "--", ".")
    status = run("git", "--no-optional-locks", "-C", root, "status", *options)  # it would write the index
    prefix = git(root, "rev-parse", "--show-prefix")
    entries = iter(status.split("\0"))
    files = []
    for entry in entries:
        if entry:
            files.append(entry[3:].removeprefix(prefix))
            if set(entry[:2]) & set("RC"):
                next(entries, None)  # the name that it had before
    return files


def differing_files(base: Path, root: Path, *places: str) -> list[str]:
    """Return the files below PLACES, from the root, that are not the same in the folders BASE and ROOT."""
    different = []
    for place in places:
        names = {path.relative_to(side) for side in (base, root) for path in files_of(side / place)}
        for name in sorted(names):
            contents = [(side / name).read_bytes() if (side / name).is_file() else None for side in (base, root)]
            if contents[0] != contents[1]:
                different.append(str(name))
    return different


def files_of(place: Path) -> Iterator[Path]:
    """Yield PLACE if it is a file, or the files in it and below it that neither Python nor dbt has made."""
    if place.is_file():
        yield place
    for folder, folders, names in os.walk(place):
        folders[:] = [name for name in folders if name not in ("__pycache__", "target", "logs", PACKAGES.name)]
        yield from (Path(folder, name) for name in names)


def python_of_base(base: Base, group: str) -> Path:
    """Return the Python of an environment with the packages that BASE's lock of GROUP names; raise BaseFailedError."""
    lock = base.folder / "requirements" / f"{group}.txt"
    if not lock.is_file():
        raise BaseFailedError(
            f"The base, {base}, has no lock of {group}: there is no {lock.relative_to(base.folder)} in it.",
            "It is most likely from before the packages of its parts were locked, and nothing says which it needs.",
            "Compare with a later commit: nox -s diff -- --base REF",
        )
    try:
        return environments.install_other(group, lock)
    except (locks.LockError, OSError) as error:
        raise BaseFailedError(
            f"The packages of the base's lock of {group} cannot be installed: {error}",
            "The base has another lock than this tree, and is built with its own packages.",
            "Run it where the package index is reached, or compare with a later commit: nox -s diff -- --base REF",
        ) from error

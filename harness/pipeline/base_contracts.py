"""The contracts of another commit."""

import os
import tempfile
from pathlib import Path

from feeds.contract import CONTRACTS, Feed, read_feed
from feeds.errors import ContractInvalid
from harness.errors import CommandFailedError, HistoryMissingError
from harness.processes.command import run
from harness.project.paths import ROOT


def base_of_pull_request() -> str | None:
    """Return the branch that a pull request asks to merge into, as its checkout names it; None if this is none."""
    branch = os.environ.get("GITHUB_BASE_REF")
    return f"origin/{branch}" if branch else None


def contracts_of(commit: str, root: Path = ROOT) -> dict[str, Feed | ContractInvalid]:
    """Return the contracts where this history left COMMIT, by feed, or why one is not valid by the present rules.

    Raises:
        HistoryMissingError: there is no such commit, or no git.
    """
    folder = CONTRACTS.relative_to(ROOT)
    try:
        commit = run("git", "-C", root, "merge-base", commit, "HEAD").strip()
        paths = run("git", "-C", root, "ls-tree", "-z", "--name-only", commit, f"{folder}/").split("\0")
        contracts: dict[str, Feed | ContractInvalid] = {}
        with tempfile.TemporaryDirectory() as temporary:
            for path in (Path(name) for name in paths if name.endswith(".yaml")):
                copy = Path(temporary) / path.name
                copy.write_text(run("git", "-C", root, "show", f"{commit}:{path}"), encoding="utf-8")
                try:
                    contracts[path.stem] = read_feed(copy)
                except ContractInvalid as error:
                    contracts[path.stem] = error
        return contracts
    except CommandFailedError as error:
        raise HistoryMissingError(
            f"The contracts of {commit} cannot be read.",
            f"git says: {error.output.strip().splitlines()[-1] if error.output.strip() else error.what}",
            "Name a commit or branch that this clone has: git fetch origin main, then --base origin/main",
        ) from error

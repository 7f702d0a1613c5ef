"""The contracts of another commit."""

import tempfile
from pathlib import Path

from feeds.contract import CONTRACTS, Feed, read_feed
from feeds.errors import ContractInvalid
from harness.errors import CommandFailedError, HistoryMissingError
from harness.processes.git import git, said_by


def contracts_of(commit: str, folder: Path = CONTRACTS) -> dict[str, Feed | ContractInvalid]:
    """Return the contracts that FOLDER had where its history left COMMIT, or why one is not valid by the present rules.

    Raises:
        HistoryMissingError: there is no such commit, or no git.
    """
    try:
        common = git(folder, "merge-base", commit, "HEAD")
        names = git(folder, "ls-tree", "-z", "--name-only", common).split("\0")
        contracts: dict[str, Feed | ContractInvalid] = {}
        with tempfile.TemporaryDirectory() as temporary:
            for path in (Path(temporary, name) for name in names if name.endswith(".yaml")):
                path.write_text(git(folder, "show", f"{common}:./{path.name}"), encoding="utf-8")
                try:
                    contracts[path.stem] = read_feed(path)
                except ContractInvalid as error:
                    contracts[path.stem] = error
        return contracts
    except CommandFailedError as error:
        raise HistoryMissingError(
            f"The contracts of {commit} cannot be read.",
            f"git says: {said_by(error)}",
            "Name a commit or branch that this clone has: git fetch origin main, then --base origin/main",
        ) from error

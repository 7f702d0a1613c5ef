"""Run the jobs of a GitHub workflow on this machine, as GitHub would: `nox -s workflow`.

[act](https://nektosact.com) reads the workflow, makes the matrix from the outputs of the job `plan`, evaluates each
expression and condition, and runs every `run` line in a shell with the job's environment, in a clean clone of the last
commit. Stand-ins replace GitHub's actions (see STANDINS): nothing is downloaded, and jobs start without caches.

    nox -s workflow -- pull_request                                 all jobs
    nox -s workflow -- push --job session --matrix session:lint     one of them, and the plan

The arguments after `--` are those of act.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.errors import CommandFailedError, HistoryMissingError
from harness.processes.command import run
from harness.project.paths import ROOT
from harness.project.settings import places
from harness.reporting import console
from harness.reporting.console import say

GITHUB = ROOT / ".github"
CI = GITHUB / "workflows" / "ci.yml"
ACT = Path(sys.executable).parent / "act"
# The variables that jobs get from this machine: its engine, mirrors, certificates, proxies.
PASSED_ON = re.compile(
    r"(PLATFORM|DOCKER|TESTCONTAINERS|AIRGAP|SSL|PIP|UV|HTTPS?|NO)_|(https?|no)_proxy$|(HOME|TMPDIR|LANG)$"
)
# By action; act has its own `actions/checkout`. The stand-in for any other action does nothing.
STANDINS: dict[str, dict[str, Any]] = {
    "actions/setup-python": {
        "run": '"$PYTHON" -m venv "$RUNNER_TEMP/python" && echo "$RUNNER_TEMP/python/bin" >>"$GITHUB_PATH"',
        "env": {"PYTHON": sys.executable},
    },
    "actions/upload-artifact": {
        "run": 'for path in $WANTED; do [ ! -e "$path" ] || echo "would upload $path"; done',
        "env": {"WANTED": "${{ inputs.path }}"},
    },
}


def actions() -> Iterator[tuple[str, str]]:
    """Yield the name and commit of each action that the workflows use, except this repository's own."""
    for path in sorted([*GITHUB.glob("workflows/*.yml"), *GITHUB.glob("actions/*/action.yml")]):
        yield from re.findall(r"uses: ([\w.-]+/[\w./-]+)@(\w+)", path.read_text(encoding="utf-8"))


def make_standin(folder: Path, action: str) -> None:
    """Write the stand-in for ACTION into FOLDER."""
    step = {"run": "true", "env": {}} | STANDINS.get(action, {}) | {"shell": "bash"}
    inputs = {name: {"description": name, "default": ""} for name in re.findall(r"inputs\.(\w+)", json.dumps(step))}
    runs = {"using": "composite", "steps": [step]}
    definition = {"name": action, "description": action, "inputs": inputs, "runs": runs}
    folder.mkdir(parents=True)
    (folder / "action.yml").write_text(yaml.safe_dump(definition), encoding="utf-8")


def command(directory: Path, arguments: Sequence[str], workflow: Path = CI) -> list[str]:
    """Return the command of act for WORKFLOW, and write the files that it needs into DIRECTORY."""
    repositories = {}
    for action, commit in dict.fromkeys(actions()):
        if action != "actions/checkout":
            owner, name, *below = action.split("/")
            folder = directory / "actions" / owner / name / commit
            make_standin(folder.joinpath(*below), action)
            repositories[f"{owner}/{name}@{commit}"] = folder
    options = [part for name, folder in repositories.items() for part in ("--local-repository", f"{name}={folder}")]
    for runner in sorted({place["runner"] for place in places().values()}):
        options += ["--platform", f"{runner}=-self-hosted"]  # each is this machine
    # act 0.2 does not know `$/`, the repository itself. The clone is not changed: sessions read it.
    read = directory / "ci.yml"
    read.write_text(workflow.read_text(encoding="utf-8").replace("uses: $/", "uses: ./"), encoding="utf-8")
    environment = directory / "environment"
    passed_on = {name: value for name, value in os.environ.items() if PASSED_ON.match(name) and "\n" not in value}
    environment.touch(mode=0o600)
    environment.write_text("".join(f"{name}={value}\n" for name, value in passed_on.items()), encoding="utf-8")
    return [
        str(ACT), *arguments, *options,
        "--workflows", str(read),
        "--env-file", str(environment),
        "--action-cache-path", str(directory / "cache"),
        "--concurrent-jobs", "1",  # GitHub has a machine for each
        "--pull=false", "--no-cache-server",
    ]  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Run the jobs on a clean clone of the last commit; return the exit code of act, or of an expected error."""
    try:
        run("git", "-C", ROOT, "rev-parse", "--verify", "HEAD")
    except CommandFailedError:
        console.error(
            f"{ROOT} has no commit to run the jobs on.",
            "It was downloaded without its history, or git is not installed or does not trust the owner of the folder.",
            "Clone the repository with git and run it there.",
        )
        return HistoryMissingError.exit_code
    with tempfile.TemporaryDirectory(prefix="events-platform-workflow-") as name:
        directory = Path(name)
        clone = directory / "clone"
        run("git", "clone", "--quiet", "--no-hardlinks", ROOT, clone, timeout_s=600)
        origin = "https://github.com/example/events-platform"  # act needs an address of GitHub, and does not use it
        run("git", "-C", clone, "remote", "set-url", "origin", origin)
        if run("git", "-C", ROOT, "status", "--porcelain"):
            say("… the jobs run on the last commit, without the uncommitted changes")
        argv = command(directory, arguments or ["push"])
        with subprocess.Popen(argv, cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as act:
            assert act.stdout is not None
            for line in act.stdout:
                if "LocalRepositoryCache" not in line:  # a line for each use of a stand-in
                    say(line.rstrip("\n"))
        return act.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

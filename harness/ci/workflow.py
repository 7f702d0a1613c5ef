"""Run the jobs of a GitHub workflow on this machine, as GitHub would: `nox -s workflow`.

[act](https://nektosact.com) reads the workflow, makes the matrix out of what the job `plan` has put out, evaluates each
expression and condition, and runs every `run` line in a shell with the job's environment, in a clean copy of the last
commit. What is GitHub's own is replaced by stand-ins (see STANDINS): nothing is fetched, so a job begins cold.

    nox -s workflow -- pull_request                                 every job
    nox -s workflow -- push --job session --matrix session:lint     one of them, and the plan

What follows `--` is act's.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.errors import CommandFailedError, HistoryMissingError
from harness.processes import command as commands
from harness.project.paths import ROOT
from harness.reporting import console
from harness.reporting.console import say

GITHUB = ROOT / ".github"
CI = GITHUB / "workflows" / "ci.yml"
ACT = Path(sys.executable).parent / "act"
RUNNER = "ubuntu-24.04"
# What a job here needs in place of what GitHub's machine has: this machine's engine, mirrors, certificates, proxies.
PASSED_ON = re.compile(
    r"(PLATFORM|DOCKER|TESTCONTAINERS|AIRGAP|SSL|PIP|UV|HTTPS?|NO)_|(https?|no)_proxy$|(HOME|TMPDIR|LANG)$"
)
# By action; `actions/checkout` is act's own. One that is not here does nothing.
STANDINS: dict[str, dict[str, Any]] = {
    "actions/setup-python": {
        "run": '"$PYTHON" -m venv "$RUNNER_TEMP/python" && echo "$RUNNER_TEMP/python/bin" >>"$GITHUB_PATH"',
        "env": {"PYTHON": sys.executable},
    },
    "actions/upload-artifact": {
        "run": 'for path in $WANTED; do [ ! -e "$path" ] || echo "would keep $path"; done',
        "env": {"WANTED": "${{ inputs.path }}"},
    },
}


def actions() -> Iterator[tuple[str, str]]:
    """Yield the name and the commit of each action that the workflows use, those of this repository apart."""
    for path in sorted([*GITHUB.glob("workflows/*.yml"), *GITHUB.glob("actions/*/action.yml")]):
        yield from re.findall(r"uses: ([\w.-]+/[\w./-]+)@(\w+)", path.read_text(encoding="utf-8"))


def make_standin(folder: Path, action: str) -> None:
    """Write an action into FOLDER that stands in for ACTION."""
    step = {"run": "true", "env": {}} | STANDINS.get(action, {}) | {"shell": "bash"}
    inputs = {name: {"description": name, "default": ""} for name in re.findall(r"inputs\.(\w+)", json.dumps(step))}
    told = {"name": action, "description": action, "inputs": inputs, "runs": {"using": "composite", "steps": [step]}}
    folder.mkdir(parents=True)
    (folder / "action.yml").write_text(yaml.safe_dump(told), encoding="utf-8")


def command(directory: Path, arguments: Sequence[str], workflow: Path = CI) -> list[str]:
    """Return act's command line for WORKFLOW, and write what it needs into DIRECTORY."""
    options = []
    for action, commit in dict.fromkeys(actions()):
        if action != "actions/checkout":
            folder = directory / "actions" / action / commit
            make_standin(folder, action)
            options += ["--local-repository", f"{action}@{commit}={folder}"]
    # act 0.2 does not know `$/`, the repository itself; the clone stays as it is, for sessions that read it.
    read = directory / "ci.yml"
    read.write_text(workflow.read_text(encoding="utf-8").replace("uses: $/", "uses: ./"), encoding="utf-8")
    environment = directory / "environment"
    passed_on = {name: value for name, value in os.environ.items() if PASSED_ON.match(name) and "\n" not in value}
    environment.touch(mode=0o600)
    environment.write_text("".join(f"{name}={value}\n" for name, value in passed_on.items()), encoding="utf-8")
    return [
        str(ACT), *arguments, *options,
        "--workflows", str(read),
        "--platform", f"{RUNNER}=-self-hosted",
        "--env-file", str(environment),
        "--action-cache-path", str(directory / "cache"),
        "--concurrent-jobs", "1",  # one machine does what GitHub gives several
        "--pull=false", "--no-cache-server",
    ]  # fmt: skip


def git(*arguments: str, cwd: Path) -> str:
    """Run git and return what it says."""
    argv = [shutil.which("git") or "git", *arguments]
    return subprocess.run(argv, cwd=cwd, stdout=subprocess.PIPE, text=True, check=True).stdout


def check_history() -> None:
    """Raise HistoryMissingError unless the project is a clone with a commit."""
    try:
        commands.run("git", "-C", ROOT, "rev-parse", "--verify", "HEAD")
    except CommandFailedError as error:
        raise HistoryMissingError(
            f"{ROOT} has no commit to run the jobs on.",
            "It was downloaded without its history, or git is not installed or does not trust the folder's owner.",
            "Clone the repository with git and run it there.",
        ) from error


def main(arguments: Sequence[str]) -> int:
    """Run the jobs on a clean clone of the last commit; return act's exit code, or a foreseen error's."""
    try:
        check_history()
    except HistoryMissingError as error:
        console.error(error.what, error.why, error.next_step)
        return error.exit_code
    with tempfile.TemporaryDirectory(prefix="events-platform-workflow-") as name:
        directory = Path(name)
        clone = directory / "clone"
        git("clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone), cwd=directory)
        origin = "https://github.com/example/events-platform"  # act wants one of GitHub's, and asks it for nothing
        git("remote", "set-url", "origin", origin, cwd=clone)
        if git("status", "--porcelain", cwd=ROOT):
            say("… what is not committed is not in the clone that the jobs run on")
        argv = command(directory, arguments or ["push"])
        with subprocess.Popen(argv, cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as act:
            assert act.stdout is not None
            for line in act.stdout:
                if "LocalRepositoryCache" not in line:  # a line for each look at a stand-in
                    say(line.rstrip("\n"))
        return act.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

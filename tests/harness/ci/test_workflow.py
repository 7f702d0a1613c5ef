"""act runs the workflow as GitHub does: the outputs of the plan, and the conditions of the gate."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.ci import workflow
from harness.project.paths import ROOT
from tests.clones import git

CI = ROOT / ".github" / "workflows" / "ci.yml"
PLAN = {
    "sessions": [{"session": "lint", "minutes": 5, "engine": False}],
    "places": [{"place": "kind", "target": "kind", "runner": "ubuntu-24.04", "node": "", "minutes": 5}],
    "pythons": [{"python": "3.11.2", "minutes": 5}],
}
NO_MORE: dict[str, list[Any]] = {"places": [], "pythons": []}


def act(repository: Path, *arguments: str) -> tuple[int, str]:
    """Run the repository's workflow with act; return its exit code and output."""
    scratch = repository.parent / "scratch"
    scratch.mkdir()
    argv = workflow.command(scratch, arguments, repository / ".github" / "workflows" / "ci.yml")
    env = os.environ | {"DOCKER_HOST": "unix:///nowhere"}
    done = subprocess.run(argv, cwd=repository, env=env, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout + done.stderr


def repository_with(path: Path, definition: dict[Any, Any]) -> Path:
    (path / ".github" / "workflows").mkdir(parents=True)
    (path / ".github" / "workflows" / "ci.yml").write_text(yaml.safe_dump(definition))
    for command in (("init", "--quiet"), ("add", "."), ("commit", "--quiet", "--message", "one")):
        git(path, *command)
    return path


@pytest.mark.needs("git")
@pytest.mark.parametrize(
    ("failing", "is_whole", "passes"),
    [
        ("", True, True),
        ("", False, True),  # the plan leaves the end-to-end run and other Pythons out
        ("session", True, False),
        ("e2e", True, False),
        ("python", True, False),
        ("session", False, False),
        ("plan", True, False),  # nothing else runs then
    ],
)
def test_the_gate_passes_only_when_every_planned_job_has_passed(
    tmp_path: Path, failing: str, is_whole: bool, passes: bool
) -> None:
    definition = yaml.safe_load(CI.read_text(encoding="utf-8"))
    definition["on"] = definition.pop(True)  # YAML 1.1 takes the key for a boolean
    outputs = PLAN if is_whole else PLAN | NO_MORE
    set_outputs = "".join(f"echo '{name}={json.dumps(jobs)}' >>\"$GITHUB_OUTPUT\"\n" for name, jobs in outputs.items())
    for name in ("plan", "session", "e2e", "python"):
        run = (set_outputs if name == "plan" else "") + str(name != failing).lower()
        definition["jobs"][name]["steps"] = [{"id": "plan", "run": run}]
    code, output = act(repository_with(tmp_path / "repository", definition), "push")
    assert bool(re.search(r"\[CI/gate *\] 🏁  Job succeeded", output)) is passes, output
    assert (code == 0) is passes, output
    for name in ("CI/e2e", "CI/python"):
        assert (name in output) is (is_whole and failing != "plan"), output


@pytest.mark.slow
@pytest.mark.needs("history")
def test_the_jobs_run_on_this_machine(tmp_path: Path) -> None:
    env = os.environ | {"TMPDIR": str(tmp_path)}
    argv = [sys.executable, "-m", "harness.ci.workflow", "pull_request", "--job", "plan"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [sessions] = re.findall(r"::set-output:: sessions=(.*)", done.stdout)
    assert {"lint", "types", "tests"} <= {job["session"] for job in json.loads(sessions)}
    assert '::set-output:: places=[{"place": "kind", "target": "kind", "runner": "ubuntu-24.04"' in done.stdout
    assert '::set-output:: pythons=[{"python": "3.11.2"' in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_history_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workflow, "ROOT", tmp_path)
    assert workflow.main([]) == 65
    assert capsys.readouterr().err == (
        f"✗ {tmp_path} has no commit to run the jobs on.\n"
        "  It was downloaded without its history, or git is not installed or does not trust the owner of the folder.\n"
        "  Clone the repository with git and run it there.\n"
    )

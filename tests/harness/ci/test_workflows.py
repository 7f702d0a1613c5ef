"""The workflow and the noxfile say the same: each session has its job, each job its session, with flags it knows."""

import argparse
import copy
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import __main__ as command_line
from harness.ci import plan
from harness.project import pins
from harness.project.paths import ROOT

GITHUB = ROOT / ".github"
WORKFLOWS = {path.stem: path for path in sorted((GITHUB / "workflows").glob("*.yml"))}
ACTION = GITHUB / "actions" / "nox" / "action.yml"
Workflow = dict[Any, Any]


def read(path: Path) -> Workflow:
    workflow: Workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    workflow["on"] = workflow.pop(True, None)  # YAML 1.1 takes the key for a boolean
    return workflow


def session_names() -> set[str]:
    """Return the name of every session, whatever its tags."""
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    return set(re.findall(r"^@nox\.session.*\ndef (\w+)", noxfile, re.MULTILINE))


CI, LISTED = read(WORKFLOWS["ci"]), plan.listed_sessions()


def steps(workflow: Workflow) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, job in workflow["jobs"].items():
        yield from ((name, step) for step in job.get("steps", []))


def flags() -> dict[str, set[str]]:
    """Return the options that a session's command knows, by session."""

    def of(add: Callable[[argparse.ArgumentParser], None]) -> set[str]:
        parser = argparse.ArgumentParser()
        add(parser)
        return {option for action in parser._actions for option in action.option_strings}

    return {
        "e2e": of(command_line.add_e2e),
        "plan": of(plan.add_options),
        "release": of(command_line.add_release),
        "lock": {"--upgrade", "--exclude-newer"},  # uv's
    }


def parted(workflow: Workflow, listed: list[dict[str, Any]], python: str) -> list[str]:
    """Return a line for each thing in which a workflow and the sessions have parted."""
    found, literal, by_matrix = [], set(), set()
    names = {told["session"]: set(told["tags"]) for told in listed}
    for job, step in steps(workflow):
        for line in step.get("run", "").splitlines():
            if job == "gate":
                found += [f"{job} runs {line}"] if line != "exit 1" else []
                continue
            if not line.startswith("nox -s "):
                found.append(f"{job} does what no session does: {line}")
                continue
            session, *options = [word for word in shlex.split(line)[2:] if word != "--"]
            if session == "$SESSION":
                by_matrix |= {job} if step["env"]["SESSION"] == "${{ matrix.session }}" else set()
                continue
            literal.add(session)
            if session not in session_names():
                found.append(f"{job} runs the session {session}, which there is not")
            unknown = {option for option in options if option.startswith("-")} - flags().get(session, set())
            found += [f"{job} passes {option}, which {session} does not know" for option in sorted(unknown)]
    for name, tags in names.items():
        if "target" in tags:
            found += [] if name in literal else [f"the session {name} has no job"]
        elif "session" not in by_matrix:
            found.append(f"the session {name} has no job")
        elif name in literal:
            found.append(f"the session {name} has two jobs")
        if "pythons" in tags and "python" not in by_matrix:
            found.append(f"the session {name} has no job on other Pythons")
    found += [f"{told['session']} wants Python {told['python']}" for told in listed if told["python"]]
    if not pins.image("airflow").endswith(f"python{python}"):
        found.append(f"the jobs have Python {python}, Airflow's image another")
    return found


def python_version(action: Workflow) -> str:
    [version] = [step["with"]["python-version"] for step in action["runs"]["steps"] if "python-version" in str(step)]
    [default] = re.findall(r"^\$\{\{ inputs\.python \|\| '(3\.\d+)' \}\}$", version)
    return str(default)


PYTHON = python_version(read(ACTION))


def test_they_have_not_parted() -> None:
    assert parted(CI, LISTED, PYTHON) == []


def test_it_is_seen_when_they_part() -> None:
    def changed(job: str, line: str) -> Workflow:
        workflow = copy.deepcopy(CI)
        [step] = [step for step in workflow["jobs"][job]["steps"] if "run" in step]
        step["run"] = line
        return workflow

    e2e = 'nox -s e2e -- --target "$TARGET"'
    assert parted(changed("e2e", f"{e2e} --evnts x"), LISTED, PYTHON) == ["e2e passes --evnts, which e2e does not know"]
    assert parted(changed("e2e", "pip install x"), LISTED, PYTHON) == [
        "e2e does what no session does: pip install x",
        "the session e2e has no job",
    ]
    assert parted(changed("e2e", "nox -s gone"), LISTED, PYTHON) == [
        "e2e runs the session gone, which there is not",
        "the session e2e has no job",
    ]
    assert "the session lint has no job" in parted(changed("session", "nox -s types"), LISTED, PYTHON)
    assert "the session dbt has no job on other Pythons" in parted(changed("python", "nox -s types"), LISTED, PYTHON)
    assert parted(changed("gate", "true"), LISTED, PYTHON) == ["gate runs true"]
    of_other_python = [{**LISTED[0], "python": "3.12"}, *LISTED[1:]]
    assert parted(CI, of_other_python, PYTHON) == [f"{LISTED[0]['session']} wants Python 3.12"]
    assert parted(CI, LISTED, "3.12") == ["the jobs have Python 3.12, Airflow's image another"]


def test_the_jobs_python_is_one_that_the_project_supports() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    lowest = re.fullmatch(r">=3\.(\d+)", wanted)
    assert lowest
    assert int(PYTHON.removeprefix("3.")) >= int(lowest[1])


def test_the_gate_needs_every_other_job() -> None:
    jobs = dict(CI["jobs"])
    gate = jobs.pop("gate")
    assert sorted(gate["needs"]) == sorted(jobs)
    assert gate["if"] == "always()"


def test_the_choice_of_a_target_is_the_plans() -> None:
    inputs = CI["on"]["workflow_dispatch"]["inputs"]
    assert sorted(inputs["target"]["options"]) == sorted(plan.TARGETS)
    assert inputs["target"]["default"] in plan.TARGETS
    assert (ROOT / inputs["events"]["default"]).exists()


def test_what_starts_it() -> None:
    assert set(CI["on"]) == set(plan.EVENTS)
    assert CI["on"]["push"] == {"branches": ["main"]}
    assert CI["on"]["pull_request"] is None
    assert CI["concurrency"]["cancel-in-progress"] is True
    assert "github.ref" in CI["concurrency"]["group"]


@pytest.mark.parametrize("name", sorted(set(WORKFLOWS) - {"ci"}))
def test_the_other_workflows_call_sessions_with_flags_that_they_know(name: str) -> None:
    for job, step in steps(read(WORKFLOWS[name])):
        for line in step.get("run", "").splitlines():
            if line.startswith("nox "):
                _, _, session, *options = [word for word in shlex.split(line) if word != "--"]
                given = {option for option in options if option.startswith("-")}
                assert given <= flags().get(session, set()), f"{job}: {line}"
                assert session in session_names(), f"{job}: {line}"


@pytest.mark.parametrize("name", WORKFLOWS)
def test_it_is_safe(name: str) -> None:
    text, workflow = WORKFLOWS[name].read_text(encoding="utf-8"), read(WORKFLOWS[name])
    assert workflow["permissions"] == {}
    assert "pull_request_target" not in text
    assert "secrets." not in text  # a job has its own token, and what that may do is written beside it
    for job, step in steps(workflow):
        assert "${{" not in step.get("run", ""), f"{job}: interpolated into a shell"
        if "@" in step.get("uses", ""):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False, job
    for job, told in workflow["jobs"].items():
        assert "permissions" in told, job
        assert "timeout-minutes" in told, job
    for line in (*text.splitlines(), *ACTION.read_text(encoding="utf-8").splitlines()):
        if "uses:" in line and "$/" not in line:
            assert re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line

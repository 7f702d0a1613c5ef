"""The workflows and the noxfile agree: each session has its job, and jobs run sessions with options that they know."""

import argparse
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from harness.ci import plan
from harness.commands import e2e, release
from harness.project import pins, pythons
from harness.project.paths import ROOT
from harness.project.settings import places, settings

GITHUB = ROOT / ".github"
WORKFLOWS = {path.stem: path for path in sorted((GITHUB / "workflows").glob("*.yml"))}
ACTION = (GITHUB / "actions" / "nox" / "action.yml").read_text(encoding="utf-8")
Workflow = dict[Any, Any]


def read(name: str) -> Workflow:
    workflow: Workflow = yaml.safe_load(WORKFLOWS[name].read_text(encoding="utf-8"))
    workflow["on"] = workflow.pop(True, None)  # YAML 1.1 takes the key for a boolean
    return workflow


CI = read("ci")


def steps(workflow: Workflow) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, job in workflow["jobs"].items():
        yield from ((name, step) for step in job["steps"])


def commands(workflow: Workflow) -> Iterator[tuple[str, list[str]]]:
    """Yield the job and the words of each command."""
    for job, step in steps(workflow):
        yield from ((job, shlex.split(line)) for line in step.get("run", "").splitlines())


def options() -> dict[str, set[str]]:
    def of(add: Callable[[argparse.ArgumentParser], None]) -> set[str]:
        parser = argparse.ArgumentParser()
        add(parser)
        return {option for action in parser._actions for option in action.option_strings}

    return {
        "e2e": of(e2e.add_options),
        "plan": of(plan.add_options),
        "release": of(release.add_options),
        "lock": {"--upgrade", "--exclude-newer"},  # uv's
        "tests": {"-m"},  # pytest's
    }


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_call_sessions_with_options_that_they_know(name: str) -> None:
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    sessions = re.findall(r"^@nox\.session.*\ndef (\w+)", noxfile, re.MULTILINE)
    for job, words in commands(read(name)):
        if words[0] != "nox":
            assert name != "ci" or (job, words) == ("gate", ["exit", "1"]), f"{job}: {words}"
            continue
        flag, session, *rest = words[1:]
        assert flag == "-s"
        assert session in {*sessions, "$SESSION"}, f"{job}: {words}"
        assert {word for word in rest if re.match("--?[a-z]", word)} <= options().get(session, set()), f"{job}: {words}"


def test_each_session_has_its_job() -> None:
    listed = plan.listed_sessions()
    run = {job: [words[2] for name, words in commands(CI) if name == job] for job in ("session", "e2e", "python")}
    assert run["session"] == ["$SESSION"]
    [step] = [step for job, step in steps(CI) if job == "session" and "run" in step]
    assert step["env"]["SESSION"] == "${{ matrix.session }}"
    assert run["e2e"] == [session["session"] for session in listed if "target" in session["tags"]]
    assert run["python"] == [session["session"] for session in listed if "pythons" in session["tags"]]


def test_the_jobs_have_the_pythons_of_the_project() -> None:
    assert {int(version.split(".")[1]) for version in settings()["pythons"]} == set(pythons.MINORS)
    [default] = re.findall(r"python-version: \$\{\{ inputs\.python \|\| '(3\.\d+)' \}\}", ACTION)
    assert pins.image("airflow").endswith(f"python{default}")
    assert [session["session"] for session in plan.listed_sessions() if session["python"]] == []


def test_the_gate_needs_every_other_job() -> None:
    jobs = dict(CI["jobs"])
    gate = jobs.pop("gate")
    assert sorted(gate["needs"]) == sorted(jobs)
    assert gate["if"] == "always()"


def test_the_choice_of_a_place_is_that_of_the_plan() -> None:
    inputs = CI["on"]["workflow_dispatch"]["inputs"]
    assert inputs["place"]["options"] == list(places())
    assert inputs["place"]["default"] in places()
    assert (ROOT / inputs["events"]["default"]).exists()


def test_events_that_start_ci() -> None:
    assert set(CI["on"]) == set(plan.EVENTS)
    assert CI["on"]["push"] == {"branches": ["main"]}
    assert CI["on"]["pull_request"] is None
    assert CI["on"]["merge_group"] is None


def test_only_a_pull_requests_run_is_cancelled_by_a_newer_one() -> None:
    # A run waits in its group, and a third one of the group cancels it: each commit of main has its own.
    assert CI["concurrency"] == {
        "group": "ci-${{ github.event.pull_request.number || github.run_id }}",
        "cancel-in-progress": "${{ github.event_name == 'pull_request' }}",
    }


def test_each_job_has_its_own_cache_and_only_main_writes_it() -> None:
    keys = {
        (step["uses"].partition("@")[0], step["if"]): step["with"]["key"]
        for step in yaml.safe_load(ACTION)["runs"]["steps"]
        if step.get("with", {}).get("path") == "~/.cache/uv"
    }
    [key] = set(keys.values())
    assert set(keys) == {
        ("actions/cache", "inputs.job != '' && github.ref == 'refs/heads/main'"),
        ("actions/cache/restore", "inputs.job != '' && github.ref != 'refs/heads/main'"),
    }
    for part in ("runner.os", "runner.arch", "python-version", "inputs.job", "hashFiles('requirements/*.txt')"):
        assert part in key
    jobs = {name: step["with"] for name, step in steps(CI) if step.get("uses") == "$/.github/actions/nox"}
    assert {name: of["job"] for name, of in jobs.items()} == {
        "plan": "plan",
        "session": "${{ matrix.session }}",
        "e2e": "e2e",
        "python": "python",
    }
    assert [s for _, s in steps(read("release")) if s.get("uses", "").endswith("nox") and "with" in s] == []


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_job_that_runs_again_replaces_its_artifact(name: str) -> None:
    uploads = [step["with"] for _, step in steps(read(name)) if "upload-artifact" in step.get("uses", "")]
    assert all(upload["overwrite"] is True for upload in uploads)
    assert len({upload["name"] for upload in uploads}) == len(uploads)
    assert len(uploads) == {"ci": 3}.get(name, len(uploads))


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_are_safe(name: str) -> None:
    text, workflow = WORKFLOWS[name].read_text(encoding="utf-8"), read(name)
    assert workflow["permissions"] == {}
    assert "pull_request_target" not in text
    assert "secrets." not in text  # each job has its own token, with the permissions beside it
    for job, step in steps(workflow):
        assert "${{" not in step.get("run", ""), f"{job}: interpolated into a shell"
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False, job
    for job, definition in workflow["jobs"].items():
        assert {"permissions", "timeout-minutes"} <= definition.keys(), job
    for line in (*text.splitlines(), *ACTION.splitlines()):
        if "uses:" in line and "$/" not in line:
            assert re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line

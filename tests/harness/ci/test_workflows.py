"""The workflows and the noxfile agree: each session has its job, and jobs run sessions with options that they know."""

import argparse
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.ci import plan
from harness.ci import release as ci_release
from harness.commands import e2e, release
from harness.docker import images
from harness.project import pins, pythons
from harness.project.paths import ROOT
from harness.project.settings import places, settings
from tests import programs
from tests.clones import git

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
    assert pins.image("airflow").partition("@")[0].endswith(f"python{default}")
    assert [session["session"] for session in plan.listed_sessions() if session["python"]] == []


def test_the_end_to_end_run_has_the_target_and_the_node_of_its_place() -> None:
    [step] = [step for job, step in steps(CI) if job == "e2e" and "run" in step]
    assert step["env"]["TARGET"] == "${{ matrix.target }}"
    # act passes on this machine's image, and GitHub none.
    assert step["env"]["PLATFORM_NODE_IMAGE"] == "${{ matrix.node || env.PLATFORM_NODE_IMAGE }}"
    assert CI["jobs"]["e2e"]["runs-on"] == "${{ matrix.runner }}"


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
    assert not any(step.get("uses") == "$/.github/actions/nox" and "with" in step for _, step in steps(read("release")))


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


# --- the workflow of the locks ----------------------------------------------------------------------------------------

REFUSED = "pull request create failed: GraphQL: GitHub Actions is not permitted to create or approve pull requests"
EXISTS = 'a pull request for branch "refresh-locks" into branch "main" already exists'
GH = """\
import pathlib, sys
here = pathlib.Path(__file__).parent
with open(here / "calls", "a") as calls:
    calls.write(" ".join(sys.argv[1:3]) + "\\n")
if sys.argv[1:3] == ["pr", "create"]:
    sys.exit((here / "failure").read_text() or None)
"""


@pytest.mark.needs("git")
@pytest.mark.parametrize(
    ("changed", "failure", "calls", "exit_code"),
    [
        (False, "", [], 0),
        (True, "", ["workflow run", "pr create"], 0),
        (True, EXISTS, ["workflow run", "pr create", "pr edit"], 0),
        (True, f"{REFUSED} (createPullRequest)", ["workflow run", "pr create"], 1),
    ],
)
def test_new_locks_become_a_pull_request_or_three_lines(
    tmp_path: Path, changed: bool, failure: str, calls: list[str], exit_code: int
) -> None:
    """Run the workflow's own script: with git, and with a gh that answers as GitHub does."""
    [step] = [step for _, step in steps(read("locks")) if "gh pr create" in step.get("run", "")]
    clone, tools = tmp_path / "clone", tmp_path / "tools"
    tools.mkdir()
    programs.write(tools / "gh", GH)
    (tools / "failure").write_text(failure)
    (tools / "calls").touch()

    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", str(tmp_path / "origin"))
    git(tmp_path, "clone", "--quiet", str(tmp_path / "origin"), str(clone))
    (clone / "build").mkdir()
    (clone / "lock.txt").write_text("a==1")
    git(clone, "add", "lock.txt")
    git(clone, "commit", "--quiet", "--message", "one")
    (clone / "lock.txt").write_text("a==2" if changed else "a==1")
    env = {name: value for name, value in step["env"].items() if "${{" not in value}
    env |= {"PATH": f"{tools}:{os.environ['PATH']}", "URL": "https://github.com/o/n", "GH_TOKEN": "none"}
    env |= {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary"), "HOME": str(tmp_path)}
    argv = ["bash", "-e", "-c", step["run"]]  # as GitHub runs it
    done = subprocess.run(argv, cwd=clone, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert (tools / "calls").read_text().splitlines() == calls
    pushed = git(tmp_path / "origin", "log", "--format=%s", "refresh-locks") if changed else ""
    assert pushed == ("Refresh the locks\none" if changed else "")
    if exit_code:
        lines = (tmp_path / "summary").read_text().splitlines()
        assert done.stdout.splitlines()[-3:] == lines
        assert lines == [
            "✗ The branch refresh-locks has new locks and CI runs on it, but this workflow may open no pull request.",
            "  The setting “Allow GitHub Actions to create and approve pull requests” is off, as it is by default.",
            "  Switch it on (Settings, Actions, General), or open it yourself: "
            "https://github.com/o/n/compare/refresh-locks?expand=1",
        ]


# --- the workflow of a release ----------------------------------------------------------------------------------------


def test_a_release_is_published_only_after_its_images_were_run_and_scanned() -> None:
    jobs = read("release")["jobs"]
    assert {name: job.get("needs") for name, job in jobs.items()} == {
        "check": None,
        "push": "check",
        "run": "push",
        "scan": "push",
        "audit": "check",
        "publish": ["push", "run", "scan", "audit"],
    }
    run = [" ".join(words) for name, words in commands(read("release")) if name == "run"]
    assert run == [
        "nox -s release -- --try $AIRFLOW $DBT",
        "nox -s e2e -- --target kind",
        f"test -z $(docker image ls --quiet --filter label={images.LABEL})",  # of those that a run has built
        "nox -s e2e -- --target embedded",
    ]
    assert jobs["run"]["strategy"]["matrix"]["runner"] == ["ubuntu-24.04", "ubuntu-24.04-arm"]
    writes = {name: {p for p, to in job["permissions"].items() if to == "write"} for name, job in jobs.items()}
    assert writes == {
        **{name: set() for name in ("check", "run", "scan", "audit")},
        "push": {"packages"},
        "publish": {"contents", "packages", "id-token", "attestations"},
    }


def test_a_release_is_signed_and_attested_by_digest() -> None:
    publish = read("release")["jobs"]["publish"]["steps"]
    [sign] = [step for step in publish if "cosign sign" in step.get("run", "")]
    digests = {"AIRFLOW": "${{ needs.push.outputs.airflow }}", "DBT": "${{ needs.push.outputs.dbt }}"}
    assert sign["env"] == digests
    attested = [step["with"] for step in publish if step.get("uses", "").startswith("actions/attest@")]
    assert [of.get("subject-digest", of.get("subject-path")) for of in attested] == [
        "${{ needs.push.outputs.airflow-digest }}",
        "${{ needs.push.outputs.dbt-digest }}",
        "build/release/*",
    ]
    order = [step for step in publish if "subject-digest" in step.get("with", {}) or step.get("run")]
    assert [order.index(sign), "--publish" in order[-2]["run"]] == [0, True]  # what has a tag is signed
    assert publish[-1]["run"].startswith("gh release create ")


def test_a_scan_of_the_images_fails_on_what_can_be_fixed() -> None:
    job = read("release")["jobs"]["scan"]
    [scan] = [step["with"] for step in job["steps"] if step.get("uses", "").startswith("anchore/scan-action@")]
    assert (scan["fail-build"], scan["severity-cutoff"], scan["only-fixed"]) == (True, "high", True)
    matrix = job["strategy"]["matrix"]
    assert scan["sbom"] == "build/sboms/${{ matrix.image }}-${{ matrix.architecture }}.spdx.json"
    assert [f"linux/{name}" for name in matrix["architecture"]] == list(ci_release.PLATFORMS)
    assert matrix["image"] == [images.airflow().name, images.dbt().name]

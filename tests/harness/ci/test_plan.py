"""The plan of a workflow follows from the tags of the sessions, the event and the changed files."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.ci import plan
from harness.ci.plan import Job, PlanError
from harness.project.settings import places, settings
from harness.targets.options import TARGETS
from tests.clones import git


def session(name: str, *tags: str) -> dict[str, Any]:
    return {"session": name, "name": name, "description": "", "python": None, "tags": list(tags), "call_spec": {}}


LISTED = [
    session("lint", "ci", "pythons"),
    session("docs", "ci", "docs"),
    session("faults", "ci", "engine"),
    session("e2e", "ci", "engine", "target"),
    session("bench", "nightly"),
    session("diff", "change"),
]
LINT, DOCS, FAULTS, BENCH, DIFF = (
    {"session": name, "minutes": minutes, "engine": engine}
    for name, minutes, engine in [
        ("lint", 10, False),
        ("docs", 30, False),
        ("faults", 50, True),
        ("bench", 30, False),
        ("diff", 30, False),
    ]
)
PLACES = {
    "kind": {"target": "kind", "runner": "ubuntu-24.04", "on": "change"},
    "embedded-macos": {"target": "embedded", "runner": "macos-15"},
    "kubernetes-1.32": {"target": "kind", "runner": "ubuntu-24.04", "node": "kindest/node:v1.32.11@sha256:5fc5"},
}
SETTINGS: dict[str, Any] = {"minutes": {"lint": 10, "faults": 50, "e2e": 25}, "pythons": ["3.11.2", "3.13"]}
PYTHONS = ("3.11.2", "3.12.3", "3.13", "3.14")
CODE, WORDS = ["dbt/models/marts/dim/dim_date.sql", "README.md"], ["README.md", "docs/adr/0001-teardown.md"]


@pytest.mark.parametrize(
    ("event", "changed", "place", "sessions", "places"),
    [
        ("push", CODE, "", [LINT, DOCS, FAULTS], ["kind"]),
        ("pull_request", CODE, "", [LINT, DOCS, FAULTS, DIFF], ["kind"]),
        ("pull_request", WORDS, "", [DOCS], []),
        ("push", WORDS, "", [DOCS], []),
        ("merge_group", CODE, "", [LINT, DOCS, FAULTS], ["kind"]),
        ("merge_group", WORDS, "", [DOCS], []),
        ("push", [], "", [LINT, DOCS, FAULTS], ["kind"]),  # unknown
        ("schedule", WORDS, "", [LINT, DOCS, FAULTS, BENCH], list(PLACES)),
        ("workflow_dispatch", WORDS, "embedded-macos", [LINT, DOCS, FAULTS], ["embedded-macos"]),
        ("workflow_dispatch", [], "", [LINT, DOCS, FAULTS], ["kind"]),
    ],
)
def test_the_jobs_of_an_event(
    event: str, changed: list[str], place: str, sessions: list[Job], places: list[str]
) -> None:
    made = plan.make(LISTED, SETTINGS, PLACES, event, changed, place=place)
    assert made.sessions == sessions
    assert [job["place"] for job in made.places] == places
    assert made.pythons == [{"python": python, "minutes": 10} for python in SETTINGS["pythons"] if LINT in sessions]


def test_a_job_has_the_runner_the_target_and_the_node_of_its_place() -> None:
    made = plan.make(LISTED, SETTINGS, PLACES, "schedule", [])
    assert made.places == [
        {"place": "kind", "target": "kind", "runner": "ubuntu-24.04", "node": "", "minutes": 25},
        {"place": "embedded-macos", "target": "embedded", "runner": "macos-15", "node": "", "minutes": 25},
        {
            "place": "kubernetes-1.32",
            "target": "kind",
            "runner": "ubuntu-24.04",
            "node": "kindest/node:v1.32.11@sha256:5fc5",
            "minutes": 25,
        },
    ]


def test_the_projects_own_places() -> None:
    kinds = {(place["runner"], place["target"]) for place in places().values() if "node" not in place}
    assert kinds == {
        ("ubuntu-24.04", "kind"),
        ("ubuntu-24.04", "embedded"),
        ("ubuntu-24.04", "minikube"),
        ("ubuntu-24.04-arm", "kind"),
        ("macos-15", "embedded"),
    }
    assert {place["target"] for place in places().values()} <= set(TARGETS)
    assert [name for name, place in places().items() if place.get("on") == "change"] == ["kind"]
    assert {place.get("on", "change") for place in places().values()} == {"change"}
    for name, place in places().items():
        assert name.startswith("kubernetes-") is ("node" in place)
        assert place.get("node", "").startswith(
            name.replace("kubernetes-", "kindest/node:v") if "node" in place else ""
        )


@pytest.mark.parametrize("listed", [[], [session("sample")], [session("bench", "nightly")]])
def test_an_empty_plan_fails(listed: list[dict[str, Any]]) -> None:
    with pytest.raises(PlanError, match="has the tag ci: there is nothing to run"):
        plan.make(listed, SETTINGS, PLACES, "push", CODE)


def test_documentation_is_recognised() -> None:
    pages = ["README.md", "docs/operations.md", "docs/adr/0001.md", ".github/ISSUE_TEMPLATE/bug.yml", "LICENSE"]
    assert plan.is_documentation(pages)
    code = [
        "dbt/models/docs.md",
        "airflow/dags/README.md",
        ".github/workflows/ci.yml",
        "noxfile.py",
    ]  # dbt reads docs.md
    assert [path for path in code if plan.is_documentation([path])] == []
    assert not plan.is_documentation([*pages, code[0]])


@pytest.mark.needs("git")
def test_the_files_of_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "ROOT", tmp_path)

    def commit(file: str) -> None:
        (tmp_path / file).write_text("text")
        git(tmp_path, "add", ".")
        git(tmp_path, "commit", "--quiet", "--message", file)

    git(tmp_path, "init", "--quiet", "--initial-branch", "main")
    commit("moved.py")
    git(tmp_path, "switch", "--quiet", "--create", "change")
    git(tmp_path, "mv", "moved.py", "elsewhere.md")
    commit("ä b.md")
    git(tmp_path, "switch", "--quiet", "main")
    commit("of-another.py")  # merged by others meanwhile
    base = git(tmp_path, "rev-parse", "HEAD")
    git(tmp_path, "switch", "--quiet", "change")
    assert sorted(plan.changed_since(base)) == ["elsewhere.md", "moved.py", "ä b.md"]
    assert [plan.changed_since(base) for base in ("0" * 40, "", "1" * 40)] == [[], [], []]  # the last was rewritten


def test_the_projects_own_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    assert plan.main(["--event", "schedule"]) == 0
    outputs = dict(line.split("=", 1) for line in (tmp_path / "output").read_text().splitlines())
    sessions = {job["session"] for job in json.loads(outputs["sessions"])}
    assert {"lint", "types", "tests", "dags", "dbt", "faults"} <= sessions
    assert "e2e" not in sessions
    assert [job["place"] for job in json.loads(outputs["places"])] == list(places())
    minutes = settings()["minutes"]
    on_pythons = [{"python": version, "minutes": minutes["tests"] + minutes["dbt"]} for version in PYTHONS]
    assert json.loads(outputs["pythons"]) == on_pythons
    assert set(minutes) <= {*sessions, "e2e", "diff"}  # diff runs on pull requests
    assert set(settings()["budget_s"]) <= sessions
    assert "the job e2e (kubernetes-1.36) " in capsys.readouterr().out
    assert "| `the job e2e (embedded-macos)` | 25 |" in (tmp_path / "summary").read_text()


def test_an_unreadable_noxfile_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    (tmp_path / "noxfile.py").write_text("import no_such_module")
    assert plan.main([]) == 1
    assert capsys.readouterr().err.startswith("✗ nox cannot list the sessions: ")

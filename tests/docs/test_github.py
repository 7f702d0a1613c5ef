"""What GitHub and the bots read beside the workflows names files, targets and pins that there are."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.project.paths import ROOT
from harness.targets.options import TARGETS
from tests.docs import project
from tests.docs.documents import differences, read

FORMS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(".github/ISSUE_TEMPLATE/*.yml"))
RENOVATE = json.loads(read(".github/renovate.json"))


def wrong_in_form(form: dict[str, Any]) -> list[str]:
    """Return how FORM is not an issue form that GitHub shows."""
    wrong = [f"there is no {key}" for key in ("name", "description", "body") if not form.get(key)]
    ids = [field.get("id") for field in form.get("body", [])]
    wrong += [f"{name} is there twice" for name in sorted({str(i) for i in ids if ids.count(i) > 1})]
    for field in form.get("body", []):
        attributes = field.get("attributes", {})
        if field.get("type") not in ("input", "textarea", "dropdown", "checkboxes"):
            wrong.append(f"{field.get('id')} is a {field.get('type')}")
        elif not attributes.get("label"):
            wrong.append(f"{field.get('id')} has no label")
        elif (field["type"] in ("dropdown", "checkboxes")) != ("options" in attributes):
            wrong.append(f"{field.get('id')} has options, or needs some")
    return wrong


@pytest.mark.parametrize("name", [name for name in FORMS if not name.endswith("config.yml")])
def test_issue_forms_are_ones(name: str) -> None:
    assert wrong_in_form(yaml.safe_load(read(name))) == []


def test_a_form_that_is_none_is_found() -> None:
    body: list[dict[str, Any]] = [
        {"id": "a", "type": "text", "attributes": {"label": "A"}},
        {"id": "b", "type": "input"},
        {"id": "b", "type": "dropdown", "attributes": {"label": "B"}},
    ]
    assert wrong_in_form({"name": "n", "body": body}) == [
        "there is no description",
        "b is there twice",
        "a is a text",
        "b has no label",
        "b has options, or needs some",
    ]


def test_the_form_for_bugs_has_every_target() -> None:
    [field] = [f for f in yaml.safe_load(read(".github/ISSUE_TEMPLATE/bug.yml"))["body"] if f.get("id") == "target"]
    assert differences(field["attributes"]["options"], {"none", *TARGETS} - {"auto"}) == []


def test_code_owners_own_what_there_is() -> None:
    rules = [line.split() for line in read(".github/CODEOWNERS").splitlines() if line and not line.startswith("#")]
    assert rules
    assert rules[0][0] == "*"
    assert [pattern for pattern, *_ in rules if not list(ROOT.glob(pattern.strip("/")))] == []
    assert [owners for _, *owners in rules if not owners or not all(owner.startswith("@") for owner in owners)] == []


# --- Renovate -------------------------------------------------------------------------------------------------------


def found_by_renovate(text: str) -> dict[str, set[str]]:
    """Return what Renovate's own patterns find in TEXT, a `cluster/versions.toml`: names, and the versions of each."""
    found: dict[str, set[str]] = {}
    for manager in RENOVATE["customManagers"]:
        for pattern in manager["matchStrings"]:
            for match in re.finditer(pattern.replace("(?<", "(?P<"), text):
                told = match.groupdict()
                name = told.get("depName") or told.get("tool") or manager["depNameTemplate"]
                version = "@".join(filter(None, (told["currentValue"], told.get("currentDigest"))))
                found.setdefault(name, set()).add(version)
    return found


def pinned(versions: dict[str, Any]) -> dict[str, set[str]]:
    """Return what VERSIONS, a parsed `cluster/versions.toml`, pins, in the form of `found_by_renovate`."""
    images = {name: {version} for name, _, version in (i.partition(":") for i in versions["images"].values())}
    tools = {name: {tool["version"]} for name, tool in versions["tools"].items()}
    chart = versions["chart"]
    return images | tools | {"airflow": {chart["version"]}, "apache-airflow": {chart["airflow"]}}


def test_renovate_sees_every_pin() -> None:
    assert found_by_renovate(read("cluster/versions.toml")) == pinned(project.versions())


def test_renovate_reads_a_file_that_there_is() -> None:
    patterns = {pattern for manager in RENOVATE["customManagers"] for pattern in manager["managerFilePatterns"]}
    assert patterns == {r"/^cluster/versions\.toml$/"}
    assert not found_by_renovate(read("cluster/versions.toml").replace(" = ", "="))


@pytest.mark.needs("history")
def test_renovate_covers_actions_groups_and_bases() -> None:
    assert set(RENOVATE["enabledManagers"]) == {"github-actions", "pep621", "dockerfile", "custom.regex"}
    assert "helpers:pinGitHubActionDigests" in RENOVATE["extends"]
    assert RENOVATE["minimumReleaseAge"] == "7 days"
    grouped = [rule for rule in RENOVATE["packageRules"] if "groupName" in rule]
    assert {rule["groupName"] for rule in grouped} == {"actions", "python groups", "images", "airflow"}
    argv = ("git", "ls-files", "--", "*Dockerfile*")
    listed = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    assert {Path(name).name for name in listed} == {"Dockerfile"}  # the name that it looks for


def test_renovates_rules_are_about_what_there_is() -> None:
    named = {name for rule in RENOVATE["packageRules"] for name in rule.get("matchPackageNames", [])}
    template = "".join(manager.get("depNameTemplate", "") for manager in RENOVATE["customManagers"])
    known = set(pinned(project.versions())) | set(re.findall(r"[a-z-]+/[a-z]+", template))
    assert named <= known

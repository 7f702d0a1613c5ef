"""What GitHub and Renovate read beside the workflows: issue forms, code owners, the patterns that find pins."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.project import pins
from harness.project.paths import ROOT
from harness.targets.options import TARGETS

GITHUB = ROOT / ".github"
FORMS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(GITHUB.glob("ISSUE_TEMPLATE/*.yml"))}
RENOVATE = json.loads((GITHUB / "renovate.json").read_text())
VERSIONS = (ROOT / "cluster" / "versions.toml").read_text()


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


def test_issue_forms_are_valid() -> None:
    assert {name: wrong_in_form(form) for name, form in FORMS.items() if name != "config"} == {"bug": [], "feature": []}


def test_an_invalid_form_is_found() -> None:
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
    [field] = [field for field in FORMS["bug"]["body"] if field.get("id") == "target"]
    assert sorted(field["attributes"]["options"]) == sorted({"none", *TARGETS} - {"auto"})


def test_code_owners_own_existing_files() -> None:
    lines = (GITHUB / "CODEOWNERS").read_text().splitlines()
    rules = [line.split() for line in lines if line and not line.startswith("#")]
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
                groups = match.groupdict()
                name = groups.get("depName") or groups.get("tool") or manager["depNameTemplate"]
                version = "@".join(filter(None, (groups["currentValue"], groups.get("currentDigest"))))
                found.setdefault(name, set()).add(version)
    return found


def pinned(versions: dict[str, Any]) -> dict[str, set[str]]:
    """Return what VERSIONS, a parsed `cluster/versions.toml`, pins, in the form of `found_by_renovate`."""
    nodes = [place["node"] for place in versions["places"].values() if "node" in place]
    images: dict[str, set[str]] = {}
    for name, _, version in (image.partition(":") for image in [*versions["images"].values(), *nodes]):
        images.setdefault(name, set()).add(version)
    tools = {name: {tool["version"]} for name, tool in versions["tools"].items()}
    chart = versions["chart"]
    return images | tools | {"airflow": {chart["version"]}, "apache-airflow": {chart["airflow"]}}


def test_renovate_sees_every_pin() -> None:
    assert found_by_renovate(VERSIONS) == pinned(pins.versions())


def test_renovate_reads_the_file_of_the_pins() -> None:
    patterns = {pattern for manager in RENOVATE["customManagers"] for pattern in manager["managerFilePatterns"]}
    assert patterns == {r"/^cluster/versions\.toml$/"}
    assert not found_by_renovate(VERSIONS.replace(" = ", "="))


@pytest.mark.needs("history")
def test_renovate_covers_actions_groups_and_bases() -> None:
    assert set(RENOVATE["enabledManagers"]) == {"github-actions", "pep621", "dockerfile", "custom.regex"}
    assert "helpers:pinGitHubActionDigests" in RENOVATE["extends"]
    assert RENOVATE["minimumReleaseAge"] == "7 days"
    [images] = [rule for rule in RENOVATE["packageRules"] if rule.get("matchDatasources") == ["docker"]]
    assert images["pinDigests"] is True
    grouped = [rule for rule in RENOVATE["packageRules"] if "groupName" in rule]
    assert {rule["groupName"] for rule in grouped} == {"actions", "python groups", "images", "airflow"}
    argv = ("git", "ls-files", "--", "*Dockerfile*")
    listed = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    assert {Path(name).name for name in listed} == {"Dockerfile"}  # the name that it looks for


def test_renovates_rules_name_pinned_packages() -> None:
    named = {name for rule in RENOVATE["packageRules"] for name in rule.get("matchPackageNames", [])}
    template = "".join(manager.get("depNameTemplate", "") for manager in RENOVATE["customManagers"])
    known = set(pinned(pins.versions())) | set(re.findall(r"[a-z-]+/[a-z]+", template))
    assert named <= known

"""The pins agree with each other, and none floats."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from harness.errors import UsageError
from harness.project import pins
from harness.project.paths import ROOT


def wrong_pins(versions: dict[str, Any]) -> Iterator[str]:
    for name, reference in versions["images"].items():
        tag = re.fullmatch(r"[\w./-]+:([\w.-]+)(@sha256:[0-9a-f]{64})?", reference)
        if not tag or tag[1] == "latest":
            yield f"{name}: no tag, or a floating one"
        elif not tag[2] and name not in ("airflow", *pins.FOR_METRICS):  # until a registry is asked: docs/first-run.md
            yield f"{name}: no digest"
    for name, place in versions["places"].items():
        node = place.get("node", versions["images"]["node"])
        if not re.fullmatch(r"kindest/node:v\d+\.\d+\.\d+@sha256:[0-9a-f]{64}", node):
            yield f"{name}: no version and digest"
    airflow = versions["chart"]["airflow"]
    if not re.search(rf":{re.escape(airflow)}(-|$)", versions["images"]["airflow"]):
        yield "airflow: the image's version is not the chart's"
    tested = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["airflow"]
    if f"apache-airflow=={airflow}" not in tested:
        yield "airflow: the version that is tested is not the chart's"
    if versions["chart"]["url"].rpartition("/")[2] != f"airflow-{versions['chart']['version']}.tgz":
        yield "chart: its address names another version"
    for url in urls(versions):
        if why := rots(url):
            yield f"{url}: {why}"


def urls(value: Any) -> Iterator[str]:
    """Yield every URL in a parsed TOML value."""
    if isinstance(value, str):
        yield from re.findall(r"\w+://\S+", value)
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from urls(part)


def rots(url: str) -> str:
    """Return why what a URL leads to will be gone or be something else one day; empty if the URL is permanent."""
    _, _, host, *path = url.split("/")
    if host in ("downloads.apache.org", "dlcdn.apache.org", "www.apache.org") or "closer" in url:
        return "Apache's mirrors keep only the newest release; archive.apache.org/dist keeps all"
    if {"latest", "stable", "current", "nightly", "main", "master", "HEAD"} & {part.partition("?")[0] for part in path}:
        return "its content changes"
    if not re.search(r"\d+\.\d+|\{version\}|\{airflow\}", "/".join(path)):
        return "it names no version"
    return "" if url.startswith("https://") else "it is not HTTPS"


def pinned() -> dict[str, Any]:
    return tomllib.loads(pins.VERSIONS.read_text())


def test_the_pins_agree() -> None:
    assert list(wrong_pins(pinned())) == []


CHART = "airflow/helm-chart/1.22.0/airflow-1.22.0.tgz"
MIRRORS = "Apache's mirrors keep only the newest release; archive.apache.org/dist keeps all"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (f"https://downloads.apache.org/{CHART}", MIRRORS),
        (f"https://dlcdn.apache.org/{CHART}", MIRRORS),
        (f"https://www.apache.org/dyn/closer.lua?path={CHART}", MIRRORS),
        ("https://github.com/kubernetes/minikube/releases/latest/download/minikube-1.39.0", "its content changes"),
        ("https://dl.k8s.io/release/stable/v1.36.4/kubectl", "its content changes"),
        ("https://raw.githubusercontent.com/helm/helm/main/1.0/get", "its content changes"),
        ("https://get.helm.sh/helm-linux-amd64.tar.gz", "it names no version"),
        ("http://get.helm.sh/helm-v{version}-linux-amd64.tar.gz", "it is not HTTPS"),
        (f"https://archive.apache.org/dist/{CHART}", ""),
        ("https://dl.k8s.io/release/v{version}/bin/{system}/{machine}/kubectl", ""),
    ],
)
def test_a_pinned_url_that_rots_is_refused(url: str, why: str) -> None:
    assert rots(url) == why
    versions = pinned()
    versions["tools"]["kind"]["url"] = url
    assert list(wrong_pins(versions)) == ([f"{url}: {why}"] if why else [])


def test_every_pinned_url_is_looked_at() -> None:
    assert sorted(url.split("/")[2] for url in urls(pinned())) == [
        "archive.apache.org",
        "dl.k8s.io",
        "get.helm.sh",
        "github.com",
        "raw.githubusercontent.com",
    ]


@pytest.mark.needs("history")
def test_no_other_file_downloads_from_a_place_that_keeps_only_the_newest() -> None:
    """An address that is written into code, a Dockerfile or a workflow is a pin, too."""
    argv = ("git", "grep", "-lE", r"(downloads|dlcdn)\.apache\.org|releases/latest/", "--", ".", ":!tests", ":!*.md")
    assert subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False).stdout == ""


AIRFLOW_IMAGE = "airflow: the image's version is not the chart's"
AIRFLOW_TESTED = "airflow: the version that is tested is not the chart's"


@pytest.mark.parametrize(
    ("table", "name", "value", "lines"),
    [
        ("images", "postgres", "postgres", ["postgres: no tag, or a floating one"]),
        ("images", "python", "python:latest", ["python: no tag, or a floating one"]),
        ("images", "postgres", "postgres:18", ["postgres: no digest"]),
        ("places", "kubernetes-1.32", {"node": "kindest/node:v1.32.11"}, ["kubernetes-1.32: no version and digest"]),
        ("images", "airflow", "apache/airflow:3.3.20", [AIRFLOW_IMAGE]),
        ("chart", "version", "1.0", ["chart: its address names another version"]),
        ("chart", "airflow", "3.3.1", [AIRFLOW_IMAGE, AIRFLOW_TESTED]),
    ],
)
def test_a_wrong_pin_is_found(table: str, name: str, value: Any, lines: list[str]) -> None:
    versions = pinned()
    versions[table][name] = value
    assert list(wrong_pins(versions)) == lines


@pytest.mark.parametrize("name", ["airflow", "dbt"])
def test_a_dockerfiles_own_base_is_the_pin(name: str) -> None:
    text = (ROOT / name / "Dockerfile").read_text()
    [(base, default)] = re.findall(r"^ARG (\w+)_IMAGE=(\S+)$", text, re.MULTILINE)
    assert default == pinned()["images"][base.lower()]


@pytest.mark.parametrize(("text", "seconds"), [("", 600.0), (" ", 600.0), ("0.1", 0.1), ("7\n", 7.0)])
def test_a_deadline_is_the_variable_or_the_default(monkeypatch: pytest.MonkeyPatch, text: str, seconds: float) -> None:
    monkeypatch.setitem(pins.versions()["deadlines"], "download", 600)
    monkeypatch.setenv("PLATFORM_DEADLINE_DOWNLOAD", text)
    assert pins.deadline_s("download") == seconds


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_deadline_that_is_no_number_of_seconds_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("PLATFORM_DEADLINE_DOWNLOAD", text)
    with pytest.raises(UsageError, match=f"^PLATFORM_DEADLINE_DOWNLOAD is '{text}', not a number of seconds"):
        pins.deadline_s("download")

"""The pins agree with each other, and none floats."""

import re
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
        elif name == "node" and not tag[2]:
            yield f"{name}: no digest"
    airflow = versions["chart"]["airflow"]
    if not re.search(rf":{re.escape(airflow)}(-|$)", versions["images"]["airflow"]):
        yield "airflow: the image's version is not the chart's"
    tested = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["airflow"]
    if f"apache-airflow=={airflow}" not in tested:
        yield "airflow: the version that is tested is not the chart's"
    if versions["chart"]["url"].rpartition("/")[2] != f"airflow-{versions['chart']['version']}.tgz":
        yield "chart: its address names another version"


def pinned() -> dict[str, Any]:
    return tomllib.loads(pins.VERSIONS.read_text())


def test_the_pins_agree() -> None:
    assert list(wrong_pins(pinned())) == []


AIRFLOW_IMAGE = "airflow: the image's version is not the chart's"
AIRFLOW_TESTED = "airflow: the version that is tested is not the chart's"


@pytest.mark.parametrize(
    ("table", "name", "value", "lines"),
    [
        ("images", "postgres", "postgres", ["postgres: no tag, or a floating one"]),
        ("images", "python", "python:latest", ["python: no tag, or a floating one"]),
        ("images", "node", "kindest/node:v1.35.8", ["node: no digest"]),
        ("images", "airflow", "apache/airflow:3.3.20", [AIRFLOW_IMAGE]),
        ("chart", "version", "1.0", ["chart: its address names another version"]),
        ("chart", "airflow", "3.3.1", [AIRFLOW_IMAGE, AIRFLOW_TESTED]),
    ],
)
def test_a_wrong_pin_is_found(table: str, name: str, value: str, lines: list[str]) -> None:
    versions = pinned()
    versions[table][name] = value
    assert list(wrong_pins(versions)) == lines


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

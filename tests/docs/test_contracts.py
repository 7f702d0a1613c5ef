"""docs/contracts.md has every custom property, every reason, and examples that are contracts."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from feeds.contract import Format, Properties, Type, read_feed
from harness.project.paths import ROOT

TEXT = (ROOT / "docs" / "contracts.md").read_text(encoding="utf-8")


def table(heading: str) -> list[list[str]]:
    """Return the cells of the first table below HEADING, without its head."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def properties(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the names of the custom properties of MODEL with their defaults."""
    for name, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield from properties(type(field.default), f"{name}.")
        else:
            yield f"{before}{field.alias or name}", field.default


def written(default: Any) -> str:
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return f"`[{', '.join(default)}]`"
    return {None: "none: a snapshot", "": "empty"}.get(default) or f"`{default}`"


def test_the_table_of_custom_properties_has_all_of_them_with_their_defaults() -> None:
    rows = table("Custom properties")
    of_contract = {row[1].strip("`"): row[3] for row in rows if row[0] == "contract"}
    assert of_contract == {name: written(default) for name, default in properties(Properties)}
    assert {(row[0], row[1]) for row in rows if row[0] != "contract"} == {("schema", "`rules`"), ("column", "`header`")}


def test_the_tables_have_every_word() -> None:
    words = {
        name: set(re.findall(r"`(\w+)`", row[2])) for row in table("Custom properties") for name in [row[1].strip("`")]
    }
    drift = Properties.model_fields["drift"].default
    for name, field in type(drift).model_fields.items():
        assert words[f"drift.{name}"] == set(get_args(field.annotation))
    assert [row[0] for row in table("Types")] == list(get_args(Type))
    assert set(
        re.findall(r"`(\w+)`", next(row[1] for row in table("Fields that a load reads") if ".format" in row[0]))
    ) == set(get_args(Format))


def test_the_table_of_reasons_has_all_of_them() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "airflow/include/feeds").rglob("*.py")]
    reasons = {reason for source in sources for reason in re.findall(r"\b(?:Reject|Flaw)\(\"(\w+)\"", source)}
    assert {row[0].strip("`") for row in table("Rejected rows")} == reasons


@pytest.mark.parametrize("number", range(2))
def test_the_examples_are_contracts(tmp_path: Path, number: int) -> None:
    example = [text for text in re.findall("```yaml\n(.*?)```", TEXT, re.DOTALL) if text.startswith("apiVersion")][
        number
    ]
    name = re.findall("^name: ([a-z]+)", example, re.MULTILINE)[0]
    (tmp_path / f"{name}.yaml").write_text(example)
    assert read_feed(tmp_path / f"{name}.yaml").name == name

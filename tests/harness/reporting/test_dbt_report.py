"""What `nox -s dbt` and a failed dbt task of `nox -s e2e` tell: dbt itself, on models that are broken in a copy."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.commands import e2e
from harness.errors import DagRunFailedError
from harness.reporting import dbt_report
from harness.warehouse.server import Server
from tests import clones, harness_command

BREAKS = {  # a data test, a unit test and a model fail
    "dbt/models/marts/dim/dim_services.sql": ("select * from services", "select * from services where service_id < 0"),
    "dbt/models/marts/dim/dim_date.sql": ("extract(dow", "1 + extract(dow"),
    "dbt/models/marts/dim/dim_professionals.sql": ("max(created_at)", "max(created_on)"),
}
EVENTS = """\
event_id;event_type;professional_id_anonymized;created_at;meta_data
1;created_account;7;2020-01-01 09:00:00;
2;became_able_to_propose;7;2020-01-02 09:00:00;
3;proposed;7;2020-01-03 10:00:00;4_dak_roof_1.10
4;proposed;7;2020-01-03 11:00:00;4_dak_roof_2.20
"""


MODEL_MESSAGE = """\
Database Error in model dim_professionals (models/marts/dim/dim_professionals.sql)
  column "created_on" does not exist
  LINE 17:         max(created_on) as last_event_at
                       ^
  HINT:  Perhaps you meant to reference the column "events.created_at"."""
ROWS = """\
The rows that fail it, at most 10:

| from_field |
| --- |
| 4 |
| 4 |"""
BUILD = "build --exclude-resource-type unit_test --select +fct_events +path:models/marts/dim"
SUMMARY = f"""\
## ✗ dbt: {BUILD}: 2 failed of 28 tests, 6 models (TIME)

- **What happened:** dbt {BUILD} ended with exit code 1: dim_professionals, \
fct_events_have_a_known_service failed.
- **Why, most likely:** A change to a model, or events that it does not expect; dbt says which rows or statement.
- **What to do:** The statements are in build/dbt/target/run; what failed by itself: nox -s dbt -- build --select \
+dim_professionals +fct_events_have_a_known_service

### dbt model dim_professionals: error

at `dbt/models/marts/dim/dim_professionals.sql:15`

```text
{MODEL_MESSAGE}
```

<The statement>

By itself, on the sample: `nox -s dbt -- build --select +dim_professionals`

### dbt test fct_events_have_a_known_service: fail

at `dbt/models/marts/fact/fct_events.yml:36`

```text
Got 2 results, configured to fail if != 0
```

{ROWS}

<The statement>

By itself, on the sample: `nox -s dbt -- build --select +fct_events_have_a_known_service`

Skipped, because what they need failed: 3 tests.

| dbt | well | warned | skipped | failed | seconds |
| --- | ---: | ---: | ---: | ---: | ---: |
| test | 24 | 0 | 3 | 1 | TIME |
| model | 5 | 0 | 0 | 1 | TIME |

<What dbt says>

"""


@dataclass(frozen=True)
class Run:
    """How a run of `python -m harness dbt` in a clone ended."""

    exit_code: int
    said: str
    commands: list[str]
    summary: str


@pytest.fixture
def run(clone: Path, server: Server) -> Callable[..., Run]:
    """Give a function that runs `python -m harness dbt ARGUMENTS` in the clone, on a few events."""
    (clone / "airflow" / "data" / "events.csv").write_text(EVENTS)
    summary = clone / "summary.md"

    def run(*arguments: str) -> Run:
        exit_code, output = harness_command.run(
            *("dbt", "--postgres", server.dsn, *arguments),
            python=clones.python_of(clone),
            cwd=clone,
            GITHUB_STEP_SUMMARY=str(summary),
            GITHUB_ACTIONS="true",
            DBT_FAILURES_PATH=str(clone / "failures"),
        )
        commands = [line for line in output.splitlines() if line.startswith("::")]
        written = re.sub(r"\((\d+ min )?[\d.]+ s\)", "(TIME)", summary.read_text())
        written = re.sub(r"^(\| (?:unit test|test|model) .*) [\d.]+ \|$", r"\1 TIME |", written, flags=re.MULTILINE)
        summary.unlink()
        return Run(exit_code, output, commands, written)

    return run


def break_models(clone: Path) -> None:
    """Have a data test, a model and a unit test fail in CLONE."""
    for name, (old, new) in BREAKS.items():
        text = (clone / name).read_text()
        assert text.count(old) == 1
        (clone / name).write_text(text.replace(old, new))


def folded(summary: str) -> str:
    """Return SUMMARY without what is folded in it."""
    return re.sub(r"<details><summary>(.*?)</summary>.*?</details>", r"<\1>", summary, flags=re.DOTALL)


def test_failures_are_told_with_their_rows_and_lines(
    clone: Path, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    break_models(clone)

    outcome = run(*BUILD.split())

    assert outcome.exit_code == 49, outcome.said
    assert folded(outcome.summary) == SUMMARY
    rest = re.findall(r"<details><summary>(.*?)</summary>\n\n```text\n(.*?)\n", outcome.summary)
    assert rest[:2] == [("The statement", "with"), ("The statement", "with child as (")]
    assert outcome.commands == [
        "::error file=dbt/models/marts/dim/dim_professionals.sql,line=15,title=dbt model dim_professionals%3A error::"
        + MODEL_MESSAGE.replace("\n", "%0A"),
        "::error file=dbt/models/marts/fact/fct_events.yml,line=36,title=dbt test fct_events_have_a_known_service%3A "
        "fail::Got 2 results, configured to fail if != 0",
    ]

    monkeypatch.setattr(dbt_report, "ROOT", clone)
    # The same files are what a failed dbt task leaves; by now the warehouse is gone.
    error = DagRunFailedError("what", "why", "next", ["the log"], task_id="dbt_build")
    warehouse = SimpleNamespace(admin_dsn="postgresql://nobody@127.0.0.1:1/none")
    deployment: Any = SimpleNamespace(failed_dbt_runs=lambda: [clone / "failures"], warehouse=warehouse)
    told = "\n\n".join(filter(None, e2e.with_dbt_results(error, deployment).evidence))
    wanted = SUMMARY.partition("fct_events_have_a_known_service\n\n")[2].rpartition("\n\n<What dbt says>")[0]
    assert "The rows that fail it cannot be had: connection failed: " in told
    unreachable = re.sub("The rows that fail it cannot be had: .*", ROWS, folded(told))
    counts = re.sub(r"^(\| (?:test|model) .*) [\d.]+ \|$", r"\1 TIME |", unreachable, flags=re.MULTILINE)
    assert counts == f"{wanted}\n\nthe log"


def test_a_unit_test_is_told_with_what_differs(clone: Path, run: Callable[..., Run]) -> None:
    break_models(clone)

    outcome = run("build", "--select", "+sunday_is_day_one_and_saturday_day_seven")

    assert outcome.exit_code == 49, outcome.said
    assert (
        "\n### dbt unit test sunday_is_day_one_and_saturday_day_seven: fail\n\n"
        "at `dbt/models/marts/dim/dim_date.yml:103`\n\n"
        "```text\n"
        "actual differs from expected:\n\n"
        "@@,calendar_date,day_of_week,is_weekday\n"
        "→ ,2020-01-03   ,6→7        ,True\n"
        "→ ,2020-01-04   ,7→8        ,False\n"
        "→ ,2020-01-05   ,1→2        ,False\n"
        "→ ,2020-01-06   ,2→3        ,True\n"
        "```\n"
    ) in outcome.summary
    [command] = outcome.commands
    assert command.startswith("::error file=dbt/models/marts/dim/dim_date.yml,line=103,title=dbt unit_test sunday_is_")


def test_a_build_that_went_well_is_a_table(run: Callable[..., Run]) -> None:
    outcome = run("build", "--select", "+dim_services")

    assert outcome.exit_code == 0, outcome.said
    assert outcome.commands == []
    assert outcome.summary == (
        "## ✓ dbt: build --select +dim_services: 11 tests, 6 unit tests, 2 models (TIME)\n\n"
        "| dbt | well | warned | skipped | failed | seconds |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| test | 11 | 0 | 0 | 0 | TIME |\n"
        "| unit test | 6 | 0 | 0 | 0 | TIME |\n"
        "| model | 2 | 0 | 0 | 0 | TIME |\n\n"
    )
    # Each command tells of its own run alone: this one has no results.
    assert run("ls", "--quiet").summary == "## ✓ dbt: ls --quiet (TIME)\n\n"


def test_a_project_that_cannot_be_parsed_is_told_in_dbts_words(clone: Path, run: Callable[..., Run]) -> None:
    (clone / "dbt/models/staging/stg_events.sql").write_text("select * from {{ ref('nothing') }}\n")

    outcome = run("build")

    assert outcome.exit_code == 49
    assert outcome.summary.startswith(
        "## ✗ dbt: build (TIME)\n\n"
        "- **What happened:** dbt build ended with exit code 2.\n"
        "- **Why, most likely:** The project cannot be parsed, or the command makes no sense; dbt says why.\n"
        "- **What to do:** Mend what dbt names, and run it again.\n\n"
        "```text\n"
    )
    assert outcome.summary.endswith(
        "Compilation Error\n"
        "  Model 'model.marketplace.stg_events' (models/staging/stg_events.sql) depends on a node named 'nothing' "
        "which was not found\n```\n\n"
    )


def test_each_test_of_the_project_is_found_in_its_file(run: Callable[..., Run], clone: Path) -> None:
    run("parse")
    manifest = json.loads((clone / "build/dbt/target/manifest.json").read_text())
    nodes = [node for node in manifest["nodes"].values() if node["resource_type"] == "test"]
    found, numbers = {}, {}
    for node in [*nodes, *manifest["unit_tests"].values()]:
        file = clone / "dbt" / node["original_file_path"]
        numbers[node["name"]] = dbt_report._line(file, node, "")
        found[node["name"]] = file.read_text().splitlines()[numbers[node["name"]] - 1].strip()
    generic = [node for node in nodes if "test_metadata" in node]
    wanted = {node["name"]: {f"name: {node['name']}", f"- {node['test_metadata']['name']}"} for node in generic}
    wanted |= {node["name"]: {"with"} for node in nodes if node not in generic}  # its file is the test
    wanted |= {node["name"]: {f"- name: {node['name']}"} for node in manifest["unit_tests"].values()}
    assert len(found) > 50
    assert {name: line for name, line in found.items() if line not in wanted[name]} == {}
    # Three tables have a column of the same name.
    assert {name: number for name, number in numbers.items() if re.fullmatch("source_.*_load_id", name)} == {
        "source_unique_raw_loads_load_id": 52,
        "source_not_null_raw_loads_load_id": 53,
        "source_not_null_raw_rejected_events_load_id": 76,
    }

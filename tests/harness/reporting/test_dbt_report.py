"""What `nox -s dbt` and a failed dbt task of `nox -s e2e` tell: dbt itself, on models that are broken in a copy."""

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
    "dbt/models/marts/dim/dim_date.sql": ("extract(dow", "1 + extract(dow"),  # the unit test skips it
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
  LINE 23:         max(created_on) as last_event_at
                       ^
  HINT:  Perhaps you meant to reference the column "events.created_at"."""
ROWS = """\
The rows that fail it, at most 10:

| from_field |
| --- |
| 4 |
| 4 |"""
UNIT_TEST = "sunday_is_day_one_and_saturday_day_seven"
UNIT_TEST_MESSAGE = """\
actual differs from expected:

@@,calendar_date,day_of_week,is_weekday
→ ,2020-01-03   ,6→7        ,True
→ ,2020-01-04   ,7→8        ,False
→ ,2020-01-05   ,1→2        ,False
→ ,2020-01-06   ,2→3        ,True"""
BUILD = (
    "build --threads 1 --indirect-selection empty --select +fct_events +dim_date +dim_services +dim_professionals"
    f" {UNIT_TEST} unique_dim_professionals_professional_id fct_events_have_a_known_service"
)
SUMMARY = f"""\
## ✗ dbt: {BUILD}: 3 failed of 10 models, 2 tests, 1 unit test (TIME)

- **What happened:** dbt {BUILD} ended with exit code 1: fct_events_have_a_known_service, \
{UNIT_TEST}, dim_professionals failed.
- **Why, most likely:** A changed model, or rows that a model does not expect; dbt shows the rows or the statement.
- **What to do:** The statements are in build/dbt/target/run; run only what failed: nox -s dbt -- build --select \
+fct_events_have_a_known_service +{UNIT_TEST} +dim_professionals

### dbt test fct_events_have_a_known_service: fail

at `dbt/models/marts/fact/fct_events.yml:36`

```text
Got 2 results, configured to fail if != 0
```

{ROWS}

<The statement>

Run it alone, on the sample: `nox -s dbt -- build --select +fct_events_have_a_known_service`

### dbt unit test {UNIT_TEST}: fail

at `dbt/models/marts/dim/dim_date.yml:103`

```text
{UNIT_TEST_MESSAGE}
```

<The statement>

Run it alone, on the sample: `nox -s dbt -- build --select +{UNIT_TEST}`

### dbt model dim_professionals: error

at `dbt/models/marts/dim/dim_professionals.sql:60`

```text
{MODEL_MESSAGE}
```

<The statement>

Run it alone, on the sample: `nox -s dbt -- build --select +dim_professionals`

Skipped, because what they need failed: `dim_date`, 1 test.

| dbt | passed | warned | skipped | failed | seconds |
| --- | ---: | ---: | ---: | ---: | ---: |
| model | 8 | 0 | 1 | 1 | TIME |
| test | 0 | 0 | 1 | 1 | TIME |
| unit test | 0 | 0 | 0 | 1 | TIME |

<dbt's output>

"""


@dataclass(frozen=True)
class Run:
    """How a run of `python -m harness dbt` in a clone ended."""

    exit_code: int
    output: str
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


def folded(summary: str) -> str:
    return re.sub(r"<details><summary>(.*?)</summary>.*?</details>", r"<\1>", summary, flags=re.DOTALL)


def test_failures_are_reported_with_their_rows_and_lines(clone: Path, run: Callable[..., Run]) -> None:
    for name, (old, new) in BREAKS.items():
        text = (clone / name).read_text()
        assert text.count(old) == 1
        (clone / name).write_text(text.replace(old, new))

    outcome = run(*BUILD.split())

    assert outcome.exit_code == 49, outcome.output
    assert folded(outcome.summary) == SUMMARY
    statements = re.findall(r"<details><summary>The statement</summary>\n\n```text\n(.*?)\n", outcome.summary)
    assert statements[0] == "with child as ("
    assert statements[-1].startswith("-- depends_on: ")
    assert outcome.commands == [
        "::error file=dbt/models/marts/fact/fct_events.yml,line=36,title=dbt test fct_events_have_a_known_service%3A "
        "fail::Got 2 results, configured to fail if != 0",
        f"::error file=dbt/models/marts/dim/dim_date.yml,line=103,title=dbt unit_test {UNIT_TEST}%3A fail::"
        + UNIT_TEST_MESSAGE.replace("\n", "%0A"),
        "::error file=dbt/models/marts/dim/dim_professionals.sql,line=60,title=dbt model dim_professionals%3A error::"
        + MODEL_MESSAGE.replace("\n", "%0A"),
    ]

    # A failed dbt task leaves the same files; by now the warehouse is gone.
    error = DagRunFailedError("what", "why", "next", ["the log"], task_id="dbt_build")
    warehouse = SimpleNamespace(admin_dsn="postgresql://nobody@127.0.0.1:1/none")
    deployment: Any = SimpleNamespace(failed_dbt_runs=lambda: [clone / "failures"], warehouse=warehouse)
    *report, last = e2e.with_dbt_results(error, deployment).evidence
    assert report == dbt_report.report(dbt_report.read(clone / "failures"), warehouse.admin_dsn)
    assert any("The rows that fail it cannot be read: connection failed: " in block for block in report)
    assert last == "the log"

    # The results of that build are not reported again by a command that has none: the project cannot be parsed.
    (clone / "dbt/models/staging/stg_events.sql").write_text("select * from {{ ref('nothing') }}\n")
    outcome = run("build")
    assert outcome.exit_code == 49
    assert outcome.summary.startswith(
        "## ✗ dbt: build (TIME)\n\n"
        "- **What happened:** dbt build ended with exit code 2.\n"
        "- **Why, most likely:** The project cannot be parsed, or the arguments are invalid; dbt says which.\n"
        "- **What to do:** Fix what dbt names, and run it again.\n\n"
        "```text\n"
    )
    assert outcome.summary.endswith(
        "Compilation Error\n"
        "  Model 'model.marketplace.stg_events' (models/staging/stg_events.sql) depends on a node named 'nothing' "
        "which was not found\n```\n\n"
    )

"""`nox -s diff` as a command: a whole comparison, bad input, sides that do not build, interrupts."""

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from harness.project.session_lock import session_lock
from harness.warehouse.server import Server
from tests import comparisons, harness_command
from tests.clones import git
from tests.comparisons import (
    ANALYSIS,
    DIMENSIONS,
    FACTS,
    NEW_MODEL,
    WITH_AN_ACCOUNT,
    Run,
    command,
    edit,
    interrupt,
    interrupted_after,
    made,
    rename_column,
)
from tests.harness.commands.conftest import Session

pytestmark = pytest.mark.needs("git")


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


@pytest.fixture
def options(repository: Path, temporary: Path) -> dict[str, Any]:
    return comparisons.options(repository, temporary)


@pytest.fixture
def run(server: Server, repository: Path, temporary: Path) -> Run:
    """Give a function that runs `nox -s diff` on few events."""
    return comparisons.runner(server, repository, temporary)


def change(clone: Path) -> None:
    """Change the project in many ways."""
    edit(clone, f"{FACTS}.sql", ("    from events\n", WITH_AN_ACCOUNT))
    (clone / ANALYSIS / "services_by_professional.sql").write_text(NEW_MODEL)
    edit(
        clone,
        f"{ANALYSIS}/service_revenue_daily.sql",
        (
            "changed_spans()) }}\n",
            "changed_spans()) }}\n        and date > (select max(old.date) from {{ this }} as old)\n",
        ),
        ("{{ is_in_spans('old_rows.date', changed_spans()) }}", "false"),
    )
    rename_column(clone)
    edit(
        clone,
        f"{DIMENSIONS}/dim_date.yml",
        ("- name: is_weekday", "- name: is_weekday\n        data_tests: [not_null]"),
    )
    edit(
        clone, f"{DIMENSIONS}/dim_professionals.yml", ("The professional's first event of any type", "The first event")
    )


@pytest.mark.slow
def test_what_several_changes_do(repository: Path, run: Run, temporary: Path) -> None:
    change(repository)
    exit_code, output = run("--strict")
    assert exit_code == 72, output
    commit = git(repository, "rev-parse", "--short=8", "HEAD")
    *said, _, _, _ = output.splitlines()
    assert [re.sub(r"\(\d+\.\d s\)", "", line).rstrip() for line in said if line.startswith("✓")] == [
        "✓ loaded 14 events",
        "✓ parsed both dbt projects: 4 models changed, 10 can differ",
        "✓ 8 rows held back for a second run",
        "✓ the base's models built",
        "✓ the branch's models built on a copy",
        "✓ models of both sides built again, with all rows",
        "✓ marts compared after an incremental run",
        "✓ models of both sides built anew",
        "✓ marts compared after a full refresh",
    ]
    begin = said.index(f"  base    the merge base with main ({commit})")
    assert [line.rstrip() for line in said[begin:][:26]] == [
        f"  base    the merge base with main ({commit})",
        f"  branch  {commit} and uncommitted changes",
        "  rows    14 events",
        "",
        "  changed  dim_date: tests",
        "  changed  dim_professionals: descriptions",
        "  changed  dim_services: SQL, contract, tests, descriptions",
        "  changed  fct_events: SQL",
        "  changed  service_revenue_daily: SQL, configuration (incremental_predicates)",
        "  changed  services_by_professional: it is new",
        "",
        "  mart                             base  branch  added  removed  changed  right",
        "  ───────────────────────────────  ────  ──────  ─────  ───────  ───────  ─────",
        "  fct_events                          8       6      0        2        0   base",
        "  dim_services                        2       2      0        0        0   both",
        "  service_revenue_daily               6       6      0        0        2   base",
        "  services_by_professional          new       2",
        "  dim_professionals                   3       3      0        0        1   base",
        "  professional_funnel                 3       3      0        0        1   base",
        "  professional_productivity_daily     5       5      0        0        1   base",
        "  dim_date                            5       5      0        0        0   both",
        "  availability_snapshot               5       5      0        0        0   both",
        "",
        "  cannot differ, and are the base's: feed_days",
        "",
        "fct_events",
    ]
    examples = [
        "- event_id = 5: professional_id 2, service_id 4, created_at 2020-01-02 10:00:00, service_lead_fee 2.200000",
        "- event_id = 10: professional_id 2, service_id 5, created_at 2020-01-03 10:00:00, service_lead_fee 1.000000",
        "~ service_id = 4, date = 2020-01-02: proposals 2 → 1, lead_fee_revenue 2.700000 → 2.200000",
        "~ service_id = 5, date = 2020-01-02: proposals 2 → 1, lead_fee_revenue 7.700000 → 3.300000",
        "~ professional_id = 2: last_event_at 2020-01-03 10:00:00 → 2020-01-02 09:00:00",
        "~ professional_id = 2: first_proposed_at 2020-01-02 10:00:00 → null, days_able_to_proposal 0 → null",
        "~ date = 2020-01-02: proposals 4 → 2, lead_fee_revenue 10.400000 → 5.500000, proposals_per_active_professional"
        " 2.000000 → 1.000000, lead_fee_revenue_per_active_professional 5.200000 → 2.750000",
    ]
    assert [line.strip() for line in said if line.startswith("    ")] == examples
    sentences = {line.strip() for line in said}
    assert sentences >= {
        "Column service_name_en renamed to service_name.",
        "The model is new: only the branch has it, with 2 rows.",
        "Test not_null_dim_date_is_weekday added.",
        "Description of first_event_at changed from “The professional's first event of any type.” to"
        " “The first event.”.",
    }
    error = harness_command.error_lines(output)
    assert error == [
        "✗ fct_events, dim_services, service_revenue_daily, services_by_professional, dim_professionals, "
        "professional_funnel and professional_productivity_daily differ from the base, and --strict is set.",
        "  They are described in build/diff/index.html.",
        "  If they are meant, name them in dbt/expected_changes.yml: docs/diff.md shows how.",
    ]

    found = json.loads((repository / "build" / "diff" / "diff.json").read_text())
    marts = {mart["name"]: mart for mart in found["marts"]}
    numbers = ("base_rows", "branch_rows", "added", "removed", "changed")

    def rows(name: str, run: str = "rows") -> list[int]:
        return [marts[name][run][number] for number in numbers]

    assert found["unaffected"] == ["feed_days"]
    assert (rows("fct_events"), rows("fct_events", "incremental_rows")) == ([8, 6, 0, 2, 0], [8, 6, 0, 2, 0])
    assert rows("service_revenue_daily") == [6, 6, 0, 0, 0]
    assert rows("service_revenue_daily", "incremental_rows") == [6, 6, 0, 0, 2]
    assert [column["name"] for column in marts["service_revenue_daily"]["incremental_rows"]["columns"]] == [
        "proposals",
        "lead_fee_revenue",
    ]
    assert {name: verdict["agrees"] for name, verdict in marts["service_revenue_daily"]["verdicts"].items()} == {
        "base": True,
        "branch": True,
    }
    assert marts["service_revenue_daily"]["incremental_verdicts"]["branch"]["agrees"] is False
    assert (marts["services_by_professional"]["in_base"], marts["services_by_professional"]["rows"]) == (False, None)
    assert marts["dim_services"]["schema"][0] == {
        "kind": "column renamed",
        "what": "service_name_en",
        "base": "service_name_en",
        "branch": "service_name",
    }
    assert all(mart["builds"]["base"]["seconds"] > 0 for mart in marts.values() if mart["in_base"])

    summary = temporary.with_name("summary.md").read_text()
    headline, *markdown = summary.splitlines()
    assert headline.startswith("## ✗ diff: 8 of 10 marts differ: fct_events ")
    assert [line for line in markdown if line.startswith("| ")] == [
        "| mart | base | branch | added | removed | changed | right |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
        "| fct_events | 8 | 6 | 0 | 2 | 0 | base |",
        "| dim_services | 2 | 2 | 0 | 0 | 0 | both |",
        "| service_revenue_daily | 6 | 6 | 0 | 0 | 2 | base |",
        "| services_by_professional | new | 2 |  |  |  |  |",
        "| dim_professionals | 3 | 3 | 0 | 0 | 1 | base |",
        "| professional_funnel | 3 | 3 | 0 | 0 | 1 | base |",
        "| professional_productivity_daily | 5 | 5 | 0 | 0 | 1 | base |",
        "| dim_date | 5 | 5 | 0 | 0 | 0 | both |",
        "| availability_snapshot | 5 | 5 | 0 | 0 | 0 | both |",
    ]
    assert [line for line in markdown if line in examples] == examples
    assert f"- **What happened:** {error[0].removeprefix('✗ ')}" in markdown
    assert list(temporary.iterdir()) == []


def test_an_interrupt_while_dbt_runs_leaves_nothing(server: Server, options: dict[str, Any], temporary: Path) -> None:
    interrupted_after("loaded 14 events", server, options, temporary)


def test_a_second_session_waits_for_the_first(server: Server, options: dict[str, Any], repository: Path) -> None:
    (repository / "build" / "diff").mkdir()
    with session_lock(repository / "build" / "diff" / ".lock", "compares"):
        process = harness_command.start(*command(server), **options)
        harness_command.read_until(process, "^… waiting for another session, which compares in this clone$")
        interrupt(process, signal.SIGTERM)


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (
            ["--feed", "orders=a.csv"],
            [
                "✗ There is no feed 'orders'.",
                "  The feeds are: events.",
                "  Name one of them, or make it: nox -s feed -- new NAME --from FILE",
            ],
        ),
        (
            ["--feed", "events=a.csv", "--events", "b.csv"],
            [
                "✗ The files of events are given twice.",
                "  --feed events=URI is the same as --events URI, and a pattern may name several files.",
                "  Give them once: --feed events=URI",
            ],
        ),
        (
            ["--warehouse-dsn", "postgresql://h/d", "--events", "a.csv"],
            [
                "✗ --warehouse-dsn cannot be given with --events or --feed.",
                "  The rows are those of the warehouse.",
                "  Leave one of them out.",
            ],
        ),
    ],
)
def test_arguments_that_are_not_valid(session: Session, arguments: list[str], lines: list[str]) -> None:
    outcome = session("diff", *arguments)
    assert (outcome.exit_code, outcome.errors, outcome.output) == (2, lines, [])


@pytest.mark.parametrize("text", ["orders", "=a.csv", "orders="])
def test_files_of_a_feed_without_a_name_or_without_files(session: Session, text: str) -> None:
    session("diff", "--feed", text).is_error(2, f"--feed: {text} is not NAME=URI.")


@pytest.mark.needs("history")
def test_a_base_that_is_not_there(session: Session) -> None:
    session("diff", "--base", "no/such/branch").is_error(70, "There is no commit 'no/such/branch' in this clone.")


@pytest.mark.needs("history")
@pytest.mark.parametrize("option", ["--events={}", "--feed=events={}"])
def test_files_that_are_not_there(session: Session, server: Server, tmp_path: Path, option: str) -> None:
    missing = tmp_path / "missing.csv"
    before = made(server)
    outcome = session("diff", "--base", "HEAD", "--postgres", server.dsn, option.format(missing))
    outcome.is_error(10, f"{missing} does not exist.")
    assert made(server) == before

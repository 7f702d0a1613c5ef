"""Prepared branches, each with a change of one kind: `nox -s diff` names it, and what it does to the sample's rows."""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest

from harness.project.paths import SAMPLE
from harness.warehouse.server import Server
from tests import clones, comparisons, harness_command
from tests.clones import git
from tests.comparisons import (
    ANALYSIS,
    DIMENSIONS,
    EVENTS,
    FACTS,
    NEW_MODEL,
    WITH_AN_ACCOUNT,
    Run,
    command,
    edit,
    interrupted_after,
    rename_column,
)

pytestmark = [pytest.mark.slow, pytest.mark.needs("git")]

STAGING, SERVICE_DAYS = "dbt/models/staging/stg_events.sql", "dbt/models/intermediate/int_service_days.sql"
SAME = "No difference in 9 marts."


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


@dataclass(frozen=True)
class Outcome:
    """What a comparison has printed, and its diff.json."""

    output: str
    found: dict[str, Any]

    def says(self, *texts: str) -> None:
        """Check that it has printed TEXTS."""
        for text in texts:
            assert text in self.output, self.output

    def row(self, mart: str) -> list[str]:
        """Return the row of MART in the table: rows of base and branch, added, removed, changed, the right side."""
        [line] = [line for line in self.output.splitlines() if re.match(f"  {mart} +\\d", line)]
        return line.split()[1:]

    def mart(self, name: str) -> dict[str, Any]:
        """Return what diff.json says of the mart NAME."""
        [mart] = [mart for mart in self.found["marts"] if mart["name"] == name]
        return mart  # type: ignore[no-any-return]


Compare = Callable[..., Outcome]


@pytest.fixture
def compare(repository: Path, temporary: Path, server: Server) -> Compare:
    """Give a function that commits what was changed and compares it with the base on the sample."""
    options = comparisons.options(repository, temporary)

    def compare(*arguments: str, expected_code: int = 0) -> Outcome:
        git(repository, "add", "--all")
        git(repository, "commit", "--quiet", "--message", "change")
        exit_code, output = harness_command.run("diff", "--postgres", server.dsn, *arguments, **options)
        assert exit_code == expected_code, output
        assert "uncommitted" not in output
        return Outcome(output, json.loads((repository / "build" / "diff" / "diff.json").read_text()))

    return compare


@pytest.fixture
def run(server: Server, repository: Path, temporary: Path) -> Run:
    """Give a function that runs `nox -s diff` on few events."""
    return comparisons.runner(server, repository, temporary)


def proposals() -> list[tuple[int, int, str, Decimal]]:
    """Return the professional, service, day and fee of each proposal of the sample."""
    rows = csv.DictReader(SAMPLE.open(), delimiter=";")
    proposed = [(row, row["meta_data"].split("_")) for row in rows if row["event_type"] == "proposed"]
    return [
        (int(row["professional_id_anonymized"]), int(data[0]), row["created_at"][:10], Decimal(data[3]))
        for row, data in proposed
    ]


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


def test_a_join_that_loses_rows(repository: Path, compare: Compare) -> None:
    edit(repository, f"{FACTS}.sql", ("    from events\n", WITH_AN_ACCOUNT))
    with SAMPLE.open() as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    accounts = {row["professional_id_anonymized"] for row in rows if row["event_type"] == "created_account"}
    total = sum(row["event_type"] == "proposed" for row in rows)
    lost = sum(row["event_type"] == "proposed" and row["professional_id_anonymized"] not in accounts for row in rows)
    assert 0 < lost < total
    outcome = compare()
    outcome.says(
        "  changed  fct_events: SQL\n",
        f"fct_events ({lost} rows removed",
        "  cannot differ, and are the base's: dim_services, feed_days and service_revenue_daily\n",
    )
    assert outcome.row("fct_events") == [f"{total:,}", f"{total - lost:,}", "0", str(lost), "0", "base"]


@pytest.mark.nightly
def test_rounding(repository: Path, compare: Compare) -> None:
    edit(repository, SERVICE_DAYS, ("sum(service_lead_fee)", "sum(round(service_lead_fee, 1))"))
    sums: defaultdict[tuple[int, str], Decimal] = defaultdict(Decimal)
    for _, service, day, fee in proposals():
        sums[service, day] += fee.quantize(Decimal("0.1"), ROUND_HALF_UP) - fee
    changed = [difference for difference in sums.values() if difference]
    outcome = compare()
    outcome.says("  changed  int_service_days: SQL\n", "\n  Cause: int_service_days.\n")
    assert outcome.row("service_revenue_daily") == [*[f"{len(sums):,}"] * 2, "0", "0", f"{len(changed):,}", "base"]
    [column] = outcome.mart("service_revenue_daily")["rows"]["columns"]
    assert (column["name"], column["rows"]) == ("lead_fee_revenue", len(changed))
    assert (Decimal(column["smallest"]), Decimal(column["largest"])) == (min(changed), max(changed))


@pytest.mark.nightly
def test_a_time_zone(repository: Path, compare: Compare) -> None:
    edit(repository, STAGING, ("at time zone 'UTC' as created_at", "at time zone 'Europe/Amsterdam' as created_at"))
    total = f"{len(proposals()):,}"
    outcome = compare(expected_code=49)
    outcome.says("  changed  stg_events: SQL\n", f"  created_at: {total} values changed, each by +1 h.\n")
    what, why, next_step = harness_command.error_lines(outcome.output)
    assert what.startswith("✗ The branch builds once, but not a second time, in increments: fct_events, int_")
    assert why.startswith("  dbt says: duplicate key value violates unique constraint ")
    assert next_step == "  Mend its incremental run. Until then the marts are compared after a full refresh alone."
    assert outcome.found["failure"] == outcome.found["notes"][-1] == [what[2:], why[2:], next_step[2:]]
    assert outcome.row("fct_events") == [total, total, "0", "0", total, "base"]


@pytest.mark.nightly
def test_a_renamed_column(repository: Path, compare: Compare) -> None:
    rename_column(repository)
    outcome = compare()
    outcome.says(
        "  changed  dim_services: SQL, contract, tests, descriptions\n",
        "1 of 9 marts differs, dim_services: the same rows; column service_name_en renamed to service_name",
        "  Column service_name_en renamed to service_name.\n",
    )


@pytest.mark.nightly
def test_a_new_model(repository: Path, compare: Compare) -> None:
    (repository / ANALYSIS / "services_by_professional.sql").write_text(NEW_MODEL)
    rows = f"{len({professional for professional, *_ in proposals()})} rows"
    outcome = compare()
    outcome.says(
        "  changed  services_by_professional: it is new\n",
        f"1 of 10 marts differs, services_by_professional: new, only the branch has it, with {rows}.",
        f"  The model is new: only the branch has it, with {rows}.\n",
    )
    assert len(outcome.found["unaffected"]) == 9


@pytest.mark.nightly
def test_a_macro(repository: Path, compare: Compare) -> None:
    edit(
        repository,
        "dbt/macros/changed_spans.sql",
        ("interval '1 day - 1 microsecond'", "interval '2 days - 1 microsecond'"),
    )
    outcome = compare()
    outcome.says(SAME, ": the macro spans_of_changes\n")
    assert (len(outcome.found["built"]), outcome.found["unaffected"]) == (17, [])


@pytest.mark.nightly
def test_a_contract(repository: Path, compare: Compare) -> None:
    rule = "{name: fees_are_below_5, sql: \"coalesce(split_part(meta_data, '_', 4)::numeric < 5, true)\"}"
    name = "{name: only_proposals_have_metadata"
    properties = "customProperties:\n  - {property: timeColumn"
    edit(
        repository,
        "airflow/feeds/events.yaml",
        (name, f"{rule}\n          - {name}"),
        (properties, properties.replace("timeColumn", "maxRejected, value: 0.9}\n  - {property: timeColumn")),
    )
    fees = [fee for *_, fee in proposals()]
    removed = sum(fee >= 5 for fee in fees)
    outcome = compare()
    outcome.says(
        f"  rows    the samples: 20,000 events in the base and {20_000 - removed:,} in the branch, loaded by each side",
        ": the load (airflow/feeds/events.yaml)\n",
        f"fct_events ({removed:,} rows removed",
    )
    # Each side is right by its own contract.
    expected = [f"{len(fees):,}", f"{len(fees) - removed:,}", "0", f"{removed:,}", "0", "both"]
    assert outcome.row("fct_events") == expected


def test_comments_only(repository: Path, compare: Compare) -> None:
    edit(repository, f"{FACTS}.sql", ("proposals as (", "-- The proposals alone.\nproposals as ("))
    compare().says(SAME, "  changed  fct_events: SQL (only comments or blanks)\n")


@pytest.mark.nightly
def test_a_doubled_key(repository: Path, compare: Compare) -> None:
    again = (
        "select * from services\nunion all\n"
        "select service_id, upper(service_name_nl), service_name_en from services where service_id % 10 = 3"
    )
    services = f"{DIMENSIONS}/dim_services"
    edit(repository, f"{services}.sql", ("select * from services", again))
    edit(repository, f"{services}.yml", ("type: primary_key", "type: not_null"))
    doubled = {service for _, service, *_ in proposals() if service % 10 == 3}
    outcome = compare()
    outcome.says(
        "  changed  dim_services: SQL, contract\n",
        f"  The key is not unique in the branch: {len(doubled)} keys occur more than once, service_id = ",
        "  Constraint primary key of service_id removed.\n",
    )
    assert outcome.row("dim_services")[2:] == [str(len(doubled)), "0", "0", "base"]


def test_an_incremental_filter_that_is_wrong_only_after_the_second_run(repository: Path, compare: Compare) -> None:
    edit(
        repository,
        f"{FACTS}.sql",
        (
            "            and {{ is_in_spans('created_at_tz', changed_spans(), 'timestamptz') }}\n",
            "            and {{ is_in_spans('created_at_tz', changed_spans(), 'timestamptz') }}\n"
            "            and created_at > (select max(old.created_at) from {{ this }} as old)\n",
        ),
        ("{{ is_in_spans('old_rows.created_at', changed_spans()) }}", "false"),
    )
    outcome = compare()
    outcome.says("fct_events (only after an incremental run ", "a full refresh hides it: ")
    mart = outcome.mart("fct_events")
    assert (mart["rows"]["added"], mart["rows"]["removed"], mart["rows"]["changed"]) == (0, 0, 0)
    late = mart["incremental_rows"]
    assert (late["added"], late["changed"]) == (0, 0)
    assert 0 < late["removed"] == late["base_rows"] - late["branch_rows"]
    assert [mart["incremental_verdicts"][side]["agrees"] for side in ("base", "branch")] == [True, False]
    assert [mart["verdicts"][side]["agrees"] for side in ("base", "branch")] == [True, True]


@pytest.mark.nightly
def test_two_changes_at_once(repository: Path, compare: Compare) -> None:
    fee = "case when service_id = 27 then service_lead_fee * 1.21 else service_lead_fee end as service_lead_fee"
    edit(
        repository, f"{FACTS}.sql", ("        service_lead_fee\n\n    from events", f"        {fee}\n\n    from events")
    )
    edit(repository, f"{DIMENSIONS}/dim_date.sql", ("isodow from day_start_at) <= 5", "isodow from day_start_at) <= 6"))
    changed = [fee for _, service, _, fee in proposals() if service == 27 and fee]
    outcome = compare()
    outcome.says(
        "  changed  dim_date and fct_events: SQL\n",
        "2 of 9 marts differ: ",
        "rows changed in is_weekday, all with day_of_week = 7)",
        f"fct_events ({len(changed):,} rows changed in service_lead_fee, all with service_id = 27)",
    )


@pytest.mark.nightly
def test_a_formatting_change_of_all_models(repository: Path, compare: Compare) -> None:
    paths = list((repository / "dbt" / "models").rglob("*.sql"))
    for path in paths:
        path.write_text(re.sub(r"\n\n+", "\n", path.read_text()).replace("    ", "  "))
    outcome = compare()
    outcome.says(SAME)
    assert {changed["name"] for changed in outcome.found["changed"]} == {path.stem for path in paths}
    what = {what for changed in outcome.found["changed"] for what in changed["what"]}
    assert what == {"SQL (only comments or blanks)", "configuration (incremental_predicates)"}


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (
            ("int_service_days", "nothing"),
            [
                "✗ The branch cannot be parsed.",
                "  dbt says: Model 'model.marketplace.dim_services' (models/marts/dim/dim_services.sql) depends on a"
                " node named 'nothing' which was not found (Compilation Error)",
                "  Build it alone: nox -s dbt -- build",
            ],
        ),
        (
            ("service_name_en", "name_en"),
            [
                "✗ The branch does not build: dim_services failed.",
                '  dbt says: column "name_en" does not exist'
                " (Database Error in model dim_services (models/marts/dim/dim_services.sql))",
                "  Build it alone: nox -s dbt -- build --select +dim_services",
            ],
        ),
    ],
)
def test_a_branch_that_does_not_build(
    repository: Path, temporary: Path, server: Server, change: tuple[str, str], lines: list[str]
) -> None:
    edit(repository, f"{DIMENSIONS}/dim_services.sql", change)
    exit_code, output = harness_command.run(*command(server), **comparisons.options(repository, temporary))
    assert exit_code == 49, output
    assert harness_command.error_lines(output) == lines
    assert list(temporary.iterdir()) == []


@pytest.mark.nightly
@pytest.mark.parametrize(
    "phase",
    [
        "parsed both dbt projects",
        "8 rows held back",
        "the base's models built",
        "the branch's models built on a copy",
        "models of both sides built again",
        "models of both sides built anew",
    ],
)
def test_an_interrupt_leaves_nothing(repository: Path, temporary: Path, server: Server, phase: str) -> None:
    edit(repository, f"{FACTS}.sql", ("with\n", "-- Proposals.\nwith\n"))
    interrupted_after(phase, server, comparisons.options(repository, temporary), temporary)


ORDERS = "order_id,ordered_at,amount\n" + "".join(f"{i},2024-01-{i % 28 + 1:02} 12:00:00,{i}.50\n" for i in range(60))


@pytest.mark.nightly
def test_a_feed_that_only_the_branch_has(repository: Path, compare: Compare) -> None:
    (repository / "build" / "orders.csv").write_text(ORDERS)
    arguments = ("feed", "new", "orders", "--from", "build/orders.csv")
    exit_code, output = harness_command.run(*arguments, python=clones.python_of(repository), cwd=repository)
    assert exit_code == 0, output
    model = "select order_id, amount from {{ ref('stg_orders') }}"
    (repository / ANALYSIS / "orders.sql").write_text(model)
    outcome = compare("--events", "build/events.csv", "--feed", "orders=build/orders.csv")
    outcome.says(
        "  rows    14 events, 60 orders only in the branch, loaded by each side\n",
        "  The two sides do not have the same feeds: orders only in the branch.\n"
        "  Each side loads its own feeds; of those of both the files are the same.\n"
        "  Models of a feed that one side lacks are shown as new or removed.\n",
        "2 of 10 marts differ: orders (new, only the branch has it, with 60 rows) and feed_days (28 rows added).",
    )


@pytest.mark.nightly
def test_a_file_that_the_contract_of_the_base_refuses(repository: Path, temporary: Path, server: Server) -> None:
    properties = "customProperties:\n  - {property: timeColumn"
    allowed = properties.replace("timeColumn", "maxRejected, value: 0.5}\n  - {property: timeColumn")
    edit(repository, "airflow/feeds/events.yaml", (properties, allowed))
    events = repository / "build" / "events.csv"
    events.write_text(EVENTS.replace(";proposed;", ";nonsense;", 3))
    exit_code, output = harness_command.run(*command(server), **comparisons.options(repository, temporary))
    assert exit_code == 71, output
    assert harness_command.error_lines(output) == [
        f"✗ The base's load of events failed: 3 of 14 rows of {events} were rejected; at most 1% are allowed.",
        "  The load's code or the contracts have changed, so each side loads the files by its own.",
        "  Choose files that both sides can load: --events, or --feed NAME=URI",
    ]

"""The report of a run, read with a parser of HTML."""

from dataclasses import replace
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from xml.etree.ElementTree import Element

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.reporting.figures import KeptRun
from harness.reporting.page import LIMIT_BYTES
from harness.reporting.report import lineage, timing
from harness.reporting.report.page import size, write_page
from harness.reporting.report.run import (
    Dataset,
    Day,
    Failure,
    Load,
    Node,
    Number,
    Pod,
    PytestRun,
    Reject,
    Run,
    Series,
    Step,
    Table,
)
from tests import pages
from tests.harness.reporting.report import made
from tests.harness.reporting.report.made import at

NAMES = (
    '<script>alert("1")</script>',
    "a'b\" onload=x & co",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
    "\U0001f469\u200d\U0001f52c\U0001f389",
    "{{ 7 * 7 }}",
    "</style><b>",
    "%s\\n",
    "\ud800",  # a path may have any byte
)
PLANTED = "pl4nt3d-s3cr3t"


def written(run: Run, folder: Path) -> Element:
    path = folder / "index.html"
    write_page(run, path)
    assert path.stat().st_size <= LIMIT_BYTES
    found = pages.read(path)
    assert pages.loaded(found) == []
    return found


def table(found: Element, label: str) -> list[list[str]]:
    """Return the cells of the table LABEL."""
    [region] = [each for each in found.iter("div") if each.get("aria-label") == label]
    return pages.cells(region)


def verdict(found: Element) -> list[str]:
    [section] = pages.with_class(found, "verdict")
    return [pages.text(each) for each in section.iter("p")]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Element:
    return written(made.ended(), tmp_path_factory.mktemp("page"))


def test_the_verdict_comes_first(ended: Element, tmp_path: Path) -> None:
    assert next(ended.iter("main"))[0].get("class") == "verdict good"
    assert verdict(ended)[:2] == [
        "✓ It ended well: 2 numbers as expected.",
        "1 test of dbt warns: see the rows.",
    ]
    found = written(made.with_wrong_numbers(), tmp_path)
    assert next(found.iter("main"))[0].get("class") == "verdict bad"
    assert verdict(found) == [
        "✗ 1 of 2 numbers do not match the feeds' files: content of analysis.availability_snapshot.",
        "A change to the load or to a model most likely changed these numbers.",
        "Next: Compare the expected and the found numbers above; the models' own tests: nox -s dbt",
        "1 test of dbt warns: see the rows.",
    ]


def test_it_says_what_ran_where(ended: Element) -> None:
    facts, *_ = pages.with_class(ended, "facts")
    names = [pages.text(each) for each in facts.iter("dt")]
    values = [pages.text(each) for each in facts.iter("dd")]
    assert names == ["Began", "machine", "target", "commit"]
    assert values[0].startswith("2026-03-10 08:00:00 UTC, took ")
    assert values[2:] == ["embedded (it was named)", "0123abcd"]


def test_the_slowest_are_named_with_their_wait(ended: Element) -> None:
    text = pages.text(ended)
    assert "The longest phase was events_pipeline_daily: 30.0 s." in text
    assert "The longest task was dbt_build of events_pipeline_daily: 18.5 s, after 3.0 s of waiting." in text
    assert "The longest load was events: 2.0 s." in text
    assert "The longest node of dbt was fct_events: 2.5 s." in text
    assert table(ended, "Tasks of Airflow")[2:] == [
        ["load_events", "events_pipeline_daily manual__1", "success", "16.5 s", "2.5 s", "3.5 s", "", ""],
        ["dbt_build", "events_pipeline_daily manual__1", "success", "23.0 s", "3.0 s", "18.5 s", "10.0 s", ""],
    ]
    path = "PostgreSQL up (2.0 s), Airflow healthy (10.0 s), events_pipeline_daily (30.0 s), taken down (1.0 s)"
    assert f"The critical path of the phases: {path}." in text


def test_pods_are_shown_from_their_scheduling_to_their_readiness(ended: Element) -> None:
    assert table(ended, "Pods") == [
        ["Pod", "Scheduled at", "Images pulled at", "Started at", "Ready at"],
        ["airflow-scheduler-1", "1.0 s", "3.0 s", "4.0 s", "9.0 s"],
        ["dbt-build-1", "20.0 s", "21.0 s", "22.0 s", ""],
    ]
    assert "The longest pod was airflow-scheduler-1: ready in 5.0 s, after 3.0 s of waiting." in pages.text(ended)


def test_each_phase_is_beside_that_of_the_last_run_and_of_main(ended: Element) -> None:
    rows = table(ended, "Phases")
    assert rows[0] == ["Phase", "Took", "Last run", "Main", "Change"]
    assert rows[1:5] == [
        ["PostgreSQL up", "2.0 s", "2.0 s", "", "+0%"],
        ["Airflow healthy", "10.0 s", "8.0 s", "7.0 s", "+25%"],
        ["events_pipeline_daily", "30.0 s", "15.0 s", "", "+100%"],
        ["taken down", "1.0 s", "", "", ""],
    ]
    assert [rows[5][0], *rows[5][2:4]] == ["total", "26.0 s", "20.0 s"]


def test_a_total_is_compared_with_the_last_run_and_with_main() -> None:
    run = made.ended()
    sides = ["23% less than the last run of its kind (26.0 s)", "equal to the last one of main (20.0 s)"]
    assert timing.total_sentence(run, 20) == f"It took 20.0 s: {' and '.join(sides)}."
    run.main = run.last
    assert timing.total_sentence(run, 39) == (
        "It took 39.0 s: 50% more than the last run of its kind (26.0 s). That one was of main."
    )
    run.last = run.main = None
    assert timing.total_sentence(run, 39) == "It took 39.0 s."
    run.failure = Failure("a", "b", "c")
    assert timing.total_sentence(run, 39) == "Until it failed it took 39.0 s."


def test_a_change_that_lasts_is_named(ended: Element, tmp_path: Path) -> None:
    changes = [
        "total has changed and stayed so for 3 runs: 41 s in place of 25 s, 64% more.",
        "events_pipeline_daily has changed and stayed so for 3 runs: 28 s in place of 15 s, 87% more.",
    ]
    assert verdict(ended)[2:] == changes
    found = written(made.with_wrong_numbers(), tmp_path)
    assert "No figure has changed by more than 20% for three runs." in pages.text(found)


def test_the_numbers_are_beside_what_was_expected(tmp_path: Path) -> None:
    found = written(made.with_wrong_numbers(), tmp_path)
    wrong = ["content of analysis.availability_snapshot", "11 rows, 1 different", "11 rows, 1 different"]
    assert table(found, "Wrong numbers")[1:] == [wrong]
    assert table(found, "Numbers")[1:] == [["rows of raw.events", "100", "100", "right"], [*wrong, "wrong"]]
    assert "Both differ on 1 day, first on 2020-03-10." in pages.text(found)
    assert "Both are equal on each of 11 days." in pages.text(found)
    days = table(found, "Active professionals by day")
    assert days[9:11] == [["2020-03-09", "49", "49", "equal"], ["2020-03-10", "50", "47", "different"]]


def test_what_was_rejected_is_shown_with_examples(ended: Element) -> None:
    assert "7 rows, in build/reports/rejected_rows.csv." in pages.text(ended)
    assert table(ended, "Rejected rows by reason")[1:] == [
        ["events: field_count", "5", "line 3 1;2line 9 <b>;\u05e9\u05dc\u05d5\u05dd"],
        ["events: event_id: type", "2", "line 12 x;proposed"],
    ]
    loaded = [
        "events",
        "events_pipeline_daily manual__1",
        "succeeded",
        "110",
        "100",
        "7",
        "3",
        "0",
        "2.0 s",
        "1.0 s",
        "",
    ]
    assert table(ended, "Loads")[1:] == [loaded]
    assert table(ended, "Tables")[1:] == [["raw.events", "100", "2.9 MB"], ["raw.loads", "", "32.8 kB"]]


def test_without_a_rejected_row_that_is_kept_the_ledger_is_not_contradicted(tmp_path: Path) -> None:
    run = made.ended()
    run.rejects, run.has_warehouse = [], True
    assert "None is kept: later loads of the same files have rejected none." in pages.text(written(run, tmp_path))
    run.loads = [replace(run.loads[0], rejected=0)]
    assert "Rejected rows None." in " ".join(pages.text(written(run, tmp_path)).split())


def test_late_and_corrected_rows_are_shown_by_day(ended: Element) -> None:
    assert table(ended, "Late and corrected rows")[1:] == [
        ["2020-03-02", "events", "4", "1", "0"],
        ["2020-03-05", "events", "0", "0", "2"],
    ]


def test_the_last_runs_of_pytest_are_shown(ended: Element) -> None:
    row = ["tests", "2026-03-10 07:00 UTC", "3,000", "1", "2", "4 min 10 s"]
    assert table(ended, "Tests of pytest")[1:] == [row]
    items = [pages.text(item) for item in ended.iter("li")]
    assert items[-2:] == ["tests.a::test_b", "9.5 s tests.c::test_d"]


def dataset(found: Element, name: str) -> tuple[str, dict[str, str]]:
    """Return the heading of the dataset NAME, and what is said of it."""
    [section] = [each for each in pages.with_class(found, "dataset") if each.get("aria-label") == name]
    [facts] = pages.with_class(section, "facts")
    texts = [pages.text(each) for each in facts]
    [line] = pages.with_class(section, "line")
    return pages.text(line), dict(zip(texts[::2], texts[1::2], strict=True))


def test_each_dataset_says_what_it_is_and_what_depends_on_it(ended: Element) -> None:
    names = [each.get("aria-label") for each in pages.with_class(ended, "dataset")]
    assert names == [each.name for each in made.datasets()]  # from the file to the exposure
    assert dataset(ended, "fact.fct_events") == (
        "fact.fct_events One row per `proposed` event.",
        {
            "Rows": "90",
            "Built": "2026-03-10 08:00:32 UTC",
            "Last change": "2026-03-01 0123abc Fees are exact",
            "Made of": "staging.stg_events",
            "Read by": "dim.dim_date, lead_fee_report",
            "A change affects": "2: dim.dim_date, lead_fee_report",
            "Tests": "not_null_fct_events_id",
        },
    )
    heading, facts = dataset(ended, "staging.stg_events")
    assert heading == "staging.stg_events One row per event of the log."
    assert facts["A change affects"] == "3: dim.dim_date, fact.fct_events, lead_fee_report"
    assert facts["Tests"] == "proposals_are_by_able_professionals: warn"
    assert table(ended, "Columns of raw.events")[1:] == [
        ["event_id", "bigint", "The event.", "events.csv: event_id"],
        ["load_id", "bigint", "", ""],
    ]
    links = {each.get("href") for each in ended.iter("a")}
    ids = {f"#{each.get('id')}" for each in ended.iter() if isinstance(each.tag, str) and each.get("id")}
    assert links <= ids


def test_the_tests_of_each_model_and_the_rows_of_warnings_are_shown(ended: Element) -> None:
    assert table(ended, "Tests by model")[1:] == [
        ["stg_events", "0", "1", "", "", "0.4 s"],
        ["fct_events", "1", "", "", "", "0.1 s"],
    ]
    assert table(ended, "The slowest nodes of dbt")[1] == ["fct_events", "model", "2.5 s", "", "2.0 s"]
    rows = table(ended, "Rows of proposals_are_by_able_professionals")
    assert rows == [["event_id", "professional_id"], ["17", "4"], ["18", "null"]]
    assert "test proposals_are_by_able_professionals: warn, 2 rows" in pages.text(ended)


@pytest.mark.parametrize("make", [made.failed_at_once, made.interrupted, made.began])
def test_a_run_of_which_little_is_known(make: object, tmp_path: Path) -> None:
    assert callable(make)
    text = pages.text(written(make(), tmp_path))
    assert "There are not two runs of this kind to compare." in text
    assert ("No phase had begun." in text) == (make is not made.interrupted)
    assert "No results of dbt were collected." in text
    assert "The warehouse was not asked." in text or make is made.interrupted
    assert "There was no load." not in text


def test_a_side_without_days_is_said(tmp_path: Path) -> None:
    run = made.began()
    days = [date(2020, 1, 1) + timedelta(day) for day in range(3)]
    run.series = [
        Series("a", "", [(day, 1.0, None) for day in days]),
        Series("b", "", [(day, None, 1.0) for day in days]),
        Series("c", "", []),
    ]
    [a, b] = map(pages.text, written(run, tmp_path).iter("figcaption"))
    assert a.endswith("The warehouse has none.")
    assert b.endswith("It was not computed independently.")


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_text(name: str, tmp_path: Path) -> None:
    found = written(filled(name), tmp_path)
    assert name.replace("\ud800", "?") in pages.text(next(found.iter("h1")))
    assert pages.text(found).count(name.replace("\ud800", "?")) > 30
    assert "script" not in {each.tag for each in found.iter()}
    assert pages.with_class(found, "verdict")


def filled(name: str) -> Run:
    """Return a run in which every text is NAME."""
    run = made.began(name)
    run.facts[name] = name
    run.phases.seconds, run.phases.starts, run.phases.failed_in = {name: 1}, {name: 0}, name
    run.failure = Failure(name, name, name)
    run.tasks = [Step(name, name, name, at(0), at(1), at(2), name)]
    run.loads = [Load(name, name, name, name, at(0), at(1), 1, 1, 0, 0, 0)]
    run.numbers = [Number(name, name, name, False)]
    run.series = [Series(name, name, [(date(2020, 1, 1), 1.0, 2.0)])]
    run.rejects, run.rejects_file = [Reject(name, 1, [(1, name)])], name
    run.tables = [Table(name, 1, 1)]
    run.nodes = [Node(name, "test", name, True, name, name, 1, at(0), name, 1, [name], [[name]])]
    run.history = [{name: 1.0}, {name: 1.0}]
    run.last = run.main = KeptRun(name, {name: 1.0}, {name: 1.0})
    run.pods, run.days = [Pod(name, at(0), at(0), at(1), at(2))], [Day(name, date(2020, 1, 1), 1, 2, 3)]
    run.pytest = [PytestRun(name, at(0), 1, 1, 1, [name], [(name, 1)])]
    run.datasets = [Dataset(name, "table", name, [(name, name, name, name)], [name, "b"], 1, at(0), name)]
    run.datasets += [Dataset("b", "file"), Dataset(f"{name}.c", "exposure", name, made_of=[name])]
    run.lines, run.notes = [name], [name]
    return run


def test_each_day_of_a_year_is_in_the_table_of_a_series(tmp_path: Path) -> None:
    run = made.began()
    run.series = [Series("a", "", [(date(2019, 1, 1) + timedelta(day), 1.0, 1.0) for day in range(450)])]
    assert [row[0] for row in table(written(run, tmp_path), "a by day")[1:3]] == ["2019-01-01", "2019-01-02"]


def test_a_huge_run_is_cut(tmp_path: Path) -> None:
    run = filled("&" * 100_000)
    run.tasks = [replace(run.tasks[0], name=f"{number}{'&' * 1000}") for number in range(500)]
    run.numbers = [Number(f"{number}{'&' * 1000}", "&" * 1000, "&" * 1000, False) for number in range(2_000)]
    run.rejects = [Reject(f"{number}{'&' * 200}", 10**6, [(1, "&" * 1000)] * 3) for number in range(400)]
    run.loads, run.tables = [*run.loads] * 1000, [*run.tables] * 1000
    run.nodes = [replace(run.nodes[0], rows=[["&" * 1000] * 15] * 15, header=["&" * 1000] * 15)] * 1000
    run.series = [Series("a", "", [(date(1990, 1, 1) + timedelta(day), 1.0, 1.0) for day in range(10_000)])]
    run.history = [{f"{number}": 1.0 for number in range(500)}] * 30
    write_page(run, tmp_path / "index.html")
    text = (tmp_path / "index.html").read_bytes()
    assert len(text) <= LIMIT_BYTES
    assert b">480 more.<" in text


def test_no_secret_is_in_it(tmp_path: Path) -> None:
    dsn = f"postgresql://postgres:{PLANTED}@127.0.0.1:5432/warehouse"
    uris = (dsn, f"s3://{PLANTED}:{PLANTED}@bucket/a.csv?sig={PLANTED}#{PLANTED}", f"host=a password={PLANTED}")
    for uri in uris:
        run = filled(uri)
        write_page(run, tmp_path / "index.html")
        assert PLANTED not in (tmp_path / "index.html").read_text(encoding="utf-8")
        assert run.lines == [uri]  # the run itself is not changed
    run = filled(f"the server said {PLANTED}, and it is wrong")
    run.secrets = [dsn]
    write_page(run, tmp_path / "index.html")
    assert PLANTED not in (tmp_path / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (2_950_000, "3.0 MB"), (10**9, "1.0 GB")]
)
def test_sizes(number: int, text: str) -> None:
    assert size(number) == text


def test_what_has_not_ended_lasts_until_the_end() -> None:
    tasks = timing.rows(made.interrupted(), 60)["Tasks of Airflow"]
    assert [(row.name, row.of, list(map(tuple, row.bars))) for row in tasks] == [
        ("create_tables", "events_pipeline_daily", [(12, 13, "waits"), (13, 60, "critical")]),
        ("load_events", "events_pipeline_daily", [(14, 60, "waits")]),
    ]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 8)), max_size=8))
def test_the_critical_path_is_a_chain_without_a_later_end_between_its_steps(spans: list[tuple[int, int]]) -> None:
    steps = [(float(start), float(start + length)) for start, length in spans]
    path = timing.critical_path(steps)
    assert len(set(path)) == len(path)
    assert bool(path) == bool(steps)
    if path:
        assert steps[path[-1]][1] == max(end for _, end in steps)
        assert not [end for start, end in steps if end <= steps[path[0]][0] and start < steps[path[0]][0]]
    for one, other in pairwise(path):
        begins = steps[other][0]
        assert steps[one][0] < begins
        # Nothing ended later, of what had ended when the next one began.
        assert steps[one][1] == max(end for start, end in steps if end <= begins and start < begins)


def test_it_is_said_what_ran_in_the_time_of_the_longest_task() -> None:
    run = made.ended()
    beside = Step("load_orders", "orders_pipeline_daily", "success", None, at(25), at(40))
    failed = Step("dbt_build", "orders_pipeline_daily", "upstream_failed", None, at(40), at(40))
    run.tasks = [*run.tasks, beside, failed]
    found = timing.sentences(timing.rows(run, 43))
    i = found.index("The longest task was dbt_build of events_pipeline_daily: 18.5 s, after 3.0 s of waiting.")
    assert found[i + 1 : i + 3] == [
        "Its nodes ran for 3.0 s of it.",  # from 30 to 32.5, from 33 to 33.1, from 33.5 to 33.9
        "For most of it ran beside it: load_orders of orders_pipeline_daily.",
    ]
    assert len(timing.rows(run, 43)["Tasks of Airflow"]) == 4  # what never ran is not drawn

    run.tasks = [*run.tasks[:3], replace(beside, name="dbt_build")]  # whose the nodes are is not known
    assert (
        timing.sentences(timing.rows(run, 43))[i + 1]
        == "For most of it ran beside it: dbt_build of orders_pipeline_daily."
    )


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 8)), max_size=8))
def test_seconds_in_any_span_are_counted_once(spans: list[tuple[int, int]]) -> None:
    seconds = {second for start, length in spans for second in range(start, start + length)}
    assert timing.covered_s([(start, start + length) for start, length in spans]) == len(seconds)


def test_layers_of_a_circle_end() -> None:
    circle = [Dataset("a.a", "table", made_of=["a.b"]), Dataset("a.b", "table", made_of=["a.a", "a.c"])]
    assert sorted(lineage.layers(circle)) == ["a.a", "a.b"]
    assert lineage.graph(circle)


def test_a_number_that_misses_its_target_does_not_count(tmp_path: Path) -> None:
    run = made.began("bench")
    run.numbers = [Number("a", "≥ 1", "2 x", True), Number("b", "≤ 3", "4 x", False)]
    assert verdict(written(run, tmp_path)) == ["✓ It ended well: 1 of 2 numbers as expected."]

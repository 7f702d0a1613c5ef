"""The page of a comparison, read with a parser of HTML."""

import re
from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import Element

import pytest

from harness.diff import page
from harness.diff.page import marked, write_page
from harness.diff.results import Approval, ChangedNode, ColumnChange, Diff, Difference, Example, Mart, Rows, Series
from harness.reporting import charts
from harness.reporting.page import LIMIT_BYTES
from tests import pages
from tests.harness.diff import made

NAMES = (
    '<script>alert("1")</script>',
    "a'b\" onload=x & co",
    "שלום עולם",
    "👩\u200d🔬🎉",
    "{{ 7 * 7 }}",
    "</style><b>",
    "%s\\n",
)


ADDED = Difference("dim_services", "rows added")


def of(mart: Mart, approval: Approval | None = None) -> Diff:
    return Diff("main", "1234", "the samples", marts=[mart], approval=approval)


def written(diff: Diff, folder: Path) -> Element:
    path = folder / "index.html"
    write_page(diff, path)
    assert path.stat().st_size <= LIMIT_BYTES
    found = pages.read(path)
    assert pages.loaded(found) == []
    return found


def section(found: Element, name: str) -> Element:
    """Return the section of the mart NAME."""
    [section] = [each for each in pages.with_class(found, "mart") if pages.text(next(each.iter("h3"))) == name]
    return section


def tables(found: Element) -> list[list[list[str]]]:
    return [pages.cells(table) for table in found.iter("table")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Element:
    return written(made.whole(), tmp_path_factory.mktemp("page"))


def test_the_verdict_comes_first_with_a_line_for_each_mart(whole: Element) -> None:
    main = next(whole.iter("main"))
    verdict = main[0]
    assert verdict.get("class") == "verdict bad"
    assert [pages.text(each) for each in verdict.iter() if each.tag in ("p", "li")] == [
        "✗ 4 of 7 marts differ:",
        "fct_events: 120 rows removed, all with service_id = 27; 34 rows changed in service_lead_fee, 91% with"
        " created_at from 2020-02-01 on; column currency added (text); column service_lead_fee retyped from"
        " numeric(18,6) to numeric(18,2); 1 description changed",
        "availability_snapshot: only after an incremental run 3 rows changed in active_professionals",
        "dim_services: its key is not unique in the branch; 3 rows added",
        "refunds_daily: new, only the branch has it",
        "By the independent computation the branch is wrong and the base right in fct_events and"
        " availability_snapshot.",
        "Not approved: fct_events: rows removed; approved, but not found: dim_date: rows added.",
    ]
    assert [pages.text(heading) for heading in main.iter("h2")] == [
        "What was changed in the dbt project",
        "Approval, by dbt/expected_changes.yml",
        "Marts",
        "Taken from the base",
        "Notes",
    ]


def test_which_commits_and_rows_were_compared(whole: Element) -> None:
    header = next(whole.iter("header"))
    assert [pages.text(each) for each in header.iter("dd")] == [
        "the merge base with main, 37ed5c36",
        "f3286bc8 and uncommitted changes",
        "the samples: 19,012 events",
    ]


def test_the_table_of_marts(whole: Element) -> None:
    assert [" | ".join(row) for row in tables(whole)[0]] == [
        "Mart | Rows, base → branch | Added | Removed | Changed | Values changed in | Definition | Right side"
        " | Build, base → branch",
        "fct_events | 9,870 → 9,750 |  | 120 | 34 | service_lead_fee | 3 differences | only the base | 1.2 s → 1.3 s",
        "availability_snapshot only after an incremental run | 70 |  |  | 3 | active_professionals |  | only the base"
        " | 0.8 s → 0.7 s",
        "dim_services | 31 → 34 | 3 |  |  |  |  |  | ",
        "refunds_daily new |  |  |  |  |  |  |  | ",
        "dim_date | 91 |  |  |  |  |  | both | ",
    ]


def test_each_mart_of_the_table_leads_to_its_section(whole: Element) -> None:
    table = next(whole.iter("table"))
    targets = {str(link.get("href")).removeprefix("#"): pages.text(link) for link in table.iter("a")}
    assert targets == {
        str(each.get("id")): pages.text(next(each.iter("h3"))) for each in pages.with_class(whole, "mart")
    }
    ids = [each.get("id") for each in whole.iter() if each.get("id")]
    assert len(ids) == len(set(ids))


def test_the_section_of_a_mart(whole: Element) -> None:
    found = section(whole, "fct_events")
    [facts] = pages.with_class(found, "facts")
    assert [pages.text(each) for each in facts] == [
        *("SQL", "dbt/models/marts/fact/fct_events.sql"),
        *("Key", "event_id"),
        *("Differs because of", "its SQL and the macro lead_fee"),
        *("Read by", "revenue_dashboard and monthly_invoice"),
        *("Build", "base 1.2 s, 19,012 rows read; branch 1.3 s, 38,024 rows read"),
    ]
    assert [pages.text(each) for each in found.iter("li")] == [
        "120 rows removed",
        "34 rows changed in service_lead_fee",
        "All 120 removed rows have service_id = 27; the base has no other such row.",
        "31 of 34 changed values of service_lead_fee are in rows with created_at from 2020-02-01 on;"
        " the base has 4,000 such rows of 9,870.",
        "column currency added (text)",
        "column service_lead_fee retyped from numeric(18,6) to numeric(18,2)",
        "description of service_lead_fee changed from “In euro.” to “In euro, rounded.”",
    ]
    columns, *examples = tables(found)
    assert columns[1:] == [["service_lead_fee", "numeric", "34", "2", "", "-0.5", "+0.25", "+1"]]
    assert examples == [
        [
            ["Row", "Column", "Base", "Branch"],
            ["event_id = 17", "service_lead_fee", "12.345", "12.35"],
            ["event_id = 18", "service_lead_fee", "7", "null"],
        ],
        [
            ["event_id", "professional_id", "service_id", "created_at", "service_lead_fee"],
            ["4711", "88", "27", "2020-02-02 10:00:00", "5"],
        ],
    ]
    headings = [pages.text(each) for each in found.iter("h4")]
    assert headings == ["Definition", "Columns", "Rows that changed: 2 of 34", "Rows that only the base has: 1 of 120"]
    words = pages.text(found)
    assert "The base agrees with the independent computation, the branch does not: 120 rows are missing." in words
    assert "After an incremental run" not in words


def test_only_pictures_that_differ_are_drawn_and_described(whole: Element) -> None:
    found = section(whole, "fct_events")
    [caption] = found.iter("figcaption")
    assert pages.text(caption).startswith("rows by created_at")
    assert "40 of 71 days differ, most of all on 2020-02-01: -4" in pages.text(caption)
    [picture] = [each for each in found.iter() if str(each.tag).endswith("svg")]
    assert picture.get("role") == "img"
    assert picture.get("aria-label") == "rows by created_at: 40 of 71 days differ, most of all on 2020-02-01: -4"


def test_what_differs_only_after_an_incremental_run(whole: Element) -> None:
    found = section(whole, "availability_snapshot")
    [callout] = pages.with_class(found, "callout")
    assert pages.text(callout).startswith(
        "It is wrong only after a second run, an incremental one; a full refresh hides it"
    )
    assert [pages.text(each) for each in found.iter("h4")] == ["After an incremental run", "Rows that changed: 1 of 3"]
    assert tables(found)[1] == [
        ["Row", "Column", "Base", "Branch"],
        ["date = 2020-03-09", "active_professionals", "143", "145"],
    ]


def test_a_key_that_is_not_unique(whole: Element) -> None:
    expected = "The key is not unique in the branch: 3 keys occur more than once, service_id = 5 in 2 rows."
    assert expected in pages.text(section(whole, "dim_services"))


def test_a_mart_of_one_side_and_one_that_is_the_same(whole: Element) -> None:
    assert "The model is new: only the branch has it." in pages.text(section(whole, "refunds_daily"))
    same = section(whole, "dim_date")
    assert same.tag == "details"
    assert "Both sides agree with the independent computation." in pages.text(same)


def test_the_end_has_what_was_taken_from_the_base_and_the_notes(whole: Element) -> None:
    main = pages.text(next(whole.iter("main")))
    assert main.endswith(
        "Taken from the base 2 marts cannot differ: nothing that they read was changed."
        " dim_professionals professional_funnel"
        " Notes The working tree has uncommitted changes.They are compared as they are."
    )
    footer = pages.text(next(whole.iter("footer")))
    assert "load 3.2 s, base 8.4 s, branch 8.9 s, compare 1.7 s" in footer


@pytest.mark.parametrize(
    ("diff", "tone"),
    [
        (Diff("main", "1234", ""), "verdict good"),
        (of(made.doubled()), "verdict "),
        (of(made.doubled(), Approval([ADDED])), "verdict good"),
        (of(made.doubled(), Approval(unapproved=[ADDED])), "verdict bad"),
        (of(made.doubled(), Approval(absent=[ADDED])), "verdict bad"),
        (of(made.fct_events()), "verdict bad"),
        (replace(of(made.same()), failure=["The branch does not build again."]), "verdict bad"),
    ],
)
def test_the_tone_of_the_verdict(diff: Diff, tone: str, tmp_path: Path) -> None:
    [verdict] = pages.with_class(written(diff, tmp_path), "verdict")
    assert verdict.get("class") == tone


def test_a_comparison_without_marts(tmp_path: Path) -> None:
    main = pages.text(next(written(Diff("main", "1234", ""), tmp_path).iter("main")))
    assert main == (
        "✓ There are no marts to compare. What was changed in the dbt project Nothing. Marts None was compared."
    )


def hostile(name: str) -> Diff:
    """Return a comparison in which all texts are NAME."""
    rows = Rows(
        5,
        5,
        added=4,
        changed=4,
        columns=[ColumnChange(name, name, 4)],
        examples=[
            Example("changed", {name: name}, {name: name}, {name: f"{name}."}),
            Example("added", {name: name}, None, {name: name}),
        ],
    )
    series = [Series(name, [("2020-01-01", 1.0, 2.0)])]
    mart = Mart(name, name, (name,), causes=[name], rows=rows, exposures=[name], series=series)
    approval = Approval([Difference(name, name, name)])
    return Diff(
        name,
        name,
        name,
        changed=[ChangedNode(name, [name])],
        marts=[mart],
        unaffected=[name],
        notes=[[name]],
        approval=approval,
    )


@pytest.mark.parametrize("name", NAMES)
def test_any_text_is_shown_and_nothing_of_it_is_markup(name: str, tmp_path: Path) -> None:
    plain, other = written(hostile("NAME"), tmp_path), written(hostile(name), tmp_path)

    def shape(found: Element) -> list[str]:
        return [str(each.tag) for each in found.iter() if each.tag not in ("bdi", "wbr")]

    assert shape(other) == shape(plain)
    assert pages.text(next(other.iter("h3"))) == name
    assert pages.text(other).count(name) == pages.text(plain).count("NAME") > 20


def test_words_from_right_to_left_do_not_turn_those_around_them(tmp_path: Path) -> None:
    found = written(hostile("שלום עולם, abc"), tmp_path)
    isolated = {pages.text(each) for each in found.iter("bdi")}
    assert "שלום עולם" in isolated
    verdict = pages.with_class(found, "verdict")[0]
    assert [pages.text(each) for each in verdict.iter("bdi")] == ["שלום עולם", "שלום עולם"]


def test_a_large_value_is_cut_around_what_differs(tmp_path: Path) -> None:
    text = "a" * 600_000 + "{}" + "z" * 400_000
    rows = Rows(
        1,
        1,
        changed=1,
        columns=[ColumnChange("v", "text", 1)],
        examples=[Example("changed", {"id": text}, {"v": text.format("ONE")}, {"v": text.format("TWO")})],
    )
    write_page(Diff("a", "b", "c", marts=[Mart("m", "m.sql", ("id",), rows=rows)]), tmp_path / "index.html")
    assert (tmp_path / "index.html").stat().st_size < 30_000
    [_, [_, [_, name, base, branch]]] = tables(section(pages.read(tmp_path / "index.html"), "m"))
    assert (name, base) == ("v", f"…{'a' * 60}ONE{'z' * 60}… (1,000,003 characters)")
    assert branch == f"…{'a' * 60}TWO{'z' * 60}… (1,000,003 characters)"


def test_a_hundred_marts_with_everything_fit(tmp_path: Path) -> None:
    """Each has 60 columns with long values, and a picture of a year; the first ones are shown whole, the last not."""
    wide: dict[str, str | None] = {f"column_{i}": "x" * 300 for i in range(60)}
    mart = made.fct_events()
    assert mart.rows
    days: list[tuple[str, float | None, float | None]] = [
        (f"2020-{month:02}-{day:02}", 1.0 * day, 2.0 * month) for month in range(1, 13) for day in range(1, 29)
    ]
    rows = replace(mart.rows, examples=[Example("removed", {"id": str(i)}, wide, None) for i in range(5)])
    marts = [replace(mart, name=f"m{i}", rows=rows, series=[Series("rows by day", days)]) for i in range(100)]
    write_page(Diff("a", "b", "c", marts=marts), tmp_path / "index.html")
    assert 2_000_000 < (tmp_path / "index.html").stat().st_size <= LIMIT_BYTES
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    whole = text.count("<svg")
    assert text.count("21 more columns are in <code>diff.json</code>.") == whole
    short = text.count("Its details would make this page too large; they are in <code>diff.json</code>.")
    assert whole + short == 100
    last = text[text.index('id="mart-100"') :]
    assert "120 rows removed; 34 rows changed in service_lead_fee; 2 columns added" in last


@pytest.mark.parametrize(
    ("base", "branch", "first", "second"),
    [
        ("2020-02-01 23:30", "2020-02-02 00:30", "2020-02-<mark>01 23</mark>:30", "2020-02-<mark>02 00</mark>:30"),
        ("id-1299-x", "id-1300-x", "id-<mark>1299</mark>-x", "id-<mark>1300</mark>-x"),
        ("12.5", "12.25", "<mark>12.5</mark>", "<mark>12.25</mark>"),
        ("abc", "ab", "ab<mark>c</mark>", "ab"),
        ("ab ", "ab", "ab<mark>␣</mark>", "ab"),
        ("a\u00a0b", "a b", "a<mark>\u00a0</mark>b <small>U+00A0</small>", "a<mark>␣</mark>b <small>U+0020</small>"),
        ("é", "e\u0301", "<mark>é</mark> <small>U+00E9</small>", "<mark>e\u0301</mark> <small>U+0065 U+0301</small>"),
        ("👩\u200d🔬", "👩\u200d🚀", "<mark>👩\u200d🔬</mark>", "<mark>👩\u200d🚀</mark>"),
        ("a\tb", "a\nb", "a<mark>\\t</mark>b", "a<mark>\\n</mark>b"),
        ("aba", "ababa", "aba", "aba<mark>ba</mark>"),
        ("<b>", "<i>", "&lt;<mark>b</mark>&gt;", "&lt;<mark>i</mark>&gt;"),
    ],
)  # fmt: skip
def test_the_characters_that_differ_are_marked(base: str, branch: str, first: str, second: str) -> None:
    texts = [re.sub(r"</?bdi>", "", str(each)) for each in marked(base, branch)]
    assert texts == [first, second]


@pytest.mark.parametrize(
    ("base", "branch", "first", "second"),
    [(None, "null", "<i>null</i>", "<bdi>null</bdi>"), ("", "a", "<i>empty text</i>", "<bdi>a</bdi>")],
)
def test_no_value_and_an_empty_one_are_no_text(base: str | None, branch: str, first: str, second: str) -> None:
    assert tuple(map(str, marked(base, branch))) == (first, second)


def test_the_differences_of_a_picture_in_words() -> None:
    def words(*points: tuple[str, float | None, float | None]) -> str:
        grain, summed = charts.by_grain(page.days(Series("rows", list(points))))
        return page.differing(summed, grain)

    assert words(("2020-01-01", 1, 1)) == ""
    assert words(("2020-01-02", 5, None), ("2020-01-01", 1, 2)) == "2 of 2 days differ, most of all on 2020-01-02: -5"
    assert words(("2020-01-01", 1, 1.5), ("infinity", 1, 9), ("0044-03-15 BC", 1, 9)) == (
        "1 of 1 day differs, most of all on 2020-01-01: +0.5"
    )
    months = [("2020-01-01", 3.0, 3.0), ("2020-02-01", 1.0, 3.0), ("2020-03-01", 1.0, 1.0)]
    assert words(*months) == "1 of 3 months differs, most of all in February 2020: +2"


def test_a_page_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "index.html"
    write_page(Diff("first", "b", "c"), path)
    with path.open(encoding="utf-8") as reader:
        write_page(Diff("second", "b", "c"), path)
        assert "first" in reader.read()
    assert "second" in path.read_text(encoding="utf-8")
    assert [each.name for each in path.parent.iterdir()] == ["index.html"]


def test_the_rows_of_a_mart_of_one_side_are_in_the_table(tmp_path: Path) -> None:
    removed = replace(made.new(), in_base=True, in_branch=False, only_rows=1_667)
    [_, row] = tables(written(of(removed), tmp_path))[0]
    assert [cell for cell in row if cell] == ["refunds_daily removed", "1,667"]

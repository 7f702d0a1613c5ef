"""The report of a run in a real browser."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from harness.reporting.report.page import write_page
from harness.reporting.report.run import Run
from tests import browsers
from tests.browsers import DESK, PHONE, Scheme, keep_screenshot, opened
from tests.harness.reporting.report import made

NAMES = ".mark-text.role-mark text"
pytestmark = pytest.mark.needs("chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsers.started() as browser:
        yield browser


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "index.html"
    write_page(made.with_wrong_numbers(), path)
    return path


@pytest.mark.parametrize(("width", "scheme"), [(PHONE, "dark"), (DESK, "light")])
def test_everybody_can_read_it(browser: Browser, path: Path, width: int, scheme: Scheme) -> None:
    with opened(browser, path, width=width, scheme=scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true })")
        keep_screenshot(page, f"report-{width}-{scheme}")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(browsers.TOO_WIDE) == []
        assert browsers.unusable(page) == []
        expect(page.locator(".verdict p").first).to_be_in_viewport()  # at once


@pytest.mark.parametrize("make", [made.ended, made.failed_at_once, made.interrupted])
def test_other_runs_can_be_read_on_a_phone(browser: Browser, make: Callable[[], Run], tmp_path: Path) -> None:
    write_page(make(), tmp_path / "index.html")
    with opened(browser, tmp_path / "index.html", width=PHONE) as page:
        keep_screenshot(page, f"report-{make.__name__}")
        assert page.evaluate(browsers.TOO_WIDE) == []
        assert browsers.unusable(page) == []


def test_what_ran_when_is_drawn_in_order_on_one_axis(browser: Browser, path: Path) -> None:
    with opened(browser, path) as page:
        chart = page.locator("figure.chart svg").first
        names = [text.text_content() or "" for text in chart.locator(NAMES).all()]
        headings, steps = names[:5], names[5:]
        assert headings == ["Phases", "Pods", "Tasks of Airflow", "Loads", "Nodes of dbt"]
        assert steps[:5] == [
            "2.0 s PostgreSQL up",
            "10.0 s Airflow healthy",
            "30.0 s events_pipeline_daily",
            "1.0 s taken down",
            "5.0 s airflow-scheduler-1",
        ]
        bars = chart.locator(".mark-rect path")
        boxes = [(box["x"], box["width"]) for bar in bars.all() if (box := bar.bounding_box())]
        assert len(boxes) == 4 + 2 * 2 + 2 * 3 + 1 + 3  # phases, pods and tasks with their waits, a load, nodes
        [first, second, third] = boxes[:3]
        assert second[1] / first[1] == pytest.approx(5, rel=0.05)
        assert third[0] - first[0] == pytest.approx(6 * first[1], rel=0.05)  # it began after 12 s
        colors = [bar.evaluate("e => getComputedStyle(e).fill") for bar in bars.all()[:4]]
        assert colors == ["rgb(168, 75, 6)"] * 4  # each waited for the one before
        heights = [each.bounding_box()["y"] for each in chart.locator(NAMES).all()]  # type: ignore[index]
        assert heights[:5] == sorted(heights[:5])
        assert heights[0] < heights[5] < heights[1]  # a heading, then its steps


def test_the_computed_numbers_are_drawn_over_the_warehouses(browser: Browser, path: Path) -> None:
    with opened(browser, path) as page:
        lines = page.locator(".pictures figure").first.locator("svg .mark-line path")
        assert [line.get_attribute("stroke-dasharray") for line in lines.all()] == ["1,0", "5,4"]
        assert [line.get_attribute("d").count("L") for line in lines.all()] == [10, 10]  # type: ignore[union-attr]


def test_the_lineage_is_drawn_from_files_to_readers_and_each_name_leads_to_its_details(
    browser: Browser, path: Path
) -> None:
    with opened(browser, path) as page:
        graph = page.locator(".lineage svg")
        names = {text.text_content(): text.bounding_box() for text in graph.locator(NAMES).all()}
        assert list(names) == ["events.csv", "events", "stg_events", "fct_events", "dim_date", "lead_fee_report"]
        lefts = [box["x"] for box in names.values() if box]
        assert lefts == sorted(set(lefts))  # each is right of what it is made of
        assert graph.locator(".mark-line path").count() == 6
        details = page.locator('[aria-label="staging.stg_events"] .more')
        expect(details).to_be_hidden()
        graph.get_by_text("stg_events").click()
        expect(details).to_be_visible()
        expect(details).to_be_in_viewport()
        expect(details).to_contain_text("A change affects")
        assert browsers.unusable(page) == []
        details.get_by_text("lead_fee_report").last.press("Enter")
        expect(details).to_be_hidden()
        expect(page.locator('[aria-label="lead_fee_report"] .more')).to_contain_text("A dashboard of dbt.")


def test_late_and_corrected_rows_are_drawn_on_top_of_one_another(browser: Browser, path: Path) -> None:
    with opened(browser, path) as page:
        bars = page.locator("figure.chart svg").nth(1).locator(".mark-rect path")
        boxes = [box for bar in bars.all() if (box := bar.bounding_box()) and box["height"]]
        late, corrected = sorted(boxes, key=lambda box: -box["height"])
        assert late["height"] / corrected["height"] == pytest.approx(4, rel=0.1)
        assert late["x"] == pytest.approx(corrected["x"])


def test_the_history_is_drawn(browser: Browser, tmp_path: Path) -> None:
    write_page(made.ended(), tmp_path / "index.html")
    with opened(browser, tmp_path / "index.html") as page:
        chart = page.locator("figure.chart svg").last
        titles = chart.locator(".role-title-text text").all_text_contents()
        assert titles == ["total", "events_pipeline_daily", "PostgreSQL up"]
        assert chart.locator(".mark-symbol path").count() == 3 * 6


def test_it_can_be_used_by_keyboard_and_printed(browser: Browser, path: Path) -> None:
    with opened(browser, path, scheme="dark") as page:
        focused = []
        for _ in range(9):
            page.keyboard.press("Tab")
            focused.append(page.evaluate("document.activeElement.innerText.split('\\n')[0]"))
        parts = ["Time", "Numbers", "Data", "Lineage", "Tests", "History"]
        assert focused[:8] == ["Skip to the content", "1 test of dbt warns", *parts]
        page.locator("nav a", has_text="Numbers").press("Enter")
        expect(page.locator("#numbers")).to_be_in_viewport()
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert browsers.unusable(page) == []
        assert 2 <= len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))) <= 8

"""The page of a comparison in a real browser."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from harness.diff.page import write_page
from harness.diff.results import Diff, Example, Mart, Rows
from tests import browsers
from tests.browsers import DESK, PHONE, Scheme, keep_screenshot, opened
from tests.harness.diff import made

pytestmark = pytest.mark.needs("chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsers.started() as browser:
        yield browser


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "index.html"
    write_page(made.whole(), path)
    return path


@pytest.mark.parametrize(("width", "scheme"), [(PHONE, "dark"), (DESK, "light")])
def test_everybody_can_read_it(browser: Browser, path: Path, width: int, scheme: Scheme) -> None:
    with opened(browser, path, width=width, scheme=scheme) as page:
        keep_screenshot(page, f"diff-{width}-{scheme}")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(browsers.TOO_WIDE) == []
        assert browsers.unusable(page) == []
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(17, 21, 26)"}[scheme]
        expect(page.locator(".verdict p").first).to_be_in_viewport()  # at once


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_picture_has_both_lines_and_their_difference_in_the_colours_of_the_scheme(
    browser: Browser, path: Path, scheme: Scheme
) -> None:
    colors = {
        "light": ["rgb(168, 75, 6)", "rgb(10, 92, 194)", "rgb(123, 63, 168)"],
        "dark": ["rgb(242, 166, 95)", "rgb(125, 182, 255)", "rgb(205, 164, 240)"],
    }[scheme]
    with opened(browser, path, scheme=scheme) as page:
        lines = page.locator("svg .mark-line path")
        assert [
            (line.evaluate("e => getComputedStyle(e).stroke"), line.get_attribute("d").count("L"))  # type: ignore[union-attr]
            for line in lines.all()
        ] == [(colors[1], 70), (colors[0], 70)]  # 71 days each; the base's dashes are above the branch's line
        assert lines.nth(1).get_attribute("stroke-dasharray") == "5,4"
        [area] = page.locator("svg .mark-area path").all()
        assert area.evaluate("e => getComputedStyle(e).fill") == colors[2]
        box = area.bounding_box()
        assert box
        assert box["height"] > 10
        labels = page.locator("svg .role-axis-label text:not([opacity='0'])").all_text_contents()
        months = ["Jan 1", "Jan 13", "Jan 25", "Feb 6", "Feb 18", "Mar 1"]
        assert labels == ["0", "50", "100", "150", *months, "\u22124", "\u22122", "0"]


def test_it_can_be_used_by_keyboard(browser: Browser, path: Path) -> None:
    with opened(browser, path) as page:
        focused = []
        for _ in range(11):
            page.keyboard.press("Tab")
            focused.append(page.evaluate("document.activeElement.innerText.split('\\n')[0]"))
        names = ["fct_events", "availability_snapshot", "dim_services", "refunds_daily"]
        assert focused[:5] == ["Skip to the content", *names]  # in the verdict
        assert focused[6:] == [*names, "dim_date"]  # in the table, which can be scrolled by keyboard, too
        page.locator("a", has_text="dim_services").last.focus()
        page.keyboard.press("Enter")
        expect(page.locator("#mart-3 h3")).to_be_in_viewport()
        assert not page.locator("#mart-5 dl").is_visible()
        page.locator("#mart-5 summary").focus()
        page.keyboard.press("Enter")
        assert page.locator("#mart-5 dl").is_visible()


def test_it_prints_on_white_whatever_the_scheme(browser: Browser, path: Path) -> None:
    with opened(browser, path, scheme="dark") as page:
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert browsers.unusable(page) == []
        assert page.locator("thead").first.is_visible()  # a table, and not the phone's cards
        printed = page.pdf(format="A4")
        assert printed.startswith(b"%PDF")
        assert 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 8


def test_a_table_is_cards_on_a_phone(browser: Browser, path: Path) -> None:
    with opened(browser, path, width=PHONE) as page:
        key = page.locator(".examples th[scope=rowgroup]").first
        box = key.bounding_box()
        assert box
        assert box["width"] > PHONE * 0.7  # a line of its own
        cell = page.locator("td[data-label=Removed]").first
        assert cell.evaluate("e => getComputedStyle(e, '::before').content") == '"Removed"'
        assert page.locator("thead").first.evaluate("e => e.getBoundingClientRect().right") < 0  # for screen readers


def test_long_names_and_values_fit_on_a_phone(browser: Browser, tmp_path: Path) -> None:
    name, value = "n" * 63, "v" * 1_000_000
    rows = Rows(1, 1, changed=1, examples=[Example("changed", {name: value}, {name: value}, {name: f"{value}w"})])
    path = tmp_path / "index.html"
    write_page(Diff(value, value, value, marts=[Mart(name, f"{name}.sql", (name,), causes=[value], rows=rows)]), path)
    with opened(browser, path, width=PHONE) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE
        assert page.evaluate(browsers.TOO_WIDE) == []


def test_no_text_becomes_a_script(browser: Browser, tmp_path: Path) -> None:
    attack = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"
    path = tmp_path / "index.html"
    write_page(Diff(attack, attack, attack, marts=[Mart(attack, attack, (attack,), in_base=False)]), path)
    with opened(browser, path) as page:
        assert page.title() == "Diff: The only mart differs"
        assert page.locator("h3").inner_text() == attack

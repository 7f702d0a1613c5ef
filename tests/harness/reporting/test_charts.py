"""Charts as SVG."""

import re
from collections import Counter
from datetime import date, timedelta
from xml.etree.ElementTree import Element, fromstring

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.reporting.charts import MOST_POINTS, Point, by_grain, stacked_bars, svg, two_lines

FIRST = date(2020, 1, 1)


def days(*numbers: tuple[float | None, float | None], step: int = 1) -> list[Point]:
    return [(FIRST + timedelta(step * i), first, second) for i, (first, second) in enumerate(numbers)]


def chart_of(points: list[Point], description: str = "") -> str:
    grain, summed = by_grain(points)
    return svg(two_lines(summed, grain), description)


def read(chart: str) -> Element:
    return fromstring(chart)  # noqa: S314 - it was just drawn


def labels(chart: str) -> list[str]:
    """Return the texts of CHART that are shown."""
    return [each.text for each in read(chart).iter() if each.text and each.get("opacity") != "0"]


def paths(chart: str, mark: str) -> list[str]:
    """Return the `d` of the paths of MARK, without those that draw nothing."""
    root = read(chart)
    groups = [group for group in root.iter() if mark in group.get("class", "").split()]
    return [path.get("d", "") for group in groups for path in group.iter() if path.get("d")]


def test_both_lines_and_their_difference_are_drawn() -> None:
    chart = chart_of(days((1, 1), (2, 3), (3, 3)), "what it shows")
    lines = paths(chart, "mark-line")
    assert [line.count("L") for line in lines] == [2, 2]
    assert lines[0] != lines[1]
    assert len(paths(chart, "mark-area")) == 1
    assert {"var(--first)", "var(--second)", "var(--third)"} <= set(re.findall(r'(?:stroke|fill)="([^"]+)"', chart))


def test_a_chart_has_only_colours_of_the_style() -> None:
    """A fixed colour could not be seen in the other scheme."""
    chart = chart_of(days((1, 1), (2, None), (None, 3)))
    colors = set(re.findall(r'(?:stroke|fill)="([^"]+)"', chart))
    assert {color for color in colors if not color.startswith("var(")} == {"none", "transparent"} & colors


def test_a_day_without_a_number_breaks_the_line() -> None:
    chart = chart_of(days((1, 1), (1, 1), (1, None), (1, 1), (1, 1)))
    assert [line.count("M") for line in paths(chart, "mark-line")] == [2, 1]


def test_a_day_that_stands_alone_is_a_point() -> None:
    chart = chart_of(days((1, 2), (3, 4), step=10))
    assert len(paths(chart, "mark-symbol")) == 4
    assert paths(chart_of(days((1, 2), (3, 4))), "mark-symbol") == []


def test_the_difference_of_a_single_day_is_a_stroke() -> None:
    [area] = [e for e in read(chart_of(days((1, 2)))).iter() if "area" in e.get("class", "")]
    assert [(path.get("stroke"), path.get("fill")) for path in area] == [("var(--third)", "var(--third)")]


def test_a_chart_is_described_and_as_wide_as_its_page() -> None:
    root = read(chart_of(days((1, 1)), '<"a" & \\1>'))
    assert (root.get("role"), root.get("aria-label")) == ("img", '<"a" & \\1>')
    assert root.get("width") is root.get("height") is None
    assert re.fullmatch(r"max-width:\d+px", root.get("style", ""))


def test_charts_of_one_page_share_no_id() -> None:
    assert [each.get("id") for each in read(chart_of(days((1, 2)))).iter() if each.get("id")] == []


def test_a_chart_is_small() -> None:
    year = chart_of(days(*[(i * 1.123456, i * 1.234567) for i in range(366)]))
    assert len(year) < 35_000
    assert not re.search(r"\d\.\d{2}", year)


def test_nothing_to_draw() -> None:
    assert paths(chart_of([]), "mark-line") == []


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/Los_Angeles"])
def test_a_day_is_the_same_in_every_time_zone(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    assert labels(chart_of(days((1, 2), (1, 2), (1, 2))))[-6:-3] == ["Jan 1", "Jan 2", "Jan 3"]


@pytest.mark.parametrize(
    ("number", "first"),
    [(366, "Jan 1"), (500, "Dec 2019"), (3_000, "Jan 2020"), (20_000, "2020")],
)
def test_the_time_axis_has_few_labels(number: int, first: str) -> None:
    found = [label for label in labels(chart_of(days(*[(1, 1)] * number))) if re.search(r"[A-Z]|20\d\d", label)]
    assert found[0] == first
    assert 4 <= len(found) <= 6


def test_a_single_bar_has_one_label() -> None:
    assert [label for label in labels(svg(stacked_bars(days((3, 1))), "")) if "Jan" in label] == ["Jan 1"]


@pytest.mark.parametrize(
    ("number", "grain", "count"),
    [
        (1, "day", 1),
        (400, "day", 400),
        (401, "week", 58),
        (2_798, "week", 400),
        (2_900, "month", 96),
        (13_000, "year", 36),
    ],
)
def test_a_long_time_is_drawn_by_week_month_or_year(number: int, grain: str, count: int) -> None:
    found, points = by_grain(days(*[(1, 2)] * number))
    assert (found, len(points)) == (grain, count)
    assert sum(first or 0 for _, first, _ in points) == number


@pytest.mark.parametrize(
    ("starts", "grain"),
    [
        ([date(2020, 1, 6), date(2020, 1, 13), date(2020, 1, 27)], "week"),
        ([date(2020, 1, 1), date(2020, 2, 1), date(2020, 6, 1)], "month"),
        ([date(2018, 1, 1), date(2020, 1, 1), date(2021, 1, 1)], "year"),
        ([date(2020, 1, 1), date(2020, 1, 2)], "day"),
    ],
)
def test_sums_of_weeks_months_or_years_are_not_spread_over_days(starts: list[date], grain: str) -> None:
    found, points = by_grain([(start, 1, 1) for start in starts])
    assert found == grain
    assert [day for day, first, _ in points if first is not None] == starts


def present(points: list[Point], line: int) -> list[float]:
    """Return the numbers of LINE, the first or the second."""
    numbers = [first if line == 1 else second for _, first, second in points]
    return [number for number in numbers if number is not None]


NUMBERS = st.none() | st.integers(-9, 9).map(float)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.dates(), st.tuples(NUMBERS, NUMBERS), max_size=9), st.dates(), st.integers(0, 900))
def test_nothing_is_lost_by_adding_up(
    some: dict[date, tuple[float | None, float | None]], day: date, more: int
) -> None:
    """All days of the calendar: beside random ones a run of days."""
    last = min(day.toordinal() + more, date.max.toordinal())
    numbers = some | {date.fromordinal(i): (1.0, None) for i in range(day.toordinal(), last)}
    points = [(day, *numbers[day]) for day in sorted(numbers)]
    grain, summed = by_grain(points)
    assert grain == "year" or len(summed) <= MOST_POINTS
    days = [day for day, *_ in summed]
    assert days == sorted(set(days))
    for line in (1, 2):
        given, found = present(points, line), present(summed, line)
        assert (sum(found), bool(found)) == (sum(given), bool(given))
    unit = {"day": "%Y-%m-%d", "week": "%G-%V", "month": "%Y-%m", "year": "%Y"}[grain]
    of_given, of_summed = (Counter(point[0].strftime(unit) for point in each) for each in (points, summed))
    assert set(of_given) <= set(of_summed)
    assert set(of_summed.values()) <= {1}

"""Draw charts as SVG that is part of a page, from Vega-Lite's specifications: docs/adr/0010.

A chart names its colours as the page's style does (`var(--first)`), so it follows the scheme, and no script draws it.
"""

import calendar
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple

from markupsafe import Markup, escape

Point = tuple[date, float | None, float | None]
TONES = {"waits": "var(--line)", "runs": "var(--second)", "critical": "var(--first)", "failed": "var(--bad)"}
WIDTH = 420  # of the axes, in pixels; in a narrow page a chart is drawn smaller
MOST_POINTS = 400  # of a line; a longer time is drawn by week, month or year
MOST_TICKS = 6  # of the time axis
GRAINS = ("day", "week", "month", "year")
FORMATS = dict(zip(GRAINS, ("%b %-d", "%b %Y", "%b %Y", "%Y"), strict=True))
TIME_UNITS = dict(zip(GRAINS, ("yearmonthdate", "yearweek", "yearmonth", "year"), strict=True))
LARGE = 10_000  # from here on, labels of an axis are like 12k
CONFIG = {
    "aria": False,  # a chart has one description, and not one of every mark
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "domainColor": "var(--line)",
        "gridColor": "var(--line)",
        "labelColor": "var(--soft)",
        "labelFlush": False,
        "labelFontSize": 13,
        "labelOverlap": "greedy",
        "labelSeparation": 10,
        "tickColor": "var(--line)",
        "title": None,
    },
}
HEAD = re.compile(r'^<svg (.*?)width="(\d+)" height="\d+"')
OF_PARTS = re.compile(r' (?:role|aria-\w+)="[^"]*"')  # an image has no parts for those who do not see it
PLACES = re.compile('xlink:href="[^"]*?#')  # vl-convert makes an address of the link to a place
LONG_FRACTION = re.compile(r"\d+\.\d{2,}")


class TimeBar(NamedTuple):
    """A bar of `time_bars`: seconds from the first moment, and one of `TONES`."""

    start_s: float
    end_s: float
    tone: str = "runs"


def svg(specification: dict[str, Any], description: str, *, has_links: bool = False) -> Markup:
    """Return the chart of a Vega-Lite SPECIFICATION; DESCRIPTION is for those who do not see it.

    One that HAS_LINKS, to places of the page, keeps its size, so that its texts can be read.
    """
    import vl_convert

    drawn = vl_convert.vegalite_to_svg(specification, config=CONFIG, allowed_base_urls=[])
    shorter = LONG_FRACTION.sub(lambda found: f"{float(found[0]):.1f}", OF_PARTS.sub("", drawn))
    role, size = ("group", "width") if has_links else ("img", "max-width")
    label = f'role="{role}" aria-label="{escape(description)}"'
    drawn = HEAD.sub(lambda found: f'<svg {found[1]}{label} style="{size}:{found[2]}px"', shorter)
    return Markup(PLACES.sub('xlink:href="#', drawn))  # noqa: S704 - Vega escapes the texts of a specification


def two_lines(points: Sequence[Point], grain: str = "day") -> dict[str, Any]:
    """Return the specification of two lines over time, and under them of the second's difference from the first.

    Where one has no numbers, there is no difference.

    POINTS are those of `by_grain`: one for each day, or for each of another GRAIN.
    """
    differences = [(second or 0) - (first or 0) for _, first, second in points]
    lines = [
        {"day": day.isoformat(), "line": name, "number": numbers[i], "is_alone": is_alone(points, j, i)}
        for j, (day, *numbers) in enumerate(points)
        for i, name in enumerate(("first", "second"))
    ]
    axis_x = time_axis(points, grain)
    x: dict[str, Any] = {"field": "day", "type": "temporal", "scale": {"type": "utc"}, "axis": axis_x}
    color = {"domain": ["first", "second"], "range": ["var(--first)", "var(--second)"]}
    dashes = {"domain": ["second", "first"], "range": [[1, 0], [5, 4]]}
    side = {"field": "line", "type": "nominal", "legend": None}
    above: dict[str, Any] = {
        "width": WIDTH,
        "height": 130,
        "data": data(lines),
        "encoding": {
            "x": {**x, "axis": {**axis_x, "labels": False, "ticks": False}},
            "y": axis([number for _, *numbers in points for number in numbers]),
            "color": {**side, "scale": color},
        },
        "layer": [
            # The dashed line is the upper one: where both are equal, both are seen.
            {
                "mark": {"type": "line", "strokeWidth": 2},
                "transform": [{"filter": f"datum.line == '{name}'"}],
                "encoding": {"strokeDash": {**side, "scale": dashes}},
            }
            for name in ("second", "first")
        ]
        + [{"mark": {"type": "circle", "size": 22, "opacity": 1}, "transform": [{"filter": "datum.is_alone"}]}],
    }
    below = {
        "width": WIDTH,
        "height": 46,
        "data": data([{"day": day.isoformat(), "number": n} for (day, *_), n in zip(points, differences, strict=True)]),
        # The stroke shows a difference of a single day, of which the area has no width.
        "mark": {
            "type": "area",
            "interpolate": "step",
            "color": "var(--third)",
            "stroke": "var(--third)",
            "opacity": 1,
        },
        "encoding": {
            "x": {**x, "axis": {**axis_x, "grid": False}},
            "y": axis(differences, ticks=3),
        },
    }
    if not all(any(point[side] is not None for point in points) for side in (1, 2)):
        above["encoding"]["x"] = x
        return above
    return {"vconcat": [above, below], "spacing": 22, "bounds": "flush", "resolve": {"scale": {"x": "shared"}}}


def time_bars(rows: Sequence[tuple[str, Sequence[TimeBar]]], end_s: float) -> dict[str, Any]:
    """Return the specification of one axis of seconds from 0 to END_S and, for each of ROWS, a name with bars below it.

    A row without bars is a heading. Names are above the bars, and not beside them: the axis is as wide as the chart.
    """
    names = [{"row": i, "name": name, "is_heading": not bars} for i, (name, bars) in enumerate(rows)]
    bars = [
        {"row": i, "start": bar.start_s, "end": max(bar.end_s, bar.start_s + end_s / WIDTH), "tone": bar.tone}
        for i, (_, bars) in enumerate(rows)
        for bar in bars
    ]
    axis_x = {"orient": "top", "tickCount": 5, "labelExpr": "datum.label + ' s'"}
    tones = {"domain": list(TONES), "range": list(TONES.values())}
    return {
        "width": WIDTH,
        "height": {"step": 34},
        "encoding": {"y": {"field": "row", "type": "ordinal", "axis": None}},
        "layer": [
            {
                "data": {"values": bars},
                "mark": {"type": "bar", "height": 9, "yOffset": 8},
                "encoding": {
                    "x": {
                        "field": "start",
                        "type": "quantitative",
                        "scale": {"domain": [0, end_s or 1]},
                        "axis": axis_x,
                    },
                    "x2": {"field": "end"},
                    "color": {"field": "tone", "type": "nominal", "legend": None, "scale": tones},
                },
            },
            *(
                {
                    "data": {"values": [each for each in names if each["is_heading"] is is_heading]},
                    "mark": {
                        "type": "text",
                        "align": "left",
                        "dy": -6,
                        "fontSize": 13,
                        "limit": WIDTH,
                        "fontWeight": 700 if is_heading else 400,
                        "fill": "var(--text)",
                    },
                    "encoding": {"x": {"value": 0}, "text": {"field": "name", "type": "nominal"}},
                }
                for is_heading in (True, False)
            ),
        ],
    }


def small_lines(figures: Mapping[str, Sequence[float | None]]) -> dict[str, Any]:
    """Return the specification of a small line for each of FIGURES over the runs, each on an axis of its own."""
    return {
        "vconcat": [
            {
                "width": WIDTH,
                "height": 44,
                "title": {"text": name, "anchor": "start", "color": "var(--text)", "fontSize": 13, "limit": WIDTH},
                "data": {"values": [{"run": i, "number": number} for i, number in enumerate(numbers)]},
                "mark": {"type": "line", "point": {"color": "var(--second)", "size": 18}, "color": "var(--second)"},
                "encoding": {
                    "x": {"field": "run", "type": "quantitative", "axis": None, "scale": {"nice": False}},
                    "y": axis(numbers, ticks=3) | {"scale": {"zero": True}},
                },
            }
            for name, numbers in figures.items()
        ],
        "spacing": 14,
    }


def stacked_bars(points: Sequence[Point], grain: str = "day") -> dict[str, Any]:
    """Return the specification of bars over time, the second number on top of the first.

    POINTS are those of `by_grain`: one for each day, or for each of another GRAIN.
    """
    tones = {"domain": ["first", "second"], "range": ["var(--first)", "var(--second)"]}
    return {
        "width": WIDTH,
        "height": 110,
        "data": data(
            [
                {"day": day.isoformat(), "kind": kind, "number": number}
                for day, *numbers in points
                for kind, number in zip(("first", "second"), numbers, strict=True)
            ]
        ),
        "mark": {"type": "bar", "opacity": 1},
        "encoding": {
            "x": {
                "field": "day",
                "type": "temporal",
                "timeUnit": {"unit": TIME_UNITS[grain], "utc": True},
                "scale": {"type": "utc"},
                "axis": {**time_axis(points, grain), "grid": False},
            },
            "y": axis([sum(number or 0 for number in numbers) for _, *numbers in points], ticks=3),
            "color": {"field": "kind", "type": "nominal", "legend": None, "scale": tones},
        },
    }


def time_axis(points: Sequence[Point], grain: str) -> dict[str, Any]:
    """Return the axis of time of POINTS, whose ticks are at the beginnings of some of them."""
    ticks = [day for day, *_ in points[:: -(-len(points) // MOST_TICKS) or 1]]
    midnights = [1000 * calendar.timegm(day.timetuple()) for day in ticks]
    return {"values": midnights, "format": FORMATS[grain]}


def data(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return ROWS as a specification has them; their days are days of UTC, whatever this machine's time zone."""
    return {"values": rows, "format": {"parse": {"day": "utc:'%Y-%m-%d'"}}}


def axis(numbers: Sequence[float | None], ticks: int = 5) -> dict[str, Any]:
    """Return the encoding of NUMBERS on the vertical axis."""
    is_large = max((abs(number) for number in numbers if number is not None), default=0) >= LARGE
    labels = {"tickCount": ticks, "domain": False, **({"format": "~s"} if is_large else {})}
    return {"field": "number", "type": "quantitative", "axis": labels}


def is_alone(points: Sequence[Point], at: int, line: int) -> bool:
    """Return whether the point AT of LINE has no neighbours, so that no line shows it."""
    neighbours = [points[i][line + 1] for i in (at - 1, at + 1) if 0 <= i < len(points)]
    return points[at][line + 1] is not None and all(number is None for number in neighbours)


def by_grain(points: Sequence[Point]) -> tuple[str, list[Point]]:
    """Return the finest grain with few enough points, and all of its points from the first day to the last.

    Points that are all first days of weeks, months or years are sums of these already.
    """
    grains = list(GRAINS)
    while len(points) > 2 and grains[1:] and any(all_first(points, grain) for grain in grains[1:]):
        del grains[0]
    for grain in grains:
        starts = list(all_starts(points[0][0], points[-1][0], grain)) if points else []
        if len(starts) <= MOST_POINTS:
            break
    sums: dict[date, list[float | None]] = {start: [None, None] for start in starts}
    for day, *numbers in points:
        of_start = sums[start_of(day, grain)]
        for i, number in enumerate(numbers):
            if number is not None and math.isfinite(number):
                of_start[i] = (of_start[i] or 0) + number
    return grain, [(start, first, second) for start, (first, second) in sums.items()]


def all_first(points: Sequence[Point], grain: str) -> bool:
    """Return whether each day of POINTS is the first of its week, month or year."""
    return all(day == start_of(day, grain) for day, *_ in points)


def start_of(day: date, grain: str) -> date:
    """Return the first day of the week, month or year that DAY is in."""
    if grain == "week":
        return day - timedelta(min(day.weekday(), day.toordinal() - 1))
    return {"day": day, "month": day.replace(day=1), "year": day.replace(month=1, day=1)}[grain]


def all_starts(first: date, last: date, grain: str) -> Iterator[date]:
    """Yield the first day of each GRAIN from FIRST to LAST, but not many more than a chart can have."""
    day = start_of(first, grain)
    for _ in range(MOST_POINTS + 1 if grain != GRAINS[-1] else date.max.year):
        if day > last:
            return
        yield day
        try:
            days = {"day": 1, "week": 7 - day.weekday(), "month": 31, "year": 366}[grain]
            day = start_of(day + timedelta(days), grain)
        except OverflowError:  # the last day that there is
            return

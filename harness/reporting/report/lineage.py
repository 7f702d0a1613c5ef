"""What is made of what: the graph of datasets, and what depends on each."""

import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from harness.reporting import charts
from harness.reporting.report.run import Dataset, Node, tests_by_model
from harness.reporting.wording import count, value

CHAR, ROW, GAP, PAD = 6.8, 30, 36, 8  # pixels: of a character, between rows, between columns, around a name
MOST_CHARS = 34  # of a name in the graph
UNUSUAL = re.compile(r"[^\w.-]+", re.ASCII)  # in the id of an element
MOST_DRAWN = 150  # datasets; more are a list only
TONES = {"file": "var(--third)", "table": "var(--second)", "exposure": "var(--first)"}


@dataclass(frozen=True)
class Entry:
    """A dataset of the list below the graph.

    Attributes:
        anchor: its id in the page.
        grain, description: the first sentence of its description if it says what a row is, and the others.
        read_by: the names of what is made of it directly.
        affects: of all that is made of it, directly or not.
        tests: of dbt.
    """

    dataset: Dataset
    anchor: str
    grain: str
    description: str
    read_by: Sequence[str]
    affects: Sequence[str]
    tests: Sequence[Node]


def entries(datasets: Sequence[Dataset], nodes: Iterable[Node]) -> list[Entry]:
    """Return an entry for each of DATASETS, in the order of the graph; NODES are those of dbt."""
    read_by: dict[str, list[str]] = {dataset.name: [] for dataset in datasets}
    for dataset in datasets:
        for source in dataset.made_of:
            read_by.setdefault(source, []).append(dataset.name)
    tests = tests_by_model(nodes)
    depths = layers(datasets)
    found = []
    for dataset in sorted(datasets, key=lambda dataset: (depths[dataset.name], dataset.name)):
        first, _, rest = dataset.description.partition(". ")
        has_grain = first.lower().startswith("one row")
        found.append(
            Entry(
                dataset,
                anchor(dataset.name),
                f"{first.removesuffix('.')}." if has_grain else "",
                rest if has_grain else dataset.description,
                read_by[dataset.name],
                below(dataset.name, read_by),
                tests.get(dataset.name.rpartition(".")[2], []) if dataset.kind == "table" else [],
            )
        )
    return found


def anchor(name: str) -> str:
    """Return the id of the dataset NAME in the page: its last characters, and a checksum of all of them."""
    return f"{UNUSUAL.sub('-', name[-MOST_CHARS:])}-{zlib.crc32(name.encode(errors='replace')):x}"


def below(name: str, read_by: Mapping[str, Sequence[str]]) -> list[str]:
    """Return all that is made of NAME, directly or not, by name."""
    found: set[str] = set()
    open_ones = [name]
    while open_ones:
        new = set(read_by.get(open_ones.pop(), ())) - found
        found |= new
        open_ones += new
    return sorted(found - {name})


def layers(datasets: Sequence[Dataset]) -> dict[str, int]:
    """Return the layer of each of DATASETS: 0 of what is made of nothing, otherwise one after the last of its sources.

    Exposures are in the last one. What makes a circle is in the layer in which it was first found.
    """
    made_of = {dataset.name: dataset.made_of for dataset in datasets}
    depths: dict[str, int] = {}

    def depth(name: str, above: frozenset[str]) -> int:
        if name not in depths:
            sources = [source for source in made_of.get(name, ()) if source in made_of and source not in above]
            found = max((depth(source, above | {name}) + 1 for source in sources), default=0)
            depths.setdefault(name, found)
        return depths[name]

    for name in made_of:
        depth(name, frozenset())
    last = max((depths[dataset.name] for dataset in datasets if dataset.kind != "exposure"), default=-1) + 1
    return depths | {dataset.name: last for dataset in datasets if dataset.kind == "exposure"}


def graph(datasets: Sequence[Dataset]) -> Markup | None:
    """Return the graph of DATASETS from left to right, each name a link to its entry; None if there are too many."""
    if not 1 < len(datasets) <= MOST_DRAWN:
        return None
    places = positions(datasets)
    boxes = [
        {
            "x": x,
            "x2": x + width,
            "y": y - ROW / 2 + 4,
            "y2": y + ROW / 2 - 4,
            "text_x": x + PAD,
            "text_y": y,
            "name": shown(dataset),
            "kind": dataset.kind,
            "link": f"#{anchor(dataset.name)}",
        }
        for dataset in datasets
        for x, y, width in [places[dataset.name]]
    ]
    lines = []
    for dataset in datasets:
        for source in dataset.made_of:
            if source in places:
                x, y, width = places[source]
                end_x, end_y, _ = places[dataset.name]
                points = [(x + width, y), (end_x - GAP / 2, end_y), (end_x, end_y)]
                edge = f"{source} {dataset.name}"
                lines += [{"edge": edge, "order": i, "x": at_x, "y": at_y} for i, (at_x, at_y) in enumerate(points)]
    width = max(x + width for x, _, width in places.values())
    height = max(y for _, y, _ in places.values()) + ROW / 2
    text = f"{count(len(datasets), 'dataset')}, from files at the left to what reads the marts at the right"
    return charts.svg(specification(boxes, lines, width, height), text, has_links=True)


def positions(datasets: Sequence[Dataset]) -> dict[str, tuple[float, float, float]]:
    """Return where each of DATASETS is drawn: its left edge, the middle of its height, its width, in pixels.

    Columns are layers; igraph orders each so that few lines cross.
    """
    import igraph

    depths = layers(datasets)
    numbers = {dataset.name: i for i, dataset in enumerate(datasets)}
    edges = [
        (numbers[source], numbers[dataset.name])
        for dataset in datasets
        for source in dataset.made_of
        if source in numbers and depths[source] < depths[dataset.name]
    ]
    made = igraph.Graph(n=len(datasets), edges=edges, directed=True)
    placed = made.layout_sugiyama(layers=[depths[dataset.name] for dataset in datasets], hgap=1, vgap=1)
    heights = {dataset.name: placed[i][0] for i, dataset in enumerate(datasets)}
    first = min(heights.values())
    found: dict[str, tuple[float, float, float]] = {}
    left = 0.0
    for layer in range(max(depths.values()) + 1):
        of_layer = [dataset for dataset in datasets if depths[dataset.name] == layer]
        width = max((len(shown(dataset)) for dataset in of_layer), default=0) * CHAR + 2 * PAD
        for dataset in of_layer:
            name = dataset.name
            found[name] = (left, ROW * (heights[name] - first) + ROW / 2, width)
        left += width + GAP
    return found


def shown(dataset: Dataset) -> str:
    """Return the name of DATASET as the graph has it: a table's without its schema."""
    name = dataset.name.rpartition(".")[2] if dataset.kind == "table" else dataset.name
    return value(name, MOST_CHARS)


def specification(
    boxes: Sequence[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]], width: float, height: float
) -> dict[str, Any]:
    """Return the graph's specification of Vega-Lite."""

    def axis(name: str, top: float) -> dict[str, Any]:
        scale = {"domain": [top, 0] if name.endswith("y") else [0, top], "nice": False, "zero": False}
        return {"field": name, "type": "quantitative", "axis": None, "scale": scale}

    kinds = {"domain": list(TONES), "range": list(TONES.values())}
    return {
        "width": width,
        "height": height,
        "layer": [
            {
                "data": {"values": lines},
                "mark": {"type": "line", "color": "var(--line)", "strokeWidth": 1.5, "interpolate": "monotone"},
                "encoding": {
                    "x": axis("x", width),
                    "y": axis("y", height),
                    "detail": {"field": "edge"},
                    "order": {"field": "order"},
                },
            },
            {
                "data": {"values": boxes},
                "mark": {"type": "rect", "cornerRadius": 4, "fill": "var(--tint)", "strokeWidth": 1.5},
                "encoding": {
                    "x": axis("x", width),
                    "x2": {"field": "x2"},
                    "y": axis("y", height),
                    "y2": {"field": "y2"},
                    "stroke": {"field": "kind", "type": "nominal", "legend": None, "scale": kinds},
                },
            },
            {
                "data": {"values": boxes},
                "mark": {"type": "text", "align": "left", "fontSize": 12, "fill": "var(--text)"},
                "encoding": {
                    "x": axis("text_x", width),
                    "y": axis("text_y", height),
                    "text": {"field": "name", "type": "nominal"},
                    "href": {"field": "link"},
                },
            },
        ],
    }

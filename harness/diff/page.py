"""Write what a comparison has found as a page: `build/diff/index.html`."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from harness.diff import sentences
from harness.diff.results import Diff, Mart, Rows, Series
from harness.reporting import charts, page
from harness.reporting.summary import seconds

FOLDER = Path(__file__).parent
ROOM_BYTES = page.LIMIT_BYTES - 500_000  # for the sections of marts
COLUMNS = 40  # of a mart or of an example, differences of a definition
PICTURES = 4  # of a mart
BEFORE, DIFFERENT, AFTER = 60, 200, 60  # characters of a long value: around what differs, and of that
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Picture:
    """A drawn series: its title, a sentence about it, and the SVG."""

    title: str
    text: str
    svg: Markup


@dataclass(frozen=True)
class ChangedRow:
    """An example of a changed row: its key, and the values of both sides by column."""

    key: str
    values: list[tuple[str, Markup, Markup]]
    left_out: int


@dataclass(frozen=True)
class RowsOfOneSide:
    """The examples of rows that only one side has, as a table."""

    names: list[str]
    rows: list[list[Markup]]
    left_out: int


def write_page(diff: Diff, path: Path) -> None:
    """Write the page of DIFF to PATH; raise OSError if it cannot be written."""
    environment = page.environment(FOLDER)
    environment.filters.update(seconds=seconds, value=sentences.value)
    environment.globals.update(
        s=sentences, changed_rows=changed_rows, rows_of_one_side=rows_of_one_side, pictures=pictures, most=COLUMNS
    )
    context = {
        "diff": diff,
        "different": [each for each in enumerate(diff.marts, 1) if sentences.is_different(each[1])],
        "sections": list(sections(diff.marts, environment)),
        "tone": tone(diff),
    }
    page.write(path, environment.get_template("diff.html").render(context))


def sections(marts: Sequence[Mart], environment: Environment) -> Iterator[Markup]:
    """Yield the section of each mart; from the first on that does not fit, without details."""
    template, room = environment.get_template("mart.html"), ROOM_BYTES
    for number, mart in enumerate(marts, 1):
        section = template.render(mart=mart, number=number, has_room=room > 0)
        size = len(section.encode(errors="replace"))
        if 0 < room < size:
            room = 0
            section = template.render(mart=mart, number=number, has_room=False)
        room -= size
        yield Markup(section)  # noqa: S704 - a template's


def tone(diff: Diff) -> str:
    """Return whether the verdict is `good`, `bad`, or neither of them, for somebody to judge."""
    is_approved = diff.approval is not None and not (diff.approval.unapproved or diff.approval.absent)
    is_wrong = bool(diff.failure) or any(sentences.right_side(mart) == "base" for mart in diff.marts)
    if is_wrong or not (is_approved or diff.approval is None):
        return "bad"
    return "good" if is_approved or not any(map(sentences.is_different, diff.marts)) else ""


def pictures(mart: Mart) -> list[Picture]:
    """Return the series of MART that differ, as charts."""
    found: list[Picture] = []
    for series in mart.series:
        if (points := days(series)) and len(found) < PICTURES:
            grain, summed = charts.by_grain(points)
            if not (text := differing(summed, grain)):
                continue
            description = f"{sentences.value(series.title)}: {text}"
            found.append(Picture(series.title, text, charts.svg(charts.two_lines(summed, grain), description)))
    return found


def days(series: Series) -> list[charts.Point]:
    """Return the points of SERIES that have a day of the calendar; infinity and years before Christ have none."""
    found = []
    for day, base, branch in series.points:
        try:
            found.append((date.fromisoformat(day), base, branch))
        except ValueError:
            continue
    return sorted(found, key=lambda point: point[0])


def differing(points: Sequence[charts.Point], grain: str) -> str:
    """Return on how many of the POINTS both sides differ, and where most; empty if on none."""
    differences = {day: (branch or 0) - (base or 0) for day, base, branch in points if base != branch}
    if not differences:
        return ""
    day = max(differences, key=lambda day: abs(differences[day]))
    where = {"day": f"on {day}", "week": f"in the week of {day}", "month": f"in {day:%B %Y}", "year": f"in {day.year}"}
    most = f"{differences[day]:+,.10g}"
    of = f"{len(differences):,} of {sentences.count(len(points), grain)}"
    return f"{of} {'differs' if len(differences) == 1 else 'differ'}, most of all {where[grain]}: {most}"


def changed_rows(rows: Rows) -> list[ChangedRow]:
    """Return the examples of changed rows, in whose values the characters that differ are marked."""
    found = []
    for example in rows.examples:
        if example.kind == "changed" and example.base is not None and example.branch is not None:
            key = ", ".join(f"{sentences.value(name)} = {sentences.value(text)}" for name, text in example.key.items())
            names = list(example.branch)
            values = [(name, *marked(example.base.get(name), example.branch[name])) for name in names[:COLUMNS]]
            found.append(ChangedRow(key, values, len(names[COLUMNS:])))
    return found


def rows_of_one_side(rows: Rows, kind: str) -> RowsOfOneSide | None:
    """Return the examples of the rows that were `removed` or `added`, as KIND says; None if there are none."""
    found = [example.key | (example.base or example.branch or {}) for example in rows.examples if example.kind == kind]
    if not found:
        return None
    names = list(dict.fromkeys(name for row in found for name in row))
    values = [[plain(row.get(name)) for name in names[:COLUMNS]] for row in found]
    return RowsOfOneSide(names[:COLUMNS], values, len(names[COLUMNS:]))


def plain(text: str | None) -> Markup:
    """Return a value that is shown alone."""
    if not text:
        return Markup("<i>{}</i>").format("null" if text is None else "empty text")
    return Markup("<bdi>{}</bdi>").format(sentences.value(text, BEFORE + DIFFERENT + AFTER))


def marked(base: str | None, branch: str | None) -> tuple[Markup, Markup]:
    """Return two values of which the characters that differ are marked, and of long ones only what is around these."""
    if not base or not branch:
        return plain(base), plain(branch)
    before = common(base, branch)
    after = min(common(base[::-1], branch[::-1]), min(len(base), len(branch)) - before)
    # What is one character or number for the eye is marked as a whole.
    while before and any(joins(text, before) for text in (base, branch)):
        before -= 1
    while after and any(joins(text, len(text) - after) for text in (base, branch)):
        after -= 1
    if NUMBER.fullmatch(base) and NUMBER.fullmatch(branch):
        before = after = 0
    looks_alike = unicodedata.normalize("NFKC", base[before:][:DIFFERENT]) == unicodedata.normalize(
        "NFKC", branch[before:][:DIFFERENT]
    )
    first, second = (part(text, before, len(text) - after, looks_alike) for text in (base, branch))
    return first, second


def part(text: str, start: int, end: int, with_codes: bool) -> Markup:
    """Return TEXT with the characters from START to END marked."""
    head, middle, tail = text[max(0, start - BEFORE) : start], text[start:end][:DIFFERENT], text[end:][:AFTER]
    is_cut = len(head + middle + tail) < len(text)
    found = Markup("<bdi>{}{}").format("…" if start > BEFORE else "", sentences.visible(head))
    if middle:
        found += Markup("<mark>{}</mark>").format(blanks(middle) if middle.isspace() else sentences.visible(middle))
    more = "…" if end - start > DIFFERENT else ""
    found += Markup("{}{}{}</bdi>").format(more, sentences.visible(tail), "…" if len(text) - end > AFTER else "")
    if with_codes and middle:
        codes = " ".join(f"U+{ord(character):04X}" for character in middle[:8])
        found += Markup(" <small>{}</small>").format(codes)
    if is_cut:
        found += Markup(" <small>({} characters)</small>").format(f"{len(text):,}")
    return found


def blanks(text: str) -> str:
    """Return TEXT of blanks so that they are seen."""
    return "".join("␣" if character == " " else sentences.visible(character) for character in text)


def common(first: str, second: str) -> int:
    """Return the number of characters that both begin with."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def joins(text: str, at: int) -> bool:
    """Return whether the character AT belongs to the one before it: a digit, an accent, a part of an emoji."""
    joined = text[max(0, at - 1) : at + 1]
    if len(joined) < 2:
        return False
    return joined.isdecimal() or "\u200d" in joined or unicodedata.category(joined[1]) in ("Mn", "Me", "Mc", "Sk")

"""Where a comparison is read: the terminal, the step's summary, and `build/diff/`."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from harness.diff.page import write_page
from harness.diff.results import Diff, Example, Mart
from harness.diff.sentences import headline, is_different, listed, right_side, summary, value
from harness.project.paths import from_root
from harness.reporting.console import say, table
from harness.reporting.summary import Section, code, details, text
from harness.reporting.summary import table as markdown_table

HEADER = ("mart", "base", "branch", "added", "removed", "changed", "right")
SHOWN_CHARS = 60  # of a value
NAMED = 8
PAGE, JSON = "index.html", "diff.json"


def say_diff(diff: Diff, folder: Path) -> None:
    """Print DIFF, whose files are in FOLDER: a short table, then what is different of each mart, with examples."""
    say(f"\n{headline(diff)}\n")
    say(f"  base    {diff.base}")
    say(f"  branch  {diff.branch}")
    say(f"  rows    {diff.data}{', loaded by each side' if diff.load_differs else ''}")
    changed = [f"  changed  {names}: {what}" for names, what in changed_together(diff)]
    if changed:
        say("\n" + "\n".join(changed))
    if rows := table_rows(diff):
        say("")
        table(HEADER, rows)
    if diff.unaffected:
        say(f"\n  cannot differ, and are the base's: {listed(diff.unaffected, NAMED)}")
    for mart in filter(is_different, diff.marts):
        say(f"\n{value(mart.name)}")
        for sentence in summary(mart):
            say(f"  {sentence}")
        for line in example_lines(mart):
            say(f"    {line}")
    for note in diff.notes:
        if note == diff.failure:  # which is the error at the end
            continue
        say("\n" + "\n".join(f"  {line}" for line in note))
    say(f"\n  the page: {from_root(folder / PAGE)}\n  as JSON:  {from_root(folder / JSON)}")


def changed_together(diff: Diff) -> list[tuple[str, str]]:
    """Return what was changed in the dbt project, and the models in which just that was."""
    names: dict[str, list[str]] = {}
    for changed in diff.changed:
        more = f" and {len(changed.what) - NAMED} more" if len(changed.what) > NAMED else ""
        names.setdefault(f"{', '.join(changed.what[:NAMED])}{more}", []).append(value(changed.name))
    return [(listed(these, NAMED), what) for what, these in names.items()]


def table_rows(diff: Diff) -> list[tuple[str, ...]]:
    """Return the table of the marts that were compared."""
    found = []
    for mart in diff.marts:
        rows = mart.rows if not mart.rows or not mart.rows.are_same else mart.incremental_rows or mart.rows
        if rows:
            numbers = (rows.base_rows, rows.branch_rows, rows.added, rows.removed, rows.changed)
            found.append((value(mart.name), *(f"{number:,}" for number in numbers), right_side(mart)))
        elif not (mart.in_base and mart.in_branch):
            rows_of_one = "" if mart.only_rows is None else f"{mart.only_rows:,}"
            sides = (rows_of_one, "removed") if mart.in_base else ("new", rows_of_one)
            found.append((value(mart.name), *sides, "", "", "", right_side(mart)))
    return found


def example_lines(mart: Mart) -> Iterator[str]:
    """Yield a line for each example of MART: its key, then its values on both sides."""
    after_both = filter(None, (mart.rows, mart.incremental_rows))
    for example in next((rows.examples for rows in after_both if rows.examples), ()):
        yield example_line(example)


def example_line(example: Example) -> str:
    """Return EXAMPLE on a line: `event_id = 1: service_lead_fee 9.84 → 10`, `- event_id = 2: service_id 27`."""

    def shown(text: str | None) -> str:
        return value(text, SHOWN_CHARS)

    key = ", ".join(f"{name} = {shown(text)}" for name, text in example.key.items())
    if example.base is not None and example.branch is not None:
        values = [f"{name} {shown(old)} → {shown(example.branch[name])}" for name, old in example.base.items()]
        return f"~ {key}: {', '.join(values)}"
    side = example.base if example.base is not None else example.branch or {}
    sign = "-" if example.branch is None else "+"
    values = [f"{name} {shown(text)}" for name, text in side.items()]
    return f"{sign} {': '.join(filter(None, [key, ', '.join(values)]))}"


def write_files(diff: Diff, folder: Path, section: Section) -> None:
    """Write DIFF to FOLDER as a page and as JSON, and to SECTION."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JSON).write_text(json.dumps(asdict(diff), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    write_page(diff, folder / PAGE)
    section.headline = headline(diff)
    section.add("\n".join(f"- {text(names)}: {text(what)}" for names, what in changed_together(diff)))
    if rows := table_rows(diff):
        section.add(markdown_table(HEADER, rows, numbers=HEADER[1:-1]))
    if diff.unaffected:
        section.add(f"Cannot differ, and are the base's: {text(listed(diff.unaffected, NAMED))}.")
    for mart in filter(is_different, diff.marts):
        sentences = "\n".join(f"- {text(sentence)}" for sentence in summary(mart))
        examples = "\n".join(example_lines(mart))
        section.add(f"### {text(mart.name)}\n\n{sentences}")
        if examples:
            section.add(details("Examples", code(examples)))
    section.add(*("\n".join(text(line) for line in note) for note in diff.notes))

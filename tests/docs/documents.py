"""Reading what the project's Markdown says: links, anchors, tables and code, as GitHub would show them."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

from harness.project.paths import ROOT

FENCE = re.compile(r"^(```+|~~~+)")
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^\s)>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
DEFINITION = re.compile(r"^ {0,3}\[[^\]]+\]:\s*<?([^\s>]+)>?", re.MULTILINE)
MADE = ("build", "logs", "target", "__pycache__")  # folders that sessions make
HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*$")


@cache
def markdown() -> tuple[Path, ...]:
    """Return the project's Markdown files; git is not asked: the project may have been downloaded without it."""
    found = []
    for folder, below, names in os.walk(ROOT):
        below[:] = [name for name in below if name == ".github" or not (name.startswith(".") or name in MADE)]
        found += [Path(folder, name) for name in names if name.endswith(".md")]
    return tuple(sorted(found))


def read(name: str) -> str:
    """Return the text of the file NAME, from the root."""
    return (ROOT / name).read_text(encoding="utf-8")


def lines(text: str) -> Iterator[tuple[bool, str]]:
    """Yield each line of TEXT and whether it is inside a fence; the fences themselves are left out."""
    fence = ""
    for line in text.splitlines():
        mark = FENCE.match(line.strip())
        if mark and (not fence or line.strip().startswith(fence)):
            fence = "" if fence else mark[1]
        else:
            yield bool(fence), line


def prose(text: str) -> str:
    """Return TEXT without fenced and inline code."""
    return re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", "\n".join(line for fenced, line in lines(text) if not fenced))


def code(text: str) -> list[str]:
    """Return the code in TEXT: fenced and indented lines, and what stands between backticks."""
    found = [line.strip() for fenced, line in lines(text) if fenced or re.match(r" {4}\S", line)]
    inline = "\n".join(line for fenced, line in lines(text) if not fenced and not re.match(r" {4}\S", line))
    return found + [span[1] for span in re.finditer(r"(?<!`)`([^`\n]+)`(?!`)", inline)]


def anchors(text: str) -> set[str]:
    """Return the anchors of TEXT's headings."""
    found: Counter[str] = Counter()
    names = set()
    for fenced, line in lines(text):
        if not fenced and (heading := HEADING.match(line)):
            shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[2])
            slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
            names.add(f"{slug}-{found[slug]}" if found[slug] else slug)
            found[slug] += 1
    return names


def section(text: str, title: str) -> str:
    """Return what stands below the heading TITLE, up to the next heading of its level or above."""
    below: list[str] = []
    level = 0
    for fenced, line in lines(text):
        heading = None if fenced else HEADING.match(line)
        if heading and level and len(heading[1]) <= level:
            break
        if level:
            below.append(f"    {line}" if fenced else line)
        elif heading and heading[2] == title:
            level = len(heading[1])
    assert level, f"there is no heading {title!r}"
    return "\n".join(below)


def table(text: str, first_column: str) -> list[list[str]]:
    """Return the rows' cells of TEXT's tables whose first column has the name FIRST_COLUMN."""
    found: list[list[str]] = []
    is_inside = is_wanted = False
    for fenced, line in lines(text):
        if fenced or not line.startswith("|"):
            is_inside = False
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        if not is_inside:
            is_inside, is_wanted = True, cells[0] == first_column
        elif is_wanted and set(cells[0]) - set(":- "):
            found.append(cells)
    assert found, f"there is no table with the first column {first_column!r}"
    return found


def names(cells: Iterable[str], pattern: str = r"(.+)") -> list[str]:
    """Return what the code in CELLS matches, its first group."""
    return [match[1] for cell in cells for span in code(cell) if (match := re.fullmatch(pattern, span))]


def broken_links(path: Path, text: str) -> list[str]:
    """Return the links of TEXT, which is or would be at PATH, that lead nowhere in the repository."""
    broken = []
    without_code = prose(text)
    for target in [*LINK.findall(without_code), *DEFINITION.findall(without_code)]:
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        name, _, anchor = unquote(target).partition("#")
        there = (ROOT / name[1:] if name.startswith("/") else path.parent / name).resolve() if name else path
        if not there.is_relative_to(ROOT) or (name and not there.exists()):
            broken.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(text if there == path else there.read_text(encoding="utf-8")):
            broken.append(f"{target}: no such heading")
    return broken


def differences(documented: Iterable[str], there_is: Iterable[str]) -> list[str]:
    """Return how what is DOCUMENTED differs from what THERE_IS, which is nothing where each stands there once."""
    told, real = Counter(list(documented)), set(there_is)
    return sorted(
        [f"{name} is not documented" for name in real - set(told)]
        + [f"{name} is documented and does not exist" for name in set(told) - real]
        + [f"{name} is documented {count} times" for name, count in told.items() if count > 1]
    )


def sessions_called(text: str) -> set[str]:
    """Return the sessions that commands in TEXT name: `nox -s a b -- …`."""
    called = set()
    for line in code(text):
        for words in re.findall(r"\bnox(?:\[uv\]')? (?:-s|--sessions?) ([^`#|&;]+)", line):
            called |= set(re.split(r" -|\s*[,.)…]|$", words, maxsplit=1)[0].split())
    return {name for name in called if not name.startswith('"$')}  # which the plan names


def options_called(text: str, command: str) -> set[str]:
    """Return the options that commands in TEXT give COMMAND: `nox -s e2e -- --option`."""
    return {
        option
        for line in code(text)
        if (at := line.find(f"{command} -- ")) >= 0
        for option in re.findall(r"(?<=[ \[])--[a-z][a-z-]*", line[at + len(command) + 3 :])
    }

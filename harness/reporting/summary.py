"""Tell how a session ended, as Markdown, in the file that GITHUB_STEP_SUMMARY names; where it is not set, nowhere.

Each session has a section: its first line says which session it is and how it ended, the rest what its reader needs
who sees nothing else. Any program adds one:

    with Section("bench") as section:
        section.add(Path("build/bench/load.md").read_text())

Needs the standard library alone: the noxfile uses it before there is any environment.
"""

import contextlib
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.reporting.console import Phases

VARIABLE = "GITHUB_STEP_SUMMARY"
LIMIT_BYTES = 1024 * 1024  # of one step's file; GitHub shows nothing at all of a larger one
CUT = "_Here it was cut: GitHub takes 1 MiB of a step's summary. The rest is in the log._\n\n"
LINE_CHARS = 500
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass
class Section:
    """What a session tells; as a context it writes itself at the end, an exception that ends it included.

    Attributes:
        title: which session it is, and on what: `e2e on kind`.
        went_well: how it ended.
        headline: what the first line says beside that.
        blocks: Markdown, each block whole in itself.
        cleaned: what of an error that was not foreseen is shown; all of it by default.
    """

    title: str
    went_well: bool = True
    headline: str = ""
    blocks: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    cleaned: Callable[[str], str] = str

    def add(self, *blocks: str) -> None:
        """Add Markdown BLOCKS; empty ones are left out."""
        self.blocks += [block for block in blocks if block]

    def add_phases(self, phases: Phases) -> None:
        """Add what has been done, how long it took, and in which phase it failed, if it did."""
        if phases.failed_in:
            self.add(f"It ended in the phase **{text(phases.failed_in)}**.")
        if phases.seconds:
            self.add(table(phases.header, phases.rows(), numbers=phases.header[1:]))

    def fail(self, what: str, why: str, next_step: str, evidence: Sequence[str] = ()) -> None:
        """Say that it failed: what happened, why most likely, what to do next, and Markdown that shows it."""
        self.went_well = False
        self.blocks[:0] = [_lines(what, why, next_step), *filter(None, evidence)]

    def __enter__(self) -> "Section":
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        ended_well = error is None or (isinstance(error, SystemExit) and not error.code)  # --help ends so
        if not ended_well and self.went_well:  # else it was told before
            self._fail_with(error)
        self.write()

    def _fail_with(self, error: BaseException | None) -> None:
        foreseen: Any = error
        if hasattr(foreseen, "next_step"):  # an EventsError
            self.fail(foreseen.what, foreseen.why, foreseen.next_step, getattr(foreseen, "evidence", ()))
            return
        told = code(self.cleaned("".join(traceback.format_exception(foreseen))), last=40)
        what = self.cleaned(f"{type(error).__name__}: {next(iter(str(error).splitlines()), 'without a message')}")
        self.fail(what, "It was not foreseen: a defect.", "Read the traceback.", [details("Traceback", told)])

    def write(self) -> None:
        """Append it to the summary."""
        taken = seconds(time.monotonic() - self.started)
        told = f"{text(self.headline)} ({taken})" if self.headline else taken
        append(f"## {'✓' if self.went_well else '✗'} {text(self.title)}: {told}", *self.blocks)


@contextlib.contextmanager
def at_least(session: str) -> Iterator[None]:
    """See that SESSION is in the summary, even where what runs inside has no word for it or is killed."""
    before = _size()
    try:
        yield
    except BaseException as error:
        if _size() == before:
            failed(session, f"Its command did not end well: {str(error) or type(error).__name__}.")
        raise
    if _size() == before:
        append(f"## ✓ {text(session)}")


def failed(session: str, what: str) -> None:
    """Append a section for a SESSION that failed before, or without, telling by itself."""
    why = "It failed before it could tell, or was ended from outside."
    append(f"## ✗ {text(session)}", _lines(what, why, f"Read the end of the log, or run it: nox -s {session}"))


def append(*blocks: str) -> None:
    """Append BLOCKS, with an empty line behind each; from the first on that does not fit, none, and a line says so."""
    if not (name := os.environ.get(VARIABLE)):
        return
    room = LIMIT_BYTES - _size()
    if room < len(CUT.encode()):
        return
    written = b""
    for block in blocks:
        more = f"{block.rstrip()}\n\n".encode(errors="replace")
        if len(written) + len(more) + len(CUT.encode()) > room:
            written += CUT.encode()
            break
        written += more
    try:
        with open(name, "ab") as file:
            file.write(written)
    except OSError as error:  # what it tells of matters more
        print(f"The step's summary cannot be written: {error}", file=sys.stderr)


def _lines(what: str, why: str, next_step: str) -> str:
    told = {"What happened": what, "Why, most likely": why, "What to do": next_step}
    return "\n".join(f"- **{name}:** {text(line)}" for name, line in told.items())


def _size() -> int:
    try:
        return Path(os.environ[VARIABLE]).stat().st_size
    except (KeyError, OSError):
        return 0


# --- pieces of Markdown ---------------------------------------------------------------------------------------------


class Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def text(plain: object) -> str:
    """Return PLAIN so that Markdown shows it as it is, on one line."""
    told = " ".join(ESCAPES.sub("", str(plain)).split())
    told = re.sub(r"([\\`*|\[\]~$])", r"\\\1", told)
    told = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", told)  # within a word it means nothing
    return told.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def span(plain: object) -> Markdown:
    """Return PLAIN as code within a line; in a table, too."""
    told = " ".join(ESCAPES.sub("", str(plain)).split()).replace("|", "\\|")
    ticks = _fence(told, 1)
    space = " " if told.startswith("`") or told.endswith("`") else ""
    return Markdown(f"{ticks}{space}{told}{space}{ticks}" if told else "")


def code(plain: str, first: int | None = None, last: int | None = None) -> str:
    """Return PLAIN as a block of code, its FIRST or LAST lines where it has more, and how many are left out."""
    lines = [
        line if len(line) <= LINE_CHARS else f"{line[:LINE_CHARS]} …" for line in ESCAPES.sub("", plain).splitlines()
    ]
    while lines and not lines[-1].strip():
        lines.pop()
    while lines and not lines[0].strip():
        lines.pop(0)
    if first is not None and len(lines) > first:
        lines[first:] = [f"… {len(lines) - first:,} more lines"]
    if last is not None and len(lines) > last:
        lines[:-last] = [f"… {len(lines) - last:,} lines before"]
    told = "\n".join(lines)
    fence = _fence(told, 3)
    return f"{fence}text\n{told}\n{fence}"


def _fence(told: str, shortest: int) -> str:
    return "`" * max(shortest, 1 + max(map(len, re.findall("`+", told)), default=0))


def details(title: str, block: str) -> str:
    """Return BLOCK, folded under TITLE."""
    return f"<details><summary>{html(title)}</summary>\n\n{block}\n\n</details>"


def html(plain: str) -> str:
    """Return PLAIN so that HTML shows it as it is."""
    return " ".join(plain.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def table(header: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[str] = ()) -> str:
    """Return a table of plain text; the columns NUMBERS to the right. A cell that is `Markdown` stays as it is."""
    ruler = ["---:" if name in numbers else "---" for name in header]
    lines = (header, ruler, *([cell if isinstance(cell, Markdown) else text(cell) for cell in row] for row in rows))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def seconds(duration_s: float) -> str:
    """Return a duration for people: `3.2 s`, `4 min 12 s`."""
    whole = round(duration_s)
    return f"{duration_s:.1f} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"

"""Write how a session ended, as Markdown, to the file that GITHUB_STEP_SUMMARY names, if that variable is set.

Each session has a section: its first line has the session's name and how it ended, the rest whatever a reader needs who
does not see the log. Any program can add one:

    with Section("bench") as section:
        section.add(Path("build/bench/load.md").read_text())

Needs only the standard library: the noxfile uses it before there is any environment.
"""

import contextlib
import html
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

from harness.project.os_errors import signal_name
from harness.reporting.console import Phases
from harness.reporting.report.run import Run

VARIABLE = "GITHUB_STEP_SUMMARY"
LIMIT_BYTES = 1024 * 1024  # of one step's file; GitHub shows nothing at all of a larger one
CUT = "_Here it was cut: GitHub takes 1 MiB of a step's summary. The rest is in the log._\n\n"
LINE_CHARS = 500
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass
class Section:
    """A session's section; used as a context manager it writes itself at the end, with the exception if there is one.

    Attributes:
        title: the session and its target: `e2e on kind`.
        headline: a result for the first line.
        blocks: Markdown, each block complete in itself.
        cleaned: removes secrets from the text of an unexpected error.
        run: what the report shows of it, `build/report/index.html`; None if it has none.
    """

    title: str
    went_well: bool = True
    headline: str = ""
    blocks: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    cleaned: Callable[[str], str] = str
    run: Run | None = None

    def add(self, *blocks: str) -> None:
        """Add Markdown BLOCKS, without the empty ones."""
        self.blocks += [block for block in blocks if block]

    def add_phases(self, phases: Phases) -> None:
        """Add the phases with their times, and which of them failed."""
        if phases.failed_in:
            self.add(f"It failed in the phase **{text(phases.failed_in)}**.")
        if phases.seconds:
            self.add(table(phases.header, phases.rows(), numbers=phases.header[1:]))

    def fail(self, what: str, why: str, next_step: str, evidence: Sequence[str] = ()) -> None:
        """Mark it as failed: what happened, why most likely, what to do next, and EVIDENCE as Markdown."""
        self.went_well = False
        self.blocks[:0] = [_lines(what, why, next_step), *filter(None, evidence)]

    def __enter__(self) -> "Section":
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        succeeded = error is None or (isinstance(error, SystemExit) and not error.code)  # --help ends so
        if not succeeded and self.went_well:  # else `fail` has been called
            self._fail_with(error)
        self.write()

    def _fail_with(self, error: BaseException | None) -> None:
        expected: Any = error
        if hasattr(expected, "next_step"):  # an FeedError
            self.fail(expected.what, expected.why, expected.next_step, getattr(expected, "evidence", ()))
            return
        trace = code(self.cleaned("".join(traceback.format_exception(expected))), last=40)
        what = self.cleaned(f"{type(error).__name__}: {next(iter(str(error).splitlines()), 'without a message')}")
        why = "This is a defect: the error was not expected."
        self.fail(what, why, "Read the traceback.", [details("Traceback", trace)])

    def write(self) -> None:
        """Append it to the summary."""
        taken = seconds(time.monotonic() - self.started)
        result = f"{text(self.headline)} ({taken})" if self.headline else taken
        append(f"## {'✓' if self.went_well else '✗'} {text(self.title)}: {result}", *self.blocks)


@contextlib.contextmanager
def at_least(session: str) -> Iterator[None]:
    """Make sure that SESSION is in the summary, even if the command in the block writes nothing or is killed."""
    before = _size()
    try:
        yield
    except BaseException as error:
        if _size() == before:
            failed(session, _how_ended(error))
        raise
    if _size() == before:
        append(f"## ✓ {text(session)}")


def _how_ended(error: BaseException) -> str:
    """Return how a command ended for which nox raised ERROR."""
    if isinstance(error, KeyboardInterrupt):
        return "It was interrupted by SIGINT."
    message = str(error) or type(error).__name__
    if ended_by := re.fullmatch(r"Returned code -(\d+)", message.rstrip(".")):
        return f"Its command was ended by {signal_name(int(ended_by[1]))}."
    return f"Its command failed: {message.rstrip('.')}."


def failed(session: str, what: str) -> None:
    """Append a section for a SESSION that failed without writing one."""
    why = "It failed before it wrote a summary, or was killed."
    append(f"## ✗ {text(session)}", _lines(what, why, f"Read the end of the log, or run it: nox -s {session}"))


def append(*blocks: str) -> None:
    """Append BLOCKS, with an empty line after each, until one does not fit; then a line says so."""
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
    except OSError as error:  # the session's own result matters more
        print(f"The step's summary cannot be written: {error}", file=sys.stderr)


def _lines(what: str, why: str, next_step: str) -> str:
    lines = {"What happened": what, "Why, most likely": why, "What to do": next_step}
    return "\n".join(f"- **{name}:** {text(line)}" for name, line in lines.items())


def _size() -> int:
    try:
        return Path(os.environ[VARIABLE]).stat().st_size
    except (KeyError, OSError):
        return 0


class Markdown(str):
    """Text that is already Markdown."""

    __slots__ = ()


def text(plain: object) -> str:
    """Return PLAIN escaped for Markdown, on one line."""
    line = " ".join(ESCAPES.sub("", str(plain)).split())
    line = re.sub(r"([\\`*|\[\]~$])", r"\\\1", line)
    line = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)  # within a word it is no markup
    return html.escape(line, quote=False)


def span(plain: object) -> Markdown:
    """Return PLAIN as inline code, also for a table's cell."""
    line = " ".join(ESCAPES.sub("", str(plain)).split()).replace("|", "\\|")
    ticks = _fence(line, 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return Markdown(f"{ticks}{space}{line}{space}{ticks}" if line else "")


def code(plain: str, first: int | None = None, last: int | None = None) -> str:
    """Return PLAIN as a code block; of a long one only the FIRST or LAST lines, and how many are left out."""
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
    block = "\n".join(lines)
    fence = _fence(block, 3)
    return f"{fence}text\n{block}\n{fence}"


def _fence(block: str, shortest: int) -> str:
    return "`" * max(shortest, 1 + max(map(len, re.findall("`+", block)), default=0))


def details(title: str, block: str) -> str:
    """Return BLOCK, folded under TITLE."""
    summary = html.escape(" ".join(title.split()), quote=False)
    return f"<details><summary>{summary}</summary>\n\n{block}\n\n</details>"


def table(header: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[str] = ()) -> str:
    """Return a table of plain text, the columns NUMBERS right-aligned. A `Markdown` cell is not escaped."""
    ruler = ["---:" if name in numbers else "---" for name in header]
    lines = (header, ruler, *([cell if isinstance(cell, Markdown) else text(cell) for cell in row] for row in rows))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def seconds(duration_s: float) -> str:
    """Return a duration as `3.2 s` or `4 min 12 s`."""
    whole = round(duration_s)
    return f"{duration_s:.1f} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"

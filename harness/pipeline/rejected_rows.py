"""Show the rows that a run's loads have rejected, and keep them in a file: the warehouse is gone after the run."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg

from feeds.ledger import printable
from feeds.uri import first_line
from harness.project.paths import BUILD, from_root
from harness.reporting.console import say
from harness.reporting.summary import details, span, table
from harness.warehouse.roles import Warehouse

FILE = BUILD / "reports" / "rejected_rows.csv"
SHOWN = 3  # of each reason
MAX_ROWS = 100_000  # in the file
TABLE = "raw.rejected_rows"
EXAMPLES = """
    select concat_ws(': ', feed, column_name, reason), count, line_number, raw_text
    from (
        select
            *, count(*) over reasons as count,
            row_number() over (reasons order by load_id, file_number, line_number) as number
        from raw.rejected_rows
        window reasons as (partition by feed, reason, column_name)
    ) as numbered
    where number <= %s order by count desc, feed, reason, column_name, number
"""
ROWS = """
    copy (
        select feed, load_id, file_number, line_number, reason, column_name, left(raw_text, 10000) as raw_text
        from raw.rejected_rows order by load_id, file_number, line_number limit {}
    ) to stdout (format csv, header)
"""


@dataclass(frozen=True)
class RejectedRows:
    """The rejected rows of a run.

    Attributes:
        counts: how many the warehouse has, by feed and reason, the most frequent first; of a refused load a few.
        examples: the reason, the line and the beginning of the text of the first of each reason.
        file: the file that has them, at most `MAX_ROWS`; None if none has.
    """

    counts: dict[str, int] = field(default_factory=dict)
    examples: list[tuple[str, int, str]] = field(default_factory=list)
    file: Path | None = None

    @property
    def place(self) -> str:
        """The file, from the project's folder; otherwise the table."""
        return from_root(self.file) if self.file else TABLE

    def lines(self) -> list[str]:
        """Return the lines for the terminal; none if no row was rejected."""
        if not self.counts:
            return []
        total = sum(self.counts.values())
        lines = [f"  {f'{MAX_ROWS:,} of ' if total > MAX_ROWS else ''}{total:,} rejected rows are in {self.place}"]
        for reason, count in self.counts.items():
            lines.append(f"    {reason} {count:,}")
            lines += [f"      line {line}: {text}" for of, line, text in self.examples if of == reason]
        return lines

    def markdown(self) -> list[str]:
        """Return the examples as a block of Markdown."""
        if not self.counts:
            return []
        rows = [(reason, f"{line:,}", span(text)) for reason, line, text in self.examples]
        title = f"{sum(self.counts.values()):,} rejected rows, at most {SHOWN} of each reason"
        return [details(title, table(("reason", "line", "row"), rows, numbers=("line",)))]


def examples(connection: psycopg.Connection[Any]) -> RejectedRows:
    """Return the rejected rows of the warehouse behind CONNECTION: how many of each reason, and the first of them."""
    if connection.execute("select to_regclass(%s)", [TABLE]).fetchone() == (None,):
        return RejectedRows()
    found = connection.execute(EXAMPLES, [SHOWN]).fetchall()
    counts = {reason: count for reason, count, _, _ in found}
    return RejectedRows(counts, [(reason, line, printable(text)) for reason, _, line, text in found])


def collect(warehouse: Warehouse, file: Path = FILE) -> RejectedRows:
    """Write the rejected rows of WAREHOUSE to FILE, print and return them; if that fails, say so: it is not the result.

    Without a rejected row there is no FILE afterwards: one of an earlier run would mislead.
    """
    try:
        file.unlink(missing_ok=True)
        with psycopg.connect(warehouse.admin_dsn, connect_timeout=10) as connection:
            rejected = examples(connection)
            if rejected.counts:
                rejected = replace(rejected, file=file)
                file.parent.mkdir(parents=True, exist_ok=True)
                with connection.cursor().copy(ROWS.format(MAX_ROWS)) as rows, open(file, "wb") as written:
                    written.writelines(map(bytes, rows))
    except (psycopg.Error, OSError) as error:
        say(f"  the rejected rows cannot be kept: {first_line(error, warehouse.admin_dsn)}")
        return RejectedRows()
    for line in rejected.lines():
        say(line)
    return rejected

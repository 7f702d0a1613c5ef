"""Files as lines that PostgreSQL's COPY reads: a module per format.

To add a format, write a module with a function `read`, name it in `_MODULES`, and name the format in
`feeds.contract.Format`. What it returns, `Rows`, is all that the load knows of a file.
"""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module

from feeds.contract import Feed
from feeds.formats import drift
from feeds.formats.rows import Rows
from feeds.source import Source, text_source

_MODULES = {"csv": "csv", "jsonl": "json_lines", "parquet": "parquet"}


def read(source: Source, feed: Feed) -> Rows:
    """Return the rows of SOURCE in the format of FEED; see the modules for what they raise."""
    reader: Callable[[Source, Feed], Rows] = import_module(f"feeds.formats.{_MODULES[feed.format]}").read
    return reader(source, feed)


def read_rejected(text: bytes, feed: Feed, header: str | None = None) -> Rows:
    """Return the rows in TEXT, rejected rows of FEED as the quarantine has them: lines of CSV, or JSON objects.

    HEADER is that of their file, by default the contract's. Both are UTF-8 here, whatever the file's encoding was.

    Raises:
        WrongHeader: the file had other columns than the contract has now, or of Parquet columns of other types, which
            the objects do not show.
    """
    if feed.format == "csv":
        csv = feed.properties.csv.model_copy(update={"encoding": "utf-8"})
        feed = replace(feed, properties=feed.properties.model_copy(update={"csv": csv}))
        header = header or csv.delimiter.join(column.header for column in feed.columns)
        return read(text_source("raw.rejected_rows", f"{header}\n".encode() + text), feed)
    if feed.format == "parquet" and header:
        raise drift.refusal(feed, "raw.rejected_rows", f"had columns of other types: {header}")
    from feeds.formats.json_lines import objects

    return objects(text, feed)

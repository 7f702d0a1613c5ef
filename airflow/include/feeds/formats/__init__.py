"""Files as lines that PostgreSQL's COPY reads: a module per format."""

from collections.abc import Callable
from importlib import import_module

from feeds.contract import Feed
from feeds.formats.rows import Rows
from feeds.source import Source

_MODULES = {"csv": "csv", "jsonl": "json_lines", "parquet": "parquet"}


def read(source: Source, feed: Feed) -> Rows:
    """Return the rows of SOURCE in the format of FEED; see the modules for what they raise."""
    reader: Callable[[Source, Feed], Rows] = import_module(f"feeds.formats.{_MODULES[feed.format]}").read
    return reader(source, feed)

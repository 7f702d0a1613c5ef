"""Files as lines that PostgreSQL's COPY reads: a module per format."""

from collections.abc import Callable, Mapping

from feeds.contract import Feed
from feeds.formats import csv
from feeds.formats.rows import Rows
from feeds.source import Source

FORMATS: Mapping[str, Callable[[Source, Feed], Rows]] = {"csv": csv.read}

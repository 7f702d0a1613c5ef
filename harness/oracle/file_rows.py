"""The rows of a feed's files by its contract, read with Python's own types, one row at a time.

It shares no code with the load but the contract and how files are found, so that a mistake has to be made twice, in
different ways, to go unseen. What is a valid row is in docs/contracts.md.
"""

import gzip
import io
from collections.abc import Iterator
from typing import Any, cast

import fsspec

from feeds.contract import Feed
from feeds.files import find_files
from feeds.interval import ALWAYS, Interval
from feeds.source import http_options
from harness.oracle.csv_rows import csv_rows
from harness.oracle.json_rows import json_rows
from harness.oracle.parquet_rows import parquet_rows
from harness.oracle.row_values import RejectedError, Row

READERS = {"csv": csv_rows, "jsonl": json_rows, "parquet": parquet_rows}


def rows(feed: Feed, uri: str, interval: Interval = ALWAYS) -> Iterator[Row | RejectedError]:
    """Yield each row of the files at URI for INTERVAL, by the columns' names, or why it is rejected.

    Raises:
        FeedError: a file cannot be found or opened.
    """
    for path in find_files(uri, interval, is_latest=feed.time_column is None):
        options: dict[str, Any] = {"block_size": 0, **http_options(path)} if path.startswith("http") else {}
        with fsspec.open(path, "rb", **options) as file:
            yield from READERS[feed.format](feed, unpacked(file))


def unpacked(file: Any) -> Any:
    """Return FILE decompressed."""
    buffered = io.BufferedReader(cast(io.RawIOBase, file), 1 << 20)
    start = buffered.peek(4)
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=buffered)
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        import pyarrow as pa  # Python has no zstd before 3.14

        return io.BytesIO(pa.CompressedInputStream(pa.PythonFile(buffered, "r"), "zstd").read())
    return buffered

"""What a format makes of a file: lines that PostgreSQL's COPY reads, or nearly."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from feeds.contract import Column
from feeds.lines import Dialect


@dataclass(frozen=True)
class Block:
    """Lines of a file, each with its line end; the first has the number `line_number`, from 1."""

    lines: bytes
    line_number: int


@dataclass(frozen=True)
class Rows:
    """The rows of a file: its columns in their order there, how lines are written, and the lines, to be read once."""

    columns: Sequence[Column]
    dialect: Dialect
    blocks: Iterator[Block]

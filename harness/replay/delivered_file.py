"""The file of a script's feed as it stands after a delivery: its lines, and what a load must make of them."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from feeds.contract import Csv, Drift, Feed
from harness.oracle.row_values import Row, value
from harness.replay.script import Delivery, Texts


def as_csv_feed(feed: Feed) -> Feed:
    """Return FEED as a replay without Airflow plays it: its files are CSV, and a drift of their columns is allowed."""
    drift = Drift(new_column="ignore", missing_column=feed.properties.drift.missing_column, column_order="accept")
    options = feed.properties.csv if feed.format == "csv" else Csv()
    properties = feed.properties.model_copy(update={"drift": drift, "csv": options})
    return replace(feed, format="csv", properties=properties)


def key_of(feed: Feed) -> Callable[[Texts], Texts]:
    """Return the function that returns the key of a row of FEED."""
    places = [number for number, column in enumerate(feed.columns) if column.name in feed.key]
    return lambda row: tuple(row[place] for place in places)


def row_of(feed: Feed, texts: Texts) -> Row:
    """Return the values of the row TEXTS of FEED; raise RejectedError if one is not valid."""
    return {column.name: value(column, text, feed) for column, text in zip(feed.columns, texts, strict=True)}


@dataclass(frozen=True)
class Line:
    """A line of a file and its row; None if a load must reject it whatever else is in the file."""

    texts: Texts
    row: Row | None


@dataclass
class DeliveredFile:
    """The rows that the source system has, in the order in which they first arrived."""

    feed: Feed
    rows: dict[Texts, Line] = field(default_factory=dict)  # by the key's texts

    def change(self, delivery: Delivery) -> list[Line] | None:
        """Change the rows as DELIVERY says, and return the lines of its file; None if it is missing."""
        key_in = key_of(self.feed)
        for key in delivery.withdrawn:
            self.rows.pop(key, None)
        for texts in delivery.rows:
            self.rows[key_in(texts)] = Line(texts, row_of(self.feed, texts))
        return None if delivery.file == "missing" else list(self._lines(delivery))

    def _lines(self, delivery: Delivery) -> Iterator[Line]:
        lines = list(self.rows.values())
        repeated = [self.rows[key] for key in delivery.repeated if key in self.rows]
        lines += repeated
        if delivery.file == "truncated" and lines:
            kept = min(int(delivery.cut * len(lines)), len(lines) - 1)
            yield from lines[:kept]
            yield Line(lines[kept].texts, None)
        else:
            yield from lines

    def content(self, delivery: Delivery, lines: Sequence[Line]) -> bytes:
        """Return the file of DELIVERY with LINES."""
        options = self.feed.properties.csv
        order = list(range(len(self.feed.columns)))
        if delivery.drift == "column_order":
            order.reverse()
        more = ["column_of_another_version"] if delivery.drift == "new_column" else []
        buffer = io.StringIO()
        writer = csv.writer(buffer, delimiter=options.delimiter, quotechar=options.quote, lineterminator="\n")
        writer.writerow([*(self.feed.columns[place].header for place in order), *more])
        for line in lines:
            texts = [options.null_text if text is None else text for text in line.texts]
            fields = [texts[place] for place in order] + more
            if line.row is None:  # cut within its first field
                buffer.write(fields[0][: max(len(fields[0]) // 2, 1)])
            else:
                writer.writerow(fields)
        return buffer.getvalue().encode(options.encoding)

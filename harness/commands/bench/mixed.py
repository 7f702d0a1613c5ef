r"""Measure a feed of eight mixed columns, in each format, beside `psql \copy` of the same rows as CSV."""

from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from feeds.contract import Feed, read_feed
from harness.commands.bench.common import Bench, Figure, at_least, at_most
from harness.reporting.console import Phases

CONTRACT = """
apiVersion: v3.1.0
kind: DataContract
id: orders
name: orders
version: 1.0.0
status: active
servers: [{{server: files, type: local, path: orders.csv, format: {format}}}]
customProperties:
  - {{property: timeColumn, value: ordered_at}}
schema:
  - name: orders
    properties:
      - {{name: order_id, logicalType: integer, primaryKey: true}}
      - {{name: basket, logicalType: string, required: true, logicalTypeOptions: {{format: uuid}}}}
      - {{name: customer, logicalType: string, logicalTypeOptions: {{minLength: 3, maxLength: 40}}}}
      - {{name: amount, logicalType: number, physicalType: "numeric(12,2)", required: true}}
      - {{name: quantity, logicalType: integer}}
      - {{name: is_open, logicalType: boolean, required: true}}
      - {{name: due_on, logicalType: date}}
      - {{name: ordered_at, logicalType: timestamp, required: true}}
"""
TABLE = """
    create table plain (
        order_id bigint primary key,
        basket uuid not null,
        customer text,
        amount numeric(12,2) not null,
        quantity bigint,
        is_open boolean not null,
        due_on date,
        ordered_at timestamptz not null
    )
"""
FASTEST = {"csv": 0.75, "jsonl": 0.3, "parquet": 0.6}  # the least share of psql's speed, by format
_TYPES = {
    "amount": pa.decimal128(12, 2),
    "is_open": pa.bool_(),
    "due_on": pa.date32(),
    "ordered_at": pa.timestamp("s", "UTC"),
}


def write(folder: Path, rows: int) -> dict[str, Path]:
    """Write the same ROWS in each format; return the files."""
    paths = {format_: folder / f"orders.{format_}" for format_ in FASTEST}
    with paths["csv"].open("w") as csv, paths["jsonl"].open("w") as jsonl:
        csv.write("order_id,basket,customer,amount,quantity,is_open,due_on,ordered_at\n")
        for number in range(rows):
            mixed = number * 2_654_435_761 & 0xFFFFFFFF
            basket, amount = f"6f1d7a52-9b3c-4e8f-8a2b-{mixed:012x}", f"{mixed % 1_000_000 / 100:.2f}"
            customer, quantity = ("", "") if number % 8 == 0 else (f"customer {mixed % 100_000}", str(mixed % 32))
            is_open = "true" if mixed & 1 else "false"
            due_on = f"20{10 + mixed % 20}-{1 + mixed % 12:02}-{1 + mixed % 28:02}"
            second = 3 * number % 86_400
            day, hour, minute = 1 + 3 * number // 86_400 % 31, second // 3600, second // 60 % 60
            ordered_at = f"2020-01-{day:02} {hour:02}:{minute:02}:{second % 60:02}"
            name = f'"{customer}"' if customer else "null"
            csv.write(f"{number},{basket},{customer},{amount},{quantity},{is_open},{due_on},{ordered_at}Z\n")
            jsonl.write(
                f'{{"order_id": {number}, "basket": "{basket}", "customer": {name}, "amount": {amount},'
                f' "quantity": {quantity or "null"}, "is_open": {is_open}, "due_on": "{due_on}",'
                f' "ordered_at": "{ordered_at}Z"}}\n'
            )
    options = pyarrow.csv.ConvertOptions(column_types=_TYPES, strings_can_be_null=True)
    with (
        pyarrow.csv.open_csv(paths["csv"], convert_options=options) as batches,
        pyarrow.parquet.ParquetWriter(paths["parquet"], batches.schema) as parquet,
    ):
        for batch in batches:
            parquet.write_batch(batch)
    return paths


def feed(folder: Path, format_: str) -> Feed:
    """Return the feed of the files of a format."""
    path = folder / "orders.yaml"
    path.write_text(CONTRACT.format(format=format_), encoding="utf-8")
    return read_feed(path)


def measure(bench: Bench, rows: int, rounds: int, phases: Phases) -> list[Figure]:
    """Return how fast ROWS are loaded in each format, the best of ROUNDS."""
    with phases.phase("orders made"):
        paths = write(bench.directory, rows)
    feeds = {format_: feed(bench.directory, format_) for format_ in FASTEST}
    psql_s: list[float] = []
    load_s: dict[str, list[float]] = {format_: [] for format_ in FASTEST}
    memory_mb: list[float] = []
    copy = f"\\copy plain from '{paths['csv']}' with (format csv, header)"
    for number in range(rounds):
        with phases.phase(f"orders, round {number}") as phase:
            psql_s.append(bench.psql_copy(copy, TABLE))
            for format_, path in paths.items():
                measured = bench.load_alone(feeds[format_], path)
                load_s[format_].append(measured["seconds"])
                memory_mb.append(measured["memory_mb"])
            texts = (f"{format_} {times[-1]:.1f} s" for format_, times in load_s.items())
            phase.text = f"orders: psql {psql_s[-1]:.1f} s, load: {', '.join(texts)}"
    for path in paths.values():
        path.unlink()
    figures = [Figure("eight mixed columns, psql \\copy", round(rows / min(psql_s)), "rows/s")]
    for format_, least in FASTEST.items():
        seconds = min(load_s[format_])
        figures.append(Figure(f"eight mixed columns, load of {format_}", round(rows / seconds), "rows/s"))
        figures.append(at_least(f"load of {format_} against psql \\copy of CSV", min(psql_s) / seconds, least))
    figures.append(at_most("memory of these loads, at their peak", max(memory_mb), 200, "MB"))
    return figures

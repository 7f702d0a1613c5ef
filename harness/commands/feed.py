"""Make a feed of your own file, check contracts, and load rejected rows that have become valid."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from feeds.contract import CONTRACTS, FEED_NAME, OWN_TABLES, Feed, read_feed
from feeds.uri import shown
from harness.errors import UsageError
from harness.pipeline.inference import Guess, guess
from harness.project.paths import ROOT, from_root
from harness.reporting.console import say
from harness.reporting.summary import Section

DATA = ROOT / "airflow" / "data"
STAGING = ROOT / "dbt" / "models" / "staging"
SAMPLE_ROWS = 1_000
DBT_TYPES = {"timestamp with time zone": "timestamptz"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `nox -s feed`."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="COMMAND")
    new = commands.add_parser("new", help="make a feed: its contract, a sample, and a staging model", allow_abbrev=False)
    new.add_argument("name", metavar="NAME", help="of the feed and of its table, raw.NAME")
    new.add_argument("--from", dest="source", required=True, metavar="URI", help="a file of it, a path or any fsspec URI")
    new.set_defaults(run=run_new)
    check = commands.add_parser("check", help="check every contract", allow_abbrev=False)
    check.set_defaults(run=run_check)


def run_new(parsed: argparse.Namespace, section: Section) -> None:
    """Write the files of a new feed, and say what was guessed."""
    name: str = parsed.name
    if not FEED_NAME.fullmatch(name) or name in OWN_TABLES:
        raise UsageError(
            f"A feed cannot be named {name!r}.",
            "Its name is also that of its table and of its DAGs.",
            "Use at most 30 of a-z, 0-9 and _, a letter first, such as: orders",
        )
    contract, sql, yml = CONTRACTS / f"{name}.yaml", STAGING / f"stg_{name}.sql", STAGING / f"stg_{name}.yml"
    for path in (contract, sql, yml):
        if path.exists():
            raise UsageError(
                f"{from_root(path)} is there already.",
                "A feed of this name exists, and its files are not overwritten.",
                f"Use another name, or remove the feed's files first: git rm {from_root(path)}",
            )
    found = guess(parsed.source)
    sample = write_sample(parsed.source, name, found)
    contract.write_text("\n".join(contract_lines(name, found, from_root(sample))) + "\n", encoding="utf-8")
    feed = read_feed(contract)  # what was written is valid, or this is a defect
    sql.write_text(staging_sql(feed), encoding="utf-8")
    yml.write_text(staging_yml(feed), encoding="utf-8")
    for path in (contract, sql, yml, sample):
        say(f"✓ {from_root(path)} written")
    say(f"\nGuessed from {found.rows:,} rows of {shown(parsed.source)}; correct it in {from_root(contract)}:")
    for about, note in found.notes.items():
        say(f"  {about}: {note}")
    say(f"\n  run its pipelines: nox -s e2e -- --target embedded\n  check its contract: nox -s feed -- check")


def run_check(_parsed: argparse.Namespace, _section: Section) -> None:
    """Read every contract."""
    for path in sorted(CONTRACTS.glob("*.yaml")):
        feed = read_feed(path)
        say(f"✓ {from_root(path)}: {len(feed.columns)} columns, version {feed.version}")


def write_sample(uri: str, name: str, found: Guess) -> Path:
    """Write the first rows of the file at URI beside the other samples, and return the path."""
    from feeds.source import open_source  # noqa: PLC0415

    suffix = {"csv": "csv", "jsonl": "jsonl", "parquet": "parquet"}[found.format]
    path = DATA / f"{name}.{suffix}"
    with open_source(uri) as source, path.open("wb") as file:
        if found.format == "parquet":
            import pyarrow.parquet as pq  # noqa: PLC0415

            table = pq.ParquetFile(source.file)
            batch = next(table.iter_batches(SAMPLE_ROWS))
            with pq.ParquetWriter(file, table.schema_arrow) as writer:
                writer.write_batch(batch)
            return path
        left = SAMPLE_ROWS
        for block in source.blocks:
            lines = block.splitlines(keepends=True)[:left]
            file.writelines(lines)
            if (left := left - len(lines)) <= 0:
                break
    return path


def contract_lines(name: str, found: Guess, path: str) -> Iterator[str]:
    """Yield the lines of the contract."""
    yield f"# {name}, guessed from a file: look at each comment. docs/contracts.md describes each field."
    yield "apiVersion: v3.1.0"
    yield "kind: DataContract"
    yield f"id: {name}"
    yield f"name: {name}"
    yield "version: 1.0.0"
    yield "status: draft"
    yield "servers:"
    yield "  - server: files"
    yield "    type: local"
    yield f"    path: {path} # the files: a path, a pattern or a URI"
    yield f"    format: {found.format}"
    if delimiter := found.csv.get("delimiter"):
        yield f"    delimiter: {json.dumps(delimiter)}"
    yield "customProperties:"
    if found.time_column:
        yield f"  - {{property: timeColumn, value: {found.time_column}}} # {found.notes['time']}"
    else:
        yield f"  # {found.notes['time']}"
    options = {key: value for key, value in found.csv.items() if key != "delimiter"}
    if options:
        yield f"  - {{property: csv, value: {json.dumps(options)}}}"
    yield "  - {property: cadences, value: [daily]}"
    yield "schema:"
    yield f"  - name: {name}"
    yield "    physicalType: file"
    yield "    properties:"
    for column in found.columns:
        note = found.notes.get(column.name)
        yield f"      - name: {column.name}{f' # {note}' if note else ''}"
        logical = {"uuid": "string", "json": "object"}.get(column.type, column.type)
        yield f"        logicalType: {logical}"
        if column.type == "uuid":
            yield "        logicalTypeOptions: {format: uuid}"
        if column.type == "number" and column.digits:
            yield f"        physicalType: {column.sql_type}"
        if column.is_required:
            yield "        required: true"
        if column.name in found.key:
            yield f"        primaryKey: true # {found.notes['key']}"
            if len(found.key) > 1:
                yield f"        primaryKeyPosition: {found.key.index(column.name) + 1}"
        if column.header != column.name:
            yield f"        customProperties: [{{property: header, value: {json.dumps(column.header)}}}]"


def staging_sql(feed: Feed) -> str:
    """Return the staging model of FEED, which renames nothing yet."""
    names = ",\n        ".join([*(column.name for column in feed.columns), "load_id"])
    return (
        f"with\n\n{feed.name} as (\n\n    select\n        {names}\n\n    from {{{{ source('raw', '{feed.name}') }}}}\n\n)\n\n"
        f"select * from {feed.name}\n"
    )


def staging_yml(feed: Feed) -> str:
    """Return the yml of the staging model, with the source that it reads."""
    key = ", ".join(feed.key)
    lines = [
        "sources:",
        "  - name: raw",
        "    tables:",
        f"      - name: {feed.name}",
        f"        description: The rows that loads wrote, as airflow/feeds/{feed.name}.yaml says they are.",
        "",
        "models:",
        f"  - name: stg_{feed.name}",
        f"    description: One row per {key}.",
        "    config:",
        "      contract:",
        "        enforced: true",
        "    columns:",
    ]
    for column in feed.columns:
        lines += [f"      - name: {column.name}", f"        data_type: {DBT_TYPES.get(column.sql_type, column.sql_type)}"]
        tests = ["not_null"] if column.is_required else []
        tests += ["unique"] if feed.key == (column.name,) else []
        if tests:
            lines += ["        data_tests:", *(f"          - {test}" for test in sorted(tests, reverse=True))]
    lines += ["      - name: load_id", "        description: The load that wrote the row.", "        data_type: bigint"]
    return "\n".join(lines) + "\n"

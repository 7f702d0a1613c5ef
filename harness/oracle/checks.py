"""Compare a warehouse with the numbers expected of it, and with itself before and after a second run."""

import csv
import hashlib
from dataclasses import dataclass
from decimal import Decimal
from operator import attrgetter
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from feeds.contract import Feed
from harness.oracle import raw_rows
from harness.oracle.expected_numbers import COLUMNS, Expected, ExpectedMarts, Rows
from harness.oracle.raw_rows import RawRows
from harness.project.paths import ROOT, from_root

EXPECTED = ROOT / "dbt" / "tests" / "expected"  # the rows that models must have of the samples

# All tables and views but partitions and what tells of loads, with their columns; what has no hash counts as text.
TABLES = """
    select
        nspname, relname, string_agg(attname, ', ' order by attnum),
        string_agg(
            format(
                case when exists (
                    select from pg_opclass join pg_am on pg_am.oid = opcmethod
                    where amname = 'hash' and opcdefault and opcintype = atttypid
                ) then '%I' else '%I::text' end, attname
            ), ', ' order by attnum
        ) filter (where attname <> 'load_id')
    from pg_class
    join pg_namespace on pg_namespace.oid = relnamespace
    join pg_attribute on attrelid = pg_class.oid and attnum > 0 and not attisdropped
    where relkind in ('r', 'p', 'v', 'm') and not relispartition
        and nspname <> 'information_schema' and nspname !~ '^pg_'
        and (nspname, relname) not in (
            ('raw', 'loads'), ('raw', 'loaded_days'), ('raw', 'loaded_files'), ('raw', 'partitions'),
            ('raw', 'snapshot_days')
        )
        and relname not in ('stg_loads', 'stg_loaded_days', 'stg_loaded_files', 'feed_days', 'model_state')
        -- A history changes with the day of a load.
        and not (nspname = 'raw' and relname in (select feed || '_history' from raw.snapshot_days))
        and pg_class.oid not in (select table_id from raw.partitions)  -- replaced ones, which the next load drops
    group by nspname, relname
    having bool_or(attname <> 'load_id')
    order by nspname, relname
"""


@dataclass(frozen=True)
class Check:
    """One comparison of an expected value with the actual one."""

    name: str
    expected: object
    actual: object
    passed: bool


def compare(expected: Expected, conn: psycopg.Connection[Any]) -> list[Check]:
    """Compare EXPECTED with the warehouse behind CONN, whose role may read `raw` and the models.

    A table that does not exist has None rows; then only the numbers of rows are compared.
    """
    counts = {table: count_rows(conn, table) for table in expected.rows}
    checks = [equal(f"rows of {table}", rows, counts[table]) for table, rows in expected.rows.items()]
    if None in counts.values():
        return checks
    for feed, rows in expected.feeds.items():
        checks += compare_raw(feed, rows, raw_rows.actual(feed, conn))
        if feed.properties.history:
            checks.append(compare_history(feed, conn))
    if expected.marts:
        checks += compare_marts(expected.marts, conn)
    return checks


def compare_raw(feed: Feed, expected: RawRows, actual: RawRows) -> list[Check]:
    """Compare the rows of FEED's raw table and of its quarantine with the EXPECTED ones."""
    figures = {"sum": attrgetter("sums"), "smallest": attrgetter("smallest"), "largest": attrgetter("largest")}
    return [
        *(
            equal(
                f"{name} of raw.{feed.name}.{column.name}", of(expected).get(column.name), of(actual).get(column.name)
            )
            for name, of in figures.items()
            for column in feed.columns
            if column.name in of(expected) or column.name in of(actual)
        ),
        equal(f"digest of raw.{feed.name}", expected.digest, actual.digest),
        equal(f"rejected rows of {feed.name}", expected.rejected.total(), actual.rejected.total()),
        *(
            equal(f"rejected rows of {feed.name}: {reason}", expected.rejected[reason], actual.rejected[reason])
            for reason in sorted(expected.rejected.keys() | actual.rejected.keys(), key=str)
        ),
    ]


def compare_history(feed: Feed, conn: psycopg.Connection[Any]) -> Check:
    """Check that the rows of FEED's history that hold today are those of its raw table, each once."""
    columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in feed.columns)
    table = sql.SQL("select {} from {}").format(columns, sql.Identifier("raw", feed.name))
    history = sql.SQL("select {} from {} where valid_to is null").format(
        columns, sql.Identifier("raw", f"{feed.name}_history")
    )
    query = sql.SQL("select count(*) from (({0} except all {1}) union all ({1} except all {0})) as different")
    [(count,)] = conn.execute(query.format(table, history))
    return equal(f"rows that raw.{feed.name} and its history do not share", 0, count)


def compare_marts(expected: ExpectedMarts, conn: psycopg.Connection[Any]) -> list[Check]:
    """Compare the marketplace's marts with the EXPECTED ones."""
    query = "select coalesce(sum(service_lead_fee), 0), count(distinct service_id) from fact.fct_events"
    [(fees, services)] = conn.execute(query)
    [(professionals,)] = conn.execute("select count(distinct professional_id) from staging.stg_events")
    return [
        # A float would be equal by value.
        Check("sum of lead fees", expected.lead_fees, fees, isinstance(fees, Decimal) and fees == expected.lead_fees),
        equal("services in fct_events", expected.rows["dim.dim_services"], services),
        equal("professionals in stg_events", expected.rows["dim.dim_professionals"], professionals),
        *(compare_rows(table, rows, select(conn, table)) for table, rows in expected.content.items()),
    ]


def count_rows(conn: psycopg.Connection[Any], table: str) -> int | None:
    """Return the number of rows of TABLE, given as schema.name, or None if it does not exist."""
    if conn.execute("select to_regclass(%s)", [table]).fetchone() == (None,):
        return None
    [(count,)] = conn.execute(sql.SQL("select count(*) from {}").format(sql.Identifier(*table.split("."))))
    return int(count)


def select(conn: psycopg.Connection[Any], mart: str, prefix: str = "") -> list[tuple[Any, ...]]:
    """Return the rows of MART, its columns in the order of COLUMNS; its schema's name has PREFIX before it."""
    columns = sql.SQL(", ").join(map(sql.Identifier, COLUMNS[mart]))
    query = sql.SQL("select {} from {}").format(columns, sql.Identifier(*f"{prefix}{mart}".split(".")))
    return conn.execute(query).fetchall()


def equal(name: str, expected: object, actual: object) -> Check:
    """Return the check that ACTUAL equals EXPECTED."""
    return Check(name, expected, actual, expected == actual)


def compare_rows(table: str, expected: Rows, rows: list[tuple[Any, ...]]) -> Check:
    """Return the check that ROWS of TABLE are EXPECTED, each once; it shows the first that either side lacks."""
    name = f"content of {table}"
    found = set(rows)
    if found == expected and len(rows) == len(expected):
        return Check(name, f"{len(rows)} rows", f"{len(rows)} rows", True)

    def describe(these: Rows, others: Rows, count: int) -> str:
        different = sorted(these - others, key=str)
        first = [f", {len(different)} different: {', '.join(map(str, row))}" for row in different[:1]]
        return f"{count} rows" + "".join(first)

    return Check(name, describe(expected, found, len(expected)), describe(found, expected, len(rows)), False)


def fingerprint(conn: psycopg.Connection[Any]) -> dict[str, str]:
    """Return a hash of the content of each table and view, the ledger's aside, whatever the order of its rows.

    The column `load_id` is left out: a second load of the same rows has another. Hashes are comparable within one
    server only. Their sum keeps memory flat and, unlike an exclusive or, differs where a row occurs twice. Raises
    psycopg.errors.UndefinedTable before the first load.
    """
    fingerprints = {}
    for schema, table, columns, hashed in conn.execute(TABLES):
        query = sql.SQL("select count(*), coalesce(sum(hash_record_extended(row({}), 0)), 0) from {}").format(
            sql.SQL(hashed), sql.Identifier(schema, table)
        )
        rows, total = conn.execute(query).fetchone() or (0, 0)
        fingerprints[f"{schema}.{table}"] = hashlib.sha256(f"{columns}; {rows} rows; {total}".encode()).hexdigest()
    return fingerprints


def compare_files(conn: psycopg.Connection[Any], folder: Path = EXPECTED) -> list[Check]:
    """Compare the models of which FOLDER has the expected rows, `<model>.csv` with the columns that count."""
    return [compare_file(conn, path) for path in sorted(folder.glob("*.csv"))]


def compare_file(conn: psycopg.Connection[Any], path: Path) -> Check:
    """Compare a model with its expected rows at PATH; the first that only one side has is shown."""
    name = f"rows of {path.stem} in {from_root(path)}"
    query = "select nspname from pg_class join pg_namespace on pg_namespace.oid = relnamespace where relname = %s"
    found = conn.execute(f"{query} and nspname <> 'raw' and relkind in ('r', 'p', 'v', 'm')", (path.stem,)).fetchone()
    if not found:
        return Check(name, "a model", "no model of this name", passed=False)
    with path.open(encoding="utf-8", newline="") as file:
        columns = sql.SQL(", ").join(map(sql.Identifier, next(csv.reader(file), [])))
    model = sql.SQL("select {} from {}").format(columns, sql.Identifier(found[0], path.stem))
    with conn.transaction(force_rollback=True):
        try:
            conn.execute(sql.SQL("create temporary table expected on commit drop as {} limit 0").format(model))
            with conn.cursor().copy("copy expected from stdin (format csv, header)") as copied:
                copied.write(path.read_bytes())
        except psycopg.Error as error:
            return Check(name, "rows", str(error).splitlines()[0], passed=False)
        sides = [sql.SQL("table pg_temp.expected"), model]
        counts, firsts = [], []
        for these, others in (sides, sides[::-1]):
            [(count,)] = conn.execute(sql.SQL("select count(*) from ({}) as rows").format(these))
            only = conn.execute(sql.SQL("{} except all {} limit 1").format(these, others)).fetchone()
            counts.append(f"{count} rows")
            firsts.append(f", only here: {', '.join(map(str, only))}" if only else "")
    return Check(name, counts[0] + firsts[0], counts[1] + firsts[1], passed=not any(firsts))

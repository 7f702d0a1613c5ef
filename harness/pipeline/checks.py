"""Compare a warehouse with the numbers expected of it, and with itself before and after a second run."""

import hashlib
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg
from psycopg import sql

from harness.pipeline.expected_numbers import COLUMNS, TABLES, Expected, Rows


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
    counts = {table: count_rows(conn, table) for table in TABLES}
    checks = [equal(f"rows of {table}", expected.rows[table], counts[table]) for table in TABLES]
    if None in counts.values():
        return checks

    query = "select coalesce(sum(service_lead_fee), 0), count(distinct service_id) from fact.fct_events"
    [(fees, services)] = conn.execute(query)
    [(professionals,)] = conn.execute("select count(distinct professional_id) from staging.stg_events")
    checks += [
        # A float would be equal by value.
        Check("sum of lead fees", expected.lead_fees, fees, isinstance(fees, Decimal) and fees == expected.lead_fees),
        equal("services in fct_events", expected.rows["dim.dim_services"], services),
        equal("professionals in stg_events", expected.rows["dim.dim_professionals"], professionals),
    ]
    checks += [compare_rows(table, rows, select(conn, table)) for table, rows in expected.content.items()]
    reasons = dict(conn.execute("select reason, count(*) from raw.rejected_events group by reason").fetchall())
    checks.append(equal("rejected rows", expected.rejected, sum(reasons.values())))
    checks += [
        equal(f"rejected rows: {reason}", expected.rejected_by_reason.get(reason, 0), reasons.get(reason, 0))
        for reason in sorted(expected.rejected_by_reason.keys() | reasons.keys())
    ]
    return checks


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
    """Return a hash of each table's content, whatever the order of its rows; the column `load_id` is left out.

    Hashes are comparable within one server only. Their sum keeps memory flat and, unlike an exclusive or, differs where
    a row occurs twice. Raises psycopg.errors.UndefinedTable if a table does not exist.
    """
    fingerprints = {}
    for table in TABLES:
        name = sql.Identifier(*table.split("."))
        columns = conn.execute(sql.SQL("select * from {} limit 0").format(name)).description or []
        content = sql.SQL(", ").join(sql.Identifier(column.name) for column in columns if column.name != "load_id")
        query = sql.SQL("select count(*), coalesce(sum(hash_record_extended(row({}), 0)), 0) from {}").format(
            content, name
        )
        rows, total = conn.execute(query).fetchone() or (0, 0)
        names = ", ".join(column.name for column in columns)
        fingerprints[table] = hashlib.sha256(f"{names}; {rows} rows; {total}".encode()).hexdigest()
    return fingerprints

"""Two databases of one server, as a base's and a branch's, and how tables of both are compared."""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from harness.diff.pairing import Comparison, Table, prepare
from harness.diff.results import Rows
from harness.diff.rows import compare_rows
from harness.diff.values import columns_of
from harness.warehouse.roles import Warehouse, create_warehouse, drop_warehouse
from harness.warehouse.server import Server


@dataclass
class Databases:
    """Connections to both, and the comparisons of their tables."""

    base: psycopg.Connection[Any]
    branch: psycopg.Connection[Any]

    def both(self, statements: str) -> None:
        """Run STATEMENTS in both databases."""
        for connection in (self.base, self.branch):
            connection.execute(statements.encode())

    def prepared(
        self,
        table: str,
        key: Sequence[str] = (),
        branch_key: Sequence[str] | None = None,
        *,
        schema: str = "compared",
        is_unique: bool = False,
    ) -> Comparison:
        """Return the comparison of TABLE by KEY, ready to be made."""
        base, branch = (
            Table(schema, table, columns_of(connection, schema, table), tuple(columns), is_unique)
            for connection, columns in (
                (self.base, key),
                (self.branch, key if branch_key is None else branch_key),
            )
        )
        return prepare(base, branch, self.base, self.branch)

    def compare(self, table: str, *keys: Sequence[str], is_unique: bool = False) -> Rows:
        """Compare the rows of TABLE by the base's key, and the branch's if it is another."""
        return compare_rows(self.prepared(table, *keys, is_unique=is_unique))

    def made(self, base: str, branch: str, *keys: Sequence[str]) -> Rows:
        """Make table `t` in each database by a query or a list of columns, and compare them."""
        for connection, definition in ((self.base, base), (self.branch, branch)):
            connection.execute("drop table if exists compared.t")
            connection.execute(f"create table compared.t {definition}".encode())
        return self.compare("t", *keys)


@pytest.fixture(scope="session")
def diff_warehouses(server: Server, passwords: dict[str, str]) -> Iterator[list[Warehouse]]:
    """Give two empty warehouses."""
    suffix = secrets.token_hex(4)
    warehouses = [create_warehouse(server, f"diff_{side}_{suffix}", passwords) for side in ("base", "branch")]
    yield warehouses
    for warehouse in warehouses:
        drop_warehouse(warehouse)


@pytest.fixture
def databases(diff_warehouses: list[Warehouse]) -> Iterator[Databases]:
    """Give both databases, each with an empty schema `compared`."""
    base, branch = diff_warehouses
    with (
        psycopg.connect(base.admin_dsn, autocommit=True) as base_connection,
        psycopg.connect(branch.admin_dsn, autocommit=True) as branch_connection,
    ):
        found = Databases(base_connection, branch_connection)
        found.both("create schema compared")
        yield found
        found.both("set client_min_messages = error; drop schema compared cascade")

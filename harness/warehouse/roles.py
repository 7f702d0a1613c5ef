"""Make the databases and the three roles that every target and test uses.

| role          | may |
| ------------- | --- |
| `loader`      | owns the schema `raw` |
| `transformer` | reads `raw`, makes and owns the models' schemas |
| `reader`      | uses the models' schemas; dbt grants it `select` on the marts |
"""

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from harness.warehouse import server as postgres
from harness.warehouse.server import Server, url

ROLES = ("loader", "transformer", "reader")
MARK = "made by events-platform"  # the comment of each database and role: a name alone does not say whose it is


@dataclass(frozen=True)
class Warehouse:
    """One warehouse database on a server, with a login for each role."""

    server: Server
    database: str
    passwords: dict[str, str] = field(repr=False)

    def role(self, name: str) -> str:
        """Return the name that the role NAME has on this server."""
        return f"{name}{self.server.suffix}"

    def dsn(self, role: str) -> str:
        """Return the connection URL of ROLE, one of ROLES."""
        return url(self.role(role), self.passwords[role], self.server.host, self.server.port, self.database)

    @property
    def loader_dsn(self) -> str:
        """The connection URL of the role that loads."""
        return self.dsn("loader")

    @property
    def transformer_dsn(self) -> str:
        """The connection URL of the role that dbt uses."""
        return self.dsn("transformer")

    @property
    def reader_dsn(self) -> str:
        """The connection URL of the role for the marts' readers."""
        return self.dsn("reader")

    @property
    def admin_dsn(self) -> str:
        """The connection URL of the server's administrator to this database."""
        return url(self.server.user, self.server.password, self.server.host, self.server.port, self.database)

    def dbt_env(self) -> dict[str, str]:
        """Return the environment variables that `dbt/profiles.yml` reads."""
        return {
            "WAREHOUSE_HOST": self.server.host,
            "WAREHOUSE_PORT": str(self.server.port),
            "WAREHOUSE_DATABASE": self.database,
            "WAREHOUSE_USER": self.role("transformer"),
            "WAREHOUSE_READER": self.role("reader"),
            "DBT_ENV_SECRET_WAREHOUSE_PASSWORD": self.passwords["transformer"],
        }


def make_passwords() -> dict[str, str]:
    """Return a fresh password for each role."""
    return {role: secrets.token_urlsafe(24) for role in ROLES}


def create_warehouse(server: Server, database: str, passwords: dict[str, str]) -> Warehouse:
    """Make the database DATABASE and the roles, as far as they are missing; every role gets its password."""
    warehouse = Warehouse(server, f"{database}{server.suffix}", passwords)
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        for role in ROLES:
            create_role(connection, warehouse.role(role), passwords[role])
        create_database(connection, warehouse.database)
    names = {role: sql.Identifier(warehouse.role(role)) for role in ROLES} | {
        "database": sql.Identifier(warehouse.database)
    }
    statements = """
        revoke all on database {database} from public;
        revoke all on schema public from public;
        grant connect on database {database} to {loader}, {transformer}, {reader};
        grant temporary on database {database} to {loader}, {transformer};
        grant create on database {database} to {transformer};
        create schema if not exists raw authorization {loader};
        grant usage on schema raw to {transformer};
        alter default privileges for role {loader} in schema raw grant select on tables to {transformer};
        alter default privileges for role {transformer} grant usage on schemas to {reader};
    """
    with psycopg.connect(warehouse.admin_dsn) as connection:
        for role in ("loader", "transformer"):  # an administrator who is not a superuser acts as a role by being in it
            connection.execute(sql.SQL("grant {} to current_user").format(names[role]))
        connection.execute(sql.SQL(statements).format(**names))
    return warehouse


def drop_warehouse(warehouse: Warehouse) -> None:
    """Drop the database, connections to it included; the roles stay."""
    with psycopg.connect(warehouse.server.dsn, autocommit=True) as connection:
        statement = sql.SQL("drop database if exists {} with (force)")
        connection.execute(statement.format(sql.Identifier(warehouse.database)))


@contextlib.contextmanager
def ephemeral_server(dsn: str | None = None, *, keep: bool = False) -> Iterator[Server]:
    """Have a server for warehouses as `postgres.ephemeral` gives it; on one that is not ours nothing is left."""
    with postgres.ephemeral(dsn, keep=keep) as server:
        try:
            yield server
        finally:
            if server.suffix:
                drop_all(server)


def drop_all(server: Server) -> None:
    """Drop every database and role that was made on a server that is not ours: those with its suffix and our mark.

    Raises:
        ValueError: the server has no suffix, which every name would end with.
    """
    if not server.suffix:
        raise ValueError("without a suffix everything on the server would be dropped")
    ours = {"length": len(server.suffix), "suffix": server.suffix, "mark": MARK}
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        found = connection.execute(
            "select datname from pg_database where right(datname, %(length)s) = %(suffix)s"
            " and shobj_description(oid, 'pg_database') = %(mark)s",
            ours,
        )
        for (name,) in found.fetchall():
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
        found = connection.execute(
            "select rolname from pg_roles where right(rolname, %(length)s) = %(suffix)s"
            " and shobj_description(oid, 'pg_authid') = %(mark)s",
            ours,
        )
        for (name,) in found.fetchall():
            connection.execute(sql.SQL("drop role if exists {}").format(sql.Identifier(name)))


def create_metadata_database(server: Server, password: str, host: str, port: int) -> str:
    """Make Airflow's own database and role, and return SQLAlchemy's URL of it at HOST and PORT, as Airflow sees it."""
    name = f"airflow{server.suffix}"
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        create_role(connection, name, password)
        # An administrator who is not a superuser gives a database away as a member of the role that gets it.
        connection.execute(sql.SQL("grant {} to current_user").format(sql.Identifier(name)))
        create_database(connection, name, owner=name)
    return url(name, password, host, port, name).replace("postgresql://", "postgresql+psycopg2://", 1)


def create_role(connection: psycopg.Connection, name: str, password: str) -> None:
    """Make the login role NAME if it is missing, and give it PASSWORD and UTC."""
    role = sql.Identifier(name)
    if not connection.execute("select 1 from pg_roles where rolname = %s", (name,)).fetchone():
        connection.execute(sql.SQL("create role {}; comment on role {} is {}").format(role, role, MARK))
    connection.execute(sql.SQL("alter role {} login password {}").format(role, sql.Literal(password)))
    connection.execute(sql.SQL("alter role {} set timezone = 'UTC'").format(role))


def create_database(connection: psycopg.Connection, name: str, owner: str | None = None) -> None:
    """Make the database NAME, if it is missing, with the built-in C.UTF-8 locale, owned by the role OWNER."""
    if connection.execute("select 1 from pg_database where datname = %s", (name,)).fetchone():
        return
    statement = sql.SQL(
        "create database {} template template0 encoding 'UTF8' locale_provider builtin builtin_locale 'C.UTF-8'"
    ).format(sql.Identifier(name))
    if owner:
        statement += sql.SQL(" owner {}").format(sql.Identifier(owner))
    connection.execute(statement)
    connection.execute(sql.SQL("comment on database {} is {}").format(sql.Identifier(name), MARK))

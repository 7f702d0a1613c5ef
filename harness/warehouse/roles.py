"""The warehouse's database and its three roles (docs/architecture.md), the same on every target and in every test."""

import secrets
from dataclasses import dataclass, field, replace

import psycopg
from psycopg import sql

from feeds.contract import read_feeds
from feeds.dsn import connection_url
from feeds.tables import create_tables
from harness.warehouse.server import Server

ROLES = ("loader", "transformer", "reader")
LEDGER_FIGURES = (  # the columns of raw.loads without what files and failures are called
    *("load_id", "feed", "status", "started_at", "ended_at", "seconds", "same_as_load_id", "transaction_id"),
    *("rows_read", "rows_loaded", "rows_rejected", "rows_outside"),
)
MARK = "made by events-platform"  # the comment on each database and role that the project made: only these are dropped


@dataclass(frozen=True)
class Warehouse:
    """One warehouse database on a server, with a login for each role."""

    server: Server
    database: str
    passwords: dict[str, str] = field(repr=False)

    def role(self, name: str) -> str:
        """Return the name of the role NAME on this server."""
        return f"{name}{self.server.suffix}"

    def dsn(self, role: str) -> str:
        """Return the connection URL of ROLE, one of ROLES."""
        return self.server.url(self.role(role), self.passwords[role], self.database)

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
        return self.server.url(self.server.user, self.server.password, self.database)

    def dbt_env(self) -> dict[str, str]:
        """Return the environment variables that `dbt/profiles.yml` reads."""
        return {
            "WAREHOUSE_HOST": self.server.host,
            "WAREHOUSE_PORT": str(self.server.port),
            "WAREHOUSE_DATABASE": self.database,
            "WAREHOUSE_USER": self.role("transformer"),
            "WAREHOUSE_READER": self.role("reader"),
            "DBT_ENV_SECRET_WAREHOUSE_PASSWORD": self.passwords["transformer"],
            **self.server.tls_env,
        }


def make_passwords() -> dict[str, str]:
    """Return a fresh password for each role."""
    return {role: secrets.token_urlsafe(24) for role in ROLES}


def create_warehouse(server: Server, database: str, passwords: dict[str, str]) -> Warehouse:
    """Make the database and the roles that are missing, and set every role's password."""
    warehouse = Warehouse(server, f"{database}{server.suffix}", passwords)
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        for role in ROLES:
            create_role(connection, warehouse.role(role), passwords[role])
        create_database(connection, warehouse.database)
        grant_database(connection, warehouse)
    names = {role: sql.Identifier(warehouse.role(role)) for role in ROLES}
    statements = """
        revoke all on schema public from public;
        create schema if not exists raw authorization {loader};
        grant usage on schema raw to {transformer};
        alter default privileges for role {loader} in schema raw grant select on tables to {transformer};
        alter default privileges for role {transformer} grant usage on schemas to {reader};
    """
    with psycopg.connect(warehouse.admin_dsn) as connection:
        for role in ROLES:  # an administrator who is no superuser needs membership, also to end their connections
            connection.execute(sql.SQL("grant {} to current_user").format(names[role]))
        connection.execute(sql.SQL(statements).format(**names))
    return warehouse


def let_reader_see_ledger(warehouse: Warehouse) -> None:
    """Let the reader select figures from the ledger, which is made if it is missing, and nothing else of `raw`.

    Metrics are read so. The state of the models, the other table that they need, is granted by dbt. Raises FeedError
    as `feeds.tables.create_tables` does.
    """
    feed = next(iter(read_feeds().values()))
    create_tables(warehouse.loader_dsn, feed)
    statement = sql.SQL("grant usage on schema raw to {role}; grant select ({columns}) on raw.loads to {role}")
    columns, role = sql.SQL(", ").join(map(sql.Identifier, LEDGER_FIGURES)), sql.Identifier(warehouse.role("reader"))
    with psycopg.connect(warehouse.loader_dsn) as connection:
        connection.execute(statement.format(columns=columns, role=role))


def grant_database(connection: psycopg.Connection, warehouse: Warehouse) -> None:
    """Give the roles their privileges on the database."""
    names = {role: sql.Identifier(warehouse.role(role)) for role in ROLES}
    statements = """
        revoke all on database {database} from public;
        grant connect on database {database} to {loader}, {transformer}, {reader};
        grant temporary on database {database} to {loader}, {transformer};
        grant create on database {database} to {transformer}
    """
    database = sql.Identifier(warehouse.database)
    connection.execute(sql.SQL(statements).format(database=database, **names))


def copy_warehouse(template: Warehouse, database: str) -> Warehouse:
    """Make the database as a copy of TEMPLATE, to which nobody may be connected: for tests, since it is faster."""
    warehouse = replace(template, database=f"{database}{template.server.suffix}")
    names = map(sql.Identifier, (warehouse.database, template.database))
    with psycopg.connect(template.server.dsn, autocommit=True) as connection:
        strategy = "strategy file_copy" if connection.info.server_version >= 150_000 else ""  # before, the only one
        connection.execute(sql.SQL(f"create database {{}} template {{}} {strategy}").format(*names))
        connection.execute(sql.SQL("comment on database {} is {}").format(sql.Identifier(warehouse.database), MARK))
        grant_database(connection, warehouse)  # privileges on a database are not copied
    return warehouse


def drop_warehouse(warehouse: Warehouse) -> None:
    """Drop the database and end its connections; the roles stay."""
    with psycopg.connect(warehouse.server.dsn, autocommit=True) as connection:
        statement = sql.SQL("drop database if exists {} with (force)")
        connection.execute(statement.format(sql.Identifier(warehouse.database)))


def made_databases(server: Server) -> dict[str, str]:
    """Return the databases that the project made on a given server, by name, with their size for people."""
    query = (
        "select datname, pg_size_pretty(pg_database_size(oid)) from pg_database"
        " where right(datname, %s) = %s and shobj_description(oid, 'pg_database') = %s order by datname"
    )
    with psycopg.connect(server.dsn) as connection:
        return dict(connection.execute(query, (len(server.suffix), server.suffix, MARK)).fetchall())


def drop_all(server: Server) -> None:
    """Drop what the project made on a given server: its suffix and MARK tell. Raises ValueError without a suffix."""
    if not server.suffix:
        raise ValueError("without a suffix everything on the server would be dropped")
    query = "select {name} from {view} where right({name}, %s) = %s and shobj_description(oid, %s) = %s"
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        for view, name, catalog, drop in (  # databases first: a role that owns one cannot be dropped
            ("pg_database", "datname", "pg_database", "drop database if exists {} with (force)"),
            ("pg_roles", "rolname", "pg_authid", "drop role if exists {}"),
        ):
            statement = sql.SQL(query).format(name=sql.Identifier(name), view=sql.Identifier(view))
            found = connection.execute(statement, (len(server.suffix), server.suffix, catalog, MARK))
            for (made,) in found.fetchall():
                connection.execute(sql.SQL(drop).format(sql.Identifier(made)))


def create_metadata_database(server: Server, password: str, host: str, port: int) -> str:
    """Make Airflow's metadata database and role; return its SQLAlchemy URL at HOST and PORT, as Airflow reaches it.

    TLS is not in the URL: Airflow has a second driver for it, asyncpg, which reads only `Server.tls_env`.
    """
    name = f"airflow{server.suffix}"
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        create_role(connection, name, password)
        # To make a database owned by another role, an administrator who is no superuser must be a member of that role.
        connection.execute(sql.SQL("grant {} to current_user").format(sql.Identifier(name)))
        create_database(connection, name, owner=name)
    return connection_url(name, password, host, port, name).replace("postgresql://", "postgresql+psycopg2://", 1)


def create_role(connection: psycopg.Connection, name: str, password: str) -> None:
    """Make the login role NAME if it is missing, and set its password and time zone, UTC."""
    role = sql.Identifier(name)
    if not connection.execute("select 1 from pg_roles where rolname = %s", (name,)).fetchone():
        connection.execute(sql.SQL("create role {}; comment on role {} is {}").format(role, role, MARK))
    connection.execute(sql.SQL("alter role {} login password {}").format(role, sql.Literal(password)))
    connection.execute(sql.SQL("alter role {} set timezone = 'UTC'").format(role))


def create_database(connection: psycopg.Connection, name: str, owner: str | None = None) -> None:
    """Make the database NAME if it is missing, owned by the role OWNER; text sorts by code point on every version."""
    if connection.execute("select 1 from pg_database where datname = %s", (name,)).fetchone():
        return
    # Before 17 there is no built-in locale; what is a letter then depends on the server's default.
    is_new = connection.info.server_version >= 170_000
    locale = "locale_provider builtin builtin_locale 'C.UTF-8'" if is_new else "lc_collate 'C'"
    statement = sql.SQL(f"create database {{}} template template0 encoding 'UTF8' {locale}").format(
        sql.Identifier(name)
    )
    if owner:
        statement += sql.SQL(" owner {}").format(sql.Identifier(owner))
    connection.execute(statement)
    connection.execute(sql.SQL("comment on database {} is {}").format(sql.Identifier(name), MARK))

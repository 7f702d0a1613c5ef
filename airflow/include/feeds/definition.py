"""The present columns, constraints and indexes of a feed's raw table, which each new partition must have.

Users may have added some. A load adds them to the tables that it makes before the swap, so that they are kept and
nobody waits for them. What a load cannot keep, such as a trigger, it refuses before it starts.

They are read from the catalogs and written out: `like raw.orders` would lock it for as long as a load takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from feeds.errors import TablesUnfit
from feeds.table import RawTable

_COLUMNS = """
    select
        quote_ident(attname), format_type(atttypid, atttypmod), attnotnull, attgenerated::text, attidentity::text,
        pg_get_expr(adbin, adrelid),
        case when attcollation not in (0, typcollation) then attcollation::regcollation::text end
    from pg_attribute
    join pg_type on pg_type.oid = atttypid
    left join pg_attrdef on adrelid = attrelid and adnum = attnum
    where attrelid = {table}::regclass and attnum > 0 and not attisdropped
    order by attnum
"""
# A key's name is left out: it is also its index's name, which must be unique in the schema.
_CONSTRAINTS = """
    select
        contype::text,
        case when contype in ('c', 'f') then format('constraint %I ', conname) else '' end || pg_get_constraintdef(oid)
    from pg_constraint
    where conrelid = {table}::regclass and contype in ('c', 'f', 'p', 'u', 'x') and conparentid = 0
    order by conname
"""
# An index's definition without its name and its table, with which it begins.
_INDEXES = """
    select
        indisunique,
        right(pg_get_indexdef(indexrelid), -length(
            format(
                'CREATE %sINDEX %I ON ONLY %s', case when indisunique then 'UNIQUE ' end, relname, indrelid::regclass
            )
        ))
    from pg_index join pg_class on pg_class.oid = indexrelid
    where indrelid = {table}::regclass
        and not exists (select from pg_constraint where conrelid = indrelid and conindid = indexrelid)
    order by relname
"""
# The table and all its partitions. pg_partition_tree() would lock them for as long as a load takes.
TREE = """
    with recursive tree as (
        select {table}::regclass as table_id, 0 as level
        union all
        select inhrelid, level + 1 from pg_inherits join tree on inhparent = table_id
    )
"""
_CANNOT_BE_KEPT = (
    TREE  # noqa: S608 - constants
    + """
    select
        format('the trigger %I', tgname) || case when level > 0 then format(' of %s', table_id) else '' end,
        'swapped rows would not fire it'
    from pg_trigger join tree on tgrelid = table_id
    where not tgisinternal and tgparentid = 0 and tgenabled <> 'D'
    union all
    select format('the rule %I', rulename), 'swapped rows would bypass it' from pg_rewrite
    where ev_class = {table}::regclass and rulename <> '_RETURN'
    union all
    select
        format('the foreign key %I of %s', conname, conrelid::regclass),
        'rows that it references could not be swapped'
    from pg_constraint
    where confrelid = {table}::regclass and contype = 'f' and conparentid = 0
"""
)
_OWNERS = (
    TREE  # noqa: S608 - constants
    + """
    select table_id::text, pg_get_userbyid(part.relowner), pg_get_userbyid(whole.relowner)
    from tree
    join pg_class as part on part.oid = table_id
    join pg_class as whole on whole.oid = {table}::regclass
    where part.relowner <> whole.relowner
"""
)


@dataclass(frozen=True)
class Column:
    """A column of a raw table; `name`, `type`, `expression` and `collation` are SQL."""

    name: str
    type: str
    is_not_null: bool
    generated: str
    identity: str
    expression: str | None
    collation: str | None

    def __str__(self) -> str:
        parts = [self.name, self.type]
        if self.collation:
            parts.append(f"collate {self.collation}")
        if self.generated:
            parts.append(f"generated always as ({self.expression}) {'stored' if self.generated == 's' else 'virtual'}")
        elif self.expression:
            parts.append(f"default {self.expression}")
        if self.is_not_null:
            parts.append("not null")
        return " ".join(parts)


@dataclass(frozen=True)
class Definition:
    """The columns, constraints and indexes of TABLE, in SQL that PostgreSQL has written."""

    table: RawTable
    columns: tuple[Column, ...]
    checks: tuple[str, ...]
    keys: tuple[str, ...]
    references: tuple[str, ...]
    indexes: tuple[tuple[bool, str], ...]

    @property
    def stored_columns(self) -> sql.SQL:
        """The names of the columns that are copied with a row: all but the generated ones."""
        return sql.SQL(", ".join(column.name for column in self.columns if not column.generated))

    def create(self, connection: psycopg.Connection, table: sql.Composable, *, partitioned: bool = False) -> None:
        """Make TABLE with the columns and the checks; a partitioned one, which has no rows, also with all others."""
        by = sql.SQL(" partition by range ({})").format(self.table.partition_key) if partitioned else sql.SQL("")
        statements = [sql.SQL("create table {} ({}){}").format(table, sql.SQL(", ".join(map(str, self.columns))), by)]
        statements += self._constraints(table, self.checks)
        _execute(connection, statements)
        if partitioned:
            self.add_indexes(connection, table)
            _execute(connection, self._constraints(table, self.references))

    def add_indexes(self, connection: psycopg.Connection, table: sql.Composable) -> None:
        """Add the keys and the indexes to TABLE, which has its rows."""
        statements = self._constraints(table, self.keys)
        statements += [
            sql.SQL("create {} on {} {}").format(
                sql.SQL("unique index" if is_unique else "index"), table, sql.SQL(rest)
            )
            for is_unique, rest in self.indexes
        ]
        _execute(connection, statements)

    def add_references(self, connection: psycopg.Connection, table: sql.Composable) -> None:
        """Add the foreign keys to TABLE; until the transaction ends, nobody else can write to the referenced tables.

        One that is `not valid` applies to new rows, and all rows of TABLE are new.
        """
        references = tuple(reference.removesuffix(" NOT VALID") for reference in self.references)
        _execute(connection, self._constraints(table, references))

    def _constraints(self, table: sql.Composable, constraints: tuple[str, ...]) -> list[sql.Composed]:
        return [sql.SQL("alter table {} add {}").format(table, sql.SQL(constraint)) for constraint in constraints]


def read_definition(connection: psycopg.Connection, table: RawTable) -> Definition:
    """Return the definition of TABLE.

    Raises:
        TablesUnfit: a column of the contract is missing, or the table has something that a load cannot keep.
    """
    columns = tuple(Column(*row) for row in connection.execute(table.in_sql(_COLUMNS)))
    types = {column.name: column.type for column in columns}
    quoted = connection.execute("select quote_ident(name) from unnest(%s::text[]) as name", (list(table.columns),))
    own = {name: type_ for (name,), type_ in zip(quoted, table.columns.values(), strict=True)}
    for name, type_ in own.items():
        if types.get(name) != type_:
            difference = f"is {types[name]}, not {type_}" if name in types else "is missing"
            raise TablesUnfit(
                f"{table} has an unexpected structure: its column {name} {difference}.",
                "The contract was changed since the last load, another program made the table, or a user altered it.",
                "Load without a dry run, which alters the table where that loses nothing, or says what to do.",
            )
    for column in columns:
        is_own = column.name in own
        if column.identity:
            obstacle = "identity"
        elif is_own and column.generated:
            obstacle = "expression"
        elif not is_own and column.is_not_null and not column.expression:
            obstacle = "not null"
        else:
            continue
        raise TablesUnfit(
            f"{table} has a column that a load cannot fill: {column.name}.",
            "A user made it an identity, generated, or not null without a default, and a file has no value for it.",
            f"Let a load fill it, or leave it empty: alter table {table} alter column {column.name} drop {obstacle}",
        )
    if found := connection.execute(table.in_sql(_CANNOT_BE_KEPT)).fetchone():
        raise TablesUnfit(
            f"{table} has something that a load cannot keep: {found[0]}.",
            f"A load swaps whole tables: {found[1]}.",
            f"Drop it, and create it on another table that you fill from {table}.",
        )
    if found := connection.execute(table.in_sql(_OWNERS)).fetchone():
        raise TablesUnfit(
            f"{found[0]}, a partition of {table}, belongs to {found[1]}, and {table} to {found[2]}.",
            "A user loaded as another role, or changed the table's owner.",
            f"Give it to the owner of {table}: alter table {found[0]} owner to {found[2]}",
        )
    constraints = connection.execute(table.in_sql(_CONSTRAINTS)).fetchall()

    def of(types: str) -> tuple[str, ...]:
        return tuple(definition for type_, definition in constraints if type_ in types)

    indexes = connection.execute(table.in_sql(_INDEXES)).fetchall()
    return Definition(table, columns, of("c"), of("pux"), of("f"), tuple(indexes))


def _execute(connection: psycopg.Connection, statements: Sequence[sql.Composable]) -> None:
    """Execute STATEMENTS, if there are any, in one message."""
    if statements:
        connection.execute(sql.SQL("; ").join(statements))

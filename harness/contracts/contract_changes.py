"""Compare two versions of a contract, and find the models and exposures that a change concerns."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from feeds.contract import Column, Feed
from feeds.migration import is_widened

_LINE_COMMENT = re.compile(r"--[^\n]*")
_BLOCK_COMMENT = re.compile(r"\{#.*?#\}|/\*.*?\*/", re.DOTALL)
_SHOWN = 3  # models in an error
_REF = re.compile(r"""\bref\(\s*['"](\w+)['"]""")


@dataclass(frozen=True)
class Change:
    """A difference between two versions of a contract.

    Attributes:
        what: as in `amount was removed`.
        breaks: whether it breaks readers; a column that is `no longer required` breaks only those that rely on it.
        column: of the earlier version, that it is about; None if it is about the whole feed.
        is_null_now: whether the column may lack values now.
    """

    what: str
    breaks: bool = False
    column: str | None = None
    is_null_now: bool = False


def compare(before: Feed, after: Feed) -> list[Change]:
    """Return the changes from BEFORE to AFTER, those of columns first, in the order of BEFORE."""
    return [*_columns(before, after), *_feed(before, after)]


def is_major(before: Feed, after: Feed) -> bool:
    """Return whether the version of AFTER says that it may break readers of BEFORE."""
    return int(after.version.partition(".")[0]) > int(before.version.partition(".")[0])


def _columns(before: Feed, after: Feed) -> Iterator[Change]:
    old, new = ({column.name: column for column in feed.table_columns} for feed in (before, after))
    by_header = {column.header: column for column in after.table_columns if column.name not in old}
    for name, column in old.items():
        if name in new:
            yield from _column(column, new[name])
        elif renamed := by_header.get(column.header):
            yield Change(f"{name} was renamed to {renamed.name}", breaks=True, column=name)
        else:
            yield Change(f"{name} was removed", breaks=True, column=name)
    renamed_to = {by_header[column.header].name for column in old.values() if column.header in by_header}
    for name in new:
        if name not in old and name not in renamed_to:
            yield Change(f"{name} was added")
    kept = [name for name in old if name in new]
    if kept != [name for name in new if name in old]:
        yield Change("the order of columns was changed")


def _column(before: Column, after: Column) -> Iterator[Change]:
    name = before.name
    if before.sql_type != after.sql_type:
        if is_widened(before.sql_type, after.sql_type):
            yield Change(f"{name} was widened from {before.sql_type} to {after.sql_type}", column=name)
        else:
            what = f"{name} was changed from {before.sql_type} to {after.sql_type}"
            yield Change(what, breaks=True, column=name)
    if before.is_required and not after.is_required:
        yield Change(f"{name} is no longer required", column=name, is_null_now=True)
    for attribute, text in (
        ("is_required", "is required now"),
        ("header", f"has the header {after.header!r}"),
        ("pattern", "has another pattern"),
        ("lengths", "has other lengths"),
        ("values", "has other valid values"),
    ):
        old, new = getattr(before, attribute), getattr(after, attribute)
        if old != new and not (attribute == "is_required" and old):
            yield Change(f"{name} {text}", column=name)


def _feed(before: Feed, after: Feed) -> Iterator[Change]:
    if before.key != after.key:
        yield Change(f"the key was changed from {', '.join(before.key)} to {', '.join(after.key)}", breaks=True)
    if before.time_column != after.time_column:
        kinds = [
            f"an interval feed by {feed.time_column}" if feed.time_column else "a snapshot" for feed in (before, after)
        ]
        yield Change(f"the kind was changed from {kinds[0]} to {kinds[1]}", breaks=True)
    if before.properties.history and not after.properties.history:
        yield Change("the history was removed", breaks=True)
    if after.properties.history and not before.properties.history:
        yield Change("a history was added")
    old, new = ({rule.name: rule.sql for rule in feed.rules} for feed in (before, after))
    for name in {**old, **new}:
        if old.get(name) != new.get(name):
            done = "added" if name not in old else "removed" if name not in new else "changed"
            yield Change(f"the rule {name} was {done}")
    for field in ("location", "format"):
        if getattr(before, field) != getattr(after, field):
            yield Change(f"the files' {field} was changed to {getattr(after, field)}")
    for field, text in (
        ("csv", "the options of CSV were"),
        ("drift", "drift was"),
        ("max_rejected", "the share of rows that may be rejected was"),
        ("cadences", "the cadences were"),
        ("time_zone", "the time zone of times without one was"),
    ):
        if getattr(before.properties, field) != getattr(after.properties, field):
            yield Change(f"{text} changed")


@dataclass(frozen=True)
class Readers:
    """The models and exposures that need a column of a feed.

    Attributes:
        models: their names, those that read the feed itself first.
        exposures: their names.
        not_null: those of the models that say that it is never null.
    """

    models: tuple[str, ...] = ()
    exposures: tuple[str, ...] = ()
    not_null: tuple[str, ...] = ()

    @property
    def short(self) -> str:
        """The first models."""
        more = f" and {len(self.models) - _SHOWN} more" if len(self.models) > _SHOWN else ""
        return f"read by {', '.join(self.models[:_SHOWN])}{more}" if self.models else "no model reads it"

    def __str__(self) -> str:
        if not self.models:
            return self.short
        exposures = f"; for the exposures {', '.join(self.exposures)}" if self.exposures else ""
        return f"read by {', '.join(self.models)}{exposures}"


class Project:
    """The dbt project in FOLDER, as its files say it is; dbt need not be installed."""

    def __init__(self, folder: Path) -> None:
        self._sql = {path.stem: _without_comments(path.read_text("utf-8")) for path in folder.glob("models/**/*.sql")}
        self._columns: dict[str, list[dict[str, Any]]] = {}
        self._exposures: dict[str, set[str]] = {}
        for path in sorted(folder.glob("models/**/*.yml")):
            properties = yaml.safe_load(path.read_text("utf-8")) or {}
            for model in properties.get("models") or []:
                self._columns[model["name"]] = model.get("columns") or []
            for exposure in properties.get("exposures") or []:
                self._exposures[exposure["name"]] = set(_REF.findall(" ".join(exposure.get("depends_on") or [])))

    def readers(self, feed: str, column: str | None = None) -> Readers:
        """Return who needs COLUMN of FEED, or any of its columns.

        A model needs a column if it reads a model that does, and names what that one makes of it.
        """
        source = re.compile(rf"""\bsource\(\s*['"]raw['"]\s*,\s*['"]{feed}(?:_history)?['"]\s*\)""")
        made: dict[str, set[str]] = {}  # by model: the names of what it makes of the column
        while True:
            found: dict[str, set[str]] = {}
            for model, sql in sorted(self._sql.items()):
                names = {column} if source.search(sql) else self._names_read(sql, made)
                if model not in made and names and _names_one_of(sql, names):
                    found[model] = {alias for name in names if name for alias in _aliases(sql, name)}
            if not found:
                break
            made |= found
        exposures = tuple(name for name, needed in self._exposures.items() if needed & made.keys())
        not_null = tuple(name for name, names in made.items() if self._is_not_null(name, names))
        return Readers(tuple(made), exposures, not_null)

    def _names_read(self, sql: str, made: Mapping[str, set[str]]) -> set[str | None]:
        """Return the names of what the models that SQL reads make of the column; None stands for all."""
        read = [made[model] for model in _REF.findall(sql) if model in made]
        return {name for names in read for name in (names or [None])}

    def _is_not_null(self, model: str, names: set[str]) -> bool:
        """Return whether MODEL says that one of its columns NAMES is never null."""
        checks = [
            str([column.get("data_tests"), column.get("constraints")])
            for column in self._columns.get(model, [])
            if column.get("name") in names
        ]
        return any("not_null" in check or "primary_key" in check for check in checks)


def _names_one_of(sql: str, names: Collection[str | None]) -> bool:
    """Return whether SQL names one of NAMES, or passes all columns on."""
    selects = re.findall(r"\bselect\s+(\S+)", sql)
    return set(selects) == {"*"} or any(name is None or re.search(rf"\b{name}\b", sql) for name in names)


def _aliases(sql: str, column: str) -> Iterator[str]:
    """Yield the names that SQL gives to what it makes of COLUMN."""
    yield column
    for line in sql.splitlines():
        if re.search(rf"\b{column}\b", line) and (found := re.search(r"\bas (\w+),?\s*$", line)):
            yield found[1]


def _without_comments(sql: str) -> str:
    return _LINE_COMMENT.sub("", _BLOCK_COMMENT.sub("", sql))


def breaking(project: Project, feed: str, changes: Sequence[Change]) -> list[tuple[Change, Readers]]:
    """Return those of CHANGES of FEED that break readers, and whom."""
    found = []
    for change in changes:
        readers = project.readers(feed, change.column)
        if change.breaks or (change.is_null_now and readers.not_null):
            found.append((change, readers))
    return found

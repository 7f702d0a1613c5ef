"""Compare two versions of a contract, and find the models and exposures that a change concerns."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from feeds.contract import Column, Feed
from feeds.migration import is_widened

_LINE_COMMENT = re.compile(r"--[^\n]*")
_BLOCK_COMMENT = re.compile(r"\{#.*?#\}|/\*.*?\*/", re.DOTALL)
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
    old, new = ({column.name: column for column in feed.columns} for feed in (before, after))
    by_header = {column.header: column for column in after.columns if column.name not in old}
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
        ("is_optional", "may be missing from a file, or no longer may"),
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
        ("csv", "the options of CSV"),
        ("drift", "drift"),
        ("max_rejected", "the share of rows that may be rejected"),
        ("cadences", "the cadences"),
        ("time_zone", "the time zone of times without one"),
    ):
        if getattr(before.properties, field) != getattr(after.properties, field):
            yield Change(f"{text} was changed".replace("cadences was", "cadences were"))


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

    def __str__(self) -> str:
        if not self.models:
            return "no model reads it"
        exposures = f"; for the exposures {', '.join(self.exposures)}" if self.exposures else ""
        return f"read by {', '.join(self.models)}{exposures}"


class Project:
    """The dbt project in FOLDER, as its files say it is."""

    def __init__(self, folder: Path) -> None:
        self._sql = {path.stem: _without_comments(path.read_text("utf-8")) for path in folder.glob("models/**/*.sql")}
        self._columns: dict[str, list[dict[str, object]]] = {}
        self._exposures: dict[str, set[str]] = {}
        for path in sorted(folder.glob("models/**/*.yml")):
            properties = yaml.safe_load(path.read_text("utf-8")) or {}
            for model in properties.get("models") or []:
                self._columns[model["name"]] = model.get("columns") or []
            for exposure in properties.get("exposures") or []:
                needed = " ".join(map(str, exposure.get("depends_on") or []))
                self._exposures[exposure["name"]] = set(_REF.findall(needed))

    def readers(self, feed: str, column: str | None = None) -> Readers:
        """Return who needs COLUMN of FEED, or any column: what names it in staging, and all that builds on that."""
        source = re.compile(rf"""\bsource\(\s*['"]raw['"]\s*,\s*['"]{feed}['"]\s*\)""")
        named = re.compile(rf"\b{column}\b") if column else re.compile("")
        first = [name for name, sql in sorted(self._sql.items()) if source.search(sql) and named.search(sql)]
        models = list(first)
        for name in models:  # grows
            models += sorted(
                reader for reader, sql in self._sql.items() if reader not in models and name in _REF.findall(sql)
            )
        exposures = tuple(name for name, needed in self._exposures.items() if needed & set(models))
        names = {alias for name in first for alias in _aliases(self._sql[name], column)} if column else set()
        not_null = tuple(name for name in models if self._is_not_null(name, names))
        return Readers(tuple(models), exposures, not_null)

    def _is_not_null(self, model: str, names: set[str]) -> bool:
        """Return whether MODEL says that one of its columns NAMES is never null."""
        return any(
            "not_null" in str([column.get("data_tests"), column.get("constraints")])
            or "primary_key" in str(column.get("constraints"))
            for column in self._columns.get(model, [])
            if column.get("name") in names
        )


def _aliases(sql: str, column: str | None) -> Iterator[str]:
    """Yield the names that SQL gives to what it makes of COLUMN."""
    for line in sql.splitlines():
        if re.search(rf"\b{column}\b", line):
            found = re.search(r"\bas (\w+),?\s*$", line)
            yield found[1] if found else str(column)


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

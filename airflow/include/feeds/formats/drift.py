"""What a load does when a file's columns are not the contract's."""

from collections.abc import Sequence

from feeds.contract import Column, Feed
from feeds.errors import WrongHeader
from feeds.lines import raw_text
from feeds.uri import shown, without_secrets

_MOST_NAMED = 5  # new columns


def columns_of(names: Sequence[str], feed: Feed, uri: str, *, is_ordered: bool = False) -> tuple[Column, ...]:
    """Return the columns of FEED that a file with the columns NAMES has, in their order there.

    Raises:
        WrongHeader: the contract does not allow these columns.
    """
    drift = feed.properties.drift
    headers = [column.header for column in feed.columns]
    by_header = dict(zip(headers, feed.columns, strict=True))
    present = [name for name in names if name in by_header]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise refusal(feed, uri, f"has the column {_named(twice, uri)} twice", "Export it with different names.")
    for column in feed.columns:
        if column.header in names:
            continue
        if column.is_required:
            raise refusal(feed, uri, f"has no column {column.header!r}")
        if drift.missing_column == "refuse":
            raise refusal(feed, uri, f"has no column {column.header!r}", allow(feed, 'missing_column: "null"'))
    if drift.new_column == "refuse" and len(present) < len(names):
        new = [_named(name, uri) for name in names if name not in by_header]
        what = f"has {len(new)} new columns, " if len(new) > 1 else "has a new column "
        more = f" and {len(new) - _MOST_NAMED} more" if len(new) > _MOST_NAMED else ""
        which = ", ".join(new[:_MOST_NAMED]) + more
        raise refusal(feed, uri, what + which, allow(feed, "new_column: ignore, or keep as json"))
    if is_ordered and drift.column_order == "refuse" and present != [name for name in headers if name in present]:
        raise refusal(feed, uri, "has its columns in another order", allow(feed, "column_order: accept"))
    return tuple(by_header[name] for name in present)


def refusal(feed: Feed, uri: str, what: str, next_step: str | None = None) -> WrongHeader:
    """Return the error that the file at URI has WHAT the contract of FEED does not allow."""
    return WrongHeader(
        f"{shown(uri)} {what}.",
        "It is most likely another file, or its export has changed.",
        next_step or f"Export it with the columns of its contract, or correct the contract: {_path(feed)}",
    )


def allow(feed: Feed, word: str) -> str:
    """Return the next step where WORD in the contract of FEED allows what is refused."""
    return f"Export it as before, or allow this in {_path(feed)}, in the custom property drift: {word}"


def _path(feed: Feed) -> str:
    return f"airflow/feeds/{feed.name}.yaml"


def _named(name: str, uri: str) -> str:
    return repr(without_secrets(raw_text(name.encode(errors="replace")), uri)[:100])

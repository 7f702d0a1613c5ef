"""The feed `events`, which ships with models, for tests of what is above the load."""

from functools import partial
from typing import Any

from feeds import load as _load
from feeds import tables
from feeds.contract import CONTRACTS, read_feed
from feeds.ledger import LoadResult

EVENTS = read_feed(CONTRACTS / "events.yaml")
COLUMNS = tuple(column.name for column in EVENTS.columns)
EVENT_TYPES = frozenset(EVENTS.column("event_type").values)
create_tables = partial(tables.create_tables, feed=EVENTS)


def load(source_uri: str, dsn: str, **options: Any) -> LoadResult:
    return _load.load(EVENTS, dsn, source_uri=source_uri, **options)

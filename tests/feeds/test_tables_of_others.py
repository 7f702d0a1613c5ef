"""Before a feed's models are built, the raw tables of all feeds are there, for models that join several."""

import logging
from pathlib import Path

import psycopg
import pytest

from feeds.contract import Feed, read_feed
from feeds.tables import create_others
from tests.events_feed import EVENTS
from tests.feeds.test_changed_contract import CONTRACT

RULE = "    customProperties: [{property: rules, value: [{name: none, sql: no_such_function(paid)}]}]\n"


def feed(folder: Path, name: str, more: str = "") -> Feed:
    path = folder / f"{name}.yaml"
    path.write_text(CONTRACT.replace("orders", name) + more)
    return read_feed(path)


def test_tables_that_do_not_exist_are_made_and_others_are_left_alone(
    dsn: str, db: psycopg.Connection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    db.execute("create table raw.orders (of_user int)")
    db.execute("alter table raw.events add column note text")
    caplog.set_level(logging.WARNING)

    create_others(dsn, [EVENTS, feed(tmp_path, "orders"), feed(tmp_path, "bills", RULE), feed(tmp_path, "rides")])

    query = "select relname, relkind::text from pg_class where relname in ('orders', 'bills', 'rides') order by 1"
    assert db.execute(query).fetchall() == [("orders", "r"), ("rides", "p")]  # a user's own table stays
    assert db.execute("select note from raw.events").fetchall() == []
    assert "raw.bills was not made: " in caplog.text
    assert len(caplog.records) == 1

"""The DSN of a task: from a connection of Airflow as its form, JSON, a URI or the environment saves it."""

import json
from typing import Any
from urllib.parse import quote

import pytest
from airflow.sdk import Connection
from psycopg.conninfo import conninfo_to_dict

from feeds.dsn import dsn_of, libpq_dsn, warehouse_dsn
from feeds.errors import SettingUnusable

ANY = " '\"\\%@/:?#&=+é[]"
FIELDS = {"login": "loader", "password": "p", "host": "h", "port": 5432, "schema": "warehouse"}
PARTS = {"user": "loader", "password": "p", "host": "h", "port": "5432", "dbname": "warehouse"}


def read(connection: Connection) -> dict[str, Any]:
    """Return what libpq reads."""
    return conninfo_to_dict(libpq_dsn(dsn_of(connection)))


def form(extra: Any = None, **fields: Any) -> Connection:
    """Return the connection that Airflow's form saves."""
    saved = {"conn_type": "postgres", **FIELDS, **fields, "extra": None if extra is None else json.dumps(extra)}
    return Connection(conn_id="warehouse_loader", **saved)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_a_uri_in_the_environment(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    user, database = quote(ANY, safe=""), quote(ANY, safe="")
    uri = f"{scheme}://{user}:{user}@h:5432/{database}?sslmode=require&keepalives=true"
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_LOADER", uri)
    assert read(Connection.get("warehouse_loader")) == PARTS | {
        "user": ANY,
        "password": ANY,
        "dbname": ANY,
        "sslmode": "require",
        "keepalives": "1",
    }


def test_json_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = {"conn_type": "postgres", **FIELDS, "login": ANY, "extra": {"keepalives_idle": 30, "nested": {"a": [1]}}}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_LOADER", json.dumps(saved))
    assert read(Connection.get("warehouse_loader")) == PARTS | {"user": ANY, "keepalives_idle": "30"}


@pytest.mark.parametrize(
    ("extra", "parameters"),
    [
        (None, {}),
        ({}, {}),
        ([], {}),
        ({"keepalives": True}, {"keepalives": "1"}),
        ({"keepalives": False}, {"keepalives": "0"}),
        ({"keepalives": 0}, {"keepalives": "0"}),
        ({"sslmode": "", "sslrootcert": None}, {}),
        ({"options": "-c search_path='a b'&=é"}, {"options": "-c search_path='a b'&=é"}),
        ({"dbname": "other", "host": "other"}, {}),
    ],
)
def test_extras_of_every_type(extra: Any, parameters: dict[str, str]) -> None:
    assert read(form(extra)) == PARTS | parameters


def test_an_extra_that_libpq_does_not_know_is_named_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    assert read(form({"cursor": "dictcursor", "iam": {"a": 1}})) == PARTS
    assert caplog.messages == [
        "The connection warehouse_loader has extras that libpq does not know, which are ignored: cursor, iam"
    ]


def test_fields_that_are_empty() -> None:
    assert read(form(login="", password=None, host="", port=None)) == {"dbname": "warehouse"}
    assert read(form({"service": "s"}, login="", password="", host="", port=None, schema="")) == {"service": "s"}
    assert read(form(host="::1")) == PARTS | {"host": "::1"}
    assert read(form(host="/var/run")) == PARTS | {"host": "/var/run"}


@pytest.mark.parametrize(
    ("connection", "what"),
    [
        (form(conn_type="mysql"), "has the type 'mysql', not postgres."),
        (form(conn_type=""), "has the type '', not postgres."),
        (form(schema=""), "names no database."),
        (form({"options": {"a": 1}}), "has an extra options that is nested."),
    ],
)
def test_a_connection_that_cannot_be_used(connection: Connection, what: str) -> None:
    with pytest.raises(SettingUnusable) as caught:
        dsn_of(connection)
    assert caught.value.what == f"The connection warehouse_loader {what}"


@pytest.mark.parametrize("value", [None, "", "{bad", "postgres://loader:SECRET/x@h/d", "postgres://h:SECRET/d"])
def test_a_connection_that_is_missing_or_cannot_be_read(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_WAREHOUSE_LOADER", raising=False)
    if value is not None:
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_LOADER", value)
    with pytest.raises(SettingUnusable, match=r"^Airflow has no connection warehouse_loader, or cannot read it"):
        warehouse_dsn()

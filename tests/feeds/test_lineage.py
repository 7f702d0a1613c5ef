"""The OpenLineage events of a load: what they say, that they have no secrets, and that they never fail a load."""

import gzip
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from feeds import lineage
from feeds.errors import TooManyRejected
from tests.events_feed import load
from tests.feeds.common import HEADER, account, ids, write
from tests.servers import Handler, serving

TASK, RUN = "01a21526-e400-76c3-8b48-2e706fad5a5a", "01a21526-e400-7ba8-9501-09b1b1f71b1d"
PARENT = {lineage.PARENT: f"ours/daily.load_events/{TASK}", lineage.ROOT: f"ours/daily/{RUN}"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder that events go to."""
    folder = tmp_path / "lineage"
    folder.mkdir()
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "ours")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "file")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(folder / "event"))
    return folder


def emitted(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.iterdir())]


def facets(part: dict[str, Any], kind: str = "facets") -> dict[str, Any]:
    """Return the facets of PART, each without what the standard gives to all."""
    return {
        name: {key: value for key, value in facet.items() if not key.startswith("_")}
        for name, facet in part[kind].items()
    }


def test_a_load_says_what_it_has_read_and_written_and_who_has_started_it(dsn: str, file: Path, folder: Path) -> None:
    write(file, [*map(account, (1, 2, 3)), "x;created_account;1;2020-01-01 00:00:00;"])
    result = load(str(file), dsn, parent=PARENT, max_rejected=0.5)
    start, complete = emitted(folder)
    assert [start["eventType"], complete["eventType"]] == ["START", "COMPLETE"]
    assert start["run"]["runId"] == complete["run"]["runId"]
    assert complete["job"] == start["job"]
    assert (complete["job"]["namespace"], complete["job"]["name"]) == ("ours", "load.events")
    assert complete["producer"] == lineage.PRODUCER

    of_run = facets(complete["run"])
    parent = of_run["parent"]
    assert (parent["run"]["runId"], parent["root"]["run"]["runId"]) == (TASK, RUN)
    assert (parent["job"]["name"], parent["root"]["job"]["name"]) == ("daily.load_events", "daily")
    figures = {name: value for name, value in asdict(result).items() if name != "seconds" and value is not None}
    assert of_run["feeds_load"] == figures
    assert (figures["read"], figures["loaded"], figures["rejected"]) == (4, 3, 1)

    [source] = complete["inputs"]
    assert (source["namespace"], source["name"]) == ("file", str(file))
    assert facets(source, "inputFacets") == {"inputStatistics": {"rowCount": 4, "size": file.stat().st_size}}
    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    assert {output["namespace"] for output in complete["outputs"]} == {f"postgres://{parts['host']}:{parts['port']}"}
    rows = {
        output["name"]: facets(output, "outputFacets").get("outputStatistics", {}).get("rowCount")
        for output in complete["outputs"]
    }
    tables = {"events": 3, "rejected_rows": 1, "loads": None, "loaded_days": None, "loaded_files": None}
    assert rows == {f"{parts['dbname']}.raw.{name}": count for name, count in tables.items()}
    of_table = facets(complete["outputs"][0])
    assert [column["name"] for column in of_table["schema"]["fields"]] == HEADER.split(";")
    [field] = of_table["columnLineage"]["fields"]["created_at"]["inputFields"]
    assert (field["name"], field["field"]) == (str(file), "created_at")


def test_an_unchanged_file_is_said_again(dsn: str, uri: str, folder: Path) -> None:
    load(uri, dsn)
    load(uri, dsn)
    first, second = (event for event in emitted(folder) if event["eventType"] == "COMPLETE")
    assert second["inputs"] == first["inputs"]
    assert facets(second["run"])["feeds_load"]["same_as_load_id"] == 1
    assert "parent" not in second["run"]["facets"]


def test_a_refused_load_fails_with_its_reason(dsn: str, file: Path, folder: Path) -> None:
    write(file, ["x;created_account;1;2020-01-01 00:00:00;"])
    with pytest.raises(TooManyRejected) as caught:
        load(str(file), dsn)
    _, fail = emitted(folder)
    assert fail["eventType"] == "FAIL"
    assert facets(fail["run"])["errorMessage"] == {"message": str(caught.value), "programmingLanguage": "Python"}
    assert [source["name"] for source in fail["inputs"]] == [str(file)]
    assert fail["outputs"] == []


def test_events_have_no_password(dsn: str, uri: str, folder: Path) -> None:
    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    load(uri, dsn)
    with pytest.raises(Exception, match=r"."):
        load("https://user:s3cretWord@127.0.0.1:9/a.csv?sig=t0kenValue", dsn)
    text = "".join(path.read_text() for path in folder.iterdir())
    assert '"FAIL"' in text
    for secret in (str(parts["password"]), "s3cretWord", "t0kenValue"):
        assert secret not in text


def test_what_cannot_be_emitted_is_a_warning_and_the_load_succeeds(
    dsn: str, db: psycopg.Connection, file: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.rmdir()
    write(file, [account(1)])
    load(str(file), dsn)
    assert ids(db) == [1]
    assert lost(caplog) == ["START", "COMPLETE"]


def lost(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return which events of the load are lost, as its log says."""
    found = [re.match(r"the load's lineage event (\w+) is lost: \w+", message) for message in caplog.messages]
    return [match[1] for match in found if match]


@pytest.fixture
def emit_to(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Give a function that lets events go to the server at a URL; afterwards the client's variables are no more."""
    before = set(os.environ)
    yield partial(monkeypatch.setenv, "OPENLINEAGE_URL")
    for name in os.environ.keys() - before - {"OPENLINEAGE_URL"}:
        del os.environ[name]


def test_a_server_that_does_not_answer_costs_two_seconds(
    dsn: str, db: psycopg.Connection, file: Path, emit_to: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    write(file, [account(1)])
    load(str(file), dsn)  # imports, and makes the tables
    write(file, [account(2)])
    with socket.create_server(("127.0.0.1", 0)) as silent:
        emit_to(f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        load(str(file), dsn)
    assert 2 <= time.monotonic() - started < 5  # the client by itself: 18 s
    assert ids(db) == [2]
    assert lost(caplog) == ["START", "COMPLETE"]


def test_a_server_that_is_busy_is_tried_once_more_at_once(
    dsn: str, uri: str, emit_to: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter([503, 201, 503, 503])

    class Busy(Handler):
        def respond(self) -> None:
            self.posted()
            self.answer(next(answers), Retry_After="60")

    with serving(Busy) as busy:
        emit_to(f"http://{busy}")
        started = time.monotonic()
        load(uri, dsn)
    assert time.monotonic() - started < 30
    assert next(answers, None) is None
    assert lost(caplog) == ["COMPLETE"]


def test_a_transport_that_the_environment_describes_is_as_it_says() -> None:
    given = {"OPENLINEAGE_URL": "http://server"}
    assert lineage.transport(given) == lineage.TRANSPORT
    assert lineage.transport({}) == {}
    assert lineage.transport(given | {"OPENLINEAGE_CONFIG": "lineage.yml"}) == {}
    assert lineage.transport(given | {"OPENLINEAGE__TRANSPORT__TYPE": "http"}) == {}
    # What the client itself makes of the URL, in the environment of this process.
    assert lineage.transport(given | {"OPENLINEAGE__TRANSPORT__TRANSPORTS__DEFAULT_HTTP__URL": "http://server"})


def test_events_go_to_a_server_with_its_key(
    dsn: str, uri: str, emit_to: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[tuple[str, str | None, dict[str, Any]]] = []

    class Receiver(Handler):
        def respond(self) -> None:
            content = self.posted()
            if self.headers.get("Content-Encoding") == "gzip":
                content = gzip.decompress(content)
            received.append((self.path, self.headers["Authorization"], json.loads(content)))
            self.answer(201)

    with serving(Receiver) as receiver:
        emit_to(f"http://{receiver}")
        monkeypatch.setenv("OPENLINEAGE_API_KEY", "a-key")
        load(uri, dsn)
    assert [(path, key) for path, key, _ in received] == [("/api/v1/lineage", "Bearer a-key")] * 2
    assert [event["eventType"] for *_, event in received] == ["START", "COMPLETE"]


@pytest.mark.parametrize(
    ("environ", "is_on"),
    [
        ({}, False),
        ({"OPENLINEAGE_URL": ""}, False),
        ({"OPENLINEAGE_NAMESPACE": "ours"}, False),
        ({"OPENLINEAGE_URL": "http://server"}, True),
        ({"OPENLINEAGE__TRANSPORT__TYPE": "file"}, True),
        ({"OPENLINEAGE_CONFIG": "lineage.yml"}, True),
        ({"OPENLINEAGE_URL": "http://server", "OPENLINEAGE_DISABLED": "True"}, False),
    ],
)
def test_nothing_is_emitted_unless_it_is_said_where_to(environ: dict[str, str], is_on: bool) -> None:
    assert lineage.is_on(environ) is is_on


@pytest.mark.parametrize(
    ("uri", "dataset"),
    [
        ("/data/a.csv", ("file", "/data/a.csv")),
        ("file:///data/a.csv", ("file", "/data/a.csv")),
        ("s3://bucket/a/b.csv", ("s3://bucket", "a/b.csv")),
        ("gs://bucket/a.csv", ("gs://bucket", "a.csv")),
        ("https://user:word@host:8443/a/b.csv?sig=x", ("https://host:8443", "/a/b.csv?sig=…")),
        ("zip://a.csv::s3://bucket/b.zip", ("zip", "zip://a.csv::s3://bucket/b.zip")),
    ],
)
def test_files_have_the_names_of_the_standard(uri: str, dataset: tuple[str, str]) -> None:
    assert lineage.file_dataset(uri) == dataset


def test_a_warehouse_has_its_name_without_a_login() -> None:
    assert lineage.warehouse_dataset("postgresql://a:b@host/db") == ("postgres://host:5432", "db")
    assert lineage.warehouse_dataset("postgresql://a:b@host:1/db?sslmode=require") == ("postgres://host:1", "db")

"""Files in object stores and on web servers are read as a stream, and fail with the same errors as local files."""

import hashlib
import io
import logging
import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import boto3
import fsspec
import psycopg
import pytest
import trustme
from gcp_storage_emulator.server import create_server
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from moto.server import ThreadedMotoServer

from feeds import errors
from harness.oracle.file_rows import rows
from harness.warehouse.ports import free_port
from tests.events_feed import EVENTS, load
from tests.feeds.common import HEADER, account, check_source, ids, ledger, query, write
from tests.servers import serving_folder

ROWS, NAME = 100_000, "x" * 900
FILE_MB, GROWTH_MB = 90, 80  # the least size of the file, and the most growth of memory
# A process of its own, so that the growth of its memory is that of the load.
LOAD = """
import os, re, resource, sys
from datetime import datetime
from pathlib import Path
import fsspec
from tests.events_feed import load

def memory_kib(name):
    status = Path("/proc/self/status")  # only Linux has it
    if status.exists():
        return int(re.search(name + r":\\s+(\\d+)", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

uri, start = sys.argv[1:]
fsspec.get_filesystem_class(fsspec.utils.get_protocol(uri))
before = memory_kib("VmRSS")
result = load(uri, os.environ["LOADER_DSN"], start=datetime.fromisoformat(start))
print(result.loaded, result.outside, memory_kib("VmHWM") - before)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a file that is larger than the memory that a load may take."""
    path = tmp_path_factory.mktemp("large") / "events.csv"
    write(path, (f"{number};proposed;7;2020-01-01 00:00:00;3_{number:06}_{NAME}_1" for number in range(ROWS)))
    assert path.stat().st_size > FILE_MB * 1e6
    yield path
    path.unlink()


def check_streamed(uri: str, env: dict[str, str], path: Path, dsn: str, *, loaded: int) -> None:
    """Check that a load of URI reads all of PATH and takes little memory; LOADED: of all rows, or of none."""
    start = "2020-01-01" if loaded else "2020-01-02"
    done = subprocess.run(
        [sys.executable, "-c", LOAD, uri, start],
        env=os.environ | env | {"LOADER_DSN": dsn},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    *rows, growth_kib = map(int, done.stdout.split())
    assert rows == [loaded, ROWS - loaded]
    assert growth_kib * 1024 < GROWTH_MB * 1e6
    with path.open("rb") as file, psycopg.connect(dsn) as db:
        [row] = ledger(db)
        assert row["source_sha256"] == hashlib.file_digest(file, "sha256").hexdigest()
    assert (row["source_size_bytes"], row["source_uri"]) == (path.stat().st_size, uri)


@pytest.mark.slow
def test_a_file_larger_than_memory_is_streamed(dsn: str, large: Path) -> None:
    check_streamed(large.as_uri(), {}, large, dsn, loaded=ROWS)
    found = query(dsn, "select count(distinct split_part(meta_data, '_', 2)), min(length(meta_data)) from raw.events")
    assert found == [(ROWS, len(NAME) + 11)]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def encrypted(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def test_a_large_file_on_a_web_server_is_streamed(
    dsn: str, large: Path, authority: trustme.CA, encrypted: ssl.SSLContext
) -> None:
    with serving_folder(large.parent, encrypted) as address, authority.cert_pem.tempfile() as certificate:
        check_streamed(f"{address}/{large.name}", {"SSL_CERT_FILE": certificate}, large, dsn, loaded=0)


def test_an_untrusted_certificate_is_refused(tmp_path: Path, encrypted: ssl.SSLContext) -> None:
    write(tmp_path / "events.csv", [account(1)])
    with serving_folder(tmp_path, encrypted) as address, pytest.raises(errors.SourceUnreadable) as caught:
        check_source(f"{address}/events.csv")
    assert "certificate" in caught.value.what.lower()


def test_the_harness_reads_a_file_on_a_web_server(tmp_path: Path) -> None:
    write(tmp_path / "events.csv", map(account, range(9)))
    with serving_folder(tmp_path) as address:
        assert len(list(rows(EVENTS, f"{address}/events.csv"))) == 9


@dataclass(frozen=True)
class Store:
    """An object store with the bucket `events`."""

    scheme: str
    env: dict[str, str]  # of a process that reads it
    write: Callable[[str, BinaryIO], None]  # by the store's own client

    def put(self, name: str, content: str) -> str:
        self.write(name, io.BytesIO(content.encode()))
        return self.uri(name)

    def uri(self, name: str) -> str:
        return f"{self.scheme}://events/{name}"


@contextmanager
def s3() -> Iterator[Store]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    env = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "user",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }
    keys = {"aws_access_key_id": "user", "aws_secret_access_key": "secret", "region_name": "eu-central-1"}
    client = boto3.client("s3", endpoint_url=env["AWS_ENDPOINT_URL"], **keys)
    client.create_bucket(Bucket="events", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    yield Store("s3", env, lambda name, content: client.upload_fileobj(content, "events", name))
    server.stop()


@contextmanager
def gs() -> Iterator[Store]:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    # Without the variable gcsfs asks over gRPC, which this server does not support, whether a bucket has folders.
    env = {"STORAGE_EMULATOR_HOST": address, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
    with create_server("127.0.0.1", port, in_memory=True, default_bucket="events"):
        nobody = AnonymousCredentials()  # type: ignore[no-untyped-call]
        client = storage.Client("project", nobody, client_options={"api_endpoint": address})
        bucket = client.bucket("events")
        yield Store("gs", env, lambda name, content: bucket.blob(name).upload_from_file(content))


@pytest.fixture(scope="module", params=[s3, gs], ids=lambda store: store.__name__)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Give an object store, which the environment of this process names."""
    with request.param() as store, pytest.MonkeyPatch.context() as patch:
        for name, value in store.env.items():
            patch.setenv(name, value)
        yield store
        fsspec.filesystem(store.scheme).clear_instance_cache()


@pytest.mark.slow
def test_a_large_object_is_streamed(dsn: str, large: Path, store: Store) -> None:
    with large.open("rb") as file:
        store.write("some/large.csv", file)
    check_streamed(store.uri("some/large.csv"), store.env, large, dsn, loaded=0)


def test_a_missing_empty_or_unreadable_object_fails_like_a_file(store: Store) -> None:
    empty = store.put("some/empty.csv", "")
    for uri, kind, what in (
        (store.uri("missing.csv"), errors.SourceMissing, "does not exist."),
        (f"{store.scheme}://no-such-bucket/events.csv", errors.SourceMissing, "does not exist."),
        (store.uri("some"), errors.SourceIsDirectory, "is a directory."),
        (empty, errors.SourceEmpty, "is empty."),
    ):
        with pytest.raises(kind) as caught:
            check_source(uri)
        assert caught.value.what == f"{uri} {what}"


def test_an_overwritten_object_is_loaded_again(dsn: str, db: psycopg.Connection, store: Store) -> None:
    uri = store.put("again.csv", f"{HEADER}\n{account(1)}\n")
    assert load(uri, dsn).loaded == 1
    assert load(uri, dsn).same_as_load_id == 1
    store.put("again.csv", f"{HEADER}\n{account(2)}\n")
    assert load(uri, dsn).same_as_load_id is None
    assert ids(db) == [2]


def test_an_object_that_changes_while_it_is_read_is_refused(dsn: str, db: psycopg.Connection, store: Store) -> None:
    rows = "\n".join(map(account, range(300_000)))
    uri = store.put("changing.csv", f"{HEADER}\n{rows}\n")
    reports: list[str] = []

    def change(report: str) -> None:
        if not reports:
            store.put("changing.csv", f"{HEADER}\n{rows.replace(';8;', ';9;')}\n")
        reports.append(report)

    with pytest.raises(errors.SourceChanged) as caught:
        load(uri, dsn, report=change, report_every_s=0)
    assert caught.value.what == f"{uri} changed while it was read."
    assert ids(db) == []

"""Files in object stores and on web servers: read as a stream, and what is wrong with one is said as of a file here."""

import io
import logging
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

import boto3
import fsspec
import psycopg
import pytest
import trustme
from gcp_storage_emulator.server import create_server
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from moto.server import ThreadedMotoServer

from events import errors
from events.load import load
from events.source import check_source
from harness.pipeline import expected_numbers
from harness.warehouse.ports import free_port

HEADER = "event_id;event_type;professional_id_anonymized;created_at;meta_data\n"
ROWS, NAME = 200_000, "x" * 900
MEMORY_MB = 150
# A process of its own, so that its peak is that of the load.
LOAD = """
import os, re, resource, sys
from pathlib import Path
from events.load import load
result = load(sys.argv[1], os.environ["LOADER_DSN"])
status = Path("/proc/self/status")  # elsewhere than on Linux the resources of the process have it
kib = int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]) if status.exists() else 0
print(result.loaded, kib or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a file that is larger than a load's memory are allowed."""
    path = tmp_path_factory.mktemp("large") / "events.csv"
    with path.open("w") as file:
        file.write(HEADER)
        for number in range(ROWS):
            moment = f"2020-01-01 {number % 24:02}:00:00"
            file.write(f"{number};proposed;7;{moment};3_{number:06}_{NAME}_1\n")
    assert path.stat().st_size > MEMORY_MB * 1e6
    yield path
    path.unlink()


@dataclass(frozen=True)
class Store:
    """An object store with the bucket `events`.

    Attributes:
        scheme: what URIs of it begin with.
        env: what a process must have in its environment to find it.
        write: puts an object there, by the store's own client.
    """

    scheme: str
    env: dict[str, str]
    write: Callable[[str, BinaryIO], None]

    def put(self, name: str, content: bytes) -> str:
        """Store CONTENT under NAME and return its URI."""
        self.write(name, io.BytesIO(content))
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
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "nobody",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }
    keys = {"aws_access_key_id": "somebody", "aws_secret_access_key": "nobody", "region_name": "eu-central-1"}
    client = boto3.client("s3", endpoint_url=env["AWS_ENDPOINT_URL"], **keys)
    client.create_bucket(Bucket="events", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    yield Store("s3", env, lambda name, content: client.upload_fileobj(content, "events", name))
    server.stop()


@contextmanager
def gs() -> Iterator[Store]:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    # What asks over gRPC, which this server does not speak, whether a bucket has folders is left out.
    env = {"STORAGE_EMULATOR_HOST": address, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
    with create_server("127.0.0.1", port, in_memory=True, default_bucket="events"):
        nobody = AnonymousCredentials()  # type: ignore[no-untyped-call]
        client = storage.Client("project", nobody, client_options={"api_endpoint": address})
        bucket = client.bucket("events")
        yield Store("gs", env, lambda name, content: bucket.blob(name).upload_from_file(content))


@pytest.fixture(scope="module", params=[s3, gs], ids=lambda store: store.__name__)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Give an object store that this process finds."""
    with request.param() as store, pytest.MonkeyPatch.context() as patch:
        for name, value in store.env.items():
            patch.setenv(name, value)
        yield store
        fsspec.filesystem(store.scheme).clear_instance_cache()


@pytest.fixture
def web(large: Path) -> Iterator[Callable[[bool], tuple[str, dict[str, str]]]]:
    """Give what serves the file's directory over HTTP or HTTPS, and what a process needs to trust it.

    Like many a server it knows nothing of ranges.
    """
    with ExitStack() as stack:

        def serve(encrypted: bool) -> tuple[str, dict[str, str]]:
            handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
            server = stack.enter_context(
                ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(large.parent)))
            )
            env = {}
            if encrypted:
                authority = trustme.CA()
                context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
                authority.issue_cert("127.0.0.1").configure_cert(context)
                server.socket = context.wrap_socket(server.socket, server_side=True)
                env["SSL_CERT_FILE"] = stack.enter_context(authority.cert_pem.tempfile())
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            return f"http{'s' * encrypted}://127.0.0.1:{server.server_port}/{large.name}", env

        yield serve


def check_streamed(uri: str, env: dict[str, str], path: Path, dsn: str, db: psycopg.Connection) -> None:
    """Check that a load of URI, which has what PATH has, is complete and takes little memory."""
    loader = [sys.executable, "-c", LOAD, uri]
    done = subprocess.run(
        loader, env=os.environ | env | {"LOADER_DSN": dsn}, stdout=subprocess.PIPE, text=True, check=True
    )
    loaded, peak_kib = map(int, done.stdout.split())
    assert loaded == ROWS
    assert peak_kib * 1024 < MEMORY_MB * 1e6
    found = db.execute("select count(distinct split_part(meta_data, '_', 2)), min(length(meta_data)) from raw.events")
    assert found.fetchone() == (ROWS, len(NAME) + 11)
    recorded = db.execute("select source_size_bytes, source_uri from raw.loads").fetchall()
    assert recorded == [(path.stat().st_size, uri)]


def test_a_file_larger_than_memory_may_be_is_streamed(dsn: str, db: psycopg.Connection, large: Path) -> None:
    check_streamed(large.as_uri(), {}, large, dsn, db)


@pytest.mark.parametrize("encrypted", [False, True], ids=["http", "https"])
def test_a_large_file_on_a_web_server_is_streamed(
    dsn: str, db: psycopg.Connection, large: Path, web: Any, encrypted: bool
) -> None:
    uri, env = web(encrypted)
    check_streamed(uri, env, large, dsn, db)


def test_a_large_object_is_streamed(dsn: str, db: psycopg.Connection, large: Path, store: Store) -> None:
    with large.open("rb") as file:
        store.write("some/large.csv", file)
    check_streamed(store.uri("some/large.csv"), store.env, large, dsn, db)


def test_the_oracle_reads_what_a_load_reads(web: Any) -> None:
    uri, _ = web(False)
    assert expected_numbers.compute(uri).rows["raw.events"] == ROWS


def test_a_certificate_that_nobody_vouches_for_is_refused(web: Any) -> None:
    uri, _ = web(True)
    with pytest.raises(errors.EventsError) as caught:
        check_source(uri)
    assert type(caught.value) is errors.SourceUnreadable
    assert "certificate" in caught.value.what.lower()


def fails(uri: str, kind: type[errors.EventsError], what: str) -> None:
    with pytest.raises(errors.EventsError) as caught:
        check_source(uri)
    assert type(caught.value) is kind, caught.value
    assert what in caught.value.what


def test_what_is_wrong_with_an_object(store: Store) -> None:
    empty = store.put("some/empty.csv", b"")
    nothing, nowhere = store.uri("nothing.csv"), f"{store.scheme}://no-such-bucket/events.csv"
    fails(nothing, errors.SourceMissing, f"{nothing} does not exist.")
    fails(nowhere, errors.SourceMissing, f"{nowhere} does not exist.")
    fails(store.uri("some"), errors.SourceIsDirectory, f"{store.uri('some')} is a directory.")
    fails(empty, errors.SourceEmpty, f"{empty} is empty.")


def test_an_object_that_is_put_again_is_another(dsn: str, db: psycopg.Connection, store: Store) -> None:
    row = "{};created_account;7;2020-01-01 00:00:00;\n"
    uri = store.put("again.csv", (HEADER + row.format(1)).encode())
    assert load(uri, dsn).loaded == 1
    assert load(uri, dsn).same_as_load_id == 1
    store.put("again.csv", (HEADER + row.format(2)).encode())
    assert load(uri, dsn).same_as_load_id is None
    assert db.execute("select event_id from raw.events").fetchall() == [(2,)]


def test_an_object_that_changes_while_it_is_read(dsn: str, db: psycopg.Connection, store: Store) -> None:
    rows = "".join(f"{number};created_account;7;2020-01-01 00:00:00;\n" for number in range(500_000))
    uri = store.put("changing.csv", (HEADER + rows).encode())
    said: list[str] = []

    def say(text: str) -> None:
        if not said:
            store.put("changing.csv", (HEADER + rows.replace(";7;", ";8;")).encode())
        said.append(text)

    with pytest.raises(errors.SourceChanged) as caught:
        load(uri, dsn, report=say, report_every_s=0)
    assert caught.value.what == f"{uri} changed while it was read."
    assert db.execute("select count(*) from raw.events").fetchone() == (0,)

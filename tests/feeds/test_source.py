"""A file that can be read gives its lines; any other gives one clear error."""

import gzip
import hashlib
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import known_implementations

from feeds import errors
from feeds.formats import read
from feeds.lines import MAX_LINE_BYTES
from feeds.source import open_source
from tests.events_feed import EVENTS
from tests.feeds.common import check_source
from tests.servers import serving_folder

HEADER = b"event_id;event_type;professional_id_anonymized;created_at;meta_data"
CONTENT = HEADER + b"\n7;created_account;8;2020-01-31 00:00:00;\n"
ROW = b"7;created_account;8;2020-01-31 00:00:00;"


def rows(uri: str) -> list[tuple[int, bytes]]:
    with open_source(uri) as source:
        found: list[tuple[int, bytes]] = []
        for block in read(source, EVENTS).blocks:
            assert block.lines.endswith(b"\n")
            found += enumerate(block.lines.split(b"\n")[:-1], block.line_number)
        return found


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (HEADER, []),
        (HEADER + b"\n", []),
        (HEADER + b"\na\nb\n", [(2, b"a"), (3, b"b")]),
        (HEADER + b"\na\nb", [(2, b"a"), (3, b"b")]),
        (HEADER + b"\r\na\r\nb\r\n", [(2, b"a"), (3, b"b")]),
        (HEADER + b"\r\na\nb\r", [(2, b"a"), (3, b"b")]),
        (HEADER + b"\na\rb\n", [(2, b"a\rb")]),
        (b"\xef\xbb\xbf" + HEADER + b"\n\xef\xbb\xbfa\n", [(2, b"\xef\xbb\xbfa")]),
        (b"\n \r\n" + HEADER + b"\n\na\n", [(4, b""), (5, b"a")]),
        (b'"' + HEADER.replace(b";", b'";"') + b'"\na', [(2, b"a")]),
    ],
)
@pytest.mark.parametrize("compress", [False, True])
def test_lines(file: Path, content: bytes, expected: list[tuple[int, bytes]], compress: bool) -> None:
    file.write_bytes(gzip.compress(content) if compress else content)
    assert rows(str(file)) == expected


@pytest.mark.parametrize("excess", [-1, 0, 1, 2, 3, MAX_LINE_BYTES, 20 * MAX_LINE_BYTES])
def test_a_long_line_is_cut_and_the_next_is_whole(file: Path, excess: int) -> None:
    size = MAX_LINE_BYTES + excess
    file.write_bytes(b"\n".join([HEADER, b"x" * size, b"a", b"x" * size]))
    found = rows(str(file))
    assert [number for number, _ in found] == [2, 3, 4]
    assert found[1] == (3, b"a")
    for _, line in (found[0], found[2]):
        assert line == b"x" * len(line)
        assert len(line) == size if size <= MAX_LINE_BYTES else len(line) > MAX_LINE_BYTES
        assert len(line) <= 2 * MAX_LINE_BYTES


@pytest.mark.parametrize("compress", [False, True])
def test_size_and_hash_are_those_of_the_stored_bytes(file: Path, compress: bool) -> None:
    content = HEADER + b"\n" + os.urandom(3_000_000)
    file.write_bytes(gzip.compress(content) if compress else content)
    with open_source(str(file)) as source:
        for _ in read(source, EVENTS).blocks:
            pass
        assert source.size_bytes == file.stat().st_size
        assert source.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_any_uri(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_bytes(CONTENT)
    fsspec.filesystem("memory").pipe("/test_source/events.csv", CONTENT)
    monkeypatch.chdir(file.parent)
    with serving_folder(file.parent) as address:
        for uri in (str(file), "events.csv", file.as_uri(), "memory://test_source/events.csv", f"{address}/events.csv"):
            assert rows(uri) == [(2, ROW)], uri


@pytest.mark.parametrize("content", [b"x", CONTENT])
def test_the_source_is_closed(file: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_bytes(content)
    opened = []

    def open_(*args: Any, **options: Any) -> Any:
        opened.append(original(*args, **options))
        return opened[-1]

    original = LocalFileSystem.open
    monkeypatch.setattr(LocalFileSystem, "open", open_)
    with suppress(errors.WrongHeader):
        check_source(str(file))
    assert [stream.closed for stream in opened] == [True]


def check_fails(uri: str, kind: type[errors.FeedError], *words: str) -> None:
    """Check that opening URI raises exactly KIND, whose three lines contain WORDS."""
    with pytest.raises(kind) as caught:
        check_source(uri)
    error = caught.value
    assert type(error) is kind
    assert str(error).splitlines() == [error.what, error.why, error.next_step]
    assert all((error.what, error.why, error.next_step))
    for word in words:
        assert word in str(error)


def test_each_kind_of_error_has_its_own_exit_code() -> None:
    kinds = {kind for kind in errors.FeedError.__subclasses__() if kind.__module__ == "feeds.errors"}
    names = (
        "SourceMissing SourceEmpty WrongHeader SourceIsDirectory SchemePackageMissing SchemeUnknown InvertedInterval"
        " TooManyRejected EmptyReplacement SourceUnreadable WarehouseBusy IntervalUnreadable SourceChanged"
        " WarehouseGone WarehouseFull TablesUnfit ConstraintViolated LoadCancelled NotAllowed SettingUnusable"
    )
    numbers = dict(enumerate(names.split(), 10)) | {36: "ContractInvalid"}
    assert {kind.exit_code: kind.__name__ for kind in kinds} == numbers
    assert len(numbers) == len(kinds)


def test_a_missing_file(file: Path) -> None:
    check_fails(str(file), errors.SourceMissing, f"{file} does not exist.")
    check_fails("memory://test_source/missing.csv", errors.SourceMissing, "memory://test_source/missing.csv")
    file.touch()
    check_fails(f"{file}/events.csv", errors.SourceMissing, "does not exist.")
    with serving_folder(file.parent) as address:
        check_fails(f"{address}/missing.csv", errors.SourceMissing, f"{address}/missing.csv does not exist.")


@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0)])
def test_an_empty_file(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    check_fails(str(file), errors.SourceEmpty, f"{file} is empty.", HEADER.decode())


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"a;b;c\n", "'a;b;c'"),
        (ROW + b"\n" + CONTENT, repr(ROW.decode())),
        (HEADER.replace(b";", b","), "'event_id,event_type,professional_id_anonymized,created_at,meta_data'"),
        (CONTENT.decode().encode("utf-16"), "\\xff"),
        (b"x" * 3_000_000, f"'{'x' * 100}'"),
    ],
)
def test_another_header(file: Path, content: bytes, shown: str) -> None:
    file.write_bytes(content)
    check_fails(str(file), errors.WrongHeader, f"{file} does not begin with the header", shown, HEADER.decode())


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for uri in (str(tmp_path / "pipe"), "/dev/null"):
        check_fails(uri, errors.SourceUnreadable, f"{uri} is not a regular file.")


def test_percent_signs_of_a_file_uri_are_decoded(tmp_path: Path) -> None:
    (tmp_path / "my events é.csv").write_bytes(CONTENT)
    check_source((tmp_path / "my events é.csv").as_uri())
    (tmp_path / "50%20.csv").write_bytes(CONTENT)
    check_source(str(tmp_path / "50%20.csv"))  # not in a path


def test_a_directory(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe("/test_source/events.csv", CONTENT)
    for uri in (str(tmp_path), "", "memory://test_source"):
        check_fails(uri, errors.SourceIsDirectory, f"{uri} is a directory.".strip())


def test_an_unusable_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    check_fails("htps://host/events.csv", errors.SchemeUnknown, "htps://", "https, s3, gs")
    monkeypatch.setitem(known_implementations, "glacier", {"class": "glacierfs.Files", "err": "Sorry."})
    what = "glacier:// needs the package glacierfs, which is not installed."
    check_fails("glacier://b/a.csv", errors.SchemePackageMissing, what, "Add glacierfs", "`feeds`", "nox -s lock")


@contextmanager
def unprivileged() -> Iterator[None]:
    """Act as another user while this process is root, who may read everything."""
    if (user := os.geteuid()) == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_file_without_permission(file: Path) -> None:
    file.write_bytes(CONTENT)
    file.chmod(0)
    with unprivileged():
        words = f"{file} cannot be read", "Permission denied", "may not read it"
        check_fails(str(file), errors.SourceUnreadable, *words)


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_a_server_that_refuses(file: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """It may have the file, so this is not a missing one."""
    monkeypatch.setattr(SimpleHTTPRequestHandler, "send_head", lambda handler: handler.send_error(status))
    with serving_folder(file.parent) as address:
        check_fails(f"{address}/events.csv", errors.SourceUnreadable, "cannot be read", str(status))


def test_an_error_while_a_file_is_closed(file: Path) -> None:
    file.write_bytes(CONTENT)
    check_fails(f"blockcache::{file.as_uri()}", errors.SourceUnreadable, "cannot be read: ")


def test_a_server_that_does_not_answer() -> None:
    check_fails("http://127.0.0.1:9/events.csv", errors.SourceUnreadable, "cannot be read", "The connection")


def break_off(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """Make FILE a large one, of which a web server sends only a part."""
    file.write_bytes(HEADER + b"\n" + (ROW + b"\n") * 100_000)
    monkeypatch.setattr(SimpleHTTPRequestHandler, "copyfile", lambda _, file, to: to.write(file.read(3_000_000)))


def test_a_server_that_breaks_off(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_off(monkeypatch, file)
    with serving_folder(file.parent) as address, pytest.raises(errors.SourceUnreadable, match="cannot be read"):
        rows(f"{address}/events.csv")


WHOLE = gzip.compress(HEADER + b"\n" + b"\n".join(os.urandom(50).hex().encode() for _ in range(100_000)))


@pytest.mark.parametrize(
    "content",
    [
        WHOLE[: len(WHOLE) // 2],
        WHOLE[:-1],
        WHOLE[: len(WHOLE) // 2] + b"\0" * 1000 + WHOLE[len(WHOLE) // 2 + 1000 :],
        WHOLE + b"garbage",
    ],
    ids=["half", "last byte missing", "overwritten", "garbage at the end"],
)
def test_a_damaged_gzip_file(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(errors.SourceUnreadable, match="cannot be read") as caught:
        rows(str(file))
    assert caught.value.why == "It is a damaged gzip file, or was still being written."


@pytest.mark.parametrize("status", [301, 403, 404, 500, "no header", "breaks off", "refused"])
def test_no_secret_is_in_an_error_or_its_traceback(
    file: Path, monkeypatch: pytest.MonkeyPatch, status: int | str
) -> None:
    break_off(monkeypatch, file)
    if isinstance(status, int):
        monkeypatch.setattr(SimpleHTTPRequestHandler, "send_head", lambda handler: handler.send_error(status))
    if status == "no header":
        file.write_bytes(b"SECRET")
    with serving_folder(file.parent) as address:
        host = "127.0.0.1:9" if status == "refused" else address.removeprefix("http://")
        for uri in (
            f"http://{host}/events.csv?X-Amz-Signature=SECRET&X-Amz-Credential=SECRET%2Fus#SECRET",
            f"http://SECRET:SECRET%40SECRET@{host}/events.csv?hmac=SECRET",
            f"simplecache::http://{host}/events.csv?SECRET",
            f"http://SECRET:SECRET/SECRET@{host}/events.csv?hmac=SECRET",
        ):
            with pytest.raises(errors.FeedError, match=r"events\.csv") as caught:
                rows(uri)
            shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
            assert "SECRET" not in shown.replace("header of events: 'SECRET", "")
            assert f"{host}/events.csv?" in shown


@pytest.mark.parametrize("uri", ["SECRET:SECRET@htps://host/a.csv", "htps://SECRET:SECRET@host/a.csv?sig=SECRET"])
def test_no_secret_of_an_unknown_scheme_is_shown(uri: str) -> None:
    with pytest.raises(errors.SchemeUnknown) as caught:
        check_source(uri)
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))
    assert "htps://host/a.csv" in caught.value.what

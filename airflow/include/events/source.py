"""Read an events file from anywhere: a plain path or any URI that fsspec knows, gzipped or not, as a stream."""

import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, BinaryIO, cast

import fsspec

from events.errors import (
    EventsError,
    SchemePackageMissing,
    SchemeUnknown,
    SourceEmpty,
    SourceIsDirectory,
    SourceMissing,
    SourceUnreadable,
    WrongHeader,
)
from events.records import COLUMNS, MAX_LINE_BYTES, is_header, raw_text

_BLOCK_BYTES = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_GZIP_MAGIC = b"\x1f\x8b"
_SECRETS = re.compile(
    r"(://)[^/?#@\s]+(?=@)|([?&][^=&\s]*(?:sig|token|secret|key|password|credential)[^=&\s]*=)[^&\s]*", re.IGNORECASE
)


class _StoredBytes(io.RawIOBase):
    """The bytes as they are stored, counted and hashed as they pass."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size_bytes = 0
        self.hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._file.read(len(buffer))
        self.size_bytes += len(block)
        self.hash.update(block)
        buffer[: len(block)] = block
        return len(block)


class Source:
    """An open events file whose header was found right.

    Attributes:
        rows: the lines after the header that are not blank, once: line number (the file's first line is 1) and bytes
            without the line end. Of a line longer than MAX_LINE_BYTES one byte more than that is given.
            Raises SourceUnreadable.
    """

    def __init__(self, stored: _StoredBytes, rows: Iterator[tuple[int, bytes]]) -> None:
        self._stored = stored
        self.rows = rows

    @property
    def size_bytes(self) -> int:
        """The size of the file as it is stored, when `rows` is at its end."""
        return self._stored.size_bytes

    @property
    def sha256(self) -> str:
        """The SHA-256 of the file as it is stored, in hexadecimal, when `rows` is at its end."""
        return self._stored.hash.hexdigest()


@contextmanager
def open_source(uri: str) -> Iterator[Source]:
    """Open the events file at URI (a path or an fsspec URI) and check its header.

    Raises:
        SourceMissing, SourceIsDirectory, SourceEmpty, WrongHeader, SourceUnreadable: what is stored at URI.
        SchemeUnknown, SchemePackageMissing: nothing here reads such a URI.
    """
    with closing(_open(uri)) as file:
        stored = _StoredBytes(file)
        rows = _lines(stored, uri)
        if (first := next(rows, None)) is None:
            raise SourceEmpty(
                f"{redacted(uri)} is empty.",
                "Its export most likely failed or has not ended yet.",
                f"Export it again; a file without events has one line: {';'.join(COLUMNS)}",
            )
        if not is_header(first[1]):
            raise WrongHeader(
                f"{redacted(uri)} does not begin with the header of an events file: {raw_text(first[1][:100])!r}",
                "It is most likely another file, or was exported with other columns or another separator.",
                f"Give it the first line {';'.join(COLUMNS)}",
            )
        yield Source(stored, rows)


def check_source(uri: str) -> None:
    """Open the events file at URI, check its header, and close it.

    Raises:
        EventsError: as open_source.
    """
    with open_source(uri):
        pass


def redacted(text: str) -> str:
    """Return TEXT, a URI or a message with URIs, without the passwords and signatures in them."""
    return _SECRETS.sub(r"\1\2***", text)


def _open(uri: str) -> BinaryIO:
    scheme = fsspec.utils.get_protocol(uri)
    try:
        fsspec.get_filesystem_class(scheme)
    except ValueError as error:
        raise SchemeUnknown(
            f"No file system is known for {scheme}://, the scheme of {redacted(uri)}.",
            "The scheme is most likely misspelt.",
            "Use a plain path, or a scheme that fsspec knows: file, http, https, s3, gs, abfs, sftp …",
        ) from error
    except ImportError as error:
        package = getattr(error.__cause__, "name", None) or str(error)
        raise SchemePackageMissing(
            f"{scheme}:// needs the package {package}, which is not installed.",
            "The project installs what it uses; this scheme was not among it until now.",
            f"Add {package} to the dependency group `events` in pyproject.toml, then run: nox -s lock",
        ) from error
    with _translated_errors(uri):
        filesystem, path = fsspec.url_to_fs(uri)
        try:
            return cast(BinaryIO, filesystem.open(path, "rb"))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            if filesystem.isdir(path):
                raise SourceIsDirectory(
                    f"{redacted(uri)} is a directory.",
                    "The name of the file in it was most likely left out.",
                    "Name one file.",
                ) from error
            raise SourceMissing(
                f"{redacted(uri)} does not exist.",
                "The name is most likely misspelt, or the file has not arrived yet.",
                "Check the name; a relative path counts from the directory of the process that reads it.",
            ) from error


def _lines(stored: _StoredBytes, uri: str) -> Iterator[tuple[int, bytes]]:
    number = 0
    with _translated_errors(uri):
        buffered = io.BufferedReader(stored, _BLOCK_BYTES)
        is_gzip = buffered.peek(2).startswith(_GZIP_MAGIC)
        stream: io.BufferedIOBase = gzip.GzipFile(fileobj=buffered) if is_gzip else buffered
        limit = MAX_LINE_BYTES + len(b"\r\n")
        while line := stream.readline(limit):
            number += 1
            rest = line
            while not rest.endswith(b"\n") and (rest := stream.readline(limit)):
                pass  # the rest of a line that is too long
            if number == 1:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            line = line.removesuffix(b"\n").removesuffix(b"\r")[: MAX_LINE_BYTES + 1]
            if line.strip() or len(line) > MAX_LINE_BYTES:
                yield number, line


@contextmanager
def _translated_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except EventsError:
        raise
    except Exception as error:  # each file system has errors of its own; this is around calls of it only
        if isinstance(error, (EOFError, gzip.BadGzipFile, zlib.error)):
            why = "It is a gzip file that is damaged, or was still being written."
        elif isinstance(error, PermissionError):
            why = "The user of this process may not read it, or its credentials are missing."
        else:
            why = "The connection, the storage or the credentials most likely failed."
        raise SourceUnreadable(
            f"{redacted(uri)} cannot be read: {redacted(str(error)) or type(error).__name__}",
            why,
            "Make it readable and run the load again; nothing was changed.",
        ) from error

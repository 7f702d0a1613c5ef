"""Read a file as a stream, compressed or not, from a plain path or any URI that fsspec knows."""

import gzip
import hashlib
import io
import logging
import netrc
import os
import tempfile
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import fsspec

from feeds import errors
from feeds.lines import MAX_LINE_BYTES
from feeds.uri import shown, without_secrets

_BLOCK_BYTES = 1 << 18
_FETCHED_BYTES = 1 << 23  # per request to an object store; the default of some is 50 MB, twice in memory
_HTTP_SILENCE_S = 60
_TAGS = ("mtime", "ino", "ETag", "etag", "LastModified", "last_modified", "Last-Modified", "generation", "md5Hash")
_GZIP_MAGIC, _ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"

logger = logging.getLogger(__name__)


class _StoredBytes(io.RawIOBase):
    """The stored bytes, counted and hashed while they are read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size_bytes = 0
        self.is_text = True
        self.used = 1.0  # the share of them whose rows were read, if that comes later
        self.hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._file.read(len(buffer))
        self.size_bytes += len(block)
        self.hash.update(block)
        buffer[: len(block)] = block
        return len(block)


@dataclass(frozen=True)
class Source:
    """An open file.

    Attributes:
        uri: where it is.
        blocks: its lines in blocks, which end with a line end; can be read once. A line longer than MAX_LINE_BYTES may
            be cut, but not to MAX_LINE_BYTES or less. Raises SourceUnreadable, and at its end SourceChanged.
        whole: reads all of the file and returns it decompressed, to be read in any order, instead of `blocks`.
        verify: raises SourceChanged if the file is not as it was when it was opened; `blocks` does so at its end.
        total_bytes: the stored file's size, if it is known before reading.
    """

    uri: str
    _stored: _StoredBytes
    blocks: Iterator[bytes]
    whole: Callable[[], BinaryIO]
    verify: Callable[[], None]
    total_bytes: int | None

    @property
    def size_bytes(self) -> int:
        """The number of stored bytes read so far."""
        return self._stored.size_bytes

    @property
    def read_bytes(self) -> int:
        """The number of stored bytes whose rows were read so far."""
        return int(self.size_bytes * self._stored.used)

    def use(self, share: float) -> None:
        """Tell the SHARE of the whole file whose rows were read so far."""
        self._stored.used = share

    @property
    def text_bytes(self) -> int | None:
        """The size of the lines in bytes, if it is known once the first block was read."""
        return self.total_bytes if self._stored.is_text else None

    @property
    def sha256(self) -> str:
        """The SHA-256 of the stored file, in hexadecimal, once all of it was read."""
        return self._stored.hash.hexdigest()


def named(uri: str | None, variable: str = "<FEED>_URI") -> str:
    """Return URI, an argument or the value of VARIABLE, without its line end; raise SettingUnusable if it is blank."""
    if uri and uri.strip():
        return uri.rstrip("\r\n")
    raise errors.SettingUnusable(
        "No file was given.",
        f"The argument URI or {variable} must name one; a script most likely uses a variable that is not set.",
        f"Give a path or a URI; put one with a password or signature into {variable}: process lists show arguments.",
    )


@contextmanager
def open_source(uri: str) -> Iterator[Source]:
    """Open the file at URI, a path or an fsspec URI.

    Raises:
        SourceMissing, SourceIsDirectory, SourceUnreadable, SchemeUnknown, SchemePackageMissing: see there.
    """
    filesystem, path = file_system(uri)
    before = _identity(filesystem, path, uri)
    with ExitStack() as stack:
        file = stack.enter_context(_opened(filesystem, path, uri))
        stored = _StoredBytes(file)

        def verify(unreadable: Exception | None = None) -> None:
            is_whole = unreadable or before.get("size") in (None, stored.size_bytes)
            if _identity(filesystem, path, uri) != before or not is_whole:
                raise errors.SourceChanged(
                    f"{shown(uri)} changed while it was read.",
                    "Its export most likely has not finished, or another one has started.",
                    "Run the load again when the file is complete; nothing was changed.",
                ) from unreadable

        def blocks() -> Iterator[bytes]:
            try:
                yield from _blocks(stored, uri)
            except errors.SourceUnreadable as error:  # perhaps because the file was replaced or truncated
                verify(error)
                raise
            verify()

        def whole() -> BinaryIO:
            with translated_errors(uri):
                read = _reader(stored)
                if stored.is_text and filesystem.protocol == ("file", "local"):
                    while read(_BLOCK_BYTES):
                        pass
                    file.seek(0)
                    return file
                stored.is_text = False
                copy = cast(BinaryIO, stack.enter_context(tempfile.TemporaryFile()))
                while block := read(_BLOCK_BYTES):
                    copy.write(block)
                copy.seek(0)
                return copy

        yield Source(uri, stored, blocks(), whole, verify, before.get("size"))


def text_source(uri: str, text: bytes) -> Source:
    """Return the source with the lines TEXT, shown as URI."""
    stored = _StoredBytes(io.BytesIO(text))
    return Source(uri, stored, iter([text]), lambda: cast(BinaryIO, io.BytesIO(text)), lambda: None, None)


def size(uri: str) -> int | None:
    """Return the size of the stored file at URI in bytes, if it is known before reading.

    Raises:
        FeedError: as `open_source`, except for the file's content.
    """
    filesystem, path = file_system(uri)
    return cast("int | None", _identity(filesystem, path, uri).get("size"))


def digest(uri: str) -> tuple[int, str]:
    """Return the size in bytes and the SHA-256 (hexadecimal) of the stored file at URI.

    Raises:
        FeedError: as `open_source`, except for the header.
    """
    filesystem, path = file_system(uri)
    with _opened(filesystem, path, uri) as file, translated_errors(uri):
        stored = _StoredBytes(file)
        buffer = bytearray(_BLOCK_BYTES)
        while stored.readinto(buffer):
            pass
        return stored.size_bytes, stored.hash.hexdigest()


def file_system(uri: str) -> tuple[Any, str]:
    """Return the file system that reads URI, and the path there."""
    scheme = fsspec.utils.get_protocol(uri)
    try:
        fsspec.get_filesystem_class(scheme)
    except ValueError:
        raise errors.SchemeUnknown(
            f"The scheme of {shown(uri)} is unknown.",
            "It is most likely misspelt.",
            "Use a plain path, or a scheme that fsspec knows: file, http, https, s3, gs, abfs, sftp …",
        ) from None
    except ImportError as error:
        package = getattr(error.__cause__, "name", None) or str(error)
        raise errors.SchemePackageMissing(
            f"{scheme}:// needs the package {package}, which is not installed.",
            "The project installs only the packages of the schemes that it uses.",
            f"Add {package} to the dependency group `feeds` in pyproject.toml, then run: nox -s lock",
        ) from None
    with translated_errors(uri):
        options = http_options(uri) if scheme in ("http", "https") else {}
        filesystem, path = fsspec.url_to_fs(uri, **options)
        return filesystem, unquote(path) if uri.startswith("file://") else path


def http_options(uri: str) -> dict[str, Any]:
    """Return fsspec's options for URI, of HTTP or HTTPS; the environment's proxy and .netrc count, as for curl."""
    import aiohttp  # fsspec has imported it already; other schemes do not need it

    silence = aiohttp.ClientTimeout(sock_connect=_HTTP_SILENCE_S, sock_read=_HTTP_SILENCE_S)  # default: 5 min
    options: dict[str, Any] = {"client_kwargs": {"timeout": silence}}
    parts, proxies = urlsplit(uri), getproxies()
    login, _, address = parts.netloc.rpartition("@")
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    proxy = proxy if not proxy or "://" in proxy else f"http://{proxy}"
    if proxy and proxy.startswith(("http://", "https://")) and not proxy_bypass(address):  # aiohttp has no SOCKS
        options["proxy"] = proxy
    if not login and (found := _netrc_login(parts.hostname or "")):
        options["headers"] = {"Authorization": f"Basic {b64encode(':'.join(found).encode()).decode()}"}
    return options


def _netrc_login(host: str) -> tuple[str, str] | None:
    """Return the user and password for HOST in the file that NETRC names, by default ~/.netrc."""
    path = os.path.expanduser(os.environ.get("NETRC") or "~/.netrc")  # noqa: PTH111 - fails for no user
    try:
        found = netrc.netrc(path).hosts.get(host)  # without its `default`: a signed URL takes no login
    except FileNotFoundError:
        return None
    except (OSError, ValueError, netrc.NetrcParseError):  # their messages quote the file
        logger.warning("%s cannot be read, so it gives no password for %s", path, host)
        return None
    return (found[0] or "", found[2] or "") if found else None


@contextmanager
def _opened(filesystem: Any, path: str, uri: str) -> Iterator[BinaryIO]:
    file = _open(filesystem, path, uri)
    try:
        yield file
    finally:
        with translated_errors(uri):
            file.close()


def _open(filesystem: Any, path: str, uri: str) -> BinaryIO:
    with translated_errors(uri):
        try:
            # 0 means one request over HTTP: some servers do not support ranges.
            block_size = 0 if "http" in filesystem.protocol else _FETCHED_BYTES
            return cast(BinaryIO, filesystem.open(path, "rb", block_size=block_size))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _missing(filesystem, uri, error) from None


def _missing(filesystem: Any, uri: str, error: OSError) -> Exception:
    """Return the exception for ERROR, by which FILESYSTEM reports a missing file."""
    cause = error.__cause__
    if (
        "http" in filesystem.protocol
        and isinstance(cause, Exception)
        and getattr(cause, "status", None) not in (404, 410)
    ):
        return cause  # fsspec reports any failure as a missing file, such as an untrusted certificate
    return errors.SourceMissing(
        f"{shown(uri)} does not exist.",
        "The name is most likely misspelt, or the file has not arrived yet.",
        "Check the name; a relative path counts from the directory of the process that reads it.",
    )


def _identity(filesystem: Any, path: str, uri: str) -> dict[str, Any]:
    """Return the known properties that change when the file is written or replaced: size, time, tag."""
    with translated_errors(uri):
        try:
            info = filesystem.info(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _missing(filesystem, uri, error) from None
    if info.get("type") == "directory":
        raise errors.SourceIsDirectory(
            f"{shown(uri)} is a directory.", "The file's name was most likely left out.", "Name one file."
        )
    if info.get("type") == "other":
        raise errors.SourceUnreadable(
            f"{shown(uri)} is not a regular file.",
            "It is a pipe or a device, and a load may read a file twice.",
            "Save what it gives to a file, and load that file.",
        )
    times = _TAGS if "mtime" in info else (*_TAGS, "created")
    return {key: info[key] for key in ("size", *times) if info.get(key) is not None}


def _blocks(stored: _StoredBytes, uri: str) -> Iterator[bytes]:
    """Yield the file's lines in blocks; the last line gets a line end if it has none."""
    with translated_errors(uri):
        read = _reader(stored)
        begun = b""  # the start of a line that continues in the next block
        while block := read(_BLOCK_BYTES):
            lines, newline, rest = block.rpartition(b"\n")
            if newline:
                yield begun + lines + newline
                begun = rest
            elif len(begun) <= MAX_LINE_BYTES + 1:  # without its carriage return it may be short enough
                begun += rest
            if len(begun) > MAX_LINE_BYTES + 1:
                begun = begun[: MAX_LINE_BYTES + 2]
        if begun:
            yield begun + b"\n"


def _reader(stored: _StoredBytes) -> Callable[[int], bytes]:
    """Return the function that reads at most so many bytes of the file, decompressed; it returns none at the end."""
    buffered = io.BufferedReader(stored, _BLOCK_BYTES)
    start = buffered.peek(4)
    if start.startswith(_GZIP_MAGIC):
        stored.is_text = False
        return gzip.GzipFile(fileobj=buffered).read1
    if start.startswith(_ZSTD_MAGIC):
        import pyarrow as pa  # takes long, and Python has no zstd before 3.14

        stored.is_text = False
        return cast("Callable[[int], bytes]", pa.CompressedInputStream(pa.PythonFile(buffered, "r"), "zstd").read)
    return buffered.read1


@contextmanager
def translated_errors(uri: str) -> Iterator[None]:
    """Raise errors of reading URI as SourceUnreadable, without the cause: its traceback would show the whole URI."""
    try:
        yield
    except errors.FeedError:
        raise
    except Exception as error:  # noqa: BLE001 - each file system has its own errors, and only its calls are in here
        if isinstance(error, (EOFError, gzip.BadGzipFile, zlib.error)):
            why = "It is a damaged gzip file, or was still being written."
        elif "zstd" in str(error).lower() or "compressed stream" in str(error):
            why = "It is a damaged zstd file, or was still being written."
        elif isinstance(error, PermissionError):
            why = "The user of this process may not read it, or its credentials are missing."
        else:
            why = "The connection, the storage or the credentials most likely failed."
        message = without_secrets(str(error), uri)
        raise errors.SourceUnreadable(
            f"{shown(uri)} cannot be read: {message or type(error).__name__}",
            why,
            "Make it readable and run the load again; nothing was changed.",
        ) from None

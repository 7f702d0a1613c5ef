"""Find and read files, compressed or not, at a plain path or any URI that fsspec knows."""

import gzip
import hashlib
import io
import logging
import netrc
import os
import re
import tempfile
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO, cast
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import fsspec

from feeds import errors
from feeds.contract import PERIODS, TIME_IN_LOCATION
from feeds.interval import ALWAYS, Interval
from feeds.lines import MAX_LINE_BYTES
from feeds.uri import shown, without_secrets

_BLOCK_BYTES = 1 << 18
_FETCHED_BYTES = 1 << 23  # per request to an object store; the default of some is 50 MB, twice in memory
_HTTP_SILENCE_S = 60
_TAGS = ("mtime", "ino", "ETag", "etag", "LastModified", "last_modified", "Last-Modified", "generation", "md5Hash")
_GZIP_MAGIC, _ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
# Names that programs give to a file until it is complete.
_UNFINISHED = re.compile(
    r"(?:^|/)\.[^/]*$|(?:^|/)_temporary/|~$|\.(?:tmp|temp|part|partial|filepart|crdownload|download|inprogress|swp)$",
    re.IGNORECASE,
)
_MOST_PERIODS = 400  # that are looked for one by one; of more, all files are listed

logger = logging.getLogger(__name__)


class _StoredBytes(io.RawIOBase):
    """The stored bytes, counted and hashed while they are read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size_bytes = 0
        self.is_text = True
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
    def text_bytes(self) -> int | None:
        """The size of the lines in bytes, if it is known once the first block was read."""
        return self.total_bytes if self._stored.is_text else None

    @property
    def sha256(self) -> str:
        """The SHA-256 of the stored file, in hexadecimal, once all of it was read."""
        return self._stored.hash.hexdigest()


def named(uri: str | None, variable: str = "EVENTS_URI") -> str:
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
    filesystem, path = _find(uri)
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
            with _translated_errors(uri):
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


def find_files(
    uri: str, interval: Interval = ALWAYS, *, is_latest: bool = False, allow_missing: bool = False
) -> list[str]:
    """Return the files that URI names, in the order of their times and names.

    URI may be a pattern, and have `{start:…}` in it, the time in UTC at which the period of a file starts.

    Args:
        uri: a path, a pattern, or any fsspec URI.
        interval: of the load; it needs the files of its periods.
        is_latest: whether only the files of the last period are needed.
        allow_missing: whether periods may have no file.

    Raises:
        SourceMissing: no file matches, or a period has none.
        SourceChanged: a file is still being written, by its name.
    """
    if not (times := TIME_IN_LOCATION.findall(uri)):
        return _matching(uri)
    length = 1 + max(PERIODS.index(part) for part in re.findall("%.", "".join(times)))
    periods = _periods(interval, length)
    if periods is None or len(periods) > _MOST_PERIODS:
        found = _files_by_period(uri, length)
        if periods is None:
            periods = [period for period in sorted(found) if _overlap(period, length, interval)]
        found_in = {period: found.get(period, []) for period in periods}
    else:
        periods = periods[-1:] if is_latest else periods
        may_miss = allow_missing or _is_pattern(uri)
        found_in = {period: _matching(_at(uri, period), may_miss=may_miss) for period in periods}
    if is_latest:
        found_in = dict(list(found_in.items())[-1:])
    missing = [period for period in found_in if not found_in[period]]
    if not any(found_in.values()) or (missing and not allow_missing):
        first = _at(uri, missing[0]) if missing else uri
        raise errors.SourceMissing(
            f"No file matches {shown(first)}{f', nor {len(missing) - 1} others' if len(missing) > 1 else ''}.",
            "The file has not arrived yet, or the location in the contract is misspelt.",
            "Export it, if only its header: a time without a file would lose its rows, which allow_empty allows.",
        )
    return [file for files in found_in.values() for file in files]


def _periods(interval: Interval, length: int) -> list[datetime] | None:
    """Return the starts of the periods that INTERVAL has a part of; None if it has an open bound."""
    if interval.start is None or interval.end is None:
        return None
    periods = [_first_moment(interval.start, length)]
    while (following := _next(periods[-1], length)) < interval.end:
        periods.append(following)
    return periods


def _first_moment(moment: datetime, length: int) -> datetime:
    """Return the start of MOMENT's year, month, day or hour: LENGTH says how many of them count."""
    return _period((moment.year, moment.month, moment.day, moment.hour)[:length])


def _period(parts: Sequence[int]) -> datetime:
    year, month, day, hour = (*parts, *(1, 1, 1, 0)[len(parts) :])
    return datetime(year, month, day, hour, tzinfo=UTC)


def _next(period: datetime, length: int) -> datetime:
    step = (timedelta(366), timedelta(31), timedelta(1), timedelta(hours=1))[length - 1]
    return _first_moment(period + step, length)


def _overlap(period: datetime, length: int, interval: Interval) -> bool:
    return (interval.end is None or period < interval.end) and (
        interval.start is None or _next(period, length) > interval.start
    )


def _at(uri: str, period: datetime) -> str:
    return TIME_IN_LOCATION.sub(lambda found: period.strftime(found[1].replace("%Y", f"{period.year:04}")), uri)


def _files_by_period(uri: str, length: int) -> dict[datetime, list[str]]:
    """Return all files of URI by the start of their period."""
    digits = {"%Y": "[0-9]" * 4, "%m": "[0-9]" * 2, "%d": "[0-9]" * 2, "%H": "[0-9]" * 2}
    pieces = re.split(r"(\{start:[^{}]*\})", uri)
    parts, expression = [], ""
    for number, piece in enumerate(pieces):
        if number % 2 == 0:
            expression += _as_expression(piece if number else piece.rpartition("/")[2])  # a path may be relative
            continue
        for text in re.split("(%.)", piece[len("{start:") : -1]):
            parts += [text] if text in digits else []
            expression += f"({digits[text]})" if text in digits else re.escape(text)
    pattern = TIME_IN_LOCATION.sub(lambda found: re.sub("%.", lambda part: digits[part[0]], found[1]), uri)
    by_period: dict[datetime, list[str]] = {}
    for file in _matching(pattern):
        if not (found := re.search(f"(?:^|/){expression}$", file)):
            continue
        values = dict(zip(parts, found.groups(), strict=True))
        try:
            period = _period([int(values[part]) for part in PERIODS[:length]])
        except ValueError:  # no such day
            continue
        by_period.setdefault(period, []).append(file)
    return by_period


def _as_expression(pattern: str) -> str:
    """Return PATTERN, of the shell, as a regular expression."""
    return re.sub(
        r"\\\*\\\*/?|\\\*|\\\[(.*?)\\\]",
        lambda found: f"[{found[1]}]" if found[1] else ".*" if found[0].count("*") > 1 else "[^/]*",
        re.escape(pattern),
    )


def _is_pattern(uri: str) -> bool:
    return any(character in uri.partition("?")[0] for character in "*[") and "::" not in uri


def _matching(uri: str, *, may_miss: bool = False) -> list[str]:
    """Return the files that the pattern URI matches, by name; an URI without a pattern is not looked for."""
    is_pattern = _is_pattern(uri)
    if not is_pattern and not may_miss:
        return [uri]
    filesystem, path = _find(uri)
    with _translated_errors(uri):
        if filesystem.isfile(path):
            return [uri]
        found = filesystem.glob(path, detail=True) if is_pattern else {}
    names = sorted(name for name, info in found.items() if info.get("type") != "directory")
    if unfinished := next(filter(_UNFINISHED.search, names), None):
        raise errors.SourceChanged(
            f"{shown(uri)} matches {shown(unfinished)}, which is still being written.",
            "Its name is that of a file that a program has not finished, or has left behind.",
            "Run the load again when it is complete, or let the pattern not match it.",
        )
    if not names and not may_miss:
        raise errors.SourceMissing(
            f"No file matches {shown(uri)}.",
            "The pattern is most likely misspelt, or no file has arrived yet.",
            "Check the pattern; a relative path counts from the directory of the process that reads it.",
        )
    scheme = uri.partition("://")[0] if "://" in uri else ""
    return [_uri(name, scheme) for name in names]


def _uri(name: str, scheme: str) -> str:
    """Return the URI of the file NAME in a file system of SCHEME; without one, the path."""
    if not scheme or "://" in name:
        return name
    return f"{scheme}://{quote(name) if scheme == 'file' else name}"


def size(uri: str) -> int | None:
    """Return the size of the stored file at URI in bytes, if it is known before reading.

    Raises:
        EventsError: as `open_source`, except for the file's content.
    """
    filesystem, path = _find(uri)
    return cast("int | None", _identity(filesystem, path, uri).get("size"))


def digest(uri: str) -> tuple[int, str]:
    """Return the size in bytes and the SHA-256 (hexadecimal) of the stored file at URI.

    Raises:
        EventsError: as `open_source`, except for the header.
    """
    filesystem, path = _find(uri)
    with _opened(filesystem, path, uri) as file, _translated_errors(uri):
        stored = _StoredBytes(file)
        buffer = bytearray(_BLOCK_BYTES)
        while stored.readinto(buffer):
            pass
        return stored.size_bytes, stored.hash.hexdigest()


def _find(uri: str) -> tuple[Any, str]:
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
    with _translated_errors(uri):
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
        with _translated_errors(uri):
            file.close()


def _open(filesystem: Any, path: str, uri: str) -> BinaryIO:
    with _translated_errors(uri):
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
    with _translated_errors(uri):
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
    with _translated_errors(uri):
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
def _translated_errors(uri: str) -> Iterator[None]:
    """Raise errors of reading URI as SourceUnreadable, without the cause: its traceback would show the whole URI."""
    try:
        yield
    except errors.EventsError:
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

"""Find the files of a load: one URI, a pattern, or a URI with the time of its files in it."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from feeds import errors
from feeds.contract import PERIODS, TIME_IN_LOCATION, are_times
from feeds.interval import ALWAYS, Interval
from feeds.source import file_system, translated_errors
from feeds.uri import shown

# Names that programs give to a file until it is complete.
_UNFINISHED = re.compile(
    r"(?:^|/)\.[^/]*$|(?:^|/)_temporary/|~$|\.(?:tmp|temp|part|partial|filepart|crdownload|download|inprogress|swp)$",
    re.IGNORECASE,
)
_STEPS = (timedelta(366), timedelta(31), timedelta(1), timedelta(hours=1))  # of the periods, at most
_LONGEST = 100_000  # periods
_MOST_PERIODS = 400  # that are looked for one by one; of more, all files are listed


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
        SettingUnusable: URI has a time in it that is none.
    """
    if not is_by_period(uri):
        return _matching(uri)
    times = TIME_IN_LOCATION.findall(uri)
    if not are_times(uri):
        raise errors.SettingUnusable(
            f"{shown(uri)} has a part in braces that is no time.",
            "It is most likely misspelt.",
            "Write {start:%Y/%m/%d}: first %Y, then %m, %d and %H as far as there is a file for each.",
        )
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
            "Export it, if only its header: a load of no file at all is refused."
            if allow_missing
            else "Export it, if only its header: a time without a file would lose its rows, which allow_empty allows.",
        )
    return [file for files in found_in.values() for file in files]


def is_by_period(uri: str) -> bool:
    """Return whether URI names files by the time of their rows: a load then reads only those of its interval."""
    return TIME_IN_LOCATION.search(uri) is not None


def _periods(interval: Interval, length: int) -> list[datetime] | None:
    """Return the starts of the periods that INTERVAL has a part of; None if it has an open bound."""
    if interval.start is None or interval.end is None:
        return None
    if interval.end - interval.start > _LONGEST * _STEPS[length - 1]:
        raise errors.SettingUnusable(
            f"The interval is too long for {_LONGEST:,} files: {interval}.",
            "Each of its years, months, days or hours has a file, and its start or end is most likely misspelt.",
            "Load it in parts.",
        )
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
    try:
        return _first_moment(period + _STEPS[length - 1], length)
    except OverflowError:  # after the year 9999
        return datetime.max.replace(tzinfo=UTC)


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


def _matching(uri: str, *, may_miss: bool = False) -> list[str]:
    """Return the files that the pattern URI matches, by name; an URI without a pattern is not looked for."""
    is_pattern = _is_pattern(uri)
    if not is_pattern and not may_miss:
        return [uri]
    filesystem, path = file_system(uri)
    with translated_errors(uri):
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
    return [_named(uri, name) for name in names]


def _is_pattern(uri: str) -> bool:
    links, number = _links(uri)
    return any(character in links[number].partition("?")[0] for character in "*[")


def _named(uri: str, name: str) -> str:
    """Return URI for the file NAME of its file system."""
    links, number = _links(uri)
    scheme, mark, _ = links[number].partition("://")
    if mark and "://" not in name:
        name = f"{scheme}://{quote(name) if scheme == 'file' else name}"
    return "::".join([*links[:number], name, *links[number + 1 :]])


def _links(uri: str) -> tuple[list[str], int]:
    """Return URI's parts, which are several for a file in an archive, and the position of the one that names files."""
    links = uri.split("::")
    return links, next((number for number, link in enumerate(links) if "://" in link), 0)

"""The files of a feed, before a run."""

from collections.abc import Iterable

from feeds.contract import Feed
from feeds.files import find_files
from feeds.formats import read
from feeds.interval import ALWAYS, Interval
from feeds.source import open_source
from harness.project.paths import DATA


def check_files(feed: Feed, uri: str, interval: Interval = ALWAYS) -> None:
    """Open the first of FEED's files for INTERVAL at URI and read its header; raise FeedError if that cannot be."""
    with open_source(find_files(uri, interval, is_latest=feed.time_column is None)[0]) as source:
        read(source, feed)


def samples(feeds: Iterable[Feed]) -> dict[str, str]:
    """Return by feed the sample in `airflow/data`, where there is one: a contract may name files that are far away."""
    files = {feed.name: DATA / f"{feed.name}.{feed.format}" for feed in feeds}
    return {name: str(path) for name, path in files.items() if path.exists()}

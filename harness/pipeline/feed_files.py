"""The files of a feed, before a run."""

from feeds.contract import Feed
from feeds.formats import read
from feeds.source import find_files, open_source


def check_files(feed: Feed, uri: str) -> None:
    """Open the first of FEED's files at URI and read its header; raise EventsError if it is not there or no such file."""
    with open_source(find_files(uri)[0]) as source:
        read(source, feed)

"""A feed by its name, and what the environment says of it: <FEED>_URI and <FEED>_MAX_REJECTED, in capitals."""

import os
from argparse import ArgumentTypeError
from difflib import get_close_matches

from feeds.arguments import share
from feeds.contract import CONTRACTS, Feed, read_feed
from feeds.errors import SettingUnusable
from feeds.source import named
from feeds.uri import shown


def find_feed(name: str) -> Feed:
    """Return the feed NAME.

    Raises:
        SettingUnusable: there is no contract of this name.
        ContractInvalid: it is not valid.
    """
    names = sorted(path.stem for path in CONTRACTS.glob("*.yaml"))
    if name in names:
        return read_feed(CONTRACTS / f"{name}.yaml")
    similar = get_close_matches(name, names, n=1)
    raise SettingUnusable(
        f"There is no feed {shown(name)!r}.{f' Did you mean {similar[0]}?' if similar else ''}",
        f"A feed is a contract in airflow/feeds, and there are: {', '.join(names) or 'none'}",
        "Name one of them, or make one of a file: nox -s feed -- new NAME --from FILE",
    )


def variable(feed: Feed, name: str) -> str:
    """Return the name of FEED's variable NAME."""
    return f"{feed.name.upper()}_{name}"


def source_uri(feed: Feed, given: str | None = None) -> str:
    """Return the URI that is GIVEN, or else <FEED>_URI, or else the contract's.

    Raises:
        SettingUnusable: the first of them that is there is blank.
    """
    name = variable(feed, "URI")
    return named(os.environ.get(name, feed.location) if given is None else given, name)


def max_rejected(feed: Feed) -> float:
    """Return the share in <FEED>_MAX_REJECTED, or the contract's if that is not set or empty.

    Raises:
        SettingUnusable: it is no share.
    """
    name = variable(feed, "MAX_REJECTED")
    if not (text := os.environ.get(name, "").strip()):
        return feed.properties.max_rejected
    try:
        return share(text)
    except (ValueError, ArgumentTypeError):
        raise SettingUnusable(
            f"{name} is not a share from 0 to 1: {text!r}",
            "Somebody set it to another value in the environment.",
            "Set it to a number such as 0.01, or unset it: the contract then says how many rows may be rejected.",
        ) from None

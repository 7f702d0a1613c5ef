"""The arguments that several commands have: their options, types and errors."""

import argparse
import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import fields
from typing import Any
from urllib.parse import unquote

from feeds.arguments import Parser as ArgumentParser
from feeds.arguments import share
from feeds.contract import feed_names
from feeds.errors import SettingUnusable
from feeds.source import named
from feeds.uri import shown
from harness.errors import UsageError
from harness.project.paths import expanded
from harness.targets.options import RunOptions
from harness.warehouse.given import dsn_parts


class Parser(ArgumentParser):
    """A parser that raises UsageError for invalid arguments."""

    def usage_error(self, what: str) -> UsageError:
        """Return the error that says WHAT is invalid."""
        return invalid_arguments(what)


def invalid_arguments(what: str) -> UsageError:
    """Return the error for invalid arguments."""
    next_step = "The options are listed in docs/targets.md and, for dbt, in docs/add-a-model.md."
    return UsageError(what, "The option or its value is most likely misspelt.", next_step)


def shown_command(arguments: Iterable[str]) -> str:
    """Return ARGUMENTS as typed in a shell, without secrets."""
    return shlex.join(map(shown, arguments))


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a run that `nox -s e2e` and `nox -s cluster` share."""

    def add(option: str, metavar: str, text: str, **more: Any) -> None:
        parser.add_argument(option, metavar=metavar, help=text, **more)

    events_text = "the files of the feed events; of each feed by default <FEED>_URI, or those that its contract names"
    share_text = "the largest share of each feed's rows that may be rejected; by default that of its contract"
    values_text = "on a cluster: a values file for the chart that overrides the project's; may be repeated"
    add("--events", "PATH_OR_URI", events_text, type=absolute_uri)
    add("--max-rejected", "SHARE", share_text, type=share)
    add("--ui-port", "PORT", "the port of Airflow's UI; a free one by default", type=port)
    add("--values", "FILE", values_text, type=absolute_file, action="append", default=[])
    add(
        "--warehouse-dsn",
        "DSN",
        "target context: an administrator's DSN of a PostgreSQL, 14 to 18, that pods reach",
        type=dsn,
    )
    add(
        "--platform", "PLATFORM", "the images', e.g. linux/amd64; by default that of the cluster's nodes", type=platform
    )
    add("--registry", "PREFIX", "target context: where to push the images; without it the nodes must have them")
    pull_text = "target context: the secret with the registry's login, in that namespace, or NAMESPACE/NAME"
    add("--pull-secret", "NAME", pull_text)
    add("--namespace", "NAME", "target context: the namespace; events-platform by default")
    yes_text = "target context: drop an existing warehouse without asking"
    parser.add_argument("--yes", action="store_true", help=yes_text)
    add("--storage-class", "NAME", "target context: for the volume with task logs; the cluster's default if not set")


def run_options(parsed: argparse.Namespace, **more: Any) -> RunOptions:
    """Return the options of a run that were PARSED, and MORE fields."""
    uris = {feed: os.environ.get(f"{feed.upper()}_URI") for feed in feed_names()}
    found = {feed: absolute_uri(uri) for feed, uri in uris.items() if uri}
    found |= {"events": parsed.events} if parsed.events else {}
    values = vars(parsed) | {"values": tuple(parsed.values), "uris": found} | more
    return RunOptions(**{field.name: values[field.name] for field in fields(RunOptions) if field.name in values})


def absolute_uri(text: str) -> str:
    """Return a URI, a path made absolute: other processes have other working directories."""
    text = named(text)
    path = unquote(text.removeprefix("file://")) if text.startswith("file://") else text
    if "://" in path or "::" in path or shown(text) != text:  # a URI, or a path that looks as if it had a password
        return text
    return str(expanded(path).absolute())


def absolute_file(text: str) -> str:
    """Return the absolute path of a file."""
    if not expanded(text).is_file():
        raise argparse.ArgumentTypeError(f"{text} is not a file")
    return str(expanded(text).absolute())


def dsn(text: str) -> str:
    """Return a DSN that libpq can read. The error does not show another: it may be a password."""
    try:
        if dsn_parts(text):
            return text
    except SettingUnusable as error:
        raise UsageError(error.what, error.why, error.next_step) from None
    raise argparse.ArgumentTypeError("names no server")


def platform(text: str) -> str:
    """Return a platform of Linux images."""
    if not re.fullmatch(r"linux/[a-z0-9]+(/v\d)?", text):
        raise argparse.ArgumentTypeError(f"{text} is not a platform like linux/amd64")
    return text


def port(text: str) -> int:
    """Return a port, 1 to 65535."""
    if not 1 <= (value := int(text)) <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port from 1 to 65535")
    return value

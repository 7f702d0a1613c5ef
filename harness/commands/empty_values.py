"""Refuse empty options and variables: a script that leaves one empty would get everything, or somebody else's."""

import itertools
import os

from feeds.contract import feed_names
from feeds.uri import shown
from harness.errors import UsageError

VARIABLES = (
    "DBT_TARGET",
    *(f"{feed.upper()}_URI" for feed in feed_names()),
    *(f"WAREHOUSE_{name}" for name in ("HOST", "PORT", "DATABASE", "USER", "SCHEMA", "READER")),
)


def check_not_empty(arguments: list[str]) -> None:
    """Raise UsageError if one of ARGUMENTS, an option's value or one of VARIABLES is empty.

    Also for dbt's own arguments: with an empty selection it builds every model.
    """
    for before, argument in itertools.pairwise(["", *arguments]):
        option, is_value, value = argument.partition("=") if argument.startswith("--") else (before, True, argument)
        if is_value and not value.strip():
            raise _empty(shown(option) if option.startswith("-") else "An argument")
    for name in VARIABLES:
        if not os.environ.get(name, name).strip():
            raise _empty(name)


def _empty(name: str) -> UsageError:
    return UsageError(
        f"{name} is empty.",
        "A script most likely takes it from a variable that is not set.",
        "Give it a value, or leave it out to get the default.",
    )

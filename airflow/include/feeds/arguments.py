"""The parser of command lines, whose errors are three lines and show no secrets."""

import argparse
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any, NoReturn

from feeds.errors import SettingUnusable
from feeds.uri import without_secrets


class Parser(argparse.ArgumentParser):
    """A parser that raises `usage_error` where argparse would end the process."""

    def error(self, message: str) -> NoReturn:
        """Raise the error for MESSAGE, without the secrets of arguments in the wrong place."""
        what = without_secrets(message).removeprefix("argument ").rstrip(".")
        unknown = message.partition("unrecognized arguments: ")[2].split()
        raise self.usage_error(f"{what}.{self.suggestion(unknown)}")

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Refuse `--option=--`, which Python before 3.11.9 takes for an empty list (python/cpython#109475)."""
        if action.option_strings and arg_strings == ["--"]:
            self.error(f"argument {action.option_strings[0]}: expected one argument")
        return super()._get_values(action, arg_strings)

    def suggestion(self, arguments: Iterable[str]) -> str:
        """Return ` Did you mean --…?` if one of the unknown ARGUMENTS is similar to an option, else an empty text."""
        known = list(_options(self))
        for name in (argument.partition("=")[0] for argument in arguments):
            if name.startswith("--") and name not in known and (similar := get_close_matches(name, known, n=1)):
                return f" Did you mean {similar[0]}?"
        return ""

    def usage_error(self, what: str) -> Exception:
        """Return the error that says WHAT is invalid."""
        return SettingUnusable(
            what,
            "An option or its value is most likely misspelt, or in the wrong place.",
            f"See all options: {self.prog} --help",
        )


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the options of PARSER and of its commands."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _options(command)


def whole_number(text: str) -> int:
    """Return the number in TEXT that PostgreSQL can have as a bigint, not negative."""
    if not re.fullmatch("[0-9]{1,19}", text) or int(text) >= 1 << 63:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 to {(1 << 63) - 1}")
    return int(text)


def share(text: str) -> float:
    """Return the share, 0 to 1, in TEXT."""
    if not 0 <= (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share from 0 to 1")
    return value

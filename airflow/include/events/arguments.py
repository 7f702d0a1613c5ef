"""The parser of command lines, whose errors are three lines and show no secrets."""

import argparse
from typing import NoReturn

from events.errors import SettingUnusable
from events.uri import without_secrets


class Parser(argparse.ArgumentParser):
    """A parser that raises `usage_error` where argparse would end the process."""

    def error(self, message: str) -> NoReturn:
        """Raise the error for MESSAGE, without the secrets of arguments in the wrong place."""
        raise self.usage_error(without_secrets(message).removeprefix("argument ").rstrip(".") + ".")

    def usage_error(self, what: str) -> Exception:
        """Return the error that says WHAT is invalid."""
        return SettingUnusable(
            what,
            "An option or its value is most likely misspelt, or in the wrong place.",
            f"See all options: {self.prog} --help",
        )


def share(text: str) -> float:
    """Return the share, 0 to 1, in TEXT."""
    if not 0 <= (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share from 0 to 1")
    return value

"""Run what a session runs, with the session's posargs: `python -m harness.project.posargs MODULE [ARGUMENT]...`.

Posargs may contain secrets: a signed URL, a DSN. nox prints each command that it runs, and arguments are shown in the
list of processes. So they come in the environment, and processes that MODULE starts do not get them.

Needs only the standard library: some sessions run it before there is any environment.
"""

import json
import os
import runpy
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.project import os_errors, terminal

VARIABLE = "NOX_POSARGS"  # a JSON list


def split(posargs: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the version in `--python VERSION`, which every session takes, or None; and the other POSARGS."""
    rest, version = [], None
    arguments = iter(posargs)
    for argument in arguments:
        option, is_joined, value = argument.partition("=")
        if option == "--python":
            version = value if is_joined else next(arguments, "")
        else:
            rest.append(argument)
    return version, rest


def asks_for_help(posargs: Sequence[str]) -> bool:
    """Return whether POSARGS only ask which options there are."""
    return not {"--help", "-h"}.isdisjoint(posargs)


def main() -> None:
    """Run the module, or the file, that the first argument names, with the other arguments and posargs."""
    terminal.replace_unknown_characters()
    module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments, *json.loads(os.environ.pop(VARIABLE, "[]"))]
    try:
        if module.endswith(".py"):
            sys.path.insert(0, str(Path(module).resolve().parent))  # as Python does for a script
            runpy.run_path(module, run_name="__main__")
        else:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:  # before the module handles it: most likely Python was still importing
        print("✗ Interrupted by SIGINT.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except OSError as error:
        if not (explanation := os_errors.explain(error)):
            raise
        *lines, exit_code = explanation
        print("✗ " + "\n  ".join(map(str, lines)), file=sys.stderr)
        sys.exit(exit_code)


if __name__ == "__main__":
    main()

"""Run what a session runs, with the session's posargs: `python -m harness.project.posargs MODULE [ARGUMENT]...`.

Posargs may have secrets in them: a signed URL, a DSN. nox prints each command that it runs, and arguments are seen in
the list of processes. So they come in the environment, and no process that MODULE starts has them.

Needs the standard library alone: some sessions run it before there is any environment.
"""

import json
import os
import runpy
import sys

VARIABLE = "NOX_POSARGS"  # a JSON list


def main() -> None:
    """Run the module that the first argument names as a program, with the other arguments and posargs."""
    module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments, *json.loads(os.environ.pop(VARIABLE, "[]"))]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

"""Run mypy with the arguments that follow; tell on GitHub and in the summary what it finds."""

import os
import sys
from collections.abc import Sequence

from harness.processes.stream import stream
from harness.reporting.annotations import annotate
from harness.reporting.findings import read_types, tell
from harness.reporting.summary import Section


def main(arguments: Sequence[str]) -> int:
    """Run mypy with ARGUMENTS and return its exit code."""
    env = dict(os.environ)
    if sys.stdout.isatty():
        env.setdefault("MYPY_FORCE_COLOR", "1")
    with Section("types") as section:
        code, said = stream([sys.executable, "-m", "mypy", *arguments], env=env)
        if code:
            findings = read_types(said, "mypy")
            section.fail(
                f"mypy found {len(findings)} errors." if findings else f"mypy ended with exit code {code}.",
                "A change does not keep what the types promise." if findings else "It could not run; it says why.",
                "Mend the lines below, and see that nothing is left: nox -s types",
            )
            section.add(annotate(findings), *tell("mypy", findings, said))
        else:
            section.headline = said.strip().rpartition("\n")[2]
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

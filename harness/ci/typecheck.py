"""Run mypy with the arguments given, print a line for each error, and report them on GitHub and in the summary."""

import sys
from collections.abc import Sequence

from harness.reporting import findings
from harness.reporting.annotations import annotate
from harness.reporting.summary import Section


def main(arguments: Sequence[str]) -> int:
    """Run mypy with ARGUMENTS and return its exit code."""
    with Section("types") as section:
        result = findings.run("mypy", [sys.executable, "-m", "mypy", "--output", "json", *arguments], "mypy")
        result.print()
        errors = [finding for finding in result.findings if finding.message.startswith("error: ")]
        what = f"mypy found {len(errors) or 'no'} error{'s' if len(errors) != 1 else ''}"
        if result.exit_code and not errors:
            what = f"mypy ended with exit code {result.exit_code}"
        print(f"{'✗' if result.exit_code else '✓'} {what}")
        if result.exit_code:
            why = "A change made types wrong." if errors else "It could not run; its output says why."
            section.fail(f"{what}.", why, "Fix the lines below, and check again: nox -s types")
            section.add(annotate(errors), *result.markdown("mypy"))
        else:
            section.headline = what
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

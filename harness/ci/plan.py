"""Plan what a workflow runs: which sessions and which targets, made from `nox --list --json`.

A session's tags decide:

| tag | the session runs |
| --- | --- |
| `ci` | on every change, every night, and when it is asked for by hand |
| `nightly` | every night |
| `docs` | also where nothing but documentation changed |
| `target` | once per target, in the job `e2e` |
| `engine` | with the images and tools that an earlier run has kept |
| `pythons` | once more per Python of a distribution, in the job `python` |

How long a job may take is in `pyproject.toml`, `[tool.events-platform.minutes]`, the Pythons are beside it. The plan
goes to the terminal and to the file that GITHUB_OUTPUT names, as `sessions`, `targets` and `pythons`, each a list for a
job's matrix. Needs the standard library and nox alone: it runs before there is any environment.

    python -m harness.ci.plan --event push --base 0f3a… --target kind
"""

import argparse
import fnmatch
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.project.paths import ROOT
from harness.reporting.summary import Section, span, table

EVENTS = ("push", "pull_request", "schedule", "workflow_dispatch")
TARGETS = ("kind", "embedded")  # that a runner of GitHub's can bring up
TAGS = ("ci", "nightly", "docs")
DEFAULT_MINUTES = 30
# What no session but those with the tag `docs` reads. dbt's own Markdown is code, so it is not among these.
DOCUMENTATION = ("*.md", "LICENSE", "docs/*", ".github/*.md", ".github/ISSUE_TEMPLATE/*", ".github/CODEOWNERS")


class PlanError(Exception):
    """There is nothing to plan, or no way to; the message is one sentence."""


@dataclass(frozen=True)
class Session:
    """One job of the matrix `session`."""

    session: str
    minutes: int
    engine: bool


@dataclass(frozen=True)
class TargetRun:
    """One job of the matrix `e2e`."""

    target: str
    minutes: int


@dataclass(frozen=True)
class PythonRun:
    """One job of the matrix `python`."""

    session: str
    python: str
    minutes: int


@dataclass(frozen=True)
class Plan:
    """What a workflow runs, and why that."""

    sessions: list[Session]
    targets: list[TargetRun]
    pythons: list[PythonRun]
    why: str


def make(
    listed: Sequence[dict[str, Any]], settings: dict[str, Any], event: str, changed: list[str], target: str
) -> Plan:
    """Return the plan.

    Args:
        listed: the sessions, as `nox --list --json` prints them.
        settings: how many minutes a session may take, by name, and who ships which version of Python.
        event: one of EVENTS.
        changed: the paths that a change touches; empty if that is not known.
        target: where the end-to-end run is wanted; empty for what fits the event.

    Raises:
        PlanError: no session has the tag that is looked for.
    """
    tags, why = {"ci"}, f"everything with the tag ci, since this is a {event}"
    targets = [target] if target else ["kind"]
    if event == "schedule":
        tags, why, targets = {"ci", "nightly"}, "everything, and every target: it is night", list(TARGETS)
    elif event in ("push", "pull_request") and is_documentation(changed):
        tags, why, targets = {"docs"}, "what documentation can break: nothing else changed", []

    def limit(name: str) -> int:
        return int(settings["minutes"].get(name, DEFAULT_MINUTES))

    meant = [told for told in listed if tags & set(told["tags"])]
    if not meant:
        raise PlanError(f"No session of the noxfile has the tag {' or '.join(sorted(tags))}: there is nothing to run.")
    sessions = [
        Session(told["session"], limit(told["session"]), "engine" in told["tags"])
        for told in meant
        if "target" not in told["tags"]
    ]
    runs = (
        [TargetRun(name, limit("e2e")) for name in targets] if any("target" in told["tags"] for told in meant) else []
    )
    on_pythons = [
        PythonRun(told["session"], python, limit(told["session"]))
        for told in meant
        if "pythons" in told["tags"]
        for python in settings["pythons"]
    ]
    return Plan(sessions, runs, on_pythons, why)


def is_documentation(changed: Iterable[str]) -> bool:
    """Say whether CHANGED are paths of documentation alone; nothing is not."""

    def is_one(path: str) -> bool:
        return any(fnmatch.fnmatch(path, pattern) and ("/" in pattern or "/" not in path) for pattern in DOCUMENTATION)

    paths = list(changed)
    return bool(paths) and all(map(is_one, paths))


def changed_since(base: str) -> list[str]:
    """Return the paths that differ from where this history left the commit BASE; nothing if there is no such commit."""
    if not base.strip("0"):
        return []  # a branch's first push has no commit before it
    told = subprocess.run(
        [shutil.which("git") or "git", "diff", "--name-only", "--no-renames", "-z", f"{base}...HEAD", "--"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return [path for path in told.stdout.split("\0") if path] if told.returncode == 0 else []


def listed_sessions() -> list[dict[str, Any]]:
    """Return what `nox --list --json` prints of the sessions that a workflow may run.

    Raises:
        PlanError: nox fails, on a noxfile that cannot be read say.
    """
    # Without tags it lists the default sessions alone.
    argv = [sys.executable, "-m", "nox", "--list", "--json", "--noxfile", str(ROOT / "noxfile.py"), "--tags", *TAGS]
    told = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    if told.returncode:
        raise PlanError(
            f"nox cannot list the sessions: {(told.stderr.strip().splitlines() or ['it says nothing'])[-1]}"
        )
    sessions: list[dict[str, Any]] = json.loads(told.stdout)
    return sessions


def settings() -> dict[str, Any]:
    """Return how many minutes a session may take, by name, and the distribution that ships a Python, by version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return dict(project["tool"]["events-platform"])


def write(plan: Plan) -> None:
    """Write the plan to where a workflow reads it, and say it."""
    lists = {name: [asdict(job) for job in getattr(plan, name)] for name in ("sessions", "targets", "pythons")}
    if path := os.environ.get("GITHUB_OUTPUT"):
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(f"{name}={json.dumps(jobs)}\n" for name, jobs in lists.items())
    commands = [(f"nox -s {job.session}", job.minutes) for job in plan.sessions]
    commands += [(f"nox -s e2e -- --target {run.target}", run.minutes) for run in plan.targets]
    commands += [(f"nox -s {run.session} (Python {run.python})", run.minutes) for run in plan.pythons]
    print(f"The plan is {plan.why}.")
    for command, minutes in commands:
        print(f"  {command:<32} at most {minutes} minutes")
    with Section("plan") as section:
        rows = [(span(command), str(minutes)) for command, minutes in commands]
        section.add(f"The plan is {plan.why}.", table(("job", "minutes at most"), rows, numbers=("minutes at most",)))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `nox -s plan`."""
    parser.add_argument("--event", choices=EVENTS, default="push", help="what started the workflow")
    parser.add_argument("--base", default="", metavar="COMMIT", help="what the change is compared with")
    parser.add_argument("--target", default="", choices=["", *TARGETS], help="where the end-to-end run is wanted")


def main(arguments: Sequence[str]) -> int:
    """Make the plan and write it; return the exit code."""
    parser = argparse.ArgumentParser(prog="nox -s plan --", description="Plan what a workflow runs.")
    add_options(parser)
    options = parser.parse_args(arguments)
    try:
        write(make(listed_sessions(), settings(), options.event, changed_since(options.base), options.target))
    except PlanError as error:
        print(f"✗ {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

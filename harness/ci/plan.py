"""Plan the jobs of a workflow: which sessions, places and Pythons, from the output of `nox --list --json`.

A session's tags decide:

| tag | the session runs |
| --- | --- |
| `ci` | on every change, every night, and by hand |
| `nightly` | every night |
| `change` | on every pull request that changes more than documentation |
| `docs` | also when only documentation changed |
| `target` | once per place, in the job `e2e` |
| `engine` | with the images and tools that an earlier run has cached |
| `pythons` | once more on each supported Python, in the job `python` |

`places` in `cluster/versions.toml` says on which runners, targets and versions of Kubernetes `e2e` runs, and which of
these before a merge. `[tool.events-platform]` in `pyproject.toml` says how many minutes a job may take, and which
Pythons there are. The plan goes to the terminal and to the file that GITHUB_OUTPUT names, as `sessions`, `places` and
`pythons`, each a list for a job's matrix. Needs only the standard library and nox: it runs before there is any
environment.

    python -m harness.ci.plan --event push --base 0f3a… --place kind
"""

import argparse
import fnmatch
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.project.paths import ROOT
from harness.project.settings import places, settings
from harness.reporting.summary import Section, span, table

EVENTS = ("push", "pull_request", "merge_group", "schedule", "workflow_dispatch")
CHANGES = ("push", "pull_request", "merge_group")  # the events that have a base to compare with
TAGS = ("ci", "nightly", "docs", "change")
DEFAULT_MINUTES = 30
# The files that only sessions with the tag `docs` read. dbt's own Markdown is code and not among them.
DOCUMENTATION = ("*.md", "LICENSE", "docs/*", ".github/*.md", ".github/ISSUE_TEMPLATE/*", ".github/CODEOWNERS")


class PlanError(Exception):
    """No plan can be made; the message is one sentence."""


Job = dict[str, str | int | bool]  # an entry of a matrix


@dataclass(frozen=True)
class Plan:
    """The matrices of the workflow's jobs `session`, `e2e` and `python`, and why they are these."""

    sessions: list[Job]
    places: list[Job]
    pythons: list[Job]
    why: str


def make(
    listed: Sequence[dict[str, Any]],
    settings: dict[str, Any],
    places: dict[str, dict[str, str]],
    event: str,
    changed: list[str],
    *,
    place: str = "",
) -> Plan:
    """Return the plan for EVENT, with end-to-end runs in PLACE, or where that is empty in the event's own PLACES.

    LISTED are the sessions, as `nox --list --json` prints them; CHANGED the paths that a change touches, none if they
    are unknown. Raises PlanError if no session has a tag of the event.
    """
    tags, why = {"ci"}, f"everything with the tag ci, since this is a {event}"
    where = [place] if place else [name for name, of in places.items() if of.get("on") == "change"]
    if event == "schedule":
        tags, why, where = {"ci", "nightly"}, "everything in every place, since this is a schedule", list(places)
    elif event == "pull_request" and not is_documentation(changed):
        tags, why = {"ci", "change"}, f"everything with the tag ci or change, since this is a {event}"
    elif event in CHANGES and is_documentation(changed):
        tags, why, where = {"docs"}, "everything with the tag docs, since only documentation changed", []

    def limit(name: str) -> int:
        return int(settings["minutes"].get(name, DEFAULT_MINUTES))

    tags_of = {session["session"]: set(session["tags"]) for session in listed if tags & set(session["tags"])}
    if not tags_of:
        raise PlanError(f"No session of the noxfile has the tag {' or '.join(sorted(tags))}: there is nothing to run.")
    on_targets = [name for name, tags in tags_of.items() if "target" in tags]
    on_pythons = sum(limit(name) for name, tags in tags_of.items() if "pythons" in tags)
    return Plan(
        [
            {"session": name, "minutes": limit(name), "engine": "engine" in tags}
            for name, tags in tags_of.items()
            if name not in on_targets
        ],
        [
            {
                "place": place,
                "target": places[place]["target"],
                "runner": places[place]["runner"],
                "node": places[place].get("node", ""),
                "minutes": limit(name),
            }
            for name in on_targets
            for place in where
        ],
        [{"python": python, "minutes": on_pythons} for python in settings["pythons"] if on_pythons],
        why,
    )


def is_documentation(changed: Sequence[str]) -> bool:
    """Return whether CHANGED has paths, and only those of documentation."""
    return bool(changed) and all(
        any(fnmatch.fnmatch(path, pattern) and ("/" in pattern or "/" not in path) for pattern in DOCUMENTATION)
        for path in changed
    )


def changed_since(base: str) -> list[str]:
    """Return the paths that changed since this history left the commit BASE; none if there is no such commit."""
    if not base.strip("0"):
        return []  # a branch's first push has no commit before it
    done = subprocess.run(
        [shutil.which("git") or "git", "diff", "--name-only", "--no-renames", "-z", f"{base}...HEAD", "--"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return [path for path in done.stdout.split("\0") if path] if done.returncode == 0 else []


def listed_sessions() -> list[dict[str, Any]]:
    """Return the output of `nox --list --json` for what a workflow may run; raise PlanError if nox fails."""
    # Without tags it lists only the default sessions.
    argv = [sys.executable, "-m", "nox", "--list", "--json", "--noxfile", str(ROOT / "noxfile.py"), "--tags", *TAGS]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise PlanError(f"nox cannot list the sessions: {reason}")
    sessions: list[dict[str, Any]] = json.loads(done.stdout)
    return sessions


def write(plan: Plan) -> None:
    """Print the plan, and write it to the summary and to the file that the workflow reads."""
    if path := os.environ.get("GITHUB_OUTPUT"):
        with open(path, "a", encoding="utf-8") as file:
            for name in ("sessions", "places", "pythons"):
                file.write(f"{name}={json.dumps(getattr(plan, name))}\n")
    rows = [(f"nox -s {job['session']}", job["minutes"]) for job in plan.sessions]
    rows += [(f"the job e2e ({job['place']})", job["minutes"]) for job in plan.places]
    rows += [(f"the job python ({job['python']})", job["minutes"]) for job in plan.pythons]
    print(f"The plan is {plan.why}.")
    for command, minutes in rows:
        print(f"  {command:<32} at most {minutes} minutes")
    with Section("plan") as section:
        cells = [(span(command), minutes) for command, minutes in rows]
        section.add(f"The plan is {plan.why}.", table(("job", "minutes at most"), cells, numbers=("minutes at most",)))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `nox -s plan`."""
    parser.add_argument("--event", choices=EVENTS, default="push", help="the event that started the workflow")
    parser.add_argument("--base", default="", metavar="COMMIT", help="the commit to compare the change with")
    parser.add_argument("--place", default="", choices=["", *places()], help="where the end-to-end run runs")


def main(arguments: Sequence[str]) -> int:
    """Make the plan and write it; return the exit code."""
    parser = argparse.ArgumentParser(prog="nox -s plan --", description="Print the jobs that a workflow runs.")
    add_options(parser)
    options = parser.parse_args(arguments)
    try:
        changed = changed_since(options.base)
        write(make(listed_sessions(), settings(), places(), options.event, changed, place=options.place))
    except PlanError as error:
        print(f"✗ {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

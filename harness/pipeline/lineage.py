"""The OpenLineage events of the runs: where they go, and what is checked of them.

Each event is a file of its own, since several processes that append to one file may tear each other's lines.
"""

import contextlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from feeds.lineage import client_variables, is_configured, is_disabled, transport
from feeds.uri import shown
from harness.errors import ChecksFailedError
from harness.project.paths import BUILD
from harness.reporting.console import say

EVENTS = BUILD / "lineage" / "events.ndjson"
NAMESPACE = "events-platform"
PREFIX = "event"
MARTS = ("dim", "fact", "analysis")  # schemas
VIEWS = "staging."  # whose rows nobody counts
Dataset = tuple[str, str]  # namespace and name
Event = Mapping[str, Any]
Found = tuple[list[Event], list[str]]  # events, and a line for each file that has none


def elsewhere(environ: Mapping[str, str]) -> str:
    """Return where the events of a run go, as ENVIRON says; nothing if they go to files of the run."""
    if is_disabled(environ):
        return "nowhere, as OPENLINEAGE_DISABLED says"
    if is_configured(environ):
        return f"to {shown(environ.get('OPENLINEAGE_URL') or 'where OpenLineage is configured')}"
    return ""


def variables(environ: Mapping[str, str], folder: str | Path) -> dict[str, str]:
    """Return the variables by which all that runs emits its events: as ENVIRON says, by default to files in FOLDER.

    Airflow's provider gets the limit of time for a server that loads and dbt have by themselves.
    """
    to_files = {"OPENLINEAGE__TRANSPORT__TYPE": "file", "OPENLINEAGE__TRANSPORT__LOG_FILE_PATH": f"{folder}/{PREFIX}"}
    in_time = {"AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(limited)} if (limited := transport(environ)) else {}
    namespace = {"OPENLINEAGE_NAMESPACE": NAMESPACE}
    return namespace | ({} if is_configured(environ) else to_files) | in_time | client_variables(environ)


def forget() -> None:
    """Remove EVENTS, those of an earlier run: they would be taken for those of the one that begins."""
    with contextlib.suppress(OSError):
        EVENTS.unlink(missing_ok=True)


def of_run(folders: Callable[[], Sequence[Path]], since: datetime) -> Found | None:
    """Return what `collect` finds, which calls FOLDERS; None if the events are elsewhere."""
    found = [] if elsewhere(os.environ) else folders()
    return collect(found, since) if found else None


def collect(folders: Iterable[Path], since: datetime) -> Found:
    """Write those events in FOLDERS to EVENTS, a line each, whose root run has begun at SINCE or later.

    Return them, and a line for each file that has no event: a process that was killed may have written half of one.
    If EVENTS cannot be written, say so: the run's own result, and what the events say, matter more.
    """
    found, damaged = read(folders)
    events = of_runs_since(found, since)
    try:
        EVENTS.parent.mkdir(parents=True, exist_ok=True)
        EVENTS.write_text("".join(f"{json.dumps(event, ensure_ascii=False)}\n" for event in events), encoding="utf-8")
    except OSError as error:
        forget()  # it may have some
        say(f"  the lineage events cannot be kept: {error}")
    return events, damaged


def read(folders: Iterable[Path]) -> Found:
    """Return the events in the files of FOLDERS by their time, and a line for each file that has none."""
    events: list[Event] = []
    damaged = []
    for path in (path for folder in folders for path in sorted(folder.glob(f"{PREFIX}-*.json"))):
        try:
            event = json.loads(path.read_bytes())
            for needed in (event_time, run_id, root_of):
                needed(event)
            events.append(event)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            damaged.append(f"{path.name}: {type(error).__name__}: {error}")
    return sorted(events, key=event_time), damaged


def of_runs_since(events: Iterable[Event], since: datetime) -> list[Event]:
    """Return those of EVENTS, which are in the order of time, whose root run has its first one at SINCE or later."""
    first: dict[str, datetime] = {}
    of_root = [(root_of(event) or run_id(event), event) for event in events]
    for root, event in of_root:
        first.setdefault(root, event_time(event))
    return [event for root, event in of_root if first[root] >= since]


def event_time(event: Event) -> datetime:
    """Return the time of EVENT; one without a time zone, which `invalid` names, is taken for UTC."""
    time = datetime.fromisoformat(event["eventTime"])
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def of_dag_runs(events: Sequence[Event], runs: Mapping[str, str]) -> list[Event]:
    """Return those of EVENTS that belong to RUNS, ids of DAG runs by DAG, or to what these have started."""
    roots = {
        run_id(event)
        for event in events
        if (facet := event["run"]["facets"].get("airflowDagRun"))
        and runs.get(facet["dagRun"]["dag_id"]) == facet["dagRun"]["run_id"]
    }
    return [event for event in events if run_id(event) in roots or root_of(event) in roots]


def run_id(event: Event) -> str:
    """Return the id of the run of EVENT."""
    return str(event["run"]["runId"])


def parent_of(event: Event) -> str | None:
    """Return the id of the parent run of EVENT; None if it has none."""
    parent = event["run"].get("facets", {}).get("parent")
    return str(parent["run"]["runId"]) if parent else None


def root_of(event: Event) -> str | None:
    """Return the id of the root run of EVENT, for example that of the DAG run; None if it has none."""
    root = event["run"].get("facets", {}).get("parent", {}).get("root")
    return str(root["run"]["runId"]) if root else None


def invalid(events: Iterable[Event]) -> list[str]:
    """Return a line for each of EVENTS that lacks what the standard requires of a run event and of its facets."""
    lines = []
    for event in events:
        try:
            _check(event)
        except (KeyError, TypeError, ValueError) as error:
            job = event.get("job")
            name = job.get("name") if isinstance(job, dict) else None
            lines.append(f"{event.get('eventType')} of {name}: {type(error).__name__}: {error}")
    return lines


def _check(event: Event) -> None:
    if datetime.fromisoformat(event["eventTime"]).tzinfo is None:
        raise ValueError("eventTime has no time zone")
    if event["eventType"] not in ("START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"):
        raise ValueError(f"eventType {event['eventType']}")
    UUID(event["run"]["runId"])
    _check_uris(event, "producer", "schemaURL")
    datasets = [*event.get("inputs", []), *event.get("outputs", [])]
    for named in (event["job"], *datasets):
        if not (named["namespace"] and named["name"]):
            raise ValueError("a job or a dataset has no name")
    for part in (event["run"], event["job"], *datasets):
        for kind in ("facets", "inputFacets", "outputFacets"):
            for facet in part.get(kind, {}).values():
                _check_uris(facet, "_producer", "_schemaURL")


def _check_uris(part: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if not urlsplit(part[name]).scheme:
            raise ValueError(f"{name} is no URI: {part[name]}")


def orphans(events: Sequence[Event]) -> list[str]:
    """Return a line for each run of EVENTS whose parent or root has no event, or that has none but is no DAG run."""
    known = {run_id(event) for event in events}
    lines = set()
    for event in events:
        job, parent = event["job"]["name"], parent_of(event)
        if parent is None and "airflowDagRun" not in event["run"].get("facets", {}):
            lines.add(f"{job} has no parent")
        elif parent is not None and not {parent, root_of(event)} <= known:
            lines.add(f"the parent of {job} has no event")
    return sorted(lines)


@dataclass(frozen=True)
class Graph:
    """Which dataset is made of which: `made_of` has the direct sources of each."""

    made_of: Mapping[Dataset, set[Dataset]]

    def sources(self, dataset: Dataset) -> set[Dataset]:
        """Return all that DATASET is made of, directly or not."""
        found: set[Dataset] = set()
        open_ones = [dataset]
        while open_ones:
            new = self.made_of.get(open_ones.pop(), set()) - found
            found |= new
            open_ones += new
        return found

    def files(self) -> set[Dataset]:
        """Return what is no table, and nothing is made into."""
        sources = {source for several in self.made_of.values() for source in several}
        return {dataset for dataset in sources - self.made_of.keys() if not is_table(dataset)}

    def marts(self) -> list[Dataset]:
        """Return the tables of the marts, also those that dbt's target `test` builds."""
        schemas = {*MARTS, *(f"test_{schema}" for schema in MARTS)}
        return sorted(dataset for dataset in self.made_of if dataset[1].split(".")[-2] in schemas)


def graph(events: Iterable[Event]) -> Graph:
    """Return what the runs of EVENTS that ended well have made of what."""
    made_of: dict[Dataset, set[Dataset]] = defaultdict(set)
    for event in events:
        if event["eventType"] == "COMPLETE":
            sources = {dataset_of(source) for source in event.get("inputs", [])}
            for output in event.get("outputs", []):
                made_of[dataset_of(output)] |= sources
    return Graph(made_of)


def is_table(dataset: Dataset) -> bool:
    """Return whether DATASET is a table or a view, and not a file."""
    return dataset[0].startswith("postgres://")


def dataset_of(part: Mapping[str, Any]) -> Dataset:
    """Return the namespace and the name of PART, an input or an output of an event."""
    return part["namespace"], part["name"]


def row_counts(events: Iterable[Event]) -> dict[str, set[int]]:
    """Return by table, as schema.name, how many rows the runs of EVENTS say that they have written; no views."""
    counts: dict[str, set[int]] = defaultdict(set)
    for event in events:
        if event["eventType"] == "COMPLETE":
            for output in event.get("outputs", []):
                statistics = output.get("outputFacets", {}).get("outputStatistics", {})
                if (rows := statistics.get("rowCount")) is not None:
                    counts[".".join(output["name"].split(".")[-2:])].add(rows)
    return counts


def check(events: Sequence[Event], first_runs: Mapping[str, str], expected: Mapping[str, int]) -> str:
    """Return what the EVENTS of a deployment show; raise ChecksFailedError if they are invalid or incomplete.

    FIRST_RUNS are the ids of the DAG runs, by DAG, that have loaded the whole files into an empty warehouse; afterwards
    each table had as many rows as EXPECTED.
    """
    of_first = of_dag_runs(events, first_runs)
    found = graph(of_first)
    marts, files = found.marts(), found.files()
    counts = row_counts(of_first)
    wrong = [
        *invalid(events),
        *orphans(events),
        *(f"{mart[1]} is not made of a file" for mart in marts if not found.sources(mart) & files),
        *(
            f"no event says of which file {table} is made"
            for table in expected
            if not any(found.sources(made) & files for made in found.made_of if made[1].endswith(f".{table}"))
        ),
        *(
            f"{table} has {rows:,} rows, and the events of the first run say {_text(counts.get(table, set()))}"
            for table, rows in expected.items()
            if rows and not table.startswith(VIEWS) and counts.get(table) != {rows}
        ),
    ]
    if wrong or not marts:
        wrong = wrong or ["no event says how a mart is made"]
        raise ChecksFailedError(
            f"The lineage events are not those of the runs: {wrong[0]}.",
            "An event was lost, or the load, dbt and Airflow name the same thing differently since a change.",
            f"Look at {EVENTS.relative_to(BUILD.parent)} and docs/lineage.md.",
            ["\n".join(f"- {line}" for line in wrong)] if len(wrong) > 1 else [],
        )
    names = sorted({name.rsplit("/", 1)[-1] for _, name in files})
    shown = " and ".join(names) if len(names) <= 2 else f"{len(names)} files"
    return f"lineage: {len(marts)} marts are reached from {shown}, {len(events)} events"


def _text(counts: Iterable[int]) -> str:
    return ", ".join(f"{rows:,}" for rows in sorted(counts)) or "nothing"

"""Files, tables and exposures of the runs, as the lineage events have them, for the report."""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from feeds.errors import FeedError
from harness.pipeline.lineage import Event, dataset_of, event_time, is_table
from harness.processes.git import git
from harness.project.paths import ROOT
from harness.reporting.report.run import Dataset

MOST_FILES = 3  # of one table; more are shown as one
MANY = 200  # columns of a dataset that are kept


def datasets(events: Iterable[Event], rows: Mapping[str, int], root: Path = ROOT) -> list[Dataset]:
    """Return all that the runs of EVENTS which ended well have read or made, by name; ROWS are counted, by table.

    Of a model also the last commit in the clone at ROOT that changed its SQL, of a feed's table that of its contract.
    """
    ended = [event for event in events if event["eventType"] == "COMPLETE"]
    names = _names(ended)
    found: dict[str, _Found] = defaultdict(_Found)
    files_of: dict[str, set[str]] = defaultdict(set)  # by the feed's table, the first of what a load makes
    changes = last_changes(root)
    for event in ended:
        facets = event["job"].get("facets", {})
        is_test = facets.get("jobType", {}).get("jobType") == "TEST"
        sources = {names[dataset_of(part)]: part for part in event.get("inputs", [])}
        for name, part in sources.items():
            found[name].add(part)
        if is_test or not (outputs := event.get("outputs")):
            continue
        feed_table = names[dataset_of(outputs[0])]
        if files := {name for name in sources if found[name].is_file}:
            files_of[feed_table] |= files
            found[feed_table].changed = changes.get(f"airflow/feeds/{feed_table.rpartition('.')[2]}.yaml", "")
        for part in outputs:
            made = found[names[dataset_of(part)]]
            made.add(part)
            made.sources |= sources.keys()
            made.built_at = event_time(event)
            path = facets.get("dbt_node", {}).get("original_file_path", "")
            made.changed = changes.get(f"dbt/{path}", made.changed)
    several = {
        file: f"{len(files)} files of {table}"
        for table, files in files_of.items()
        if len(files) > MOST_FILES
        for file in files
    }
    return sorted(
        [
            *{
                several.get(name, name): _dataset(several.get(name, name), each, names, several, rows)
                for name, each in found.items()
            }.values(),
            *_exposures(found),
        ],
        key=lambda dataset: dataset.name,
    )


class _Found:
    """What several events say of one dataset."""

    def __init__(self) -> None:
        self.is_file = False
        self.facets: dict[str, Any] = {}
        self.sources: set[str] = set()
        self.rows: int | None = None
        self.built_at: datetime | None = None
        self.changed = ""

    def add(self, part: Mapping[str, Any]) -> None:
        """Add what PART, an input or an output of an event, says."""
        self.is_file = not is_table(dataset_of(part))
        self.facets |= part.get("facets", {})
        for kind, statistics in (("inputFacets", "inputStatistics"), ("outputFacets", "outputStatistics")):
            rows = part.get(kind, {}).get(statistics, {}).get("rowCount")
            self.rows = self.rows if rows is None else rows


def _names(events: Iterable[Event]) -> dict[tuple[str, str], str]:
    """Return a name for people for each dataset of EVENTS: `fact.fct_events`, `events.csv`.

    Files with the same name in several folders keep these.
    """
    keys = {dataset_of(part) for event in events for part in (*event.get("inputs", []), *event.get("outputs", []))}
    files = {key: key[1].rstrip("/").rpartition("/")[2] or key[1] for key in keys if not is_table(key)}
    counts = Counter(files.values())
    return {
        key: (files[key] if counts[files[key]] == 1 else key[1]) if key in files else key[1].partition(".")[2] or key[1]
        for key in keys
    }


def _dataset(
    name: str,
    found: _Found,
    names: Mapping[tuple[str, str], str],
    several: Mapping[str, str],
    rows: Mapping[str, int],
) -> Dataset:
    lineage = found.facets.get("columnLineage", {}).get("fields", {})
    return Dataset(
        name,
        "file" if found.is_file else "table",
        description=_words(found.facets.get("documentation", {}).get("description")),
        columns=tuple(
            (
                str(column["name"]),
                str(column.get("type") or ""),
                _words(column.get("description")),
                _origin(lineage.get(column["name"], {}), names, several),
            )
            for column in found.facets.get("schema", {}).get("fields", [])[:MANY]
        ),
        made_of=tuple(sorted({several.get(source, source) for source in found.sources})),
        rows=rows.get(name, found.rows) if name not in several.values() else None,
        built_at=found.built_at,
        changed=found.changed,
    )


def _words(description: object) -> str:
    """Return a DESCRIPTION, whose YAML may have broken it into lines, as one."""
    return " ".join(str(description or "").split())


def _origin(field: Mapping[str, Any], names: Mapping[tuple[str, str], str], several: Mapping[str, str]) -> str:
    """Return the columns that a column comes from, by the FIELD of the facet `columnLineage`."""
    sources = [
        (names.get(dataset_of(source), source["name"]), source["field"]) for source in field.get("inputFields", [])
    ]
    columns = dict.fromkeys(f"{several.get(name, name)}: {column}" for name, column in sources)
    return ", ".join([*columns][:MOST_FILES])


def _exposures(found: Mapping[str, _Found]) -> list[Dataset]:
    """Return the exposures that read those FOUND."""
    made_of: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, each in sorted(found.items()):
        for exposure in each.facets.get("dbt_exposures", {}).get("exposures", []):
            made_of[exposure["name"], exposure["type"]].append(name)
    return [
        Dataset(name, "exposure", f"{'An' if kind[:1] in 'aeiou' else 'A'} {kind} of dbt.", made_of=tuple(sources))
        for (name, kind), sources in made_of.items()
    ]


def last_changes(root: Path) -> dict[str, str]:
    """Return by file of dbt's models and the feeds' contracts the last commit that changed it: day, hash, subject.

    Empty where that is not known: there is no git, or the clone has only some of the commits.
    """
    changes: dict[str, str] = {}
    with contextlib.suppress(FeedError, OSError):
        if git(root, "rev-parse", "--is-shallow-repository") == "true":
            return {}
        places = ("dbt/models", "airflow/feeds")
        # Of a merge those files that differ from both sides, as when a conflict was resolved in it.
        options = ("-c", "--name-only", "--format=%x00%cs %h %s")
        project = git(root, "rev-parse", "--show-prefix")  # within the clone: `--relative` is not for merges
        log = git(root, "-c", "core.quotePath=false", "log", *options, "--", *places)
        for commit in log.split("\0")[1:]:
            subject, *files = commit.split("\n")
            for file in filter(None, files):
                changes.setdefault(file.removeprefix(project), subject)
    return changes

"""Emit the OpenLineage events of a load, and tell dbt which task it runs for.

Where events go, the client's own variables say: OPENLINEAGE_URL, or OPENLINEAGE__TRANSPORT__TYPE and its like. Without
them nothing is emitted. No failure here fails a load or a task: it is logged as a warning.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict

from feeds.contract import HISTORY, Feed
from feeds.errors import FeedError
from feeds.ledger import LoadedFile, LoadResult
from feeds.uri import shown

PRODUCER = "urn:events-platform:feeds"
NAMESPACE = "OPENLINEAGE_NAMESPACE"
# What dbt reads, and OpenLineage's other integrations: `namespace/job/run` of the run that starts them.
PARENT, ROOT = "OPENLINEAGE_PARENT_ID", "OPENLINEAGE_ROOT_PARENT_ID"
POSTGRES_PORT = "5432"
SECRET = re.compile("KEY|AUTH|TOKEN|SECRET|PASSWORD|HEADERS", re.IGNORECASE)  # in the name of a variable
# What each load writes beside the feed's table, and the models read.
LEDGER = ("loads", "loaded_days", "loaded_files")

# Of OPENLINEAGE_URL the client makes a transport of this name. By itself it tries a server that does not answer for 9 s
# at each event. One that says that it is busy is tried once more, at once.
TRANSPORT = {
    "type": "composite",
    "continue_on_failure": False,
    "transports": {
        "default_http": {
            "timeout": 1.0,  # seconds
            "retry": {"total": 1, "connect": 0, "read": 0, "respect_retry_after_header": False},
        }
    },
}

logger = logging.getLogger(__name__)


def transport(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the transport to the server of ENVIRON with a limit of time; none if ENVIRON itself describes one."""
    describes = environ.get("OPENLINEAGE_CONFIG") or environ.get("OPENLINEAGE__TRANSPORT__TYPE")
    return TRANSPORT if environ.get("OPENLINEAGE_URL") and not describes else {}


def is_on(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether ENVIRON says where events go; otherwise the client would print them."""
    return is_configured(environ) and not is_disabled(environ)


def is_configured(environ: Mapping[str, str]) -> bool:
    """Return whether ENVIRON describes where events go, whether any are emitted or not."""
    configured = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG", "OPENLINEAGE__TRANSPORT")
    return any(value and name.startswith(configured) for name, value in environ.items())


def is_disabled(environ: Mapping[str, str]) -> bool:
    """Return whether ENVIRON says that nobody emits events."""
    return environ.get("OPENLINEAGE_DISABLED", "").strip().lower() in ("true", "1", "t")


def client_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of ENVIRON that the client reads."""
    return {name: value for name, value in environ.items() if name.startswith("OPENLINEAGE_")}


def without_secrets(variables: Mapping[str, str]) -> dict[str, str]:
    """Return VARIABLES without those that may have a key or a login, which no pod's specification has."""
    return {name: value for name, value in variables.items() if not SECRET.search(name) and "@" not in value}


def parents(context: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables that name the task of CONTEXT, Airflow's, as a parent; none if no events are emitted."""
    ti = context.get("ti")
    if not is_on() or ti is None:  # a replay has no Airflow
        return {}
    try:
        from airflow.providers.openlineage.plugins.macros import lineage_parent_id, lineage_root_parent_id

        return {PARENT: lineage_parent_id(ti), ROOT: lineage_root_parent_id(ti)}
    except Exception as error:  # noqa: BLE001 - lineage is no reason to fail
        logger.warning("the task has no id for lineage: %s", type(error).__name__)
        return {}


@dataclass
class LoadRun:
    """One run of a load.

    Attributes:
        dsn: the warehouse's; events have nothing secret of it, nor of the source's URI.
        parent: the task that it runs for, as `parents` returns it.
        files: those that it has read to their ends.
        result: None until it has succeeded.
    """

    feed: Feed
    dsn: str
    source_uri: str
    parent: Mapping[str, str]
    files: list[LoadedFile] = field(default_factory=list)
    result: LoadResult | None = None


@contextmanager
def emitted(run: LoadRun) -> Iterator[None]:
    """Emit an event before RUN and one after it, which has the files and the result that the caller has set."""
    if not is_on():
        yield
        return
    emitter = _Emitter(run)
    emitter.emit("START")
    try:
        yield
    except BaseException as error:  # an interrupt too
        emitter.emit("FAIL", error)
        raise
    emitter.emit("COMPLETE")


class _Emitter:
    """Emits the events of one run."""

    def __init__(self, run: LoadRun) -> None:
        self.run = run
        self.client: Any = None
        self.run_id = ""

    def emit(self, state: str, error: BaseException | None = None) -> None:
        """Emit the event of STATE, a name of the standard, or log that it is lost."""
        try:
            from openlineage.client import OpenLineageClient
            from openlineage.client.uuid import generate_new_uuid

            self.client = self.client or OpenLineageClient(config={"transport": transport()})
            self.run_id = self.run_id or str(generate_new_uuid())
            self.client.emit(event(self.run, self.run_id, state, error))
        except Exception as failure:  # noqa: BLE001 - lineage is no reason to fail
            # Its text may contain the address of the server, with a login in it.
            cause = type(failure.__cause__ or failure).__name__
            logger.warning("the load's lineage event %s is lost: %s", state, cause)


def event(run: LoadRun, run_id: str, state: str, error: BaseException | None = None) -> Any:
    """Return the event of RUN, whose id is RUN_ID, in STATE; ERROR is why it failed."""
    from openlineage.client import event_v2 as ol
    from openlineage.client import facet_v2 as facets

    namespace = os.environ.get(NAMESPACE) or "default"
    run_facets: dict[str, Any] = {
        "processing_engine": facets.processing_engine_run.ProcessingEngineRunFacet(
            version="1", name="events-platform load"
        )
    }
    if parent := _parent(run.parent):
        run_facets["parent"] = parent
    if run.result:
        run_facets["feeds_load"] = _figures(run.result)
    if error:
        # Messages of foreseen errors have no secrets; a driver's may quote a DSN.
        message = str(error) if isinstance(error, FeedError) else type(error).__name__
        run_facets["errorMessage"] = facets.error_message_run.ErrorMessageRunFacet(
            message=message, programmingLanguage="Python"
        )
    job_facets: dict[str, Any] = {
        "jobType": facets.job_type_job.JobTypeJobFacet(processingType="BATCH", integration="FEEDS", jobType="LOAD")
    }
    is_over = state != "START"
    return ol.RunEvent(
        eventType=ol.RunState[state],
        eventTime=datetime.now(UTC).isoformat(),
        run=ol.Run(runId=run_id, facets=_ours(run_facets)),
        job=ol.Job(namespace=namespace, name=f"load.{run.feed.name}", facets=_ours(job_facets)),
        inputs=_inputs(run) if is_over else [],
        outputs=_outputs(run) if run.result else [],
        producer=PRODUCER,
    )


def file_dataset(uri: str) -> tuple[str, str]:
    """Return namespace and name of the file at URI, as OpenLineage names datasets, without secrets."""
    text = shown(uri)
    scheme, separator, rest = text.partition("://")
    if not separator or scheme == "file":
        return "file", str(Path(rest if separator else text).absolute())
    if "::" in text:  # zip://a.csv::s3://bucket/file: no one server has it
        return scheme, text
    authority, _, path = rest.partition("/")
    # The key of an object, and the path on a server.
    return f"{scheme}://{authority}", path if scheme in ("s3", "gs", "abfs", "abfss") else f"/{path}"


def warehouse_dataset(dsn: str) -> tuple[str, str]:
    """Return the namespace of the tables of the warehouse at DSN, and its database; as dbt's events name them."""
    parts = conninfo_to_dict(dsn)
    host, port = str(parts.get("host") or ""), str(parts.get("port") or POSTGRES_PORT)
    return f"postgres://{host}:{port}", str(parts.get("dbname") or parts.get("user") or "")


def _ours(found: dict[str, Any]) -> dict[str, Any]:
    """Return the facets FOUND as this project's; in a task they would be the provider's."""
    for facet in found.values():
        facet._producer = PRODUCER
    return found


def _parent(ids: Mapping[str, str]) -> Any:
    from openlineage.client.facet_v2 import parent_run

    found = [text.split("/") for name in (PARENT, ROOT) if (text := ids.get(name))]
    if len(found) < 2 or any(len(parts) != 3 for parts in found):
        return None
    (namespace, job, run_id), (root_namespace, root_job, root_run_id) = found
    return parent_run.ParentRunFacet(
        run=parent_run.Run(runId=run_id),
        job=parent_run.Job(namespace=namespace, name=job),
        root=parent_run.Root(
            run=parent_run.RootRun(runId=root_run_id),
            job=parent_run.RootJob(namespace=root_namespace, name=root_job),
        ),
    )


def _figures(result: LoadResult) -> Any:
    """Return a facet of this project's own with the figures of RESULT."""
    import attr
    from openlineage.client.facet_v2 import RunFacet

    names = ("load_id", "read", "loaded", "rejected", "outside", "replaced", "absent", "same_as_load_id")
    facet = attr.make_class("LoadRunFacet", [*names, "reasons"], bases=(RunFacet,), kw_only=True)
    return facet(**{name: getattr(result, name) for name in (*names, "reasons")})


def _inputs(run: LoadRun) -> list[Any]:
    from openlineage.client import event_v2 as ol
    from openlineage.client import facet_v2 as facets

    if not run.files:  # it has failed before it had read one
        namespace, name = file_dataset(run.source_uri)
        return [ol.InputDataset(namespace=namespace, name=name)]
    # How many rows each of several files has is not counted.
    rows = run.result.read if run.result and len(run.files) == 1 else None
    return [
        ol.InputDataset(
            *file_dataset(file.uri),
            facets=_ours({"version": facets.dataset_version_dataset.DatasetVersionDatasetFacet(file.sha256)}),
            inputFacets=_ours(
                {
                    "inputStatistics": facets.input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
                        rowCount=rows, size=file.size_bytes
                    )
                }
            ),
        )
        for file in run.files
    ]


def _outputs(run: LoadRun) -> list[Any]:
    from openlineage.client import event_v2 as ol
    from openlineage.client import facet_v2 as facets

    assert run.result
    namespace, database = warehouse_dataset(run.dsn)
    inputs = [file_dataset(file.uri) for file in run.files]

    def table(name: str, rows: int | None = None, **dataset_facets: Any) -> Any:
        statistics = facets.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=rows)
        return ol.OutputDataset(
            namespace=namespace,
            name=f"{database}.raw.{name}",
            facets=_ours(dataset_facets),
            outputFacets={} if rows is None else _ours({"outputStatistics": statistics}),
        )

    schema = facets.schema_dataset.SchemaDatasetFacet(
        fields=[
            facets.schema_dataset.SchemaDatasetFacetFields(name=column.name, type=column.sql_type)
            for column in run.feed.columns
        ]
    )
    columns = _column_lineage(run.feed, inputs)
    others: Sequence[str] = [*LEDGER, *[run.feed.name + HISTORY] * run.feed.properties.history]
    return [
        table(run.feed.name, run.result.loaded, schema=schema, columnLineage=columns),
        table("rejected_rows", run.result.rejected),
        *map(table, others),
    ]


def _column_lineage(feed: Feed, inputs: Sequence[tuple[str, str]]) -> Any:
    from openlineage.client.facet_v2 import column_lineage_dataset as lineage

    return lineage.ColumnLineageDatasetFacet(
        fields={
            column.name: lineage.Fields(
                inputFields=[
                    lineage.InputField(namespace=namespace, name=name, field=column.header)
                    for namespace, name in inputs
                ]
            )
            for column in feed.columns
        }
    )

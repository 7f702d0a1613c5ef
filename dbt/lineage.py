"""The OpenLineage events of a dbt run, made from the files that it has written.

Where they go, the client's own variables say: OPENLINEAGE_URL, or OPENLINEAGE__TRANSPORT__TYPE and its like. Without
them there are none. No failure here fails a run: it is printed.
"""

import logging
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# As in feeds.lineage: by itself the client tries a server that does not answer for 9 s, at each event.
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
MOST_FAILURES = 2  # of a server that has taken an event of the run; one that does not take the first gets no others
COMMANDS = ("build", "run", "test", "seed", "snapshot")  # of which OpenLineage's integration makes events


def is_on() -> bool:
    """Return whether the environment says where events go; otherwise the client would print them."""
    if os.environ.get("OPENLINEAGE_DISABLED", "").strip().lower() in ("true", "1", "t"):
        return False
    configured = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG", "OPENLINEAGE__TRANSPORT")
    return any(value and name.startswith(configured) for name, value in os.environ.items())


def transport() -> dict[str, Any]:
    """Return the transport to a server with a limit of time; none if the environment itself describes one."""
    describes = os.environ.get("OPENLINEAGE_CONFIG") or os.environ.get("OPENLINEAGE__TRANSPORT__TYPE")
    return TRANSPORT if os.environ.get("OPENLINEAGE_URL") and not describes else {}


class DbtRun:
    """A run of dbt with ARGUMENTS. Making it imports what it needs, which the warehouse's lock need not wait for."""

    def __init__(self, arguments: list[str]) -> None:
        self.is_on = is_on() and arguments[0] in COMMANDS
        self.started = datetime.max.replace(tzinfo=UTC)
        self.events: list[Any] = []
        if self.is_on:
            try:
                import openlineage.common.provider.dbt.local
                import openlineage.common.provider.dbt.utils  # noqa: F401
            except ImportError as error:
                self.is_on = False
                _lost(error)

    def begin(self) -> None:
        """Say that dbt begins now; files that are older are those of the run before."""
        self.started = datetime.now(UTC)

    def read(self, succeeded: bool) -> None:
        """Make the events from dbt's files, which the next run overwrites: call it before that may begin."""
        if not self.is_on:
            return
        try:
            self.events = self._events(succeeded)
        except Exception as error:  # noqa: BLE001 - lineage is no reason to fail
            _lost(error)

    def emit(self) -> None:
        """Emit the events, which may wait for a server."""
        if not self.events:
            return
        sent = 0
        failures: list[BaseException] = []
        try:
            from openlineage.client import OpenLineageClient

            client = OpenLineageClient(config={"transport": transport()})
            for event in self.events:
                try:
                    client.emit(event)
                    sent += 1
                except Exception as error:  # noqa: BLE001 - lineage is no reason to fail
                    failures.append(error.__cause__ or error)
                    if not sent or len(failures) == MOST_FAILURES:
                        break
            client.close()
        except Exception as error:  # noqa: BLE001 - lineage is no reason to fail
            failures.append(error)
        if failures:
            _lost(failures[0], f", {len(self.events) - sent} of {len(self.events)}")

    def _events(self, succeeded: bool) -> list[Any]:
        from openlineage.client import event_v2 as ol
        from openlineage.client.facet_v2 import job_type_job
        from openlineage.client.uuid import generate_new_uuid
        from openlineage.common.provider.dbt.facets import ParentRunMetadata
        from openlineage.common.provider.dbt.local import DbtLocalArtifactProcessor
        from openlineage.common.provider.dbt.utils import PRODUCER, generate_run_event, get_parent_run_metadata

        namespace = os.environ.get("OPENLINEAGE_NAMESPACE") or "default"
        logger = logging.getLogger("openlineage.dbt")
        processor = DbtLocalArtifactProcessor(
            producer=PRODUCER,
            job_namespace=namespace,
            project_dir=os.environ["DBT_PROJECT_DIR"],
            target=os.environ.get("DBT_TARGET") or None,
            skip_errors=True,
            logger=logger,
        )
        run_id = str(generate_new_uuid(self.started))
        parent = get_parent_run_metadata()
        root = (
            (parent.root_parent_run_id, parent.root_parent_job_name, parent.root_parent_job_namespace)
            if parent
            else (run_id, processor.job_name, namespace)
        )
        processor.dbt_run_metadata = ParentRunMetadata(
            run_id,
            processor.job_name,
            namespace,
            root_parent_run_id=root[0],
            root_parent_job_name=root[1],
            root_parent_job_namespace=root[2],
        )

        def of_run(state: Any, time: datetime) -> Any:
            facet = job_type_job.JobTypeJobFacet("BATCH", "DBT", jobType="JOB", producer=PRODUCER)
            return generate_run_event(
                state,
                time.isoformat(),
                run_id,
                processor.job_name,
                namespace,
                job_facets={"jobType": facet},
                run_facets={"parent": parent.to_openlineage()} if parent else {},
            )

        results = Path(processor.run_result_path)
        # A run that failed early has written none, and those of the run before are there.
        is_written = results.exists() and results.stat().st_mtime >= self.started.timestamp()
        end = ol.RunState.COMPLETE if succeeded else ol.RunState.FAIL
        return [
            of_run(ol.RunState.START, self.started),
            *(processor.parse().events() if is_written else []),
            of_run(end, datetime.now(UTC)),
        ]


def _lost(error: BaseException, which: str = "") -> None:
    # Its text may contain the address of a server, with a login in it.
    print(f"dbt's lineage events are lost{which}: {type(error).__name__}", file=sys.stderr)

"""Make the Airflow task that runs dbt: a pod on a cluster, a process elsewhere.

| environment variable | meaning |
| --- | --- |
| `DBT_IMAGE` | the project's dbt image; if it is set, dbt runs in a pod of this image |
| `DBT_NAMESPACE` | the namespace of that pod; by default the worker's own |
| `DBT_PYTHON` | otherwise: the Python of dbt's environment |
| `DBT_PROJECT_DIR` | otherwise: the folder of the dbt project, which has `run.py` |

dbt's own settings (`WAREHOUSE_…`, `DBT_…`) come from the worker's environment, or on a cluster from the secret
`warehouse-transformer`.
"""

import logging
import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator, task

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 30.0
# Of dbt/run.py: a model or test failed, dbt could not run, a variable is invalid, the lock cannot be taken, no login.
LASTING_EXIT_CODES = {1, 2, 32, 34, 35}

# Airflow's own; the state of each model names its run.
RUN_VARIABLES = ("AIRFLOW_CTX_DAG_ID", "AIRFLOW_CTX_DAG_RUN_ID")


class DbtFailedError(RuntimeError):
    """dbt failed, and would fail again."""


class DbtEndedError(RuntimeError):
    """dbt was ended, or the warehouse was not available; another try may succeed."""


def failure(code: int | None, where: str, reason: str | None = None) -> DbtFailedError | DbtEndedError:
    """Return the error for dbt in WHERE, a process or a pod, that ended with exit CODE, negative for a signal."""
    kind = DbtFailedError if code in LASTING_EXIT_CODES else DbtEndedError
    shown = "without an exit code" if code is None else f"with exit code {code}"
    if code is not None and (code < 0 or code > 128):
        with suppress(ValueError):
            shown = f"by {signal.Signals(-code if code < 0 else code - 128).name}"
    reason = f" ({reason})" if reason not in (None, "Error") else ""
    return kind(f"dbt ended {shown} in {where}{reason}; see the lines above")


def dbt_task(task_id: str, *arguments: str) -> BaseOperator | Any:
    """Return the task TASK_ID that runs `dbt ARGUMENTS`; call it inside a DAG."""
    if image := os.environ.get("DBT_IMAGE"):
        from feeds.dbt_pod import dbt_pod

        return dbt_pod(task_id, image, arguments, os.environ.get("DBT_NAMESPACE") or None)

    @task(task_id=task_id, execution_timeout=timedelta(hours=1))
    def run_dbt(ti: Any = None) -> None:  # Airflow gives it
        from feeds.lineage import parents

        argv = [os.environ["DBT_PYTHON"], str(Path(os.environ["DBT_PROJECT_DIR"]) / "run.py"), *arguments]
        run_process(argv, parents({"ti": ti}))

    return run_dbt()


def run_process(argv: list[str], variables: Mapping[str, str] = {}) -> None:
    """Run dbt with only its own environment variables and VARIABLES, and log each line of its output.

    Raises:
        DbtFailedError, DbtEndedError: its exit code is not 0; see `failure`.
    """
    passed_on = {
        name: value
        for name, value in os.environ.items()
        if name in ("HOME", "LANG", "PATH", "TMPDIR", "TZ", *RUN_VARIABLES)
        or name.startswith(("DBT_", "OPENLINEAGE_", "WAREHOUSE_", "PGSSL"))
    } | dict(variables)
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=passed_on)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            log.info("%s", line.rstrip("\n"))
        code = process.wait()
    finally:
        if process.poll() is None:  # the task was stopped; dbt then releases its locks
            process.terminate()
            try:
                process.communicate(timeout=STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if code:
        raise failure(code, "its process")

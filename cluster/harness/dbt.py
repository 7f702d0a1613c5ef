"""Run dbt on an ephemeral warehouse with the sample loaded: what `nox -s dbt` does.

Without arguments it is `dbt build`, then the documentation as one static page, `build/dbt-docs/index.html`.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from events.load import load
from events.tables import create_tables
from harness.console import Phases, say
from harness.environment import only_one, python_of
from harness.errors import DbtFailedError
from harness.paths import BUILD, ROOT, SAMPLE
from harness.postgres import describe
from harness.warehouse import Warehouse, create_warehouse, ephemeral_server, make_passwords

ARTIFACTS = BUILD / "dbt"
DOCS = BUILD / "dbt-docs"


def run(arguments: Sequence[str], dsn: str | None) -> None:
    """Run dbt with ARGUMENTS on the server that DSN names, or on an ephemeral one; nothing of it is left.

    Raises:
        PostgresError, ServiceFailedError: there is no PostgreSQL.
        DbtFailedError: dbt failed; its output says why.
    """
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    phases = Phases()
    with only_one(ARTIFACTS / ".lock", "which runs dbt in this clone"), ephemeral_server(dsn) as server:
        say(f"✓ {describe(server)}")
        warehouse = create_warehouse(server, "warehouse", make_passwords())
        with phases.phase("sample loaded") as phase:
            create_tables(warehouse.loader_dsn)
            phase.text = f"sample loaded: {load(str(SAMPLE), warehouse.loader_dsn).loaded:,} events"
        if arguments:
            run_dbt(arguments, warehouse)
            return
        run_dbt(["build"], warehouse)
        run_dbt(["docs", "generate", "--static", "--quiet"], warehouse)
        DOCS.mkdir(parents=True, exist_ok=True)
        shutil.copy(ARTIFACTS / "target" / "static_index.html", DOCS / "index.html")
        say(f"✓ documentation: {(DOCS / 'index.html').relative_to(ROOT)}")


def run_dbt(arguments: Sequence[str], warehouse: Warehouse) -> None:
    """Run `dbt ARGUMENTS` on a warehouse, in dbt's own environment.

    Raises:
        DbtFailedError: it failed.
    """
    env = warehouse.dbt_env() | {
        "DBT_TARGET": os.environ.get("DBT_TARGET", "test"),
        "DBT_TARGET_PATH": str(ARTIFACTS / "target"),
        "DBT_LOG_PATH": str(ARTIFACTS / "logs"),
    }
    code = subprocess.run(
        [python_of("dbt"), Path("dbt/run.py"), *arguments], cwd=ROOT, env=os.environ | env, check=False
    ).returncode
    if code:
        raise DbtFailedError(
            f"dbt {' '.join(arguments)} ended with exit code {code}.",
            "A model does not build, or a test found rows; dbt says which above.",
            f"The statements it ran are in {(ARTIFACTS / 'target' / 'run').relative_to(ROOT)}.",
        )

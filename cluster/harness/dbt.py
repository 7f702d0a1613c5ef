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
from harness import postgres
from harness.console import Phases, say
from harness.environment import python_of
from harness.errors import HarnessError
from harness.locks import ROOT
from harness.warehouse import Warehouse, create_warehouse, drop_roles, drop_warehouse, make_passwords

SAMPLE = ROOT / "airflow" / "data" / "events.csv"
ARTIFACTS = ROOT / "build" / "dbt"
DOCS = ROOT / "build" / "dbt-docs"


class DbtFailedError(HarnessError):
    """dbt ended with another exit code than 0."""

    exit_code = 49


def run(arguments: Sequence[str], dsn: str | None) -> None:
    """Run dbt with ARGUMENTS on the server that DSN names, or on an ephemeral one; nothing of it is left.

    Raises:
        PostgresError, ServiceFailedError: there is no PostgreSQL.
        DbtFailedError: dbt failed; its output says why.
    """
    phases = Phases()
    with postgres.ephemeral(dsn) as server:
        say(f"✓ {server}")
        house = create_warehouse(server, "warehouse", make_passwords())
        try:
            with phases.phase("sample loaded") as phase:
                create_tables(house.loader_dsn)
                phase.text = f"sample loaded: {load(str(SAMPLE), house.loader_dsn).loaded:,} events"
            if arguments:
                run_dbt(arguments, house)
            else:
                run_dbt(["build"], house)
                run_dbt(["docs", "generate", "--static", "--quiet"], house)
                DOCS.mkdir(parents=True, exist_ok=True)
                shutil.copy(ARTIFACTS / "target" / "static_index.html", DOCS / "index.html")
                say(f"✓ documentation: {(DOCS / 'index.html').relative_to(ROOT)}")
        finally:
            drop_warehouse(house)
            if server.suffix:  # on a server that is not ours nothing is left
                drop_roles(server)


def run_dbt(arguments: Sequence[str], house: Warehouse) -> None:
    """Run `dbt ARGUMENTS` on a warehouse, in dbt's own environment.

    Raises:
        DbtFailedError: it failed.
    """
    env = house.dbt_env() | {
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

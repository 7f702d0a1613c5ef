"""Run dbt on an ephemeral warehouse with the sample loaded: what `nox -s dbt` does.

Without arguments it is `dbt build`, then the documentation as one static page, `build/dbt-docs/index.html`.
"""

import os
import shutil
import sys
from collections.abc import Sequence

from events.load import load
from events.tables import create_tables
from harness import dbt_report
from harness.console import Phases, say
from harness.environment import only_one, python_of
from harness.errors import DbtFailedError
from harness.paths import BUILD, ROOT, SAMPLE
from harness.postgres import describe
from harness.stream import stream
from harness.summary import Section, code, details
from harness.warehouse import Warehouse, create_warehouse, ephemeral_server, make_passwords

ARTIFACTS = BUILD / "dbt"
DOCS = BUILD / "dbt-docs"
SHOWN = 3  # of what failed, in the error


def run(arguments: Sequence[str], dsn: str | None, section: Section) -> None:
    """Run dbt with ARGUMENTS on the server that DSN names, or on an ephemeral one; nothing of it is left.

    SECTION is told what dbt did.

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
            run_dbt(arguments, warehouse, section)
            return
        run_dbt(["build"], warehouse, section)
        run_dbt(["docs", "generate", "--static", "--quiet"], warehouse)
        DOCS.mkdir(parents=True, exist_ok=True)
        shutil.copy(ARTIFACTS / "target" / "static_index.html", DOCS / "index.html")
        say(f"✓ documentation: {(DOCS / 'index.html').relative_to(ROOT)}")


def run_dbt(arguments: Sequence[str], warehouse: Warehouse, section: Section | None = None) -> None:
    """Run `dbt ARGUMENTS` on a warehouse, in dbt's own environment; tell SECTION what came of it.

    Raises:
        DbtFailedError: it failed.
    """
    target = ARTIFACTS / "target"
    env = warehouse.dbt_env() | {
        "DBT_TARGET": os.environ.get("DBT_TARGET", "test"),
        "DBT_TARGET_PATH": str(target),
        "DBT_LOG_PATH": str(ARTIFACTS / "logs"),
        "DBT_USE_COLORS": os.environ.get("DBT_USE_COLORS", str(sys.stdout.isatty())),
    }
    (target / dbt_report.RESULTS).unlink(missing_ok=True)  # of a run before
    exit_code, said = stream([python_of("dbt"), "dbt/run.py", *arguments], cwd=ROOT, env=os.environ | env)
    results = dbt_report.read(target)
    told = dbt_report.tell(results, warehouse.admin_dsn)
    if section:
        section.headline = f"{' '.join(arguments)}: {dbt_report.headline(results)}".removesuffix(": ")
    if exit_code:
        raise failed(arguments, exit_code, said, [result.name for result in results if result.failed], told)
    if section:
        section.add(*told)


def failed(
    arguments: Sequence[str], exit_code: int, said: str, names: Sequence[str], told: Sequence[str]
) -> DbtFailedError:
    """Return the error for `dbt ARGUMENTS`, in which NAMES failed; dbt SAID so, and TOLD is Markdown of it."""
    what = f"dbt {' '.join(arguments)} ended with exit code {exit_code}"
    output = code(said, last=60)
    if not names:
        why = "The project cannot be parsed, or the command makes no sense; dbt says why."
        return DbtFailedError(f"{what}.", why, "Mend what dbt names, and run it again.", [*told, output])
    selected = " ".join(f"+{name}" for name in names[:SHOWN])
    statements = (ARTIFACTS / "target" / "run").relative_to(ROOT)
    return DbtFailedError(
        f"{what}: {', '.join(names[:SHOWN])}{' and more' if len(names) > SHOWN else ''} failed.",
        "A change to a model, or events that it does not expect; dbt says which rows or statement.",
        f"The statements are in {statements}; what failed by itself: nox -s dbt -- build --select {selected}",
        [*told, details("What dbt says", output)],
    )

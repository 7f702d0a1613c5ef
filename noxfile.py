"""One nox session checks each guarantee of this project: `nox -l` lists them, `nox` runs the default ones."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - nox may run on any Python
    sys.exit("This project needs Python 3.11 or newer; nox runs on " + sys.version.split()[0] + ".")

import json
import os
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).parent))

from harness.project import environments, locks, posargs, pythons, terminal
from harness.reporting import summary

terminal.replace_unknown_characters()

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "none"  # environments belong to groups, not to sessions: see `install`
nox.options.sessions = ["lint", "docs", "types", "tests", "dags", "dbt"]

TAKEDOWN_S = 90  # the time that a session has to clean up after Ctrl-C


def install(session: nox.Session, *groups: str) -> str:
    """Sync the environments of GROUPS with their locks and return the last one's Python; `--help` needs only that one.

    `-- --python 3.13` chooses the version.
    """
    version, rest = posargs.split(session.posargs)
    needed = groups[-1:] if posargs.asks_for_help(rest) else groups
    try:
        return [str(environments.install(group, version)) for group in needed][-1]
    except (locks.LockError, pythons.PythonMissingError) as error:
        summary.failed(session.name, str(error))
        session.error(str(error).rstrip("."))


def run(session: nox.Session, python: str, module: str, *arguments: str) -> None:
    """Run MODULE with ARGUMENTS and then posargs, which are not printed: a URI or a DSN may contain secrets."""
    _, rest = posargs.split(session.posargs)
    with summary.at_least(session.name):
        session.run(
            *(python, "-m", "harness.project.posargs", module, *arguments),
            # When nox ends, all is taken down; its uv installs what a command finds that it needs.
            env={posargs.VARIABLE: json.dumps(rest), "NOX_PID": str(os.getpid()), **locks.uv_variable()},
            external=True,
            interrupt_timeout=TAKEDOWN_S,
            terminate_timeout=TAKEDOWN_S,
        )


def pytest(session: nox.Session, python: str, *arguments: str) -> None:
    """Run pytest with ARGUMENTS and then posargs; its report is in `build/reports`."""
    run(session, python, "pytest", f"--junitxml=build/reports/{session.name}.xml", *arguments)


@nox.session(tags=["ci", "docs"])
def lint(session: nox.Session) -> None:
    """Lint Python, SQL, shell, workflows, Dockerfiles and Markdown; `-- --fix` fixes what the tools can fix."""
    run(session, install(session, "lint"), "harness.ci.lint")


@nox.session(tags=["ci", "docs"])
def docs(session: nox.Session) -> None:
    """Check the documentation's links, tables, commands, variables and pins; `-- --write` writes the tables."""
    pytest(session, install(session, "lint", "tests"), "tests/docs", "--confcutdir=tests/docs")


@nox.session(tags=["ci"])
def types(session: nox.Session) -> None:
    """Check the types with mypy in strict mode."""
    run(session, install(session, "types"), "harness.ci.typecheck")


@nox.session(tags=["ci", "pythons"])
def tests(session: nox.Session) -> None:
    """Test the load, the models and the harness on an ephemeral PostgreSQL, or on the server in `-- --postgres DSN`."""
    own_sessions = [f"--ignore=tests/{folder}" for folder in ("cluster", "dags", "docs", "e2e")]
    workers = ["--numprocesses=auto", "--maxprocesses=4", "--dist=loadfile", "--no-loadscope-reorder"]
    pytest(session, install(session, "tests"), *own_sessions, *workers)


@nox.session(tags=["ci"])
def dags(session: nox.Session) -> None:
    """Test the DAGs: exact ids, no import errors, policies, import time."""
    pytest(session, install(session, "dags"), "tests/dags", "--confcutdir=tests/dags")


@nox.session(tags=["ci", "pythons"])
def dbt(session: nox.Session) -> None:
    """Load the samples into an ephemeral PostgreSQL and run dbt: `build` and its docs, or `-- COMMAND`."""
    install(session, "dbt")  # also for --help, which has dbt's own options
    run(session, install(session, "harness"), "harness", "dbt")


@nox.session(tags=["ci", "engine", "target"], default=False)
def e2e(session: nox.Session) -> None:
    """Run the pipelines of every feed end to end on a target and check every number."""
    run(session, install(session, "airflow", "dbt", "harness"), "harness", "e2e")


@nox.session(tags=["change"], default=False)
def diff(session: nox.Session) -> None:
    """Show what a change does to the marts: `-- --base REF` builds both sides on the same rows and compares them."""
    run(session, install(session, "dbt", "harness"), "harness", "diff")


@nox.session(tags=["nightly"], default=False)
def replay(session: nox.Session) -> None:
    """Play a year of deliveries and runs, and check every number after every run: `-- --seed N --days N`."""
    run(session, install(session, "airflow", "dbt", "harness"), "harness", "replay")


@nox.session(default=False)
def feed(session: nox.Session) -> None:
    """Make, check and mend feeds: `-- new NAME --from FILE`, `check`, `replay-rejects NAME`."""
    run(session, install(session, "harness"), "harness", "feed")


@nox.session(default=False)
def cluster(session: nox.Session) -> None:
    """Manage a cluster with Airflow on it: `-- up`, `status`, `ui`, `logs`, `down`."""
    run(session, install(session, "harness"), "harness", "cluster")


@nox.session(tags=["nightly", "engine"], default=False)
def faults(session: nox.Session) -> None:
    """Break runs on kind and embedded in many ways; check each error message, and that nothing is left behind."""
    pytest(session, install(session, "airflow", "tests"), "tests/cluster", "tests/e2e")


@nox.session(default=False)
def plan(session: nox.Session) -> None:
    """Plan the jobs of a workflow by the sessions' tags: `-- --event push --base COMMIT`."""
    run(session, sys.executable, "harness.ci.plan")


@nox.session(default=False)
def workflow(session: nox.Session) -> None:
    """Run the jobs of .github/workflows/ci.yml on this machine; `-- EVENT --job NAME` chooses among them."""
    run(session, install(session, "workflow"), "harness.ci.workflow")


@nox.session(default=False)
def release(session: nox.Session) -> None:
    """Make a release's attachments, and with `-- --push REGISTRY` its images; `-- --check` only checks."""
    run(session, install(session, "harness"), "harness", "release")


@nox.session(tags=["nightly"], default=False)
def bench(session: nox.Session) -> None:
    """Measure the load, dbt and the comparison of tables: `-- load`, `-- dbt` or `-- diff` only one, `--events N`."""
    run(session, install(session, "dbt", "tools", "bench"), "harness.commands.bench")


@nox.session(tags=["nightly"], default=False)
def audit(session: nox.Session) -> None:
    """Look for known vulnerabilities of the locked packages; each must be fixed, or accepted in pyproject.toml."""
    run(session, install(session, "audit"), "harness.ci.audit")


@nox.session(default=False)
def sample(session: nox.Session) -> None:
    """Generate rows of a feed: `-- --feed NAME --rows N --seed S --out PATH`."""
    run(session, install(session, "sample"), "airflow/data/generate.py")


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Write requirements/*.txt from pyproject.toml; `-- --upgrade` takes the newest versions."""
    run(session, sys.executable, "harness.ci.lock")

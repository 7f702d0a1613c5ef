"""Every promise of this project is a session of this file; `nox -l` lists them, `nox` runs the default ones."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - nox may run on any Python
    sys.exit("This project needs Python 3.11 or newer; nox runs on " + sys.version.split()[0] + ".")

import json
import os
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).parent))

from harness.project import environments, locks, posargs
from harness.reporting import summary

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "none"  # environments belong to groups, not to sessions: see `install`
nox.options.sessions = ["lint", "docs", "types", "tests", "dags", "dbt"]

TAKEDOWN_S = 90  # how long a session may take to clean up after Ctrl-C
ENV = {
    "NOX_PID": str(os.getpid()),  # the harness takes everything down when this process is gone
}


def install(session: nox.Session, group: str) -> str:
    """Sync GROUP's environment with its lock and return its Python."""
    try:
        return str(environments.install(group))
    except locks.LockError as error:
        summary.failed(session.name, str(error))
        session.error(str(error))


def run(session: nox.Session, *command: str, **env: str) -> None:
    """Run COMMAND with the project's packages on the path; an interrupt leaves it time to clean up."""
    with summary.at_least(session.name):
        session.run(
            *command,
            env=ENV | env,
            external=True,
            interrupt_timeout=TAKEDOWN_S,
            terminate_timeout=TAKEDOWN_S,
        )


def run_module(session: nox.Session, python: str, *module: str, **env: str) -> None:
    """Run MODULE, its arguments and then posargs, which are not printed: a URI or a DSN may have secrets in it."""
    run(
        session,
        python,
        "-m",
        "harness.project.posargs",
        *module,
        **env,
        **{posargs.VARIABLE: json.dumps(session.posargs)},
    )


def pytest(session: nox.Session, group: str, *arguments: str, **env: str) -> None:
    """Run pytest in GROUP's environment, posargs last; what came of it is also in `build/reports`."""
    report = f"--junitxml=build/reports/{session.name}.xml"
    run_module(session, install(session, group), "pytest", report, *arguments, **env)


@nox.session(tags=["ci", "docs"])
def lint(session: nox.Session) -> None:
    """Check style and mistakes in Python, SQL, shell, workflows, Dockerfiles and Markdown; `-- --fix` mends."""
    run(session, install(session, "lint"), "-m", "harness.ci.lint", *session.posargs)


@nox.session(tags=["ci", "docs"])
def docs(session: nox.Session) -> None:
    """Check the documentation: links, sessions, options, variables and exit codes are what the code has."""
    pytest(session, "tests", "tests/docs", "--confcutdir=tests/docs")


@nox.session(tags=["ci"])
def types(session: nox.Session) -> None:
    """Check the types, strictly."""
    run(session, install(session, "types"), "-m", "harness.ci.typecheck", *session.posargs)


@nox.session(tags=["ci", "pythons"])
def tests(session: nox.Session) -> None:
    """Test units, warehouse and harness on a real, ephemeral PostgreSQL (`-- --postgres DSN` names one)."""
    apart = ("--ignore=tests/dags", "--ignore=tests/cluster", "--ignore=tests/docs")
    pytest(session, "tests", *apart, "--numprocesses=2", "--dist=loadfile")


@nox.session(tags=["ci"])
def dags(session: nox.Session) -> None:
    """Test the DAGs' integrity: exact ids, no import errors, policies, import time."""
    pytest(session, "dags", "tests/dags", "--confcutdir=tests/dags")


@nox.session(tags=["ci", "pythons"])
def dbt(session: nox.Session) -> None:
    """Load the sample into an ephemeral PostgreSQL and run dbt: `build` and docs, or what follows `--`."""
    install(session, "dbt")
    run_module(session, install(session, "harness"), "harness", "dbt")


@nox.session(tags=["ci", "engine", "target"], default=False)
def e2e(session: nox.Session) -> None:
    """Run the three pipelines end to end on a target and check every number."""
    install(session, "airflow")
    install(session, "dbt")
    run_module(session, install(session, "harness"), "harness", "e2e")


@nox.session(default=False)
def cluster(session: nox.Session) -> None:
    """Have a cluster with Airflow on it: `-- up`, `status`, `ui`, `logs`, `down`."""
    run_module(session, install(session, "harness"), "harness", "cluster")


@nox.session(tags=["ci", "engine"], default=False)
def faults(session: nox.Session) -> None:
    """Break a kind cluster in every way, and check what is said of it and that nothing is left."""
    pytest(session, "tests", "tests/cluster")


@nox.session(default=False)
def plan(session: nox.Session) -> None:
    """Plan what a workflow runs, by the sessions' tags: `-- --event push --base COMMIT`."""
    run_module(session, sys.executable, "harness.ci.plan")


@nox.session(default=False)
def workflow(session: nox.Session) -> None:
    """Run the jobs of .github/workflows/ci.yml here, as GitHub would; what follows `--` chooses among them."""
    run_module(session, install(session, "workflow"), "harness.ci.workflow")


@nox.session(default=False)
def release(session: nox.Session) -> None:
    """Make a release: what is attached to it, and with `-- --push REGISTRY` its images; `-- --check` only checks."""
    run_module(session, install(session, "harness"), "harness", "release")


@nox.session(tags=["nightly"], default=False)
def bench(session: nox.Session) -> None:
    """Measure the load and dbt: `-- load` or `-- dbt` for one, `--events N` for another size."""
    install(session, "dbt")
    run_module(session, install(session, "bench"), "harness.commands.bench")


@nox.session(default=False)
def sample(session: nox.Session) -> None:
    """Generate events: `-- --events N --seed S --out PATH`."""
    run(session, install(session, "sample"), "airflow/data/generate.py", *session.posargs)


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Write requirements/*.txt anew from pyproject.toml; `-- --upgrade` takes the newest versions."""
    run_module(session, sys.executable, "harness.ci.lock")

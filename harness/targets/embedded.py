"""The embedded target: PostgreSQL from a wheel and Airflow's components as processes; it needs no Docker and no root.

Everything is in one directory of the run and on free ports of the loopback address; the run's supervisor owns it.
"""

import contextlib
import json
import os
import secrets
import signal
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path

from harness.errors import EnvironmentMissingError
from harness.pipeline import lineage
from harness.pipeline.airflow_api import AirflowApi
from harness.processes.failures import disk_full, disk_full_error, service_ended, service_failed
from harness.processes.supervisor import Supervisor
from harness.project.environments import python_of
from harness.project.paths import ROOT
from harness.reporting import diagnostics
from harness.reporting.console import Phases
from harness.targets.options import RunOptions
from harness.targets.takedown import down_command, take_down
from harness.targets.target import Deployment, docs_line
from harness.warehouse.ports import check_port, free_port
from harness.warehouse.roles import Warehouse, create_metadata_database, create_warehouse, make_passwords
from harness.warehouse.server import describe
from harness.warehouse.wheel import start_from_wheel

MIGRATION_TIMEOUT_S = 180.0
HEALTHY_TIMEOUT_S = 180.0
COMPONENTS = ("api-server", "scheduler", "dag-processor")
FAILURES = "failures"  # where the files of a failed dbt run stay: the next run overwrites the others beside it
LINEAGE = "lineage"
# Variables that tasks may need: a file in an object store needs credentials, proxies and certificates.
NOTIFICATIONS = ("AIRFLOW_CONN_NOTIFICATIONS", "NOTIFIER", "NOTIFIER_OPTIONS")
PASSED_ON = ("HOME", "LANG", "LC_ALL", "LOGNAME", "NETRC", "PATH", "TZ", "USER", *NOTIFICATIONS)
PASSED_ON_PREFIXES = ("AWS_", "AZURE_", "CURL_", "FSSPEC_", "GCP_", "GOOGLE_", "REQUESTS_", "SSL_")


class EmbeddedDeployment(Deployment):
    """The embedded target while it is up. Its warehouse is always new, and no guarantee is this target's alone."""

    @property
    def last_dbt_run(self) -> Path | None:
        """The folder with the files of the last dbt run."""
        return self.supervisor.directory / "dbt" / "target"

    def failed_dbt_runs(self) -> list[Path]:
        """Return the folder where `dbt/run.py` keeps the files of the last failed run, if one has failed."""
        folder = self.supervisor.directory / "dbt" / FAILURES
        return [folder] if folder.exists() else []

    def lineage_folders(self) -> list[Path]:
        """Return the folder of the lineage events."""
        return [self.supervisor.directory / LINEAGE]

    def addresses(self) -> list[str]:
        """Return a line for each way to reach the deployment, and the command that takes it down."""
        login = f"user {self.api.username}, password {self.api.password}"
        return [
            f"  Airflow    {self.api.address}  {login}",
            f"  warehouse  {self.warehouse.admin_dsn}",
            docs_line(),
            f"  take it down: {down_command('e2e')}",
        ]


class EmbeddedTarget:
    """The target `embedded`; see `harness.targets.target.Target`."""

    name = "embedded"

    @contextlib.contextmanager
    def up(self, options: RunOptions, phases: Phases) -> Iterator[EmbeddedDeployment]:
        """Bring it up, or raise HarnessError; leaving the context takes it down, unless it is kept."""
        check_port(options.ui_port)
        airflow, dbt = installed_python("airflow"), installed_python("dbt")
        with Supervisor.launch() as supervisor:
            deployment = None
            try:
                deployment = start(supervisor, options, phases, airflow, dbt)
                yield deployment
            except Exception as error:
                home = supervisor.directory
                folders = {"components": home / "logs", "tasks": home / "airflow" / "logs", "dbt": home / "dbt"}
                admin_dsn = deployment.warehouse.admin_dsn if deployment else None
                failure = diagnostics.save(error, folders, admin_dsn, phases=phases)
                if failure is error:
                    raise
                raise failure from error
            finally:
                take_down(supervisor, phases)


def start(supervisor: Supervisor, options: RunOptions, phases: Phases, airflow: Path, dbt: Path) -> EmbeddedDeployment:
    """Start everything and wait until Airflow is healthy; AIRFLOW and DBT are the Pythons of these environments."""
    with phases.phase("PostgreSQL up") as phase:
        server = start_from_wheel(supervisor)
        warehouse = create_warehouse(server, "warehouse", make_passwords())
        metadata_dsn = create_metadata_database(server, secrets.token_urlsafe(24), server.host, server.port)
        phase.text = f"{describe(server)} up, with the databases and roles"

    home = supervisor.directory / "airflow"
    home.mkdir(mode=0o700)
    port = options.ui_port or free_port()
    api = AirflowApi(f"http://127.0.0.1:{port}", "admin", secrets.token_urlsafe(12))
    env = airflow_env(supervisor.directory, port, metadata_dsn, api)
    env |= pipeline_env(options, warehouse, dbt, supervisor.directory / "dbt")
    (supervisor.directory / LINEAGE).mkdir(mode=0o700)
    env |= lineage.variables(os.environ, supervisor.directory / LINEAGE)
    program = airflow.with_name("airflow")

    def start_component(name: str, *arguments: str) -> None:
        """Start a component, which is killed at the end: nothing of it is kept."""
        supervisor.start(name, [program, name, *arguments], env=env, stop_signal=signal.SIGKILL)

    # It imports Airflow for seconds before it needs the database.
    start_component("api-server", "--port", str(port))
    with phases.phase("Airflow's metadata database migrated"):
        supervisor.run("migrate", [program, "db", "migrate"], env=env, timeout_s=MIGRATION_TIMEOUT_S)
    with phases.phase("Airflow healthy") as phase:
        start_component("scheduler", "--skip-serve-logs")
        start_component("dag-processor")
        api.watch = lambda: check_alive(supervisor)
        if late := api.wait_until_healthy(HEALTHY_TIMEOUT_S):
            log = supervisor.directory / "logs" / f"{late}.log"
            raise service_failed(late, log, f"is not healthy after {HEALTHY_TIMEOUT_S:.0f} s")
        phase.text = f"Airflow healthy at {api.address}: {', '.join(COMPONENTS)}"
    return EmbeddedDeployment(supervisor, api, warehouse)


def installed_python(group: str) -> Path:
    """Return the Python of GROUP's environment, or raise EnvironmentMissingError."""
    python = python_of(group)
    if not python.exists():
        raise EnvironmentMissingError(
            f"The {group} environment is not installed.",
            "The harness was started by hand; its nox session installs the environments first.",
            "Run it through its session: nox -s e2e",
        )
    return python


def airflow_env(directory: Path, port: int, metadata_dsn: str, api: AirflowApi) -> dict[str, str]:
    """Return the environment of Airflow's components, with new secrets for each run."""
    home = directory / "airflow"
    temporary = directory / "tmp"
    temporary.mkdir(mode=0o700)
    passwords = home / "passwords.json"
    passwords.write_text(json.dumps({api.username: api.password}))
    passwords.chmod(0o600)
    passed_on = {
        name: value
        for name, value in os.environ.items()
        if name in PASSED_ON or name.upper().endswith("_PROXY") or name.startswith(PASSED_ON_PREFIXES)
    }
    local = ",".join(filter(None, ("127.0.0.1,localhost", passed_on.get("NO_PROXY") or passed_on.get("no_proxy"))))
    settings: dict[str, dict[str, object]] = {
        "core": {
            "dags_folder": ROOT / "airflow" / "dags",
            "load_examples": False,
            "executor": "LocalExecutor",
            "parallelism": 4,
            "fernet_key": urlsafe_b64encode(os.urandom(32)).decode(),
            "execution_api_server_url": f"{api.address}/execution/",
            "simple_auth_manager_users": f"{api.username}:admin",
            "simple_auth_manager_passwords_file": passwords,
        },
        "database": {"sql_alchemy_conn": metadata_dsn, "check_migrations": False},  # they have just been run
        "api": {
            "host": "127.0.0.1",
            "port": port,
            "workers": 1,
            "base_url": api.address,
            "secret_key": secrets.token_hex(32),
        },
        "api_auth": {"jwt_secret": secrets.token_hex(32)},
        "logging": {"base_log_folder": home / "logs", "colored_console_log": False},
        "scheduler": {"scheduler_idle_sleep_time": 0.2},
        # A new DAG file is found within about two seconds.
        "dag_processor": {"refresh_interval": 1, "bundle_refresh_check_interval": 1},
        "usage_data_collection": {"enabled": False},
        "openlineage": {"disable_source_code": True},  # of tasks, in each event
    }
    return passed_on | {
        "NO_PROXY": local,  # the components talk to each other
        "no_proxy": local,
        "AIRFLOW_HOME": str(home),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(ROOT / "airflow" / "include"),  # of this clone: its environments may be another's, linked
        "TMPDIR": str(temporary),
        **{f"AIRFLOW__{s.upper()}__{k.upper()}": str(v) for s, options in settings.items() for k, v in options.items()},
    }


def pipeline_env(options: RunOptions, warehouse: Warehouse, dbt: Path, artifacts: Path) -> dict[str, str]:
    """Return the variables that the DAGs' tasks read; dbt's Python is DBT, and it writes below ARTIFACTS."""
    uris = {f"{feed.upper()}_URI": uri for feed, uri in options.uris.items()}
    return (
        warehouse.dbt_env()
        | options.shares()
        | uris
        | {
            "AIRFLOW_CONN_WAREHOUSE_LOADER": warehouse.loader_dsn,
            "DBT_PYTHON": str(dbt),
            "DBT_PROJECT_DIR": str(ROOT / "dbt"),
            "DBT_TARGET": "prod",
            "DBT_TARGET_PATH": str(artifacts / "target"),
            "DBT_LOG_PATH": str(artifacts / "logs"),
            "DBT_FAILURES_PATH": str(artifacts / FAILURES),
        }
    )


def check_alive(supervisor: Supervisor) -> None:
    """Raise ServiceFailedError if a component has ended, DiskFullError if the disk is full: Airflow would only wait."""
    if disk_full(supervisor.directory):
        raise disk_full_error(supervisor.directory)
    for component in COMPONENTS:
        if (code := supervisor.returncode(component)) is not None:
            log = supervisor.directory / "logs" / f"{component}.log"
            raise service_ended(component, log, code)

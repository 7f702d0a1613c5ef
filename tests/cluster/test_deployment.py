"""A deployment that is up: its commands, how `up` repairs and updates it, how failures are explained, its rights."""

import contextlib
import gzip
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from harness.docker import engine, images
from harness.kubernetes.cluster_secrets import read_secret
from harness.pipeline.airflow_api import AirflowApi
from harness.processes.command import run as run_command
from harness.project import locks, pins
from harness.project.paths import ROOT, SAMPLE
from harness.targets.cluster_deployment import warehouse_of
from harness.targets.kubernetes_target import provider_of
from harness.targets.options import RunOptions
from tests.cluster.conftest import KIND, Cluster
from tests.cluster.faults import IMAGE
from tests.harness_command import error_lines, read_until, run, start

pytestmark = pytest.mark.cluster


def pod_ids(cluster: Cluster) -> set[str]:
    pods = [pod for pod in cluster.items("pods") if pod["metadata"]["labels"].get("component") != "worker"]
    return {pod["metadata"]["uid"] for pod in pods}


def succeed(*arguments: str, **env: Any) -> str:
    """Run a command of the harness that must succeed, and return its output."""
    code, output = run(*arguments, **env)
    assert code == 0, output
    return output


def fail(exit_code: int, *arguments: str, **env: Any) -> str:
    """Run a command of the harness that must fail with EXIT_CODE, and return its output."""
    code, output = run(*arguments, **env)
    assert code == exit_code, output
    return output


@contextlib.contextmanager
def diagnostics(output: str) -> Iterator[Path]:
    """Give the folder of the diagnostics that the last line of OUTPUT names; it is removed afterwards."""
    folder = ROOT / error_lines(output)[2].rpartition("Diagnostics: ")[2]
    yield folder
    shutil.rmtree(folder)


@pytest.mark.usefixtures("cluster")
def test_status_ui_and_logs() -> None:
    output = succeed("cluster", "status")
    assert re.search(r"Kubernetes v1\.\d+\.\d+, Airflow 3\.3\.2, chart 1\.22\.0", output)
    assert "health     all healthy" in output
    assert all(f"airflow-{component}-" in output for component in ("api-server", "scheduler", "dag-processor"))

    [(address, username, password)] = re.findall(
        r"Airflow +(\S+)  user (\S+), password (\S+)", succeed("cluster", "ui")
    )
    assert AirflowApi(address, username, password).dag_ids() >= {"events_pipeline_daily"}

    assert "Starting the scheduler" in succeed("cluster", "logs", "scheduler")
    output = fail(2, "cluster", "logs", "schedular")
    assert error_lines(output)[0] == "✗ There is no component 'schedular' here."


@pytest.mark.usefixtures("cluster")
def test_the_kubelet_starts_on_a_host_with_cgroup_v1() -> None:
    config = run_command("docker", "exec", KIND.node, "cat", "/kind/kubeadm.conf")  # as kind has merged it
    [kubelet] = [part for part in yaml.safe_load_all(config) if part["kind"] == "KubeletConfiguration"]
    assert kubelet["failCgroupV1"] is False


def test_a_second_up_changes_nothing(cluster: Cluster) -> None:
    before = pod_ids(cluster)
    succeed("cluster", "up")
    assert pod_ids(cluster) == before


def test_a_change_is_rolled_out(cluster: Cluster) -> None:
    before = pod_ids(cluster)
    change = ("cluster", "up", "--max-rejected", "0.5")
    output = fail(60, *change, PLATFORM_DEADLINE_ROLL_OUT="0.1")
    assert re.match(r"✗ [a-z-]+ is not ready after 0 s", error_lines(output)[0])
    with diagnostics(output):
        pass

    succeed(*change)
    [pod] = [p for p in cluster.items("pods") if p["metadata"]["labels"].get("component") == "scheduler"]
    env = {variable["name"]: variable.get("value") for variable in pod["spec"]["containers"][0]["env"]}
    assert env["EVENTS_MAX_REJECTED"] == "0.5"
    assert not pod_ids(cluster) & before


def test_a_killed_postgresql_is_named_at_once(cluster: Cluster) -> None:
    e2e = start("e2e", "--target", "kind", "--reuse")
    output = read_until(e2e, r"create_tables +running")
    run_command("docker", "kill", KIND.postgres)
    output += e2e.communicate(timeout=120)[0]
    assert e2e.returncode == 46, output
    expected = f"✗ The PostgreSQL of {KIND.title}, the container {KIND.postgres}, does not run."
    assert error_lines(output)[0] == expected
    with diagnostics(output) as folder:
        assert (folder / "export" / f"{KIND.postgres}.log").stat().st_size
    assert cluster.kubectl.answers()


def test_up_restores_what_is_missing(cluster: Cluster, tmp_path: Path) -> None:
    passwords = read_secret(cluster.kubectl, "passwords")
    node = ("docker", "exec", KIND.node, "ctr", "--namespace", "k8s.io", "images")
    run_command(*node, "rm", f"docker.io/{images.airflow().reference}")
    run_command("docker", "rm", "--force", "--volumes", KIND.postgres)
    run_command("docker", "stop", KIND.node, timeout_s=120)
    assert "is not up." in error_lines(fail(62, "cluster", "status"))[0]

    own = tmp_path / "kubeconfig"  # the user's own is not changed
    own.write_text("apiVersion: v1\nkind: Config\n")
    output = succeed("cluster", "up", KUBECONFIG=str(own))
    assert own.read_text() == "apiVersion: v1\nkind: Config\n"
    assert f"kind cluster {KIND.cluster} reused" in output
    assert read_secret(cluster.kubectl, "passwords") == passwords
    assert "all healthy" in succeed("cluster", "status")


@pytest.mark.usefixtures("cluster")
def test_a_hook_that_times_out_is_tried_again_and_explained() -> None:
    output = fail(59, "cluster", "up", "--max-rejected", "0.25", PLATFORM_DEADLINE_MIGRATIONS="1")
    assert output.count("… the migration hook did not end within 1 s; trying once more") == 1
    what, why, _ = error_lines(output)
    assert what.startswith("✗ The chart's migration hook timed out twice, after 1 s each.")
    assert "migration" in what + why
    with diagnostics(output) as folder:
        for name in (
            "events.txt",
            "objects.txt",
            "nodes.txt",
            "phases.json",
            "chart/values.yaml",
            "chart/manifest.yaml",
        ):
            assert (folder / name).stat().st_size, name
        assert list((folder / "describe").glob("*.txt"))
        assert (folder / "export").is_dir()


BROKEN = {
    "too little memory": (
        {"apiServer": {"resources": {"requests": {"memory": "64Mi"}, "limits": {"memory": "64Mi"}}}},
        r"✗ api-server.* was killed .* for using more memory than its limit, 64Mi\.$",
        "  It needs more than that, or keeps too much in memory at once.",
    ),
    "a probe": (
        {"scheduler": {"startupProbe": {"command": ["false"], "periodSeconds": 1, "failureThreshold": 20}}},
        r"✗ scheduler is not ready after 60 s: scheduler: its startup probe failed",
        "  It does not answer as the probe expects; its log most likely says why.",
    ),
}


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.nightly] if name == "a probe" else []) for name in BROKEN]
)
def test_a_values_file_that_breaks_a_component_is_explained(name: str, tmp_path: Path) -> None:
    values, what, why = BROKEN[name]
    (tmp_path / "broken.yaml").write_text(json.dumps(values))
    options = ("--values", str(tmp_path / "broken.yaml"))
    output = fail(60, "cluster", "up", *options, PLATFORM_DEADLINE_ROLL_OUT="60")
    lines = error_lines(output)
    assert re.match(what, lines[0]), output
    assert lines[1] == why
    with diagnostics(output) as folder:
        assert lines[0].removeprefix("✗ ") in (folder / "summary.txt").read_text()
        assert (folder / "chart" / "broken.yaml").exists()
        assert (folder / "chart" / "hooks.yaml").stat().st_size
        assert (folder / "export" / f"{KIND.postgres}.log").stat().st_size
        if "memory" in name:
            assert list((folder / "pods").glob("airflow-api-server-*/*.previous.log"))


@pytest.mark.nightly
def test_up_ignores_an_earlier_failed_migration(cluster: Cluster) -> None:
    labels = {"component": "run-airflow-migrations"}
    restricted = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsUser": 50000,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {"name": "migrate", "image": IMAGE, "command": ["false"], "securityContext": restricted}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "airflow-run-airflow-migrations", "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "template": {
                "metadata": {"labels": labels},
                "spec": {"restartPolicy": "Never", "containers": [container]},
            },
        },
    }
    cluster.kubectl.run("delete", "job", "airflow-run-airflow-migrations", "--ignore-not-found")
    cluster.kubectl.apply([job])
    cluster.kubectl.run("wait", "--for=condition=failed", "job/airflow-run-airflow-migrations", "--timeout=60s")
    succeed("cluster", "up")


SOURCES = """
import importlib, pathlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
for module in list(sys.modules.values()):
    path, compiled = getattr(module, "__file__", None) or "", getattr(module, "__cached__", None)
    if "-packages/" in path and path.endswith(".py") and not (compiled and pathlib.Path(compiled).exists()):
        print("not compiled:", path)
import airflow.providers
paths = [path for folder in airflow.providers.__path__ for path in pathlib.Path(folder).rglob("*.py")]
print(sum(len([*path.parent.glob(f"__pycache__/{path.stem}.*.pyc")]) for path in paths) / len(paths))
"""


@pytest.mark.usefixtures("cluster")
def test_airflows_image_has_bytecode_of_what_is_imported() -> None:
    """And little else: of the providers only what a worker, or a component, imports."""
    python = ("docker", "run", "--rm", "--network=none", "--entrypoint=python", "--env=PYTHONDONTWRITEBYTECODE=1")
    modules = (
        *("airflow.sdk.execution_time.execute_workload", "airflow.sdk.execution_time.task_runner"),
        *("airflow.cli.commands.scheduler_command", "airflow.api_fastapi.core_api.routes.public"),
        *("airflow.providers.cncf.kubernetes.operators.pod", "feeds.load", "s3fs", "gcsfs"),
    )
    output = run_command(*python, images.airflow().reference, "-c", SOURCES, *modules)
    assert "not compiled" not in output
    assert float(output.split()[-1]) < 0.5


@pytest.mark.usefixtures("cluster")
def test_airflows_image_has_the_locked_packages_and_fits_together() -> None:
    run = ("docker", "run", "--rm", "--network=none", "--entrypoint=pip", images.airflow().reference)
    assert run_command(*run, "check") == "No broken requirements found.\n"
    installed = dict(line.split("==") for line in run_command(*run, "freeze").splitlines() if "==" in line)
    for name in ("fsspec", "s3fs", "gcsfs", "psycopg"):
        assert f"\n{name}=={installed[name]} " in locks.path("feeds").read_text()


@pytest.mark.usefixtures("cluster")
def test_dbts_image_is_small_and_does_not_run_as_root() -> None:
    image, base = engine.inspect("image", images.dbt().reference), engine.inspect("image", pins.image("python"))
    assert image
    assert base
    assert image["Size"] - base["Size"] < 250_000_000
    assert image["Config"]["User"] == "50000:50000"


@pytest.mark.usefixtures("cluster")
def test_dbts_image_has_the_project_parsed() -> None:
    variables = {
        "DBT_TARGET": "prod",
        "WAREHOUSE_HOST": "warehouse.invalid",
        "WAREHOUSE_PORT": "1",
        "WAREHOUSE_DATABASE": "warehouse",
        "WAREHOUSE_READER": "reader",
        "WAREHOUSE_USER": "somebody",
        "DBT_ENV_SECRET_WAREHOUSE_PASSWORD": "other",
        "DBT_LOG_LEVEL": "debug",
    }
    given = [part for name, value in variables.items() for part in ("--env", f"{name}={value}")]
    image = images.dbt().reference
    output = run_command("docker", "run", "--rm", "--network=none", "--read-only", "--tmpfs=/tmp", *given, image, "ls")
    assert "Partial parsing enabled, no changes found, skipping parsing" in output


def test_a_failing_dbt_test_is_explained(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    e2e = start("e2e", "--target", "kind", "--reuse")
    output = read_until(e2e, r"create_tables +success")
    with psycopg.connect(warehouse_of(KIND).admin_dsn) as connection:  # a row that no load can have written
        connection.execute("alter table raw.loads drop constraint loads_status_check")
        connection.execute("insert into raw.loads (feed, source_uri, status) values ('events', 'nowhere', 'spoilt')")
    output += e2e.communicate(timeout=600)[0]
    assert e2e.returncode == 44, output
    what, why, _ = error_lines(output)
    assert what.startswith("✗ events_pipeline_daily failed in dbt_build: ")
    assert "raw_loads_have_a_known_status" in what
    assert why == "  A changed model, or rows that a model does not expect; dbt's log has the rows or statement."
    with diagnostics(output) as folder:
        results = list((folder / "tasks" / "dbt").glob("*/run_results.json"))  # of the scheduled run, too
        assert results
        for path in results:
            failed = [r["unique_id"] for r in json.loads(path.read_text())["results"] if r["status"] == "fail"]
            assert len(failed) == 1
            assert "raw_loads_have_a_known_status" in failed[0]
        assert list((folder / "tasks").glob("dag_id=events_pipeline_daily/*/task_id=dbt_build/attempt=1.log"))
        assert list((folder / "dbt-namespace" / "pods").glob("dbt-build-*/base.log"))
        assert list((folder / "warehouse").glob("loads.csv"))
        for component in ("api-server", "scheduler", "dag-processor"):
            assert list((folder / "pods").glob(f"airflow-{component}-*/{component}.log")), component
    failed_pods = [p for p in cluster.kubectl.for_dbt.items("pods") if p["status"]["phase"] == "Failed"]
    assert any(pod["metadata"]["name"].startswith("dbt-build-") for pod in failed_pods)
    monkeypatch.setenv("KUBECONFIG", str(KIND.kubeconfig))  # on somebody's cluster, pods are asked, not the node
    provider_of("context", RunOptions()).save_task_logs(tmp_path)
    assert list((tmp_path / "dbt").glob("*/run_results.json"))
    assert list(tmp_path.glob("dag_id=events_pipeline_daily/*/task_id=dbt_build/attempt=1.log"))
    assert "raw_loads_have_a_known_status" in succeed("cluster", "logs", "events_pipeline_daily", "dbt_build")


@pytest.mark.nightly
@pytest.mark.usefixtures("cluster")
def test_a_run_on_an_own_file_succeeds_after_a_failed_one(tmp_path: Path) -> None:
    own = tmp_path / "own events.csv.gz"
    own.write_bytes(gzip.compress(b"".join(SAMPLE.read_bytes().splitlines(keepends=True)[:501])))
    output = succeed("e2e", "--target", "kind", "--reuse", "--events", str(own))
    assert re.search(r"raw.events +500$", output, re.MULTILINE)
    assert "✓ everything taken down" not in output


@pytest.fixture
def foreign_kubeconfig(cluster: Cluster, tmp_path: Path) -> Path:
    """Give the cluster's kubeconfig as that of somebody else's cluster, with a volume of another storage class."""
    path = tmp_path / "config"
    shutil.copy(KIND.kubeconfig, path)
    folders = ("/var/lib/foreign-1", "/var/lib/foreign-2")
    run_command("docker", "exec", KIND.node, "mkdir", "-p", "-m", "777", *folders)
    spec = {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "storageClassName": "foreign"}
    cluster.kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": Path(folder).name},
            "spec": spec | {"hostPath": {"path": folder}},
        }
        for folder in folders
    )
    return path


@pytest.mark.nightly
def test_an_existing_cluster_is_used_and_left_unchanged(cluster: Cluster, foreign_kubeconfig: Path) -> None:
    database = KIND.running_database()
    password = database.server.password

    def objects() -> tuple[set[str], ...]:
        """Return the ids of the pods, and the names of namespaces, databases and roles."""
        namespaces = {item["metadata"]["name"] for item in cluster.items("namespaces")}
        with psycopg.connect(database.server.dsn) as connection:
            databases = {name for (name,) in connection.execute("select datname from pg_database")}
            roles = {name for (name,) in connection.execute("select rolname from pg_roles")}
        return pod_ids(cluster), namespaces, databases, roles

    before = objects()
    output = succeed(
        *("e2e", "--target", "context", "--namespace", "somebody", "--storage-class", "foreign"),
        *("--warehouse-dsn", f"postgresql://postgres@{database.host}:{database.port}/postgres"),
        KUBECONFIG=str(foreign_kubeconfig),
        PGPASSWORD=password,
    )
    assert password not in output
    assert objects() == before
    assert json.loads((ROOT / "build" / "e2e" / "phases.json").read_text())["total_s"] > 0

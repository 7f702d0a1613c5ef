"""A deployment that is up: what its commands say, what `up` does about what differs or is missing, what it may do."""

import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path

import psycopg
import pytest
import yaml

from harness.docker import engine, images
from harness.kubernetes.cluster_secrets import read_secret
from harness.pipeline.airflow_api import AirflowApi
from harness.processes.command import run as run_command
from harness.project import pins
from harness.project.paths import ROOT, SAMPLE
from harness.targets.kubernetes_target import warehouse_of
from tests.cluster.conftest import PLACE, Cluster, read_until, run, start

DBT_BUILD = ("events_pipeline_daily", "dbt_build")


def pod_ids(cluster: Cluster) -> set[str]:
    pods = [pod for pod in cluster.items("pods") if pod["metadata"]["labels"].get("component") != "worker"]
    return {pod["metadata"]["uid"] for pod in pods}


def last_lines(said: str) -> list[str]:
    """Return the three lines of the error that SAID ends with."""
    lines = said.rstrip().splitlines()[-3:]
    assert lines[0].startswith("✗ "), said
    assert "Traceback" not in said
    return lines


@pytest.mark.usefixtures("cluster")
def test_status_ui_and_logs() -> None:
    code, said = run("cluster", "status")
    assert code == 0, said
    assert re.search(r"Kubernetes v1\.\d+\.\d+, Airflow 3\.3\.2, chart 1\.22\.0", said)
    assert "health     all healthy" in said
    assert all(f"airflow-{component}-" in said for component in ("api-server", "scheduler", "dag-processor"))

    code, said = run("cluster", "ui")
    [(address, username, password)] = re.findall(r"Airflow +(\S+)  user (\S+), password (\S+)", said)
    assert code == 0
    assert AirflowApi(address, username, password).dag_ids() >= {"events_pipeline_daily"}

    code, said = run("cluster", "logs", "scheduler")
    assert code == 0
    assert "Starting the scheduler" in said
    code, said = run("cluster", "logs", "schedular")
    assert code == 2
    assert last_lines(said)[0] == "✗ There is no component 'schedular' here."


@pytest.mark.usefixtures("cluster")
def test_the_kubelet_is_told_to_start_on_a_host_with_cgroup_v1() -> None:
    config = run_command("docker", "exec", PLACE.node, "cat", "/kind/kubeadm.conf")  # as kind has merged it
    [kubelet] = [part for part in yaml.safe_load_all(config) if part["kind"] == "KubeletConfiguration"]
    assert kubelet["failCgroupV1"] is False


def test_up_again_changes_nothing_and_a_change_is_rolled_out(cluster: Cluster) -> None:
    before = pod_ids(cluster)
    code, said = run("cluster", "up")
    assert code == 0, said
    assert pod_ids(cluster) == before

    change = ("cluster", "up", "--max-rejected", "0.5")
    code, said = run(*change, PLATFORM_DEADLINE_ROLL_OUT="0.1")
    assert code == 60, said
    what, _, next_step = last_lines(said)
    assert re.match(r"✗ [a-z-]+ is not ready after 0 s", what)
    shutil.rmtree(ROOT / next_step.rpartition("Diagnostics: ")[2])

    code, said = run(*change)
    assert code == 0, said
    [pod] = [p for p in cluster.items("pods") if p["metadata"]["labels"].get("component") == "scheduler"]
    env = {variable["name"]: variable.get("value") for variable in pod["spec"]["containers"][0]["env"]}
    assert env["EVENTS_MAX_REJECTED"] == "0.5"
    assert not pod_ids(cluster) & before


def test_a_postgres_that_is_gone_is_named_at_once(cluster: Cluster) -> None:
    e2e = start("e2e", "--target", "kind", "--reuse")
    said = read_until(e2e, r"create_tables +running")
    run_command("docker", "kill", PLACE.postgres)
    said += e2e.communicate(timeout=120)[0]
    assert e2e.returncode == 46, said
    lines = last_lines(said)
    assert lines[0] == f"✗ The PostgreSQL of {PLACE.title}, the container {PLACE.postgres}, does not run."
    diagnostics = ROOT / lines[2].rpartition("Diagnostics: ")[2]
    assert (diagnostics / "export" / f"{PLACE.postgres}.log").stat().st_size
    shutil.rmtree(diagnostics)
    assert cluster.kubectl.answers()


def test_up_brings_back_what_is_missing(cluster: Cluster, tmp_path: Path) -> None:
    password = read_secret(cluster.kubectl, "passwords")
    node = ("docker", "exec", PLACE.node, "ctr", "--namespace", "k8s.io", "images")
    run_command(*node, "rm", f"docker.io/{images.airflow().reference}")
    run_command("docker", "rm", "--force", "--volumes", PLACE.postgres)
    run_command("docker", "stop", PLACE.node, timeout_s=120)
    code, said = run("cluster", "status")
    assert code == 62
    assert "is not up." in last_lines(said)[0]

    user = tmp_path / "kubeconfig"  # somebody's own is not touched
    user.write_text("apiVersion: v1\nkind: Config\n")
    code, said = run("cluster", "up", KUBECONFIG=str(user))
    assert code == 0, said
    assert user.read_text() == "apiVersion: v1\nkind: Config\n"
    assert f"kind cluster {PLACE.cluster} was there" in said
    assert read_secret(cluster.kubectl, "passwords") == password
    assert "all healthy" in run("cluster", "status")[1]


@pytest.mark.usefixtures("cluster")
def test_a_hook_that_times_out_is_run_once_more_and_explained() -> None:
    code, said = run("cluster", "up", "--max-rejected", "0.25", PLATFORM_DEADLINE_MIGRATIONS="1")
    assert code == 59, said
    assert said.count("… the migration hook did not end within 1 s; trying once more") == 1
    what, why, next_step = last_lines(said)
    assert what.startswith("✗ The chart's migration hook timed out twice, after 1 s each.")
    assert "migration" in what + why
    diagnostics = ROOT / next_step.rpartition("Diagnostics: ")[2]
    for name in ("events.txt", "objects.txt", "nodes.txt", "phases.json", "chart/values.yaml", "chart/manifest.yaml"):
        assert (diagnostics / name).stat().st_size, name
    assert list((diagnostics / "describe").glob("*.txt"))
    assert (diagnostics / "export").is_dir()
    shutil.rmtree(diagnostics)


BROKEN = {
    "too little memory": (
        {"apiServer": {"resources": {"requests": {"memory": "64Mi"}, "limits": {"memory": "64Mi"}}}},
        r"✗ api-server.* was killed .* for using more memory than its limit, 64Mi\.$",
        "  It needs more than that, or holds on to too much at once.",
    ),
    "a probe": (
        {"scheduler": {"startupProbe": {"command": ["false"], "periodSeconds": 1, "failureThreshold": 20}}},
        r"✗ scheduler is not ready after 60 s: scheduler: its startup probe failed",
        "  It does not do what the probe asks; its log most likely says why.",
    ),
}


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("name", BROKEN)
def test_a_values_file_that_breaks_a_component_is_explained(name: str, tmp_path: Path) -> None:
    values, what, why = BROKEN[name]
    (tmp_path / "broken.yaml").write_text(json.dumps(values))
    options = ("--values", str(tmp_path / "broken.yaml"))
    code, said = run("cluster", "up", *options, PLATFORM_DEADLINE_ROLL_OUT="60")
    assert code == 60, said
    lines = last_lines(said)
    assert re.match(what, lines[0]), said
    assert lines[1] == why
    diagnostics = ROOT / lines[2].rpartition("Diagnostics: ")[2]
    summary = (diagnostics / "summary.txt").read_text()
    assert lines[0].removeprefix("✗ ") in summary
    assert (diagnostics / "chart" / "broken.yaml").exists()
    assert (diagnostics / "chart" / "hooks.yaml").stat().st_size
    assert (diagnostics / "export" / f"{PLACE.postgres}.log").stat().st_size
    [component] = re.findall(r"(api-server|scheduler)", lines[0])[:1]
    assert list((diagnostics / "pods").glob(f"airflow-{component}-*/*.previous.log") if "memory" in name else [1])
    shutil.rmtree(diagnostics)


def test_up_does_not_mind_what_failed_before(cluster: Cluster) -> None:
    labels = {"component": "run-airflow-migrations"}
    restricted = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsUser": 50000,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    image = pins.image("python")
    container = {"name": "migrate", "image": image, "command": ["false"], "securityContext": restricted}
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
    code, said = run("cluster", "up")
    assert code == 0, said


@pytest.mark.usefixtures("cluster")
def test_dbts_image_is_small_and_not_roots() -> None:
    image, base = engine.inspect("image", images.dbt().reference), engine.inspect("image", pins.image("python"))
    assert image
    assert base
    assert image["Size"] - base["Size"] < 250_000_000
    assert image["Config"]["User"] == "50000:50000"


@pytest.mark.usefixtures("cluster")
def test_dbts_image_does_not_parse_the_project_again() -> None:
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
    said = run_command("docker", "run", "--rm", "--network=none", "--read-only", "--tmpfs=/tmp", *given, image, "ls")
    assert "Partial parsing enabled, no changes found, skipping parsing" in said


def test_each_account_has_the_least_rights(cluster: Cluster) -> None:
    def may(account: str, *what: str) -> bool:
        user = f"system:serviceaccount:{cluster.namespace}:{account}"
        argv = [*cluster.kubectl.argv, "auth", "can-i", *what, "--as", user]
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0

    assert may("airflow-scheduler", "create", "pods")
    assert may("airflow-worker", "create", "pods")
    assert may("airflow-worker", "get", "pods", "--subresource=log")
    assert not may("dbt", "get", "pods")
    assert not may("airflow-dag-processor", "get", "pods")
    for account in ("airflow-scheduler", "airflow-worker", "airflow-api-server", "airflow-dag-processor", "dbt"):
        assert not may(account, "get", "secrets"), account
        assert not may(account, "create", "pods", "--subresource=exec"), account
        assert not may(account, "create", "deployments.apps"), account
        assert not may(account, "get", "nodes"), account


def test_a_failing_dbt_test_is_explained_and_the_next_run_succeeds(cluster: Cluster, tmp_path: Path) -> None:
    e2e = start("e2e", "--target", "kind", "--reuse")
    said = read_until(e2e, r"create_tables +success")
    warehouse = warehouse_of(PLACE)
    with psycopg.connect(warehouse.admin_dsn) as connection:  # a row that no load can have written
        connection.execute("alter table raw.loads drop constraint loads_status_check")
        connection.execute("insert into raw.loads (source_uri, status) values ('nowhere', 'spoilt')")
    said += e2e.communicate(timeout=600)[0]
    assert e2e.returncode == 44, said
    what, why, next_step = last_lines(said)
    assert what.startswith("✗ events_pipeline_daily failed in dbt_build: ")
    assert "raw_loads_have_a_known_status" in what
    assert why == "  A change to a model, or events that it does not expect; dbt's log has the rows or the statement."
    diagnostics = ROOT / next_step.rpartition("Diagnostics: ")[2]
    results = list((diagnostics / "tasks" / "dbt").glob("*/run_results.json"))  # of the scheduled run, too
    assert results
    for path in results:
        failed = [r["unique_id"] for r in json.loads(path.read_text())["results"] if r["status"] == "fail"]
        assert len(failed) == 1
        assert "raw_loads_have_a_known_status" in failed[0]
    assert list((diagnostics / "tasks").glob("dag_id=events_pipeline_daily/*/task_id=dbt_build/attempt=1.log"))
    assert list((diagnostics / "warehouse").glob("loads.csv"))
    for component in ("api-server", "scheduler", "dag-processor"):
        assert list((diagnostics / "pods").glob(f"airflow-{component}-*/{component}.log")), component
    shutil.rmtree(diagnostics)
    failed_pods = [p for p in cluster.items("pods") if p["status"]["phase"] == "Failed"]
    assert any(pod["metadata"]["name"].startswith("dbt-build-") for pod in failed_pods)

    code, said = run("cluster", "logs", *DBT_BUILD)
    assert code == 0
    assert "raw_loads_have_a_known_status" in said

    own = tmp_path / "own events.csv.gz"  # and what failed before does not matter to the next run
    own.write_bytes(gzip.compress(b"".join(SAMPLE.read_bytes().splitlines(keepends=True)[:501])))
    code, said = run("e2e", "--target", "kind", "--reuse", "--events", str(own))
    assert code == 0, said
    assert re.search(r"raw.events +500$", said, re.MULTILINE)
    assert "✓ everything taken down" not in said


@pytest.fixture
def strangers_kubeconfig(cluster: Cluster, tmp_path: Path) -> Path:
    """Give the cluster's kubeconfig as somebody else's, with a volume of a class of its own."""
    path = tmp_path / "config"
    shutil.copy(PLACE.kubeconfig, path)
    run_command("docker", "exec", PLACE.node, "mkdir", "-p", "-m", "777", "/var/lib/strangers-logs")
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "strangers-logs"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "1Gi"},
            "storageClassName": "strangers",
            "hostPath": {"path": "/var/lib/strangers-logs"},
        },
    }
    cluster.kubectl.apply([volume])
    return path


def test_a_strangers_cluster_is_used_and_left_as_it_was(cluster: Cluster, strangers_kubeconfig: Path) -> None:
    server = PLACE.database_that_is_up()
    before = pod_ids(cluster)
    namespaces = {item["metadata"]["name"] for item in cluster.items("namespaces")}
    with psycopg.connect(server.server.dsn) as connection:
        databases = set(connection.execute("select datname from pg_database").fetchall())
        roles = set(connection.execute("select rolname from pg_roles").fetchall())
    code, said = run(
        *("e2e", "--target", "context", "--namespace", "somebody", "--storage-class", "strangers"),
        *("--warehouse-dsn", f"postgresql://postgres@{server.host}:{server.port}/postgres"),
        KUBECONFIG=str(strangers_kubeconfig),
        PGPASSWORD=server.server.password,
    )
    assert code == 0, said
    assert server.server.password not in said
    assert pod_ids(cluster) == before
    assert {item["metadata"]["name"] for item in cluster.items("namespaces")} == namespaces
    with psycopg.connect(server.server.dsn) as connection:
        assert set(connection.execute("select datname from pg_database").fetchall()) == databases
        assert set(connection.execute("select rolname from pg_roles").fetchall()) == roles
    assert json.loads((ROOT / "build" / "e2e" / "phases.json").read_text())["total_s"] > 0

"""A kind cluster that does not work: why its kubelet fails, and what it lacks."""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from harness.errors import NotUpError, PortTakenError, PostgresError
from harness.processes.supervisor import Supervisor
from harness.targets.kind import KindCluster, why_kubelet_fails
from harness.targets.options import RunOptions
from harness.warehouse.server import wait_until_ready
from tests import programs

BEGINS = "Flag --provider-id has been deprecated, This parameter should be set via the config file\n"
# Recorded with the kubelet of kind's node 1.20, and of 1.35 on a host with cgroup v1.
NEGATIVE = "invalid configuration: maxPods (--max-pods) -5 must not be a negative number"
CGROUP_V1 = (
    "failed to validate kubelet configuration, error: kubelet is configured to not run on a host using cgroup v1. "
    "cgroup v1 support is unsupported and will be removed in a future release, path: &TypeMeta{Kind:,APIVersion:,}"
)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("F1126 14:54:0%d.180165     167 server.go:215] %s\n", NEGATIVE),
        ('E1126 14:54:0%d.631256    1983 run.go:72] "command failed" err="%s"\n', CGROUP_V1),
    ],
)
def test_the_reason_of_three_failures_in_a_row(line: str, reason: str) -> None:
    failures = [BEGINS + line % (second, reason) for second in range(3)]
    assert why_kubelet_fails("".join(failures)) == reason
    assert why_kubelet_fails("".join(failures[1:])) == ""
    assert why_kubelet_fails("".join([*failures[1:], line % (9, "another reason")])) == ""
    assert why_kubelet_fails(BEGINS) == ""


@pytest.mark.parametrize("bindings", [None, {}, {"30080/tcp": []}])
def test_a_node_that_publishes_no_port_has_no_address(
    bindings: dict[str, list[str]] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    node = [{"HostConfig": {"PortBindings": bindings}}]
    programs.write_docker(tmp_path / "docker", {f"container inspect {KindCluster.node}": json.dumps(node)})
    with pytest.raises(NotUpError, match=r" publishes no port for Airflow\.\n"):
        KindCluster(RunOptions()).airflow_address()


@pytest.mark.parametrize("there", ["network", "port"])
def test_a_postgresql_outside_of_its_network_is_named(
    there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = {
        "Ports": {"5432/tcp": [{"HostPort": "1"}]} if there == "port" else {},
        "Networks": {KindCluster.cluster: {"IPAddress": "10.0.0.1"}} if there == "network" else {"bridge": {}},
    }
    container = [{"State": {"Running": True}, "NetworkSettings": settings}]
    programs.write_docker(tmp_path / "docker", {"container inspect": json.dumps(container)})
    with pytest.raises(PostgresError, match=r"-postgres, is not in its network\.\n"):
        KindCluster(RunOptions()).running_database()


def test_a_postgresql_whose_port_is_taken_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    container = [{"NetworkSettings": {"Networks": [KindCluster.cluster]}}]
    answers = {"container inspect": json.dumps(container)}
    error = "Bind for 127.0.0.1:25432 failed: port is already allocated"
    programs.write_answers(tmp_path / "docker", answers, error)
    with pytest.raises(PortTakenError, match=r"-postgres, is in use\.\n.*port is already allocated"):
        KindCluster(RunOptions())._restart_database()


@pytest.mark.needs("postgres-image")
def test_a_postgresql_that_was_disconnected_is_connected_again_with_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLATFORM_DEADLINE_CLUSTER", "0")  # there is no node to wait for

    class Other(KindCluster):
        cluster = f"events-platform-test-{secrets.token_hex(4)}"
        node = f"{cluster}-control-plane"

    cluster = Other(RunOptions(), build=tmp_path)
    subprocess.run(["docker", "network", "create", cluster.cluster], check=True, stdout=subprocess.DEVNULL)
    try:
        argv = [sys.executable, "-m", "harness.warehouse.container", "--name", cluster.postgres]
        env = os.environ | {"POSTGRES_PASSWORD": secrets.token_hex(8)}
        subprocess.run([*argv, "--network", cluster.cluster], check=True, env=env)
        server = cluster.running_database().server
        wait_until_ready(server, 60)
        with psycopg.connect(server.dsn) as connection:
            connection.execute("create table kept ()")
        subprocess.run(["docker", "network", "disconnect", cluster.cluster, cluster.postgres], check=True)
        with Supervisor.launch() as supervisor:
            server = cluster.start_database(supervisor).server
        with psycopg.connect(server.dsn) as connection:
            assert connection.execute("select to_regclass('kept')").fetchone() == ("kept",)
    finally:
        for argv in (["rm", "--force", "--volumes", cluster.postgres], ["network", "rm", cluster.cluster]):
            subprocess.run(["docker", *argv], check=True, stdout=subprocess.DEVNULL)

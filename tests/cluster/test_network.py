"""Every connection of a run is one that the policies allow; where the network enforces them, others are refused."""

import json
import re
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from harness.processes.supervisor import Supervisor
from harness.project import pins
from harness.targets.cluster_deployment import connect
from tests.cluster.conftest import KIND, Cluster
from tests.harness.kubernetes.network_rules import Peer, may_connect

pytestmark = [pytest.mark.cluster, pytest.mark.nightly]

DAG_ID = "events_pipeline_daily"
ENFORCING_FROM = (1, 31)  # all node images of kind for it are of 0.24 or newer, whose network enforces policies
# The connection as it was asked for, and as it is answered: from the pod behind a service's address.
NEW = re.compile(r"\] (tcp|udp) .*?src=(\S+) dst=\S+ sport=\d+ dport=\d+ .*?src=(\S+) dst=\S+ sport=(\d+)")
TRY = """
import socket, sys
for address in sys.argv[1:]:
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
        print(address, True)
    except OSError:
        print(address, False)
"""


@contextmanager
def recorded() -> Iterator[list[str]]:
    """Record the new connections in the node while the context lasts."""
    argv = ["docker", "exec", KIND.node, "timeout", "600", "conntrack", "-E", "-e", "NEW", "-o", "timestamp"]
    lines: list[str] = []
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        yield lines
        subprocess.run(["docker", "exec", KIND.node, "pkill", "conntrack"], check=True)
        assert process.stdout
        lines += process.stdout.read().splitlines()


def test_every_connection_of_a_run_is_allowed(cluster: Cluster) -> None:
    kubectl = cluster.kubectl
    pods: dict[str, list[Peer]] = defaultdict(list)  # by address, which a later pod may have again
    with Supervisor.launch() as supervisor, recorded() as lines:
        _, api = connect(KIND, supervisor)
        run_id = api.trigger(DAG_ID, {}, replaces_scheduled=True)
        api.unpause(DAG_ID)
        deadline = time.monotonic() + 240
        while "dbt_build" not in (states := api.task_states(DAG_ID, run_id)) or states["dbt_build"] != "success":
            assert time.monotonic() < deadline, states
            for each in (kubectl, kubectl.for_dbt):
                for pod in each.items("pods"):
                    address = pod["status"].get("podIP", "")
                    peer = Peer(address, each.namespace, pod["metadata"]["labels"])
                    if address and peer not in pods[address]:
                        pods[address].append(peer)
            time.sleep(0.5)
    policies = [policy for each in (kubectl, kubectl.for_dbt) for policy in each.items("networkpolicies")]
    seen: set[str] = set()
    for protocol, source, target, port in (found.groups() for line in lines if (found := NEW.search(line))):
        for one in pods.get(source, [Peer(source)]):
            for other in pods.get(target, [Peer(target)]):
                assert may_connect(policies, one, other, int(port), protocol.upper()), (one, other, port)
                seen.add(one.labels.get("component", one.namespace))
    assert seen >= {"worker", kubectl.for_dbt.namespace}


def test_where_the_network_enforces_policies_dbts_namespace_reaches_only_the_warehouse(cluster: Cluster) -> None:
    kubectl, database = cluster.kubectl, KIND.running_database()
    [api_server] = kubectl.items("pods", selector="component=api-server")
    warehouse, api = f"{database.host}:{database.port}", f"{api_server['status']['podIP']}:8080"
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}
    command = ["python", "-uc", TRY, warehouse, api]
    container: dict[str, Any] = {"name": "main", "image": pins.image("python"), "imagePullPolicy": "IfNotPresent"}
    container |= {"command": command, "securityContext": security}
    of_pod = {"runAsNonRoot": True, "runAsUser": 50000, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"restartPolicy": "Never", "securityContext": of_pod, "containers": [container]}
    dbt = kubectl.for_dbt
    dbt.apply([{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "tries"}, "spec": spec}])
    try:
        deadline = time.monotonic() + 60
        while (dbt.get("pod", "tries") or {})["status"].get("phase") != "Succeeded":
            assert time.monotonic() < deadline, json.dumps(dbt.get("pod", "tries"))
            time.sleep(0.5)
        tried = dict(line.split() for line in dbt.logs("tries", "main").splitlines())
    finally:
        dbt.run("delete", "pod", "tries", "--wait=false", "--grace-period=0")
    major, minor, *_ = kubectl.server_version().removeprefix("v").split(".")
    is_enforcing = (int(major), int(minor)) >= ENFORCING_FROM
    assert tried == {warehouse: "True", api: str(not is_enforcing)}

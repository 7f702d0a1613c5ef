"""`up --rotate-secrets` makes every password and key new, and everything works with the new ones only."""

import psycopg
import pytest
from cryptography.fernet import Fernet

from harness.kubernetes.cluster_secrets import from_outside, read_secret
from harness.processes.supervisor import Supervisor
from harness.targets.cluster_deployment import connect, warehouse_of
from tests.cluster.conftest import KIND, Cluster
from tests.cluster.test_deployment import pod_ids, succeed

pytestmark = [pytest.mark.cluster, pytest.mark.nightly]

DAG_ID = "events_pipeline_daily"


def airflow(cluster: Cluster, *command: str) -> str:
    argv = ("exec", "deployment/airflow-scheduler", "--container", "scheduler", "--", "airflow", *command)
    return cluster.kubectl.run(*argv, timeout_s=180)


def test_a_rotation_makes_everything_new_and_keeps_what_is_stored(cluster: Cluster) -> None:
    airflow(cluster, "variables", "set", "stored", "before the rotation")
    pods, old, old_warehouse = pod_ids(cluster), read_secret(cluster.kubectl, "passwords"), warehouse_of(KIND)
    succeed("cluster", "up", "--rotate-secrets")

    new = read_secret(cluster.kubectl, "passwords")
    assert all(new[name] != password for name, password in old.items())
    assert not pod_ids(cluster) & pods
    for role in ("loader", "transformer", "reader"):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(old_warehouse.dsn(role))
        psycopg.connect(warehouse_of(KIND).dsn(role)).close()
    assert "all healthy" in succeed("cluster", "status")

    assert airflow(cluster, "variables", "get", "stored").splitlines()[-1] == "before the rotation"
    newest, _ = read_secret(cluster.kubectl, "airflow-keys")["fernet-key"].split(",")
    with psycopg.connect(warehouse_of(KIND).server.url("airflow", new["airflow"], "airflow")) as connection:
        [(value,)] = connection.execute("select val from variable where key = 'stored'").fetchall()
    assert Fernet(newest).decrypt(value.encode()) == b"before the rotation"

    with Supervisor.launch() as supervisor:
        _, api = connect(KIND, supervisor)
        run_id = api.trigger(DAG_ID, {}, replaces_scheduled=True)
        api.unpause(DAG_ID)
        api.follow(DAG_ID, run_id, 180, lambda *_: None)


def test_a_secret_that_kubectl_makes_is_somebody_elses(cluster: Cluster) -> None:
    assert from_outside(cluster.kubectl, "feeds", []) is None
    cluster.kubectl.run("create", "secret", "generic", "from-outside", "--from-literal=uri=s3://bucket/events.csv")
    try:
        assert from_outside(cluster.kubectl, "from-outside", ["uri"]) == {"uri": "s3://bucket/events.csv"}
    finally:
        cluster.kubectl.run("delete", "secret", "from-outside")

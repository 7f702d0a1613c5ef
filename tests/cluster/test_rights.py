"""Each account tries what it must not do: read secrets, run commands in pods, use other accounts."""

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import pytest

from harness.kubernetes.kubectl import Kubectl
from tests.cluster.conftest import Cluster

pytestmark = pytest.mark.cluster

Account = tuple[str, str]  # its namespace and name


def both(kubectl: Kubectl) -> tuple[Kubectl, Kubectl]:
    return kubectl, kubectl.for_dbt


def names(kubectl: Kubectl, kind: str) -> list[str]:
    return [item["metadata"]["name"] for item in kubectl.items(kind)]


def accounts(kubectl: Kubectl) -> list[Account]:
    return [(each.namespace, name) for each in both(kubectl) for name in names(each, "serviceaccounts")]


def user(account: Account) -> str:
    return f"system:serviceaccount:{':'.join(account)}"


def may(kubectl: Kubectl, account: Account, *what: str) -> bool:
    """Let ACCOUNT try WHAT, arguments of kubectl and maybe an object; an error that is no refusal is not expected."""
    *arguments, stdin = what if what[0] == "create" and what[-1].startswith("{") else (*what, "")
    argv = [*kubectl.argv, "--as", user(account), *arguments]
    tried = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    # The server asks for a stream only of an account that may run a command.
    is_allowed = tried.returncode == 0 or "Upgrade request required" in tried.stderr
    assert is_allowed or "forbidden" in tried.stderr.lower(), (argv, tried.stderr)
    return is_allowed


def allowed(kubectl: Kubectl, attempts: Iterator[tuple[Any, ...]]) -> set[tuple[Any, ...]]:
    """Return those of ATTEMPTS, each a namespace's kubectl, an account and arguments, that succeed."""
    tries = list(attempts)
    assert len(tries) >= len(accounts(kubectl))
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda each: may(*each), tries)
    return {
        (each.namespace, account, *what)
        for (each, account, *what), is_allowed in zip(tries, results, strict=True)
        if is_allowed
    }


def pod(account: str, secret: str) -> str:
    """Return a pod that passes Pod Security, uses ACCOUNT and mounts SECRET."""
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container: dict[str, Any] = {"name": "main", "image": "any", "securityContext": security}
    container["volumeMounts"] = [{"name": "stolen", "mountPath": "/stolen"}]
    volumes = [{"name": "stolen", "secret": {"secretName": secret}}]
    of_pod = {"runAsNonRoot": True, "runAsUser": 50000, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"serviceAccountName": account, "containers": [container], "volumes": volumes, "securityContext": of_pod}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "thief"}, "spec": spec})


def test_the_two_accounts_that_start_pods_may_do_no_more(cluster: Cluster) -> None:
    kubectl, scheduler, worker = (
        cluster.kubectl,
        (cluster.namespace, "airflow-scheduler"),
        (cluster.namespace, "airflow-worker"),
    )
    assert may(kubectl, scheduler, "get", "pods")
    assert may(kubectl.for_dbt, worker, "get", "pods")
    assert not may(kubectl, worker, "get", "pods")
    assert not may(kubectl.for_dbt, scheduler, "get", "pods")
    for account in accounts(kubectl):
        for what in ("deployments.apps", "configmaps", "nodes"):
            assert not may(kubectl, account, "get", what), (account, what)


def test_no_account_reads_a_secret(cluster: Cluster) -> None:
    secrets = [(each, name) for each in both(cluster.kubectl) for name in names(each, "secrets")]
    assert {"airflow-keys", "passwords", "warehouse-loader", "warehouse-transformer"} <= {name for _, name in secrets}
    tries = (
        (each, account, "get", "secret", name) for account, (each, name) in product(accounts(cluster.kubectl), secrets)
    )
    assert allowed(cluster.kubectl, tries) == set()


def test_no_account_runs_a_command_in_a_pod(cluster: Cluster) -> None:
    pods = [(each, name) for each in both(cluster.kubectl) for name in names(each, "pods")]
    assert len(pods) >= 3
    # The request itself: `kubectl exec` looks at the pod first, and says that it is over instead of asking.
    request = "/api/v1/namespaces/{}/pods/{}/exec?command=true&stdout=true"
    tries = (
        (each, account, "create", "--raw", request.format(each.namespace, name), "--filename=-", "{}")
        for account, (each, name) in product(accounts(cluster.kubectl), pods)
    )
    assert allowed(cluster.kubectl, tries) == set()


def test_no_account_gets_the_token_of_another_or_acts_for_it(cluster: Cluster) -> None:
    everybody = accounts(cluster.kubectl)
    of = {each.namespace: each for each in both(cluster.kubectl)}
    tries = (
        (of[namespace], account, "create", "token", name)
        for account, (namespace, name) in product(everybody, everybody)
    )
    assert allowed(cluster.kubectl, tries) == set()
    for account in everybody:
        argv = [*cluster.kubectl.argv, "auth", "can-i", "impersonate", "serviceaccounts", "--as", user(account)]
        tried = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert (tried.returncode, tried.stdout.strip()) == (1, "no"), account


def test_an_account_that_starts_pods_reaches_only_what_is_beside_them(cluster: Cluster) -> None:
    """Whoever starts a pod may mount each secret of its namespace and use each account there; so only two may."""
    kubectl = cluster.kubectl
    tries = (
        (each, account, "create", "--dry-run=server", "--filename", "-", pod(name, secret))
        for account, each in product(accounts(kubectl), both(kubectl))
        for name, secret in product(names(each, "serviceaccounts"), names(each, "secrets")[:1])
    )
    found = {(namespace, account[1]) for namespace, account, *_ in allowed(kubectl, tries)}
    assert found == {(kubectl.namespace, "airflow-scheduler"), (kubectl.for_dbt.namespace, "airflow-worker")}
    assert set(names(kubectl.for_dbt, "serviceaccounts")) == {"dbt", "default"}
    own = {name for name in names(kubectl.for_dbt, "secrets") if "-token-" not in name}  # before Kubernetes 1.24
    assert own == {"warehouse-transformer"}

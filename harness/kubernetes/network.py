"""Restrict whom the pods may talk to: the policies in `cluster/manifests/network.yaml` and `network-dbt.yaml`."""

import contextlib
import ipaddress
from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from harness.errors import CommandFailedError
from harness.kubernetes.deployment import manifest
from harness.kubernetes.kubectl import Kubectl

API_SERVICE = "kubernetes.io/service-name=kubernetes"
USUAL_API_PORTS = {443, 6443}
WEB_PORTS = {80, 443}


def restrict(kubectl: Kubectl, databases: Iterable[tuple[str, int]], uris: Iterable[str]) -> None:
    """Apply the policies; DATABASES are the hosts and ports of PostgreSQL as pods reach it, URIS the feeds' files."""
    rules = to_databases(databases)
    web = WEB_PORTS.union(*map(_port_of, uris))
    kubectl.apply(
        manifest("network", DATABASE=rules, KUBERNETES_PORTS=_ports(_api_ports(kubectl)), WEB_PORTS=_ports(web))
    )
    kubectl.for_dbt.apply(manifest("network-dbt", DATABASE=rules))


def to_databases(databases: Iterable[tuple[str, int]]) -> list[dict[str, Any]]:
    """Return the rules of a policy that let pods reach DATABASES."""
    return [_database_rule(host, port) for host, port in sorted(set(databases))]


def _database_rule(host: str, port: int) -> dict[str, Any]:
    """Return the rule for a server; of a host name, whose address may change, only the port."""
    rule: dict[str, Any] = {"ports": _ports({port})}
    with contextlib.suppress(ValueError):
        rule["to"] = [{"ipBlock": {"cidr": str(ipaddress.ip_network(host))}}]
    return rule


def _ports(numbers: Iterable[int]) -> list[dict[str, Any]]:
    return [{"protocol": "TCP", "port": number} for number in sorted(numbers)]


def _port_of(uri: str) -> set[int]:
    """Return the port that URI names, if it names one."""
    with contextlib.suppress(ValueError):
        if "://" in uri and (port := urlsplit(uri).port):
            return {port}
    return set()


def _api_ports(kubectl: Kubectl) -> set[int]:
    """Return the ports of the cluster's API: policies see the server's own, not that of its service."""
    with contextlib.suppress(CommandFailedError):  # without the right to list them: the usual ones
        slices = replace(kubectl, namespace="default").items("endpointslices", selector=API_SERVICE)
        return USUAL_API_PORTS | {port["port"] for each in slices for port in each.get("ports") or []}
    return USUAL_API_PORTS

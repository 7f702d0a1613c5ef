"""Who may talk to whom by the NetworkPolicies, as Kubernetes reads them, without a network that enforces them.

https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Policy = dict[str, Any]


@dataclass(frozen=True)
class Peer:
    """One end of a connection: a pod, or without a namespace an address outside the cluster."""

    address: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict, hash=False)


def may_connect(policies: Iterable[Policy], source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Return whether both ends allow a connection from SOURCE to PORT of TARGET."""
    ends = (("Egress", "egress", "to", source, target), ("Ingress", "ingress", "from", target, source))
    for policy_type, rules, peers, end, other in ends:
        of_end = [
            policy for policy in policies if policy_type in policy["spec"]["policyTypes"] and _selects(policy, end)
        ]
        allowed = (
            _has_port(rule, port, protocol) and _has_peer(rule.get(peers), other, policy["metadata"]["namespace"])
            for policy in of_end
            for rule in policy["spec"].get(rules) or []
        )
        if of_end and not any(allowed):
            return False
    return True


def _selects(policy: Policy, peer: Peer) -> bool:
    return policy["metadata"]["namespace"] == peer.namespace and _matches(policy["spec"]["podSelector"], peer.labels)


def _matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    expressions = selector.get("matchExpressions") or []
    assert selector.keys() <= {"matchLabels", "matchExpressions"}
    assert {expression["operator"] for expression in expressions} <= {"In"}, "the project uses no other"
    return all(labels.get(name) == value for name, value in (selector.get("matchLabels") or {}).items()) and all(
        labels.get(expression["key"]) in expression["values"] for expression in expressions
    )


def _has_port(rule: dict[str, Any], port: int, protocol: str) -> bool:
    return "ports" not in rule or any(
        (each.get("protocol", "TCP"), each["port"]) == (protocol, port) for each in rule["ports"]
    )


def _has_peer(peers: list[dict[str, Any]] | None, other: Peer, namespace: str) -> bool:
    """Return whether OTHER is one of PEERS, of a policy in NAMESPACE; no peers are everybody."""
    if not peers:
        return True
    for peer in peers:
        assert peer.keys() in ({"ipBlock"}, {"podSelector"}), "the project uses no others"
        if "ipBlock" in peer:
            assert peer["ipBlock"].keys() == {"cidr"}
            if ipaddress.ip_address(other.address) in ipaddress.ip_network(peer["ipBlock"]["cidr"]):
                return True
        elif other.namespace == namespace and _matches(peer["podSelector"], other.labels):
            return True
    return False

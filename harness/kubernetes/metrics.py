"""Metrics of a deployment: the ledger's exporter beside Airflow and, on a cluster of our own, a Prometheus.

Airflow's own metrics come from the chart's statsd exporter: cluster/values/metrics.yaml.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from harness.kubernetes import chart, network
from harness.kubernetes.cluster_secrets import READER_SECRET, from_outside
from harness.kubernetes.deployment import manifest
from harness.kubernetes.kubectl import Kubectl
from harness.project import pins
from harness.project.paths import ROOT

EXPORTER = "feeds-metrics"
STATSD, PROMETHEUS = pins.FOR_METRICS
PROMETHEUS_PORT = 9090
VALUES = chart.VALUES / "metrics.yaml"
RULES = ROOT / "cluster" / "metrics" / "alerts.yml"
_OURS = "events-platform/part=metrics"
_KINDS = "deployments,services,configmaps,networkpolicies,serviceaccounts"


def install(
    kubectl: Kubectl,
    airflow_image: str,
    databases: Iterable[tuple[str, int]],
    annotations: Mapping[str, str] = {},
    pull_secret: str | None = None,
) -> None:
    """Install the exporter, which has Airflow's image, and let it reach DATABASES, hosts and ports as pods use them."""
    pull_secrets: list[dict[str, Any]] = [{"name": pull_secret.rpartition("/")[2]}] if pull_secret else []
    kubectl.apply(
        manifest(
            "metrics",
            IMAGE=airflow_image,
            DATABASE=network.to_databases(databases),
            ANNOTATIONS=dict(annotations),
            PULL_SECRETS=pull_secrets,
        )
    )


def install_prometheus(kubectl: Kubectl, image: str) -> None:
    """Install a Prometheus of IMAGE that asks both exporters and has the project's rules."""
    rules = RULES.read_text(encoding="utf-8")
    values = {"IMAGE": image, "RULES": json.dumps(rules)}
    digest = hashlib.sha256(manifest("prometheus", DIGEST="", **values).encode()).hexdigest()[:16]
    kubectl.apply(manifest("prometheus", DIGEST=digest, **values))


def is_installed(kubectl: Kubectl) -> bool:
    """Return whether the exporter is installed."""
    return kubectl.get("deployment", EXPORTER) is not None


def remove(kubectl: Kubectl) -> None:
    """Remove what the functions above have installed, and the exporter's secret, if they are there and ours."""
    if is_installed(kubectl):
        kubectl.run("delete", _KINDS, "--selector", _OURS, "--ignore-not-found", "--wait=false")
        if from_outside(kubectl, READER_SECRET, ()) is None:
            kubectl.run("delete", "secret", READER_SECRET, "--ignore-not-found")


def prometheus_lines(kubectl: Kubectl) -> list[str]:
    """Return the lines that say how Prometheus is reached; none if there is none of ours."""
    if not kubectl.get("deployment", PROMETHEUS):
        return []
    forward = f"{kubectl.command} port-forward service/{PROMETHEUS} {PROMETHEUS_PORT}:{PROMETHEUS_PORT}"
    return [f"  Prometheus http://127.0.0.1:{PROMETHEUS_PORT}/alerts", f"             after: {forward}"]

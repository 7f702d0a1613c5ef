"""`nox -s cluster -- manifests` writes what `up` would install: valid, complete and without a secret."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.kubernetes import chart
from harness.targets import manifests
from harness.targets.options import RunOptions
from tests.harness.kubernetes.object_rules import KUBERNETES, load, schema_errors

pytestmark = pytest.mark.needs("helm", "chart")
SECRET = "postgresql://admin:very-secret@db.internal:5433/postgres"  # noqa: S105


def written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *values: Path, has_metrics: bool = False
) -> dict[str, list[dict[str, Any]]]:
    monkeypatch.setattr(manifests, "FOLDER", folder / "manifests")
    options = RunOptions(
        "context",
        namespace="team",
        registry="registry.example/team/",
        warehouse_dsn=SECRET,
        uris={"events": "s3://bucket/events.csv?token=very-secret"},
        values=tuple(map(str, values)),
        metrics=has_metrics,
    )
    manifests.write(options)
    files = sorted((folder / "manifests").glob("*.yaml"))
    assert "very-secret" not in "".join(path.read_text() for path in (folder / "manifests").iterdir())
    return {path.name: [*yaml.safe_load_all(path.read_text())] for path in files}


def test_everything_but_the_secrets_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = written(tmp_path, monkeypatch)
    assert list(files) == ["0-namespaces.yaml", "1-volumes.yaml", "2-network.yaml", "3-airflow.yaml"]
    items = [item for file in files.values() for item in file]
    assert {item["metadata"].get("namespace") for item in items} == {None, "team", "team-dbt"}
    assert {item["kind"] for item in items if "namespace" not in item["metadata"]} == {"Namespace"}
    text = "".join(path.read_text() for path in (tmp_path / "manifests").glob("*.yaml"))
    assert "image: registry.example/team/events-platform/airflow:" in text
    assert "value: registry.example/team/events-platform/dbt:" in text
    assert "port: 5433" in text
    secrets = (tmp_path / "manifests" / "secrets.md").read_text()
    assert "| team-dbt | warehouse-transformer | WAREHOUSE_HOST, " in secrets
    assert "| team | airflow-keys | fernet-key, api-secret-key, jwt-secret |" in secrets
    objects = {f"{item['kind']}/{item['metadata']['name']}{number}": item for number, item in enumerate(items)}
    for version in KUBERNETES:
        assert list(schema_errors(objects, version)) == []


def test_metrics_add_the_exporter_and_its_secret_and_no_prometheus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = written(tmp_path, monkeypatch, has_metrics=True)
    assert list(files)[-1] == "4-metrics.yaml"
    [exporter] = [item for item in files["4-metrics.yaml"] if item["kind"] == "Deployment"]
    assert (exporter["metadata"]["name"], exporter["metadata"]["namespace"]) == ("feeds-metrics", "team")
    [container] = exporter["spec"]["template"]["spec"]["containers"]
    assert container["image"].startswith("registry.example/team/events-platform/airflow:")
    assert any(item["metadata"]["name"] == "airflow-statsd" for item in files["3-airflow.yaml"])
    assert "| team | warehouse-reader | connection |" in (tmp_path / "manifests" / "secrets.md").read_text()


def test_production_needs_no_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = written(tmp_path, monkeypatch, chart.VALUES / "production.yaml")
    assert list(files) == ["0-namespaces.yaml", "2-network.yaml", "3-airflow.yaml"]
    kinds = {item["kind"] for item in files["3-airflow.yaml"]}
    assert kinds >= {"Ingress", "CronJob", "PodDisruptionBudget", "Deployment", "Job"}
    assert load(yaml.safe_dump_all(files["3-airflow.yaml"])).keys() >= {"Deployment/airflow-pgbouncer"}

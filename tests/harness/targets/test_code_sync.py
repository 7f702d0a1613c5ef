"""Synced code is in both namespaces, since workers and dbt's pods read it there."""

import tarfile
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from harness.kubernetes.deployment import NAMESPACE
from harness.targets import code_sync
from tests.harness.kubernetes.object_rules import Objects, Recorder


class Cluster(Recorder):
    """Kubectl for a cluster without a DAG processor; keeps what is applied by namespace, and the calls."""

    def items(self, *kinds: str, selector: str = "") -> list[dict[str, Any]]:
        assert (kinds, selector) == (("pods",), "component=dag-processor")
        return []

    def run(self, *arguments: str, stdin: str | None = None, timeout_s: float = 0) -> str:  # noqa: ARG002
        self.existing.setdefault("calls", {"items": []})["items"].append((self.namespace, *arguments))
        return ""

    def apply(self, manifests: Any) -> None:
        [item] = list(manifests)
        self.applied[f"{self.namespace}/{item['metadata']['name']}"] = item


@pytest.fixture
def kubectl() -> Cluster:
    return Cluster(Path("kubectl"), NAMESPACE)


def archived(applied: Objects, namespace: str) -> list[str]:
    content = b64decode(applied[f"{namespace}/synced-code"]["binaryData"]["code.tar.gz"])
    with tarfile.open(fileobj=BytesIO(content)) as archive:
        return archive.getnames()


def test_code_is_brought_to_workers_and_to_dbt(kubectl: Cluster) -> None:
    files = {path: Path(__file__) for path in ("airflow/dags/a.py", "airflow/include/b.py", "dbt/models/c.sql")}
    code_sync.sync(kubectl, ["dbt/models/c.sql"], files)
    for namespace in (NAMESPACE, f"{NAMESPACE}-dbt"):
        assert archived(kubectl.applied, namespace) == ["dags/a.py", "include/b.py", "dbt/models/c.sql"]


def test_it_is_removed_from_both(kubectl: Cluster) -> None:
    kubectl.existing[f"configmap {NAMESPACE}/synced-code"] = {"metadata": {}}
    code_sync.remove_synced(kubectl)
    deleted = {call[0]: call[1:4] for call in kubectl.existing["calls"]["items"]}
    assert deleted == dict.fromkeys((NAMESPACE, f"{NAMESPACE}-dbt"), ("delete", "configmap", "synced-code"))

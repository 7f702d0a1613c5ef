"""The pod that runs dbt, as the operator requests it, follows the rules for every pod of the project."""

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.dag_processing.dagbag import DagBag
from kubernetes.client import ApiClient

from tests import pod_rules

ROOT = Path(__file__).parents[2]
IMAGE = "events-platform/dbt:0123456789abcdef"
Pod = dict[str, Any]


def image_user(dockerfile: str) -> int | None:
    """Return the id of the image's user; None for a name, which Kubernetes cannot distinguish from root."""
    *_, user = re.findall(r"^USER (\S+)", dockerfile, re.MULTILINE)
    name = str(user).partition(":")[0]
    return int(name) if name.isdecimal() else None


@pytest.fixture(scope="module", params=["daily", "weekly", "monthly"])
def built(request: pytest.FixtureRequest) -> Iterator[Pod]:
    """Give the pod as JSON, made without a cluster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DBT_IMAGE", IMAGE)
        patch.setenv("DBT_NAMESPACE", "dbts-own")
        bag = DagBag(dag_folder=str(ROOT / "airflow" / "dags"))
        task: Any = bag.dags[f"events_pipeline_{request.param}"].get_task("dbt_build")
        yield ApiClient().sanitize_for_serialization(task.build_pod_request_obj(dry_run=True))


@pytest.fixture
def pod(built: Pod) -> Pod:
    return copy.deepcopy(built)


def broken_rules(pod: Pod, dockerfile: str) -> Iterator[str]:
    spec = pod["spec"]
    yield from pod_rules.wrong_images(spec, {IMAGE})
    yield from pod_rules.not_restricted(spec, image_user(dockerfile))
    yield from pod_rules.writable_roots(spec)
    yield from pod_rules.without_resources(spec)
    yield from pod_rules.clear_secrets(spec)
    manifests = [*yaml.safe_load_all((ROOT / "cluster" / "manifests" / "rights-dbt.yaml").read_text())]
    accounts = {item["metadata"]["name"] for item in manifests if item["kind"] == "ServiceAccount"}
    bound = {subject["name"] for item in manifests for subject in item.get("subjects", [])}
    if spec.get("serviceAccountName") not in accounts - bound or spec.get("automountServiceAccountToken") is not False:
        yield "pod: has rights in the cluster"


def dockerfile() -> str:
    return (ROOT / "dbt" / "Dockerfile").read_text()


def test_dbts_pod_breaks_no_rule(pod: Pod) -> None:
    assert len(pod["spec"]["containers"]) == 1
    assert pod["metadata"]["namespace"] == "dbts-own"
    assert list(broken_rules(pod, dockerfile())) == []


def base(spec: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = spec["containers"][0]
    return container


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda spec: base(spec).update(image="python:3"), "base: python:3 is not a loaded image"),
        (lambda spec: base(spec).update(imagePullPolicy="Always"), "base: its pull policy is not IfNotPresent"),
        (lambda spec: spec["securityContext"].pop("runAsNonRoot"), "base: may run as root"),
        (lambda spec: spec["securityContext"].update(runAsUser=0), "base: its user is root, or not known"),
        (
            lambda spec: base(spec)["securityContext"].pop("readOnlyRootFilesystem"),
            "base: may write to its image's files",
        ),
        (lambda spec: base(spec)["resources"]["limits"].pop("memory"), "base: no limits of memory"),
        (lambda spec: base(spec)["args"].append("--password x"), "base: a secret in its arguments"),
        (
            lambda spec: base(spec).setdefault("env", []).append({"name": "WAREHOUSE_PASSWORD", "value": "x"}),
            "base: WAREHOUSE_PASSWORD is a secret in clear",
        ),
        (lambda spec: spec.update(serviceAccountName="airflow-worker"), "pod: has rights in the cluster"),
        (lambda spec: spec.pop("automountServiceAccountToken"), "pod: has rights in the cluster"),
    ],
)
def test_a_broken_rule_is_found(pod: Pod, change: Callable[[dict[str, Any]], object], line: str) -> None:
    change(pod["spec"])
    assert list(broken_rules(pod, dockerfile())) == [line]


@pytest.mark.parametrize("user", ["root", "0:0", "nobody"])
def test_an_image_of_root_or_of_a_named_user_is_found(pod: Pod, user: str) -> None:
    assert list(broken_rules(pod, f"FROM x\nUSER 50000\nUSER {user}\n")) == ["base: its user is root, or not known"]


def test_airflows_configuration_says_on_which_nodes_it_runs(monkeypatch: pytest.MonkeyPatch, built: Pod) -> None:
    """As the values of the chart do: `config.dbt_pod` in cluster/values/production.yaml."""
    from feeds.dbt_pod import dbt_pod

    values = yaml.safe_load((ROOT / "cluster" / "values" / "production.yaml").read_text())
    toleration = [{"key": "dedicated", "operator": "Equal", "value": "dbt", "effect": "NoSchedule"}]
    chosen = {"node_selector": '{"workload": "dbt"}', "tolerations": json.dumps(toleration), "results_claim": ""}
    chosen["annotations"] = values["config"]["dbt_pod"]["annotations"]
    assert values["config"]["dbt_pod"].keys() == chosen.keys()
    for name, value in chosen.items():
        monkeypatch.setenv(f"AIRFLOW__DBT_POD__{name.upper()}", value)
    request = dbt_pod("dbt_build", IMAGE, ("build",)).build_pod_request_obj(dry_run=True)
    made = ApiClient().sanitize_for_serialization(request)
    assert made["metadata"]["annotations"].items() >= json.loads(chosen["annotations"]).items()
    spec = made["spec"]
    assert (spec["nodeSelector"], spec["tolerations"]) == ({"workload": "dbt"}, toleration)
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["results"] == {"name": "results", "emptyDir": {"sizeLimit": "256Mi"}}

    usual = built["spec"]  # without such a section
    assert not usual.get("nodeSelector")
    assert not usual.get("tolerations")
    claims = [volume["persistentVolumeClaim"] for volume in usual["volumes"] if "persistentVolumeClaim" in volume]
    assert claims == [{"claimName": "dbt-results"}]


def test_the_pod_emits_events_where_its_worker_does_but_has_no_secret_of_it_in_its_specification() -> None:
    from feeds.dbt_pod import lineage_variables

    files = {"OPENLINEAGE__TRANSPORT__TYPE": "file", "OPENLINEAGE__TRANSPORT__LOG_FILE_PATH": "/opt/airflow/logs/a"}
    assert lineage_variables({"PATH": "/bin", **files}) == {
        "OPENLINEAGE__TRANSPORT__TYPE": "file",
        "OPENLINEAGE__TRANSPORT__LOG_FILE_PATH": "/var/log/dbt/lineage/event",
    }
    server = {"OPENLINEAGE_URL": "http://server", "OPENLINEAGE_NAMESPACE": "ours"}
    secrets = {"OPENLINEAGE_API_KEY": "key", "OPENLINEAGE__TRANSPORT__AUTH": "{}", "OPENLINEAGE_ENDPOINT": "a:b@c"}
    assert lineage_variables(server | secrets) == server

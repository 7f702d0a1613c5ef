"""`cluster/values/notifications.yaml`: what it makes of the chart follows the rules, and two pods get the addresses."""

import json
from typing import Any

import pytest

from harness.docker import images
from harness.kubernetes import chart, cluster_secrets, deployment
from tests import pod_rules
from tests.harness.kubernetes.network_rules import may_connect
from tests.harness.kubernetes.object_rules import PROCESSOR, RULES, Objects, load, of_harness, pods
from tests.harness.kubernetes.test_network import ANYWHERE, PODS, policies

pytestmark = pytest.mark.needs("helm", "chart")

TRIGGERER = "Deployment/airflow-triggerer"
SECRET = "Secret/notifications"  # noqa: S105 - its name


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    folder = tmp_path_factory.mktemp("values")
    env = {"DBT_IMAGE": images.dbt().reference}
    values = chart.run_values(images.airflow().reference, env, {}, of_workers=cluster_secrets.feeds_env())
    (folder / "values.json").write_text(json.dumps(values))
    files = [chart.VALUES / f"{name}.yaml" for name in ("base", "kind", "notifications")] + [folder / "values.json"]
    chart.check_values(chart.locate(), deployment.NAMESPACE, files)
    return load(chart.render(chart.locate(), deployment.NAMESPACE, chart.with_merged_lists(files))) | of_harness()


@pytest.mark.parametrize("rule", RULES)
def test_it_follows_the_rules_of_every_target(objects: Objects, rule: str) -> None:
    of_users = {SECRET: {"kind": "Secret", "metadata": {"name": "notifications"}, "data": {"connection": "eA=="}}}
    expected = {"secrets exist": [f"{name}: notifications connection" for name in (PROCESSOR, TRIGGERER)]}
    assert sorted(RULES[rule](objects)) == expected.get(rule, [])
    if rule in expected:
        assert list(RULES[rule](objects | of_users)) == []


def test_the_addresses_are_known_only_where_messages_are_sent(objects: Objects) -> None:
    known, named = set(), set()
    for name, spec in pods(objects):
        variables: list[dict[str, Any]] = [
            one for container in pod_rules.containers(spec) for one in container.get("env") or []
        ]
        if {"name": "notifications", "key": "connection"} in [
            (one.get("valueFrom") or {}).get("secretKeyRef") for one in variables
        ]:
            known.add(name)
        named |= {name for one in variables if one["name"] == "NOTIFIER"}
    assert known == {PROCESSOR, TRIGGERER}
    assert named == {name for name, _ in pods(objects)}


def test_the_dag_processor_reaches_the_web_only_with_it(objects: Objects) -> None:
    labels = objects[PROCESSOR]["spec"]["template"]["metadata"]["labels"]
    plain = PODS["DAG processor"]
    told = type(plain)(plain.address, plain.namespace, labels)
    for port in (80, 443):
        assert may_connect(policies(), told, ANYWHERE, port)
        assert not may_connect(policies(), plain, ANYWHERE, port)
    assert not may_connect(policies(), told, ANYWHERE, 25)
    assert not may_connect(policies(), told, PODS["API server"], 8080)


def test_the_triggerer_keeps_nothing(objects: Objects) -> None:
    assert objects["ServiceAccount/airflow-triggerer"]["automountServiceAccountToken"] is False
    assert not [name for name in objects if name.startswith("StatefulSet/")]

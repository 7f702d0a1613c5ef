"""Each feed has a URI in pods: a variable from a key that a secret does not have would keep them from starting."""

from dataclasses import replace

import pytest

from feeds.contract import feed_names
from harness.kubernetes.cluster_secrets import feeds_env
from harness.project.paths import SAMPLE
from harness.targets.kubernetes_target import uri_in_pods
from tests.events_feed import EVENTS


@pytest.mark.parametrize(
    ("location", "given", "expected"),
    [
        (str(SAMPLE), None, "/opt/airflow/data/events.csv"),
        (str(SAMPLE), "s3://bucket/events.csv", "s3://bucket/events.csv"),
        ("/mnt/shared/events.csv", None, "/mnt/shared/events.csv"),
        ("s3://bucket/{start:%Y}/*.csv", None, "s3://bucket/{start:%Y}/*.csv"),
    ],
)
def test_a_feed_without_another_uri_has_that_of_its_contract(location: str, given: str | None, expected: str) -> None:
    assert uri_in_pods(replace(EVENTS, location=location), given) == expected


def test_every_variable_of_a_feed_needs_its_key() -> None:
    keys = [variable["valueFrom"]["secretKeyRef"] for variable in feeds_env()]
    assert [sorted(key) for key in keys] == [["key", "name"]] * len(feed_names())

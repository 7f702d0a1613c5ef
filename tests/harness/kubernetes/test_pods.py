"""When pods were scheduled, had their images, and were started, from events as a cluster has them."""

from datetime import UTC, datetime
from typing import Any

from harness.kubernetes.pods import timed
from harness.reporting.report.run import Pod


def event(
    reason: str, second: int, name: str = "dbt-1", kind: str = "Pod", key: str = "firstTimestamp"
) -> dict[str, Any]:
    other = {"firstTimestamp": None, "eventTime": None}
    return other | {
        "reason": reason,
        key: f"2026-11-27T22:00:{second:02}Z",
        "involvedObject": {"kind": kind, "name": name},
    }


def at(second: int) -> datetime:
    return datetime(2026, 11, 27, 22, 0, second, tzinfo=UTC)


def test_a_pod_is_started_when_its_last_container_is() -> None:
    events = [
        event("Scheduled", 1, key="eventTime"),  # as the scheduler of Kubernetes 1.36 writes it
        event("Pulled", 2),
        event("Started", 3),
        event("Pulled", 6),
        event("Started", 7),
        event("Killing", 9),
        event("ScalingReplicaSet", 0, "airflow", "Deployment"),
    ]
    assert timed(events, []) == [Pod("dbt-1", at(1), at(6), at(7), None)]


def test_what_exists_knows_when_it_became_ready() -> None:
    def pod(name: str, status: str) -> dict[str, Any]:
        conditions = [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-27T22:00:01Z"},
            {"type": "Ready", "status": status, "lastTransitionTime": "2026-11-27T22:00:09Z"},
        ]
        return {"metadata": {"name": name}, "status": {"conditions": conditions}}

    events = [event("Scheduled", 4, "b"), event("Scheduled", 3, "a"), event("Scheduled", 5, "c")]
    existing = [pod("a", "True"), pod("b", "False"), {"metadata": {"name": "c"}, "status": {}}]
    assert timed(events, existing) == [
        Pod("a", at(3), None, None, at(9)),
        Pod("b", at(4), None, None, None),
        Pod("c", at(5), None, None, None),
    ]

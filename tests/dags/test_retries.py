"""What is tried again, and how a dbt that ended is reported."""

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import RetryAction
from airflow.sdk.exceptions import AirflowException

from feeds import errors
from feeds.dbt_pod import dbt_pod
from feeds.dbt_task import DbtEndedError, DbtFailedError, failure
from feeds.retries import RETRIES, RetryPolicy

TEMPORARY = {"SourceMissing", "SourceUnreadable", "SourceChanged", "WarehouseBusy", "WarehouseGone"}


def action(exception: BaseException, run_type: str = "scheduled") -> RetryAction:
    policy = RetryPolicy.deserialize(RETRIES["retry_policy"].serialize())  # as the scheduler stores it
    context: Any = {"dag_run": SimpleNamespace(run_type=run_type)}
    return policy.evaluate(exception, 1, RETRIES["retries"], context).action


@pytest.mark.parametrize("kind", errors.FeedError.__subclasses__())
def test_an_error_of_a_load_is_tried_again_if_it_is_temporary(kind: type[errors.FeedError]) -> None:
    expected = RetryAction.RETRY if kind.__name__ in TEMPORARY else RetryAction.FAIL
    assert action(kind("what", "why", "next")) is expected


@pytest.mark.parametrize("kind", errors.FeedError.__subclasses__())
def test_a_backfill_waits_for_everything_but_missing_files(kind: type[errors.FeedError]) -> None:
    expected = RetryAction.RETRY if kind.__name__ in TEMPORARY - {"SourceMissing"} else RetryAction.FAIL
    assert action(kind("what", "why", "next"), "backfill") is expected


def test_unexpected_errors_are_tried_again() -> None:
    assert action(OSError("the API server does not answer")) is RetryAction.DEFAULT
    assert RETRIES["retries"] == 3


@pytest.mark.parametrize(
    ("code", "reason", "kind", "shown"),
    [
        (1, "Error", DbtFailedError, "with exit code 1 in the pod p"),
        (2, None, DbtFailedError, "with exit code 2 in the pod p"),
        (31, "Error", DbtEndedError, "with exit code 31 in the pod p"),
        (137, "OOMKilled", DbtEndedError, "by SIGKILL in the pod p (OOMKilled)"),
        (143, "Error", DbtEndedError, "by SIGTERM in the pod p"),
        (-15, None, DbtEndedError, "by SIGTERM in the pod p"),
        (255, "Error", DbtEndedError, "with exit code 255 in the pod p"),
        (None, "Evicted", DbtEndedError, "without an exit code in the pod p (Evicted)"),
    ],
)
def test_a_pod_that_failed_is_one_line(
    monkeypatch: pytest.MonkeyPatch, code: int | None, reason: str | None, kind: type[Exception], shown: str
) -> None:
    def cleanup(*_: Any, **__: Any) -> None:
        raise AirflowException("Pod p returned a failure.\nremote_pod: …")

    monkeypatch.setattr(KubernetesPodOperator, "cleanup", cleanup)
    terminated = SimpleNamespace(exit_code=code, reason=reason)
    base = SimpleNamespace(name="base", state=SimpleNamespace(terminated=terminated))
    status = SimpleNamespace(container_statuses=[base] if code else None, reason=reason, phase="Failed")
    pod = SimpleNamespace(metadata=SimpleNamespace(name="p"), status=status)
    with pytest.raises(kind) as caught:
        dbt_pod("dbt_build", "dbt:1", ("build",)).cleanup(pod, pod)
    assert str(caught.value) == f"dbt ended {shown}; see the lines above"
    assert action(caught.value) is (RetryAction.FAIL if kind is DbtFailedError else RetryAction.DEFAULT)
    assert type(failure(code, "its process")) is kind

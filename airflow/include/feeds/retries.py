"""Which failures of a task are tried again: those that another try may not have."""

from datetime import timedelta
from typing import Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

from feeds import errors
from feeds.dbt_task import DbtFailedError

_POLICY = ExceptionRetryPolicy(
    [
        RetryRule(
            errors.SourceMissing,
            RetryAction.RETRY,
            retry_delay=timedelta(minutes=20),
            reason="the file may arrive later",
        ),
        RetryRule(
            [errors.SourceUnreadable, errors.SourceChanged, errors.WarehouseBusy, errors.WarehouseGone],
            RetryAction.RETRY,
            reason="the source or the warehouse may be available again",
        ),
        RetryRule([errors.FeedError, DbtFailedError], RetryAction.FAIL, reason="another try fails, too"),
    ]
)

# The `default_args` of a DAG: all other failures, such as a worker that was killed, are tried again, too.
RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": 2,
    "max_retry_delay": timedelta(minutes=1),
    "retry_policy": _POLICY,
}

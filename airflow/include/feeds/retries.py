"""Which failures of a task are tried again: those that another try may not have."""

from datetime import timedelta
from typing import Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryDecision, RetryRule

from feeds import errors
from feeds.dbt_task import DbtFailedError


class RetryPolicy(ExceptionRetryPolicy):
    """Try again by the kind of the failure; a backfill does not wait for files, since the time of its files has passed.

    Each of its runs would wait for an hour, and the next ones for it.
    """

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Any = None) -> RetryDecision:
        """Return whether a task that failed with EXCEPTION is tried again."""
        if isinstance(exception, errors.SourceMissing) and context and context["dag_run"].run_type == "backfill":
            return RetryDecision(RetryAction.FAIL, reason="a backfill does not wait for files")
        return super().evaluate(exception, try_number, max_tries, context)


_POLICY = RetryPolicy(
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

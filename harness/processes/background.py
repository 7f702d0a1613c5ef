"""Run functions in daemon threads, which do not keep a process that is interrupted from ending."""

import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

POLL_INTERVAL_S = 0.05

T = TypeVar("T")


class InBackground(Generic[T]):
    """A call of COMPUTE in another thread."""

    def __init__(self, compute: Callable[[], T]) -> None:
        self._outcome: list[T | BaseException] = []

        def work() -> None:
            try:
                self._outcome.append(compute())
            except BaseException as error:  # noqa: BLE001 - raised again by `result`
                self._outcome.append(error)

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        """Whether it has returned or raised."""
        return not self._thread.is_alive()

    def result(self) -> T:
        """Wait for the call, and return what it returned or raise what it raised."""
        self._thread.join()
        [outcome] = self._outcome
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def wait_for(*tasks: InBackground[Any]) -> None:
    """Wait until all TASKS have ended; as soon as one has raised, raise that and do not wait for the others."""
    waiting = list(tasks)
    while waiting:
        for task in [task for task in waiting if task.has_ended]:
            task.result()
            waiting.remove(task)
        time.sleep(POLL_INTERVAL_S)

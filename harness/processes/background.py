"""Run functions in daemon threads, which do not keep a process that is interrupted from ending."""

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import Any, TypeVar

T = TypeVar("T")


def in_background(compute: Callable[[], T]) -> Future[T]:
    """Call COMPUTE in another thread."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(compute())
        except BaseException as error:  # noqa: BLE001 - raised again by `Future.result`
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def wait_for(*tasks: Future[Any]) -> None:
    """Wait until all TASKS have ended; as soon as one has raised, raise that and do not wait for the others."""
    ended, _ = wait(tasks, return_when=FIRST_EXCEPTION)
    for task in ended:
        task.result()

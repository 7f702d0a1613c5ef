"""Loads whose process kills itself: run by `run` in a fork of a process that has imported this module."""

import multiprocessing
import os
import signal
from typing import Any

import psycopg

from feeds import source
from feeds.contract import Feed
from feeds.load import load
from tests.events_feed import EVENTS


def kill_at_byte(at: int) -> None:
    """Kill the process as soon as AT bytes of the file have been read."""
    readinto = source._StoredBytes.readinto

    def read_or_kill(self: source._StoredBytes, buffer: Any) -> int:
        if (left := at - self.size_bytes) <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return readinto(self, memoryview(buffer)[:left])

    source._StoredBytes.readinto = read_or_kill  # type: ignore[method-assign]


def kill_before_statement(number: int) -> None:
    """Kill the process instead of executing the statement NUMBER, from 0."""
    execute, left = psycopg.Connection.execute, number

    def execute_or_kill(self: psycopg.Connection, *arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return execute(self, *arguments, **options)

    psycopg.Connection.execute = execute_or_kill  # type: ignore[method-assign,assignment]


def _load(kill: Any, when: int, uri: str, dsn: str, feed: Feed) -> None:
    kill(when)
    load(feed, dsn, source_uri=uri)


def run(kill: Any, when: int, uri: str, dsn: str, feed: Feed = EVENTS) -> int | None:
    """Load URI in a new process that KILL, a function of this module, prepares for WHEN; return its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    process = context.Process(target=_load, args=(kill, when, uri, dsn, feed))
    process.start()
    process.join()
    return process.exitcode

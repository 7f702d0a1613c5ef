"""Contracts say what changes: on a pull request they are compared with its base, elsewhere with the last commit."""

import pytest

from harness.commands import feed
from harness.processes.git import base_of_pull_request


@pytest.mark.needs("history")
def test_no_change_of_a_contract_breaks_its_readers_without_a_major_version() -> None:
    feed.check(base_of_pull_request() or "HEAD")

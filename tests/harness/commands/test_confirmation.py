"""`down` and `--reuse` ask before they drop a warehouse on a PostgreSQL of the user's."""

import os
import pty
import sys
from pathlib import Path

import psycopg
import pytest

from harness.commands.confirmation import confirm_loss
from harness.errors import UsageError
from harness.targets.existing_cluster import ExistingCluster
from harness.targets.options import RunOptions
from harness.warehouse.given import given_server
from harness.warehouse.roles import create_metadata_database, create_warehouse, drop_all, made_databases, make_passwords
from harness.warehouse.server import Server
from tests.harness.commands.conftest import Session

DATABASES = {"airflow_x": "9 MB", "warehouse_x": "1 GB"}
LISTED = "airflow_x (9 MB), warehouse_x (1 GB)"


def test_with_yes_or_without_a_database_nobody_is_asked() -> None:
    confirm_loss(DATABASES, RunOptions(yes=True))
    confirm_loss({}, RunOptions())


def test_without_a_terminal_it_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with open(tmp_path / "empty") as empty:
        monkeypatch.setattr(sys, "stdin", empty)
        with pytest.raises(UsageError) as caught:
            confirm_loss(DATABASES, RunOptions())
    assert caught.value.what == f"Nothing was dropped. This command would drop {LISTED}."
    assert caught.value.next_step == "If nobody needs it, repeat the command with --yes."


@pytest.mark.parametrize(("answer", "is_dropped"), [("y", True), ("YES", True), ("n", False), ("", False)])
def test_at_a_terminal_the_user_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str, is_dropped: bool
) -> None:
    ours, theirs = pty.openpty()
    try:
        with open(theirs, closefd=False) as terminal:
            monkeypatch.setattr(sys, "stdin", terminal)
            os.write(ours, f"{answer}\n".encode())
            if is_dropped:
                confirm_loss(DATABASES, RunOptions())
            else:
                with pytest.raises(UsageError, match=r"^Nothing was dropped\."):
                    confirm_loss(DATABASES, RunOptions())
    finally:
        os.close(ours)
        os.close(theirs)
    assert f"This drops {LISTED}, which this run did not make.\n" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["cluster down", "cluster up --recreate", "e2e --reuse"])
def test_each_command_that_drops_asks(
    session: Session, server: Server, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """The databases are real; the cluster is not asked."""
    given = given_server(server.dsn, suffix="_asked")
    create_warehouse(given, "warehouse", make_passwords())
    create_metadata_database(given, "x", "db.example", 5432)
    try:
        assert list(made_databases(given)) == ["airflow_asked", "warehouse_asked"]
        monkeypatch.setattr(ExistingCluster, "_server", given)
        monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115
        outcome = session(*command.split(), "--target", "context")
        outcome.is_error(2, "Nothing was dropped. This command would drop ")
        assert ("airflow_asked" in outcome.errors[0]) is ("reuse" not in command)
        assert "warehouse_asked (" in outcome.errors[0]
        assert list(made_databases(given)) == ["airflow_asked", "warehouse_asked"]
    finally:
        drop_all(given)
    assert made_databases(given) == {}


def test_databases_of_others_are_not_listed(server: Server) -> None:
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute("create database other_asked")
        try:
            assert made_databases(given_server(server.dsn, suffix="_asked")) == {}
        finally:
            connection.execute("drop database other_asked")

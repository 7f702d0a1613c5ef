"""What PostgreSQL's errors are in a command: expected ones of the server, and defects, which keep their traceback."""

import psycopg
import pytest

from feeds.dsn import connection_url
from harness.commands.common_errors import expected_errors
from harness.errors import DatabaseGoneError, HarnessError, PostgresError
from harness.warehouse.server import Server


@pytest.mark.parametrize(
    ("statement", "kind", "what"),
    [
        ("set statement_timeout = 1; select pg_sleep(9)", PostgresError, "PostgreSQL ended a statement"),
        ("begin read only; create schema s", PostgresError, "The warehouse is read-only: "),
        ("select pg_terminate_backend(pg_backend_pid())", DatabaseGoneError, "The connection to PostgreSQL broke: "),
    ],
)
def test_an_error_of_the_server_is_expected(
    server: Server, statement: str, kind: type[HarnessError], what: str
) -> None:
    with pytest.raises(kind, match=f"^{what}"), expected_errors(), psycopg.connect(server.dsn) as connection:
        connection.execute(statement.encode())


def test_a_login_that_is_refused_is_not_a_lost_connection(server: Server) -> None:
    wrong = connection_url(server.user, "wrong", server.host, server.port, server.database)
    with pytest.raises(PostgresError, match=r"^PostgreSQL refused the login: "), expected_errors():
        psycopg.connect(wrong)


def test_a_statement_that_is_refused_is_a_defect(server: Server) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable), expected_errors(), psycopg.connect(server.dsn) as connection:
        connection.execute("table nothing")

"""Rows are copied into several tables over one connection, which stays usable after an error."""

from typing import Any

import psycopg
import pytest
from psycopg import sql

from feeds.copying import Copier, Piece, Target


@pytest.mark.parametrize("failing", [b"1\n", b"2\n"], ids=["the present table", "a table that waits"])
def test_an_error_of_a_copy_releases_the_connection(
    db: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, failing: bytes
) -> None:
    write = psycopg.Copy.write

    def write_or_fail(copy: psycopg.Copy, data: Any) -> None:
        if data == failing:
            raise psycopg.OperationalError("The connection is lost.")
        write(copy, data)

    monkeypatch.setattr(psycopg.Copy, "write", write_or_fail)
    db.execute("create temporary table one (id int); create temporary table two (id int)")
    targets = [
        Target(sql.Identifier("pg_temp", name), sql.SQL("copy pg_temp.{} from stdin").format(sql.Identifier(name)))
        for name in ("one", "two")
    ]

    def copy() -> None:
        with Copier(db) as copier:
            copier.write(targets[0], Piece(b"1\n"))
            copier.write(targets[1], Piece(b"2\n"))

    with pytest.raises(psycopg.OperationalError, match="The connection is lost"):
        copy()
    assert db.lock.acquire(blocking=False)  # else its next use, such as rollback, would wait forever
    db.lock.release()
    assert db.execute("select count(*) from pg_temp.two").fetchone() == (0,)

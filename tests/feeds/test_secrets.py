"""`python -m feeds` neither prints nor stores the secrets of a signed URL or the warehouse's password."""

import logging
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from feeds.__main__ import main
from tests import harness_command
from tests.feeds.common import HEADER, account
from tests.servers import Handler, serving

PLANTED = "pl4nt3d"
SIGNED = f"/events.csv?X-Amz-Credential={PLANTED}&X-Amz-Signature={PLANTED}"
SHOWN = "/events.csv?X-Amz-Credential=…&X-Amz-Signature=…"
CONTENT = f"{HEADER}\n{account(1)}\nx\n".encode()

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def address() -> Iterator[str]:
    """Give the address of a server that has the file for the signed path, and fails or refuses others."""

    class Events(Handler):
        def respond(self) -> None:
            breaks_off = self.path.startswith("/broken.csv")
            self.answer(200 if self.path == SIGNED or breaks_off else 403, CONTENT, missing_bytes=int(breaks_off))

    with serving(Events) as address:
        yield address


def in_a_process(*arguments: str, dsn: str) -> tuple[int, str]:
    """Run `python -m feeds` and return its exit code and its output, which contains nothing planted."""
    code, output = harness_command.run(*arguments, program=("-m", "feeds"), EVENTS_DSN=dsn)
    assert PLANTED not in output
    return code, output


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Run:
    """Give a function that does the same as `in_a_process`, faster; the log is not part of the output."""
    caplog.set_level(logging.INFO)

    def run(*arguments: str, dsn: str) -> tuple[int, str]:
        monkeypatch.setenv("EVENTS_DSN", dsn)
        code = main(arguments)
        output = "".join(capfd.readouterr())
        assert PLANTED not in output + caplog.text
        return code, output

    return run


def test_signed_urls_of_different_files_are_different_sources(
    dsn: str, db: psycopg.Connection, address: str, run: Run
) -> None:
    """Although the same is shown of both: the quarantine has the rows of both, and of each those of its last load."""
    for user in ("", "user:password@"):
        for fragment in "ab":
            uri = f"http://{user}{address}{SIGNED}#{fragment}={PLANTED}"
            code, output = run("load", "events", uri, "--max-rejected", "0.5", "--force", dsn=dsn)
            assert code == 0, output
    assert db.execute("select load_id from raw.rejected_rows order by 1").fetchall() == [(3,), (4,)]
    ids = [source_id for (source_id,) in db.execute("select source_id from raw.loads order by load_id")]
    assert ids[:2] == ids[2:]
    assert len(set(ids)) == 2
    shown = db.execute("select distinct regexp_replace(source_uri, '#.*', '') from raw.loads").fetchall()
    assert shown == [(f"http://{address}{SHOWN}",)]


def test_a_load_removes_the_secrets_from_an_older_ledger(
    dsn: str, db: psycopg.Connection, tmp_path: Path, run: Run
) -> None:
    path = tmp_path / "events.csv"
    path.write_bytes(CONTENT)
    uri = f"sftp://u:p@{PLANTED}@host/a.csv?hash={PLANTED}#access_token={PLANTED}"
    db.execute(
        "insert into raw.loads (feed, source_uri, status, failure)"
        " values ('events', %s, 'failed', %s), ('events', %s, 'succeeded', null)",
        (uri, f"{uri} cannot be read.\nhttps://host/?hmac={PLANTED} refused.", str(path)),
    )
    assert run("load", "events", str(path), "--max-rejected", "0.5", dsn=dsn)[0] == 0
    rows = db.execute("select source_uri, failure, source_id from raw.loads order by 1 desc, load_id").fetchall()
    assert [row[:2] for row in rows] == [
        (
            "sftp://host/a.csv?hash=…#access_token=…",
            "sftp://host/a.csv?hash=…#access_token=… cannot be read.\nhttps://host/?hmac=… refused.",
        ),
        (str(path), None),
        (str(path), None),
    ]
    assert rows[1][2] == rows[2][2]


def test_a_signed_url(dsn: str, db: psycopg.Connection, address: str, run: Run) -> None:
    uri = f"http://{PLANTED}:{PLANTED}@{address}{SIGNED}#{PLANTED}"
    code, output = in_a_process("load", "events", uri, "--max-rejected", "0.5", dsn=dsn)
    assert code == 0, output
    assert f"http://{address}{SHOWN}#…" in output
    code, output = run("load", "events", uri.replace("Signature", "Signatur"), dsn=dsn)
    assert code == 19, output
    assert f"✗ http://{address}{SHOWN.replace('Signature', 'Signatur')}#… cannot be read: 403" in output
    code, output = run("load", "events", f"http://{address}/broken.csv?{PLANTED}", dsn=dsn)
    assert code == 19, output
    code, output = run("loads", dsn=dsn)
    assert code == 0, output
    assert output.count(f"http://{address}{SHOWN}#…") == 1
    assert db.execute("select count(*) from raw.loads").fetchone() == (3,)
    for table in ("loads", "rejected_rows"):
        query = sql.SQL("select * from raw.{} as t where t::text like %s").format(sql.Identifier(table))
        assert db.execute(query, (f"%{PLANTED}%",)).fetchall() == []


NOT_REACHED = (23, "✗ PostgreSQL cannot be reached")
INVALID = (29, "✗ EVENTS_DSN is invalid")
MISREAD = (29, "✗ EVENTS_DSN has a port that is not a number, or a special character")


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        (f"postgresql://loader:{PLANTED}@127.0.0.1:9/warehouse", NOT_REACHED),
        (f"postgresql://loader:{PLANTED}@{PLANTED}@127.0.0.1:9/warehouse", MISREAD),
        (f"postgresql://loader:p@{PLANTED}/x@127.0.0.1:9/warehouse", MISREAD),
        (f"host=127.0.0.1 port=9 dbname=warehouse password={PLANTED}", NOT_REACHED),
        (f"postgresql://loader:p {PLANTED}@127.0.0.1:9/warehouse", INVALID),
        (f"postgresql://loader:{PLANTED}%00@127.0.0.1:9/warehouse", INVALID),
        (f"postgresql://loader:{PLANTED}\udcff@127.0.0.1:9/warehouse", INVALID),
        (f"host=127.0.0.1 dbname=warehouse password=p {PLANTED}=x", INVALID),
    ],
)
def test_the_password_of_the_warehouse(run: Run, dsn: str, expected: tuple[int, str]) -> None:
    code, output = run("load", "events", "events.csv", dsn=dsn)
    assert code == expected[0], output
    assert output.startswith(expected[1])
    assert len(output.splitlines()) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        (f"https://u:{PLANTED}@host/a",),
        ("load", "events", f"--events=https://u:{PLANTED}@host/a?sig={PLANTED}"),
        ("load", "events", "a.csv", f"--dsn=postgresql://u:{PLANTED}@host/db"),
        ("load", "events", "a.csv", "--start", f"https://u:{PLANTED}@host/a"),
        ("load", "events", "--max-rejected", f"https://u:{PLANTED}@host/a"),
        ("load", f"https://u:{PLANTED}@host/a?sig={PLANTED}"),  # without its feed
        ("loads", "--limit", ""),
    ],
)
def test_arguments_in_the_wrong_place(run: Run, arguments: tuple[str, ...]) -> None:
    code, output = run(*arguments, dsn="postgresql://loader@127.0.0.1:9/warehouse")
    assert code in (21, 29), output
    assert len(output.splitlines()) == 3


def test_the_log_of_a_library(dsn: str, tmp_path: Path) -> None:
    class Archive(Handler):
        def respond(self) -> None:
            self.answer(200, (tmp_path / "a.tar").read_bytes())

    (tmp_path / "a.csv").write_bytes(CONTENT)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "a.csv", "a.csv")
    with serving(Archive) as address:
        uri = f"tar://a.csv::http://u:{PLANTED}@{address}/x.tar?sig={PLANTED}#{PLANTED}"
        code, output = in_a_process("load", "events", uri, "--max-rejected", "0.5", dsn=dsn)
    assert code == 0, output
    assert f"load 1 of tar://a.csv::http://{address}/x.tar?sig=…#…, " in output


def test_a_page_that_quotes_the_url(dsn: str, run: Run) -> None:
    class Page(Handler):
        def respond(self) -> None:
            self.answer(200, f"Cannot GET {self.path}".encode())

    with serving(Page) as address:
        code, output = run("load", "events", f"http://{address}/a.csv?x=1&{PLANTED}", dsn=dsn)
    assert code == 12, output
    assert "'Cannot GET /a.csv?x=…" in output

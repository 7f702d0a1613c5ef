"""`python -m events load` of a signed URL: neither it nor the warehouse's password is in what is said or kept."""

import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from tests.servers import Handler, serving

PLANTED = "pl4nt3d"
SIGNED = f"/events.csv?X-Amz-Credential={PLANTED}&X-Amz-Signature={PLANTED}"
SHOWN = "/events.csv?X-Amz-Credential=…&X-Amz-Signature=…"
CONTENT = b"""event_id;event_type;professional_id_anonymized;created_at;meta_data
1;created_account;7;2020-01-01 09:00:00;
x
"""


@pytest.fixture
def address() -> Iterator[str]:
    """Give the address of a server that has the events file for who signs, and breaks off or refuses elsewhere."""

    class Events(Handler):
        def respond(self) -> None:
            breaks_off = self.path.startswith("/broken.csv")
            self.answer(200 if self.path == SIGNED or breaks_off else 403, CONTENT, missing_bytes=int(breaks_off))

    with serving(Events) as address:
        yield address


def events(*arguments: str, dsn: str) -> tuple[int, str]:
    """Run `python -m events` and return its exit code and what it says, which has nothing in it that was planted."""
    done = subprocess.run(
        [sys.executable, "-m", "events", *arguments],
        env=os.environ | {"EVENTS_DSN": dsn},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert PLANTED not in done.stdout
    return done.returncode, done.stdout


def test_signed_urls_of_different_files_are_different_sources(dsn: str, db: psycopg.Connection, address: str) -> None:
    """Of which the same is shown; the quarantine has the rows of both, and of each those of its last load."""
    for user in ("", "somebody:else@"):
        for fragment in "ab":
            uri = f"http://{user}{address}{SIGNED}#{fragment}={PLANTED}"
            code, said = events("load", uri, "--max-rejected", "0.5", "--force", dsn=dsn)
            assert code == 0, said
    assert db.execute("select load_id from raw.rejected_events order by 1").fetchall() == [(3,), (4,)]
    ids = [source_id for (source_id,) in db.execute("select source_id from raw.loads order by load_id")]
    assert ids[:2] == ids[2:]
    assert len(set(ids)) == 2
    shown = db.execute("select distinct regexp_replace(source_uri, '#.*', '') from raw.loads").fetchall()
    assert shown == [(f"http://{address}{SHOWN}",)]


def test_the_next_load_takes_the_secrets_out_of_an_older_ledger(
    dsn: str, db: psycopg.Connection, tmp_path: Path
) -> None:
    path = tmp_path / "events.csv"
    path.write_bytes(CONTENT)
    uri = f"sftp://u:p@{PLANTED}@host/a.csv?hash={PLANTED}#access_token={PLANTED}"
    db.execute(
        "insert into raw.loads (source_uri, status, failure) values (%s, 'failed', %s), (%s, 'succeeded', null)",
        (uri, f"{uri} cannot be read.\nhttps://host/?hmac={PLANTED} refused.", str(path)),
    )
    assert events("load", str(path), "--max-rejected", "0.5", dsn=dsn)[0] == 0
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


def test_a_signed_url(dsn: str, db: psycopg.Connection, address: str) -> None:
    uri = f"http://{PLANTED}:{PLANTED}@{address}{SIGNED}#{PLANTED}"
    code, said = events("load", uri, "--max-rejected", "0.5", dsn=dsn)
    assert code == 0, said
    assert f"http://{address}{SHOWN}#…" in said
    code, said = events("load", uri.replace("Signature", "Signatur"), dsn=dsn)
    assert code == 19, said
    assert f"✗ http://{address}{SHOWN.replace('Signature', 'Signatur')}#… cannot be read: 403" in said
    code, said = events("load", f"http://{address}/broken.csv?{PLANTED}", dsn=dsn)
    assert code == 19, said
    code, said = events("loads", dsn=dsn)
    assert code == 0, said
    assert said.count(f"http://{address}{SHOWN}#…") == 1
    assert db.execute("select count(*) from raw.loads").fetchone() == (3,)
    for table in ("loads", "rejected_events"):
        query = sql.SQL("select * from raw.{} as t where t::text like %s").format(sql.Identifier(table))
        assert db.execute(query, (f"%{PLANTED}%",)).fetchall() == []


NOT_REACHED = (23, "✗ The warehouse cannot be reached")
NOT_READ = (29, "✗ The warehouse's DSN is invalid")


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        (f"postgresql://loader:{PLANTED}@127.0.0.1:9/warehouse", NOT_REACHED),
        (f"postgresql://loader:{PLANTED}@{PLANTED}@127.0.0.1:9/warehouse", NOT_REACHED),
        (f"postgresql://loader:p@{PLANTED}/x@127.0.0.1:9/warehouse", NOT_REACHED),
        (f"host=127.0.0.1 port=9 dbname=warehouse password={PLANTED}", NOT_REACHED),
        (f"postgresql://loader:p {PLANTED}@127.0.0.1:9/warehouse", NOT_READ),
        (f"postgresql://loader:{PLANTED}%00@127.0.0.1:9/warehouse", NOT_READ),
        (f"postgresql://loader:{PLANTED}\udcff@127.0.0.1:9/warehouse", NOT_READ),
        (f"host=127.0.0.1 dbname=warehouse password=p {PLANTED}=x", NOT_READ),
    ],
)
def test_the_password_of_the_warehouse(dsn: str, expected: tuple[int, str]) -> None:
    code, said = events("load", "events.csv", dsn=dsn)
    assert code == expected[0], said
    assert said.startswith(expected[1])
    assert len(said.splitlines()) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        (f"https://u:{PLANTED}@host/a",),
        ("load", f"--events=https://u:{PLANTED}@host/a?sig={PLANTED}"),
        ("load", "a.csv", f"--dsn=postgresql://u:{PLANTED}@host/db"),
        ("load", "a.csv", "--start", f"https://u:{PLANTED}@host/a"),
        ("load", "--max-rejected", f"https://u:{PLANTED}@host/a"),
        ("loads", "--limit", ""),
    ],
)
def test_arguments_in_the_wrong_place(arguments: tuple[str, ...]) -> None:
    code, said = events(*arguments, dsn="postgresql://loader@127.0.0.1:9/warehouse")
    assert code in (21, 29), said
    assert len(said.splitlines()) == 3


def test_what_a_library_logs(dsn: str, tmp_path: Path) -> None:
    class Archive(Handler):
        def respond(self) -> None:
            self.answer(200, (tmp_path / "a.tar").read_bytes())

    (tmp_path / "a.csv").write_bytes(CONTENT)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "a.csv", "a.csv")
    with serving(Archive) as address:
        uri = f"tar://a.csv::http://u:{PLANTED}@{address}/x.tar?sig={PLANTED}#{PLANTED}"
        code, said = events("load", uri, "--max-rejected", "0.5", dsn=dsn)
    assert code == 0, said
    assert f"load 1 of tar://a.csv::http://{address}/x.tar?sig=…#…, " in said


def test_a_page_that_quotes_the_address(dsn: str) -> None:
    class Page(Handler):
        def respond(self) -> None:
            self.answer(200, f"Cannot GET {self.path}".encode())

    with serving(Page) as address:
        code, said = events("load", f"http://{address}/a.csv?x=1&{PLANTED}", dsn=dsn)
    assert code == 12, said
    assert "'Cannot GET /a.csv?x=…" in said

"""End-to-end runs on the embedded target that do not go well: what they say, and that they leave nothing behind."""

import base64
import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg import sql

from harness.pipeline.airflow_api import AirflowApi
from harness.project.paths import BUILD, ROOT
from tests.servers import Handler, serving

TIMEOUT_S = 150
PLANTED = "pl4nt3d-s3cr3t"  # what nobody but the server of the events file is to see
HEADER = "event_id;event_type;professional_id_anonymized;created_at;meta_data"
# The line after which the phase is under way, the signal, and the exit code of the harness.
INTERRUPTS = {
    "PostgreSQL starts": ("target embedded", signal.SIGINT, 130),
    "the metadata database is migrated": ("✓ PostgreSQL", signal.SIGTERM, 143),
    "Airflow starts": ("✓ Airflow's metadata", signal.SIGHUP, 129),
    "a DAG runs": ("create_tables  running", signal.SIGINT, 130),
    "killed while a DAG runs": ("load_events    running", signal.SIGKILL, -9),
}
PHASES = {  # as the summary calls them
    "the metadata database is migrated": "Airflow's metadata database migrated",
    "Airflow starts": "Airflow healthy",
    "a DAG runs": "events_pipeline_daily",
}


def processes_below(directory: Path) -> list[str]:
    """Return the processes whose command line, working directory or environment names DIRECTORY."""
    found = []
    for process in psutil.process_iter():
        try:
            told = [*process.cmdline(), process.cwd(), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # zombies are no such process, too
            continue
        if process.pid != os.getpid() and any(str(directory) in text for text in told):
            found.append(f"{process.pid} {' '.join(process.cmdline())}")
    return found


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Give a temporary directory for one run, which as root PostgreSQL reaches as another user: pytest's are closed."""
    with tempfile.TemporaryDirectory(suffix="_") as directory:  # as some random names end: Markdown escapes it
        path = Path(directory) / "tmp"
        path.mkdir()
        path.parent.chmod(0o755)
        yield path
        start(path, "--down").communicate(timeout=TIMEOUT_S)  # what a failed test has kept


def start(temporary: Path, *options: str, under: tuple[str, ...] = (), **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*under, sys.executable, "-m", "harness", "e2e", "--target", "embedded", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "NOX_PID"}
        | {"TMPDIR": str(temporary), "GITHUB_STEP_SUMMARY": str(summary(temporary))}
        | env,
    )


def summary(temporary: Path) -> Path:
    """Return where the run whose temporary directory is TEMPORARY tells how it ended."""
    return temporary.parent / "summary.md"


def read_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """Return the lines that PROCESS says, up to the one with TEXT."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if text in line:
            break
    return said


def check_nothing_is_left(temporary: Path) -> None:
    """Wait for what goes on alone when the harness is killed, and see that it leaves nothing."""
    deadline = time.monotonic() + TIMEOUT_S
    while (left := [*processes_below(temporary), *temporary.iterdir()]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


@pytest.mark.parametrize("phase", INTERRUPTS)
def test_an_interrupt_leaves_nothing(phase: str, temporary: Path) -> None:
    begun, number, code = INTERRUPTS[phase]
    users = {user.pw_name for user in pwd.getpwall()}
    harness = start(temporary)
    said = read_until(harness, begun)
    time.sleep(0.5)  # into the phase
    harness.send_signal(number)
    said += harness.communicate(timeout=TIMEOUT_S)[0].splitlines(keepends=True)
    assert harness.returncode == code, "".join(said)
    if number != signal.SIGKILL:
        assert said[-3:] == [
            f"✗ Interrupted by {number.name}.\n",
            "  What was up is taken down; what is not is named above.\n",
            "  Run it again: nox -s e2e\n",
        ]
        assert any(line.startswith("✓ everything taken down") for line in said)
        assert "Traceback" not in "".join(said)
        told = summary(temporary).read_text()
        assert re.match(
            rf"## ✗ e2e on embedded: .* s\n\n- \*\*What happened:\*\* Interrupted by {number.name}\.\n", told
        )
        if phase in PHASES:
            assert f"\nIt ended in the phase **{PHASES[phase]}**.\n" in told
    check_nothing_is_left(temporary)
    assert {user.pw_name for user in pwd.getpwall()} == users


def test_when_nox_is_killed_the_harness_takes_everything_down(temporary: Path) -> None:
    nox = start(temporary, under=(sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])"))
    read_until(nox, "✓ PostgreSQL")
    nox.kill()
    said = nox.communicate(timeout=TIMEOUT_S)[0]
    assert said.splitlines()[-3] == "✗ Interrupted by SIGTERM."
    check_nothing_is_left(temporary)


@pytest.fixture
def small_disk(temporary: Path) -> Iterator[Path]:
    """Give a file system of its own with just enough room for a run."""
    directory = temporary.parent / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1100m", "tmpfs", directory], check=True)
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.mark.needs("mount")
def test_a_disk_that_becomes_full_is_explained(small_disk: Path) -> None:
    harness = start(small_disk)
    read_until(harness, "✓ Airflow's metadata")
    with contextlib.suppress(OSError), (small_disk / "fill").open("wb") as fill:
        while True:
            fill.write(bytes(1 << 20))
    said = harness.communicate(timeout=TIMEOUT_S)[0].splitlines()
    (small_disk / "fill").unlink()
    assert harness.returncode == 42, said
    assert re.search(rf"✗ The disk that holds {small_disk}/\S+ is full: \d+ MB are left\.", said[-3])
    shutil.rmtree(ROOT / said[-1].rpartition("Diagnostics: ")[2])
    check_nothing_is_left(small_disk)


@contextlib.contextmanager
def served(content: bytes) -> Iterator[str]:
    """Give a signed URL of CONTENT with user info, without which the server gives nothing."""
    authorization = f"Basic {base64.b64encode(f'{PLANTED}:{PLANTED}'.encode()).decode()}"

    class Events(Handler):
        def respond(self) -> None:
            is_signed = self.path == f"/events.csv?X-Amz-Signature={PLANTED}"
            self.answer(200 if is_signed and self.headers["Authorization"] == authorization else 403, content)

    with serving(Events) as address:
        yield f"http://{PLANTED}:{PLANTED}@{address}/events.csv?X-Amz-Signature={PLANTED}#{PLANTED}"


@contextlib.contextmanager
def watched_processes() -> Iterator[set[str]]:
    """Give the argument lists of all processes of the machine that are seen meanwhile."""
    seen: set[str] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.3):
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    seen.add(" ".join(process.cmdline()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield seen
    ended.set()
    watcher.join()


def with_secrets(*folders: Path) -> list[Path]:
    """Return the files below FOLDERS that have what was planted in them."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert files
    return [path for path in files if PLANTED.encode() in path.read_bytes()]


def rows_with_secrets(dsn: str) -> list[str]:
    """Return the tables of the database at DSN that have what was planted in a row."""
    found = []
    with psycopg.connect(dsn) as connection:
        tables = connection.execute(
            "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname not in ('pg_catalog')"
        ).fetchall()
        for (table,) in tables:
            query = sql.SQL("select 1 from {} as t where t::text like %s limit 1").format(sql.SQL(table))
            if connection.execute(query, (f"%{PLANTED}%",)).fetchone():
                found.append(table)
    assert tables
    return found


def test_a_refused_file_is_explained_and_what_is_kept_can_be_looked_at_and_taken_down(temporary: Path) -> None:
    good = [f"{number};created_account;{number};2020-01-01 00:00:00;" for number in range(97)]
    content = "\n".join([HEADER, *good, "x;created_account;1;2020-01-01 00:00:00;", "1;2", "1;2", ""]).encode()

    with served(content) as uri, watched_processes() as seen:
        harness = start(temporary, "--keep", EVENTS_URI=uri)
        text = harness.communicate(timeout=TIMEOUT_S)[0]
    events = f"http://{uri.rpartition('@')[2].partition('?')[0]}?X-Amz-Signature=…#…"
    assert harness.returncode == 17  # that of a load with too many rejects
    what, why, next_step = text.splitlines()[-3:]
    refused = f"3 of 100 rows of {events} were rejected; at most 1% may be."
    assert what == f"✗ events_pipeline_daily failed in load_events: {refused}"
    assert "field_count 2, event_id 1" in why
    diagnostics = ROOT / next_step.rpartition("Diagnostics: ")[2]
    assert (diagnostics / "components" / "scheduler.log").exists()
    assert list((diagnostics / "tasks").rglob("task_id=load_events/attempt=1.log"))
    rejects = (diagnostics / "warehouse" / "rejected_events.csv").read_text().splitlines()
    assert [line.rpartition(",")[2] for line in rejects] == ["reason", "event_id", "field_count", "field_count"]
    assert PLANTED not in text
    [home] = temporary.glob("events-platform-*")
    logs = [home / folder for folder in ("logs", "airflow", "dbt", "tmp") if any((home / folder).glob("*"))]
    assert with_secrets(diagnostics, *logs) == []
    assert any("-m harness.processes.supervisor" in arguments for arguments in seen)
    assert not any(PLANTED in arguments for arguments in seen)
    shutil.rmtree(diagnostics)
    assert PLANTED not in summary(temporary).read_text() + (BUILD / "e2e" / "phases.json").read_text()
    told = re.sub(r"\\(\W|_)", r"\1", summary(temporary).read_text())
    assert told.startswith("## ✗ e2e on embedded: ")
    assert f"\n- **What happened:** events_pipeline_daily failed in load_events: {refused}\n" in told
    assert "\n- **What to do:** " in told
    assert " Diagnostics: build/diagnostics/" in told
    [log] = re.findall(
        r"<summary>The end of load_events's log in events_pipeline_daily</summary>(.*?)</details>", told, re.DOTALL
    )
    assert f"TooManyRejected: {refused}\n" in log
    assert "\nIt ended in the phase **events_pipeline_daily**.\n" in told
    assert re.search(r"^\| events_pipeline_daily \(not finished\) \| [\d.]+ \|$", told, re.MULTILINE)

    [(address, username, password)] = re.findall(r"^  Airflow +(\S+)  user (\S+), password (\S+)$", text, re.MULTILINE)
    [dsn] = re.findall(r"^  warehouse +(\S+)$", text, re.MULTILINE)
    api = AirflowApi(address, username, password)
    assert list(api.runs("events_pipeline_daily").values()).count("failed") >= 1
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select count(*) from raw.events").fetchone() == (0,)
    assert rows_with_secrets(dsn) == []  # of the ledger and the quarantine
    assert rows_with_secrets(f"{dsn.rpartition('/')[0]}/airflow") == []  # of XCom, rendered templates, events

    down = start(temporary, "--down")
    assert "taken down" in down.communicate(timeout=TIMEOUT_S)[0]
    assert down.returncode == 0
    check_nothing_is_left(temporary)

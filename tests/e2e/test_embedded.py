"""End-to-end runs on the embedded target that fail or are interrupted: what they print, and that nothing stays behind.

What needs Airflow and does not end it shares one, which a refused events file and --keep have left up.
"""

import base64
import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any
from urllib.parse import quote

import psutil
import psycopg
import pytest
from psycopg import sql

from feeds.contract import read_feeds
from harness.pipeline import lineage
from harness.pipeline.airflow_api import AirflowApi
from harness.pipeline.runs import title
from harness.project.paths import BUILD, ROOT
from tests import harness_command, pages
from tests.harness_command import read_until
from tests.servers import Handler, serving

TIMEOUT_S = 240
PLANTED = "pl4nt3d-s3cr3t"  # only the servers of the events file and of the notifications may see it
HEADER = "event_id;event_type;professional_id_anonymized;created_at;meta_data"
# The phase of the first run of each feed.
FIRST_RUNS = title([f"{feed.name}_pipeline_{min(feed.properties.cadences)}" for feed in read_feeds().values()])
# The line after which the phase has begun, the signal, and the phase's name in the summary.
INTERRUPTS = {
    "PostgreSQL starts": ("target embedded", signal.SIGTERM, ""),
    "the metadata database is migrated": ("✓ PostgreSQL", signal.SIGKILL, ""),
    "Airflow starts": ("✓ Airflow's metadata", signal.SIGHUP, "Airflow healthy"),
}


def start(temporary: Path, *options: str, program: Sequence[str] = ("-m", "harness"), **env: str) -> Popen[str]:
    """Start an end-to-end run, by another PROGRAM if given, with its directory in TEMPORARY."""
    variables: Any = {"TMPDIR": str(temporary), "GITHUB_STEP_SUMMARY": str(summary(temporary))} | env
    return harness_command.start("e2e", "--target", "embedded", *options, program=program, **variables)


def summary(temporary: Path) -> Path:
    """Return the summary of the run whose directory is in TEMPORARY."""
    return temporary.parent / "summary.md"


@contextlib.contextmanager
def temporary_directory() -> Iterator[Path]:
    """Give a directory for one run's; as root, PostgreSQL runs as another user, to whom pytest's own are closed."""
    with tempfile.TemporaryDirectory(suffix="_") as directory:  # as some random names end: Markdown escapes it
        path = Path(directory) / "tmp"
        path.mkdir()
        path.parent.chmod(0o755)
        yield path
        if any(path.iterdir()):  # a test has failed
            start(path, "--down").communicate(timeout=TIMEOUT_S)


@pytest.fixture
def temporary() -> Iterator[Path]:
    with temporary_directory() as directory:
        yield directory


def diagnostics_of(output: str) -> Path:
    """Return the folder that the last line of OUTPUT names."""
    [folder] = re.findall(r"Diagnostics: (build/diagnostics/[\w-]+)$", output)
    return ROOT / str(folder)


def processes_of(directory: Path) -> list[str]:
    """Return the processes whose command line, working directory or environment names DIRECTORY."""
    found = []
    for process in psutil.process_iter():
        try:
            texts = [*process.cmdline(), process.cwd(), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # zombies are no such process, too
            continue
        if process.pid != os.getpid() and any(str(directory) in text for text in texts):
            found.append(f"{process.pid} {' '.join(process.cmdline())}")
    return found


def check_nothing_is_left(temporary: Path) -> None:
    """Wait until no process and no file of the run is left: a killed harness's supervisor takes it down alone."""
    deadline = time.monotonic() + TIMEOUT_S
    while (left := [*processes_of(temporary), *temporary.iterdir()]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def check_interrupted(output: str, temporary: Path, phase: str, what: str) -> None:
    """Check the OUTPUT of a run that was interrupted in PHASE, and its summary; both say WHAT."""
    assert output.splitlines()[-3:] == [
        f"✗ {what}",
        "  Everything was taken down, unless it is named above.",
        "  Run it again: nox -s e2e -- --target embedded",
    ]
    assert "\n✓ everything taken down" in output
    assert "Traceback" not in output
    written = summary(temporary).read_text()
    assert re.match(rf"## ✗ e2e on embedded: .* s\n\n- \*\*What happened:\*\* {re.escape(what)}\n", written)
    assert (f"\nIt failed in the phase **{phase}**.\n" in written) or not phase


@pytest.mark.parametrize("phase", INTERRUPTS)
def test_an_interrupt_leaves_nothing(phase: str, temporary: Path) -> None:
    begun, number, name = INTERRUPTS[phase]
    users = {user.pw_name for user in pwd.getpwall()}
    harness = start(temporary)
    output = read_until(harness, begun)
    time.sleep(0.5)  # into the phase
    harness.send_signal(number)
    output += harness.communicate(timeout=TIMEOUT_S)[0]
    assert harness.returncode == (-number if number == signal.SIGKILL else 128 + number), output
    if number != signal.SIGKILL:
        check_interrupted(output, temporary, name, f"Interrupted by {number.name}.")
    check_nothing_is_left(temporary)
    assert {user.pw_name for user in pwd.getpwall()} == users


def test_when_nox_is_killed_the_harness_takes_everything_down(temporary: Path) -> None:
    run = "import subprocess, sys; subprocess.run([sys.executable, '-m', 'harness', *sys.argv[1:]])"
    nox = start(temporary, program=("-c", run))
    output = read_until(nox, "✓ PostgreSQL")
    time.sleep(0.5)  # into the next phase
    nox.kill()
    output += nox.communicate(timeout=TIMEOUT_S)[0]
    check_interrupted(output, temporary, "Airflow's metadata database migrated", "nox, which ran this, was killed.")
    check_nothing_is_left(temporary)


@pytest.fixture
def small_disk(temporary: Path) -> Iterator[Path]:
    """Give a file system with just enough room for a run."""
    directory = temporary.parent / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1100m", "tmpfs", directory], check=True)
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.mark.slow
@pytest.mark.needs("mount")
def test_a_disk_that_becomes_full_is_explained(small_disk: Path) -> None:
    harness = start(small_disk)
    read_until(harness, "✓ Airflow's metadata")
    with (small_disk / "fill").open("wb") as file:
        free = shutil.disk_usage(small_disk).free
        os.posix_fallocate(file.fileno(), 0, free - 4096)
    lines = harness.communicate(timeout=TIMEOUT_S)[0].splitlines()
    (small_disk / "fill").unlink()
    assert harness.returncode == 42, lines
    assert re.search(rf"✗ The disk that holds {small_disk}/\S+ is full: \d+ MB are free\.", lines[-3])
    shutil.rmtree(diagnostics_of(lines[-1]))
    check_nothing_is_left(small_disk)


# --- one Airflow for the rest ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KeptRun:
    """A run with --keep that has failed: its events file was refused.

    Attributes:
        temporary: where its directory is.
        output, returncode: of the harness, which has ended.
        arguments: the argument lists of all processes of the machine meanwhile.
        shown_uri: the events file's URI, as messages show it.
        report, events: its page, its lineage events.
        answering: the events file's server waits for it before it answers.
        notifications: what one of the two addresses of the notifier has received; nothing is at the other.
    """

    temporary: Path
    output: str
    returncode: int
    arguments: set[str]
    shown_uri: str
    report: Path
    events: Path
    answering: threading.Event
    notifications: list[dict[str, Any]]

    @property
    def login(self) -> tuple[str, str, str]:
        """Airflow's address, user and password, as the harness prints them."""
        [found] = re.findall(r"^  Airflow +(\S+)  user (\S+), password (\S+)$", self.output, re.MULTILINE)
        return tuple(found)

    @property
    def diagnostics(self) -> Path:
        return diagnostics_of(self.output)


@pytest.fixture(scope="module")
def kept() -> Iterator[KeptRun]:
    good = [f"{number};created_account;{number};2020-01-01 00:00:00;" for number in range(97)]
    content = "\n".join([HEADER, *good, "x;created_account;1;2020-01-01 00:00:00;", "1;2", "1;2", ""]).encode()
    answering = threading.Event()
    answering.set()
    with temporary_directory() as temporary, served(content, answering) as uri, notified() as (connection, received):
        with watched_processes() as arguments:
            harness = start(temporary, "--keep", EVENTS_URI=uri, AIRFLOW_CONN_NOTIFICATIONS=connection)
            output = harness.communicate(timeout=TIMEOUT_S)[0]
        shown_uri = f"http://{uri.rpartition('@')[2].partition('?')[0]}?X-Amz-Signature=…#…"
        # Copies: the next run replaces them.
        report, events = (temporary.parent / name for name in ("report.html", "events.ndjson"))
        shutil.copy(BUILD / "report" / "index.html", report)
        shutil.copy(lineage.EVENTS, events)
        run = KeptRun(temporary, output, harness.returncode, arguments, shown_uri, report, events, answering, received)
        yield run
        answering.set()
        shutil.rmtree(run.diagnostics)


@contextlib.contextmanager
def served(content: bytes, answering: threading.Event) -> Iterator[str]:
    """Give a signed URL of CONTENT with user info; the server refuses others, and answers once ANSWERING is set."""
    authorization = f"Basic {base64.b64encode(f'{PLANTED}:{PLANTED}'.encode()).decode()}"

    class Events(Handler):
        def respond(self) -> None:
            answering.wait()
            is_signed = self.path == f"/events.csv?X-Amz-Signature={PLANTED}"
            self.answer(200 if is_signed and self.headers["Authorization"] == authorization else 403, content)

    with serving(Events) as address:
        yield f"http://{PLANTED}:{PLANTED}@{address}/events.csv?X-Amz-Signature={PLANTED}#{PLANTED}"


@contextlib.contextmanager
def notified() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Give a connection of Airflow with two addresses for Apprise, and what a server at the first has received."""
    authorization = f"Basic {base64.b64encode(f'{PLANTED}:{PLANTED}'.encode()).decode()}"
    received = []

    class Notifications(Handler):
        def respond(self) -> None:
            assert (self.path, self.headers["Authorization"]) == (f"/{PLANTED}", authorization)
            received.append(json.loads(self.posted()))
            self.answer(200)

    with serving(Notifications) as address:
        hosts = (address, "127.0.0.1:1")
        config = [{"path": f"json://{PLANTED}:{PLANTED}@{host}/{PLANTED}"} for host in hosts]
        yield json.dumps({"conn_type": "apprise", "extra": {"config": config}}), received


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


@pytest.mark.slow
def test_a_refused_file_is_explained(kept: KeptRun) -> None:
    assert kept.returncode == 17  # that of a load with too many rejects
    what, why, next_step = kept.output.splitlines()[-3:]
    refused = f"3 of 100 rows of {kept.shown_uri} were rejected; at most 1% are allowed."
    assert what == f"✗ events_pipeline_daily failed in load_events: {refused}"
    assert "field_count 2, event_id: type 1" in why
    assert re.match(
        r"  Look at the rows of load \d in build/reports/rejected_rows\.csv; a larger max_rejected", next_step
    )
    shown = kept.output.partition("  3 rejected rows are in build/reports/rejected_rows.csv\n")[2].splitlines()
    assert [line.split() for line in shown[:4]] == [
        ["events:", "field_count", "2"],
        ["line", "100:", "1;2"],
        ["line", "101:", "1;2"],
        ["events:", "event_id:", "type", "1"],
    ]
    kept_rows = (BUILD / "reports" / "rejected_rows.csv").read_text().splitlines()[1:]
    lines = [["99", "type", "event_id"], ["100", "field_count", ""], ["101", "field_count", ""]]
    assert [line.split(",")[3:6] for line in kept_rows] == lines
    assert " Diagnostics: build/diagnostics/" in next_step
    assert (kept.diagnostics / "components" / "scheduler.log").exists()
    assert list((kept.diagnostics / "tasks").rglob("task_id=load_events/attempt=1.log"))
    rejects = (kept.diagnostics / "warehouse" / "rejected_rows.csv").read_text().splitlines()
    assert [line.split(",")[-3:-1] for line in rejects] == [["reason", "column_name"], *(line[1:] for line in lines)]

    written = re.sub(r"\\(\W|_)", r"\1", summary(kept.temporary).read_text())
    assert written.startswith("## ✗ e2e on embedded: ")
    assert f"\n- **What happened:** events_pipeline_daily failed in load_events: {refused}\n" in written
    assert "\n- **What to do:** " in written
    assert " Diagnostics: build/diagnostics/" in written
    [log] = re.findall(
        r"<summary>The end of load_events's log in events_pipeline_daily</summary>(.*?)</details>", written, re.DOTALL
    )
    assert f"TooManyRejected: {refused}\n" in log
    assert f"\nIt failed in the phase **{FIRST_RUNS}**.\n" in written
    assert re.search(rf"^\| {FIRST_RUNS} \(not finished\) \| [\d.]+ \|$", written, re.MULTILINE)


def told(kept: KeptRun, number: int) -> list[dict[str, Any]]:
    """Wait until NUMBER notifications have come, and return them."""
    deadline = time.monotonic() + TIMEOUT_S
    while len(kept.notifications) < number and time.monotonic() < deadline:
        time.sleep(0.1)
    return kept.notifications


@pytest.mark.slow
def test_each_failed_run_is_told_once_and_a_late_one_too(kept: KeptRun) -> None:
    """All deadlines are put into the past; of a run that has failed nobody is told that it is late."""
    api, dag_id = AirflowApi(*kept.login), "events_pipeline_daily"
    earlier = [run for run, state in api.runs(dag_id).items() if state == "failed"]
    assert sorted(run_of(each) for each in told(kept, len(earlier))) == sorted(earlier)

    kept.answering.clear()
    new = api.trigger(dag_id, {})
    while api.state(dag_id, new) != "running":
        time.sleep(0.1)
    [dsn] = re.findall(r"^  warehouse +(\S+)/warehouse$", kept.output, re.MULTILINE)
    with psycopg.connect(f"{dsn}/airflow") as connection:
        connection.execute("update deadline set deadline_time = '2026-01-02 03:04:05+00'")
    late = told(kept, len(earlier) + 1)[-1]
    assert late["title"] == f"{dag_id} is late"
    assert late["message"].splitlines() == [
        "It was to be done by 2026-01-02 03:04 UTC, and is still running.",
        "A load or a build waits for a lock, a missing file or a free worker, or has more to do than before.",
        "Next: Look at its tasks; a load logs what it waits for.",
        f"Run: {new}",
        f"{kept.login[0]}/dags/{dag_id}/runs/{quote(new)}",
    ]
    kept.answering.set()
    messages = told(kept, len(earlier) + 2)
    time.sleep(2)  # for one too many
    assert sorted(map(run_of, messages)) == sorted([*earlier, new, new])
    assert api.state(dag_id, new) == "failed"  # one of the two addresses is dead

    failed = [each for each in messages if each is not late]
    assert {(each["title"], each["type"]) for each in failed} == {(f"{dag_id} failed in load_events", "failure")}
    what, why, next_step, *_, link = messages[-1]["message"].splitlines()
    assert what == f"3 of 100 rows of {kept.shown_uri} were rejected; at most 1% are allowed."
    assert "field_count 2, event_id: type 1" in why
    assert next_step.startswith("Next: Look at the rows of load ")
    assert link == f"{kept.login[0]}/dags/{dag_id}/runs/{quote(new)}"
    [home] = kept.temporary.glob("events-platform-*")
    logged = "".join(path.read_text() for path in (home / "airflow" / "logs").rglob("*") if path.is_file())
    assert logged.count("A notification was not taken by every address") == len(messages)


def run_of(notification: dict[str, Any]) -> str:
    """Return the id of the run that NOTIFICATION is about."""
    [run] = re.findall("^Run: (.+)$", notification["message"], re.MULTILINE)
    return str(run)


@pytest.mark.slow
def test_secrets_of_the_uri_are_nowhere(kept: KeptRun) -> None:
    [home] = kept.temporary.glob("events-platform-*")
    logs = [home / folder for folder in ("logs", "airflow", "dbt", "tmp") if any((home / folder).glob("*"))]
    files = [path for folder in (kept.diagnostics, *logs) for path in folder.rglob("*") if path.is_file()]
    files += [summary(kept.temporary), BUILD / "e2e" / "phases.json", kept.report, kept.events]
    assert len(files) > 10
    assert [path for path in files if PLANTED.encode() in path.read_bytes()] == []
    assert PLANTED not in kept.output
    assert any("-m harness.processes.supervisor_process" in arguments for arguments in kept.arguments)
    assert not any(PLANTED in arguments for arguments in kept.arguments)


@pytest.mark.slow
def test_the_report_shows_why_it_failed(kept: KeptRun) -> None:
    page = pages.read(kept.report)
    assert pages.loaded(page) == []
    [verdict] = pages.with_class(page, "verdict")
    what, why, next_step, phase = map(pages.text, verdict.iter("p"))
    assert what.startswith(f"✗ events_pipeline_daily failed in load_events: 3 of 100 rows of {kept.shown_uri} ")
    assert "field_count 2, event_id: type 1" in why
    assert next_step.startswith("Next: Look at the rows of load ")
    assert phase == f"It failed in the phase {FIRST_RUNS}."
    tables = {
        region.get("aria-label"): pages.cells(region) for region in pages.with_class(page, "scroll") if len(region)
    }
    assert tables["Rejected rows by reason"][1:] == [
        ["events: field_count", "2", "line 100 1;2line 101 1;2"],
        ["events: event_id: type", "1", "line 99 x;created_account;1;2020-01-01 00:00:00;"],
    ]
    assert ["load_events", "failed"] in [[row[0], row[2]] for row in tables["Tasks of Airflow"]]
    assert all(row[2].startswith("failed: 3 of 100 rows") for row in tables["Loads"][1:])
    assert "\n  report: build/report/index.html\n" in kept.output


@pytest.mark.slow
def test_its_lineage_events_say_what_failed(kept: KeptRun) -> None:
    events = [json.loads(line) for line in kept.events.read_text().splitlines()]
    assert lineage.invalid(events) == []
    assert lineage.orphans(events) == []
    failed = [event for event in events if event["eventType"] == "FAIL"]
    names = ["load.events", "events_pipeline_daily.load_events", "events_pipeline_daily"]
    assert {event["job"]["name"] for event in failed} <= set(names)
    [of_load, *_] = failed
    assert of_load["job"]["name"] == names[0]
    assert of_load["run"]["facets"]["errorMessage"]["message"].startswith(f"3 of 100 rows of {kept.shown_uri} ")


@pytest.mark.slow
def test_a_kept_run_can_be_looked_at(kept: KeptRun) -> None:
    assert list(AirflowApi(*kept.login).runs("events_pipeline_daily").values()).count("failed") >= 1
    [dsn] = re.findall(r"^  warehouse +(\S+)$", kept.output, re.MULTILINE)
    [docs] = re.findall(r"^  dbt docs +(.+)$", kept.output, re.MULTILINE)
    assert docs in ("build/dbt-docs/index.html", "nox -s dbt -- docs makes them, and a report of its own")
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select count(*) from raw.events").fetchone() == (0,)
    assert tables_with_secrets(dsn) == []  # of the ledger and the quarantine
    assert tables_with_secrets(f"{dsn.rpartition('/')[0]}/airflow") == []  # of XCom, rendered templates, events


def tables_with_secrets(dsn: str) -> list[str]:
    """Return the tables of the database at DSN that have the secret in a row."""
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


@pytest.mark.slow
def test_an_interrupt_and_a_takedown_while_a_dag_runs_leave_nothing(kept: KeptRun, temporary: Path) -> None:
    kept.answering.clear()  # so the task runs until it is killed
    address, _, password = kept.login
    harness = start(
        temporary,
        program=("-m", "tests.e2e.attached"),
        ATTACHED_ADDRESS=address,
        ATTACHED_PASSWORD=password,
    )
    output = read_until(harness, "load_events    running")
    harness.send_signal(signal.SIGINT)
    output += harness.communicate(timeout=TIMEOUT_S)[0]
    assert harness.returncode == 130, output
    check_interrupted(output, temporary, FIRST_RUNS, "Interrupted by SIGINT.")
    check_nothing_is_left(temporary)

    api = AirflowApi(*kept.login)
    assert "running" in {
        api.task_states("events_pipeline_daily", run)["load_events"] for run in api.runs("events_pipeline_daily")
    }
    down = start(kept.temporary, "--down")
    assert " taken down" in down.communicate(timeout=TIMEOUT_S)[0]
    assert down.returncode == 0
    kept.answering.set()
    check_nothing_is_left(kept.temporary)

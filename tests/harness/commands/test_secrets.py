"""Nothing secret that a user gives is in what is printed, written, or seen in the list of processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.__main__ import Interrupted, Parser, add_dbt, translated_interrupts
from harness.commands.e2e import absolute
from harness.errors import HarnessError, UsageError
from harness.kubernetes import chart
from harness.project.paths import ROOT
from tests.servers import Handler, serving

URI = "s3://SECRET:SECRET/SECRET@bucket/a.csv?sig=SECRET#SECRET"


def run(*argv: str, **env: str) -> tuple[int, str]:
    """Run Python with ARGV and return its exit code and what it says; what it tells in the summary is checked, too."""
    summary = Path(env.pop("SUMMARY"))
    mine = {name: value for name, value in os.environ.items() if name != "NOX_PID"}
    env = mine | {"GITHUB_STEP_SUMMARY": str(summary)} | env
    done = subprocess.run(
        [sys.executable, *argv], cwd=ROOT, env=env, stdout=-1, stderr=-2, text=True, timeout=120, check=False
    )
    assert "SECRET" not in done.stdout
    assert "SECRET" not in summary.read_text()
    return done.returncode, done.stdout


@pytest.fixture
def summary(tmp_path: Path) -> str:
    return str(tmp_path / "summary.md")


@pytest.fixture
def refusing() -> Iterator[str]:
    """Give the address of a server that takes no signature."""

    class Refusal(Handler):
        def respond(self) -> None:
            self.send_error(403)

    with serving(Refusal) as address:
        yield address


@pytest.mark.parametrize("as_argument", [True, False])
def test_a_signature_that_is_refused(refusing: str, summary: str, as_argument: bool) -> None:
    uri = f"http://SECRET:SECRET@{refusing}/a.csv?X-Amz-Signature=SECRET"
    options, env = (["--events", uri], {}) if as_argument else ([], {"EVENTS_URI": uri})
    code, said = run("-m", "harness", "e2e", "--target", "embedded", *options, SUMMARY=summary, **env)
    assert code == 19
    assert f"✗ http://{refusing}/a.csv?X-Amz-Signature=… cannot be read: 403" in said


def test_what_is_not_known(summary: str) -> None:
    for arguments in (["e2e", "--evnts", URI], ["cluster", URI]):
        code, said = run("-m", "harness", *arguments, SUMMARY=summary)
        assert code == 2, said


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://user:SECRET@SECRET@host/db",
        "postgresql://user:SECRET/SECRET@host/db",
        "postgresql://user:12/SECRET@host/db",
        "postgresql://user:SECRET%zz@host/db",
        "SECRET",
        "host=host password='SECRET",
    ],
)
def test_a_dsn_that_makes_no_sense(dsn: str) -> None:
    parser = Parser()
    add_dbt(parser)
    with pytest.raises(UsageError) as caught:
        parser.parse_args(["--postgres", dsn])
    assert caught.value.what == "--postgres: is no DSN; in a password, @ is %40, / is %2F, or give it in PGPASSWORD."


def test_a_defect_is_shown_without_secrets(summary: str) -> None:
    program = "import sys; from harness import __main__ as m; m.e2e.run = lambda *_: 1 / len({}[sys.argv[1]])"
    code, said = run("-c", f"{program}; sys.exit(m.main(['e2e']))", URI, SUMMARY=summary)
    assert code == 1
    assert said.splitlines()[-1] == "KeyError: 's3://…/bucket/a.csv?sig=…#…'"
    assert "Traceback (most recent call last):" in said


def test_nox_prints_no_posargs_and_pytest_no_password(summary: str) -> None:
    dsn = "postgresql://postgres:SECRET@127.0.0.1:9/postgres"
    one = "tests/harness/warehouse/test_roles.py"
    code, said = run("-m", "nox", "-s", "tests", "--", "--postgres", dsn, "-n0", "-x", one, SUMMARY=summary)
    assert code == 1
    assert "nox > " in said
    assert "The PostgreSQL server from --postgres does not answer: Is the server running" in said


@pytest.mark.parametrize(
    ("dsn", "what"),
    [
        ("", "--postgres is empty"),
        ("postgresql://u@host/db?sslpassword=SECRET", "--postgres has other parts than host, port, user, password"),
    ],
)
def test_a_dsn_of_the_tests_that_makes_no_sense(summary: str, dsn: str, what: str) -> None:
    Path(summary).touch()
    code, said = run("-m", "pytest", "--postgres", dsn, "tests/harness/reporting/test_figures.py", SUMMARY=summary)
    assert code == 2
    assert what in said


@pytest.mark.parametrize("uri", ["user:SECRET@host/a.csv", "file://u:SECRET@h/a", "data:text/csv,SECRET"])
def test_a_uri_that_is_no_path_stays_one(uri: str) -> None:
    assert absolute(uri) == uri
    assert absolute("a.csv") == str(Path("a.csv").absolute())


def test_what_is_repeated_after_an_interrupt() -> None:
    with pytest.raises(HarnessError) as caught, translated_interrupts(["e2e", "--keep", "--events", URI]):
        raise Interrupted(signal.SIGINT)
    assert caught.value.next_step == "Run it again: nox -s e2e -- --keep --events 's3://…/bucket/a.csv?sig=…#…'"


@pytest.mark.parametrize(
    "address",
    [
        "https://user:SECRET@charts.example",
        "https://user:SE/SECRET@charts.example",
        "https://charts.example?token=SECRET",
        "oci://charts.example/airflow?token=SECRET",
    ],
)
def test_a_repository_of_charts_with_a_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str) -> None:
    monkeypatch.setenv("PLATFORM_CACHE", str(tmp_path))
    monkeypatch.setenv("PLATFORM_CHART", address)
    with pytest.raises(UsageError) as caught:
        chart.locate()
    assert "SECRET" not in str(caught.value)

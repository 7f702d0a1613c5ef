"""Secrets in a URI, a DSN or an address are neither printed nor written to the summary."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.commands import command_line, e2e
from harness.errors import UsageError
from harness.kubernetes import chart
from tests import harness_command
from tests.harness.commands.conftest import Session
from tests.servers import Handler, serving

URI = "s3://SECRET:SECRET/SECRET@bucket/a.csv?sig=SECRET#SECRET"


@pytest.fixture(autouse=True)
def _no_secret_is_in_the_summary(summary: Path) -> Iterator[None]:
    yield
    assert "SECRET" not in summary.read_text()


@pytest.fixture
def refusing() -> Iterator[str]:
    """Give the address of a server that refuses every signature."""

    class Refusal(Handler):
        def respond(self) -> None:
            self.send_error(403)

    with serving(Refusal) as address:
        yield address


@pytest.mark.parametrize("as_argument", [True, False])
def test_a_signature_that_is_refused(
    session: Session, refusing: str, monkeypatch: pytest.MonkeyPatch, as_argument: bool
) -> None:
    uri = f"http://SECRET:SECRET@{refusing}/a.csv?X-Amz-Signature=SECRET"
    if not as_argument:
        monkeypatch.setenv("EVENTS_URI", uri)
    outcome = session("e2e", "--target", "embedded", *(("--events", uri) if as_argument else ()))
    outcome.is_error(19, f"http://{refusing}/a.csv?X-Amz-Signature=… cannot be read: 403")
    assert "SECRET" not in str(outcome)


@pytest.mark.parametrize("arguments", [("e2e", "--evnts", URI), ("cluster", URI)])
def test_unknown_arguments(session: Session, arguments: tuple[str, ...]) -> None:
    outcome = session(*arguments)
    assert outcome.exit_code == 2
    assert "SECRET" not in str(outcome)


def test_a_defect(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(e2e, "choose", lambda _: dict[str, str]()[URI])
    assert command_line.run(["e2e"]) == 1
    printed = capsys.readouterr().err
    assert printed.splitlines()[-1] == "KeyError: 's3://…/bucket/a.csv?sig=…#…'"
    assert "Traceback (most recent call last):" in printed
    assert "SECRET" not in printed


def run(*argv: str) -> tuple[int, str]:
    exit_code, output = harness_command.run(program=argv)
    assert "SECRET" not in output
    return exit_code, output


def test_nox_prints_no_posargs_and_pytest_no_password() -> None:
    dsn = "postgresql://postgres:SECRET@127.0.0.1:9/postgres"
    one = "tests/harness/warehouse/test_roles.py"
    exit_code, output = run("-m", "nox", "-s", "tests", "--", "--postgres", dsn, "-n0", "-x", one)
    assert exit_code == 1, output
    assert "nox > " in output
    assert "--postgres: PostgreSQL cannot be reached: connection to server at" in output


@pytest.mark.parametrize(
    ("dsn", "what"),
    [
        ("", "--postgres is empty"),
        ("postgresql://u@host/db?sslpassword=SECRET", "--postgres has parts other than host, port, user, password"),
    ],
)
def test_an_invalid_dsn_of_the_tests(dsn: str, what: str) -> None:
    exit_code, output = run("-m", "pytest", "--postgres", dsn, "tests/harness/reporting/test_figures.py")
    assert exit_code == 2, output
    assert what in output


@pytest.mark.parametrize(
    "address",
    [
        "https://user:SECRET@charts.example",
        "https://user:SE/SECRET@charts.example",
        "https://charts.example?token=SECRET",
        "oci://charts.example/airflow?token=SECRET",
    ],
)
def test_a_chart_repository_with_a_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str) -> None:
    monkeypatch.setenv("PLATFORM_CACHE", str(tmp_path))
    monkeypatch.setenv("PLATFORM_CHART", address)
    with pytest.raises(UsageError) as caught:
        chart.locate()
    assert "SECRET" not in str(caught.value)

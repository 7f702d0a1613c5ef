"""Invalid arguments, empty ones too, are an expected error of exit code 2."""

import argparse
from pathlib import Path

import pytest

from harness.commands.arguments import Parser, absolute_file, absolute_uri, add_run_options, run_options
from harness.commands.dbt import add_options
from harness.commands.empty_values import VARIABLES, check_not_empty
from harness.errors import UsageError
from tests.harness.commands.conftest import Session

CLUSTERS = "is not a cluster; the clusters are kind, minikube, context."


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ("e2e --evnts x", "nox -s e2e does not know --evnts x. Did you mean --events?"),
        ("e2e --target mainframe", "There is no target 'mainframe'."),
        ("e2e --max-rejected -0.1", "--max-rejected: -0.1 is not a share from 0 to 1."),
        ("e2e --max-rejected nan", "--max-rejected: nan is not a share from 0 to 1."),
        ("e2e --max-rejected many", "--max-rejected: invalid share value: 'many'."),
        ("e2e --ui-port 0", "--ui-port: 0 is not a port from 1 to 65535."),
        ("e2e --ui-port 70000", "--ui-port: 70000 is not a port from 1 to 65535."),
        ("e2e --ui-port http", "--ui-port: invalid port value: 'http'."),
        ("e2e --values no/such.yaml", "--values: no/such.yaml is not a file."),
        ("e2e --platform amd64", "--platform: amd64 is not a platform like linux/amd64."),
        ("e2e --start=", "--start is empty."),
        ("cluster", "the following arguments are required: up|sync|status|ui|logs|manifests|down."),
        ("cluster restart", "up|sync|status|ui|logs|manifests|down: invalid choice: 'restart'"),
        ("cluster up --target mainframe", f"'mainframe' {CLUSTERS}"),
        ("cluster down --target embedded", f"'embedded' {CLUSTERS}"),
        ("cluster up --recrate", "nox -s cluster does not know --recrate. Did you mean --recreate?"),
        ("cluster status --recreate", "nox -s cluster does not know --recreate."),
        ("cluster up logs", "nox -s cluster does not know logs."),
        ("cluster up --max-rejected 2", "--max-rejected: 2 is not a share from 0 to 1."),
    ],
)
def test_invalid_arguments_are_named(session: Session, arguments: str, what: str) -> None:
    session(*arguments.split()).is_error(2, what)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["e2e", "--events", ""], "--events"),
        (["e2e", "--target", " "], "--target"),
        (["e2e", "--values", "a.yaml", "--namespace", "\t"], "--namespace"),
        (["e2e", "--warehouse-dsn="], "--warehouse-dsn"),
        (["cluster", "logs", "scheduler", ""], "An argument"),
        (["release", "--push", ""], "--push"),
        (["dbt", "build", "--select", ""], "--select"),
        (["dbt", "build", "-s", " "], "-s"),
    ],
)
def test_an_empty_argument_is_refused(arguments: list[str], name: str) -> None:
    with pytest.raises(UsageError, match=f"^{name} is empty"):
        check_not_empty(arguments)


@pytest.mark.parametrize("name", VARIABLES)
def test_an_empty_variable_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["dbt", "build", "--select", "x", "--vars={}", "--", "-"]
    check_not_empty(arguments)
    monkeypatch.setenv(name, "")
    with pytest.raises(UsageError, match=f"^{name} is empty"):
        check_not_empty(arguments)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://user:SECRET@SECRET@host/db",
        "postgresql://user:SECRET/SECRET@host/db",
        "postgresql://user:12/SECRET@host/db",
        "postgresql://user:SECRET%zz@host/db",
        "postgresql+psycopg2://user:SECRET@host/db",
        "jdbc:postgresql://host/db?user=user&password=SECRET",
        "SECRET",
        "host=host password='SECRET",
    ],
)
def test_an_invalid_dsn_is_not_shown(dsn: str) -> None:
    parser = Parser()
    add_options(parser)
    with pytest.raises(UsageError) as caught:
        parser.parse_args(["--postgres", dsn])
    assert caught.value.what.startswith("The DSN ")
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("uri", ["user:SECRET@host/a.csv", "file://u:SECRET@h/a", "data:text/csv,SECRET", "s3://b/a"])
def test_a_uri_stays_as_it_is(uri: str) -> None:
    assert absolute_uri(uri) == uri


def test_a_values_file_of_an_unknown_user_is_no_file() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"^~nobody-here/values\.yaml is not a file$"):
        absolute_file("~nobody-here/values.yaml")


def test_a_path_is_made_absolute() -> None:
    assert absolute_uri("a.csv") == str(Path("a.csv").absolute())
    assert absolute_uri("file://a.csv") == str(Path("a.csv").absolute())
    assert absolute_uri("file:///my%20events.csv") == "/my events.csv"
    assert absolute_uri("/50%20.csv") == "/50%20.csv"
    assert absolute_uri("/a.csv\n") == "/a.csv"
    assert absolute_uri("~nobody-here/a.csv") == str(Path("~nobody-here/a.csv").absolute())
    assert absolute_uri("~/a.csv") == str(Path("~/a.csv").expanduser())
    assert absolute_uri("~nosuchuser/a.csv") == str(Path.cwd() / "~nosuchuser/a.csv")


def test_values_files_are_in_the_order_given(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("production.yaml", "own.yaml")]
    for file in files:
        file.touch()
    parser = Parser()
    add_run_options(parser)
    parsed = parser.parse_args([part for file in files for part in ("--values", str(file))])
    assert run_options(parsed).values == tuple(map(str, files))
    assert run_options(parser.parse_args([])).values == ()

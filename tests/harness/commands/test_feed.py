"""`nox -s feed`: new feeds, checks of contracts, and rejected rows that are loaded again."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from feeds.contract import CONTRACTS, read_feed
from harness.commands import feed
from harness.warehouse.roles import Warehouse
from tests.clones import git
from tests.harness.commands.conftest import Outcome, Session

ORDERS = "order_id,created_at,amount\n" + "".join(f"{i},2024-01-{i % 28 + 1:02} 12:00:00,{i}.50\n" for i in range(60))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder that has the contracts and models of this project, with a file of orders beside them."""
    root = tmp_path / "project"
    shutil.copytree(CONTRACTS, root / "feeds")
    shutil.copytree(feed.MODELS, root / "dbt" / "models")
    (root / "data").mkdir()
    (root / "orders.csv").write_text(ORDERS)
    monkeypatch.setattr(feed, "CONTRACTS", root / "feeds")
    monkeypatch.setattr(feed, "MODELS", root / "dbt" / "models")
    monkeypatch.setattr(feed, "STAGING", root / "dbt" / "models" / "staging")
    monkeypatch.setattr(feed, "DATA", root / "data")
    return root


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and ".git/" not in str(path)}


def test_a_new_feed(session: Session, project: Path) -> None:
    before = files(project)
    outcome = session("feed", "new", "orders", "--from", str(project / "orders.csv"))

    assert outcome.exit_code == 0, outcome
    assert files(project) - before == {
        "feeds/orders.yaml",
        "data/orders.csv",
        "dbt/models/staging/stg_orders.sql",
        "dbt/models/staging/stg_orders.yml",
    }
    assert (project / "data" / "orders.csv").read_text() == ORDERS
    contract = read_feed(project / "feeds" / "orders.yaml")
    assert (contract.name, contract.key, contract.time_column) == ("orders", ("order_id",), "created_at")
    assert (project / "dbt/models/staging/stg_orders.sql").read_text() == (
        "with\n\norders as (\n\n    select\n        order_id,\n        created_at,\n        amount,\n        load_id\n"
        "\n"
        "    from {{ source('raw', 'orders') }}\n\n)\n\nselect * from orders\n"
    )
    yml = yaml.safe_load((project / "dbt/models/staging/stg_orders.yml").read_text())
    assert [table["name"] for source in yml["sources"] for table in source["tables"]] == ["orders"]
    [model] = yml["models"]
    assert {column["name"]: column["data_type"] for column in model["columns"]} == {
        "order_id": "bigint",
        "created_at": "timestamptz",
        "amount": "numeric(7,2)",
        "load_id": "bigint",
    }
    said = "\n".join(outcome.output)
    assert f"Guessed from all 60 rows of {project / 'orders.csv'}:" in said
    assert "  columns:\n    order_id: bigint\n    created_at: timestamp with time zone\n    amount: numeric" in said
    assert "  key: order_id, unique in all 60 rows" in said
    assert "  created_at: times without a zone are taken for UTC: see timeZone" in said
    assert "  run its pipelines: nox -s e2e -- --target embedded" in said

    left = {path: (project / path).read_bytes() for path in files(project)}
    outcome = session("feed", "new", "orders", "--from", str(project / "orders.csv"))
    outcome.is_error(2, f"{project / 'feeds' / 'orders.yaml'} is there already.")
    command = outcome.errors[2].partition("remove the feed's files first: ")[2].split()
    assert (command[0], set(command[1:])) == ("rm", {str(project / path) for path in left.keys() - before})
    assert {path: (project / path).read_bytes() for path in files(project)} == left


def test_the_sample_of_parquet_has_rows_of_all_files(
    session: Session, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.contracts.inference.SAMPLE_ROWS", 2)
    monkeypatch.setattr("harness.contracts.inference.FIRST_ROWS", 2)
    for number, name in enumerate(["a", "b", "c"]):
        ids = [10 * number + row for row in range(3)]
        texts = {column: ["x", None if name == column else "x", "x"] for column in "bc"}
        pq.write_table(pa.table({"id": ids, **texts}), project / f"{name}.parquet")
    assert session("feed", "new", "orders", "--from", str(project / "*.parquet")).exit_code == 0
    sample = pq.read_table(project / "data" / "orders.parquet").to_pylist()
    assert [row["id"] for row in sample] == [0, 1, 11, 21]  # the first, and each first one without a value


@pytest.mark.parametrize(
    ("name", "source", "error"),
    [
        ("Orders", "orders.csv", (2, "A feed cannot be named 'Orders'.")),
        ("rejected_rows", "orders.csv", (2, "A feed cannot be named 'rejected_rows'.")),
        ("events", "orders.csv", (2, "{root}/feeds/events.yaml is there already.")),
        ("orders", "missing.csv", (10, "{root}/missing.csv does not exist.")),
        ("orders", "*.parquet", (10, "No file matches {root}/*.parquet.")),
        ("orders", "data", (13, "{root}/data is a directory.")),
        ("orders", "nothing.csv", (2, "{root}/nothing.csv is empty.")),
    ],
)
def test_bad_input_writes_nothing(
    session: Session, project: Path, name: str, source: str, error: tuple[int, str]
) -> None:
    exit_code, what = error
    (project / "nothing.csv").touch()
    before = files(project)
    session("feed", "new", name, "--from", str(project / source)).is_error(exit_code, what.format(root=project))
    assert files(project) == before


@pytest.mark.parametrize("arguments", [["new", "orders", "--from", "{0}", "{1}"], ["new", "--from", "{0}", "{1}", "x"]])
def test_files_that_a_shell_put_in_the_place_of_a_pattern(
    session: Session, project: Path, arguments: list[str]
) -> None:
    paths = [project / "orders.csv", project / "orders_2.csv"]
    paths[1].write_text(ORDERS)
    outcome = session("feed", *(argument.format(*paths) for argument in arguments))
    outcome.is_error(2, f"--from takes one path or pattern, and {paths[1]} is one more file.")
    assert outcome.errors[2] == "  Put the pattern in quotes, such as: --from 'orders/*.csv'"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_of_files_that_cannot_all_be_written_none_is_left(tmp_path: Path, error: type[BaseException]) -> None:
    paths = [tmp_path / "a", tmp_path / "folder" / "b"]

    def fail() -> None:
        with feed.written_together(dict.fromkeys(paths, b"")):
            assert files(tmp_path) == {"a", "folder/b"}
            raise error

    with pytest.raises(error):
        fail()
    assert files(tmp_path) == set()


def test_all_errors_of_all_contracts_are_shown(session: Session, project: Path) -> None:
    text = (project / "feeds" / "events.yaml").read_text()
    (project / "feeds" / "a.yaml").write_text("no: contract")
    (project / "feeds" / "b.yml").write_text(text)
    outcome = session("feed", "check")
    assert outcome.exit_code == 36
    assert len(outcome.errors) == 6
    assert [line for line in outcome.errors if "a.yaml" in line and line.startswith("✗")]
    assert [line for line in outcome.errors if "b.yml" in line and line.startswith("✗")]
    assert outcome.output == [f"✓ {project}/feeds/events.yaml: 5 columns, version 1.0.0"]


@pytest.fixture
def edited(session: Session, project: Path) -> Callable[[str, str], Outcome]:
    """Give a function that replaces text of the contract of events and checks it against the commit before."""
    for argv in (("init", "-q"), ("add", "."), ("commit", "-qm", "x")):
        git(project, *argv)
    contract = project / "feeds" / "events.yaml"

    def edit(old: str, new: str) -> Outcome:
        text = contract.read_text()
        assert old in text
        contract.write_text(text.replace(old, new))
        return session("feed", "check", "--base", "HEAD")

    return edit


@pytest.mark.needs("git")
def test_a_change_that_breaks_readers_needs_a_major_version(edited: Callable[[str, str], Outcome]) -> None:
    edited(
        "logicalType: integer\n        required: true\n        description", "logicalType: integer\n        description"
    ).is_error(
        68,
        "A contract's change since HEAD breaks its readers: events: professional_id_anonymized is no longer required;"
        " read by stg_events, fct_events, int_other_events and",
    )
    outcome = edited("version: 1.0.0", "version: 2.0.0")
    assert outcome.exit_code == 0
    assert outcome.output[1] == "events: 1.0.0 → 2.0.0"
    assert outcome.output[2].startswith("  ✗ professional_id_anonymized is no longer required; read by stg_events")


@pytest.mark.needs("git")
def test_other_changes_are_listed(edited: Callable[[str, str], Outcome]) -> None:
    outcome = edited("[daily, weekly, monthly]", "[daily]")
    assert (outcome.exit_code, outcome.errors) == (0, [])
    assert outcome.output[1:] == ["events: 1.0.0 → 1.0.0", "  · the cadences were changed"]


@pytest.mark.needs("git")
def test_a_contract_of_the_base_that_is_not_valid_now_is_not_compared(
    project: Path, edited: Callable[[str, str], Outcome]
) -> None:
    edited("cadences", "cadence")
    git(project, "commit", "-qam", "x")
    outcome = edited("cadence", "cadences")
    assert outcome.exit_code == 0
    assert outcome.output[1].startswith("… events: its contract in HEAD is not valid now, so it is not compared: ")


@pytest.mark.needs("git")
@pytest.mark.usefixtures("edited")
def test_a_removed_contract_that_models_read(session: Session, project: Path) -> None:
    (project / "feeds" / "events.yaml").unlink()
    session("feed", "check", "--base", "HEAD").is_error(
        68, "A contract's change since HEAD breaks its readers: events was removed; read by stg_events, "
    )


@pytest.mark.needs("git")
@pytest.mark.usefixtures("edited")
def test_a_base_that_is_not_there(session: Session) -> None:
    session("feed", "check", "--base", "nowhere").is_error(65, "The contracts of nowhere cannot be read.")


@pytest.mark.needs("git")
def test_on_a_pull_request_the_base_is_its_branch(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_BASE_REF", "no-such-branch")
    session("feed", "check").is_error(65, "The contracts of origin/no-such-branch cannot be read.")


def test_replay_of_rejected_rows(session: Session, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTS_DSN", warehouse.loader_dsn)
    outcome = session("feed", "replay-rejects", "events")
    assert outcome.exit_code == 0, outcome
    assert outcome.output[0] == "✓ 0 of 0 rejected rows of events loaded"
    session("feed", "replay-rejects", "nothing").is_error(29, "There is no feed 'nothing'.")

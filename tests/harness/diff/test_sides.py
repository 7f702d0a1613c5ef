"""How a side that fails is described, and which rows each side has loaded."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.diff.run import loaded_rows
from harness.diff.sides import Side, said
from harness.errors import BaseFailedError, DbtFailedError
from harness.warehouse.roles import Warehouse
from harness.warehouse.server import Server

COLUMN = "Database Error in model a (models/a.sql)\n  column x does not exist\n  LINE 1: select x"


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (COLUMN, "column x does not exist (Database Error in model a (models/a.sql))"),
        (
            "\n21:33:53  [ERROR]: Encountered an error:\nCompilation Error\n  Model 'a' depends on a node named 'b'\n",
            "Model 'a' depends on a node named 'b' (Compilation Error)",
        ),
        ("21:33:53  Running with dbt=1.12.6\n", "Running with dbt=1.12.6"),
        ("Could not find profile", "Could not find profile"),
        ("Runtime Error", "Runtime Error"),
        ("x" * 1_000, "x" * 400),
        (" \n", "nothing"),
    ],
)
def test_what_dbt_says(output: str, line: str) -> None:
    assert said(output) == line


def side(name: str, folder: Path, results: list[dict[str, Any]], output: str = "") -> Side:
    """Return a side whose dbt has ended with RESULTS and OUTPUT."""
    server = Server("a test", "h", 1, "u", "p")
    side = Side(
        name,
        "The base, v1," if name == "base" else "The branch",
        folder,
        folder,
        folder,
        Warehouse(server, "d", {"transformer": "x"}),
    )
    artifacts = side.dbt.artifacts
    artifacts.mkdir(parents=True)
    (artifacts / "run_results.json").write_text(json.dumps({"results": results}))
    side.process.output = output.splitlines(keepends=True)
    return side


def result(name: str, status: str = "error", message: str | None = COLUMN) -> dict[str, Any]:
    return {"unique_id": f"model.p.{name}", "status": status, "message": message, "execution_time": 1.0}


def test_models_that_fail(tmp_path: Path) -> None:
    results = [result("good", "success", None), *(result(name) for name in "bcade"), result("f", "skipped", None)]
    error = side("branch", tmp_path, results, "a line\n~ rows read model.p.a 5\n").failed("does not build")
    assert type(error) is DbtFailedError
    assert str(error) == (
        "The branch does not build: a, b, c and 2 more failed.\n"
        "dbt says: column x does not exist (Database Error in model a (models/a.sql))\n"
        "Build it alone: nox -s dbt -- build --select +a +b +c"
    )
    assert len(error.evidence) == 4
    assert "a line" in error.evidence[-1]
    assert "rows read" not in error.evidence[-1]


def test_a_base_that_fails_before_any_model(tmp_path: Path) -> None:
    error = side("base", tmp_path, [], "21:33:53  Could not connect\n").failed("cannot be parsed")
    assert type(error) is BaseFailedError
    assert str(error) == (
        "The base, v1, cannot be parsed.\n"
        "dbt says: Could not connect\n"
        "Compare with a commit that builds: nox -s diff -- --base REF"
    )


@pytest.mark.parametrize(
    ("base", "branch", "text"),
    [
        ({"events": 20_000}, {"events": 20_000}, "20,000 events"),
        ({"events": 20_000}, {"events": 5}, "20,000 events in the base and 5 in the branch"),
        ({"events": 2}, {"events": 2, "orders": 1_000}, "2 events, 1,000 orders only in the branch"),
        ({"orders": 3, "events": 2}, {"events": 2}, "3 orders only in the base, 2 events"),
        ({}, {}, ""),
    ],
)
def test_the_rows_of_both_sides(base: dict[str, int], branch: dict[str, int], text: str) -> None:
    assert loaded_rows(base, branch) == text

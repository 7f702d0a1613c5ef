"""A file of the user becomes a feed whose pipelines run: two commands, and no other file is touched by hand."""

import gzip
import json
import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from harness.project import environments
from tests import clones, harness_command, pages

ORDERS = [
    f"{number},2024-01-{number % 28 + 1:02} 10:00:00,{number}.50,{'a note' if number % 3 else ''}"
    for number in range(1, 301)
]
# Names that are words of SQL, or no names in PostgreSQL.
ODD = ['"Order ID",select,Größe,no,from,ctid,date', *(f"{number},a,b,c,d,e,2024-01-01" for number in range(50))]
CUSTOMERS = [json.dumps({"id": f"C{number}", "name": f"Customer {number}"}) for number in range(1, 51)]

AFTER_ORDERS = """
from pathlib import Path
from airflow.sdk import Asset, dag, get_current_context, task

@dag(schedule=Asset("raw.orders"), is_paused_upon_creation=False)
def after_orders():
    @task
    def note():
        Path("{place}").joinpath(get_current_context()["dag_run"].run_type.value).touch()

    note()

after_orders()
"""


@pytest.mark.nightly
@pytest.mark.slow
def test_two_commands_bring_files_in_and_check_every_number(clone: Path) -> None:
    orders, customers, odd = clone / "orders.csv", clone / "customers.jsonl.gz", clone / "odd.csv"
    odd.write_text("\n".join([*ODD, ""]), encoding="utf-8")
    orders.write_text("\n".join(["order_id,ordered_at,amount,note", *ORDERS, ""]))
    customers.write_bytes(gzip.compress("\n".join([*CUSTOMERS, ""]).encode()))
    (clone / "airflow" / "dags" / "after_orders.py").write_text(AFTER_ORDERS.format(place=clone))
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary).chmod(0o711)  # as root, PostgreSQL runs as another user

        def harness(*arguments: str) -> str:
            exit_code, output = harness_command.run(
                *arguments, python=clones.python_of(clone), cwd=clone, TMPDIR=temporary
            )
            assert exit_code == 0, output
            return output

        harness("feed", "new", "orders", "--from", str(orders))
        harness("feed", "new", "customers", "--from", str(customers))
        harness("feed", "new", "user", "--from", str(odd))
        output = harness("e2e", "--target", "embedded")
        check_report(clone / "build" / "report" / "index.html")
        harness("dbt")
    sqlfluff = environments.python_of("lint").with_name("sqlfluff")
    subprocess.run([str(sqlfluff), "lint", "dbt/models/staging"], cwd=clone, check=True)

    rows = dict(line.split()[:2] for line in output.splitlines() if line.strip().startswith("raw."))
    assert rows == {"raw.customers": "50", "raw.events": "20,000", "raw.orders": "300", "raw.user": "50"}
    assert "a second run changes nothing" in output
    assert (clone / "asset_triggered").exists()  # a load of orders has started the user's own DAG


def check_report(path: Path) -> None:
    """Check the page of a run that ended well."""
    page = pages.read(path)
    assert pages.loaded(page) == []
    [verdict] = pages.with_class(page, "verdict")
    assert re.fullmatch(r"✓ It ended well: \d+ numbers as expected\.", pages.text(verdict))
    tables = {region.get("aria-label"): pages.cells(region) for region in pages.with_class(page, "scroll")}
    assert {row[3] for row in tables["Numbers"][1:]} == {"right"}
    assert {row[0] for row in tables["Loads"][1:]} == {"events", "orders", "customers", "user"}
    assert ["dbt_build", "success"] in [[row[0], row[2]] for row in tables["Tasks of Airflow"]]
    assert "feed_days" in [row[0] for row in tables["Tests by model"]]  # of the last build, of whatever feed
    captions = [pages.text(caption) for caption in page.iter("figcaption")]
    assert [re.search(r"Both are equal on each of \d+ days", caption) is not None for caption in captions] == [True] * 2

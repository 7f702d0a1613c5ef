"""Whether a side has the rows that are expected of it."""

from dataclasses import replace

import pytest

from feeds.contract import read_feeds
from harness.diff.pairing import Table
from harness.diff.results import Verdict
from harness.diff.values import columns_of
from harness.diff.verdicts import of_files, verdict
from harness.oracle.expected_numbers import MARKETPLACE
from tests.harness.diff.conftest import Databases

EXPECTED = {"dim.dim_services": {(1, "een", "one"), (2, "twee", "two")}}
ONE, TWO, THREE = "(1, 'een', 'one')", "(2, 'twee', 'two')", "(3, 'drie', 'three')"


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ((TWO, ONE), Verdict(agrees=True)),
        ((ONE,), Verdict(agrees=False, text="it lacks 1 of the expected rows, and has 0 others")),
        ((ONE, ONE, TWO, TWO, TWO), Verdict(agrees=False, text="3 of its rows repeat others")),
        (
            (ONE, THREE, THREE),
            Verdict(
                agrees=False, text="it lacks 1 of the expected rows, and has 1 others; 1 of its rows repeat others"
            ),
        ),
    ],
)
def test_rows_that_are_there_too_often_are_counted(databases: Databases, rows: tuple[str, ...], found: Verdict) -> None:
    databases.base.execute(
        "create table compared.dim_services (service_id, service_name_nl, service_name_en)"
        f" as values {', '.join(rows)}".encode()
    )
    table = Table("compared", "dim_services", columns_of(databases.base, "compared", "dim_services"), (), False)
    assert verdict(databases.base, table, EXPECTED, are_samples=False) == found


def test_a_contract_with_other_columns_leads_to_no_expected_rows(databases: Databases) -> None:
    feed = read_feeds()[MARKETPLACE]
    renamed = replace(feed, columns=(replace(feed.columns[0], name="number"), *feed.columns[1:]))
    assert of_files(renamed, "unread.csv", databases.base) == {}

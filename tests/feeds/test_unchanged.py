"""A file whose rows are all still in place is not loaded again; after any other change it is."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from feeds import ledger, unchanged
from tests.events_feed import load
from tests.feeds.common import DAY, events, ids_of, rejects, write_days

ROWS_PER_DAY = 10
pytestmark = pytest.mark.usefixtures("small_partitions")

TUESDAY: dict[str, Any] = {"start": DAY + timedelta(days=1), "end": DAY + timedelta(days=2)}
EDITS = {
    "a row deleted": "delete from raw.events where event_id = 1003",
    "a row changed": "update raw.events set professional_id_anonymized = 99 where event_id = 1003",
    "a row changed and changed back": "update raw.events set professional_id_anonymized = 8 where event_id = 1003",
    "a row moved away": "update raw.events set created_at = '5000-01-01' where event_id = 1003",
    "a row given another id": "update raw.events set event_id = 77777 where event_id = 1003",
    "a row added": "insert into raw.events values (77777, 'created_account', 1, '2020-01-02 03:04', null, 1)",
    "one deleted and one added": "delete from raw.events where event_id = 1003;"
    " insert into raw.events values (77777, 'created_account', 1, '2020-01-02 03:04', null, 1)",
    "two changed": "update raw.events set meta_data = null, professional_id_anonymized = event_id"
    " where event_id in (1003, 1004)",
    "all deleted": "truncate raw.events",
    "the same id elsewhere": "insert into raw.events values (1003, 'created_account', 1, '2021-01-02 03:04', null, 1)",
    "a rejected row deleted": "delete from raw.rejected_rows",
    "a rejected row changed": "update raw.rejected_rows set reason = 'too_long'",
    "vacuumed afterwards": "delete from raw.events where event_id = 1003",
}


@pytest.mark.parametrize("interval", [{}, TUESDAY], ids=["whole file", "one day"])
def test_any_edit_is_repaired(dsn: str, db: psycopg.Connection, tmp_path: Path, interval: dict[str, Any]) -> None:
    uri = write_days(tmp_path / "events.csv", 0, 1, 2, more=["not an event"])
    load(uri, dsn, max_rejected=0.5)
    load(uri, dsn, max_rejected=0.5, **interval)
    before = events(db), rejects(db)
    for edit, statement in EDITS.items():
        assert load(uri, dsn, max_rejected=0.5, **interval).same_as_load_id, edit
        db.execute(statement.encode())
        if edit == "vacuumed afterwards":
            db.execute("vacuum freeze raw.events")
        assert load(uri, dsn, max_rejected=0.5, **interval).same_as_load_id is None, edit
        if interval and edit == "all deleted":  # those of other days are not repaired
            assert [row[0] for row in events(db)] == ids_of(1)
            load(uri, dsn, max_rejected=0.5)
            load(uri, dsn, max_rejected=0.5, **interval)
        assert (events(db), rejects(db)) == before, edit


def test_an_unchanged_file_is_not_loaded_again(dsn: str, db: psycopg.Connection, tmp_path: Path) -> None:
    uri = write_days(tmp_path / "events.csv", 0, more=["bad"])
    first = load(uri, dsn, max_rejected=0.5)
    look = "select tableoid, ctid, xmin::text from raw.events order by event_id"
    before = db.execute(look).fetchall(), rejects(db)
    second = load(uri, dsn, max_rejected=0.5)
    assert (db.execute(look).fetchall(), rejects(db)) == before  # no row was written again
    assert (first.same_as_load_id, second.same_as_load_id) == (None, first.load_id)
    assert (second.read, second.loaded, second.rejected, second.replaced) == (11, 10, 1, 0)
    assert second.reasons == {"field_count": 1}


def test_a_file_is_loaded_again_after_another_interval_load_or_content(
    dsn: str, db: psycopg.Connection, tmp_path: Path
) -> None:
    path, other = tmp_path / "events.csv", tmp_path / "another.csv"
    uri = write_days(path, 0, 1, 2)
    assert load(uri, dsn).same_as_load_id is None
    assert load(uri, dsn, **TUESDAY).same_as_load_id is None  # another interval
    assert load(uri, dsn, **TUESDAY).same_as_load_id == 2
    assert load(uri, dsn, **TUESDAY).same_as_load_id == 2
    assert load(uri, dsn).same_as_load_id is None  # load 2 has written rows since
    path.write_text(path.read_text().replace(";8;", ";9;"))
    assert load(uri, dsn).same_as_load_id is None  # another content of the same size
    other.write_text(path.read_text())
    assert load(str(other), dsn).same_as_load_id == 6  # the same content under another name
    rows = db.execute("select load_id, same_as_load_id, rows_read, rows_replaced from raw.loads order by 1").fetchall()
    assert rows == [
        *((1, None, 30, 0), (2, None, 30, 10), (3, 2, 30, 0), (4, 2, 30, 0), (5, None, 30, 30)),
        *((6, None, 30, 30), (7, 6, 30, 0)),
    ]


def test_a_file_is_loaded_again_with_other_rules_or_by_force(
    dsn: str, db: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = write_days(tmp_path / "events.csv", 0, 1, 2)
    load(uri, dsn)
    (tmp_path / "more.py").write_text("a = 1")
    with monkeypatch.context() as patch:
        patch.setattr(unchanged, "_DECIDES", [*unchanged._DECIDES, tmp_path / "more.py"])
        unchanged.rules_sha256.cache_clear()
        assert load(uri, dsn).same_as_load_id is None
        assert load(uri, dsn).same_as_load_id == 2
        forced = load(uri, dsn, force=True)
    unchanged.rules_sha256.cache_clear()
    assert (forced.same_as_load_id, forced.replaced) == (None, 30)
    rules = db.execute("select count(distinct rules_sha256), count(rules_sha256) from raw.loads").fetchall()
    assert rules == [(2, 4)]


@pytest.mark.parametrize(("outside", "absent", "may_lack"), [(0, 0, False), (3, 1, True), (3, None, True)])
def test_the_database_is_not_asked_where_the_load_itself_says_whether_rows_are_absent(
    *, outside: int, absent: int | None, may_lack: bool
) -> None:
    never: Any = None  # in the place of a connection
    previous = ledger.PreviousLoad(1, "1", "", read=9, loaded=9, rejected=0, outside=outside, absent=absent)
    assert ledger.may_lack_rows(never, previous) == may_lack

"""What libpq reads of a DSN, and DSNs that are refused with the form that is right."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from feeds.dsn import connection_url, libpq_dsn
from feeds.errors import SettingUnusable

ANY = " '\"\\%@/:?#&=+é[]{}$;"


@pytest.mark.parametrize("dsn", ["postgresql://u:p@h:5432/d", "host=h user=u password='p \\'' dbname=d", ""])
@pytest.mark.parametrize("around", ["", " ", "\n", "\r\n", "\t"])
def test_blanks_and_line_ends_around_a_dsn_do_not_count(dsn: str, around: str) -> None:
    assert libpq_dsn(around + dsn + around) == dsn


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:p%40ss@h/a%40b",
        "postgresql://u:p?#[ss@h/d",
        "postgresql://u:p@h1,h2:1,2/d?options=a@b",
        "postgresql://%2Fvar%2Frun/d",
        "postgresql://%40abstract/d",
        "postgres://[::1]:5432/d",
        "host=@abstract dbname=a@b",
        "dbname=jdbc:x",
    ],
)
def test_a_dsn_that_libpq_reads_as_it_is_meant(dsn: str) -> None:
    assert libpq_dsn(dsn) == dsn


@pytest.mark.parametrize(
    ("dsn", "what", "why"),
    [
        (
            "postgresql+psycopg2://u:SECRET@h/d",
            "begins with postgresql+psycopg2://, not with postgresql://",
            "SQLAlchemy",
        ),
        ("postgres+asyncpg://u:SECRET@h/d", "begins with postgres+asyncpg://, not with postgresql://", "SQLAlchemy"),
        ("jdbc:postgresql://h/d?password=SECRET", "begins with jdbc:, not with postgresql://", "JDBC"),
        ("mysql://u:SECRET@h/d", "begins with mysql://, not with postgresql://", "only URLs"),
        ("POSTGRESQL://u:SECRET@h/d", "begins with POSTGRESQL://, not with postgresql://", "only URLs"),
        ("postgresql://u:p@SECRET@h/d", "has a port that is not a number, or a special character", "After an @"),
        ("postgresql://u:p/SECRET@h/d", "has a port that is not a number, or a special character", "After an @"),
        ("postgresql://u:12/SECRET@h/d", "has a port that is not a number, or a special character", "After an @"),
        ("postgresql://u:SECRET%zz@h/d", "is invalid: invalid percent-encoded token: '…'", "percent-encoded"),
        ("postgresql://u:p SECRET@h/d", "is invalid: unexpected spaces found in '…'", "percent-encoded"),
        ("postgresql://u@h/d?SECRET=1", "is invalid: invalid URI query parameter: '…'", "an unknown parameter"),
        ("postgresql://u@h/d?sslmod=SECRET", "'…', did you mean sslmode?", "an unknown parameter"),
        ("hots=SECRET", "is invalid: invalid connection option '…', did you mean host?", "an unknown parameter"),
        ("SECRET", "is invalid: missing \"=\" after '…'", "an unknown parameter"),
        ("postgresql://u:SECRET%00@h/d", "is invalid: forbidden value %00", "percent-encoded"),
        ("postgresql://u:SECRET\udcff@h/d", "is invalid: ", "percent-encoded"),
    ],
)
def test_a_dsn_that_is_refused(dsn: str, what: str, why: str) -> None:
    with pytest.raises(SettingUnusable) as caught:
        libpq_dsn(dsn, "EVENTS_DSN")
    assert caught.value.what.startswith("EVENTS_DSN ")
    assert what in caught.value.what
    assert why in caught.value.why
    assert caught.value.next_step.startswith("Write ")
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("host", ["h", "h1,h2", "::1", "fe80::1%eth0", "/var/run/postgresql", "host-1.example"])
def test_a_url_has_names_and_passwords_of_any_characters(host: str) -> None:
    parts = {"user": ANY, "password": ANY, "host": host, "port": "5432", "dbname": ANY, "application_name": ANY}
    url = connection_url(*(parts[key] for key in ("user", "password", "host", "port", "dbname")), application_name=ANY)
    parts["port"] += ",5432" * host.count(",")
    assert conninfo_to_dict(libpq_dsn(url)) == parts


def test_a_url_leaves_empty_parts_out() -> None:
    assert connection_url("", "", "", "", "") == "postgresql:///"
    assert connection_url("u", "", "h", 0, "d") == "postgresql://u@h/d"


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9)
pieces = st.sampled_from([*"@/?#&=%[]' \\\n\udcffé", "postgresql", "jdbc:", "://", "host=", "user", ":5432"])


@given(st.lists(pieces | texts, max_size=9).map("".join))
def test_any_text_is_a_dsn_or_is_refused(text: str) -> None:
    with suppress(SettingUnusable):
        conninfo_to_dict(libpq_dsn(text))


@given(texts, texts, texts)
def test_libpq_reads_any_parts_of_a_url(user: str, password: str, database: str) -> None:
    parts = {"user": user, "password": password, "dbname": database}
    expected = {key: value for key, value in parts.items() if value} | {"host": "h", "port": "5432"}
    assert conninfo_to_dict(libpq_dsn(connection_url(user, password, "h", 5432, database))) == expected

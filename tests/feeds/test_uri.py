"""No secret of a URI is shown, the parts that help to find the file are, and each source has one identity."""

import logging
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.uri import clean_logs, shown, source_id, without_secrets

SECRET = "SECRET"  # noqa: S105 - part of each secret below, and of nothing else
URIS = {  # and how they are shown
    # user info
    "https://SECRET@host/a.csv": "https://host/a.csv",
    "https://SECRET:SECRET@host/a.csv": "https://host/a.csv",
    "https://:SECRET@host/a.csv": "https://host/a.csv",
    "https://SECRET:@host/a.csv": "https://host/a.csv",
    "https://@host/a.csv": "https://host/a.csv",
    "sftp://SECRET:SECRET@SECRET@host/a.csv": "sftp://host/a.csv",
    "sftp://SECRET:@@SECRET@@host:22/a.csv": "sftp://host:22/a.csv",
    "sftp://SECRET:SECRET%40SECRET@host/a.csv": "sftp://host/a.csv",
    "sftp://SECRET%3ASECRET%40host/a.csv": "sftp://…",
    "ftp://SECRET:SECRET:SECRET@host/a.csv": "ftp://host/a.csv",
    "ftp://SECRET:SECRET::SECRET@host/a.csv": "ftp://…/host/a.csv",
    "ftp://SECRET::SECRET/SECRET@host/a.csv": "ftp://…/host/a.csv",
    "ftp://DOMAIN-SECRET\\SECRET:SECRET@host/a.csv": "ftp://host/a.csv",
    "ftp://SECRET/SECRET:SECRET@host/a.csv": "ftp://…/host/a.csv",
    "s3://SECRET:SECRET/SECRET@bucket/a.csv": "s3://…/bucket/a.csv",
    "s3://SECRET:/SECRET@bucket/a.csv": "s3://…/bucket/a.csv",
    "s3://SECRET:12/SECRET@bucket/a.csv": "s3://…/bucket/a.csv",
    "s3://SECRET:SECRET@SECRET/SECRET@bucket/a.csv": "s3://…/bucket/a.csv",
    "s3://SECRET:SECRET//SECRET@bucket/a.csv": "s3://…/bucket/a.csv",
    "s3://SECRET:SECRET://SECRET@bucket/a.csv": "s3://…/bucket/a.csv",
    "s3://SECRET:SECRET/SECRET": "s3://…",
    "sftp://SECRET:SECRET?SECRET@host/a.csv": "sftp://…",
    "sftp://SECRET:SECRET#SECRET@host/a.csv": "sftp://…",
    "sftp://SECRET:SECRET#SECRET@host/a.csv?sig=SECRET": "sftp://…",
    "sftp://SECRET:SE CRET-SECRET@host/a.csv": "sftp://host/a.csv",
    "https://SECRET:SECRET@host/a.csv?user=SECRET@SECRET": "https://…",
    "https://SECRET:SECRET@[2001:db8::1]:8443/a.csv": "https://[2001:db8::1]:8443/a.csv",
    "https://SECRET:пароль-SECRET@хост.рф/данные.csv": "https://хост.рф/данные.csv",
    "HTTPS://SECRET:SECRET@HOST/A.CSV?SIG=SECRET": "HTTPS://HOST/A.CSV?SIG=…",
    "//SECRET:SECRET@host/a.csv": "//host/a.csv",
    "//SECRET:SECRET/SECRET@host/a.csv": "//…/host/a.csv",
    "SECRET:SECRET@host/a.csv": "…/host/a.csv",
    "SECRET:SECRET/SECRET@SECRET@host/a.csv": "…/host/a.csv",
    "abfs://SECRET@account.dfs.core.windows.net/a.csv": "abfs://account.dfs.core.windows.net/a.csv",
    "hdfs://SECRET@namenode:8020/a.csv": "hdfs://namenode:8020/a.csv",
    "smb://DOM;SECRET:SECRET@host/share/a.csv": "smb://host/share/a.csv",
    "git+ssh://SECRET@host/a.csv": "git+ssh://host/a.csv",
    "SECRET:SECRET@https://host/a.csv": "…/https://host/a.csv",
    "1s3://SECRET:SECRET@bucket/a.csv": "1s3://bucket/a.csv",
    "://SECRET:SECRET@bucket/a.csv": "://bucket/a.csv",
    "'https://SECRET:SECRET@host/a.csv'": "'https://host/a.csv'",
    " https://SECRET:SECRET@host/a.csv": " https://host/a.csv",
    # query and fragment
    "https://host/a.csv?X-Amz-Signature=SECRET": "https://host/a.csv?X-Amz-Signature=…",
    "https://host/a.csv?X-Amz-Credential=SECRET%2F2026&X-Amz-Date=SECRET": (
        "https://host/a.csv?X-Amz-Credential=…&X-Amz-Date=…"
    ),
    "https://host/a.csv?sv=SECRET&sp=SECRET&sig=SECRET%3D": "https://host/a.csv?sv=…&sp=…&sig=…",
    "https://host/a.csv?hash=SECRET": "https://host/a.csv?hash=…",
    "https://host/a.csv?hmac=SECRET&x=SECRET": "https://host/a.csv?hmac=…&x=…",
    "https://host/a.csv?sig=SECRET==": "https://host/a.csv?sig=…",
    "https://host/a.csv?sig=a=SECRET": "https://host/a.csv?sig=…",
    "https://host/a.csv?sig=a?SECRET=SECRET": "https://host/a.csv?sig=…",
    "https://host/a.csv?sig=a/SECRET@SECRET": "https://host/a.csv?sig=…",
    "https://host/a.csv?sig=a::https://SECRET": "https://host/a.csv?sig=…",
    "https://host/a.csv?sig=a SECRET": "https://host/a.csv?sig=…",
    "https://host/a.csv?sig=a\nSECRET": "https://host/a.csv?sig=…",
    "https://host/a.csv?SECRET": "https://host/a.csv?…",
    "https://host/a.csv?SECRET==": "https://host/a.csv?…",
    "https://host/a.csv?SECRET%3D": "https://host/a.csv?…",
    "https://host/a.csv?/SECRET=SECRET": "https://host/a.csv?…",
    f"https://host/a.csv?{'SECRET' * 7}=1": "https://host/a.csv?…",
    "https://host/a.csv?sig=SECRET&SECRET": "https://host/a.csv?sig=…&…",
    "https://host/a.csv?a[]=SECRET&=SECRET": "https://host/a.csv?a[]=…&…",
    "https://host/a.csv?": "https://host/a.csv?",
    "https://host?sig=SECRET": "https://host?sig=…",
    "https://host:8443/a.csv?mail=me@SECRET": "https://…",
    "https://host/a.csv#access_token=SECRET": "https://host/a.csv#access_token=…",
    "https://host/a.csv#access_token=SECRET&state=SECRET": "https://host/a.csv#access_token=…&state=…",
    "https://host/a.csv#SECRET": "https://host/a.csv#…",
    "https://host/a.csv?sig=SECRET#token=SECRET": "https://host/a.csv?sig=…#token=…",
    "s3://bucket/a.csv?versionId=SECRET": "s3://bucket/a.csv?versionId=…",
    "host/a.csv?X-Amz-Signature=SECRET&sig=SECRET": "host/a.csv?X-Amz-Signature=…&sig=…",
    "/a.csv#access_token=SECRET": "/a.csv#access_token=…",
    # chains
    "simplecache::ftp://SECRET:SECRET@SECRET@host/a.csv": "simplecache::ftp://host/a.csv",
    "simplecache::s3://SECRET:SECRET/SECRET@bucket/a.csv": "simplecache::s3://…/bucket/a.csv",
    "zip://a.csv::https://host/a.zip?sig=SECRET": "zip://a.csv::https://host/a.zip?sig=…",
    "zip://a/b.csv::simplecache::https://SECRET:SECRET@host/a.zip": "zip://a/b.csv::simplecache::https://host/a.zip",
    "zip://*.csv::sftp://SECRET:SECRET@SECRET@host/a.zip#SECRET": "zip://*.csv::sftp://host/a.zip#…",
    "tar://a.csv::zip://b.tar::ftp://SECRET:SECRET@host/c.zip": "tar://a.csv::zip://b.tar::ftp://host/c.zip",
    "zip://a@b.csv::https://SECRET:SECRET@host/a.zip": "zip://…/host/a.zip",
    "zip://a.csv::/data/a.zip": "zip://a.csv::/data/a.zip",
    # no servers
    "data:text/csv;base64,SECRET": "data:…",
    "DATA:,SECRET": "data:…",
    "memory://folder/a.csv": "memory://folder/a.csv",
    "file:///data/a.csv": "file:///data/a.csv",
    "file:///C:/data/a.csv": "file:///C:/data/a.csv",
    "file://C:/data/a.csv": "file://C:/data/a.csv",
    "file:///data/a#SECRET.csv": "file:///data/a#…",
    # paths
    "/data/a.csv": "/data/a.csv",
    "a.csv": "a.csv",
    "": "",
    "../a b/ü.csv.gz": "../a b/ü.csv.gz",
    "/data/a#b.csv": "/data/a#b.csv",
    "/data/a?b.csv": "/data/a?b.csv",
    "/data/a@b.csv": "/data/a@b.csv",
    "a@b.csv": "a@b.csv",
    "/data/token=1/key=2/a.csv": "/data/token=1/key=2/a.csv",
    "/data/2020-01-01T00:00:00/a@b.csv": "/data/2020-01-01T00:00:00/a@b.csv",
    "C:\\data\\a@b.csv": "C:\\data\\a@b.csv",
    "C:/data/a@b.csv": "C:/data/a@b.csv",
    "\\\\server\\share\\a.csv": "\\\\server\\share\\a.csv",
    "//server/share/a.csv": "//server/share/a.csv",
    "s3://bucket/a@b.csv": "s3://bucket/a@b.csv",
    "https://host/2020-01-01T00:00/a.csv": "https://host/2020-01-01T00:00/a.csv",
    "https://host/@SECRET/../a:b@c.csv": "https://…/c.csv",
    "https://host/a.csv%3Fsig=SECRET": "https://host/a.csv…",
    "https://host/a.csv%253FX-Amz-Date=SECRET": "https://host/a.csv…",
    "https://host/a.csv&X-Amz-Date=SECRET&b=SECRET": "https://host/a.csv…",
    # warehouses
    "postgresql://SECRET:SECRET@host:5432/db": "postgresql://host:5432/db",
    "postgresql://SECRET:SECRET@host/db?password=SECRET&sslmode=SECRET": "postgresql://host/db?password=…&sslmode=…",
    "postgres://SECRET:SECRET@one:5432,two:5433/db": "postgres://one:5432,two:5433/db",
    "postgresql:///db?host=SECRET&password=SECRET": "postgresql:///db?host=…&password=…",
    "postgresql+psycopg2://SECRET:SECRET@host/db": "postgresql+psycopg2://host/db",
    "jdbc:postgresql://host/db;password=SECRET": "jdbc:postgresql://host/db;password=…",
    "host=host dbname=db password=SECRET": "host=host dbname=db password=…",
    "password = 'SECRET \\' SECRET' host=host": "password = … host=host",
    "password=a\\ SECRET host=host": "password=… host=host",
    "password='SECRET host=SECRET": "password=…",
    "host=host sslpassword=SECRET": "host=host sslpassword=…",
}
MESSAGES = {
    "failed: https://host/a?x=SECRET&X-Amz-Signature=SECRET&y=SECRET (403)": (
        "failed: https://host/a?x=…&X-Amz-Signature=…&y=… (403)"
    ),
    "403, message='Forbidden', url='https://host/a?sig=SECRET'": "403, message='Forbidden', url='https://host/a?sig=…'",
    "url=URL('https://host/a?sig=SECRET')": "url=URL('https://host/a?sig=…')",
    "see <https://SECRET:SECRET@host/a>, (https://host/b?sig=SECRET).": "see <https://host/a>, (https://host/b?sig=…).",
    "https://host/a,https://SECRET:SECRET@host/b": "https://…/host/b",
    "from `ftp://SECRET:SECRET SECRET@host/a` to s3://bucket/b": "from `ftp://host/a` to s3://bucket/b",
    "'s3://SECRET:SECRET/SECRET@bucket/a.csv' is gone": "'s3://…/bucket/a.csv' is gone",
    "HTTPConnectionPool(host='h', port=80): Max retries exceeded with url: /a?sig=SECRET (Caused by …)": (
        "HTTPConnectionPool(host='h', port=80): Max retries exceeded with url: /a?sig=… (Caused by …)"
    ),
    "GET /a?sig=SECRET HTTP/1.1": "GET /a?sig=… HTTP/1.1",
    "SECRET:SECRET@host: permission denied": "…/host: permission denied",
    "cannot read data:text/csv;base64,SECRET at all": "cannot read data:… at all",
    "Authorization: Basic SECRET": "Authorization: …",
    "authorization: AWS4-HMAC-SHA256 Credential=SECRET, Signature=SECRET\nnext": "authorization: …\nnext",
    "{'Authorization': 'Bearer SECRET', 'Date': 'today'}": "{'Authorization': …, 'Date': 'today'}",
    "x-amz-security-token: SECRET": "x-amz-security-token: …",
    "sent Bearer SECRET.SECRET-SECRET": "sent Bearer …",
    "denied, or may require authorization: server says no": "denied, or may require authorization: server says no",
    "the bearer token is invalid": "the bearer token is invalid",
    'connection to "host=host password=SECRET" failed': 'connection to "host=host password=… failed',
    "PGPASSWORD=SECRET AWS_SECRET_ACCESS_KEY='SECRET SECRET' ls": "PGPASSWORD=… AWS_SECRET_ACCESS_KEY=… ls",
    "AccountName=name;AccountKey=SECRET==;EndpointSuffix=net": "AccountName=name;AccountKey=…",
    '{"password": "SECRET", "port": 5432}': '{"password": …, "port": 5432}',
    'could not translate host name "SECRET@host" to address': 'could not translate host name "host" to address',
    'invalid percent-encoded token: "SECRET%zz"': "invalid percent-encoded token: '…'",
    'invalid integer value "SECRET" for connection option "port"': "invalid integer value '…'",
    'missing "=" after "SECRET" in connection info string': "missing \"=\" after '…' in connection info string",
    "Port could not be cast to integer value as 'SECRET'": "Port could not be cast to integer value as '…'",
    "failed to resolve host 'SECRET@host': [Errno -2]": "failed to resolve host 'host': [Errno -2]",
    "Invalid port: 'SECRET'": "Invalid port: '…'",
    'connection to server at "host" (::1), port 5432 failed: FATAL:  no user "loader"': (
        'connection to server at "host" (::1), port 5432 failed: FATAL:  no user "loader"'
    ),
    'unexpected spaces found in "SE CRET", use %20': "unexpected spaces found in '…', use %20",
    'forbidden value %00 in percent-encoded value: "SECRET%00"': "forbidden value %00 in percent-encoded value: '…'",
    'invalid connection option "SECRET"': "invalid connection option '…'",
    "nox does not know '--postgres=password=SECRET host=h'": "nox does not know '--postgres=password=… host=h'",
    "/a@b.csv and C:\\a#b.csv: 2 rows, (event_id)=(7)": "/a@b.csv and C:\\a#b.csv: 2 rows, (event_id)=(7)",
}
MESSAGES_ABOUT = {  # a URI and a message about it, and how that is shown
    ("s3://KEY-SECRET:SE/SECRET@bucket/a.csv", 'Invalid bucket name "KEY-SECRET:SE": …'): (
        'Invalid bucket name "…:SE": …'
    ),
    ("s3://KEY-SECRET:SECRET/a", 'Invalid bucket name "KEY-SECRET:SECRET"'): 'Invalid bucket name "…:…"',
    ("s3://bucket/a.csv?X-Sig=SECRET", "no endpoint http://h/bucket/a.csv%3FX-Sig%3DSECRET"): (
        "no endpoint http://h/bucket/a.csv%3FX-Sig%3D…"
    ),
    ("http://h/a.csv?sig=x%2FSECRET", "Cannot GET a.csv, sig x/SECRET"): "Cannot GET a.csv, sig …",
    ("http://h/a.csv?SECRET", "403 Forbidden for SECRET"): "403 Forbidden for …",
    ("http://u:p@SECRET/x@h/a.csv", "Cannot connect to host secret:80 ssl:default"): (
        "Cannot connect to host …:80 ssl:default"
    ),
    ("https://h/a.csv?mode=own&x=ab", "down at own mode ab: a.csv of h"): "down at … mode ab: a.csv of h",
    ("/data/a.csv", "/data/a.csv: no such file"): "/data/a.csv: no such file",
    ("", "nothing: at all"): "nothing: at all",
}
USER = st.text("жщ.@/%+-_~!$*,;= ", max_size=9)
PASSWORD = st.text("жщ.@/%+-_~!$*,;= :?#&'\"()[]\\\n\0", max_size=12)
VALUE = st.text("жщ.@/%+-_~!$*,;= :?'\"()[]\\\n\0", min_size=1, max_size=12)
SCHEME = st.sampled_from(["https", "s3", "sftp", "postgresql", "simplecache::ftp", "zip://a.csv::https"])


@pytest.mark.parametrize(("uri", "expected"), URIS.items())
def test_a_uri_is_shown_without_secrets(uri: str, expected: str) -> None:
    assert SECRET not in expected
    assert shown(uri) == shown(expected) == expected


@pytest.mark.parametrize(("text", "expected"), [*MESSAGES.items(), *URIS.items()])
def test_a_message_is_shown_without_secrets(text: str, expected: str) -> None:
    if text in MESSAGES:
        assert without_secrets(text) == without_secrets(expected) == expected
    elif not set(text) & set(" \n"):  # which would end it
        assert SECRET not in without_secrets(f"It's «{text}»: cannot be read (403).")
        assert without_secrets(text).rstrip(".") == expected.rstrip(".")


@pytest.mark.parametrize(
    ("uri", "text", "expected"), [(*about, expected) for about, expected in MESSAGES_ABOUT.items()]
)
def test_a_message_about_a_uri_is_shown_without_its_parts(uri: str, text: str, expected: str) -> None:
    assert without_secrets(text, uri) == without_secrets(expected, uri) == expected


def test_logs_of_libraries_have_no_secrets(caplog: pytest.LogCaptureFixture) -> None:
    uri = "tar://a.csv::http://u:SECRET@h/x.tar?sig=SECRET#SECRET"
    with caplog.at_level(logging.INFO), clean_logs(uri):
        logging.getLogger("tar").info("Inferred compression %s from file name %s", None, uri)
        logging.getLogger("tar").info("%d of SECRET", 7)
        logging.getLogger("tar").info("rows: 7 %")
    logging.getLogger("tar").warning("%s", "SECRET")
    assert caplog.messages == [
        f"Inferred compression None from file name {shown(uri)}",
        "7 of …",
        "rows: 7 %",
        "SECRET",
    ]


@given(SCHEME, USER, PASSWORD)
def test_no_user_info_is_shown(scheme: str, user: str, password: str) -> None:
    for at in (f"ж{user}:{password}щ@", f"ж{user}:{password}@"):
        uri = shown(f"{scheme}://{at}host:1/a.csv")
        assert not set("жщ") & set(uri)
        assert uri.startswith(scheme)


@given(SCHEME, VALUE, st.sampled_from("?#"))
def test_no_value_is_shown(scheme: str, value: str, mark: str) -> None:
    assert shown(f"{scheme}://host/a.csv{mark}name={value}&also={value}") == (
        f"{scheme}://host/a.csv{mark}" + "&".join(f"{name}=…" if value.strip("=") else "…" for name in ("name", "also"))
    )


@given(SCHEME, USER, PASSWORD, VALUE, st.sampled_from(["'{}'", '"{}",', "({}).", "URL('{}')", "<{}>", "{}: {}", "{}"]))
def test_no_secret_of_any_message_is_shown(scheme: str, user: str, password: str, value: str, around: str) -> None:
    for secrets in (f"ж{user}:{password}щ@host/a", f"host/a?name=ж{value}щ", f"ж:{password}@host/a?b=щ{value}"):
        uri = f"{scheme}://{''.join(secrets.split())}"
        assert not set("жщ") & set(without_secrets(f"before {around.format(uri, 'after')}")), uri


@given(st.text(string.printable + "жü…", max_size=60))
def test_a_shown_uri_is_shown_unchanged(text: str) -> None:
    assert shown(shown(text)) == shown(text)


@pytest.mark.parametrize(
    "text", ["a" * 100_000, "a:" * 50_000, "://" * 30_000, "a@" * 50_000, "token" * 20_000, "::" * 50_000]
)
def test_long_texts_do_not_take_long(text: str) -> None:
    began = time.monotonic()
    assert without_secrets(text)
    assert time.monotonic() - began < 5


OTHER_SOURCES = """
    https://host/a.csv?X-Amz-Signature=2 https://host/a.csv https://host/b.csv?X-Amz-Signature=1
    https://host:8443/a@1.csv https://host:8443/a@2.csv s3://bucket//1@a.csv s3://bucket//2@a.csv
    s3://bucket/a#1.csv s3://bucket/a#2.csv /data/x:1@a.csv /data/x:2@a.csv
    zip://a.csv::https://host/a.zip zip://b.csv::https://host/a.zip
    zip://jan@x.csv::/data/z.zip zip://feb@x.csv::/data/z.zip
    abfs://one@account.dfs.core.windows.net/a.csv abfs://two@account.dfs.core.windows.net/a.csv
    github://org:one@main/a.csv github://org:two@main/a.csv
    https://host/get?u=https://jan@store/x.csv https://host/get?u=https://feb@store/x.csv
"""


def test_each_source_has_one_identity_whoever_logs_in() -> None:
    one, others = "https://host/a.csv?X-Amz-Signature=1", OTHER_SOURCES.split()
    ids = {source_id(uri) for uri in (one, *others)}
    assert len(ids) == len(others) + 1
    assert all(len(id_) == 32 and set(id_) <= set(string.hexdigits) for id_ in ids)
    for user_info in ("user@", "user:pass@", "user:p@ss@"):
        assert source_id(one.replace("//", f"//{user_info}")) == source_id(one)
        assert source_id(f"zip://a.csv::https://{user_info}host/a.zip") in ids
    assert source_id("s3://KEY:S/T@bucket/a#1.csv") in ids
    assert source_id(one + "\udcff") not in ids

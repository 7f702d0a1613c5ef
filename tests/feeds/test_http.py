"""Files on web servers are read as curl reads them: through the environment's proxy, with the passwords of .netrc."""

import base64
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from feeds import errors
from feeds.source import digest
from harness.oracle.file_rows import rows
from tests.events_feed import EVENTS
from tests.feeds.common import HEADER, account, check_source
from tests.servers import Handler, serving, serving_folder

ELSEWHERE = "http://files.invalid/events.csv"
CONTENT = f"{HEADER}\n{account(1)}\n".encode()
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def basic(login: str) -> str:
    return "Basic " + base64.b64encode(login.encode()).decode()


class Proxy(Handler):
    """A proxy that has the file of ELSEWHERE, for those who log in if `login` is set."""

    login = ""

    def respond(self) -> None:
        if self.login and self.headers["Proxy-Authorization"] != basic(self.login):
            self.answer(407)
        else:
            self.answer(200 if self.path == ELSEWHERE else 404, CONTENT)


class Server(Handler):
    """A server that has the file for `user`, whose password is `p@ss é`."""

    def respond(self) -> None:
        self.answer(200 if self.headers["Authorization"] == basic("user:p@ss é") else 401, CONTENT)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)


@pytest.fixture
def proxy() -> Iterator[str]:
    with serving(Proxy) as address:
        yield address


@pytest.mark.parametrize(
    ("name", "value"),
    [("HTTP_PROXY", "http://{}"), ("http_proxy", "{}"), ("ALL_PROXY", "http://{}/"), ("http_proxy", "http://{}")],
)
def test_a_proxy(monkeypatch: pytest.MonkeyPatch, proxy: str, name: str, value: str) -> None:
    with pytest.raises(errors.SourceUnreadable):
        check_source(ELSEWHERE)
    monkeypatch.setenv(name, value.format(proxy))
    check_source(ELSEWHERE)
    assert digest(ELSEWHERE)[0] == len(CONTENT)
    assert len(list(rows(EVENTS, ELSEWHERE))) == 1


def test_a_proxy_with_a_password_that_no_error_shows(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setattr(Proxy, "login", "user:SECRET")
    monkeypatch.setenv("HTTP_PROXY", f"http://user:SECRET@{proxy}")
    check_source(ELSEWHERE)
    for address in (
        f"http://user:SECRET2@{proxy}",
        "http://user:SECRET@127.0.0.1:9",
        "socks5://user:SECRET@127.0.0.1:9",
    ):
        monkeypatch.setenv("HTTP_PROXY", address)
        with pytest.raises(errors.SourceUnreadable) as caught:
            check_source(ELSEWHERE)
        assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("bypassed", ["127.0.0.1", "*", "other,127.0.0.1"])
def test_hosts_without_a_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bypassed: str) -> None:
    (tmp_path / "events.csv").write_bytes(CONTENT)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with serving_folder(tmp_path) as address:
        with pytest.raises(errors.SourceUnreadable):
            check_source(f"{address}/events.csv")
        monkeypatch.setenv("NO_PROXY", bypassed)
        check_source(f"{address}/events.csv")


def test_the_passwords_of_netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with serving(Server) as address:
        uri = f"http://{address}/events.csv"
        with pytest.raises(errors.SourceUnreadable, match="401"):
            check_source(uri)
        (tmp_path / ".netrc").write_text('machine 127.0.0.1 login user password "p@ss é"\n')
        check_source(uri)
        assert len(list(rows(EVENTS, uri))) == 1
        with pytest.raises(errors.SourceUnreadable, match="401"):
            check_source(f"http://somebody:else@{address}/events.csv")  # the URI's own come first
        (tmp_path / ".netrc").rename(tmp_path / "mine")
        monkeypatch.setenv("NETRC", str(tmp_path / "mine"))
        check_source(uri)


def test_a_redirect_to_another_host_gets_no_password(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text('machine 127.0.0.1 login user password "p@ss é"\n')

    class Redirect(Handler):
        def respond(self) -> None:
            assert self.headers["Authorization"]
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{other.rpartition(':')[2]}/events.csv")
            self.end_headers()

    with serving(Server) as other, serving(Redirect) as address:
        check_source(f"http://{other}/events.csv")
        with pytest.raises(errors.SourceUnreadable, match="401"):
            check_source(f"http://{address}/events.csv")


def test_a_netrc_that_cannot_be_read_is_named_and_not_quoted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 SECRET")
    (tmp_path / "events.csv").write_bytes(CONTENT)
    with serving_folder(tmp_path) as address:
        check_source(f"{address}/events.csv")
    assert set(caplog.messages) == {f"{tmp_path}/.netrc cannot be read, so it gives no password for 127.0.0.1"}

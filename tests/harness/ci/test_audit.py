"""The audit of the locks, by the real pip-audit, with a database of vulnerabilities on loopback."""

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from harness.ci import audit
from harness.project import settings
from tests.servers import Handler, serving

HASH = f"--hash=sha256:{'0' * 64}"
KNOWN = {
    "id": "GHSA-aaaa-bbbb-cccc",
    "aliases": ["CVE-2026-1"],
    "summary": "It does what it should not.",
    "affected": [
        {
            "package": {"name": "demo", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }
    ],
}


@pytest.fixture
def locks(tmp_path: Path) -> Path:
    for name, packages in {"one": ["demo==1.0", "other==2.0"], "constraints": ["demo==0.1"]}.items():
        (tmp_path / f"{name}.txt").write_text("".join(f"{package} {HASH}\n" for package in packages))
    return tmp_path


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give the address of a server that knows a vulnerability of the package demo."""

    class Database(Handler):
        def respond(self) -> None:
            asked = json.loads(self.posted())
            answer: dict[str, Any] = {"vulns": [KNOWN]} if asked["package"]["name"] == "demo" else {}
            self.answer(200, json.dumps(answer).encode())

    monkeypatch.setenv("no_proxy", "*")
    with serving(Database) as address:
        yield f"http://{address}/v1/query"


def test_a_known_vulnerability_fails(database: str, locks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (locks / "two.txt").write_text(f"demo==1.0 {HASH}\n")
    assert audit.main(["--osv-url", database], locks) == 1
    printed = capsys.readouterr()
    [row] = [line.split() for line in printed.out.splitlines() if "CVE" in line]
    assert row == ["demo", "1.0", "CVE-2026-1", "1.1", "one,", "two"]
    assert printed.err.splitlines()[0] == (
        "✗ Known vulnerabilities of locked packages: 1, the first demo 1.0 CVE-2026-1."
    )
    assert len(printed.err.splitlines()) == 3


def test_an_accepted_vulnerability_passes_until_its_date(
    monkeypatch: pytest.MonkeyPatch, database: str, locks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = {"until": date(9999, 1, 1), "reason": "nothing calls it"}
    monkeypatch.setitem(settings.settings(), "accepted-vulnerabilities", {KNOWN["id"]: entry})
    assert audit.main(["--osv-url", database], locks) == 0
    assert capsys.readouterr().out == "✓ no known vulnerability; locks: 1, accepted: 1\n"
    entry["until"] = date(2026, 1, 1)
    assert audit.main(["--osv-url", database], locks) == 1


@pytest.mark.parametrize("answer", [404, 500])
def test_a_database_that_does_not_know_is_no_pass(
    monkeypatch: pytest.MonkeyPatch, locks: Path, capsys: pytest.CaptureFixture[str], answer: int
) -> None:
    class Broken(Handler):
        def respond(self) -> None:
            self.send_error(answer)

    monkeypatch.setenv("no_proxy", "*")
    with serving(Broken) as address:
        assert audit.main(["--osv-url", f"http://{address}/v1/query"], locks) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("✗ pip-audit cannot check one.txt: ")
    assert len(lines) == 3


def test_a_package_that_is_not_looked_up_is_no_pass(monkeypatch: pytest.MonkeyPatch, locks: Path) -> None:
    output = {"dependencies": [{"name": "demo", "skip_reason": "demo not found on PyPI"}], "fixes": []}
    monkeypatch.setattr("subprocess.run", lambda *_, **__: type("Done", (), {"stdout": json.dumps(output)}))
    with pytest.raises(audit.AuditError, match="demo not found on PyPI"):
        audit.audit(locks / "one.txt", [], "")


def test_each_accepted_vulnerability_has_a_date_and_a_reason() -> None:
    for entry in settings.settings().get("accepted-vulnerabilities", {}).values():
        assert isinstance(entry["until"], date)
        assert entry["reason"]

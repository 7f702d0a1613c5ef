"""Tools: what is installed is used if it is new enough; what is fetched is the pinned file, or nothing."""

import hashlib
import io
import os
import platform
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from events.uri import shown
from harness.errors import DownloadError, HarnessError, ToolMissingError, UsageError
from harness.project import pins, tools
from tests.servers import Handler, serving

PROGRAM = b"#!/bin/sh\necho fetched\n"


@dataclass
class Served:
    """What a server on loopback has, and what it was asked for."""

    address: str
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    missing: int = 0  # so many bytes of each file are promised and not sent


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    class Files(Handler):
        def respond(self) -> None:
            mine.asked.append(f"{self.command} {self.path}")
            if (content := mine.files.get(self.path)) is None:
                self.send_error(404)
            else:
                self.answer(200, content, missing_bytes=mine.missing)

    monkeypatch.setenv("no_proxy", "*")
    with serving(Files) as address:
        mine = Served(f"http://{address}")
        yield mine


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give a PATH and a cache of this test alone."""
    for name in ("KIND", "KUBECTL", "HELM", "MINIKUBE"):
        monkeypatch.delenv(f"PLATFORM_{name}", raising=False)
        monkeypatch.delenv(f"PLATFORM_{name}_URL", raising=False)
    monkeypatch.setenv("PLATFORM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def install(path: Path, name: str, says: str, arguments: str = "", exit_code: int = 0) -> Path:
    """Put a program there that says SAYS if its ARGUMENTS are these; returns it."""
    program = path / name
    right = f'[ "$*" = "{arguments}" ] || exit 64' if arguments else ""
    program.write_text(f"#!/bin/sh\n{right}\nprintf '%s\\n' '{says}'\nexit {exit_code}\n")
    program.chmod(0o755)
    return program


def pin(
    monkeypatch: pytest.MonkeyPatch, served: Served, name: str, content: bytes, at: str = "/{version}/{name}"
) -> str:
    """Pin CONTENT as the tool NAME and return the path that it is fetched from."""
    mine = pins.tool(name) | {"sha256": {tools.machine(name): hashlib.sha256(content).hexdigest()}}
    real = pins.tool
    monkeypatch.setattr(pins, "tool", lambda told: mine if told == name else real(told))
    monkeypatch.setenv(f"PLATFORM_{name.upper()}_URL", served.address + at.replace("{name}", name))
    return tools.url_of(name).removeprefix(served.address)


def cached() -> list[str]:
    """Return every file and folder in the cache but the folders that a tool's version has."""
    return sorted(p.name for p in tools.cache().rglob("*") if p.is_file() or p.name.startswith("tmp"))


def lines_of(error: HarnessError) -> list[str]:
    return [line for line in str(error).splitlines() if line.strip()]


@pytest.mark.parametrize(
    ("name", "arguments", "says", "version"),
    [
        ("kind", "version", "kind v0.27.0 go1.24.4 linux/amd64", "0.27.0"),  # the minimum itself
        ("kubectl", "version --client", "Client Version: v1.34.5\nKustomize Version: v5.7.1", "1.34.5"),
        ("helm", "version --short", "v3.19.0+g3d8990f", "3.19.0"),
        ("helm", "version --short", "v3.99.9", "3.99.9"),
        ("minikube", "version --short", "v1.38.1", "1.38.1"),
    ],
)
def test_what_is_installed_and_new_enough_is_used(
    path: Path, name: str, arguments: str, says: str, version: str
) -> None:
    program = install(path, name, says, arguments)
    assert tools.version(name, program) == version
    assert tools.find(name) == program
    assert tools.can_be_had(name)
    assert not tools.cache().exists()


@pytest.mark.parametrize(
    ("name", "says", "exit_code"),
    [
        ("kind", "kind v0.26.9 go1.24.4 linux/amd64", 0),
        ("kubectl", "Client Version: v1.9.34", 0),  # older than 1.34, though not as text
        ("kubectl", "Client Version: unknown", 0),
        ("kind", "kind v0.33.0 go1.24.4 linux/amd64", 1),  # broken
    ],
)
def test_what_is_too_old_or_broken_is_replaced(
    monkeypatch: pytest.MonkeyPatch, served: Served, name: str, says: str, exit_code: int
) -> None:
    install(Path(os.environ["PATH"]), name, says, exit_code=exit_code)
    assert tools.installed(name) is None
    served.files[pin(monkeypatch, served, name, PROGRAM)] = PROGRAM
    assert subprocess.check_output([tools.find(name)], text=True) == "fetched\n"


def test_what_is_newer_than_was_tried_is_replaced(path: Path) -> None:
    install(path, "helm", "v4.0.0+gabcdef0")
    assert tools.installed("helm") is None


def test_a_program_that_is_named_is_used_whatever_its_version(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = install(path, "my-kind", "kind v0.1.0", exit_code=1)
    install(path, "kind", "kind v0.33.0")
    for named in (str(program), "my-kind"):
        monkeypatch.setenv("PLATFORM_KIND", named)
        assert tools.find("kind") == program


def test_a_name_that_is_no_program(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(path, "helm", "v4.0.1")
    program = install(path, "my-helm", "v4.0.1")
    program.chmod(0o644)
    monkeypatch.setenv("PLATFORM_HELM", str(program))
    for look in (tools.find, tools.can_be_had):
        with pytest.raises(ToolMissingError) as caught:
            look("helm")
        assert caught.value.what == f"PLATFORM_HELM names {program}, which is no program."
        assert (len(lines_of(caught.value)), caught.value.exit_code) == (3, 52)


def test_what_is_missing_is_fetched_once(monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    pin(monkeypatch, served, "kind", PROGRAM, "/{version}/{system}-{machine}/kind")
    system, _, machine = tools.machine("kind").partition("-")
    at = f"/{pins.tool('kind')['version']}/{system}-{machine}/kind"
    assert not tools.can_be_had("kind")
    served.files[at] = PROGRAM
    assert tools.can_be_had("kind")
    assert served.asked == [f"HEAD {at}"] * 2

    found = tools.find("kind")
    assert found == tools.cache() / "tools" / f"kind-{pins.tool('kind')['version']}" / "kind"
    assert subprocess.check_output([found], text=True) == "fetched\n"
    assert served.asked[2:] == [f"GET {at}"]
    assert tools.find("kind") == found
    assert tools.can_be_had("kind")
    assert len(served.asked) == 3
    assert cached() == ["kind"]


def test_an_archive_is_unpacked_whatever_its_address(monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in (("linux-amd64/README.md", b"read me"), ("linux-amd64/helm", PROGRAM)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    served.files[pin(monkeypatch, served, "helm", file.getvalue(), "/mirror/{version}/{name}")] = file.getvalue()
    assert subprocess.check_output([tools.find("helm")], text=True) == "fetched\n"
    with pytest.raises(DownloadError, match=r"The archive of kubectl has no file kubectl\."):
        tools.member(file.getvalue(), "kubectl")


def test_another_file_than_the_pinned_one_is_not_kept(monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    at = pin(monkeypatch, served, "kubectl", PROGRAM)
    served.files[at] = b"<html>Log in to the hotel</html>"
    with pytest.raises(DownloadError) as caught:
        tools.find("kubectl")
    wanted, found = (hashlib.sha256(content).hexdigest() for content in (PROGRAM, served.files[at]))
    url = served.address + at
    assert caught.value.what == f"{url} holds another file than the pinned one: SHA-256 {found}, not {wanted}."
    assert (len(lines_of(caught.value)), caught.value.exit_code) == (3, 53)
    assert cached() == []


@pytest.mark.parametrize("how", ["missing", "cut off", "gone", "no address"])
def test_what_cannot_be_fetched_is_said_in_three_lines(
    monkeypatch: pytest.MonkeyPatch, served: Served, how: str
) -> None:
    at = pin(monkeypatch, served, "kind", PROGRAM)
    says = {"missing": "404", "cut off": "closed", "gone": "refused", "no address": "nvalid"}[how]
    match how:
        case "cut off":
            served.files[at], served.missing = PROGRAM, 10
        case "gone":
            monkeypatch.setenv("PLATFORM_KIND_URL", "http://127.0.0.1:1/kind")
        case "no address":
            monkeypatch.setenv("PLATFORM_KIND_URL", "http://127.0.0.1:port/kind")
    with pytest.raises(DownloadError) as caught:
        tools.find("kind")
    assert caught.value.what.startswith(f"{shown(tools.url_of('kind'))} cannot be fetched: ")
    assert says in caught.value.what
    assert len(lines_of(caught.value)) == 3
    assert cached() == []
    assert tools.can_be_had("kind") is (how == "cut off")  # a HEAD does not see that


def test_a_download_has_a_deadline(monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    served.files[pin(monkeypatch, served, "kind", PROGRAM)] = PROGRAM
    monkeypatch.setattr(pins, "deadline_s", {"download": 0.0}.__getitem__)
    with pytest.raises(DownloadError, match="it takes longer than 0 s"):
        tools.find("kind")


def test_two_that_fetch_at_once_do_not_meet(monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    served.files[pin(monkeypatch, served, "kind", PROGRAM)] = PROGRAM
    both = threading.Barrier(2)
    real = tools.put

    def put(*args: Any, **options: Any) -> None:
        both.wait(10)  # neither saw what the other writes
        real(*args, **options)

    monkeypatch.setattr(tools, "put", put)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(tools.find, ["kind", "kind"])
    assert first == second
    assert first.read_bytes() == PROGRAM
    assert cached() == ["kind"]


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, served: Served, tmp_path: Path) -> None:
    served.files[pin(monkeypatch, served, "kind", PROGRAM)] = PROGRAM
    (tmp_path / "file").touch()
    monkeypatch.setenv("PLATFORM_CACHE", str(tmp_path / "file"))
    with pytest.raises(DownloadError) as caught:
        tools.find("kind")
    assert caught.value.what.endswith("/kind cannot be written: Not a directory.")
    assert caught.value.next_step == "Name another folder: PLATFORM_CACHE=/path/to/folder"


def test_a_pattern_with_a_name_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for pattern in ("https://mirror/{arch}/kind", "https://mirror/{/kind"):
        monkeypatch.setenv("PLATFORM_KIND_URL", pattern)
        with pytest.raises(UsageError, match="PLATFORM_KIND_URL is no pattern of an address"):
            tools.find("kind")


def test_a_machine_that_nothing_is_pinned_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(ToolMissingError) as caught:
        tools.find("kind")
    assert caught.value.what.startswith("kind is missing or older than 0.27.0, and none is pinned for ")
    assert caught.value.what.endswith("-riscv64.")
    assert caught.value.next_step == (
        f"Install kind {pins.tool('kind')['version']}, or name one: PLATFORM_KIND=/path/to/kind"
    )


@pytest.mark.parametrize("name", tools.PINNED)
def test_every_pin_names_its_platforms_and_their_files(name: str) -> None:
    told = pins.tool(name)
    assert sorted(told["sha256"]) == ["darwin-amd64", "darwin-arm64", "linux-amd64", "linux-arm64"]
    assert all(len(digest) == 64 and int(digest, 16) for digest in told["sha256"].values())
    assert len(set(told["sha256"].values())) == 4
    assert os.path.basename(told["url"]).startswith(name)  # noqa: PTH119 - it is a URL
    assert tools._numbers(told["version"]) >= tools._numbers(told["minimum"])

"""An installed tool is used if its version is supported; otherwise exactly the pinned file is downloaded."""

import dataclasses
import hashlib
import io
import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from feeds.uri import shown
from harness.errors import DownloadError, HarnessError, ToolMissingError, UsageError
from harness.project import pins, tools
from tests.servers import Handler, serving

PROGRAM = b"#!/bin/sh\necho downloaded\n"


@dataclass
class Served:
    """The files of a server on the loopback address, and the requests that it got."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    missing_bytes: int = 0  # of each file: promised and not sent
    together: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))  # of requests


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    served = Served()

    class Files(Handler):
        def respond(self) -> None:
            served.requests.append(f"{self.command} {self.path}")
            served.together.wait(10)
            if (content := served.files.get(self.path)) is None:
                self.send_error(404)
            else:
                self.answer(200, content, missing_bytes=served.missing_bytes)

    monkeypatch.setenv("no_proxy", "*")
    with serving(Files) as address:
        served.address = f"http://{address}"
        yield served


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Set PATH to an empty folder, and the cache to one that does not exist."""
    for name in tools.VERSION_ARGUMENTS:
        monkeypatch.delenv(f"PLATFORM_{name.upper()}", raising=False)
        monkeypatch.delenv(f"PLATFORM_{name.upper()}_URL", raising=False)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.setenv("PLATFORM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def install(path: Path, name: str, output: str, arguments: str = "", exit_code: int = 0) -> Path:
    """Write a program that prints OUTPUT, if it gets ARGUMENTS, and return it."""
    program = path / name
    check = f'[ "$*" = "{arguments}" ] || exit 64' if arguments else ""
    program.write_text(f"#!/bin/sh\n{check}\nprintf '%s\\n' '{output}'\nexit {exit_code}\n")
    program.chmod(0o755)
    return program


def pinned(served: Served, name: str, content: bytes = PROGRAM, path: str = "/{version}/tool") -> tuple[pins.Tool, str]:
    """Return a pin of CONTENT at the server's PATH, and the path for this machine."""
    pin = pins.tool(name)
    sha256 = {tools.platform_of(pin): hashlib.sha256(content).hexdigest()}
    pin = dataclasses.replace(pin, url=served.address + path, sha256=sha256)
    return pin, tools.url_of(name, pin).removeprefix(served.address)


def cached() -> list[str]:
    """Return the names of all files, and of temporary folders, in the cache."""
    return sorted(p.name for p in tools.cache().rglob("*") if p.is_file() or p.name.startswith("tmp"))


def lines_of(error: HarnessError) -> list[str]:
    return [line for line in str(error).splitlines() if line.strip()]


@pytest.mark.parametrize(
    ("name", "arguments", "output", "version"),
    [
        ("kind", "version", "kind v0.27.0 go1.24.4 linux/amd64", "0.27.0"),  # the minimum itself
        ("kubectl", "version --client", "Client Version: v1.34.5\nKustomize Version: v5.7.1", "1.34.5"),
        ("helm", "version --short", "v3.19.0+g3d8990f", "3.19.0"),
        ("helm", "version --short", "v4.3.1+gc0d08d0", "4.3.1"),
        ("minikube", "version --short", "v1.38.1", "1.38.1"),
    ],
)
def test_an_installed_program_of_a_supported_version_is_used(
    path: Path, name: str, arguments: str, output: str, version: str
) -> None:
    program = install(path, name, output, arguments)
    assert tools.version(name, program) == version
    assert tools.find(name) == program
    assert tools.is_available(name)
    assert not tools.cache().exists()


@pytest.mark.parametrize(
    ("name", "output", "exit_code"),
    [
        ("kind", "kind v0.26.9 go1.24.4 linux/amd64", 0),
        ("kubectl", "Client Version: v1.9.34", 0),  # older than 1.34 as a number, newer as text
        ("kubectl", "Client Version: unknown", 0),
        ("kind", "kind v0.33.0 go1.24.4 linux/amd64", 1),  # broken
        ("helm", "v5.0.0+gabcdef0", 0),  # too new
    ],
)
def test_an_installed_program_of_another_version_is_not_used(
    served: Served, path: Path, name: str, output: str, exit_code: int
) -> None:
    install(path, name, output, exit_code=exit_code)
    assert tools.installed(name) is None
    pin, at = pinned(served, name)
    served.files[at] = PROGRAM
    assert subprocess.check_output([tools.find(name, pin)], text=True) == "downloaded\n"


def test_on_github_only_the_pinned_programs_are_used(
    monkeypatch: pytest.MonkeyPatch, served: Served, path: Path
) -> None:
    program = install(path, "kind", f"kind v{pins.tool('kind').version}")
    assert tools.find("kind") == program
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    pin, at = pinned(served, "kind")
    served.files[at] = PROGRAM
    assert tools.installed("kind") is None
    assert subprocess.check_output([tools.find("kind", pin)], text=True) == "downloaded\n"
    assert tools.installed("minikube") is None
    minikube = install(path, "minikube", "v1.39.0")
    assert tools.installed("minikube") == minikube  # it has no pin
    monkeypatch.setenv("ACT", "true")  # nox -s workflow: this machine's tools
    assert tools.find("kind", pin) == program
    monkeypatch.delenv("ACT")
    monkeypatch.setenv("PLATFORM_KIND", str(program))
    assert tools.find("kind", pin) == program


def test_which_program_is_used_is_said_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, served: Served, path: Path
) -> None:
    content = b"#!/bin/sh\necho v4.3.0+g1\n"
    pin, at = pinned(served, "helm", content)
    served.files[at] = content
    tools.find("helm", pin)
    assert tools.choice("helm") == "helm 4.3.0, pinned: none is installed"
    install(path, "helm", "v3.18.9")
    assert tools.choice("helm") == "helm 4.3.0, pinned: the installed 3.18.9 is older than 3.19.0"
    install(path, "helm", "v5.0.1")
    assert tools.choice("helm") == "helm 4.3.0, pinned: the installed 5.0.1 is not older than 5.0.0"
    program = install(path, "helm", "v3.19.0", exit_code=1)
    assert tools.choice("helm") == f"helm 4.3.0, pinned: {program} does not run"
    program = install(path, "helm", "v3.19.0")
    assert tools.choice("helm") == f"helm 3.19.0, {program}: 3.19.0 or newer is installed"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert tools.choice("helm") == "helm 4.3.0, pinned: on GitHub only the pinned one is used"
    monkeypatch.setenv("PLATFORM_HELM", str(install(path, "my-helm", "none")))
    assert tools.choice("helm") == f"helm of an unknown version, {path}/my-helm: named by PLATFORM_HELM"


def test_a_program_named_by_a_variable_is_used_whatever_its_version(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = install(path, "my-kind", "kind v0.1.0", exit_code=1)
    install(path, "kind", "kind v0.33.0")
    for named in (str(program), "my-kind"):
        monkeypatch.setenv("PLATFORM_KIND", named)
        assert tools.find("kind") == program


def test_a_variable_that_names_no_program_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(path, "helm", "v4.0.1")
    program = install(path, "my-helm", "v4.0.1")
    program.chmod(0o644)
    monkeypatch.setenv("PLATFORM_HELM", str(program))
    for call in (tools.find, tools.is_available):
        with pytest.raises(ToolMissingError) as caught:
            call("helm")
        assert caught.value.what == f"PLATFORM_HELM names {program}, which is not a program."
        assert (len(lines_of(caught.value)), caught.value.exit_code) == (3, 52)


def test_a_missing_program_is_downloaded_once(served: Served) -> None:
    pin, at = pinned(served, "kind", path="/{version}/{system}-{machine}/kind")
    assert at == f"/{pin.version}/{tools.platform_of(pin)}/kind"
    assert not tools.is_available("kind", pin)
    served.files[at] = PROGRAM
    assert tools.is_available("kind", pin)
    assert served.requests == [f"HEAD {at}"] * 2

    found = tools.find("kind", pin)
    assert found == tools.cache() / "tools" / f"kind-{pin.version}" / "kind"
    assert subprocess.check_output([found], text=True) == "downloaded\n"
    assert served.requests[2:] == [f"GET {at}"]
    assert tools.find("kind", pin) == found
    assert tools.is_available("kind", pin)
    assert len(served.requests) == 3
    assert cached() == ["kind"]


def test_an_archive_is_extracted_from_any_mirror(monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in (("linux-amd64/README.md", b"read me"), ("linux-amd64/helm", PROGRAM)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    pin, _ = pinned(served, "helm", file.getvalue(), "/helm.tar.gz")
    served.files[f"/mirror/{pin.version}/helm"] = file.getvalue()
    monkeypatch.setenv("PLATFORM_HELM_URL", served.address + "/mirror/{version}/helm")
    assert subprocess.check_output([tools.find("helm", pin)], text=True) == "downloaded\n"
    with pytest.raises(DownloadError, match=r"The archive of kubectl has no file kubectl\."):
        tools.extract(file.getvalue(), "kubectl")


def test_a_file_with_another_checksum_is_not_kept(served: Served) -> None:
    pin, at = pinned(served, "kubectl")
    served.files[at] = b"<html>Log in to the hotel</html>"
    with pytest.raises(DownloadError) as caught:
        tools.find("kubectl", pin)
    wanted, found = (hashlib.sha256(content).hexdigest() for content in (PROGRAM, served.files[at]))
    assert caught.value.what == f"{served.address}{at} is not the pinned file: SHA-256 {found}, not {wanted}."
    assert (len(lines_of(caught.value)), caught.value.exit_code) == (3, 53)
    assert cached() == []


@pytest.mark.parametrize(
    ("url", "is_cut_off", "message"),
    [
        ("", False, "404"),
        ("", True, "closed"),
        ("http://127.0.0.1:1/kind", False, "refused"),
        ("http://127.0.0.1:port/kind", False, "nvalid"),
    ],
)
def test_a_failed_download_is_explained_in_three_lines(
    monkeypatch: pytest.MonkeyPatch, served: Served, url: str, is_cut_off: bool, message: str
) -> None:
    pin, at = pinned(served, "kind")
    monkeypatch.setenv("PLATFORM_KIND_URL", url)
    if is_cut_off:
        served.files[at], served.missing_bytes = PROGRAM, 10
    with pytest.raises(DownloadError) as caught:
        tools.find("kind", pin)
    assert caught.value.what.startswith(f"{shown(tools.url_of('kind', pin))} cannot be downloaded: ")
    assert message in caught.value.what
    assert len(lines_of(caught.value)) == 3
    assert cached() == []
    assert tools.is_available("kind", pin) is is_cut_off  # a HEAD request does not notice that


def test_a_download_has_a_deadline(monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    pin, at = pinned(served, "kind")
    served.files[at] = PROGRAM
    monkeypatch.setenv("PLATFORM_DEADLINE_DOWNLOAD", "0")
    with pytest.raises(DownloadError, match="it takes longer than 0 s"):
        tools.find("kind", pin)


def test_two_downloads_of_the_same_file_at_once_both_succeed(served: Served) -> None:
    pin, at = pinned(served, "kind")
    served.files[at] = PROGRAM
    served.together = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: tools.find("kind", pin), range(2))
    assert first == second
    assert first.read_bytes() == PROGRAM
    assert cached() == ["kind"]


def test_a_cache_that_cannot_be_written_is_an_error(
    monkeypatch: pytest.MonkeyPatch, served: Served, tmp_path: Path
) -> None:
    pin, at = pinned(served, "kind")
    served.files[at] = PROGRAM
    (tmp_path / "file").touch()
    monkeypatch.setenv("PLATFORM_CACHE", str(tmp_path / "file"))
    with pytest.raises(DownloadError) as caught:
        tools.find("kind", pin)
    assert caught.value.what.endswith("/kind cannot be written: Not a directory.")
    assert caught.value.next_step == "Name another folder: PLATFORM_CACHE=/path/to/folder"


@pytest.mark.parametrize("pattern", ["https://mirror/{arch}/kind", "https://mirror/{/kind"])
def test_an_invalid_url_pattern_is_an_error(monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    monkeypatch.setenv("PLATFORM_KIND_URL", pattern)
    with pytest.raises(UsageError, match="PLATFORM_KIND_URL is not a valid URL pattern"):
        tools.find("kind")


def test_a_platform_without_a_pin_is_an_error() -> None:
    pin = dataclasses.replace(pins.tool("kind"), sha256={})
    with pytest.raises(
        ToolMissingError, match=r"^kind is missing or older than 0\.27\.0, and none is pinned for .*-"
    ) as e:
        tools.find("kind", pin)
    assert e.value.next_step == f"Install kind {pin.version}, or name one: PLATFORM_KIND=/path/to/kind"


@pytest.mark.parametrize("name", tools.PINNED)
def test_every_pin_has_a_file_for_each_platform(name: str) -> None:
    pin = pins.tool(name)
    assert sorted(pin.sha256) == ["darwin-amd64", "darwin-arm64", "linux-amd64", "linux-arm64"]
    assert all(len(digest) == 64 and int(digest, 16) for digest in pin.sha256.values())
    assert len(set(pin.sha256.values())) == 4
    assert os.path.basename(pin.url).startswith(name)  # noqa: PTH119 - it is a URL
    assert tools._numbers(pin.version) >= tools._numbers(pin.minimum)

"""Find kind, kubectl and helm: the ones that are installed, or the pinned ones, fetched once into a cache.

| variable | meaning |
| --- | --- |
| `PLATFORM_KIND`, `PLATFORM_KUBECTL`, `PLATFORM_HELM`, `PLATFORM_MINIKUBE` | the program to use, whatever its version |
| `PLATFORM_KIND_URL`, `PLATFORM_KUBECTL_URL`, `PLATFORM_HELM_URL` | where to fetch it instead; the checksum stays |
| `PLATFORM_CACHE` | where what is fetched is kept; `~/.cache/events-platform` by default |
"""

import hashlib
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import httpx

from events.uri import shown, without_secrets
from harness.errors import DownloadError, ToolMissingError, UsageError
from harness.project import pins

VERSION_ARGUMENTS = {
    "kind": ("version",),
    "kubectl": ("version", "--client"),
    "helm": ("version", "--short"),
    "minikube": ("version", "--short"),
}
PINNED = ("kind", "kubectl", "helm")
REACH_TIMEOUT_S = 10.0


def cache() -> Path:
    """Return the folder where what is fetched is kept."""
    return Path(os.environ.get("PLATFORM_CACHE") or Path.home() / ".cache" / "events-platform")


def find(name: str) -> Path:
    """Return the program NAME: the one that is named or installed, if it is new enough; else the pinned one, fetched.

    Raises:
        ToolMissingError: there is none for this machine.
        DownloadError: it cannot be fetched.
    """
    if path := installed(name):
        return path
    told = pins.tool(name)
    target = cache() / "tools" / f"{name}-{told['version']}" / name
    if not target.exists():
        print(f"… fetching {name} {told['version']}", flush=True)
        content = fetch(url_of(name), told["sha256"][machine(name)])
        put(target, member(content, name) if told["url"].endswith(".tar.gz") else content, mode=0o755)
    return target


def installed(name: str) -> Path | None:
    """Return the program NAME that the user names or has installed, or None where it is missing or too old.

    What is not pinned, minikube, may have any version.
    """
    variable = f"PLATFORM_{name.upper()}"
    if named := os.environ.get(variable):
        if path := shutil.which(named):
            return Path(path)
        raise ToolMissingError(
            f"{variable} names {named}, which is no program.",
            "It is most likely misspelt, or not executable.",
            f"Name another, or unset {variable} to use the installed or the pinned one.",
        )
    path = shutil.which(name)
    return Path(path) if path and (name not in PINNED or is_new_enough(name, Path(path))) else None


def is_new_enough(name: str, path: Path) -> bool:
    """Say whether the program at PATH runs here and has at least the minimum version, and not one that is too new."""
    found = version(name, path)
    if not found:
        return False
    told = pins.tool(name)
    return _numbers(told["minimum"]) <= _numbers(found) < _numbers(told.get("below", "999"))


def version(name: str, path: Path) -> str:
    """Return the version of the program at PATH, `0.33.0` for example; empty if it does not run or prints none."""
    argv = [str(path), *VERSION_ARGUMENTS[name]]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    found = re.search(r"v?(\d+\.\d+\.\d+)", done.stdout)
    return found[1] if found else ""


def machine(name: str) -> str:
    """Return this machine's name in `versions.toml`, `linux-amd64` say.

    Raises:
        ToolMissingError: no program NAME is pinned for it.
    """
    processor = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
    told = f"{sys.platform}-{processor.get(platform.machine().lower(), platform.machine())}"
    if told not in pins.tool(name)["sha256"]:
        raise ToolMissingError(
            f"{name} is missing or older than {pins.tool(name)['minimum']}, and none is pinned for {told}.",
            "The pins cover Linux and macOS on amd64 and arm64.",
            f"Install {name} {pins.tool(name)['version']}, or name one: PLATFORM_{name.upper()}=/path/to/{name}",
        )
    return told


def url_of(name: str) -> str:
    """Return where the pinned program NAME is fetched from.

    Raises:
        UsageError: the user's pattern has a name that there is not.
    """
    system, _, processor = machine(name).partition("-")
    told = pins.tool(name)
    variable = f"PLATFORM_{name.upper()}_URL"
    pattern = os.environ.get(variable) or str(told["url"])
    try:
        return pattern.format(version=told["version"], system=system, machine=processor)
    except (LookupError, ValueError) as error:
        raise UsageError(
            f"{variable} is no pattern of an address: {shown(pattern)}",
            "In braces there may be version, system and machine, and nothing else.",
            f"Write the address in full: {variable}=https://…/{name}",
        ) from error


def can_be_had(name: str) -> bool:
    """Say whether `find` will most likely succeed; nothing is fetched."""
    if installed(name) or (cache() / "tools" / f"{name}-{pins.tool(name)['version']}" / name).exists():
        return True
    return is_reached(url_of(name))


def is_reached(url: str) -> bool:
    """Say whether a server answers for URL."""
    try:
        return httpx.head(url, timeout=REACH_TIMEOUT_S, follow_redirects=True).status_code < 400
    except (httpx.HTTPError, httpx.InvalidURL):
        return False


def fetch(url: str, sha256: str) -> bytes:
    """Return what URL holds.

    Raises:
        DownloadError: it does not answer, or the content's SHA-256 is another.
    """
    deadline = time.monotonic() + pins.deadline_s("download")
    content = bytearray()
    try:
        as_it_is = {"Accept-Encoding": "identity"}  # the checksum is of the file, not of what an encoding hides
        with httpx.stream("GET", url, headers=as_it_is, timeout=REACH_TIMEOUT_S, follow_redirects=True) as answer:
            answer.raise_for_status()
            for part in answer.iter_raw():
                content += part
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout(f"it takes longer than {pins.deadline_s('download'):.0f} s")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        said = without_secrets(str(error).partition("\n")[0])
        raise DownloadError(
            f"{shown(url)} cannot be fetched: {said or type(error).__name__}",
            "This machine most likely does not reach that server.",
            "Install it by hand, or name a mirror: docs/operations.md, “Overriding a pin”.",
        ) from error
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise DownloadError(
            f"{shown(url)} holds another file than the pinned one: SHA-256 {found}, not {sha256}.",
            "A proxy answered instead, or the file was replaced.",
            "Do not use it; look at what that address holds.",
        )
    return bytes(content)


def member(archive: bytes, name: str) -> bytes:
    """Return the file NAME out of a .tar.gz, in whatever folder it is."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for info in tar:
            if info.isfile() and Path(info.name).name == name and (file := tar.extractfile(info)):
                return file.read()
    raise DownloadError(f"The archive of {name} has no file {name}.", "Its layout has changed.", "Look at the archive.")


def put(target: Path, content: bytes, mode: int = 0o644) -> None:
    """Write TARGET whole or not at all, whoever else writes it at the same time.

    Raises:
        DownloadError: it cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as directory:
            complete = Path(directory) / target.name
            complete.write_bytes(content)
            complete.chmod(mode)
            complete.replace(target)
    except OSError as error:
        raise DownloadError(
            f"{target} cannot be written: {error.strerror}.",
            "The folder is most likely read-only, or the disk is full.",
            "Name another folder: PLATFORM_CACHE=/path/to/folder",
        ) from error


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split(".") if number.isdecimal())

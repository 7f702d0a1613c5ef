"""Find kind, kubectl and helm: the installed ones, or the pinned ones, downloaded once into a cache.

On GitHub only the pinned ones are used: a runner's own change from week to week.
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

from feeds.uri import shown, without_secrets
from harness.errors import DownloadError, ToolMissingError, UsageError
from harness.project import pins

VERSION_ARGUMENTS = {
    "kind": ("version",),
    "kubectl": ("version", "--client"),
    "helm": ("version", "--short"),
    "minikube": ("version", "--short"),
}
PINNED = ("kind", "kubectl", "helm")
CONNECT_TIMEOUT_S = 10.0


def cache() -> Path:
    """Return the folder for downloads."""
    return Path(os.environ.get("PLATFORM_CACHE") or Path.home() / ".cache" / "events-platform")


def find(name: str, pin: pins.Tool | None = None) -> Path:
    """Return the program NAME, installed or PIN's, downloaded; may raise ToolMissingError or DownloadError."""
    return installed(name) or pinned(pin or pins.tool(name))


def pinned(pin: pins.Tool) -> Path:
    """Return PIN's program, downloaded if the cache does not have it; may raise ToolMissingError or DownloadError."""
    path = _cached(pin)
    if not path.exists():
        print(f"… downloading {pin.name} {pin.version}", flush=True)
        content = fetch(url_of(pin.name, pin), pin.sha256[platform_of(pin)])
        write_atomically(path, extract(content, pin.name) if pin.url.endswith(".tar.gz") else content, mode=0o755)
    return path


def installed(name: str) -> Path | None:
    """Return the program that PLATFORM_<NAME> names, else the one on the path, or None if its version is not supported.

    Any version of minikube, which is not pinned, is supported. Raises ToolMissingError if the variable names none.
    """
    variable = f"PLATFORM_{name.upper()}"
    if named := os.environ.get(variable):
        if path := shutil.which(named):
            return Path(path)
        raise ToolMissingError(
            f"{variable} names {named}, which is not a program.",
            "It is most likely misspelt, or not executable.",
            f"Name another, or unset {variable} to use the installed or the pinned one.",
        )
    path = shutil.which(name)
    return Path(path) if path and not (name in PINNED and why_pinned(name)) else None


def why_pinned(name: str) -> str:
    """Return why the pinned program NAME is used and not the one on the path; empty if that one is supported."""
    if pins.alone_count():
        return "on GitHub only the pinned one is used"
    if not (path := shutil.which(name)):
        return "none is installed"
    if not (found := version(name, Path(path))):
        return f"{path} does not run"
    pin = pins.tool(name)
    if _numbers(found) < _numbers(pin.minimum):
        return f"the installed {found} is older than {pin.minimum}"
    return "" if _numbers(found) < _numbers(pin.below) else f"the installed {found} is not older than {pin.below}"


def choice(name: str) -> str:
    """Return which program NAME is used, and why: `helm 4.3.0, pinned: none is installed`; may raise like `find`."""
    found = version(name, path := find(name)) or "of an unknown version"
    if os.environ.get(f"PLATFORM_{name.upper()}"):
        return f"{name} {found}, {path}: named by PLATFORM_{name.upper()}"
    if why := why_pinned(name):
        return f"{name} {found}, pinned: {why}"
    return f"{name} {found}, {path}: {pins.tool(name).minimum} or newer is installed"


def typed(path: Path) -> str:
    """Return the program at PATH as a user types it: by its name if that finds it."""
    return path.name if shutil.which(path.name) == str(path) else str(path)


def version(name: str, path: Path) -> str:
    """Return the version of the program at PATH, `0.33.0` for example; empty if it does not run or prints none."""
    argv = [str(path), *VERSION_ARGUMENTS[name]]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    found = re.search(r"v?(\d+\.\d+\.\d+)", done.stdout)
    return found[1] if found else ""


def platform_of(pin: pins.Tool) -> str:
    """Return this machine's name in `cluster/versions.toml`, `linux-amd64`; raise ToolMissingError if PIN lacks it."""
    processors = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
    found = f"{sys.platform}-{processors.get(platform.machine().lower(), platform.machine())}"
    if found not in pin.sha256:
        raise ToolMissingError(
            f"{pin.name} is missing or older than {pin.minimum}, and none is pinned for {found}.",
            "The pins cover Linux and macOS on amd64 and arm64.",
            f"Install {pin.name} {pin.version}, or name one: PLATFORM_{pin.name.upper()}=/path/to/{pin.name}",
        )
    return found


def url_of(name: str, pin: pins.Tool | None = None) -> str:
    """Return the URL of the pinned program NAME; raise UsageError if PLATFORM_<NAME>_URL has an unknown name in it."""
    pin = pin or pins.tool(name)
    system, _, processor = platform_of(pin).partition("-")
    variable = f"PLATFORM_{name.upper()}_URL"
    pattern = os.environ.get(variable) or pin.url
    try:
        return pattern.format(version=pin.version, system=system, machine=processor)
    except (LookupError, ValueError) as error:
        raise UsageError(
            f"{variable} is not a valid URL pattern: {shown(pattern)}",
            "Only {version}, {system} and {machine} may be in braces.",
            f"Write the whole URL: {variable}=https://…/{name}",
        ) from error


def is_available(name: str, pin: pins.Tool | None = None) -> bool:
    """Return whether `find` will most likely succeed; downloads nothing."""
    if installed(name):
        return True
    pin = pin or pins.tool(name)
    return _cached(pin).exists() or responds(url_of(name, pin))


def responds(url: str) -> bool:
    """Return whether a server has a file at URL."""
    try:
        return httpx.head(url, timeout=CONNECT_TIMEOUT_S, follow_redirects=True).status_code < 400
    except (httpx.HTTPError, httpx.InvalidURL):
        return False


def fetch(url: str, sha256: str) -> bytes:
    """Return the content of URL; raise DownloadError if it cannot be downloaded, or has another SHA-256."""
    timeout_s = pins.deadline_s("download")
    deadline = time.monotonic() + timeout_s
    content = bytearray()
    try:
        headers = {"Accept-Encoding": "identity"}  # the checksum is of the file, not of a compressed form
        with httpx.stream("GET", url, headers=headers, timeout=CONNECT_TIMEOUT_S, follow_redirects=True) as answer:
            answer.raise_for_status()
            for part in answer.iter_raw():
                content += part
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout(f"it takes longer than {timeout_s:.0f} s")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        message = without_secrets(str(error).partition("\n")[0])
        raise DownloadError(
            f"{shown(url)} cannot be downloaded: {message or type(error).__name__}",
            "This machine most likely does not reach that server.",
            "Install it by hand, or name a mirror: docs/pins.md, “Overriding a pin”.",
        ) from error
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise DownloadError(
            f"{shown(url)} is not the pinned file: SHA-256 {found}, not {sha256}.",
            "A proxy answered instead, or the file was replaced.",
            "Do not use it; look at what that URL returns.",
        )
    return bytes(content)


def extract(archive: bytes, name: str) -> bytes:
    """Return the file NAME of a .tar.gz, from whatever folder it is in."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for info in tar:
            if info.isfile() and Path(info.name).name == name and (file := tar.extractfile(info)):
                return file.read()
    raise DownloadError(f"The archive of {name} has no file {name}.", "Its layout has changed.", "Look at the archive.")


def write_atomically(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write the whole file or nothing, even beside others that write it; raise DownloadError if that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as directory:
            complete = Path(directory) / path.name
            complete.write_bytes(content)
            complete.chmod(mode)
            complete.replace(path)
    except OSError as error:
        raise DownloadError(
            f"{path} cannot be written: {error.strerror}.",
            "The folder is most likely read-only, or the disk is full.",
            "Name another folder: PLATFORM_CACHE=/path/to/folder",
        ) from error


def _cached(pin: pins.Tool) -> Path:
    return cache() / "tools" / f"{pin.name}-{pin.version}" / pin.name


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split(".") if number.isdecimal())

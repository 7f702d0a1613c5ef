"""The things a test may need of the machine: how each is looked for, and how to get it. See `harness.ci.pytest_needs`.

Each is looked for once per process, and only if a test needs it.
"""

import contextlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path

from feeds.uri import shown
from harness.docker import engine
from harness.errors import CommandFailedError, EngineMissingError, HarnessError, TooSmallError
from harness.kubernetes import chart
from harness.processes.command import run
from harness.project import pins, pythons, tools
from harness.project.paths import ROOT

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")  # programs
SYSTEM_PROGRAMS = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # not on the path of an ordinary user


class UnknownNeedError(Exception):
    """A need's name is unknown; the message is one sentence."""


@dataclass(frozen=True)
class Need:
    """Something that a machine may have or not.

    Attributes:
        title: its name in messages.
        advice: how to get it.
        find_problem: returns in a few words why it is missing; empty if it is not.
        requires: the needs without which this one is not looked for.
    """

    title: str
    advice: str
    find_problem: Callable[[], str]
    requires: tuple[str, ...] = ()

    @cached_property
    def missing(self) -> str:
        """Why it is missing and how to get it, in one line; empty if it is not missing."""
        problem = self.find_problem()
        return f"{self.title}: {problem}; {self.advice}" if problem else ""


def program(name: str) -> str | None:
    """Return a program's path: on PATH or in the system's folders; None if it is in neither."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(SYSTEM_PROGRAMS))


def no_program(name: str) -> str:
    """Look for a program."""
    return "" if program(name) else "it is not installed"


def browser() -> str | None:
    """Return the path of a browser of the Chromium family; None if there is none."""
    return next(filter(None, map(program, BROWSERS)), None)


def no_prometheus() -> str:
    """Look for Prometheus, and for the program that tests rules."""
    return next(filter(None, map(no_program, ("prometheus", "promtool"))), "")


def no_engine() -> str:
    """Look for an engine."""
    try:
        engine.info()
    except EngineMissingError:
        return f"none answers at {engine.address()}"
    return ""


def no_room() -> str:
    """Check that the engine has the memory and disk for a cluster."""
    try:
        engine.check_size()
    except TooSmallError as error:
        return error.what.removesuffix(".")
    return ""


def no_image(pin: str) -> str:
    """Look for a pinned image, and pull it if it is missing."""
    name = pins.image(pin)
    if engine.has_image(name) or succeeds("docker", "pull", "--quiet", name, timeout_s=pins.deadline_s("pull")):
        return ""
    return f"{name} is not in the engine and cannot be pulled"


def no_tool(name: str) -> str:
    """Look for a program that the harness finds or downloads."""
    return "" if tools.is_available(name) else f"it is not installed, and {shown(tools.url_of(name))} does not answer"


def helm(major: int) -> Path | None:
    """Return a Helm of the version MAJOR, for tests: the one that is used, `helm3` or `helm4` on the path, the pin."""
    for name in (os.environ.get("PLATFORM_HELM") or "helm", f"helm{major}"):
        if (path := shutil.which(name)) and tools.version("helm", Path(path)).startswith(f"{major}."):
            return Path(path)
    if (pin := pins.tool("helm")).version.startswith(f"{major}."):
        with contextlib.suppress(HarnessError):
            return tools.pinned(pin)
    return None


def no_helm(major: int) -> str:
    """Look for a Helm of the version MAJOR."""
    return "" if helm(major) else "none was found"


def no_mount() -> str:
    """Check that this process can mount and unmount a file system."""
    if sys.platform != "linux":
        return "this is not Linux"
    with tempfile.TemporaryDirectory() as directory:
        if not succeeds("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", directory):
            return "this machine does not let root mount"
        return "" if succeeds("umount", "--lazy", directory) else f"{directory} cannot be unmounted"


def no_history() -> str:
    """Check that this folder is a clone that git can read."""
    try:
        folder, *_ = run("git", "-C", ROOT, "rev-parse", "--show-toplevel", "--verify", "HEAD").splitlines()
    except CommandFailedError as error:
        found = re.search(r"^fatal: (.*)", error.output, re.MULTILINE)
        return f"git does not read this folder ({found[1] if found else error.what})"
    return "" if Path(folder) == ROOT.resolve() else f"this folder is part of another repository, {folder}"


def succeeds(*argv: str, timeout_s: float = 30.0) -> bool:
    """Return whether a program runs and succeeds."""
    with contextlib.suppress(CommandFailedError):
        run(*argv, timeout_s=timeout_s)
        return True
    return False


NEEDS = {
    "docker": Need(
        "the docker command", "install Docker: https://docs.docker.com/engine/install", lambda: no_program("docker")
    ),
    "engine": Need("a Docker engine", "start it, or name another in DOCKER_HOST", no_engine, ("docker",)),
    "room": Need("room for a cluster", "give the engine more memory or disk space", no_room, ("engine",)),
    **{
        f"{pin}-image": Need(
            f"the image {pin}", f"load it, or name another in {pins.variable(pin)}", partial(no_image, pin), ("engine",)
        )
        for pin in ("postgres", *pins.FOR_METRICS)
    },
    "buildx": Need(
        "buildx",
        "apt-get install docker-buildx, or see https://docs.docker.com/go/buildx",
        lambda: "" if succeeds("docker", "buildx", "version") else "the docker command has no such plugin",
        ("docker",),
    ),
    "helm": Need("helm", "install it, or name it in PLATFORM_HELM", lambda: no_tool("helm")),
    "helm3": Need("Helm 3", "put one on the path as helm3", partial(no_helm, 3)),
    "helm4": Need("Helm 4", "put one on the path as helm4", partial(no_helm, 4)),
    "kubectl": Need("kubectl", "install it, or name it in PLATFORM_KUBECTL", lambda: no_tool("kubectl")),
    "chart": Need(
        "Airflow's chart",
        "name its archive in PLATFORM_CHART",
        lambda: "" if chart.is_available() else f"it cannot be downloaded from {shown(chart.source())}",
    ),
    "chromium": Need(
        "Chromium or Chrome", "apt-get install chromium", lambda: "" if browser() else "none is installed"
    ),
    "prometheus": Need("Prometheus and its promtool", "apt-get install prometheus", no_prometheus),
    "root": Need("root", "run it as root", lambda: "this is an ordinary user" if os.geteuid() else ""),
    "mount": Need("the right to mount", "give this container CAP_SYS_ADMIN", no_mount, ("root",)),
    "git": Need("git", "apt-get install git", lambda: no_program("git")),
    "history": Need("git's history", "clone the repository with git", no_history, ("git",)),
    "registry": Need("a registry's program", "apt-get install docker-registry", lambda: no_program("docker-registry")),
    "pgbouncer": Need("pgbouncer", "apt-get install pgbouncer", lambda: no_program("pgbouncer")),
}


@cache
def find(name: str) -> Need:
    """Return the need NAME: one of NEEDS, or a Python, `python3.11.2` for example; else raise UnknownNeedError."""
    if match := re.fullmatch(r"python(3\.\d+\.\d+)", name):
        version = match[1]
        how = f"put one on the path: https://www.python.org/downloads/release/python-{version.replace('.', '')}"
        return Need(f"Python {version}", how, lambda: "" if version in pythons.found() else "it was not found")
    if name not in NEEDS:
        raise UnknownNeedError(f"Unknown need {name!r}; the needs are: {', '.join(NEEDS)}, python3.11.2 …")
    return NEEDS[name]


def expand(names: Iterable[str]) -> list[str]:
    """Return NAMES, each after the needs that it requires; raise UnknownNeedError for an unknown one."""

    def walk(names: Iterable[str]) -> Iterator[str]:
        for name in names:
            yield from walk(find(name).requires)
            yield name

    return list(dict.fromkeys(walk(names)))


def missing(names: Iterable[str]) -> list[str]:
    """Return a line for each of NAMES, expanded, that is missing; none for one that requires a missing one."""
    lines: dict[str, str] = {}
    for name in expand(names):
        if lines.keys() & set(find(name).requires):
            lines[name] = ""
        elif line := find(name).missing:
            lines[name] = line
    return [line for line in lines.values() if line]

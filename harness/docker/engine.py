"""Talk to the Docker engine, with the docker command."""

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

from events.uri import shown
from harness.errors import (
    LET_IT_SPEAK_HTTP,
    SPEAKS_HTTP,
    CommandFailedError,
    DiskFullError,
    EngineMissingError,
    ImageMissingError,
    TooSmallError,
)
from harness.processes.command import run
from harness.processes.failures import disk_full
from harness.processes.supervisor import Supervisor
from harness.project import pins

ANSWER_TIMEOUT_S = 10.0
MIN_MEMORY_BYTES = 5_000_000_000
MIN_FREE_BYTES = 6_000_000_000


def info() -> dict[str, Any]:
    """Return what the engine says about itself.

    Raises:
        EngineMissingError: none answers, or the docker command is missing.
    """
    if not shutil.which("docker"):
        raise EngineMissingError(
            "The docker command is not installed.",
            "The cluster's nodes are containers, and kind makes them with it.",
            "Install Docker, or run without it: nox -s e2e -- --target embedded",
        )
    try:
        told: dict[str, Any] = json.loads(run("docker", "info", "--format", "json", timeout_s=ANSWER_TIMEOUT_S))
    except (CommandFailedError, ValueError):
        told = {}
    if not told.get("ServerVersion"):
        raise EngineMissingError(
            f"The cluster needs a Docker engine, and none answers at {address()}.",
            "It is most likely not running, or you may not use it.",
            "Start it and try again, or run without one: nox -s e2e -- --target embedded",
        )
    return told


def address() -> str:
    """Return where the docker command looks for the engine."""
    try:
        told = run("docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}", timeout_s=ANSWER_TIMEOUT_S)
    except CommandFailedError:
        return "its usual socket"
    return shown(told.strip())


def check_room(*, is_up: bool = False) -> None:
    """Raise TooSmallError unless the engine has the memory, and its disk the room, for a cluster that IS_UP or not."""
    told = info()
    if told["MemTotal"] < MIN_MEMORY_BYTES:
        raise TooSmallError(
            f"The Docker engine has {_gb(told['MemTotal'])} of memory; the cluster needs {_gb(MIN_MEMORY_BYTES)}.",
            "Kubernetes, Airflow's three components and a few pods of tasks run in it at once.",
            "Give it more (Docker Desktop: Settings, Resources), or: nox -s e2e -- --target embedded",
        )
    root = Path(told["DockerRootDir"])
    if (
        not is_up and root.exists() and (free := shutil.disk_usage(root).free) < MIN_FREE_BYTES
    ):  # else it is another machine's
        raise TooSmallError(
            f"The Docker engine's disk ({root}) has {_gb(free)} free; the cluster needs {_gb(MIN_FREE_BYTES)}.",
            "The images are there twice: in the engine and in the cluster's node.",
            "Free some room: docker system df says what takes it.",
        )


def check_disk() -> None:
    """Raise DiskFullError if the disk of an engine on this machine is as good as full."""
    root = Path(info()["DockerRootDir"])
    if root.exists() and disk_full(root):
        raise DiskFullError(
            f"The Docker engine's disk ({root}) is full.",
            "The cluster, its images and the warehouse are on it; what failed, most likely failed of that.",
            "Free some room (docker system df says what takes it), then begin anew: nox -s cluster -- down",
        )


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"


def has_image(reference: str) -> bool:
    """Say whether the engine has an image."""
    return inspect("image", reference) is not None


def inspect(kind: str, name: str) -> dict[str, Any] | None:
    """Return what the engine knows of a container, image or network; None if there is none."""
    try:
        told: list[dict[str, Any]] = json.loads(run("docker", kind, "inspect", name))
    except CommandFailedError as error:
        if re.search(r"no such (container|image|network|object)|network .* not found", error.output, re.IGNORECASE):
            return None
        info()  # which says so, where there is no engine to ask
        raise
    return told[0]


def settle(name: str) -> None:
    """Wait until the container NAME is there, or surely will not be.

    The engine goes on making a container when the `docker run` that asked for it has been killed, and does not show it
    before its volumes are filled: for kind's node that takes seconds. Until then its name is taken, which is all that
    can be seen of it.

    Raises:
        CommandFailedError: it is still being made after the deadline.
    """
    deadline = time.monotonic() + pins.deadline_s("delete")
    probe = ("docker", "container", "create", "--pull", "never", "--name", name, pins.image("postgres"), "true")
    while not inspect("container", name):
        try:
            run(*probe)
        except CommandFailedError as error:
            if "is already in use" not in error.output:
                return  # without that image nothing was made here
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            run("docker", "container", "rm", "--volumes", name)
            return


def pull(supervisor: Supervisor, reference: str) -> None:
    """Pull an image, unless it is there.

    Raises:
        ImageMissingError: it cannot be pulled.
    """
    if has_image(reference):
        return
    try:
        supervisor.command("pull", ["docker", "pull", "--quiet", reference], timeout_s=pins.deadline_s("pull"))
    except CommandFailedError as error:
        next_step = "Pull or load it by hand, or name another: docs/operations.md, “Overriding a pin”."
        raise ImageMissingError(
            f"The image {reference} is not here and cannot be pulled.", *why_refused(error, next_step)
        ) from error


def why_refused(error: CommandFailedError, next_step: str) -> tuple[str, str]:
    """Return why a registry was of no use to the engine, and what to do: NEXT_STEP, unless it speaks HTTP."""
    if SPEAKS_HTTP.search(error.output):
        return "The registry speaks HTTP, and Docker asks it over HTTPS.", LET_IT_SPEAK_HTTP.format(who="Docker")
    return error.why, next_step


def check_image(supervisor: Supervisor, reference: str) -> None:
    """Raise ImageMissingError unless an image is here or can be pulled; pulled at once only where nothing else tells.

    The docker command asks a registry by itself, without the engine's mirrors and proxies.
    """
    if not has_image(reference) and not can_be_pulled(reference):
        pull(supervisor, reference)


def can_be_pulled(reference: str) -> bool:
    """Say whether a registry answers for an image; nothing is pulled."""
    try:
        run("docker", "manifest", "inspect", reference, timeout_s=20)
    except CommandFailedError:
        return False
    return True

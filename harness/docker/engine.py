"""Ask the Docker engine about itself, its containers and its images, with the docker command."""

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

from feeds.uri import shown
from harness.errors import (
    LET_IT_SPEAK_HTTP,
    SPEAKS_HTTP,
    CommandFailedError,
    DiskFullError,
    EngineMissingError,
    ImageMissingError,
    TooSmallError,
    UsageError,
)
from harness.processes.command import run
from harness.processes.failures import disk_full
from harness.processes.supervisor import Supervisor
from harness.project import pins

ANSWER_TIMEOUT_S = 30.0  # one that removes a cluster is busy for seconds; where none runs, the answer comes at once
MIN_MEMORY_BYTES = 5_000_000_000
MIN_FREE_BYTES = 6_000_000_000
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # the kernel's names, and those of images
PORT_TAKEN = r"port is already allocated|address already in use"  # in the output of a command that publishes a port


def info() -> dict[str, Any]:
    """Return the output of `docker info`; raise EngineMissingError if no engine answers, or docker is not installed."""
    if not shutil.which("docker"):
        raise EngineMissingError(
            "The docker command is not installed.",
            "The cluster's nodes are containers, and kind creates them with it.",
            "Install Docker, or run without it: nox -s e2e -- --target embedded",
        )
    try:
        found: dict[str, Any] = json.loads(run("docker", "info", "--format", "json", timeout_s=ANSWER_TIMEOUT_S))
    except (CommandFailedError, ValueError):
        found = {}
    if not found.get("ServerVersion"):
        raise EngineMissingError(
            f"The cluster needs a Docker engine, and none answers at {address()}.",
            "It is most likely not running, or you have no permission to use it.",
            "Start it and try again, or run without one: nox -s e2e -- --target embedded",
        )
    return found


def address() -> str:
    """Return where the docker command looks for the engine."""
    try:
        argv = ("docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
        return shown(run(*argv, timeout_s=ANSWER_TIMEOUT_S).strip())
    except CommandFailedError:
        return "its usual socket"


def use_current_context() -> None:
    """Let every client of this process, and those that it starts, use the engine of the docker command's context.

    The Python clients read DOCKER_HOST, and not each what the docker command reads: DOCKER_CONTEXT, the context's TLS
    files. A DOCKER_HOST that is set wins, as it does with the docker command.
    """
    if os.environ.get("DOCKER_HOST") or not shutil.which("docker"):
        return
    try:
        [context] = json.loads(run("docker", "context", "inspect", timeout_s=ANSWER_TIMEOUT_S))
        endpoint = context["Endpoints"]["docker"]
    except (CommandFailedError, ValueError, KeyError):
        return  # `info` says what is wrong with it
    if context["Name"] == "default" or not endpoint.get("Host"):
        return
    os.environ["DOCKER_HOST"] = endpoint["Host"]
    if context.get("TLSMaterial"):
        os.environ["DOCKER_CERT_PATH"] = str(Path(context["Storage"]["TLSPath"]) / "docker")
        os.environ["DOCKER_TLS" if endpoint.get("SkipTLSVerify") else "DOCKER_TLS_VERIFY"] = "1"


def is_rootless() -> bool:
    """Return whether the engine runs without root."""
    return "name=rootless" in (info().get("SecurityOptions") or [])


def check_rootless() -> None:
    """Raise UsageError if a rootless engine may not limit its containers, which Kubernetes' nodes have to."""
    found = info()
    limits = [found.get(name) for name in ("MemoryLimit", "PidsLimit", "CPUShares")]
    if is_rootless() and not (found.get("CgroupVersion") == "2" and all(limits)):
        raise UsageError(
            "The rootless Docker engine cannot limit memory, processes and CPU of its containers.",
            "systemd delegates to a user only what it is told to, and only with cgroup v2.",
            "Set Delegate=yes: https://kind.sigs.k8s.io/docs/user/rootless; or: nox -s e2e -- --target embedded",
        )


def check_size(*, is_up: bool = False) -> None:
    """Raise TooSmallError unless the engine has the memory for a cluster, and disk space unless the cluster IS_UP."""
    found = info()
    if found["MemTotal"] < MIN_MEMORY_BYTES:
        raise TooSmallError(
            f"The Docker engine has {_gb(found['MemTotal'])} of memory; the cluster needs {_gb(MIN_MEMORY_BYTES)}.",
            "Kubernetes, Airflow's three components and a few pods of tasks run in it at once.",
            "Give it more (Docker Desktop: Settings, Resources), or: nox -s e2e -- --target embedded",
        )
    root = Path(found["DockerRootDir"])  # does not exist here where the engine is another machine's
    if not is_up and root.exists() and (free := shutil.disk_usage(root).free) < MIN_FREE_BYTES:
        raise TooSmallError(
            f"The Docker engine's disk ({root}) has {_gb(free)} free; the cluster needs {_gb(MIN_FREE_BYTES)}.",
            "The images are stored twice: in the engine and in the cluster's node.",
            "Free some disk space: docker system df shows what uses it.",
        )


def check_disk() -> None:
    """Raise DiskFullError if the disk of an engine on this machine is almost full."""
    root = Path(info()["DockerRootDir"])
    if root.exists() and disk_full(root):
        raise DiskFullError(
            f"The Docker engine's disk ({root}) is full.",
            "The cluster, its images and the warehouse are on it: what failed most likely failed because of that.",
            "Free some disk space (docker system df shows what uses it), then start over: nox -s cluster -- down",
        )


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"


def platform() -> str:
    """Return the platform of the images that the engine builds by itself, `linux/amd64` for example."""
    found = info()
    machine = found.get("Architecture", "")
    return f"{found.get('OSType', 'linux')}/{ARCHITECTURES.get(machine, machine)}"


def has_image(reference: str) -> bool:
    """Return whether the engine has an image."""
    return inspect("image", reference) is not None


def inspect(kind: str, name: str) -> dict[str, Any] | None:
    """Return what the engine knows of the container, image or network NAME; None if it does not exist."""
    try:
        found: list[dict[str, Any]] = json.loads(run("docker", kind, "inspect", name))
    except CommandFailedError as error:
        if re.search(r"no such (container|image|network|object)|network .* not found", error.output, re.IGNORECASE):
            return None
        info()  # raises a better error where no engine answers
        raise
    return found[0]


def wait_until_created_or_absent(name: str) -> None:
    """Wait until the container NAME exists, or certainly will not.

    The engine goes on creating a container when the `docker run` that asked for it has been killed, and does not show
    it before its volumes are filled: for kind's node that takes seconds. Until then only its name is taken.

    Raises:
        CommandFailedError: it is still being created after the deadline, or the engine does not say whether it is.
        EngineMissingError: no engine answers.
    """
    deadline = time.monotonic() + pins.deadline_s("delete")
    probe = ("docker", "container", "create", "--pull", "never", "--name", name, pins.image("postgres"), "true")
    while not inspect("container", name):
        try:
            run(*probe)
        except CommandFailedError as error:
            if re.search(r"no such image|unable to find image", error.output, re.IGNORECASE):
                return  # nothing was created from it
            if "is already in use" not in error.output or time.monotonic() > deadline:
                info()  # raises a better error where no engine answers
                raise
            time.sleep(0.5)
        else:
            run("docker", "container", "rm", "--volumes", name)
            return


def pull(supervisor: Supervisor, reference: str) -> None:
    """Pull an image, unless the engine has it; raise ImageMissingError if that fails."""
    if has_image(reference):
        return
    try:
        supervisor.command("pull", ["docker", "pull", "--quiet", reference], timeout_s=pins.deadline_s("pull"))
    except CommandFailedError as error:
        next_step = "Pull or load it by hand, or name another: docs/pins.md, “Overriding a pin”."
        raise ImageMissingError(
            f"The image {reference} is not in the engine and cannot be pulled.", *explain_failed_pull(error, next_step)
        ) from error


def explain_failed_pull(error: CommandFailedError, next_step: str) -> tuple[str, str]:
    """Return why the engine could not use a registry, and what to do: NEXT_STEP, unless the registry speaks HTTP."""
    if SPEAKS_HTTP.search(error.output):
        return "The registry speaks HTTP, and Docker asks it over HTTPS.", LET_IT_SPEAK_HTTP.format(who="Docker")
    return error.why, next_step


def use_own_images() -> None:
    """Use the engine's own images of the pinned tags where their digests can neither be found nor pulled.

    That is a machine without a registry, whose images were loaded. This process and those that it starts then have the
    variables that override the pins. On GitHub only the pins are used.
    """
    if pins.alone_count() or not shutil.which("docker"):
        return
    listing = ("docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}")
    try:
        tags = run(*listing, timeout_s=ANSWER_TIMEOUT_S).split()
    except CommandFailedError:
        return  # no engine answers; what needs one says so
    for name in pins.images():
        pinned = pins.image(name)
        tag, _, digest = pinned.partition("@")
        if digest and tag in tags and not has_image(pinned) and not is_pullable(pinned):
            os.environ[pins.variable(name)] = tag


def check_image(supervisor: Supervisor, reference: str) -> None:
    """Raise ImageMissingError unless the engine has an image or can pull it.

    It is pulled at once only where asking the registry fails: the docker command does not use the engine's mirrors and
    proxies.
    """
    if not has_image(reference) and not is_pullable(reference):
        pull(supervisor, reference)


def is_pullable(reference: str) -> bool:
    """Return whether the registry has an image; nothing is pulled."""
    try:
        run("docker", "manifest", "inspect", reference, timeout_s=20)
    except CommandFailedError:
        return False
    return True

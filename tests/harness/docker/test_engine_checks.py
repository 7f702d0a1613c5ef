"""A missing engine, too small a one, or one with a full disk is an expected error."""

import contextlib
import json
import shutil
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from harness.docker import engine, image_stream, images
from harness.errors import CommandFailedError, DiskFullError, EngineMissingError, TooSmallError, UsageError
from harness.warehouse.container import engine_answers
from tests import programs
from tests.servers import serving

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(params=["unix:///nowhere", "unix:///dev/null", "tcp://127.0.0.1:1", "501"])
def no_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give an address where no engine answers, or refuses this user."""
    with serving(BaseHTTPRequestHandler) as address:  # answers 501 to every request
        host = f"tcp://{address}" if request.param == "501" else request.param
        monkeypatch.setenv("DOCKER_HOST", host)
        yield host


@pytest.mark.needs("docker")
def test_an_engine_that_does_not_answer_is_missing(no_engine: str) -> None:
    assert not engine_answers()
    with pytest.raises(EngineMissingError) as caught:
        engine.inspect("container", "any")
    assert caught.value.what == f"The cluster needs a Docker engine, and none answers at {no_engine}."
    assert caught.value.why == "It is most likely not running, or you have no permission to use it."


@pytest.fixture
def bin_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the only folder on the path."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "message",
    [
        "Cannot connect to the Docker daemon at unix:///nowhere. Is the docker daemon running?",
        "failed to connect to the docker API at unix:///nowhere; check if the path is correct and if the daemon is "
        "running: dial unix /nowhere: connect: no such file or directory",  # Docker 29: "no such" what?
    ],
)
def test_an_object_of_a_missing_engine_is_not_just_absent(bin_: Path, message: str) -> None:
    programs.write_answers(bin_ / "docker", {}, message)
    with pytest.raises(EngineMissingError):
        engine.inspect("container", "any")


@pytest.mark.needs("engine")
def test_an_absent_object_is_none() -> None:
    assert [engine.inspect(kind, "no-such-thing-here") for kind in ("container", "image", "network")] == [None] * 3


def write_docker(folder: Path, root: Path | None = None) -> None:
    """Write the docker command of an engine with just enough memory whose disk is at ROOT."""
    info = {"ServerVersion": "29", "MemTotal": engine.MIN_MEMORY_BYTES, "DockerRootDir": str(root or folder)}
    programs.write_docker(folder / "docker", {"info --format json": json.dumps(info)})


def set_free(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free_bytes * 2, free_bytes, free_bytes))


def test_an_engine_with_little_disk_space_is_too_small(bin_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_docker(bin_)
    set_free(monkeypatch, engine.MIN_FREE_BYTES)
    engine.check_size()
    set_free(monkeypatch, 5_000_000_000)
    engine.check_size(is_up=True)
    with pytest.raises(TooSmallError) as caught:
        engine.check_size()
    assert caught.value.what == f"The Docker engine's disk ({bin_}) has 5.0 GB free; the cluster needs 6.0 GB."


def test_a_full_disk_is_an_error(bin_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_docker(bin_)
    set_free(monkeypatch, engine.MIN_FREE_BYTES)
    engine.check_disk()
    set_free(monkeypatch, 1)
    with pytest.raises(DiskFullError, match=r"The Docker engine's disk \(.*\) is full\."):
        engine.check_disk()


def test_another_machines_disk_is_not_checked(bin_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_docker(bin_, root=bin_ / "another machine's")
    set_free(monkeypatch, 1)
    engine.check_size()
    engine.check_disk()


def rootless(**changes: object) -> str:
    """Return what a rootless engine with everything delegated reports, with CHANGES."""
    security = ["name=seccomp,profile=builtin", "name=rootless", "name=cgroupns"]
    limits = {"CgroupVersion": "2", "MemoryLimit": True, "PidsLimit": True, "CPUShares": True}
    return json.dumps({"ServerVersion": "29", "SecurityOptions": security} | limits | changes)


@pytest.mark.parametrize(
    ("changes", "is_refused"),
    [
        ({}, False),
        ({"CgroupVersion": "1"}, True),
        ({"CPUShares": False}, True),
        ({"CPUShares": False, "SecurityOptions": ["name=seccomp,profile=builtin"]}, False),  # it is root's
        ({"CPUShares": False, "SecurityOptions": None}, False),
    ],
)
def test_a_rootless_engine_needs_delegation(bin_: Path, changes: dict[str, object], is_refused: bool) -> None:
    programs.write_docker(bin_ / "docker", {"info --format json": rootless(**changes)})
    with pytest.raises(UsageError) if is_refused else contextlib.nullcontext() as caught:
        engine.check_rootless()
    if caught:
        what = "The rootless Docker engine cannot limit memory, processes and CPU of its containers."
        assert caught.value.what == what


def test_an_image_that_is_not_built_needs_its_base(bin_: Path) -> None:
    programs.write_docker(bin_ / "docker", {f"image inspect {images.dbt().reference}": "[{}]"})
    assert images.needed_bases() == ["airflow"]


def test_a_container_that_may_still_be_created_is_not_taken_as_absent(bin_: Path) -> None:
    answers = """#!/bin/sh
        case "$*" in
        "info "*) echo '{"ServerVersion": "29"}'; exit ;;
        *inspect*) echo "Error: No such container" >&2 ;;
        *) echo "Error response from daemon: layer does not exist" >&2 ;;
        esac
        exit 1
    """
    (bin_ / "docker").write_text(answers)
    (bin_ / "docker").chmod(0o755)
    with pytest.raises(CommandFailedError, match="layer does not exist"):
        engine.wait_until_created_or_absent("any")


def test_without_the_probes_image_a_container_is_absent(bin_: Path) -> None:
    programs.write_answers(bin_ / "docker", {}, "Error response from daemon: No such image: postgres:18")
    engine.wait_until_created_or_absent("any")


@pytest.mark.parametrize(
    ("dumped", "found"),
    [
        (
            'version = 2\n[plugins."io.containerd.grpc.v1.cri".containerd]\nsnapshotter = "fuse-overlayfs"\n',
            "fuse-overlayfs",
        ),
        (
            "version = 3\n[plugins.'io.containerd.cri.v1.images']\nsnapshotter = 'fuse-overlayfs'\n"
            "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\nsnapshotter = ''\n",
            "fuse-overlayfs",
        ),
        ("version = 3\n", "overlayfs"),
    ],
)
def test_the_nodes_snapshotter_is_read_from_either_version_of_containerd(bin_: Path, dumped: str, found: str) -> None:
    programs.write_docker(bin_ / "docker", {"exec node containerd config dump": dumped})
    assert image_stream.snapshotter(str(bin_ / "docker"), "node") == found

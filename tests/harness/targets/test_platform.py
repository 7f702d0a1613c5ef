"""The images have the platform of the nodes that run them, whatever machine builds them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.docker import images
from harness.errors import UsageError
from harness.targets.existing_cluster import ExistingCluster
from harness.targets.kind import KindCluster
from harness.targets.options import RunOptions
from tests import programs

NODE = "kindest/node:v1"


@pytest.fixture
def bin_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the only folder on the path, with the docker command of an Apple silicon machine."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLATFORM_KUBECTL", str(tmp_path / "kubectl"))
    monkeypatch.setenv("PLATFORM_NODE_IMAGE", NODE)
    write_docker(tmp_path, "arm64")
    return tmp_path


def write_docker(folder: Path, node: str) -> None:
    """Write the command of an engine on ARM, whose image of kind's node is of the architecture NODE."""
    info = json.dumps({"ServerVersion": "29", "OSType": "linux", "Architecture": "aarch64"})
    image = json.dumps([{"Os": "linux", "Architecture": node}])
    programs.write_docker(folder / "docker", {"info --format json": info, f"image inspect {NODE}": image})


def context(folder: Path, nodes: Sequence[tuple[str, str]] | None, platform: str | None = None) -> ExistingCluster:
    """Return a cluster of NODES, each an operating system and an architecture; None if they may not be listed."""
    items = [{"status": {"nodeInfo": {"operatingSystem": system, "architecture": it}}} for system, it in nodes or ()]
    answers = {} if nodes is None else {"get nodes": json.dumps({"items": items})}
    programs.write_answers(folder / "kubectl", answers, "Error from server (Forbidden): nodes is forbidden")
    cluster: type[Any] = ExistingCluster  # the protocol's empty methods make it look abstract
    made: ExistingCluster = cluster(RunOptions(context="theirs", platform=platform))
    return made


@pytest.mark.parametrize(
    ("nodes", "option", "platform"),
    [
        ([("linux", "amd64"), ("linux", "amd64")], None, "linux/amd64"),
        ([("linux", "arm64")], None, ""),  # the engine's own
        ([("linux", "amd64"), ("windows", "arm64")], None, "linux/amd64"),
        ([("linux", "amd64"), ("linux", "arm64")], "linux/amd64", "linux/amd64"),
        ([("linux", "amd64")], "linux/arm64", ""),
        (None, None, ""),
        (None, "linux/amd64", "linux/amd64"),
    ],
)
def test_an_existing_clusters_nodes_decide(
    bin_: Path, nodes: Sequence[tuple[str, str]] | None, option: str | None, platform: str
) -> None:
    assert context(bin_, nodes, option).platform() == platform


def test_nodes_of_two_platforms_need_a_choice(bin_: Path) -> None:
    with pytest.raises(UsageError) as caught:
        context(bin_, [("linux", "amd64"), ("linux", "arm64")]).platform()
    assert caught.value.what == (
        "The cluster has nodes of linux/amd64 and linux/arm64, and the images are built for one platform."
    )


@pytest.mark.parametrize(
    ("node", "option", "platform"),
    [("arm64", None, ""), ("amd64", None, "linux/amd64"), ("arm64", "linux/amd64", "linux/amd64")],
)
def test_kinds_node_decides(bin_: Path, node: str, option: str | None, platform: str) -> None:
    write_docker(bin_, node)
    assert KindCluster(RunOptions(platform=option)).platform() == platform


def test_an_image_of_another_platform_has_another_tag() -> None:
    made = {images.dbt(platform).reference for platform in ("", "linux/amd64", "linux/arm64")}
    assert len(made) == 3

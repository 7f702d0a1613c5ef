"""Bring changed DAGs, load code and dbt files into a deployment that is up: no image is built, nothing is rolled out.

The ConfigMap `synced-code` has all of this code. New pods unpack it at their start (airflow/entrypoint.sh,
dbt/entrypoint.sh); the DAG processor, which runs already, gets it by a command in its pod. The ConfigMap
`deployed-files` has the digests of the files that the last `up` has deployed.
"""

import base64
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.docker import images
from harness.errors import NotUpError, UsageError
from harness.kubernetes import metrics
from harness.kubernetes.deployment import MANIFESTS
from harness.kubernetes.kubectl import Kubectl
from harness.project import pins
from harness.project.paths import from_root
from harness.targets.cluster_provider import ClusterProvider, values_files

SYNCED, DEPLOYED = "synced-code", "deployed-files"
FOLDERS = {
    name: name.removeprefix("airflow/") for name in ("airflow/dags/", "airflow/feeds/", "airflow/include/", "dbt/")
}  # their names in the archive
IN_IMAGES_ONLY = ("dbt/Dockerfile", "dbt/entrypoint.sh")
MAX_BYTES = 700_000  # of the archive: a ConfigMap may have 1 MiB, and base64 adds a third
FILES, AT = "events-platform/files", "events-platform/synced-at"
# Swaps the link /tmp/code, so that the DAG processor sees either all of the old files or all of the new ones. The
# previous files stay until the next time: a DAG file may be parsed at this moment.
UNPACK = """
new=$(mktemp -d /tmp/code.XXXXXX)
base64 --decode | tar --extract --gzip --touch --directory "$new"
ln -s "$(basename "$new")" /tmp/code.new
mv --no-target-directory /tmp/code.new /tmp/code
ls -dt /tmp/code.*/ | tail --lines=+3 | xargs --no-run-if-empty rm -r
"""


@dataclass(frozen=True)
class Changes:
    """The files that differ from the deployed ones, by path: those that a sync brings, and those that need an `up`."""

    synced: list[str]
    others: list[str]


def record_deployed(kubectl: Kubectl, files: Mapping[str, str]) -> None:
    """Record the digests of the FILES that are now deployed."""
    _apply(kubectl, DEPLOYED, data={"files.json": json.dumps(files)})


def find_changes(provider: ClusterProvider, kubectl: Kubectl) -> Changes:
    """Return the files that differ from the deployed ones; raise NotUpError if these are not known."""
    record = kubectl.get("configmap", DEPLOYED)
    if not record:
        raise NotUpError(
            f"It is not known which files were deployed on the {provider.title}.",
            "Its last `up` failed, or was that of an earlier version.",
            f"Run it again: {provider.command('up')}",
        )
    deployed, now = json.loads(record["data"]["files.json"]), digests(provider)
    changed = sorted(path for path in deployed.keys() | now.keys() if deployed.get(path) != now.get(path))
    synced = [path for path in changed if _is_synced(path)]
    return Changes(synced, [path for path in changed if path not in synced])


def sync(kubectl: Kubectl, changed: list[str], code: Mapping[str, Path] | None = None) -> None:
    """Bring all code into new pods and into the DAG processor.

    CHANGED are the files to name in `status`. CODE has files by their path in the repository; by default it is all code
    of this clone.
    """
    archive = _archive(code or all_code())
    if len(archive) > MAX_BYTES:
        raise UsageError(
            f"The code is too large to be synced: {len(archive):,} bytes compressed, and at most {MAX_BYTES:,} fit.",
            "There are large files in airflow/dags, airflow/feeds, airflow/include or dbt.",
            "Build images with it instead: nox -s cluster -- up",
        )
    encoded = base64.b64encode(archive).decode()
    annotations = {FILES: "\n".join(changed), AT: datetime.now(UTC).isoformat(timespec="seconds")}
    for each in (kubectl, kubectl.for_dbt):
        _apply(each, SYNCED, annotations=annotations, binaryData={"code.tar.gz": encoded})
    for pod in _dag_processors(kubectl):
        argv = ("--container", "dag-processor", "--stdin", "--", "sh", "-euc", UNPACK)
        kubectl.run("exec", pod, *argv, stdin=encoded)


def synced_files(kubectl: Kubectl) -> tuple[list[str], str]:
    """Return the files that were synced since the last `up`, and when; no files and an empty text if none were."""
    annotations = (kubectl.get("configmap", SYNCED) or {"metadata": {}})["metadata"].get("annotations", {})
    return annotations.get(FILES, "").splitlines(), annotations.get(AT, "")


def remove_synced(kubectl: Kubectl) -> None:
    """Let pods use their images' code again, the DAG processor included."""
    kubectl.for_dbt.run("delete", "configmap", SYNCED, "--ignore-not-found")
    if kubectl.get("configmap", SYNCED):
        kubectl.run("delete", "configmap", SYNCED)
        if pods := _dag_processors(kubectl):
            kubectl.run("delete", "pod", "--wait=false", "--ignore-not-found", *pods)


def digests(provider: ClusterProvider) -> dict[str, str]:
    """Return the digests of the files that a deployment is made of, by path."""
    of_metrics = [metrics.VALUES, metrics.RULES]  # also without: whether they are installed, only the cluster knows
    configuration = [*values_files(provider), *of_metrics, pins.VERSIONS, *MANIFESTS.glob("*.yaml")]
    files = {from_root(path): path for path in configuration}
    files |= all_code()
    return {path: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for path, file in files.items()}


def all_code() -> dict[str, Path]:
    """Return the files of the images, by path."""
    return {**images.airflow().files, **images.dbt().files}


def _is_synced(path: str) -> bool:
    return path.startswith(tuple(FOLDERS)) and path not in IN_IMAGES_ONLY


def _archive(code: Mapping[str, Path]) -> bytes:
    """Return CODE as a compressed archive."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for path, file in sorted(code.items()):
            if _is_synced(path):
                folder = next(folder for folder in FOLDERS if path.startswith(folder))
                entry = archive.gettarinfo(file, FOLDERS[folder] + path.removeprefix(folder))
                entry.mode, entry.uid, entry.gid, entry.uname, entry.gname = 0o644, 0, 0, "", ""
                with file.open("rb") as content_of_file:
                    archive.addfile(entry, content_of_file)
    return content.getvalue()


def _dag_processors(kubectl: Kubectl) -> list[str]:
    pods = kubectl.items("pods", selector="component=dag-processor")
    return [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def _apply(kubectl: Kubectl, name: str, annotations: Mapping[str, str] | None = None, **content: object) -> None:
    metadata = {"name": name, "annotations": dict(annotations or {})}
    kubectl.apply([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, **content}])

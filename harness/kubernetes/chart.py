"""Get the official Airflow chart, and install it with helm.

`PLATFORM_CHART` replaces the pinned archive: a path (archive or folder), the URL of an archive, or a repository
(`https://…` or `oci://…`). Whatever is downloaded must have the pinned checksum.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from feeds.uri import shown
from harness.errors import ChartMissingError, CommandFailedError, DownloadError, InstallFailedError, UsageError
from harness.kubernetes.kubectl import Kubectl
from harness.processes.command import run
from harness.processes.supervisor import Supervisor
from harness.project import pins, tools
from harness.project.paths import ROOT, expanded, from_root
from harness.reporting.console import say

HELM_RELEASE = "airflow"  # Helm's name for the deployment
VALUES = ROOT / "cluster" / "values"
RENDER_TIMEOUT_S = 60.0
WITH_METADATA = ("apiServer", "dagProcessor", "scheduler", "triggerer")
POD_TEMPLATE = "pod_template_file.yaml"  # of the executor, in a ConfigMap


def _cached() -> Path:
    return tools.cache() / "charts" / f"airflow-{pins.chart()['version']}-{pins.chart()['sha256'][:12]}.tgz"


def source() -> str:
    """Return where the chart comes from: `PLATFORM_CHART`, or the pinned archive's URL."""
    return os.environ.get("PLATFORM_CHART") or pins.chart()["url"]


def locate() -> Path:
    """Return the path of the chart, a file or folder, downloaded into the cache if it must be.

    Raises ChartMissingError, DownloadError, or UsageError if the repository's address has a secret.
    """
    address = source()
    if "://" not in address:
        path = expanded(address)
        if not path.exists():
            raise ChartMissingError(
                f"PLATFORM_CHART names {address}, which does not exist.",
                "The path is most likely misspelt.",
                "Name the chart's archive or folder, or unset PLATFORM_CHART to download the pinned one.",
            )
        return path.absolute()
    if not _cached().exists():
        is_archive = urlsplit(address).path.endswith(".tgz") and not address.startswith("oci://")
        tools.write_atomically(
            _cached(), tools.fetch(address, pins.chart()["sha256"]) if is_archive else _pull(address)
        )
    return _cached()


def _pull(repository: str) -> bytes:
    if shown(repository) != repository:
        raise UsageError(
            f"PLATFORM_CHART names the repository {shown(repository)} with a user, a password or a signature.",
            "Helm would get it as an argument, which everybody on this machine can read.",
            "Name the archive's URL, which is downloaded without helm, or its path.",
        )
    chart = [repository] if repository.startswith("oci://") else ["airflow", "--repo", repository]
    version = pins.chart()["version"]
    with tempfile.TemporaryDirectory() as directory:
        try:
            options = ("--version", version, "--destination", directory)
            run(tools.find("helm"), "pull", *chart, *options, timeout_s=pins.deadline_s("download"))
            content = next(Path(directory).glob("*.tgz")).read_bytes()
        except CommandFailedError as error:
            raise ChartMissingError(
                f"The chart airflow {version} cannot be pulled from {shown(repository)}.",
                error.why,
                "Set PLATFORM_CHART to a path, to an archive's URL, or to another repository.",
            ) from error
    if (found := hashlib.sha256(content).hexdigest()) != pins.chart()["sha256"]:
        raise DownloadError(
            f"{shown(repository)} has another chart than the pinned one: SHA-256 {found}.",
            "It was packed again, or is another version.",
            "If you trust it, name its archive by path: PLATFORM_CHART=/path/to/airflow.tgz",
        )
    return content


def is_available() -> bool:
    """Return whether `locate` will most likely succeed; nothing is downloaded."""
    address = source()
    if "://" not in address:
        return expanded(address).exists()
    return _cached().exists() or address.startswith("oci://") or tools.responds(address)


def run_values(
    reference: str,
    env: dict[str, str],
    annotations: dict[str, str],
    of_metadata: Mapping[str, str] = {},
    pull_secret: str | None = None,
    *,
    of_workers: Sequence[Mapping[str, Any]] = (),
    statsd_image: str | None = None,
) -> dict[str, Any]:
    """Return the values that only a run knows.

    These are Airflow's image; ENV, nothing secret, and ANNOTATIONS of every pod; and the variables OF_METADATA of all
    pods that connect to Airflow's metadata database, which workers do not; the name of the PULL_SECRET; the
    variables OF_WORKERS; and STATSD_IMAGE, if that exporter runs.
    """
    image = _image(reference)
    statsd = {"statsd": _image(statsd_image)} if statsd_image else {}
    return {
        "airflowVersion": pins.chart()["airflow"],
        "defaultAirflowRepository": image["repository"],
        "defaultAirflowTag": image["tag"],
        "images": {"airflow": image, "pod_template": image, **statsd},
        "env": [{"name": name, "value": value} for name, value in env.items()],
        "airflowPodAnnotations": annotations,
        "pgbouncer": {"podAnnotations": annotations},
        **({"workers": {"kubernetes": {"env": list(of_workers)}}} if of_workers else {}),
        **(_env_of_metadata(of_metadata) if of_metadata else {}),
        **({"imagePullSecrets": [{"name": pull_secret.rpartition("/")[2]}]} if pull_secret else {}),
    }


def _image(reference: str) -> dict[str, str]:
    """Return an image as values of the chart; its tag may have a digest behind it."""
    folder, slash, name = reference.rpartition("/")
    repository, _, tag = name.partition(":")
    return {"repository": f"{folder}{slash}{repository}", "tag": tag}


def _env_of_metadata(variables: Mapping[str, str]) -> dict[str, Any]:
    env = [{"name": name, "value": value} for name, value in variables.items()]
    components = {name: {"env": env, "waitForMigrations": {"env": env}} for name in WITH_METADATA}
    return components | {job: {"env": env} for job in ("databaseCleanup", "migrateDatabaseJob")}


def merged_lists(*layers: dict[str, Any]) -> dict[str, Any]:
    """Return the values that are lists of named items in several of LAYERS, merged by name; the last item counts.

    Kubernetes merges such lists alike. Helm replaces them: a user's variable for workers would remove the project's.
    """
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for layer in layers for key in layer):
        values = [layer[key] for layer in layers if key in layer]
        if all(isinstance(value, dict) for value in values):
            if below := merged_lists(*values):
                merged[key] = below
        elif len(values) > 1 and all(_has_names(value) for value in values):
            merged[key] = list({_name(item): item for value in values for item in value}.values())
    return merged


def _has_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) and _name(item) for item in value)


def _name(item: dict[str, Any]) -> Any:
    """Return what distinguishes an item of a list: a volume may be mounted at several places."""
    return item.get("mountPath") or item.get("name") or item.get("envName")


def with_merged_lists(files: Sequence[Path]) -> list[Path]:
    """Return FILES, of values, and one that is written beside the last: the lists that several of them have, merged."""
    merged = files[-1].with_name(f"merged-{files[-1].name}")
    try:
        layers = [_read(file) for file in files]
    except yaml.YAMLError:
        return list(files)  # helm says best what is wrong with it
    merged.write_text(json.dumps(merged_lists(*layers)))
    return [*files, merged]


def merged_values(files: Sequence[Path]) -> dict[str, Any]:
    """Return the values of FILES as helm merges them, without the chart's own."""

    def merged(below: Any, above: Any) -> Any:
        if not isinstance(below, dict) or not isinstance(above, dict):
            return above
        return {**below, **{key: merged(below.get(key), value) for key, value in above.items()}}

    values: dict[str, Any] = {}
    for file in files:
        values = merged(values, _read(file))
    return values


def _read(file: Path) -> dict[str, Any]:
    """Return the values in FILE; raise YAMLError if it is invalid."""
    values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    if not isinstance(values, dict):
        raise yaml.YAMLError("it has no names of values")
    return values


def render(chart: Path, namespace: str, files: Sequence[Path], kubernetes: str = "") -> str:
    """Return the manifests that the chart renders from the values FILES, for the version KUBERNETES or helm's own."""
    version = ("--kube-version", kubernetes) if kubernetes else ()
    options = ("--namespace", namespace, *version, *_values_options(files))
    return run(tools.find("helm"), "template", HELM_RELEASE, chart, *options, timeout_s=RENDER_TIMEOUT_S)


def _values_options(files: Sequence[Path]) -> list[str]:
    return [part for file in files for part in ("--values", str(file))]


def check_values(chart: Path, namespace: str, files: Sequence[Path]) -> None:
    """Check that the chart accepts the values FILES, and has each of them: helm ignores a misspelt one.

    The last of FILES has the values that are known only at run time. A user's values must leave workers what the
    project's give them. Raises InstallFailedError.
    """
    names = [from_root(file) for file in files[:-1]]
    helm = tools.typed(tools.find("helm"))
    try:
        rendered = render(chart, namespace, with_merged_lists(files))
        known = run(tools.find("helm"), "show", "values", chart, timeout_s=RENDER_TIMEOUT_S)
    except CommandFailedError as error:
        of_schema = "; ".join(re.findall(r"^- (.+)$", error.output, re.MULTILINE))[:300]
        raise InstallFailedError(
            f"The chart does not accept the values in {', '.join(names)}.",
            f"Its output says: {of_schema}" if of_schema else error.why.replace(f"{ROOT}/", ""),
            f"Fix the file, then check it: {helm} template airflow {chart} {' '.join(f'--values {n}' for n in names)}",
        ) from error
    for file, name in zip(files, names, strict=False):
        if unknown := _read(file).keys() - yaml.safe_load(known).keys():
            raise InstallFailedError(
                f"The chart has no value {', '.join(sorted(unknown))}, which {name} sets.",
                "It is misspelt, or this version of the chart no longer has it: helm would ignore it silently.",
                f"See which values the chart has: {helm} show values {chart}",
            )

    own = [file for file in files[:-1] if file.parent == VALUES]
    if users := [from_root(file) for file in files[:-1] if file not in own]:
        needed = _parts_of_workers(render(chart, namespace, own))
        if removed := sorted(needed - _parts_of_workers(rendered)):
            raise InstallFailedError(
                f"The values in {', '.join(users)} take from workers what tasks need: {', '.join(removed)}.",
                "An empty value removes a whole list of the project's, and another account has not its rights.",
                "Leave that value out, or add to the list: its items are merged with the project's by their names.",
            )


def _parts_of_workers(rendered: str) -> set[str]:
    """Return the account, volumes, variables and mounts of the executor's pods in RENDERED manifests."""
    maps = [item["data"] for item in yaml.safe_load_all(rendered) if item and item["kind"] == "ConfigMap"]
    [template] = [data[POD_TEMPLATE] for data in maps if POD_TEMPLATE in data]
    spec = yaml.safe_load(template)["spec"]
    [container] = [each for each in spec["containers"] if each["name"] == "base"]
    return {
        f"the account {spec['serviceAccountName']}",
        *(f"the volume {volume['name']}" for volume in spec["volumes"]),
        *(f"the variable {variable['name']}" for variable in container["env"]),
        *(f"the mount {mount['mountPath']}" for mount in container["volumeMounts"]),
    }


def install(
    supervisor: Supervisor, kubectl: Kubectl, chart: Path, files: Sequence[Path], watch: Callable[[], None]
) -> None:
    """Install the chart, or upgrade what is installed, with the values FILES; returns when the database is migrated.

    The migration is the chart's hook, which helm waits for. When it times out it is tried once more: on a busy machine
    it is late, not wrong, and goes on where it stopped. WATCH is called while helm runs; what it raises ends the
    waiting. Raises InstallFailedError if helm failed, in both tries if the hook timed out.
    """
    argv = helm_argv(kubectl)
    uninstall_interrupted(argv)
    timeout_s = pins.deadline_s("migrations")
    options = [*_values_options(files), "--timeout", f"{timeout_s:.0f}s"]
    if not tools.version("helm", tools.find("helm")).startswith("3."):
        options.append("--server-side=false")  # Helm 4 then changes objects as Helm 3 does: either may upgrade
    command = [*argv, "upgrade", "--install", HELM_RELEASE, str(chart), *options]
    for attempt in (1, 2):
        try:
            supervisor.command("helm", command, timeout_s=timeout_s + 120, watch=watch)
        except CommandFailedError as error:
            is_timeout = "timed out waiting" in error.output or "context deadline exceeded" in error.output
            if is_timeout and attempt == 1:
                say(f"… the migration hook did not end within {timeout_s:.0f} s; trying once more")
                continue
            is_of_hook = is_timeout or "hook" in error.output
            timed_out = f"The chart's migration hook timed out twice, after {timeout_s:.0f} s each."
            raise InstallFailedError(
                timed_out if is_timeout else "Helm could not install the chart.",
                error.why,
                "Read the migration's log: nox -s cluster -- logs run-airflow-migrations"
                if is_of_hook
                else "Read helm's output in commands/helm.log, and check what was changed in cluster/values.",
                is_of_hook=is_of_hook,
            ) from error
        return


def uninstall_interrupted(argv: Sequence[str]) -> None:
    """Uninstall what a killed helm left half installed, which helm refuses to upgrade; data and secrets stay."""
    try:
        status = json.loads(run(*argv, "status", HELM_RELEASE, "--output", "json"))["info"]["status"]
    except (CommandFailedError, ValueError):
        return  # nothing is installed
    if status.startswith("pending") or status == "uninstalling":
        run(*argv, "uninstall", HELM_RELEASE, "--no-hooks", timeout_s=pins.deadline_s("delete"))


def installing_since(kubectl: Kubectl) -> datetime | None:
    """Return when helm began to install or upgrade what is not ready yet; None if nothing is under way."""
    try:
        info = json.loads(run(*helm_argv(kubectl), "status", HELM_RELEASE, "--output", "json"))["info"]
    except (CommandFailedError, ValueError):
        return None
    began = re.sub(r"\.\d+", "", info["last_deployed"])  # of nanoseconds, which Python does not read
    return datetime.fromisoformat(began) if info["status"].startswith("pending") else None


def installed_version(kubectl: Kubectl) -> str:
    """Return the version of the installed chart, for example `1.22.0`, or `not installed`."""
    # Of any status: Helm 4 has no --all, and Helm 3 without it lists only some.
    statuses = ("--deployed", "--failed", "--pending", "--uninstalling")
    options = (*statuses, "--filter", f"^{HELM_RELEASE}$", "--output", "json")
    installed = json.loads(run(*helm_argv(kubectl), "list", *options))
    return str(installed[0]["chart"]).rpartition("-")[2] if installed else "not installed"


def helm_argv(kubectl: Kubectl) -> list[str]:
    """Return helm with the options that name KUBECTL's cluster and namespace."""
    argv = [str(tools.find("helm")), "--namespace", kubectl.namespace]
    if kubectl.kubeconfig:
        argv += ["--kubeconfig", str(kubectl.kubeconfig)]
    if kubectl.context:
        argv += ["--kube-context", kubectl.context]
    return argv

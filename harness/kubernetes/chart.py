"""Get the official Airflow chart, and install it with helm.

`PLATFORM_CHART` replaces the pinned archive: a path (archive or folder), the URL of an archive, or a repository
(`https://…` or `oci://…`). Whatever is fetched must have the pinned checksum.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from events.uri import shown
from harness.errors import ChartMissingError, CommandFailedError, DownloadError, InstallFailedError, UsageError
from harness.kubernetes.kubectl import Kubectl
from harness.processes.command import run
from harness.processes.supervisor import Supervisor
from harness.project import pins, tools
from harness.project.paths import ROOT

RELEASE = "airflow"
VALUES = ROOT / "cluster" / "values"
RENDER_TIMEOUT_S = 60.0
_TOP_LEVEL = re.compile(r"^([A-Za-z]\w*):", re.MULTILINE)


def _cached() -> Path:
    return tools.cache() / "charts" / f"airflow-{pins.chart()['version']}-{pins.chart()['sha256'][:12]}.tgz"


def source() -> str:
    """Return where the chart comes from: `PLATFORM_CHART`, or the pinned archive's URL."""
    return os.environ.get("PLATFORM_CHART") or pins.chart()["url"]


def locate() -> Path:
    """Return the chart as a file or folder on this machine; fetched, if it must be, into the cache.

    Raises:
        ChartMissingError: the path does not exist, or the repository has no such chart.
        DownloadError: it cannot be fetched, or is not the pinned one.
    """
    told = source()
    if "://" not in told:
        path = Path(told).expanduser()
        if not path.exists():
            raise ChartMissingError(
                f"PLATFORM_CHART names {told}, which does not exist.",
                "The path is most likely misspelt.",
                "Name the chart's archive or folder, or unset PLATFORM_CHART to fetch the pinned one.",
            )
        return path.absolute()
    if _cached().exists():
        return _cached()
    is_archive = urlsplit(told).path.endswith(".tgz") and not told.startswith("oci://")
    content = tools.fetch(told, pins.chart()["sha256"]) if is_archive else _pull(told)
    tools.put(_cached(), content)
    return _cached()


def _pull(repository: str) -> bytes:
    """Return the chart's archive out of a repository."""
    if shown(repository) != repository:
        raise UsageError(
            f"PLATFORM_CHART names the repository {shown(repository)} with a user, a password or a signature.",
            "It would be an argument of helm's, which everybody sees in the list of processes.",
            "Name the archive's URL, which is fetched without helm, or its path.",
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
                f"The chart airflow {version} cannot be had from {shown(repository)}.",
                error.why,
                "Name another place in PLATFORM_CHART: a path, an archive's URL, or a repository.",
            ) from error
    if (found := hashlib.sha256(content).hexdigest()) != pins.chart()["sha256"]:
        raise DownloadError(
            f"{shown(repository)} holds another chart than the pinned one: SHA-256 {found}.",
            "It was packed anew, or is another version.",
            "If you trust it, name its archive by path: PLATFORM_CHART=/path/to/airflow.tgz",
        )
    return content


def can_be_had() -> bool:
    """Say whether `locate` will most likely succeed; nothing is fetched."""
    told = source()
    if "://" not in told:
        return Path(told).expanduser().exists()
    return _cached().exists() or told.startswith("oci://") or tools.is_reached(told)


def values(reference: str, env: dict[str, str], annotations: dict[str, str]) -> dict[str, Any]:
    """Return the values that only a run knows.

    Args:
        reference: Airflow's image.
        env: the environment of every component and worker; nothing secret.
        annotations: of every pod; another value starts the pod anew.
    """
    repository, _, tag = reference.rpartition(":")
    image = {"repository": repository, "tag": tag}
    return {
        "airflowVersion": pins.chart()["airflow"],
        "defaultAirflowRepository": repository,
        "defaultAirflowTag": tag,
        "images": {"airflow": image, "pod_template": image},
        "env": [{"name": name, "value": value} for name, value in env.items()],
        "airflowPodAnnotations": annotations,
    }


def render(chart: Path, namespace: str, files: Sequence[Path]) -> str:
    """Return the manifests that the chart makes of values FILES."""
    options = [part for file in files for part in ("--values", str(file))]
    return run(
        tools.find("helm"), "template", RELEASE, chart, "--namespace", namespace, *options, timeout_s=RENDER_TIMEOUT_S
    )


def check_values(chart: Path, namespace: str, files: Sequence[Path]) -> None:
    """Check that the chart takes the values FILES, and knows each of them by name: what is misspelt would be left out.

    The last of them is a run's own.

    Raises:
        InstallFailedError: it does not.
    """
    mine = [str(file.relative_to(ROOT) if file.is_relative_to(ROOT) else file) for file in files[:-1]]
    try:
        render(chart, namespace, files)
        known = run(tools.find("helm"), "show", "values", chart, timeout_s=RENDER_TIMEOUT_S)
    except CommandFailedError as error:
        of_schema = "; ".join(re.findall(r"^- (.+)$", error.output, re.MULTILINE))[:300]
        raise InstallFailedError(
            f"The chart does not take the values in {', '.join(mine)}.",
            f"Its output says: {of_schema}" if of_schema else error.why.replace(f"{ROOT}/", ""),
            f"Mend the file, then look: helm template airflow {chart} {' '.join(f'--values {file}' for file in mine)}",
        ) from error
    for file, name in zip(files, mine, strict=False):
        if unknown := set(_TOP_LEVEL.findall(file.read_text(encoding="utf-8"))) - set(_TOP_LEVEL.findall(known)):
            raise InstallFailedError(
                f"The chart has no value {', '.join(sorted(unknown))}, which {name} sets.",
                "It is misspelt, or has gone with another version of the chart: helm would leave it out silently.",
                f"See what there is: helm show values {chart}",
            )


def install(
    supervisor: Supervisor,
    kubectl: Kubectl,
    chart: Path,
    files: Sequence[Path],
    *,
    retried: Callable[[str], None],
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Install the chart, or bring what is installed to these values; returns when the database is migrated.

    The migration is the chart's hook, which helm waits for. When it times out it is run once more, and RETRIED is
    told why: on a machine that is busy it is late, not wrong, and goes on where it stopped. WATCH is called while helm
    waits, and raises where that has become pointless.

    Raises:
        InstallFailedError: helm failed, on both attempts if the hook timed out.
    """
    argv = helm_argv(kubectl)
    forget_interrupted(argv)
    options = [part for file in files for part in ("--values", str(file))]
    timeout_s = pins.deadline_s("migrations")
    command = [*argv, "upgrade", "--install", RELEASE, str(chart), *options, "--timeout", f"{timeout_s:.0f}s"]
    for attempt in (1, 2):
        try:
            supervisor.command("helm", command, timeout_s=timeout_s + 120, watch=watch)
        except CommandFailedError as error:
            is_timeout = "timed out waiting" in error.output or "context deadline exceeded" in error.output
            if is_timeout and attempt == 1:
                retried(f"the migration hook did not end within {timeout_s:.0f} s; once more")
                continue
            is_of_hook = is_timeout or "hook" in error.output
            how = f"The chart's migration hook timed out twice, after {timeout_s:.0f} s each."
            failure = InstallFailedError(
                how if is_timeout else "Helm could not install the chart.",
                error.why,
                "See its pods: nox -s cluster -- logs run-airflow-migrations"
                if is_of_hook
                else "See what helm says in commands/helm.log, and what was changed in cluster/values.",
            )
            failure.is_of_hook = is_of_hook
            raise failure from error
        else:
            return


def forget_interrupted(argv: Sequence[str]) -> None:
    """Remove a release that a killed helm left in the middle, which no helm would touch; data and secrets stay."""
    try:
        status = json.loads(run(*argv, "status", RELEASE, "--output", "json"))["info"]["status"]
    except (CommandFailedError, ValueError):
        return  # there is none
    if status.startswith("pending") or status == "uninstalling":
        run(*argv, "uninstall", RELEASE, "--no-hooks", timeout_s=pins.deadline_s("delete"))


def installed_version(kubectl: Kubectl) -> str:
    """Return the version of the chart that is installed, `1.22.0` say."""
    releases = json.loads(run(*helm_argv(kubectl), "list", "--all", "--filter", f"^{RELEASE}$", "--output", "json"))
    return str(releases[0]["chart"]).rpartition("-")[2] if releases else "not installed"


def helm_argv(kubectl: Kubectl) -> list[str]:
    """Return helm with the options that name KUBECTL's cluster and namespace."""
    told = [str(tools.find("helm")), "--namespace", kubectl.namespace]
    if kubectl.kubeconfig:
        told += ["--kubeconfig", str(kubectl.kubeconfig)]
    if kubectl.context:
        told += ["--kube-context", kubectl.context]
    return told

"""The chart: where it comes from, that it is the pinned one, which values it accepts, and how helm installs it."""

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.ci import needs
from harness.errors import ChartMissingError, DownloadError, HarnessError, InstallFailedError
from harness.kubernetes import chart, diagnostics
from harness.kubernetes.kubectl import Kubectl
from harness.processes.supervisor import Supervisor
from harness.project import pins, tools
from tests import programs
from tests.servers import serving_folder

ARCHIVE = b"the chart, packed"
VERSION = "1.22.0"
TIMED_OUT = (
    "Error: UPGRADE FAILED: pre-upgrade hooks failed: 1 error occurred:\\n\\t* timed out waiting for the condition"
)
TIMED_OUT_HELM_4 = (
    "Error: UPGRADE FAILED: post-upgrade hooks failed: resource Job/a/b not ready. status: InProgress, "
    "message: Job in progress\\ncontext deadline exceeded"
)

# Writes down its arguments, and does what the files beside it say.
HELM = """\
import json, pathlib, sys
here = pathlib.Path(__file__).parent
if sys.argv[1] == "version":
    sys.exit(print((here / "version").read_text()))
with open(here / "calls", "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
arguments = [a for a in sys.argv[1:] if a in ("list", "pull", "status", "uninstall", "upgrade")]
status = here / "status"
if arguments == ["pull"]:
    if not (archive := here / "archive").exists():
        sys.exit("Error: chart \\"airflow\\" matching 1.22.0 not found in the repository")
    folder = sys.argv[sys.argv.index("--destination") + 1]
    pathlib.Path(folder, "airflow-1.22.0.tgz").write_bytes(archive.read_bytes())
elif arguments == ["status"]:
    if not status.exists():
        sys.exit("Error: release: not found")
    print(json.dumps({"name": "airflow", "info": {"status": status.read_text()}}))
elif arguments == ["uninstall"]:
    status.unlink()
elif arguments == ["list"]:
    print("[]")
elif arguments == ["upgrade"]:
    first, _, rest = (here / "failures").read_text().partition("|")
    (here / "failures").write_text(rest)
    if first:
        sys.exit(first.replace("\\\\n", "\\n").replace("\\\\t", "\\t"))
    print("Release \\"airflow\\" has been upgraded.")
"""


@pytest.fixture
def own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Use another cache and pin than the project's."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("PLATFORM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PLATFORM_CHART", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    pinned = pins.chart() | {"sha256": hashlib.sha256(ARCHIVE).hexdigest(), "version": VERSION}
    monkeypatch.setattr(pins, "chart", lambda: pinned)


@pytest.fixture
def helm(monkeypatch: pytest.MonkeyPatch, own_folders: None, tmp_path: Path) -> Path:  # noqa: ARG001
    """Give the folder of a helm that does what the files in it say."""
    folder = tmp_path / "helm"
    folder.mkdir()
    programs.write(folder / "helm", HELM)
    (folder / "failures").touch()
    (folder / "version").write_text("v3.19.0+g3d8990f")
    monkeypatch.setenv("PLATFORM_HELM", str(folder / "helm"))
    return folder


@pytest.fixture(params=[pytest.param(major, marks=pytest.mark.needs(f"helm{major}")) for major in (3, 4)])
def real_helm(request: pytest.FixtureRequest) -> Path:
    """Give a Helm 3, and then a Helm 4."""
    program = needs.helm(request.param)
    assert program
    return program


def calls(helm: Path) -> list[list[str]]:
    return [json.loads(line) for line in (helm / "calls").read_text().splitlines()]


@pytest.fixture
def server(own_folders: None, tmp_path: Path) -> Iterator[str]:  # noqa: ARG001
    """Give the address of a server on loopback that has `right/chart.tgz` and `wrong/chart.tgz`."""
    for name, content in (("right", ARCHIVE), ("wrong", b"another")):
        (tmp_path / "www" / name).mkdir(parents=True)
        (tmp_path / "www" / name / "chart.tgz").write_bytes(content)
    with serving_folder(tmp_path / "www") as address:
        yield address


def check(error: HarnessError, exit_code: int, what: str) -> None:
    assert (error.exit_code, error.what) == (exit_code, what)
    assert len([line for line in str(error).splitlines() if line.strip()]) == 3


# --- where it comes from --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("own_folders")
def test_a_path_is_used_without_a_checksum(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "own.tgz").write_bytes(b"whatever")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for value, path in (("own.tgz", "own.tgz"), ("~/own.tgz", "own.tgz"), (f"{tmp_path}/folder", "folder")):
        monkeypatch.setenv("PLATFORM_CHART", value)
        assert chart.is_available()
        assert chart.locate() == tmp_path / path
    assert not tools.cache().exists()


def test_an_archive_is_downloaded_once(monkeypatch: pytest.MonkeyPatch, server: str, tmp_path: Path) -> None:
    monkeypatch.setenv("PLATFORM_CHART", f"{server}/right/chart.tgz")
    assert chart.is_available()
    assert not tools.cache().exists()
    path = chart.locate()
    assert path.is_relative_to(tools.cache())
    assert path.read_bytes() == ARCHIVE
    (tmp_path / "www" / "right" / "chart.tgz").unlink()
    assert chart.locate() == path
    assert chart.is_available()


def test_without_a_variable_the_pinned_address_is_used(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    pinned = pins.chart()
    assert chart.source() == pinned["url"]
    assert VERSION in pinned["url"]
    monkeypatch.setattr(pins, "chart", lambda: pinned | {"url": f"{server}/right/chart.tgz"})
    assert chart.locate().read_bytes() == ARCHIVE


def test_another_archive_than_the_pinned_one_is_not_kept(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    url = f"{server}/wrong/chart.tgz"
    monkeypatch.setenv("PLATFORM_CHART", url)
    with pytest.raises(DownloadError) as caught:
        chart.locate()
    found, wanted = hashlib.sha256(b"another").hexdigest(), pins.chart()["sha256"]
    check(caught.value, 53, f"{url} is not the pinned file: SHA-256 {found}, not {wanted}.")
    assert not tools.cache().exists()


@pytest.mark.parametrize(
    ("repository", "arguments"),
    [
        ("https://charts.example.test", ["airflow", "--repo", "https://charts.example.test"]),
        ("oci://charts.example.test/airflow", ["oci://charts.example.test/airflow"]),
    ],
)
def test_helm_pulls_from_a_repository_once(
    monkeypatch: pytest.MonkeyPatch, helm: Path, repository: str, arguments: list[str]
) -> None:
    monkeypatch.setenv("PLATFORM_CHART", repository)
    (helm / "archive").write_bytes(ARCHIVE)
    path = chart.locate()
    assert path.read_bytes() == ARCHIVE
    assert chart.locate() == path
    [pull] = calls(helm)
    assert pull[:-1] == ["pull", *arguments, "--version", VERSION, "--destination"]
    assert not Path(pull[-1]).exists()


def test_a_repository_without_the_chart_or_with_another_is_an_error(
    monkeypatch: pytest.MonkeyPatch, helm: Path
) -> None:
    monkeypatch.setenv("PLATFORM_CHART", "oci://charts.example.test/airflow")
    assert chart.is_available()  # which cannot be known without a pull
    with pytest.raises(ChartMissingError) as missing:
        chart.locate()
    check(missing.value, 58, "The chart airflow 1.22.0 cannot be pulled from oci://charts.example.test/airflow.")
    assert missing.value.why == 'Its output says: Error: chart "airflow" matching 1.22.0 not found in the repository'
    (helm / "archive").write_bytes(b"another")
    with pytest.raises(DownloadError, match="has another chart than the pinned one"):
        chart.locate()
    assert not tools.cache().exists()


# --- values ---------------------------------------------------------------------------------------------------------


def test_the_values_that_are_known_only_at_run_time() -> None:
    values = chart.run_values("localhost:5000/airflow:0f3a", {"A": "1", "B": "two"}, {"events-platform/secrets": "ab"})
    image = {"repository": "localhost:5000/airflow", "tag": "0f3a"}
    assert values == {
        "airflowVersion": pins.chart()["airflow"],
        "defaultAirflowRepository": "localhost:5000/airflow",
        "defaultAirflowTag": "0f3a",
        "images": {"airflow": image, "pod_template": image},
        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "two"}],
        "airflowPodAnnotations": {"events-platform/secrets": "ab"},
        "pgbouncer": {"podAnnotations": {"events-platform/secrets": "ab"}},
    }


@pytest.mark.needs("chart")
def test_values_that_the_chart_does_not_accept_are_an_error(
    monkeypatch: pytest.MonkeyPatch, real_helm: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("PLATFORM_HELM", str(real_helm))
    own, of_run = tmp_path / "own.yaml", tmp_path / "values.json"
    of_run.write_text(json.dumps(chart.run_values("events-platform/airflow:any", {}, {})))
    files = [chart.VALUES / "base.yaml", chart.VALUES / "kind.yaml"]
    chart.check_values(chart.locate(), "events-platform", [*files, of_run])

    rejected, unknown = "The chart does not accept the values in ", "The chart has no value schedulerr, which "
    for text, what, *why in (
        ("scheduler: [", rejected, "own.yaml"),
        ("scheduler: {replicas: many, replicass: 1}", rejected, "replicas", "replicass"),
        ("schedulerr: {replicas: 1}", unknown, "misspelt"),
    ):
        own.write_text(text)
        with pytest.raises(InstallFailedError) as caught:
            chart.check_values(chart.locate(), "events-platform", [*files, own, of_run])
        assert caught.value.what.startswith(what)
        assert all(part in caught.value.why for part in why)


def test_lists_of_named_items_are_merged_and_others_are_replaced() -> None:
    ours: dict[str, Any] = {
        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "1"}],
        "args": ["ours"],
        "replicas": 1,
    }
    ours |= {"mounts": [{"name": "tmp", "mountPath": "/tmp"}]}  # noqa: S108 - in a pod
    users: dict[str, Any] = {
        "env": [{"name": "B", "value": "2"}, {"name": "C", "value": "2"}],
        "args": ["theirs"],
        "replicas": 2,
    }
    users |= {"mounts": [{"name": "tmp", "mountPath": "/cache"}], "own": [{"name": "X"}]}
    assert chart.merged_lists({"workers": {"kubernetes": ours}}, {"workers": {"kubernetes": users}}) == {
        "workers": {
            "kubernetes": {
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}, {"name": "C", "value": "2"}],
                "mounts": [*ours["mounts"], *users["mounts"]],
            }
        }
    }
    assert chart.merged_lists({"env": ours["env"]}, {"env": []}) == {"env": ours["env"]}
    for removed in (None, "text"):  # which helm, or the chart's schema, takes as it is
        assert chart.merged_lists({"env": ours["env"]}, {"env": removed}) == {}


@pytest.fixture(params=[pytest.param("base", marks=pytest.mark.needs("helm", "chart"), id=pytest.HIDDEN_PARAM)])
def with_own_values(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[dict[str, Any]], list[Path]]:
    """Give a way to have a user's values between the project's and those of a run."""

    def files(own: dict[str, Any]) -> list[Path]:
        (tmp_path / "own.yaml").write_text(json.dumps(own))
        of_run = chart.run_values("events-platform/airflow:any", {"DBT_IMAGE": "dbt:1"}, {})
        (tmp_path / "values.json").write_text(json.dumps(of_run))
        names = [chart.VALUES / f"{request.param}.yaml", chart.VALUES / "kind.yaml"]
        return [*names, tmp_path / "own.yaml", tmp_path / "values.json"]

    return files


def workers_env(files: list[Path]) -> list[str]:
    """Return the names of the variables of the executor's pods."""
    rendered = chart.render(chart.locate(), "events-platform", chart.with_merged_lists(files))
    maps = [item["data"] for item in yaml.safe_load_all(rendered) if item and item["kind"] == "ConfigMap"]
    [template] = [yaml.safe_load(data[chart.POD_TEMPLATE]) for data in maps if chart.POD_TEMPLATE in data]
    return [variable["name"] for variable in template["spec"]["containers"][0]["env"]]


def test_a_users_variables_come_beside_the_projects(with_own_values: Callable[[dict[str, Any]], list[Path]]) -> None:
    own = {"env": [{"name": "OF_ALL", "value": "x"}]}
    files = with_own_values(own | {"workers": {"kubernetes": {"env": [{"name": "OF_WORKERS", "value": "y"}]}}})
    chart.check_values(chart.locate(), "events-platform", files)
    assert {"OF_ALL", "DBT_IMAGE", "OF_WORKERS", "AIRFLOW_CONN_WAREHOUSE_LOADER"} <= {*workers_env(files)}


@pytest.mark.parametrize(
    ("own", "missing"),
    [
        ({"env": None}, "the variable AIRFLOW_CONN_WAREHOUSE_LOADER"),
        ({"extraVolumeMounts": None}, "the mount /opt/airflow/synced"),
        ({"extraVolumes": None}, "the volume synced"),
        ({"serviceAccount": {"create": True, "name": "own"}}, "the account airflow-worker"),
    ],
)
def test_what_a_users_values_take_from_workers_is_an_error(
    with_own_values: Callable[[dict[str, Any]], list[Path]], own: dict[str, Any], missing: str
) -> None:
    with pytest.raises(InstallFailedError) as caught:
        chart.check_values(chart.locate(), "events-platform", with_own_values({"workers": {"kubernetes": own}}))
    assert caught.value.what.endswith(f"own.yaml take from workers what tasks need: {missing}.")


# --- installing -----------------------------------------------------------------------------------------------------

KUBECTL = Kubectl(Path("kubectl"), "there", Path("/own"), "work")
OF_CLUSTER = ["--namespace", "there", "--kubeconfig", "/own", "--kube-context", "work"]
MIGRATIONS_S = pins.deadline_s("migrations")
STATUS = ["status", "airflow", "--output", "json"]
UPGRADE = [
    *("upgrade", "--install", "airflow", "airflow.tgz", "--values", "base.yaml", "--values", "own.json"),
    *("--timeout", f"{MIGRATIONS_S:.0f}s"),
]


def install(watch: Callable[[], None] = lambda: None) -> None:
    """Install the chart."""
    with Supervisor.launch() as supervisor:
        chart.install(supervisor, KUBECTL, Path("airflow.tgz"), [Path("base.yaml"), Path("own.json")], watch)


def installing(helm: Path) -> list[list[str]]:
    """Return helm's calls without the options of the cluster, which each must have."""
    assert all(call[: len(OF_CLUSTER)] == OF_CLUSTER for call in calls(helm))
    return [call[len(OF_CLUSTER) :] for call in calls(helm)]


def test_an_installation_that_succeeds_is_one_call(helm: Path) -> None:
    looks = []
    install(watch=lambda: looks.append(1))
    assert installing(helm) == [STATUS, UPGRADE]
    assert looks


def test_helm_4_changes_objects_as_helm_3_does(helm: Path) -> None:
    (helm / "version").write_text("v4.3.1+gc0d08d0")
    install()
    assert installing(helm) == [STATUS, [*UPGRADE, "--server-side=false"]]


def test_helm_3_and_helm_4_know_every_option(real_helm: Path, helm: Path, tmp_path: Path) -> None:
    (helm / "version").write_text(tools.version("helm", real_helm))
    (helm / "status").write_text("pending-install")
    (helm / "archive").write_bytes(ARCHIVE)
    install()
    assert chart.installed_version(KUBECTL) == "not installed"
    diagnostics.save_rendered_chart(tmp_path, KUBECTL)
    chart._pull("https://charts.example.test")
    assert len(calls(helm)) == 8
    for call in calls(helm):  # it reads all options, and complains of an unknown one, before it helps
        done = subprocess.run([real_helm, *call, "--help"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    argv = (real_helm, "list", "--no-such-option", "--help")
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "Error: unknown flag: --no-such-option\n")


@pytest.mark.parametrize("failure", [TIMED_OUT, TIMED_OUT_HELM_4])
def test_a_migration_that_times_out_is_tried_once_more(
    helm: Path, failure: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (helm / "failures").write_text(failure)
    install()
    assert (
        capsys.readouterr().out == f"… the migration hook did not end within {MIGRATIONS_S:.0f} s; trying once more\n"
    )
    assert installing(helm) == [STATUS, UPGRADE, UPGRADE]


def test_a_migration_that_times_out_twice_is_an_error(helm: Path) -> None:
    (helm / "failures").write_text(f"{TIMED_OUT}|{TIMED_OUT}")
    with pytest.raises(InstallFailedError) as caught:
        install()
    check(caught.value, 59, f"The chart's migration hook timed out twice, after {MIGRATIONS_S:.0f} s each.")
    assert caught.value.why == "Its output says: * timed out waiting for the condition"
    assert caught.value.is_of_hook
    assert installing(helm) == [STATUS, UPGRADE, UPGRADE]


def test_another_failure_is_not_tried_again(helm: Path) -> None:
    (helm / "failures").write_text("Error: UPGRADE FAILED: values don't meet the specifications of the schema(s)")
    with pytest.raises(InstallFailedError) as caught:
        install()
    check(caught.value, 59, "Helm could not install the chart.")
    assert caught.value.why.endswith("values don't meet the specifications of the schema(s)")
    assert not caught.value.is_of_hook
    assert installing(helm) == [STATUS, UPGRADE]


@pytest.mark.parametrize("status", ["pending-install", "pending-upgrade", "pending-rollback"])
def test_what_a_killed_helm_left_is_uninstalled_first(helm: Path, status: str) -> None:
    (helm / "status").write_text(status)
    install()
    assert installing(helm) == [STATUS, ["uninstall", "airflow", "--no-hooks"], UPGRADE]


@pytest.mark.parametrize("status", ["deployed", "failed"])
def test_what_helm_can_upgrade_is_not_uninstalled(helm: Path, status: str) -> None:
    (helm / "status").write_text(status)
    install()
    assert installing(helm) == [STATUS, UPGRADE]


@pytest.mark.usefixtures("helm")
def test_an_error_of_the_watch_ends_the_installation() -> None:
    def watch() -> None:
        raise HarnessError("It will never be.", "why", "next")

    with pytest.raises(HarnessError, match=r"It will never be\."):
        install(watch=watch)

"""The chart: where it comes from, that it is the pinned one, and how often helm is asked to install it."""

import functools
import hashlib
import json
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ChartMissingError, DownloadError, HarnessError, InstallFailedError
from harness.kubernetes import chart
from harness.kubernetes.kubectl import Kubectl
from harness.processes.supervisor import Supervisor
from harness.project import pins, tools
from tests import programs
from tests.servers import serving

ARCHIVE = b"the chart, packed"
VERSION = "1.22.0"
TIMED_OUT = (
    "Error: UPGRADE FAILED: pre-upgrade hooks failed: 1 error occurred:\\n\\t* timed out waiting for the condition"
)
TIMED_OUT_HELM_4 = "Error: resource Job/a/b not ready. status: InProgress\\ncontext deadline exceeded"

# Writes down what it is asked for, and does what the files beside it say.
HELM = """\
import json, pathlib, sys
here = pathlib.Path(__file__).parent
with open(here / "asked", "a") as asked:
    asked.write(json.dumps(sys.argv[1:]) + "\\n")
arguments = [a for a in sys.argv[1:] if a in ("pull", "status", "uninstall", "upgrade")]
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
elif arguments == ["upgrade"]:
    first, _, rest = (here / "failures").read_text().partition("|")
    (here / "failures").write_text(rest)
    if first:
        sys.exit(first.replace("\\\\n", "\\n").replace("\\\\t", "\\t"))
    print("Release \\"airflow\\" has been upgraded.")
"""


@pytest.fixture(autouse=True)
def own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("PLATFORM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PLATFORM_CHART", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    pinned = pins.chart() | {"sha256": hashlib.sha256(ARCHIVE).hexdigest(), "version": VERSION}
    monkeypatch.setattr(pins, "chart", lambda: pinned)


@pytest.fixture
def helm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give the folder of a helm that does what it is told."""
    folder = tmp_path / "helm"
    folder.mkdir()
    programs.write(folder / "helm", HELM)
    (folder / "failures").touch()
    monkeypatch.setenv("PLATFORM_HELM", str(folder / "helm"))
    return folder


def asked(helm: Path) -> list[list[str]]:
    return [json.loads(line) for line in (helm / "asked").read_text().splitlines()]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Give the address of a server on loopback that has `right/chart.tgz` and `wrong/chart.tgz`."""
    for name, content in (("right", ARCHIVE), ("wrong", b"another")):
        (tmp_path / "www" / name).mkdir(parents=True)
        (tmp_path / "www" / name / "chart.tgz").write_bytes(content)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
    with serving(handler) as address:
        yield f"http://{address}"


def check(error: HarnessError, exit_code: int, what: str) -> None:
    assert error.exit_code == exit_code
    assert error.what == what
    assert len([line for line in str(error).splitlines() if line.strip()]) == 3


def test_a_path_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mine.tgz").write_bytes(b"whatever")  # the user's own: no checksum
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for told, path in (("mine.tgz", "mine.tgz"), ("~/mine.tgz", "mine.tgz"), (f"{tmp_path}/folder", "folder")):
        monkeypatch.setenv("PLATFORM_CHART", told)
        assert chart.can_be_had()
        assert chart.locate() == tmp_path / path
    assert not tools.cache().exists()


def test_a_path_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATFORM_CHART", "/nowhere.tgz")
    assert not chart.can_be_had()
    with pytest.raises(ChartMissingError) as caught:
        chart.locate()
    check(caught.value, 58, "PLATFORM_CHART names /nowhere.tgz, which does not exist.")


def test_an_archive_is_fetched_once(monkeypatch: pytest.MonkeyPatch, server: str, tmp_path: Path) -> None:
    monkeypatch.setenv("PLATFORM_CHART", f"{server}/right/chart.tgz")
    assert chart.can_be_had()
    assert not tools.cache().exists()
    path = chart.locate()
    assert path.is_relative_to(tools.cache())
    assert path.read_bytes() == ARCHIVE
    (tmp_path / "www" / "right" / "chart.tgz").unlink()
    assert chart.locate() == path
    assert chart.can_be_had()


def test_without_a_variable_the_pinned_address_is_asked(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
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
    check(caught.value, 53, f"{url} holds another file than the pinned one: SHA-256 {found}, not {wanted}.")
    assert not tools.cache().exists()


def test_an_archive_that_the_server_does_not_have(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    monkeypatch.setenv("PLATFORM_CHART", f"{server}/none.tgz")
    assert not chart.can_be_had()
    with pytest.raises(DownloadError, match=r"/none\.tgz cannot be fetched: .*404"):
        chart.locate()


@pytest.mark.parametrize(
    ("repository", "wanted"),
    [
        ("https://charts.example.test", ["airflow", "--repo", "https://charts.example.test"]),
        ("oci://charts.example.test/airflow", ["oci://charts.example.test/airflow"]),
    ],
)
def test_a_repository_is_asked_by_helm_once(
    monkeypatch: pytest.MonkeyPatch, helm: Path, repository: str, wanted: list[str]
) -> None:
    monkeypatch.setenv("PLATFORM_CHART", repository)
    (helm / "archive").write_bytes(ARCHIVE)
    path = chart.locate()
    assert path.read_bytes() == ARCHIVE
    assert chart.locate() == path
    [pull] = asked(helm)
    assert pull[:-1] == ["pull", *wanted, "--version", VERSION, "--destination"]
    assert not Path(pull[-1]).exists()


def test_a_repository_without_the_chart_or_with_another(monkeypatch: pytest.MonkeyPatch, helm: Path) -> None:
    monkeypatch.setenv("PLATFORM_CHART", "oci://charts.example.test/airflow")
    assert chart.can_be_had()  # which cannot be known without asking
    with pytest.raises(ChartMissingError) as missing:
        chart.locate()
    check(missing.value, 58, "The chart airflow 1.22.0 cannot be had from oci://charts.example.test/airflow.")
    assert missing.value.why == 'Its output says: Error: chart "airflow" matching 1.22.0 not found in the repository'
    (helm / "archive").write_bytes(b"another")
    with pytest.raises(DownloadError, match="holds another chart than the pinned one"):
        chart.locate()
    assert not tools.cache().exists()


def test_the_values_that_only_a_run_knows() -> None:
    values = chart.values("localhost:5000/airflow:0f3a", {"A": "1", "B": "two"}, {"events-platform/secrets": "abcd"})
    image = {"repository": "localhost:5000/airflow", "tag": "0f3a"}
    assert values == {
        "airflowVersion": pins.chart()["airflow"],
        "defaultAirflowRepository": "localhost:5000/airflow",
        "defaultAirflowTag": "0f3a",
        "images": {"airflow": image, "pod_template": image},
        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "two"}],
        "airflowPodAnnotations": {"events-platform/secrets": "abcd"},
    }
    assert pins.image("airflow").startswith(f"apache/airflow:{pins.chart()['airflow']}-")


NAMES_CLUSTER = ["--namespace", "there", "--kubeconfig", "/mine", "--kube-context", "work"]


def install(helm: Path, failures: str = "", **options: Any) -> tuple[list[str], list[list[str]]]:
    """Install with a helm that fails in these ways; return what was told of retries, and what helm was asked."""
    (helm / "failures").write_text(failures)
    told: list[str] = []
    kubectl = Kubectl(Path("kubectl"), "there", Path("/mine"), "work")
    with Supervisor.launch() as supervisor:
        try:
            files = [Path("base.yaml"), Path("mine.json")]
            chart.install(supervisor, kubectl, Path("airflow.tgz"), files, retried=told.append, **options)
        finally:
            calls = [call[len(NAMES_CLUSTER) :] for call in asked(helm) if call[: len(NAMES_CLUSTER)] == NAMES_CLUSTER]
            (helm / "calls").write_text(json.dumps(calls))
    return told, calls


MIGRATIONS_S = pins.deadline_s("migrations")
STATUS = ["status", "airflow", "--output", "json"]
UPGRADE = [
    *("upgrade", "--install", "airflow", "airflow.tgz", "--values", "base.yaml", "--values", "mine.json"),
    *("--timeout", f"{MIGRATIONS_S:.0f}s"),
]


def test_an_installation_that_succeeds_is_one_call(helm: Path) -> None:
    looks = []
    told, calls = install(helm, watch=lambda: looks.append(1))
    assert told == []
    assert calls == [STATUS, UPGRADE]
    assert looks


@pytest.mark.parametrize("how", [TIMED_OUT, TIMED_OUT_HELM_4])
def test_a_migration_that_times_out_is_tried_once_more(helm: Path, how: str) -> None:
    told, calls = install(helm, how)
    assert told == [f"the migration hook did not end within {MIGRATIONS_S:.0f} s; once more"]
    assert calls == [STATUS, UPGRADE, UPGRADE]


def test_a_migration_that_times_out_twice_is_an_error(helm: Path) -> None:
    with pytest.raises(InstallFailedError) as caught:
        install(helm, f"{TIMED_OUT}|{TIMED_OUT}")
    check(caught.value, 59, f"The chart's migration hook timed out twice, after {MIGRATIONS_S:.0f} s each.")
    assert caught.value.why == "Its output says: * timed out waiting for the condition"
    assert json.loads((helm / "calls").read_text()) == [STATUS, UPGRADE, UPGRADE]


def test_another_failure_is_not_tried_again(helm: Path) -> None:
    with pytest.raises(InstallFailedError) as caught:
        install(helm, "Error: UPGRADE FAILED: values don't meet the specifications of the schema(s)")
    check(caught.value, 59, "Helm could not install the chart.")
    assert caught.value.why.endswith("values don't meet the specifications of the schema(s)")
    assert json.loads((helm / "calls").read_text()) == [STATUS, UPGRADE]


@pytest.mark.parametrize("status", ["pending-install", "pending-upgrade", "pending-rollback"])
def test_a_release_that_a_killed_helm_left_is_removed_first(helm: Path, status: str) -> None:
    (helm / "status").write_text(status)
    told, calls = install(helm)
    assert told == []
    assert calls == [STATUS, ["uninstall", "airflow", "--no-hooks"], UPGRADE]


@pytest.mark.parametrize("status", ["deployed", "failed"])
def test_a_release_that_helm_can_go_on_from_stays(helm: Path, status: str) -> None:
    (helm / "status").write_text(status)
    assert install(helm)[1] == [STATUS, UPGRADE]


def test_a_cause_that_the_cluster_names_ends_the_waiting(helm: Path) -> None:
    def watch() -> None:
        raise HarnessError("It will never be.", "why", "next")

    with pytest.raises(HarnessError, match=r"It will never be\."):
        install(helm, watch=watch)

"""An installation that cannot succeed ends with the cause that the cluster shows."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.errors import InstallFailedError, RollOutFailedError, UsageError
from harness.kubernetes import deployment
from harness.kubernetes.kubectl import Kubectl
from harness.kubernetes.rollout import Watch
from harness.processes.supervisor import Supervisor
from harness.reporting.console import Phases
from harness.warehouse.server import Server
from tests import programs
from tests.harness.kubernetes.object_rules import Recorder

LOGIN = {"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "e30="}, "metadata": {}}
RECORDING = Path(__file__).parent / "causes" / "migrations-fail.json"
# Lists the recording's objects of the kinds that are asked for, and prints its logs.
KUBECTL = """
import json, pathlib, sys
recording = json.loads(pathlib.Path(r"{recording}").read_text())
arguments = sys.argv[3:]
if arguments[0] == "get":
    kinds = arguments[1].split(",")
    items = [item for item in recording["items"] if item["kind"].lower() + "s" in kinds]
    print(json.dumps(dict(items=items)))
elif arguments[0] == "logs":
    previous = "/previous" if "--previous" in arguments else ""
    print(recording["logs"].get(arguments[1] + "/" + arguments[3] + previous, ""))
else:
    with open(pathlib.Path(__file__).parent / "deleted", "a") as deleted:
        deleted.write(" ".join(arguments[:3]) + "\\n")
"""


HOOK_FAILED = "Error: UPGRADE FAILED: pre-upgrade hooks failed: job failed: BackoffLimitExceeded"
CAUSE = "The migration of Airflow's database failed with exit code 1 (4 times): "


def install(tmp_path: Path, helm: str, *, is_watched: bool = False) -> None:
    """Install on the recorded cluster, with the program HELM."""
    kubectl = Kubectl(programs.write(tmp_path / "kubectl", KUBECTL.format(recording=RECORDING)), "there")
    watch = Watch(kubectl, lambda: None) if is_watched else lambda: None
    with pytest.MonkeyPatch.context() as patch, Supervisor.launch() as supervisor:
        patch.setenv("PLATFORM_HELM", str(programs.write(tmp_path / "helm", f"import sys, time\n{helm}\n")))
        deployment.install(supervisor, kubectl, Path("a.tgz"), [], phases=Phases(), watch=watch)


@pytest.mark.parametrize(
    ("output", "what"),
    [(HOOK_FAILED, f"Helm could not install the chart. {CAUSE}"), ("Error: forbidden", "Helm could not install the")],
)
def test_a_hook_that_fails_is_explained(tmp_path: Path, output: str, what: str) -> None:
    with pytest.raises(InstallFailedError) as caught:
        install(tmp_path, f"sys.exit({output!r})")
    assert caught.value.what.startswith(what)
    assert (CAUSE in caught.value.what) is (output == HOOK_FAILED)
    assert (tmp_path / "deleted").read_text() == "delete job faults-run-airflow-migrations\n"


def test_a_final_cause_ends_the_wait_for_helm(tmp_path: Path) -> None:
    with pytest.raises(RollOutFailedError) as caught:
        install(tmp_path, "time.sleep(60 if 'upgrade' in sys.argv else 0)", is_watched=True)
    assert caught.value.what.startswith(CAUSE)
    assert "kubectl" not in caught.value.next_step


# --- what a registry and a server need ------------------------------------------------------------------------------


@pytest.mark.parametrize(("named", "copies"), [("login", ["there-dbt"]), ("team/login", ["there", "there-dbt"])])
def test_the_registrys_login_is_in_both_namespaces_and_on_dbts_account(named: str, copies: list[str]) -> None:
    applied: list[tuple[str, str]] = []

    class Registry(Recorder):
        def apply(self, manifests: str | Iterable[dict[str, Any]]) -> None:
            objects = [manifests] if isinstance(manifests, str) else list(manifests)
            applied.extend((self.namespace, item if isinstance(item, str) else json.dumps(item)) for item in objects)

    namespace = named.rpartition("/")[0] or "there"
    kubectl = Registry(Path("kubectl"), "there", existing={f"secret {namespace}/login": LOGIN})
    deployment.create_namespaces(kubectl, named)
    secrets = {place: json.loads(item) for place, item in applied if '"Secret"' in item}
    assert list(secrets) == copies
    assert all((item["type"], item["data"]) == (LOGIN["type"], LOGIN["data"]) for item in secrets.values())
    [account] = [
        item for place, text in applied for item in yaml.safe_load_all(text) if item["kind"] == "ServiceAccount"
    ]
    assert account["imagePullSecrets"] == [{"name": "login"}]


@pytest.mark.parametrize("existing", [{}, {"secret there/login": {"type": "Opaque", "metadata": {}}}])
def test_a_login_that_is_not_there_is_named_with_the_command_that_makes_it(existing: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        deployment.create_namespaces(Recorder(Path("kubectl"), "there", existing=existing), "login")
    assert caught.value.what == "The namespace there has no secret login with the login to a registry."
    assert caught.value.next_step.startswith("Make it: kubectl --namespace there create secret docker-registry login ")


@pytest.mark.parametrize(
    ("certificate", "in_pods"), [("", ""), ("system", "system"), ("root.crt", deployment.ROOT_CERTIFICATE_IN_PODS)]
)
def test_the_root_certificate_is_in_both_namespaces(certificate: str, in_pods: str, tmp_path: Path) -> None:
    (tmp_path / "root.crt").write_text("a certificate")
    path = str(tmp_path / certificate) if certificate.endswith(".crt") else certificate
    server = Server("a test", "db.internal", 5432, "postgres", "x", sslmode="verify-full", root_certificate=path)
    database = deployment.Database(server, server.host, server.port)
    assert (database.for_pods.sslmode, database.for_pods.root_certificate) == ("verify-full", in_pods)
    applied: list[str] = []

    class Cluster(Recorder):
        def apply(self, manifests: str | Iterable[dict[str, Any]]) -> None:
            [item] = list(manifests)
            assert isinstance(item, dict)
            assert (item["metadata"]["name"], item["data"]) == ("postgresql", {"root.crt": "a certificate"})
            applied.append(self.namespace)

    database.apply_root_certificate(Cluster(Path("kubectl"), "there"))
    assert applied == (["there", "there-dbt"] if certificate == "root.crt" else [])

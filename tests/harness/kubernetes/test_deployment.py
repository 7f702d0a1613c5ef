"""An installation that cannot succeed ends with the cause that the cluster shows."""

from pathlib import Path

import pytest

from harness.errors import InstallFailedError, RollOutFailedError
from harness.kubernetes import deployment
from harness.kubernetes.kubectl import Kubectl
from harness.kubernetes.rollout import Watch
from harness.processes.supervisor import Supervisor
from harness.reporting.console import Phases
from tests import programs

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

"""Whatever ends a run on kind, and whenever, nothing of it is left; a second one waits for it."""

import signal
import time
from pathlib import Path

import pytest

from tests.cluster.conftest import PLACE, TIMEOUT_S, left, read_until, run, start

# The line after which the phase is under way, how much later, the signal, and the exit code of the harness.
INTERRUPTS = {
    "the cluster is made": ("^target kind", 8, signal.SIGINT, 130),
    "images are brought in": ("✓ PostgreSQL", 6, signal.SIGTERM, 143),
    "killed while the chart is installed": ("✓ databases, roles and secrets", 3, signal.SIGKILL, -9),
    "a DAG runs": ("create_tables +running", 0, signal.SIGHUP, 129),
}


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_up() -> None:
    code, said = run("cluster", "down")  # what other tests have up
    assert code == 0, said
    assert left() == []


@pytest.mark.parametrize("phase", INTERRUPTS)
def test_an_interrupt_leaves_nothing(phase: str) -> None:
    begun, wait_s, number, code = INTERRUPTS[phase]
    e2e = start("e2e", "--target", "kind")
    said = read_until(e2e, begun)
    time.sleep(wait_s)
    second = start("cluster", "down")  # it waits for the lock, which the run's supervisor holds to its end
    second_said = read_until(second, "…|✓")
    e2e.send_signal(number)
    said += e2e.communicate(timeout=TIMEOUT_S)[0]
    assert e2e.returncode == code, said
    if number != signal.SIGKILL:
        assert said.splitlines()[-3] == f"✗ Interrupted by {number.name}."
        assert "\n✓ everything taken down" in said
        assert "Traceback" not in said
    second_said += second.communicate(timeout=TIMEOUT_S)[0]
    assert second_said.startswith("… waiting for another session, which uses the cluster of this clone")
    assert second.returncode == 0
    assert "✓ nothing was up" in second_said
    assert left() == []


def test_a_cluster_that_is_half_there_is_taken_down() -> None:
    up = start("cluster", "up")
    read_until(up, "✓ PostgreSQL")
    time.sleep(5)
    up.kill()
    up.wait()
    assert left() != []
    PLACE.kubeconfig.write_text("apiVersion: v1\nclusters: [{")  # as a full disk leaves it
    Path(f"{PLACE.kubeconfig}.lock").touch()
    code, said = run("e2e", "--target", "kind")
    assert code == 63, said
    assert "is up already." in said.splitlines()[-3]
    code, said = run("cluster", "down")
    assert code == 0, said
    assert left() == []
    assert list(PLACE.kubeconfig.parent.iterdir()) == []

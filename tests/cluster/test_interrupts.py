"""However and whenever a run on kind ends, nothing of it is left; a second session waits for it."""

import signal
import time
from pathlib import Path

import pytest

from tests.cluster.conftest import KIND, left
from tests.harness_command import TIMEOUT_S, error_lines, read_until, run, start

pytestmark = pytest.mark.cluster

# The line after which the phase has begun, how much later in seconds, the signal, and the harness's exit code.
INTERRUPTS = {
    "the cluster is created": ("^target kind", 8, signal.SIGINT, 130),
    "images are loaded": ("✓ PostgreSQL", 6, signal.SIGKILL, -9),
    "a DAG runs": ("create_tables +running", 0, signal.SIGHUP, 129),
}


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_up() -> None:
    code, output = run("cluster", "down")  # the other tests' cluster
    assert code == 0, output
    assert left() == []


@pytest.mark.parametrize("phase", INTERRUPTS)
def test_an_interrupt_leaves_nothing(phase: str) -> None:
    line, wait_s, number, code = INTERRUPTS[phase]
    e2e = start("e2e", "--target", "kind")
    output = read_until(e2e, line)
    time.sleep(wait_s)
    second = start("cluster", "down")  # it waits for the lock, which the run's supervisor holds to its end
    second_output = read_until(second, "…|✓")
    e2e.send_signal(number)
    output += e2e.communicate(timeout=TIMEOUT_S)[0]
    assert e2e.returncode == code, output
    if number != signal.SIGKILL:
        assert error_lines(output)[0] == f"✗ Interrupted by {number.name}."
        assert "\n✓ everything taken down" in output
    second_output += second.communicate(timeout=TIMEOUT_S)[0]
    assert second_output.startswith("… waiting for another session, which uses the cluster of this clone")
    assert second.returncode == 0
    assert "✓ nothing was up" in second_output
    assert left() == []


def test_an_incomplete_cluster_is_taken_down() -> None:
    up = start("cluster", "up")
    read_until(up, "✓ PostgreSQL")
    time.sleep(5)
    up.kill()
    up.wait()
    assert left() != []
    KIND.kubeconfig.write_text("apiVersion: v1\nclusters: [{")  # as a full disk leaves it
    Path(f"{KIND.kubeconfig}.lock").touch()
    code, output = run("e2e", "--target", "kind")
    assert code == 63, output
    assert "is up already." in error_lines(output)[0]
    code, output = run("cluster", "down")
    assert code == 0, output
    assert left() == []
    assert list(KIND.kubeconfig.parent.iterdir()) == []

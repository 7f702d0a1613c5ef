"""Bring images from the engine into a kind node's containerd: `python -m harness.docker.image_stream NODE IMAGE...`.

One stream, no archive on disk. `kind load docker-image` fails with Docker's containerd image store ("content digest not
found"), and writes an archive first. Waits until the node's containerd answers: it does long before the cluster is up.
"""

import shutil
import subprocess
import sys
import time

POLL_INTERVAL_S = 0.5
GOING_S = 10.0  # what runs in a container ends this long before the engine says that the container does, at most


def main(node: str, images: list[str]) -> int:
    """Bring IMAGES into NODE, as far as they are not there; return the exit code of what failed."""
    docker = shutil.which("docker") or "docker"
    inside = (docker, "exec", "--interactive", node, "ctr", "--namespace", "k8s.io", "images")
    listing = [*inside, "ls", "--quiet"]
    while True:
        while (listed := subprocess.run(listing, capture_output=True, text=True, check=False)).returncode:
            time.sleep(POLL_INTERVAL_S)  # the supervisor ends this process when it takes too long
        before = identity(docker, node)
        there = listed.stdout.split()
        missing = [image for image in images if f"docker.io/{image}" not in there]
        if not missing:
            return 0
        save = subprocess.Popen([docker, "save", *missing], stdout=subprocess.PIPE)
        loaded = subprocess.run([*inside, "import", "-"], stdin=save.stdout, check=False)
        if save.stdout:
            save.stdout.close()  # or docker save would wait for a reader that is gone
        code = save.wait() or loaded.returncode
        if code and stays(docker, node, before, GOING_S):  # else the cluster could not be made and is made once more
            return code


def stays(docker: str, node: str, before: str, timeout_s: float) -> bool:
    """Say whether the container NODE is still the one that it was BEFORE, after TIMEOUT_S seconds."""
    deadline = time.monotonic() + timeout_s
    while identity(docker, node) == before:
        if time.monotonic() > deadline:
            return True
        time.sleep(POLL_INTERVAL_S)
    return False


def identity(docker: str, node: str) -> str:
    """Return the id of the container NODE; nothing where none runs."""
    argv = [docker, "container", "inspect", "--format", "{{if .State.Running}}{{.Id}}{{end}}", node]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))

"""Bring images from the engine into a kind node's containerd: `python -m harness.image_stream NODE IMAGE...`.

One stream, no archive on disk. `kind load docker-image` fails with Docker's containerd image store ("content digest not
found"), and writes an archive first. Waits until the node's containerd answers: it does long before the cluster is up.
"""

import shutil
import subprocess
import sys
import time

POLL_INTERVAL_S = 0.5
ATTEMPTS = 4


def main(node: str, images: list[str]) -> int:
    """Bring IMAGES into NODE, as far as they are not there; return the exit code of what failed, at last."""
    docker = shutil.which("docker") or "docker"
    inside = (docker, "exec", "--interactive", node, "ctr", "--namespace", "k8s.io", "images")
    listing = [*inside, "ls", "--quiet"]
    code = 0
    for _ in range(ATTEMPTS):  # a cluster that could not be made is made once more, and the node with it
        while (listed := subprocess.run(listing, capture_output=True, text=True, check=False)).returncode:
            time.sleep(POLL_INTERVAL_S)  # the supervisor ends this process when it takes too long
        there = listed.stdout.split()
        missing = [image for image in images if f"docker.io/{image}" not in there]
        if not missing:
            return 0
        save = subprocess.Popen([docker, "save", *missing], stdout=subprocess.PIPE)
        loaded = subprocess.run([*inside, "import", "-"], stdin=save.stdout, check=False)
        if save.stdout:
            save.stdout.close()  # or docker save would wait for a reader that is gone
        code = save.wait() or loaded.returncode
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))

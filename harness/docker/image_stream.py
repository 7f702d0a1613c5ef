"""Stream images from the engine into a kind node's containerd: `python -m harness.docker.image_stream NODE IMAGE...`.

There is no archive on disk. `kind load docker-image` writes one, and fails with Docker's containerd image store
("content digest not found"). Waits until the node's containerd answers, which is long before the cluster is up.
"""

import shutil
import subprocess
import sys
import time
import tomllib

POLL_INTERVAL_S = 0.5
REMOVAL_S = 10.0  # processes in a container end at most this long before the engine reports that the container ended


def main(node: str, images: list[str]) -> int:
    """Load those of IMAGES into NODE that it lacks; return the exit code of the command that failed, or 0."""
    docker = shutil.which("docker") or "docker"
    ctr = (docker, "exec", "--interactive", node, "ctr", "--namespace", "k8s.io", "images")
    listing = [*ctr, "ls", "--quiet"]
    while True:
        while (listed := subprocess.run(listing, capture_output=True, text=True, check=False)).returncode:
            time.sleep(POLL_INTERVAL_S)  # the supervisor ends this process when it takes too long
        before = container_id(docker, node)
        existing = listed.stdout.split()
        missing = [image for image in images if f"docker.io/{image}" not in existing]
        if not missing:
            return 0
        save = subprocess.Popen([docker, "save", *missing], stdout=subprocess.PIPE)
        unpack = ("--snapshotter", snapshotter(docker, node))
        loaded = subprocess.run([*ctr, "import", *unpack, "-"], stdin=save.stdout, check=False)
        if save.stdout:
            save.stdout.close()  # or docker save would wait for its reader for ever
        code = save.wait() or loaded.returncode
        if code and is_kept(docker, node, before, REMOVAL_S):  # else kind failed and creates the node once more
            return code


def snapshotter(docker: str, node: str) -> str:
    """Return the snapshotter of the containerd in NODE: in a rootless engine it may be `fuse-overlayfs` or `native`.

    `ctr` does not read it from the configuration, and its own default cannot unpack there.
    """
    argv = [docker, "exec", node, "containerd", "config", "dump"]
    dumped = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    plugins = tomllib.loads(dumped).get("plugins", {})
    of_version_2 = plugins.get("io.containerd.cri.v1.images", {})  # containerd's; 1.x has the other
    of_version_1 = plugins.get("io.containerd.grpc.v1.cri", {}).get("containerd", {})
    return str(of_version_2.get("snapshotter") or of_version_1.get("snapshotter") or "overlayfs")


def is_kept(docker: str, node: str, before: str, timeout_s: float) -> bool:
    """Return whether the container NODE still has the id BEFORE after TIMEOUT_S seconds."""
    deadline = time.monotonic() + timeout_s
    while container_id(docker, node) == before:
        if time.monotonic() > deadline:
            return True
        time.sleep(POLL_INTERVAL_S)
    return False


def container_id(docker: str, node: str) -> str:
    """Return the id of the container NODE; empty if it does not run."""
    argv = [docker, "container", "inspect", "--format", "{{if .State.Running}}{{.Id}}{{end}}", node]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))

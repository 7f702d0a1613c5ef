"""The rules for every pod of the project, whoever creates it: the chart, the executor, the pod operator.

Each function takes a pod's spec as Kubernetes reads it and yields a line for each rule that it breaks. Pod Security's
level `restricted`: https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

import re
from collections.abc import Collection, Iterator
from typing import Any

Spec = dict[str, Any]
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SECRET_NAME = re.compile(
    r"(pass|passwd|password|pwd|secret|token|key|credential|conn|connection|dsn)s?$", re.IGNORECASE
)
NO_DATABASE = "sqlite:////tmp/none.db"  # what workers have in place of Airflow's
SECRET_VALUE = re.compile(
    r"://[^\s/@]*:[^\s/@]+@"  # a URL with a password
    r"|\beyJ[\w-]+\.[\w-]+\."  # a JSON web token
    r"|(?<![\w/+:-])(?:[0-9a-f]{32,}|[\w-]{43}=)(?![\w=])"  # a key of the harness's making: hexadecimal, or Fernet's
    r"|(?:pass(?:word|wd)?|secret|token|key)['\"]?\s*[=:]\s*\S"  # password=…
    r"|--?(?:pass(?:word|wd)?|secret|token|[a-z-]*key)\s+\S",  # --password …
    re.IGNORECASE,
)


def containers(spec: Spec) -> list[Spec]:
    """Return every container, the initial ones first."""
    return [*(spec.get("initContainers") or []), *spec["containers"]]


def wrong_images(spec: Spec, loaded: Collection[str]) -> Iterator[str]:
    for container in containers(spec):
        if container["image"] not in loaded:
            yield f"{container['name']}: {container['image']} is not a loaded image"
        if container.get("imagePullPolicy") != "IfNotPresent":
            yield f"{container['name']}: its pull policy is not IfNotPresent"


def not_restricted(spec: Spec, image_user: int | None = None) -> Iterator[str]:
    """Compare with Pod Security's `restricted`. IMAGE_USER is whom the image runs as where the pod does not say."""
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"uses the node's network or processes: {name}"
    for volume in spec.get("volumes") or []:
        if not VOLUMES & set(volume):
            yield f"volume {volume['name']}: its kind is not allowed"
    for container in containers(spec):
        security = (spec.get("securityContext") or {}) | (container.get("securityContext") or {})
        capabilities = security.get("capabilities") or {}
        rules = {
            "may run as root": security.get("runAsNonRoot") is True,
            "its user is root, or not known": bool(security.get("runAsUser", image_user)),
            "may gain privileges": security.get("allowPrivilegeEscalation") is False,
            "is privileged": not security.get("privileged"),
            "keeps capabilities": capabilities.get("drop") == ["ALL"] and not capabilities.get("add"),
            "no seccomp profile": security.get("seccompProfile") == {"type": "RuntimeDefault"},
            "has a port of the node": not any(port.get("hostPort") for port in container.get("ports") or []),
        }
        yield from (f"{container['name']}: {rule}" for rule, is_kept in rules.items() if not is_kept)


def writable_roots(spec: Spec) -> Iterator[str]:
    for container in containers(spec):
        if (container.get("securityContext") or {}).get("readOnlyRootFilesystem") is not True:
            yield f"{container['name']}: may write to its image's files"


def without_resources(spec: Spec) -> Iterator[str]:
    for container in containers(spec):
        for kind in ("requests", "limits"):
            for resource in ("cpu", "memory"):
                if resource not in ((container.get("resources") or {}).get(kind) or {}):
                    yield f"{container['name']}: no {kind} of {resource}"


def clear_secrets(spec: Spec) -> Iterator[str]:
    """Look for secrets in what anyone reads who may see the pod: its environment and its arguments."""
    for container in containers(spec):
        for variable in container.get("env") or []:
            name, value = variable["name"], variable.get("value") or ""
            if value and value != NO_DATABASE and (SECRET_NAME.search(name) or SECRET_VALUE.search(value)):
                yield f"{container['name']}: {name} is a secret in clear"
        if SECRET_VALUE.search(" ".join([*(container.get("command") or []), *(container.get("args") or [])])):
            yield f"{container['name']}: a secret in its arguments"

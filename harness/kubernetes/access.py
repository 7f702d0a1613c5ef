"""Whether the context's user may do what a deployment needs, asked before anything is made."""

import json
from collections.abc import Iterable

from harness.errors import AccessDeniedError, CommandFailedError, NotUpError
from harness.kubernetes.kubectl import Kubectl

# Of Airflow's namespace: `down` and helm need more of what they can make, and whoever can make an object mostly can.
NEEDED = (
    *(("create", kind) for kind in ("secrets", "configmaps", "serviceaccounts", "services", "pods", "pods/exec")),
    *(("create", kind) for kind in ("persistentvolumeclaims", "deployments.apps", "jobs.batch", "pods/portforward")),
    *(("create", f"{kind}.rbac.authorization.k8s.io") for kind in ("roles", "rolebindings")),
    ("create", "networkpolicies.networking.k8s.io"),
    *(("get", kind) for kind in ("secrets", "pods", "pods/log")),
    *(("list", kind) for kind in ("events", "replicasets.apps")),
    *((verb, "secrets") for verb in ("patch", "delete")),
    ("delete", "pods"),
)
# The rest of kubectl's words for credentials that are not, or no longer, valid; a plugin that gets them has its own.
REFUSED = ("Unauthorized", "must be logged in", "provide credentials", "getting credentials", "token has expired")


def check_credentials(kubectl: Kubectl, context: str) -> None:
    """Raise AccessDeniedError if the cluster refuses the credentials, NotUpError if it does not answer."""
    try:
        kubectl.run("get", "--raw", "/version", "--request-timeout", "10s", timeout_s=15)
    except CommandFailedError as error:
        if any(word in error.output for word in REFUSED):
            raise AccessDeniedError(
                f"The cluster of the context {context} does not accept your credentials.",
                error.why,
                "They have most likely expired: log in again, then repeat the command. Try: kubectl get pods",
            ) from error
        if "(Forbidden)" not in error.output:
            raise NotUpError(
                f"The cluster of the context {context} does not answer.",
                error.why,
                "It is not running, or a VPN or proxy is missing. Try: kubectl version",
            ) from error


def missing(kubectl: Kubectl, rights: Iterable[tuple[str, str]]) -> list[str]:
    """Return those of RIGHTS, verbs and resources, that the user lacks in the namespace; `auth can-i` asks the same."""
    rights = list(rights)
    reviews = [
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": _attributes(kubectl.namespace, *right)},
        }
        for right in rights
    ]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": reviews})
    output = kubectl.run("create", "--filename", "-", "--output", 'jsonpath={.status.allowed}{"\\n"}', stdin=text)
    allowed = output.split()
    return [" ".join(right) for right, is_allowed in zip(rights, allowed, strict=True) if is_allowed != "true"]


def _attributes(namespace: str, verb: str, what: str) -> dict[str, str]:
    kind, _, subresource = what.partition("/")
    resource, _, group = kind.partition(".")
    attributes = {"verb": verb, "resource": resource, "group": group, "subresource": subresource}
    return attributes if resource in ("namespaces", "nodes") else attributes | {"namespace": namespace}

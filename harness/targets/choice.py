"""Choose the target of a run: the one of --target, or with `auto` kind where it can run, else embedded."""

from feeds.uri import shown
from harness.errors import UsageError
from harness.targets import kind
from harness.targets.embedded import EmbeddedTarget
from harness.targets.kubernetes_target import KubernetesTarget
from harness.targets.options import TARGETS
from harness.targets.target import Target


def choose(name: str) -> tuple[Target, str]:
    """Return the target NAME and the reason for it, or raise UsageError."""
    if name not in TARGETS:
        raise UsageError(
            f"There is no target {shown(name)!r}.",
            f"The targets are: {', '.join(TARGETS)}.",
            "Name one of them, or leave --target out: nox -s e2e",
        )
    if name == "auto":
        if reason := kind.why_unavailable():
            return EmbeddedTarget(), f"chosen by auto: {reason}"
        return KubernetesTarget("kind"), "chosen by auto: a Docker engine answers, and all images are available"
    return EmbeddedTarget() if name == "embedded" else KubernetesTarget(name), "from --target"

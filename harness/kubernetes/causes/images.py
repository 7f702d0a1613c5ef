"""Why an image does not get pulled."""

import re

from harness.errors import LET_IT_SPEAK_HTTP, SPEAKS_HTTP
from harness.kubernetes.causes.cause import Cause
from harness.kubernetes.causes.objects import Container, Objects, count
from harness.kubernetes.causes.wording import FILE, container_name, one_line

REASONS = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
)
BUILT_HERE = "events-platform/"  # images that no registry has
MIN_PULLS = 2  # a registry that cannot be reached twice, 10 s apart or more, is not a blip

# The end of a chain of errors is the answer of the registry or the network; the rest repeats the image's name.
_CHAIN = r'^.*("[^"]*"|(status code|request to) http\S+|failed to resolve image): '


def explain(objects: Objects, container: Container) -> Cause:
    """Explain a container that waits for its image."""
    reason, image = container.waiting["reason"], str(container.spec.get("image", ""))
    events = objects.events_of(container.pod, "Failed", container=container.name)
    failed = [event for event in events if "Failed to pull image" in event.get("message", "")]
    # Until 1.31 only the event explains it while the kubelet backs off; later versions repeat that in the state.
    message = container.waiting.get("message", "")
    if failed and re.fullmatch(r'(Back-off pulling image "[^"]*"\.?)?', message):
        message = failed[-1]["message"]
    if backs_off_from := re.match(r'Back-off pulling image "[^"]*": (\w+): ', message):
        reason = backs_off_from[1]
    answer = re.sub(_CHAIN, "", one_line(message)).removeprefix(f"{image}: ")
    first, _, rest = image.partition("/")
    registry = first if rest and re.search(r"[.:]|^localhost$", first) else "docker.io"
    pull, load, is_final = f"docker pull {image}", "then nox -s cluster -- up", True
    if image.startswith(BUILT_HERE) and container.spec.get("imagePullPolicy") == "Always":
        why = "Its pull policy is Always, and no registry has an image that was built here."
        next_step = f"Set pullPolicy: IfNotPresent {FILE} and in what overrides it, {load}"
    elif reason == "ErrImageNeverPull" or image.startswith(BUILT_HERE):
        why = "The image was not loaded into the node: the disk is full, or this is another cluster."
        next_step = "Build and load it again: nox -s cluster -- up"
        is_final = reason == "ErrImageNeverPull" or count(failed) >= MIN_PULLS
    elif reason == "InvalidImageName":
        why, next_step = "No image can have that name.", "Correct its name or tag, and what sets them."
    elif reason == "SignatureValidationFailed":
        why = "The node takes only images whose signature it trusts."
        next_step = (
            f"Sign it, or have the nodes trust it; then: kubectl describe pod {container.pod['metadata']['name']}"
        )
    elif SPEAKS_HTTP.search(message):
        why = f"{registry} speaks HTTP, and the node asks it over HTTPS."
        next_step = LET_IT_SPEAK_HTTP.format(who="nodes")
    elif "x509: " in message:
        why = f"The node does not trust the certificate of {registry}, or that of a proxy between them."
        next_step = f"Make the nodes trust its authority, or load the image from here: {pull}, {load}"
    elif re.search(r"\b40[13]\b|unauthorized|denied|forbidden|authentication required", message, re.IGNORECASE):
        why = f"{registry} wants a login that the cluster does not have, or has no such image."
        next_step = f"Log in and load it: docker login {registry}; {pull}; {load}"
    elif re.search(r"not found|manifest unknown|no match|invalid reference", message):
        # The registry answered, and will answer the same again.
        why = f"{registry} has no image or tag of that name, or none for the node's architecture."
        next_step = f"Correct its name or tag. To try it: {pull}"
    else:
        why = f"The node cannot reach {registry}: no route, an unknown host name, a proxy or a rate limit."
        next_step, is_final = f"Load it from here: {pull}, {load}", count(failed) >= MIN_PULLS
    what = f"{container_name(container)} cannot get its image {image}: {answer}"
    return Cause("image", what, why, next_step, is_final)

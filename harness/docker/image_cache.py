"""Keep images as archives in the cache's folder, for CI runners that start with an empty engine.

With `PLATFORM_KEEP_IMAGES=true`, images that were pulled or built are saved in `<cache>/images`, an archive per name
with its base image, and loaded from there the next time. What is missing is pulled or built as without it.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from harness.docker import engine
from harness.errors import CommandFailedError
from harness.processes.command import run
from harness.project import pins, tools
from harness.reporting.console import say


def path(name: str) -> Path | None:
    """Return the path of the archive NAME, which need not exist; None if no archives are kept."""
    return tools.cache() / "images" / f"{name}.tar" if os.environ.get("PLATFORM_KEEP_IMAGES") == "true" else None


def load(name: str, reference: str) -> None:
    """Load the archive NAME, unless the engine has the image REFERENCE; a broken archive is removed."""
    archive = path(name)
    if not archive or not archive.exists() or engine.has_image(reference):
        return
    try:
        run("docker", "load", "--quiet", "--input", archive, timeout_s=pins.deadline_s("import"))
    except CommandFailedError as error:
        say(f"… the archive {archive} cannot be loaded: {error.why}")
        archive.unlink(missing_ok=True)


def save(name: str, references: Sequence[str]) -> None:
    """Save REFERENCES as the archive NAME, unless that has the first of them already; a failure is only printed."""
    archive = path(name)
    if not archive:
        return
    image = archive.with_suffix(".image")  # the first image's reference
    if archive.exists() and image.exists() and image.read_text() == references[0]:
        return
    complete = archive.with_suffix(f".{os.getpid()}")
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        run("docker", "save", "--output", complete, *references, timeout_s=pins.deadline_s("import"))
        complete.replace(archive)
        image.write_text(references[0])
    except (CommandFailedError, OSError) as error:
        say(f"… {name} cannot be saved for the next run: {str(error).splitlines()[0]}")
    finally:
        complete.unlink(missing_ok=True)

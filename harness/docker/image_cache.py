"""Keep images as archives in the cache's folder, where that is asked for: a CI runner begins with an empty engine.

`PLATFORM_KEEP_IMAGES=true` asks for it. What was pulled or built is then in `<cache>/images`, an archive per name, with
the base that it was made from, and is loaded from there the next time. Whatever is missing is pulled or built as ever.
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
    """Return where the archive NAME is, or would be; None where none is wanted."""
    return tools.cache() / "images" / f"{name}.tar" if os.environ.get("PLATFORM_KEEP_IMAGES") == "true" else None


def made_of(archive: Path) -> Path:
    """Return the file that says which image an archive is of."""
    return archive.with_suffix(".of")


def is_of(archive: Path, reference: str) -> bool:
    """Say whether an archive is there and of the image REFERENCE."""
    return archive.exists() and made_of(archive).exists() and made_of(archive).read_text() == reference


def load(name: str, reference: str) -> None:
    """Load the archive NAME into the engine, unless that has the image REFERENCE; a broken archive is removed."""
    archive = path(name)
    if not archive or not archive.exists() or engine.has_image(reference):
        return
    try:
        run("docker", "load", "--quiet", "--input", archive, timeout_s=pins.deadline_s("import"))
    except CommandFailedError as error:
        say(f"… the archive {archive} is of no use: {error.why}")
        archive.unlink(missing_ok=True)


def save(name: str, references: Sequence[str]) -> None:
    """Write the archive NAME with the images REFERENCES, the first of them first; that it fails is said, and no more.

    One that was made of the same first image stays as it is.
    """
    archive = path(name)
    if not archive or is_of(archive, references[0]):
        return
    complete = archive.with_suffix(f".{os.getpid()}")
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        run("docker", "save", "--output", complete, *references, timeout_s=pins.deadline_s("import"))
        complete.replace(archive)
        made_of(archive).write_text(references[0])
    except (CommandFailedError, OSError) as error:
        say(f"… {name} is not kept for the next run: {str(error).splitlines()[0]}")
    finally:
        complete.unlink(missing_ok=True)

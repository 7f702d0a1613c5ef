"""Make a release of the project: check its tag and changelog, write its attachments, push its images.

The version is `project.version` in pyproject.toml and nowhere else; the tag is `v` and the version. The attachments are
written to `build/release`: the locks, the chart's values with the pins, dbt's documentation, the notes, checksums.
"""

import gzip
import hashlib
import io
import re
import shutil
import tarfile
import tomllib
from pathlib import Path

from harness.docker import engine, images
from harness.errors import BuildFailedError, CommandFailedError, ReleaseError
from harness.processes.supervisor import Supervisor
from harness.project import pins
from harness.project.paths import BUILD, ROOT
from harness.reporting.console import say

RELEASE = BUILD / "release"
DOCS = BUILD / "dbt-docs" / "index.html"
SOURCE_LABEL = "org.opencontainers.image.source"


def version() -> str:
    """Return the project's version."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def notes(changelog: str, wanted: str) -> str:
    """Return WANTED's entry in CHANGELOG, a text; raise ReleaseError if it is missing, undated or empty."""
    entry = re.search(rf"^## \[{re.escape(wanted)}\] - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## |\Z)", changelog, re.M | re.S)
    if not entry or "- " not in entry[1]:
        raise ReleaseError(
            f"CHANGELOG.md has no entry for {wanted}.",
            "A release needs an entry with its date and its changes.",
            f"Write one below “Unreleased”: ## [{wanted}] - YYYY-MM-DD",
        )
    return entry[1].strip() + "\n"


def check(tag: str) -> str:
    """Return the notes of TAG; raise ReleaseError if it is not the version's tag, or the changelog has no entry."""
    if tag != f"v{version()}":
        raise ReleaseError(
            f"The tag {tag} does not match the version {version()} in pyproject.toml.",
            "Most likely only one of the two was changed.",
            f"Tag v{version()}, or change project.version in pyproject.toml.",
        )
    return notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version())


def gather(tag: str) -> list[Path]:
    """Write TAG's attachments into an empty `build/release` and return them; raise ReleaseError if one is missing."""
    text = check(tag)
    if not DOCS.exists():
        raise ReleaseError(
            "The documentation of the models does not exist.",
            "`nox -s dbt` writes it when it builds the models; that has not run here.",
            "Make it: nox -s dbt",
        )
    shutil.rmtree(RELEASE, ignore_errors=True)
    RELEASE.mkdir(parents=True)
    pack(RELEASE / f"requirements-{version()}.tar.gz", [ROOT / "requirements"])
    pack(
        RELEASE / f"chart-values-{version()}.tar.gz", [ROOT / "cluster" / "values", ROOT / "cluster" / "versions.toml"]
    )
    shutil.copy(DOCS, RELEASE / f"dbt-docs-{version()}.html")
    (RELEASE / "notes.md").write_text(text, encoding="utf-8")
    attached = sorted(RELEASE.iterdir())
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in attached]
    (RELEASE / "SHA256SUMS").write_text("".join(sums))
    return sorted(RELEASE.iterdir())


def pack(archive: Path, paths: list[Path]) -> None:
    """Write a .tar.gz of files and folders whose bytes depend only on their names and content."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for path in paths:
            for file in [path] if path.is_file() else sorted(path.rglob("*")):
                if file.is_file():
                    info = tarfile.TarInfo(str(file.relative_to(ROOT)))
                    info.size, info.mode = file.stat().st_size, 0o644
                    with open(file, "rb") as stream:
                        tar.addfile(info, stream)
    archive.write_bytes(gzip.compress(content.getvalue(), mtime=0))


def build_command(image: images.Image, context: Path, reference: str, source: str) -> list[str]:
    """Return the command that builds IMAGE from CONTEXT and pushes it with its provenance and bill of materials."""
    arguments = [part for pair in image.arguments.items() for part in ("--build-arg", "=".join(pair))]
    labels = ("--label", f"org.opencontainers.image.version={version()}", "--label", f"{SOURCE_LABEL}={source}")
    attested = ("--provenance", "mode=max", "--sbom", "true", "--push")
    file = ("--file", str(context / image.dockerfile))
    return ["docker", "buildx", "build", *attested, *arguments, *labels, *file, "--tag", reference, str(context)]


def push(supervisor: Supervisor, registry: str, source: str) -> list[str]:
    """Build both images, push them to REGISTRY and return their names; raise BuildFailedError if that fails."""
    references = []
    for image in (images.airflow(), images.dbt()):
        reference = f"{registry.rstrip('/').lower()}/{image.name}:{version()}"
        context = supervisor.directory / f"context-{image.name}"
        images.write_context(image, context)
        argv = build_command(image, context, reference, source)
        try:
            supervisor.command(f"push-{image.name}", argv, timeout_s=pins.deadline_s("build"))
        except CommandFailedError as error:
            next_step = "Log in (docker login), with a builder that can attest: docker buildx create --use"
            raise BuildFailedError(
                f"The image {reference} was not built and pushed.", *engine.explain_failed_pull(error, next_step)
            ) from error
        references.append(reference)
    return references


def run(tag: str, registry: str | None, source: str) -> list[tuple[str, str]]:
    """Make the release TAG: its attachments, and with a REGISTRY its images; return each with its size or state."""
    made = [(str(path.relative_to(ROOT)), f"{path.stat().st_size / 1e3:,.0f} kB") for path in gather(tag)]
    for name, size in made:
        say(f"✓ {name} ({size})")
    if registry:
        with Supervisor.launch() as supervisor:
            for reference in push(supervisor, registry, source):
                made.append((reference, "pushed, with provenance and SBOM"))
                say(f"✓ {reference} pushed, with provenance and SBOM")
    return made

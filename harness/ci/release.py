"""Make a release of the project: ask whether CI passed, push its images, run what was pushed, publish it.

The version is `project.version` in pyproject.toml and nowhere else; the tag is `v` and the version. The steps are those
of the workflow `release.yml`: `check`, `push` both images for every platform by their digests, `try_image` each digest,
`publish` them under the version with the attachments: the locks, the chart's values with the pins, dbt's documentation,
each image's bill of materials, the images' digests, the notes, checksums. They are written to `build/release`.
"""

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from harness.docker import engine, images
from harness.errors import BuildFailedError, CommandFailedError, ReleaseError
from harness.processes.command import run
from harness.processes.supervisor import Supervisor
from harness.project import pins
from harness.project.paths import BUILD, DBT_DOCS, ROOT

RELEASE = BUILD / "release"
SBOMS = BUILD / "sboms"
SOURCE_LABEL = "org.opencontainers.image.source"
PLATFORMS = ("linux/amd64", "linux/arm64")
GATE = "gate"  # the job of ci.yml that passes if all others have
API_TIMEOUT_S = 30.0
# What `dbt parse` needs: the names of variables that it does not use.
NO_WAREHOUSE = {
    "WAREHOUSE_HOST": "none.invalid",
    "WAREHOUSE_PORT": "5432",
    "WAREHOUSE_DATABASE": "warehouse",
    "WAREHOUSE_USER": "none",
    "DBT_ENV_SECRET_WAREHOUSE_PASSWORD": "none",
    "DBT_TARGET": "prod",
}


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


def check_gate(repository: str, commit: str) -> str:
    """Return the address of the last run of CI's gate on COMMIT of a REPOSITORY, `owner/name`.

    GitHub is asked at GITHUB_API_URL with the token GH_TOKEN. Raises ReleaseError unless the run has passed.
    """
    api = os.environ.get("GITHUB_API_URL") or "https://api.github.com"
    url = f"{api}/repos/{repository}/commits/{commit}/check-runs"
    token = os.environ.get("GH_TOKEN")
    headers = {"Accept": "application/vnd.github+json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    again = "Wait until CI has passed on that commit of main, then run this job again."
    try:
        answer = httpx.get(url, params={"check_name": GATE, "filter": "all"}, headers=headers, timeout=API_TIMEOUT_S)
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()["check_runs"]
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise ReleaseError(
            f"GitHub does not say whether CI passed on {commit[:12]}: {str(error).partition(chr(10))[0]}",
            "The token in GH_TOKEN most likely lacks the permission `checks: read`.",
            "Run this job again; see docs/workflows.md, “A release”.",
        ) from error
    gates = [gate for gate in found if gate["app"]["slug"] == "github-actions"]
    if not gates:
        raise ReleaseError(
            f"CI has not checked the commit {commit[:12]}: it has no check `{GATE}`.",
            "The tag was pushed before the commit's run on main had ended, or the commit is not on main.",
            again,
        )
    last = max(gates, key=lambda gate: str(gate["started_at"]))
    if last["conclusion"] != "success":
        raise ReleaseError(
            f"CI's check `{GATE}` has not passed on the commit {commit[:12]}: {last['conclusion'] or last['status']}.",
            f"Its last run is {last['html_url']}",
            again,
        )
    return str(last["html_url"])


def gather(tag: str, references: Sequence[str] = ()) -> list[Path]:
    """Write TAG's attachments into an empty `build/release` and return them; raise ReleaseError if one is missing.

    With REFERENCES of pushed images, their list and their bills of materials are among them.
    """
    text = check(tag)
    if not DBT_DOCS.exists():
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
    shutil.copy(DBT_DOCS, RELEASE / f"dbt-docs-{version()}.html")
    (RELEASE / "notes.md").write_text(text, encoding="utf-8")
    if references:
        (RELEASE / f"images-{version()}.txt").write_text("".join(f"{reference}\n" for reference in references))
        for path in write_sboms(references):
            shutil.copy(path, RELEASE / path.name.replace(".spdx", f"-{version()}.spdx"))
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


def build_command(image: images.Image, context: Path, name: str, source: str) -> list[str]:
    """Return the command that builds IMAGE from CONTEXT and pushes it to NAME without a tag.

    It is pushed with its provenance and bill of materials, for every platform; its digest is in `metadata.json` beside
    CONTEXT's files.
    """
    arguments = [part for pair in image.arguments.items() for part in ("--build-arg", "=".join(pair))]
    labels = ("--label", f"org.opencontainers.image.version={version()}", "--label", f"{SOURCE_LABEL}={source}")
    attested = ("--platform", ",".join(PLATFORMS), "--provenance", "mode=max", "--sbom", "true")
    output = f"type=image,name={name},push-by-digest=true,name-canonical=true,push=true"
    files = ("--file", str(context / image.dockerfile), "--metadata-file", str(context / "metadata.json"))
    return ["docker", "buildx", "build", *attested, *arguments, *labels, *files, "--output", output, str(context)]


def push(supervisor: Supervisor, registry: str, source: str) -> dict[str, str]:
    """Build both images and push them to REGISTRY; return the reference of each, with its digest, by its name.

    Raises BuildFailedError if that fails.
    """
    references = {}
    for image in (images.airflow(), images.dbt()):
        name = f"{registry.rstrip('/').lower()}/{image.name}"
        context = supervisor.directory / f"context-{image.name}"
        images.write_context(image, context)
        try:
            supervisor.command(
                f"push-{image.name}", build_command(image, context, name, source), timeout_s=pins.deadline_s("build")
            )
        except CommandFailedError as error:
            next_step = "Log in (docker login), with a builder that can attest: docker buildx create --use"
            raise BuildFailedError(
                f"The image {name} was not built and pushed.", *engine.explain_failed_pull(error, next_step)
            ) from error
        digest = json.loads((context / "metadata.json").read_text(encoding="utf-8"))["containerimage.digest"]
        references[image.name] = f"{name}@{digest}"
    return references


def image_of(reference: str) -> images.Image:
    """Return the project's image that REFERENCE, `registry/path/airflow@sha256:…`, was built from."""
    name = reference.partition("@")[0].rpartition("/")[2].partition(":")[0]
    for image in (images.airflow(), images.dbt()):
        if image.name == name and "@sha256:" in reference:
            return image
    raise ReleaseError(
        f"{reference} is not the digest of one of the project's images.",
        "A release names what was pushed, and only a digest names exactly that.",
        "Name each as `nox -s release -- --push` printed it: REGISTRY/airflow@sha256:…",
    )


def try_image(reference: str) -> str:
    """Pull REFERENCE, run it, and give it the tag that `nox -s e2e` looks for; return that tag.

    Airflow's image must have packages that fit each other, dbt's must parse its project. An end-to-end run of this
    commit then builds no image, and runs this one. Raises ReleaseError if one does not run.
    """
    image = image_of(reference)
    if image.name == "airflow":
        options, arguments = ["--entrypoint", "python"], ["-m", "pip", "check"]
    else:
        options, arguments = [o for pair in NO_WAREHOUSE.items() for o in ("--env", "=".join(pair))], ["parse"]
    try:
        run("docker", "pull", "--quiet", reference, timeout_s=pins.deadline_s("pull"))
        argv = ("docker", "run", "--rm", "--network", "none", *options, reference, *arguments)
        run(*argv, timeout_s=pins.deadline_s("build"), both_streams=True)
        run("docker", "tag", reference, image.reference)
    except CommandFailedError as error:
        raise ReleaseError(
            f"The pushed image {reference} does not run: {error.what}",
            error.why,
            "Nothing was published. Fix it, and release again.",
        ) from error
    return image.reference


def write_sboms(references: Sequence[str]) -> list[Path]:
    """Write the bills of materials that the pushed REFERENCES carry into `build/sboms`: a file per platform."""
    shutil.rmtree(SBOMS, ignore_errors=True)
    SBOMS.mkdir(parents=True)
    for reference in references:
        name = image_of(reference).name
        argv = ("docker", "buildx", "imagetools", "inspect", reference, "--format", "{{ json .SBOM }}")
        for platform, document in sboms(run(*argv, timeout_s=pins.deadline_s("pull"))):
            path = SBOMS / f"{name}-{platform.rpartition('/')[2]}.spdx.json"
            path.write_text(json.dumps(document, indent=1), encoding="utf-8")
    return sorted(SBOMS.iterdir())


def sboms(output: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each platform and its SPDX document in the OUTPUT of buildx; raise ReleaseError if one has none."""
    found = json.loads(output) or {}
    for platform in PLATFORMS:
        if not (document := found.get(platform, {}).get("SPDX")):
            raise ReleaseError(
                f"The pushed image has no bill of materials for {platform}.",
                "The builder cannot attest: Docker's own cannot without its containerd image store.",
                "Make one that can, and push again: docker buildx create --use",
            )
        yield platform, document


def publish(references: Sequence[str]) -> list[str]:
    """Give each of the pushed REFERENCES the version as its tag; return the tagged names."""
    names = []
    for reference in references:
        names.append(f"{reference.partition('@')[0]}:{version()}")
        run(
            "docker", "buildx", "imagetools", "create", "--tag", names[-1], reference, timeout_s=pins.deadline_s("pull")
        )
    return names


def is_public(reference: str) -> bool:
    """Return whether anybody may pull REFERENCE: the registry is asked without the user's login."""
    with tempfile.TemporaryDirectory() as empty:
        try:
            # --insecure: also a registry on loopback, over HTTP; nothing secret is sent.
            run("docker", "--config", empty, "manifest", "inspect", "--insecure", reference)
        except CommandFailedError:
            return False
    return True

"""Build the project's two images, each tagged by its content: one that exists is not built again.

A tag is a digest of the Dockerfile, of every file that goes in, and of the base image's name. A base image that was
pulled again under the same name changes no tag; `nox -s cluster -- down --images` removes what this clone built.
"""

import contextlib
import functools
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from feeds.files import find_files
from harness.docker import engine
from harness.errors import BuildFailedError, CommandFailedError
from harness.processes.command import run
from harness.processes.supervisor import Supervisor
from harness.project import pins
from harness.project.locks import OVER_THE_IMAGE
from harness.project.paths import CLONE, ROOT

REPOSITORY = "events-platform"
LABEL = "events-platform.clone"  # of an image: the clone that built it
IGNORED = {"__pycache__", "target", "logs", "dbt_packages"}
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
INDEXES = ("UV_DEFAULT_INDEX", "PIP_INDEX_URL")  # the first that is set; uv has the first, too
CERTIFICATES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
GIVEN = "airflow/data/given"  # the folder of files that a user names, which are not in the repository


@dataclass(frozen=True)
class Image:
    """An image that can be built.

    Attributes:
        name: its repository below `events-platform/`.
        dockerfile: its path from the repository's root.
        files: what the Dockerfile may copy, by path in the context.
        platform: `linux/arm64` for example; empty for the engine's own.
    """

    name: str
    dockerfile: str
    base: str
    arguments: Mapping[str, str]
    files: Mapping[str, Path] = field(repr=False)
    platform: str = ""

    @functools.cached_property
    def reference(self) -> str:
        """The image's repository and tag, `events-platform/dbt:0f3a…`."""
        digest = hashlib.sha256(self.platform.encode())
        for text in (self.base, *sorted(f"{name}={value}" for name, value in self.arguments.items())):
            digest.update(f"{text}\0".encode())
        for path, file in sorted(self.files.items()):
            digest.update(f"{path}\0{file.stat().st_mode & 0o100:o}\0".encode())
            with open(file, "rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        return f"{REPOSITORY}/{self.name}:{digest.hexdigest()[:16]}"


@dataclass(frozen=True)
class PulledImage:
    """An image of others, under a name that a node keeps: one that was pulled by its digest has none there."""

    name: str
    reference: str


@contextlib.contextmanager
def pulled(supervisor: Supervisor, name: str) -> Iterator[PulledImage]:
    """Pull the pinned image NAME, unless the engine has it, and yield it under its other name, which then goes again.

    Raises ImageMissingError if it cannot be pulled.
    """
    pinned = pins.image(name)
    engine.pull(supervisor, pinned)
    image = PulledImage(name, f"{REPOSITORY}/{name}:{hashlib.sha256(pinned.encode()).hexdigest()[:16]}")
    run("docker", "tag", pinned, image.reference)
    try:
        yield image
    finally:
        run("docker", "image", "rm", image.reference)


def airflow(uris: Mapping[str, str] = {}, platform: str = "") -> Image:
    """Return Airflow's image with the DAGs, the contracts, the code that DAGs call, and the feeds' samples.

    URIS are those of feeds whose files are not the contract's; those of this machine are in the image, too.
    """
    code = ("airflow/dags", "airflow/feeds", "airflow/include")
    packages = (f"requirements/{group}.txt" for group in OVER_THE_IMAGE)
    files = _files("airflow/Dockerfile", "airflow/entrypoint.sh", *code, *packages)
    files |= {path: file for path, file in _files("airflow/data").items() if file.suffix != ".py"}
    for feed, uri in uris.items():
        if _is_given(uri):
            paths = map(Path, find_files(uri))
            files |= {f"{GIVEN}/{feed}/{path.relative_to(_fixed(uri))}": path for path in paths}
    base = pins.image("airflow")
    return Image("airflow", "airflow/Dockerfile", base, {"AIRFLOW_IMAGE": base}, files, platform)


def in_pods(feed: str, uri: str) -> str:
    """Return the URI by which pods read the files at URI of FEED: paths are those in the image."""
    if "://" in uri:
        return uri
    given = f"{GIVEN}/{feed}/{Path(uri).relative_to(_fixed(uri))}"
    name = given if _is_given(uri) else str(Path(uri).relative_to(ROOT))
    return f"/opt/{name}"


def _fixed(uri: str) -> Path:
    """Return the folder of the path or pattern URI that all its files are in."""
    parts = Path(uri).parts
    patterns = [number for number, part in enumerate(parts) if set(part) & set("*?[{")]
    return Path(*parts[: min([*patterns, len(parts) - 1])])


def _is_given(uri: str) -> bool:
    """Return whether URI is a path of this machine that is not in the repository's folder of samples."""
    return "://" not in uri and not Path(uri).is_relative_to(ROOT / "airflow" / "data")


def dbt(platform: str = "") -> Image:
    """Return dbt's image."""
    base = pins.image("python")
    files = _files("dbt", "requirements/dbt.txt")
    return Image("dbt", "dbt/Dockerfile", base, {"PYTHON_IMAGE": base}, files, platform)


def _files(*paths: str) -> dict[str, Path]:
    """Return the files at and below PATHS, by their path from the repository's root, without what tools write there."""
    found = {}
    for path in paths:
        below = [ROOT / path] if (ROOT / path).is_file() else sorted((ROOT / path).rglob("*"))
        for file in below:
            relative = file.relative_to(ROOT)
            if file.is_file() and not IGNORED & set(relative.parts):
                found[str(relative)] = file
    return found


def build(supervisor: Supervisor, image: Image) -> bool:
    """Build an image, unless the engine has it; return whether it did. Raises BuildFailedError, ImageMissingError."""
    if engine.has_image(image.reference):
        return False
    if not image.platform:  # of another platform the build pulls it by itself: here it would take the tag from ours
        engine.pull(supervisor, image.base)
    context = supervisor.directory / f"context-{image.name}"
    write_context(image, context)
    if replace(image, files={path: context / path for path in image.files}).reference != image.reference:
        raise BuildFailedError(
            f"The files of the image {image.name} have changed since this run began.",
            "Somebody saved a file, or switched to another branch.",
            "Run it again.",
        )
    options = ["--platform", image.platform] if image.platform else []
    pip = supervisor.directory / f"pip-{image.name}.conf"
    arguments = [part for pair in image.arguments.items() for part in ("--build-arg", "=".join(pair))]
    try:
        supervisor.command(
            f"build-{image.name}",
            [
                *("docker", "build", "--progress", "plain", "--label", f"{LABEL}={CLONE}"),
                *(*options, *way_to_index(pip), *arguments),
                *("--file", context / image.dockerfile, "--tag", image.reference, context),
            ],
            timeout_s=pins.deadline_s("build"),
        )
    except CommandFailedError as error:
        why, steps = error.why, re.findall(r"^#\d+ \d+\.\d+ (.*\S)", error.output, re.MULTILINE)  # after the time
        if steps and "did not complete successfully" in error.output:
            # A step's output and its errors come in no order.
            why = f"Its last step says: {([step for step in steps if step.startswith('ERROR')] or steps)[-1]}"
        next_step = " ".join(["See more: docker build", *options, "--file", image.dockerfile, *arguments, "."])
        if "exec format error" in error.output:
            why = f"The engine does not run programs of {image.platform or 'the base image'}: it lacks an emulator."
            next_step = "Install one: docker run --privileged --rm tonistiigi/binfmt --install all; or build elsewhere."
        raise BuildFailedError(f"The image {image.reference} does not build.", why, next_step) from error
    finally:
        shutil.rmtree(context)
        pip.unlink(missing_ok=True)  # it may have a password
    return True


def way_to_index(settings: Path) -> list[str]:
    """Return the options by which a build reaches the package index as this machine does, and write pip's SETTINGS.

    Docker knows the variables of proxies, and keeps them out of the image and its history. The index, whose URL may
    have a password, and the certificates are secrets: files that the Dockerfiles mount while they install.
    """
    proxies = {name: url for each in PROXIES for name in (each, each.lower()) if (url := os.environ.get(name))}
    index = next((url for name in INDEXES if (url := os.environ.get(name))), "")
    index = re.sub(r"^[\w.-]+=(?=\w+://)", "", index)  # uv's may have a name
    certificates = next((path for name in CERTIFICATES if (path := os.environ.get(name)) and Path(path).is_file()), "")
    lines = ["[global]", f"index-url = {index}" if index else "", "cert = /run/secrets/ca" if certificates else ""]
    settings.touch(mode=0o600)
    settings.write_text("\n".join(lines), encoding="utf-8")
    options = [part for name in proxies for part in ("--build-arg", name)]  # the values stay in the environment
    options += ["--secret", f"id=pip,src={settings}"]
    if certificates:
        options += ["--secret", f"id=ca,src={certificates}"]
    urls = [index, *(url for name, url in proxies.items() if name.upper() != "NO_PROXY")]
    if any(urlsplit(url if "//" in url else f"//{url}").hostname in LOOPBACK for url in urls):
        options += ["--network", "host"]  # elsewhere a build has a loopback address of its own
    return options


def write_context(image: Image, folder: Path) -> None:
    """Copy the files of IMAGE into FOLDER."""
    for path, file in image.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / path)
        (folder / path).chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)


def needed_bases() -> list[str]:
    """Return the base images that a build would need: none for images that are already built."""
    built = {"airflow": airflow(), "python": dbt()}
    return [base for base, image in built.items() if not engine.has_image(image.reference)]


def remove_built() -> list[str]:
    """Remove every image that this clone built, and return their names."""
    filters = ("--filter", f"label={LABEL}={CLONE}", "--filter", "dangling=false")
    found = run("docker", "image", "ls", *filters, "--format", "{{.Repository}}:{{.Tag}}").split()
    if found:
        run("docker", "image", "rm", "--force", *found)
    return found

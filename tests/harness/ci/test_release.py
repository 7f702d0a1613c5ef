"""A release: what stops it, what is attached, how its images are built."""

import gzip
import hashlib
import io
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from harness.ci import release as publishing
from harness.docker import images
from harness.errors import ReleaseError

CHANGELOG = """# Changelog

## [Unreleased]

### Added

- What comes.

## [0.2.0] - 2026-11-25

### Added

- What came.

## [0.1.0] - 2026-10-01

"""


def test_the_notes_are_the_versions_own() -> None:
    assert publishing.notes(CHANGELOG, "0.2.0") == "### Added\n\n- What came.\n"


@pytest.mark.parametrize("wanted", ["0.3.0", "0.1.0", "Unreleased", "0.2", "0x2.0"])
def test_a_version_without_an_entry_stops(wanted: str) -> None:
    with pytest.raises(ReleaseError, match=re.escape(f"CHANGELOG.md says nothing of {wanted}.")):
        publishing.notes(CHANGELOG, wanted)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, path in {"ROOT": "", "RELEASE": "build/release", "DOCS": "build/dbt-docs/index.html"}.items():
        monkeypatch.setattr(publishing, name, tmp_path / path)
    for path, text in {
        "pyproject.toml": '[project]\nversion = "0.2.0"\n',
        "CHANGELOG.md": CHANGELOG,
        "requirements/dbt.txt": "dbt",
        "cluster/values/base.yaml": "executor: KubernetesExecutor",
        "cluster/versions.toml": "[images]",
        "build/dbt-docs/index.html": "<html>",
        "build/release/of-an-earlier-one": "",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("tag", ["v0.1.0", "0.2.0", "v0.2.0-rc1"])
def test_a_tag_of_another_version_stops(tag: str) -> None:
    with pytest.raises(ReleaseError, match=f"The tag {tag} is not that of version 0.2.0"):
        publishing.check(tag)


def test_what_is_attached(project: Path) -> None:
    names = [path.name for path in publishing.gather("v0.2.0")]
    packed = ["chart-values-0.2.0.tar.gz", "requirements-0.2.0.tar.gz"]
    assert names == ["SHA256SUMS", packed[0], "dbt-docs-0.2.0.html", "notes.md", packed[1]]
    release = project / "build" / "release"
    assert (release / "notes.md").read_text() == "### Added\n\n- What came.\n"
    with tarfile.open(release / packed[0]) as tar:
        assert tar.getnames() == ["cluster/values/base.yaml", "cluster/versions.toml"]
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress((release / packed[1]).read_bytes()))) as tar:
        assert tar.getnames() == ["requirements/dbt.txt"]
    for line in (release / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((release / name).read_bytes()).hexdigest() == digest
    before = {path.name: path.read_bytes() for path in release.iterdir()}
    (project / "requirements" / "dbt.txt").touch()
    publishing.gather("v0.2.0")
    assert {path.name: path.read_bytes() for path in release.iterdir()} == before  # times do not matter


def test_without_documentation_nothing_is_made(project: Path) -> None:
    (project / "build" / "dbt-docs" / "index.html").unlink()
    with pytest.raises(ReleaseError, match="no documentation of the models"):
        publishing.gather("v0.2.0")
    assert [path.name for path in (project / "build" / "release").iterdir()] == ["of-an-earlier-one"]


@pytest.mark.needs("buildx")
def test_each_option_of_the_build_is_one_that_buildx_has(tmp_path: Path) -> None:
    argv = publishing.build_command(images.dbt(), tmp_path, "registry/dbt:1", "https://example.com")
    for option in ("--provenance mode=max", "--sbom true", "--push", "--tag registry/dbt:1"):
        assert option in " ".join(argv)
    assert argv[:3] == ["docker", "buildx", "build"]
    assert argv[-1] == str(tmp_path)
    told = subprocess.run(["docker", "buildx", "build", "--help"], capture_output=True, text=True, check=True).stdout
    for option in argv:
        if option.startswith("--"):
            assert re.search(rf"^ .*{option}\b", told, re.MULTILINE), option

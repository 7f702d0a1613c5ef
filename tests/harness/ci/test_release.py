"""A release: its checks, its attachments, the command that builds its images."""

import gzip
import hashlib
import io
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from harness.ci import release
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


@pytest.mark.parametrize("wanted", ["0.3.0", "0.1.0", "Unreleased", "0.2", "0x2.0"])
def test_a_version_without_an_entry_is_refused(wanted: str) -> None:
    with pytest.raises(ReleaseError, match=re.escape(f"CHANGELOG.md has no entry for {wanted}.")):
        release.notes(CHANGELOG, wanted)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, path in {"ROOT": "", "RELEASE": "build/release", "DOCS": "build/dbt-docs/index.html"}.items():
        monkeypatch.setattr(release, name, tmp_path / path)
    for path, text in {
        "pyproject.toml": '[project]\nversion = "0.2.0"\n',
        "CHANGELOG.md": CHANGELOG,
        "requirements/dbt.txt": "dbt",
        "cluster/values/base.yaml": "executor: KubernetesExecutor",
        "cluster/versions.toml": "[images]",
        "build/dbt-docs/index.html": "<html>",
        "build/release/of-an-earlier-release": "",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("tag", ["v0.1.0", "0.2.0", "v0.2.0-rc1"])
def test_a_tag_of_another_version_is_refused(tag: str) -> None:
    with pytest.raises(ReleaseError, match=f"The tag {tag} does not match the version 0.2.0"):
        release.check(tag)


def test_the_attachments_of_a_release(project: Path) -> None:
    names = [path.name for path in release.gather("v0.2.0")]
    packed = ["chart-values-0.2.0.tar.gz", "requirements-0.2.0.tar.gz"]
    assert names == ["SHA256SUMS", packed[0], "dbt-docs-0.2.0.html", "notes.md", packed[1]]
    folder = project / "build" / "release"
    assert (folder / "notes.md").read_text() == "### Added\n\n- What came.\n"
    with tarfile.open(folder / packed[0]) as tar:
        assert tar.getnames() == ["cluster/values/base.yaml", "cluster/versions.toml"]
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress((folder / packed[1]).read_bytes()))) as tar:
        assert tar.getnames() == ["requirements/dbt.txt"]
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (project / "requirements" / "dbt.txt").touch()
    release.gather("v0.2.0")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before  # times do not matter


def test_without_documentation_nothing_is_written(project: Path) -> None:
    (project / "build" / "dbt-docs" / "index.html").unlink()
    with pytest.raises(ReleaseError, match="documentation of the models does not exist"):
        release.gather("v0.2.0")
    assert [path.name for path in (project / "build" / "release").iterdir()] == ["of-an-earlier-release"]


@pytest.mark.needs("buildx")
def test_buildx_has_each_option_of_the_build(tmp_path: Path) -> None:
    argv = release.build_command(images.dbt(), tmp_path, "registry/dbt:1", "https://example.com")
    for option in ("--provenance mode=max", "--sbom true", "--push", "--tag registry/dbt:1"):
        assert option in " ".join(argv)
    assert argv[:3] == ["docker", "buildx", "build"]
    assert argv[-1] == str(tmp_path)
    usage = subprocess.run(["docker", "buildx", "build", "--help"], capture_output=True, text=True, check=True).stdout
    for option in argv:
        if option.startswith("--"):
            assert re.search(rf"^ .*{option}\b", usage, re.MULTILINE), option

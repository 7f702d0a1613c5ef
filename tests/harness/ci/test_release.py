"""A release: its checks, its attachments, the command that builds its images."""

import gzip
import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.ci import release
from harness.docker import images
from harness.errors import ReleaseError
from harness.project import tools
from harness.warehouse.ports import free_port
from tests.harness.processes.waiting import eventually
from tests.servers import Handler, serving

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
    for name, path in {"ROOT": "", "RELEASE": "build/release", "DBT_DOCS": "build/dbt-docs/index.html"}.items():
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


def test_the_attachments_name_the_images_and_have_their_bills_of_materials(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "SBOMS", project / "build" / "sboms")
    monkeypatch.setattr(release, "image_of", lambda reference: images.Image(reference[5:8], "", "", {}, {}))
    monkeypatch.setattr(release, "run", lambda *_, **__: json.dumps(SBOM))
    references = [f"host/dbt@sha256:{'0' * 64}"]
    names = {path.name for path in release.gather("v0.2.0", references)}
    assert {"images-0.2.0.txt", "dbt-amd64-0.2.0.spdx.json", "dbt-arm64-0.2.0.spdx.json"} <= names
    folder = project / "build" / "release"
    assert (folder / "images-0.2.0.txt").read_text() == f"{references[0]}\n"
    assert json.loads((folder / "dbt-arm64-0.2.0.spdx.json").read_text()) == {"name": "arm"}
    assert "dbt-arm64-0.2.0.spdx.json" in (folder / "SHA256SUMS").read_text()


# --- CI's gate ------------------------------------------------------------------------------------------------------

COMMIT = "0f3a" * 10


def gate(started_at: str, conclusion: str | None, app: str = "github-actions") -> dict[str, Any]:
    """Return a check run, in the form of GitHub's API."""
    return {
        "name": "gate",
        "status": "completed" if conclusion else "in_progress",
        "conclusion": conclusion,
        "started_at": started_at,
        "html_url": f"https://github.com/o/n/runs/{started_at}",
        "app": {"slug": app},
    }


@contextmanager
def github(monkeypatch: pytest.MonkeyPatch, status: int, gates: list[dict[str, Any]]) -> Iterator[list[str]]:
    """Have an API that answers with GATES; give the requests that it gets."""
    requests = []

    class Api(Handler):
        def respond(self) -> None:
            requests.append(f"{self.path} {self.headers['Authorization']}")
            self.answer(status, json.dumps({"total_count": len(gates), "check_runs": gates}).encode())

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("GH_TOKEN", "secret")
    with serving(Api) as address:
        monkeypatch.setenv("GITHUB_API_URL", f"http://{address}")
        yield requests


def test_a_commit_whose_last_gate_passed_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    gates = [gate("2", "success"), gate("1", "failure"), gate("3", "failure", app="somebodys")]
    with github(monkeypatch, 200, gates) as requests:
        assert release.check_gate("o/n", COMMIT) == "https://github.com/o/n/runs/2"
    assert requests == [f"/repos/o/n/commits/{COMMIT}/check-runs?check_name=gate&filter=all Bearer secret"]


@pytest.mark.parametrize(
    ("status", "gates", "what"),
    [
        (200, [], "CI has not checked the commit 0f3a0f3a0f3a: it has no check `gate`."),
        (200, [gate("1", "success", "other")], "CI has not checked the commit 0f3a0f3a0f3a: it has no check `gate`."),
        (
            200,
            [gate("1", "success"), gate("2", "failure")],
            "CI's check `gate` has not passed on the commit .*: failure.",
        ),
        (
            200,
            [gate("1", "success"), gate("2", None)],
            "CI's check `gate` has not passed on the commit .*: in_progress.",
        ),
        (403, [], "GitHub does not say whether CI passed on 0f3a0f3a0f3a: .*403"),
    ],
)
def test_a_commit_that_ci_has_not_passed_is_refused(
    monkeypatch: pytest.MonkeyPatch, status: int, gates: list[dict[str, Any]], what: str
) -> None:
    with github(monkeypatch, status, gates), pytest.raises(ReleaseError, match=f"^{what}") as caught:
        release.check_gate("o/n", COMMIT)
    assert (len(str(caught.value).splitlines()), caught.value.exit_code) == (3, 64)
    assert "secret" not in str(caught.value)


# --- the images -----------------------------------------------------------------------------------------------------

SBOM = {"linux/amd64": {"SPDX": {"name": "amd"}}, "linux/arm64": {"SPDX": {"name": "arm"}}}


def test_each_platform_has_a_bill_of_materials() -> None:
    assert dict(release.sboms(json.dumps(SBOM))) == {"linux/amd64": {"name": "amd"}, "linux/arm64": {"name": "arm"}}
    for broken in ("{}", "null", json.dumps({"linux/amd64": SBOM["linux/amd64"]}), json.dumps({"SPDX": {"name": "a"}})):
        with pytest.raises(ReleaseError, match="The pushed image has no bill of materials for linux/a"):
            list(release.sboms(broken))


@pytest.mark.parametrize("reference", ["ghcr.io/o/n/dbt:1.0", "ghcr.io/o/n/postgres@sha256:0", "dbt"])
def test_only_a_digest_of_an_own_image_is_taken(reference: str) -> None:
    with pytest.raises(ReleaseError, match="is not the digest of one of the project's images"):
        release.image_of(reference)
    assert release.image_of("127.0.0.1:5000/o/n/dbt@sha256:0").name == "dbt"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Give the address of a registry on loopback."""
    port = free_port()
    (tmp_path / "registry.yml").write_text(
        f"{{version: 0.1, storage: {{filesystem: {{rootdirectory: {tmp_path}}}}}, http: {{addr: '127.0.0.1:{port}'}}}}"
    )
    argv = ["docker-registry", "serve", str(tmp_path / "registry.yml")]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        address = f"127.0.0.1:{port}"
        assert eventually(lambda: tools.responds(f"http://{address}/v2/"))
        yield address
        process.kill()


@pytest.mark.needs("registry", "engine", "buildx")
def test_a_pushed_digest_is_run_and_published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, registry: str) -> None:
    monkeypatch.setenv("PLATFORM_PYTHON_IMAGE", f"{registry}/python")  # so that no run of another test finds the tag
    monkeypatch.setattr(release, "version", lambda: "9.9.9")
    context = tmp_path / "context"
    for file in ["/bin/sh", *re.findall(r"/\S+", subprocess.check_output(["ldd", "/bin/sh"], text=True))]:
        (context / file[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, context / file[1:])
    entrypoint = '["/bin/sh", "-c", "test $0-$WAREHOUSE_USER = parse-none"]'
    (context / "Dockerfile").write_text(f"FROM scratch\nCOPY . /\nENTRYPOINT {entrypoint}\n")
    name, digest = f"{registry}/o/n/dbt", ""

    def docker(*arguments: str) -> str:
        return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        docker("build", "--quiet", "--tag", f"{name}:pushed", str(context))
        [digest] = re.findall(r"digest: (sha256:[0-9a-f]{64})", docker("push", f"{name}:pushed"))
        docker("image", "rm", "--force", f"{name}:pushed")
        reference = f"{name}@{digest}"
        tag = release.try_image(reference)
        assert tag == images.dbt().reference
        assert release.publish([reference]) == [f"{name}:9.9.9"]
        docker("pull", "--quiet", f"{name}:9.9.9")
        assert len(set(docker("image", "inspect", "--format", "{{.Id}}", tag, f"{name}:9.9.9").split())) == 1
        assert release.is_public(f"{name}:9.9.9")
        assert not release.is_public(f"{name}:no-such-tag")
        with pytest.raises(ReleaseError, match=r"^The pushed image .* does not run: "):
            release.try_image(f"{name}@sha256:{'0' * 64}")
    finally:
        for image in (images.dbt().reference, f"{name}:9.9.9", f"{name}@{digest}", f"{name}:pushed"):
            subprocess.run(["docker", "image", "rm", "--force", image], capture_output=True, check=False)


@pytest.mark.needs("buildx")
def test_buildx_has_each_option_of_the_build(tmp_path: Path) -> None:
    argv = release.build_command(images.dbt(), tmp_path, "registry/dbt", "https://example.com")
    output = "--output type=image,name=registry/dbt,push-by-digest=true,name-canonical=true,push=true"
    for option in ("--provenance mode=max", "--sbom true", "--platform linux/amd64,linux/arm64", output):
        assert option in " ".join(argv)
    assert "--tag" not in argv  # before it has run it has no name
    assert argv[:3] == ["docker", "buildx", "build"]
    assert argv[-1] == str(tmp_path)
    usage = subprocess.run(["docker", "buildx", "build", "--help"], capture_output=True, text=True, check=True).stdout
    for option in argv:
        if option.startswith("--"):
            assert re.search(rf"^ .*{option}\b", usage, re.MULTILINE), option

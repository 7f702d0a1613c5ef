"""Images that a run keeps for the next, on a real engine: kept once, loaded where they are missing, never relied on."""

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.docker import engine, image_cache


@pytest.fixture
def references(tmp_path: Path) -> Iterator[list[str]]:
    """Give two images of a file each; afterwards they are gone."""
    made = [f"events-platform-test/{secrets.token_hex(4)}:{number}" for number in (1, 2)]
    for reference in made:
        folder = tmp_path / reference[-1]
        folder.mkdir()
        (folder / "Dockerfile").write_text("FROM scratch\nCOPY content /\n")
        (folder / "content").write_text(reference)
        docker("build", "--quiet", "--tag", reference, str(folder))
    yield made
    docker("image", "rm", "--force", *made, check=False)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLATFORM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PLATFORM_KEEP_IMAGES", "true")
    return tmp_path / "cache" / "images"


def docker(*arguments: str, check: bool = True) -> None:
    subprocess.run(["docker", *arguments], check=check, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.needs("engine")
def test_what_is_kept_is_loaded_where_it_is_missing(references: list[str], cache: Path) -> None:
    image_cache.save("dbt", references)
    docker("image", "rm", "--force", *references)
    assert not any(map(engine.has_image, references))
    image_cache.load("dbt", references[0])
    assert all(map(engine.has_image, references))
    assert {path.name for path in cache.iterdir()} == {"dbt.tar", "dbt.of"}


@pytest.mark.needs("engine")
def test_an_archive_is_written_anew_for_another_image_alone(references: list[str], cache: Path) -> None:
    image_cache.save("dbt", references[:1])
    written = (cache / "dbt.tar").stat().st_mtime_ns
    image_cache.save("dbt", references[:1])
    assert (cache / "dbt.tar").stat().st_mtime_ns == written
    image_cache.save("dbt", references[1:])
    assert (cache / "dbt.of").read_text() == references[1]
    docker("image", "rm", "--force", *references)
    image_cache.load("dbt", references[0])  # what it holds is another: nothing is promised
    assert not engine.has_image(references[0])
    assert engine.has_image(references[1])


@pytest.mark.needs("engine")
def test_a_broken_archive_is_removed_and_said(
    references: list[str], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image_cache.save("dbt", references)
    (cache / "dbt.tar").write_bytes((cache / "dbt.tar").read_bytes()[:1000])
    docker("image", "rm", "--force", *references)
    image_cache.load("dbt", references[0])
    assert not (cache / "dbt.tar").exists()
    assert "is of no use" in capsys.readouterr().out
    image_cache.load("dbt", references[0])  # as if there had never been one


@pytest.mark.needs("docker")
def test_what_cannot_be_kept_is_said(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image_cache.save("dbt", ["events-platform-test/none:1"])
    assert "… dbt is not kept for the next run: " in capsys.readouterr().out
    assert list(cache.iterdir()) == []


@pytest.mark.needs("engine")
def test_nothing_is_kept_unless_it_is_asked_for(
    references: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PLATFORM_KEEP_IMAGES")
    image_cache.save("dbt", references)
    assert not cache.exists()

"""Images that a run saves for the next, on a real engine: saved once, loaded if they are missing, never relied on."""

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
def test_saved_images_are_loaded_if_the_engine_lacks_them(references: list[str], cache: Path) -> None:
    image_cache.save("dbt", references)
    docker("image", "rm", "--force", *references)
    assert not any(map(engine.has_image, references))
    image_cache.load("dbt", references[0])
    assert all(map(engine.has_image, references))
    assert {path.name for path in cache.iterdir()} == {"dbt.tar", "dbt.image"}


@pytest.mark.needs("engine")
def test_an_archive_is_replaced_only_for_another_image(references: list[str], cache: Path) -> None:
    image_cache.save("dbt", references[:1])
    written = (cache / "dbt.tar").stat().st_mtime_ns
    image_cache.save("dbt", references[:1])
    assert (cache / "dbt.tar").stat().st_mtime_ns == written
    image_cache.save("dbt", references[1:])
    assert (cache / "dbt.image").read_text() == references[1]
    docker("image", "rm", "--force", *references)
    image_cache.load("dbt", references[0])  # the archive has another image
    assert not engine.has_image(references[0])
    assert engine.has_image(references[1])


@pytest.mark.needs("engine")
def test_a_broken_archive_is_removed_and_reported(
    references: list[str], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image_cache.save("dbt", references)
    (cache / "dbt.tar").write_bytes((cache / "dbt.tar").read_bytes()[:1000])
    docker("image", "rm", "--force", *references)
    image_cache.load("dbt", references[0])
    assert not (cache / "dbt.tar").exists()
    assert "cannot be loaded" in capsys.readouterr().out
    image_cache.load("dbt", references[0])  # does nothing


@pytest.mark.needs("docker")
def test_an_image_that_cannot_be_saved_is_reported(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image_cache.save("dbt", ["events-platform-test/none:1"])
    assert "… dbt cannot be saved for the next run: " in capsys.readouterr().out
    assert list(cache.iterdir()) == []


@pytest.mark.needs("engine")
def test_without_the_variable_nothing_is_saved(
    references: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PLATFORM_KEEP_IMAGES")
    image_cache.save("dbt", references)
    assert not cache.exists()

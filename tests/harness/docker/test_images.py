"""An image's tag changes with its files, arguments and base image, and with nothing else."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.docker import images
from harness.project import pins

FILES = {
    "airflow/Dockerfile": "FROM one",
    "airflow/dags/a.py": "a",
    "airflow/feeds/events.yaml": "kind: DataContract",
    "airflow/include/feeds/load.py": "load",
    "airflow/data/events.csv": "sample",
    "requirements/feeds.txt": "fsspec==1",
    "dbt/Dockerfile": "FROM two",
    "dbt/run.py": "run",
    "dbt/models/m.sql": "select 1",
    "requirements/dbt.txt": "dbt==1",
}
Change = Callable[[Path, pytest.MonkeyPatch], object]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a repository with only the files of the images."""
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o644)
    monkeypatch.setattr(images, "ROOT", tmp_path)
    monkeypatch.delenv("PLATFORM_AIRFLOW_IMAGE", raising=False)
    monkeypatch.delenv("PLATFORM_PYTHON_IMAGE", raising=False)
    return tmp_path


def references() -> tuple[str, str]:
    return images.airflow().reference, images.dbt().reference


def write(name: str, content: str = "other") -> Change:
    def change(root: Path, _: pytest.MonkeyPatch) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)

    return change


def test_a_reference_is_a_name_and_a_digest() -> None:
    for reference, name in zip(references(), ("airflow", "dbt"), strict=True):
        assert re.fullmatch(rf"events-platform/{name}:[0-9a-f]{{16}}", reference)
    assert references() == references()


@pytest.mark.parametrize("name", FILES)
def test_a_file_changes_the_tag_of_its_image_only(root: Path, name: str) -> None:
    airflow, dbt = references()
    (root / name).write_text(FILES[name] + " ")
    is_of_dbt = "dbt" in name
    assert (images.airflow().reference == airflow) is is_of_dbt
    assert (images.dbt().reference == dbt) is not is_of_dbt


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda root, _: (root / "dbt/run.py").rename(root / "dbt/runs.py"), id="a path"),
        pytest.param(lambda root, _: (root / "dbt/run.py").chmod(0o755), id="the executable bit"),
        pytest.param(write("dbt/models/n.sql"), id="a new file"),
        pytest.param(lambda root, _: (root / "dbt/models/m.sql").unlink(), id="a removed file"),
        pytest.param(lambda _, patch: patch.setenv("PLATFORM_PYTHON_IMAGE", "mirror/python:3"), id="the base image"),
    ],
)
def test_a_different_build_changes_the_tag(root: Path, monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    airflow, dbt = references()
    change(root, monkeypatch)
    assert images.dbt().reference != dbt
    assert images.airflow().reference == airflow


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda root, _: os.utime(root / "dbt/run.py", (1, 1)), id="a file's age"),
        pytest.param(lambda root, _: (root / "dbt/run.py").chmod(0o600), id="a file's readers"),
        pytest.param(write("dbt/__pycache__/run.cpython-313.pyc"), id="bytecode"),
        pytest.param(write("airflow/include/feeds/__pycache__/load.pyc"), id="bytecode below"),
        pytest.param(write("dbt/target/manifest.json"), id="dbt's target"),
        pytest.param(write("dbt/logs/dbt.log"), id="dbt's log"),
        pytest.param(write("dbt/dbt_packages/x/x.sql"), id="dbt's packages"),
        pytest.param(write("airflow/data/generate.py"), id="a file of no image"),
        pytest.param(lambda root, _: (root / "dbt/empty").mkdir(), id="an empty folder"),
    ],
)
def test_other_changes_leave_the_tag(root: Path, monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    before = references()
    change(root, monkeypatch)
    assert references() == before


def test_a_build_argument_changes_the_tag() -> None:
    made = [images.Image("a", "Dockerfile", "base", arguments, {}) for arguments in ({}, {"A": "1"}, {"A": "2"})]
    assert len({image.reference for image in made}) == 3


def test_files_of_the_user_are_in_the_image_and_change_its_tag_by_their_content(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    for name in ("a.csv", "b.csv"):
        (folder / name).write_text(name)
    tags = set()
    for year in ("2020", "2021"):
        (folder / year).mkdir()
        (folder / year / "x.csv").write_text(year)
    for uri, in_pods, copied in (
        (str(folder / "a.csv"), "/opt/airflow/data/given/orders/a.csv", {"a.csv"}),
        (str(folder / "*.csv"), "/opt/airflow/data/given/orders/*.csv", {"a.csv", "b.csv"}),
        (
            str(folder / "{start:%Y}/x.csv"),
            "/opt/airflow/data/given/orders/{start:%Y}/x.csv",
            {"2020/x.csv", "2021/x.csv"},
        ),
        (str(root / "airflow/data/events.csv"), "/opt/airflow/data/events.csv", set()),
        ("s3://bucket/orders/*.csv", "s3://bucket/orders/*.csv", set()),
    ):
        assert images.in_pods("orders", uri) == in_pods
        image = images.airflow({"orders": uri})
        given = {path for path in image.files if path.startswith(images.GIVEN)}
        assert given == {f"airflow/data/given/orders/{name}" for name in copied}
        tags.add(image.reference)
    assert len(tags) == 4  # what pods read from elsewhere, or have as a sample, changes nothing
    assert images.airflow().reference in tags
    (folder / "a.csv").write_text("other")
    assert images.airflow({"orders": str(folder / "a.csv")}).reference not in tags


def test_the_dockerfile_gets_the_base_image_and_finds_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    airflow, dbt = images.airflow(), images.dbt()
    assert (airflow.base, airflow.arguments) == (pins.image("airflow"), {"AIRFLOW_IMAGE": pins.image("airflow")})
    assert (dbt.base, dbt.arguments) == (pins.image("python"), {"PYTHON_IMAGE": pins.image("python")})
    monkeypatch.undo()  # the repository's own files from here on
    for image in (images.airflow(), images.dbt()):
        text = image.files[image.dockerfile].read_text()
        for name in image.arguments:
            assert re.search(rf"^ARG {name}\b.*\n(?:.*\n)*?FROM \$\{{{name}\}}", text, re.MULTILINE)
        for copied in re.findall(r"^COPY (?:--chmod=\S+ )?(?!--)(\S+) ", text, re.MULTILINE):
            assert any(path == copied or path.startswith(f"{copied.rstrip('/')}/") for path in image.files), copied

"""The Pythons of a machine are found by their versions, and `-- --python` chooses one for a session."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.project import environments, posargs, pythons


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Put Pythons on the path and into pyenv's folder; give their paths by version."""
    places = {"3.11.901": "python3.11", "3.12.90": "python3", "3.12.902": "pyenv/versions/3.12.902/bin/python3"}
    for version, place in places.items():
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho {version}\n")
        path.chmod(0o755)
    for version, content in {
        "3.13.901": "#!/nowhere/python\n",
        "3.13.902": "#!/bin/sh\necho Python\n",
    }.items():  # broken
        path = tmp_path / "pyenv" / "versions" / version / "bin" / "python3"
        path.parent.mkdir(parents=True)
        path.write_text(content)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"/nowhere{os.pathsep}{tmp_path}")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    pythons.found.cache_clear()
    yield {version: str(tmp_path / place) for version, place in places.items()}
    pythons.found.cache_clear()


def test_interpreters_are_found_by_version(installed: dict[str, str]) -> None:
    assert installed.items() <= pythons.found().items()
    newest = ("3.12.902", installed["3.12.902"])
    assert pythons.find("3.12.902") == pythons.find("3.12") == newest
    assert pythons.find("3.12.90") == ("3.12.90", installed["3.12.90"])


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("version", ["3.1", "3.12.9", "2.7", "", "python3.12"])
def test_a_missing_version_is_refused(version: str) -> None:
    with pytest.raises(pythons.PythonMissingError, match=rf"^Python {version} was not found, only .*3\.11\.901, .*"):
        environments.install("tests", version)


@pytest.mark.parametrize(
    ("arguments", "version", "rest"),
    [
        ([], None, []),
        (["-k", "a b", "--pythons"], None, ["-k", "a b", "--pythons"]),
        (["--python", "3.13", "-m", "not slow"], "3.13", ["-m", "not slow"]),
        (["-x", "--python=3.13"], "3.13", ["-x"]),
    ],
)
def test_python_is_an_option_of_every_session(arguments: list[str], version: str | None, rest: list[str]) -> None:
    assert posargs.split(arguments) == (version, rest)

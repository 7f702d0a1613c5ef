"""The harness's packages import downwards only, and no module imports itself by way of others."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.project.paths import ROOT

LEVELS = (  # from the top; a package imports from its own level and from those below
    ("__main__",),
    ("commands", "ci"),
    ("replay", "diff"),
    ("targets",),
    ("kubernetes", "docker", "warehouse", "pipeline", "oracle", "contracts"),
    ("processes",),
    ("reporting",),
    ("project", "errors"),
)
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}
Imports = dict[str, set[str]]  # file, from the root: the files of the harness that it imports


def imports(root: Path) -> Imports:
    """Read what each module of ROOT/harness imports, wherever in the module the statement stands."""
    files = {path.relative_to(root).as_posix(): path for path in sorted((root / "harness").rglob("*.py"))}

    def imported(tree: ast.Module) -> Iterator[str]:
        for node in ast.walk(tree):
            match node:
                case ast.ImportFrom(module=str(module), names=names, level=0):
                    for alias in names:
                        yield f"{module}.{alias.name}"
                        yield module
                case ast.ImportFrom(level=level):
                    assert level == 0, "imports are absolute"
                case ast.Import(names=names):
                    yield from (alias.name for alias in names)

    def file_of(module: str) -> str | None:
        path = module.replace(".", "/")
        return next((name for name in (f"{path}.py", f"{path}/__init__.py") if name in files), None)

    found: Imports = {}
    for name, path in files.items():
        of_file = (file_of(module) for module in imported(ast.parse(path.read_text(encoding="utf-8"))))
        found[name] = {other for other in of_file if other and not other.endswith("/__init__.py")}
    return found


def package(name: str) -> str:
    """Return the package of harness/… that the file NAME is in, or the module that it is."""
    return Path(name).parts[1].removesuffix(".py")


def upward(found: Imports) -> list[str]:
    """Return a line for each import of a package above the importing one."""
    return [
        f"{name} imports {other}, which is above it"
        for name, others in found.items()
        for other in sorted(others)
        if package(name) != "__init__" and LEVEL[package(other)] < LEVEL[package(name)]
    ]


def circles(found: Imports) -> list[str]:
    """Return a line for each import that leads back to its own module, and to its own package by way of another."""
    by_package: Imports = {}
    for name, others in found.items():
        by_package.setdefault(package(name), set()).update(map(package, others))

    def reached(graph: Imports, start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        return seen

    return [
        f"{name} imports {other}, which imports it, itself or by way of others"
        for name, others in found.items()
        for other in sorted(others)
        if name in reached(found, other)
        or (package(name) != package(other) and package(name) in reached(by_package, package(other)))
    ]


def test_every_package_has_a_level() -> None:
    names = {package(name) for name in imports(ROOT)} - {"__init__"}
    assert names == set(LEVEL)


def test_imports_go_down_the_list() -> None:
    assert upward(imports(ROOT)) == []


def test_imports_close_no_circle() -> None:
    assert circles(imports(ROOT)) == []


@pytest.mark.parametrize(
    ("files", "wrong"),
    [
        ({"docker/a.py": "from harness.warehouse import b", "warehouse/b.py": ""}, []),
        (
            {"project/a.py": "def f():\n    from harness.reporting.b import c", "reporting/b.py": "c = 1"},
            ["harness/project/a.py imports harness/reporting/b.py, which is above it"],
        ),
        (
            {"docker/a.py": "import harness.docker.b", "docker/b.py": "from harness.docker import a"},
            [
                "harness/docker/a.py imports harness/docker/b.py, which imports it, itself or by way of others",
                "harness/docker/b.py imports harness/docker/a.py, which imports it, itself or by way of others",
            ],
        ),
        (  # no module imports itself, but a package does
            {
                "docker/a.py": "from harness.warehouse import b",
                "docker/c.py": "",
                "warehouse/b.py": "",
                "warehouse/d.py": "from harness.docker import c",
            },
            [
                "harness/docker/a.py imports harness/warehouse/b.py, which imports it, itself or by way of others",
                "harness/warehouse/d.py imports harness/docker/c.py, which imports it, itself or by way of others",
            ],
        ),
    ],
)
def test_an_import_that_is_wrong_is_named(files: dict[str, str], wrong: list[str], tmp_path: Path) -> None:
    for name, text in files.items():
        path = tmp_path / "harness" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = imports(tmp_path)
    assert upward(found) + circles(found) == wrong

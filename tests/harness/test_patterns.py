"""No pattern has what a Python that the project supports gets wrong."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.project.paths import ROOT

# Possessive quantifiers and atomic groups: wrong up to 3.11.4, and a SystemError up to 3.12.7 (gh-106052, gh-100061,
# gh-101955). Groups that depend on another: 3.11.0 refuses some (gh-98740).
WRITTEN = re.compile(r"[+*?}]\+|\(\?[>(]")
COMPILED = {"POSSESSIVE_REPEAT", "ATOMIC_GROUP", "GROUPREF_EXISTS"}
FOLDERS = ("airflow", "dbt", "harness", "tests")


def written_in(source: str) -> Iterator[str]:
    """Yield the literals in SOURCE, docstrings aside, that have it."""
    tree = ast.parse(source)
    prose = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and node not in prose:
            text = node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
            if WRITTEN.search(text):
                yield f"{node.lineno}: {text}"


def operations(parsed: Any) -> Iterator[str]:
    """Yield the name of each operation in PARSED, which `re` made of a pattern, and of those inside."""
    for part in parsed:
        if hasattr(part, "name"):
            yield part.name
        elif isinstance(part, tuple | list) or hasattr(part, "data"):
            yield from operations(part)


def compiled(pattern: str | bytes) -> set[str]:
    return COMPILED & set(operations(importlib.import_module("re._parser").parse(pattern)))


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_literal_has_it(folder: str) -> None:
    files = [path for path in (ROOT / folder).rglob("*.py") if "target" not in path.parts]
    assert files
    assert [f"{path}:{found}" for path in files for found in written_in(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("module", ["feeds.uri", "feeds.lines", "feeds.values", "harness.oracle.row_values"])
def test_no_pattern_of_the_load_that_is_put_together_has_it(module: str) -> None:
    patterns = {name: it for name, it in vars(importlib.import_module(module)).items() if isinstance(it, re.Pattern)}
    assert patterns
    assert {name: found for name, it in patterns.items() if (found := compiled(it.pattern))} == {}


@pytest.mark.parametrize("pattern", ["a+@+", "(a*@+b)+", "a{1,2}@+c", "(?@>a)", "(?:b|[^c]?@+)d", "(a)(?@(1)b|c)"])
def test_it_is_found(pattern: str) -> None:
    real = pattern.replace("@", "")  # which keeps it out of this file
    assert compiled(real)
    assert list(written_in(f"x = rb'{real}'")) == [f"1: {real}"]
    assert not list(written_in(f"'''{real}'''"))


@pytest.mark.parametrize("pattern", ["a+", "(a+)+b", r"\+", "[+*]", "a{2}b+", "(?:a)", "(?=a)b*"])
def test_what_is_right_is_let_alone(pattern: str) -> None:
    assert not compiled(pattern)
    assert not list(written_in(f"x = r'{pattern}'"))


def test_the_folders_are_all_that_have_python() -> None:
    tops = {path.relative_to(ROOT).parts[0] for path in ROOT.glob("[!.]*/**/*.py")} - {"build"}
    assert tops <= set(FOLDERS)
    assert not list(written_in(Path(ROOT / "noxfile.py").read_text(encoding="utf-8")))

"""What the code has, read from the code itself: sessions, options, variables, exit codes, pins."""

import argparse
import ast
import importlib.util
import re
import signal
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import nox
import nox.registry

from events.errors import EventsError
from harness import errors
from harness.commands import cluster, e2e
from harness.project import tools
from harness.project.paths import ROOT

CODE = ("noxfile.py", "airflow/**/*.py", "dbt/*.py", "harness/**/*.py")
INTERNAL = {"PLATFORM_TAKEDOWN"}  # what a run tells the supervisor's last command; nobody sets it


@cache
def sessions() -> dict[str, Any]:
    """Return nox's sessions by their names, as nox has them after it has read the noxfile."""
    spec = importlib.util.spec_from_file_location("noxfile", ROOT / "noxfile.py")
    assert spec
    assert spec.loader
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return dict(nox.registry.get())


def default_sessions() -> list[str]:
    """Return the sessions that `nox` runs, in their order."""
    sessions()
    return list(nox.options.sessions or ())


def options(parser: argparse.ArgumentParser) -> set[str]:
    """Return the options of PARSER itself, but for --help."""
    return {option for action in parser._actions for option in action.option_strings} - {"-h", "--help"}


def e2e_options() -> set[str]:
    """Return the options of `nox -s e2e --`."""
    parser = argparse.ArgumentParser()
    e2e.add_options(parser)
    return options(parser)


def cluster_options() -> dict[str, set[str]]:
    """Return the options of each command of `nox -s cluster --`."""
    parser = argparse.ArgumentParser()
    cluster.add_options(parser)
    [commands] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {name: options(command) for name, command in commands.choices.items()}


@cache
def versions() -> dict[str, Any]:
    """Return what `cluster/versions.toml` pins."""
    return tomllib.loads((ROOT / "cluster" / "versions.toml").read_text(encoding="utf-8"))


def required_python() -> str:
    """Return the oldest Python that is supported."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["requires-python"]).removeprefix(">=")


@cache
def trees() -> dict[Path, ast.Module]:
    """Return the project's Python files, parsed; tests are not among them."""
    paths = sorted({path for pattern in CODE for path in ROOT.glob(pattern)})
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def strings(tree: ast.AST) -> Iterator[str]:
    """Yield each string of TREE; what an f-string puts in is `{}`."""
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


@cache
def platform_variables() -> set[str]:
    """Return every `PLATFORM_…` that the code reads; a name made from another is spelt out for each of those."""
    found = {text for tree in trees().values() for text in strings(tree) if re.fullmatch(r"PLATFORM_[A-Z_{}]+", text)}
    made_from = {
        "PLATFORM_{}_IMAGE": [f"PLATFORM_{name.upper()}_IMAGE" for name in versions()["images"]],
        "PLATFORM_{}": [f"PLATFORM_{name.upper()}" for name in tools.VERSION_ARGUMENTS],
        "PLATFORM_{}_URL": [f"PLATFORM_{name.upper()}_URL" for name in versions()["tools"]],
        "PLATFORM_DEADLINE_{}": ["PLATFORM_DEADLINE_…"],
    }
    unknown = {text for text in found if "{" in text} - set(made_from)
    assert not unknown, f"say what {unknown} stands for"
    plain = {text for text in found if "{" not in text and not text.endswith("_")}
    return (plain | {name for text in found & set(made_from) for name in made_from[text]}) - INTERNAL


def environment_reads(tree: ast.AST) -> set[str]:
    """Return the variables that TREE reads by their names: `os.environ["NAME"]` and `os.environ.get("NAME")`."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(
                value=ast.Attribute(attr="environ"), slice=ast.Constant(value=str(name)), ctx=ast.Load()
            ):
                found.add(name)
            case ast.Call(
                func=ast.Attribute(attr="get", value=ast.Attribute(attr="environ")),
                args=[ast.Constant(value=str(name)), *_],
            ):
                found.add(name)
    return found


def first_arguments(tree: ast.AST, called: str) -> Iterator[Any]:
    """Yield the constants that TREE's calls of CALLED, a function or a method, have as their first argument."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[ast.Constant(value=value), *_]):
                if name == called:
                    yield value


def task_variables() -> set[str]:
    """Return what the DAGs' tasks read from the environment, connections among it."""
    ours = [tree for path, tree in trees().items() if path.is_relative_to(ROOT / "airflow")]
    connections = set()
    for tree in ours:
        for node in ast.walk(tree):
            match node:
                case ast.Call(
                    func=ast.Attribute(attr="get", value=ast.Name(id="Connection")),
                    args=[ast.Constant(value=str(name))],
                ):
                    connections.add(f"AIRFLOW_CONN_{name.upper()}")
    return connections.union(*map(environment_reads, ours))


def dbt_variables() -> set[str]:
    """Return what `dbt/run.py` and the dbt project read from the environment."""
    project = [path for ending in ("yml", "sql") for path in (ROOT / "dbt").rglob(f"*.{ending}")]
    named = {
        name
        for path in project
        if "target" not in path.parts
        for name in re.findall(r"env_var\('(\w+)'", path.read_text(encoding="utf-8"))
    }
    return named | environment_reads(trees()[ROOT / "dbt" / "run.py"])


def kinds(base: type[EventsError]) -> Iterator[type[EventsError]]:
    """Yield every kind of error below BASE; the two that only have others below them are none."""
    for kind in base.__subclasses__():
        if kind is not errors.HarnessError:
            yield kind
        yield from kinds(kind)


def exit_codes() -> list[str]:
    """Return the exit codes of the foreseen errors, of `dbt/run.py` and of interrupts; one that is doubled, twice."""
    foreseen = [kind.exit_code for kind in kinds(EventsError)]
    dbt = trees()[ROOT / "dbt" / "run.py"]
    of_dbt = set(first_arguments(dbt, "stop"))
    handled = next(
        node
        for node in ast.walk(trees()[ROOT / "harness" / "commands" / "interrupts.py"])
        if isinstance(node, ast.FunctionDef) and node.name == "raise_interrupts"
    )
    signals = {node.attr for node in ast.walk(handled) if isinstance(node, ast.Attribute) and node.attr[:3] == "SIG"}
    interrupts = [128 + signal.Signals[name] for name in signals]
    return [str(code) for code in sorted([*foreseen, *of_dbt, *interrupts])]


def deadlines_waited_for() -> set[str]:
    """Return the names that the code gives `pins.deadline_s`."""
    return {name for tree in trees().values() for name in first_arguments(tree, "deadline_s")}

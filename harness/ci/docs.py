"""Write the tables that the code knows into the documentation, between `<!-- generated: NAME -->` and `<!-- end -->`.

    nox -s docs -- --write

The data is the code's own: nox's sessions, the parsers of the command line, the errors' docstrings and exit codes,
`harness.project.variables`, the pins, the settings in pyproject.toml. `nox -s docs` fails where a table differs.
"""

import argparse
import ast
import importlib
import importlib.util
import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import nox
import nox.registry

from feeds.errors import FeedError
from harness.ci import needs, plan
from harness.errors import HarnessError
from harness.project import variables
from harness.project.paths import ROOT
from harness.project.pins import versions
from harness.project.settings import places, settings
from harness.reporting import diagnostics

GENERATED = re.compile(r"^<!-- generated: ([\w-]+) -->\n.*?^<!-- end -->$", re.MULTILINE | re.DOTALL)
NO_DOCUMENTATION = ("build", "logs", "target", "__pycache__")  # folders that sessions make
Row = tuple[str, ...]


@cache
def documents() -> tuple[Path, ...]:
    """Return the project's Markdown files; git is not asked: the project may have been downloaded without it."""
    found = []
    for folder, below, names in os.walk(ROOT):
        below[:] = [n for n in below if n == ".github" or not (n.startswith(".") or n in NO_DOCUMENTATION)]
        found += [Path(folder, name) for name in names if name.endswith(".md")]
    return tuple(sorted(found))


def generate(text: str) -> str:
    """Return TEXT with each generated table as the code has it now; raise KeyError for an unknown table."""
    return GENERATED.sub(lambda match: f"<!-- generated: {match[1]} -->\n\n{TABLES[match[1]]()}\n\n<!-- end -->", text)


def write() -> None:
    """Write every document that differs from what `generate` makes of it, and print its name."""
    for path in documents():
        text = path.read_text(encoding="utf-8")
        if (wanted := generate(text)) != text:
            path.write_text(wanted, encoding="utf-8")
            print(f"✓ {path.relative_to(ROOT)} written")


def table(columns: Row, rows: Iterable[Row]) -> str:
    """Return a Markdown table; pipes in cells are escaped."""
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |".rstrip() for line in lines)


def code(*names: str) -> str:
    """Return NAMES as inline code, separated by commas."""
    return ", ".join(f"`{name}`" for name in names)


@cache
def sessions() -> dict[str, Any]:
    """Return nox's sessions by name, as nox has them after it has read the noxfile."""
    spec = importlib.util.spec_from_file_location("noxfile", ROOT / "noxfile.py")
    assert spec and spec.loader  # noqa: PT018
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return dict(nox.registry.get())


def default_sessions() -> list[str]:
    """Return the sessions that `nox` alone runs, in their order."""
    sessions()
    return list(nox.options.sessions or ())


@cache
def parser(session: str) -> argparse.ArgumentParser:
    """Return the parser of what follows `nox -s SESSION --`."""
    # At run time: the package `commands` imports this one.
    command = importlib.import_module(f"harness.commands.{session}")
    made = argparse.ArgumentParser()
    command.add_options(made)
    return made


def commands() -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of `nox -s cluster -- up` and its like, by the command's name."""
    [subparsers] = [a for a in parser("cluster")._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(subparsers.choices)


def options(of: argparse.ArgumentParser) -> dict[str, str]:
    """Return the help of each option of a parser, --help aside, by its name and the name of its value."""
    found = {}
    for action in of._actions:
        if action.option_strings and action.dest != "help":
            value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
            found[f"{action.option_strings[-1]}{value}"] = str(of._get_formatter()._expand_help(action))
    return found


def _sessions() -> Iterator[Row]:
    yield (code("nox"), code(*default_sessions()))
    for name, session in sessions().items():
        yield (code(name), (session.__doc__ or "").strip())


def _named(meanings: Mapping[str, object]) -> Iterator[Row]:
    for name, meaning in meanings.items():
        yield (code(name), str(meaning))


def _cluster() -> Iterator[Row]:
    common = set.intersection(*(set(options(of)) for of in commands().values()))
    for name, of in commands().items():
        own = "".join(f" [{option}]" for option in options(of) if option not in common)
        names = "".join(f" [{a.metavar}]" for a in of._actions if not a.option_strings)
        yield (code(f"nox -s cluster -- {name}{own}{names}"), of.description or "")


def errors(base: type[FeedError] = FeedError) -> Iterator[type[FeedError]]:
    """Yield every kind of foreseen error; the two that only have others below them are none."""
    for kind in base.__subclasses__():
        if kind is not HarnessError:
            yield kind
        yield from errors(kind)


def exit_codes() -> list[tuple[int, str]]:
    """Return each exit code and what has happened: of the errors, of `dbt/run.py` (its docstring), of interrupts."""
    importlib.import_module("harness.commands.command_line")  # and with it all errors
    of_dbt = " ".join((docstring(ROOT / "dbt" / "run.py").partition("Exit codes:")[2]).split())
    signals = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    return sorted(
        [(kind.exit_code, (kind.__doc__ or "").partition("\n")[0]) for kind in errors()]
        + [(int(number), f"dbt: {text}.") for number, text in re.findall(r"(3\d) (.+?)(?=[,;] \d)", of_dbt)]
        + [(128 + number, f"The session was interrupted by {number.name}.") for number in signals]
    )


def docstring(path: Path) -> str:
    """Return the docstring of the module at PATH, which is not imported."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _variables(listed: Iterable[variables.Variable]) -> Iterator[Row]:
    for name, meaning, default in listed:
        yield (code(name), meaning, default)


def _pins() -> Iterator[Row]:
    for image in versions()["images"].values():
        name, _, version = image.partition("@")[0].rpartition(":")
        yield (f"image `{name}`", version, "")
    for name, tool in versions()["tools"].items():
        below = f", below {tool['below']}" if "below" in tool else ""
        yield (name, tool["version"], f"{tool['minimum']} or newer{below}")
    yield (f"chart `airflow` (Airflow {versions()['chart']['airflow']})", versions()["chart"]["version"], "")


def _places() -> Iterator[Row]:
    for name, place in places().items():
        node = place.get("node") or (versions()["images"]["node"] if place["target"] == "kind" else "")
        when = "every change and every night" if place.get("on") == "change" else "every night"
        yield (code(name), place["target"], place["runner"], node.partition("@")[0].rpartition(":v")[2], when)


def _needs() -> Iterator[Row]:
    for name, need in needs.NEEDS.items():
        yield (code(name), need.title, re.sub(r"(https://\S+)", r"<\1>", need.advice))


def _deadlines() -> Iterator[Row]:
    text = (ROOT / "cluster" / "versions.toml").read_text(encoding="utf-8").partition("[deadlines]")[2]
    for name, seconds, meaning in re.findall(r"^(\w+) = (\d+)(?: # (.+))?$", text, re.MULTILINE):
        yield (code(f"PLATFORM_DEADLINE_{name.upper()}"), seconds, meaning)


def _packages() -> Iterator[Row]:
    for path in sorted((ROOT / "harness").glob("*/__init__.py")):
        yield (code(f"{path.parent.name}/"), docstring(path).partition("\n")[0])


def _decisions() -> Iterator[Row]:
    for path in sorted((ROOT / "docs" / "adr").glob("*.md")):
        title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        yield (f"[{path.stem[:4]}](adr/{path.name})", title.partition(". ")[2] or title)


TABLES: dict[str, Callable[[], str]] = {
    "sessions": lambda: table(("session", "what it does"), _sessions()),
    "e2e-options": lambda: table(("option", "meaning"), _named(options(parser("e2e")))),
    "dbt-options": lambda: table(("option", "meaning"), _named(options(parser("dbt")))),
    "diff-options": lambda: table(("option", "meaning"), _named(options(parser("diff")))),
    "cluster-commands": lambda: table(("command", "what it does"), _cluster()),
    "exit-codes": lambda: table(("code", "meaning"), ((str(number), text) for number, text in exit_codes())),
    "pin-variables": lambda: table(("variable", "meaning", "default"), _variables(variables.pins())),
    "task-variables": lambda: table(("variable", "meaning", "default"), _variables(variables.TASKS)),
    "dbt-variables": lambda: table(("variable", "meaning", "default"), _variables(variables.DBT)),
    "pins": lambda: table(("what", "pinned", "an installed one is used if it is"), _pins()),
    "deadlines": lambda: table(("variable", "seconds", "what for"), _deadlines()),
    "limits": lambda: table(("session", "minutes"), _named(settings()["minutes"])),
    "tags": lambda: "\n".join(line for line in (plan.__doc__ or "").splitlines() if line.startswith("|")),
    "diagnostics": lambda: table(("file or folder", "what"), _named(diagnostics.CONTENTS)),
    "places": lambda: table(("place", "target", "runner", "Kubernetes", "when"), _places()),
    "needs": lambda: table(("need", "what", "how to get it"), _needs()),
    "packages": lambda: table(("package", "what it does"), _packages()),
    "decisions": lambda: table(("decision", "title"), _decisions()),
}


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(prog="nox -s docs --", description=__doc__)
    arguments.add_argument("--write", action="store_true", required=True, help="write the tables")
    arguments.parse_args()
    write()

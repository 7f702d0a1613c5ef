"""The documentation says what the code has: sessions, options, variables, exit codes, pins, files."""

import ast
import re
from datetime import date

import pytest

from harness.project.paths import ROOT
from harness.warehouse.server import MAJOR
from tests.docs import documents, project
from tests.docs.documents import differences, read, section, table

README, OPERATIONS, ARCHITECTURE = "README.md", "docs/operations.md", "docs/architecture.md"
TEXTS = [str(path.relative_to(ROOT)) for path in documents.markdown()]
PRESENT = [name for name in TEXTS if name != "CHANGELOG.md" and not name.startswith("docs/adr/")]  # not of their time


@pytest.mark.parametrize("name", TEXTS)
def test_every_link_leads_somewhere(name: str) -> None:
    assert documents.broken_links(ROOT / name, read(name)) == []


# --- sessions -------------------------------------------------------------------------------------------------------


def test_the_readme_has_every_session() -> None:
    told = documents.names(row[0] for row in table(section(read(README), "Sessions"), "session"))
    assert differences(told, {"nox", *project.sessions()}) == []


def test_the_readme_says_what_nox_alone_runs() -> None:
    [row] = [row for row in table(section(read(README), "Sessions"), "session") if row[0] == "`nox`"]
    assert documents.names([row[1]]) == project.default_sessions()
    sentence = re.search(r"runs the tests: the sessions (.*?)\.", read(README), re.DOTALL)
    assert sentence
    assert documents.names([sentence[1]]) == project.default_sessions()


def test_every_session_says_in_one_line_what_it_does() -> None:
    docs = {name: (session.__doc__ or "").strip() for name, session in project.sessions().items()}
    assert not [name for name, doc in docs.items() if "\n" in doc or not doc.endswith(".")]


def test_sessions_are_tagged_for_ci_or_called_by_hand() -> None:
    by_tag = {
        tag: {name for name, session in project.sessions().items() if tag in session.tags} for tag in ("ci", "docs")
    }
    assert set(project.default_sessions()) <= by_tag["ci"]
    assert by_tag["docs"] <= by_tag["ci"]
    assert "docs" in by_tag["docs"]


@pytest.mark.parametrize("name", [*TEXTS, *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob(".github/**/*.yml"))])
def test_commands_name_sessions_that_there_are(name: str) -> None:
    assert documents.sessions_called(read(name)) <= set(project.sessions())


# --- options --------------------------------------------------------------------------------------------------------


def options_in(text: str) -> list[str]:
    """Return the options in the code of TEXT."""
    return [option for span in documents.code(text) for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", span)]


def test_options_are_found_in_code_alone() -> None:
    assert options_in("`--a B [--c]`, --d, `-e`, `nox -- --f-g 1`") == ["--a", "--c", "--f-g"]


def test_the_readme_has_every_option_of_e2e() -> None:
    told = options_in("\n".join(row[0] for row in table(section(read(README), "Sessions"), "option")))
    assert differences(told, project.e2e_options()) == []


def test_the_operations_have_every_option_of_the_cluster() -> None:
    there_are = set().union(*project.cluster_options().values())
    told = set(options_in(section(read(OPERATIONS), "The cluster"))) - (project.e2e_options() - there_are)
    assert differences(told, there_are) == []


def test_the_operations_have_every_command_of_the_cluster() -> None:
    rows = table(section(read(OPERATIONS), "The cluster"), "command")
    told = {name for row in rows for name in re.findall(r"nox -s cluster -- (\w+)", row[0])}
    assert differences(told, project.cluster_options()) == []


@pytest.mark.parametrize("name", TEXTS)
def test_commands_have_options_that_there_are(name: str) -> None:
    assert documents.options_called(read(name), "nox -s e2e") <= project.e2e_options()
    for command, options in project.cluster_options().items():
        assert (
            documents.options_called(read(name).replace(f"cluster -- {command}", f"{command} --"), command) <= options
        )


# --- variables ------------------------------------------------------------------------------------------------------


def test_the_operations_have_every_variable_that_replaces_a_pin() -> None:
    told = documents.names(row[0] for row in table(section(read(OPERATIONS), "Overriding a pin"), "variable"))
    assert differences(told, project.platform_variables()) == []


def test_the_operations_have_every_variable_of_tasks_and_dbt() -> None:
    told = documents.names(row[0] for row in table(section(read(OPERATIONS), "Environment variables"), "variable"))
    assert differences(told, project.task_variables() | project.dbt_variables()) == []


@pytest.mark.parametrize("name", TEXTS)
def test_variables_that_are_mentioned_are_read(name: str) -> None:
    deadlines = {f"PLATFORM_DEADLINE_{what.upper()}" for what in project.versions()["deadlines"]}
    mentioned = set(re.findall(r"PLATFORM_[A-Z_]*[A-Z]", read(name))) - {"PLATFORM_DEADLINE"}
    assert mentioned <= project.platform_variables() | deadlines


def test_every_deadline_is_waited_for() -> None:
    assert differences(project.versions()["deadlines"], project.deadlines_waited_for()) == []


def test_variables_are_found_in_the_code() -> None:
    program = 'import os\nos.environ["A"]\nos.environ.get("B", "b")\nos.environ["C"] = f"PLATFORM_{1}_X"\n"D"'
    assert project.environment_reads(ast.parse(program)) == {"A", "B"}
    assert set(project.strings(ast.parse(program))) == {"A", "B", "b", "C", "PLATFORM_{}_X", "D"}
    assert list(project.first_arguments(ast.parse("stop(1, 2)\na.stop(3)\nstop(x)\ngo(4)"), "stop")) == [1, 3]


# --- exit codes -----------------------------------------------------------------------------------------------------


def test_the_operations_have_every_exit_code() -> None:
    codes = project.exit_codes()
    assert sorted(set(codes)) == sorted(codes), "two kinds of error have one exit code"
    told = [code for row in table(section(read(OPERATIONS), "Exit codes"), "code") for code in row[0].split(", ")]
    assert differences(told, codes) == []


# --- pins -----------------------------------------------------------------------------------------------------------


def wrong_pins(text: str) -> list[str]:
    """Return the images and versions in TEXT that are not the pinned ones."""
    images = {image.partition("@")[0] for image in project.versions()["images"].values()}
    repositories = "|".join(re.escape(image.rpartition(":")[0]) for image in images)
    wrong = [name for name in re.findall(rf"(?<![\w/.-])(?:{repositories}):[\w][\w.-]*\w", text) if name not in images]
    versions = {
        "Airflow": project.versions()["chart"]["airflow"],
        "PostgreSQL": str(MAJOR),
        "Python": project.required_python(),
    }
    for what, version in re.findall(r"(Airflow|PostgreSQL|Python) (\d+(?:\.\d+)*)", text):
        if not f"{versions[what]}.".startswith(f"{version}."):
            wrong.append(f"{what} {version}")
    return wrong


@pytest.mark.parametrize("name", PRESENT)
def test_pins_that_are_quoted_are_the_pinned_ones(name: str) -> None:
    assert wrong_pins(read(name)) == []


def test_wrong_pins_are_found() -> None:
    pinned = project.versions()["images"]["postgres"]
    assert wrong_pins(f"`{pinned}`. `apache/airflow:1.0-python3.13`, python:3.9-slim. PostgreSQL 12") == [
        "apache/airflow:1.0-python3.13",
        "python:3.9-slim",
        "PostgreSQL 12",
    ]


@pytest.mark.parametrize("name", ["airflow", "dbt"])
def test_an_image_that_is_built_by_hand_has_the_pinned_base(name: str) -> None:
    text = read(f"{name}/Dockerfile")
    [base] = re.findall(r"^ARG \w+_IMAGE=(\S+)$", text, re.MULTILINE)
    assert base in project.versions()["images"].values()


# --- files ----------------------------------------------------------------------------------------------------------


def layout() -> list[tuple[str, str]]:
    """Return the lines of the README's layout: a path, and what is said of it."""
    rows = [line.strip() for fenced, line in documents.lines(read(README)) if fenced]
    pairs = [re.split(r"\s{2,}", row, maxsplit=1) for row in rows]
    return [(pair[0], pair[1]) for pair in pairs if len(pair) == 2 and re.fullmatch(r"[\w./-]+", pair[0])]


def test_the_layout_names_files_that_there_are() -> None:
    assert [path for path, _ in layout() if not (ROOT / path).exists()] == []
    assert {"noxfile.py", "harness/", "docs/"} <= {path for path, _ in layout()}


@pytest.mark.parametrize(("folder", "pattern"), [("tests/", "*/"), ("docs/", "*")])
def test_the_layout_names_all_of_a_folder(folder: str, pattern: str) -> None:
    told = re.findall(r"[\w.-]+", dict(layout())[folder])
    there = {path.name for path in (ROOT / folder).glob(pattern) if path.is_dir() or path.suffix == ".md"}
    assert differences(told, there - {"__pycache__"}) == []


def test_the_architecture_has_every_package_and_what_its_docstring_says() -> None:
    told = {row[0]: row[1] for row in table(section(read(ARCHITECTURE), "The harness"), "package")}
    packages = sorted((ROOT / "harness").glob("*/__init__.py"))
    docstrings = {f"`{path.parent.name}/`": ast.get_docstring(ast.parse(path.read_text())) for path in packages}
    assert told == {name: (text or "").partition("\n")[0] for name, text in docstrings.items()}


# --- the changelog --------------------------------------------------------------------------------------------------

CHANGES = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


def wrong_in_changelog(text: str) -> list[str]:
    """Return how TEXT is not of Keep a Changelog's form: Unreleased first, then versions from new to old."""
    wrong = []
    releases = re.findall(r"^## (.+)$", text, re.MULTILINE)
    if releases[:1] != ["[Unreleased]"]:
        wrong.append("the first section is not [Unreleased]")
    released = []
    for title in releases[1:]:
        if match := re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - (\d{4}-\d\d-\d\d)", title):
            date.fromisoformat(match[4])
            released.append((tuple(map(int, match.groups()[:3])), match[4]))
        else:
            wrong.append(f"{title} is not of the form [1.2.3] - 2026-01-31")
    versions, dates = [version for version, _ in released], [day for _, day in released]
    if versions != sorted(set(versions), reverse=True) or dates != sorted(dates, reverse=True):
        wrong.append("the versions do not go from new to old")
    for release in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        name, kinds = release.partition("\n")[0], re.findall(r"^### (.+)$", release, re.MULTILINE)
        wrong += [f"{name} has a section {kind}" for kind in kinds if kind not in CHANGES]
        wrong += [f"{name} has {kind} twice" for kind in CHANGES if kinds.count(kind) > 1]
        wrong += [
            f"{name} says nothing under {part.partition(chr(10))[0]}"
            for part in re.split(r"^### ", release, flags=re.MULTILINE)[1:]
            if not re.search(r"^- \S", part, re.MULTILINE)
        ]
    return wrong


def test_the_changelog_is_of_its_form() -> None:
    assert wrong_in_changelog(read("CHANGELOG.md")) == []


GOOD = "# C\n## [Unreleased]\n## [1.10.0] - 2026-02-01\n### Added\n- a\n## [1.9.0] - 2026-01-01\n### Fixed\n- b\n"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (GOOD, []),
        (GOOD.replace("## [Unreleased]\n", ""), ["the first section is not [Unreleased]"]),
        (GOOD.replace("1.10.0", "1.8.0"), ["the versions do not go from new to old"]),
        (GOOD.replace("2026-02-01", "2025-02-01"), ["the versions do not go from new to old"]),
        (GOOD.replace("[1.9.0] - ", "1.9.0 "), ["1.9.0 2026-01-01 is not of the form [1.2.3] - 2026-01-31"]),
        (GOOD.replace("Fixed", "Mended"), ["[1.9.0] - 2026-01-01 has a section Mended"]),
        (GOOD.replace("- b", "b"), ["[1.9.0] - 2026-01-01 says nothing under Fixed"]),
        (GOOD + "### Fixed\n- c\n", ["[1.9.0] - 2026-01-01 has Fixed twice"]),
    ],
)
def test_a_changelog_of_another_form_is_found(text: str, wrong: list[str]) -> None:
    assert wrong_in_changelog(text) == wrong

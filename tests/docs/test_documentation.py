"""The documentation agrees with the code: links, generated tables, commands, variables, pins, the changelog's form."""

import itertools
import re
import subprocess
import tomllib
from datetime import date
from pathlib import Path

import pytest

from harness.ci import docs
from harness.project import pins, variables
from harness.project.environments import python_of
from harness.project.paths import ROOT
from harness.warehouse import server as postgres

DOCUMENTS = [str(path.relative_to(ROOT)) for path in docs.documents()]
PRESENT = [name for name in DOCUMENTS if name != "CHANGELOG.md" and not name.startswith("docs/adr/")]  # not history
WORKFLOWS = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob(".github/**/*.yml"))]
PARSERS = {
    **{f"nox -s {name} --": docs.parser(name) for name in ("e2e", "release")},
    **{f"nox -s cluster -- {name}": parser for name, parser in docs.commands().items()},
}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.needs("history")
def test_every_markdown_file_of_the_project_is_checked() -> None:
    argv = ("git", "ls-files", "-z", "--", "*.md")
    listed = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    assert {name for name in listed if name and (ROOT / name).exists()} <= set(DOCUMENTS)


def broken_links(folder: Path) -> str:
    """Return what rumdl reports of the Markdown below FOLDER: links to no file, and to no heading."""
    rumdl = python_of("lint").with_name("rumdl")
    assert rumdl.exists(), "nox -s docs installs it"
    argv = (rumdl, "check", "--no-cache", "--quiet", "--output-format", "concise", "--enable", "MD051,MD057", ".")
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=60, check=False).stdout


def test_every_link_leads_to_a_file_and_a_heading() -> None:
    assert broken_links(ROOT) == ""


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A\n\n[a](#a) [b](b.md#b) [c](c.md) [d](b.md#d) [e](#e) `[f](f.md)`\n")
    (tmp_path / "b.md").write_text("# B\n")
    assert sorted(re.findall(r"'([^']*)' (?:does not exist|not found)", broken_links(tmp_path))) == ["#e", "c.md", "d"]


def test_the_list_of_pages_has_every_page() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= set(re.findall(r"\[([\w.-]+)\]\(\1\)", read("docs/README.md")))


# --- generated tables -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTS)
def test_generated_tables_are_up_to_date(name: str) -> None:
    assert docs.generate(read(name)) == read(name), "write it: nox -s docs -- --write"
    begun = re.findall(r"^<!-- generated: ([\w-]+) -->$", read(name), re.MULTILINE)
    assert begun == docs.GENERATED.findall(read(name)), "a table has no end"


def test_every_table_is_in_a_document() -> None:
    assert {table for name in DOCUMENTS for table in docs.GENERATED.findall(read(name))} == set(docs.TABLES)


def test_a_table_that_is_out_of_date_is_replaced_and_an_unknown_one_refused() -> None:
    text = "# A\n\n<!-- generated: limits -->\nold\n<!-- end -->\n\nb\n"
    written = docs.generate(text)
    assert written == text.replace("old", f"\n{docs.TABLES['limits']()}\n")
    assert "| `lint` | 10 |" in written
    assert docs.generate(written) == written
    with pytest.raises(KeyError, match="unknown"):
        docs.generate(text.replace("limits", "unknown"))


def test_what_tables_are_made_from_is_complete() -> None:
    descriptions = {name: (session.__doc__ or "").strip() for name, session in docs.sessions().items()}
    assert [name for name, text in descriptions.items() if "\n" in text or not text.endswith(".")] == []
    parsers = [*PARSERS.values(), docs.parser("dbt")]
    assert [name for parser in parsers for name, text in docs.options(parser).items() if text in ("", "None")] == []
    assert [name for name, parser in docs.commands().items() if not parser.description] == []
    codes = [code for code, _ in docs.exit_codes()]
    assert len(codes) == len(set(codes)), "two kinds of error have one exit code"
    assert [code for code, text in docs.exit_codes() if not text.endswith(".")] == []
    of_dbt = {int(code) for code in re.findall(r"stop\(\s*(\d+)", read("dbt/run.py") + read("dbt/warehouse_lock.py"))}
    assert of_dbt == {code for code in codes if 30 <= code < 36}  # 36 is that of a contract: 10 to 29 are taken


def test_default_sessions_run_on_every_change_and_docs_on_changes_of_documentation() -> None:
    tagged = {tag: {name for name, s in docs.sessions().items() if tag in s.tags} for tag in ("ci", "docs")}
    assert set(docs.default_sessions()) <= tagged["ci"]
    assert {"docs", "lint"} <= tagged["docs"] <= tagged["ci"]


# --- commands -------------------------------------------------------------------------------------------------------


def code(text: str) -> list[str]:
    """Return the code in TEXT: fenced and indented lines, and what is between backticks."""
    blocks: list[str] = []
    rest: list[str] = []
    is_fenced = False
    for line in text.splitlines():
        if re.match(r"\s*(```|~~~)", line):
            is_fenced = not is_fenced
        else:
            (blocks if is_fenced or re.match(r" {4}\S", line) else rest).append(line.strip())
    return blocks + re.findall(r"(?<!`)`([^`\n]+)`(?!`)", "\n".join(rest))


def sessions_called(text: str) -> set[str]:
    """Return the sessions that commands in TEXT name: `nox -s a b -- …`."""
    commands = re.findall(r"\bnox(?:\[uv\]')? (?:-s|--sessions?) ([^`#|&;\n]+)", "\n".join(code(text)))
    called = {name for words in commands for name in re.split(r" -|\s*[,.)…]|$", words, maxsplit=1)[0].split()}
    return {name for name in called if not name.startswith('"$')}  # a variable of a workflow


def options_called(text: str, command: str) -> set[str]:
    """Return the options that commands in TEXT give to COMMAND, `nox -s e2e --` for example."""
    tails = [line.partition(f"{command} ")[2] for line in code(text)]
    return {option for tail in tails for option in re.findall(r"(?:^|(?<=[ \[]))--[a-z][a-z-]*", tail)}


@pytest.mark.parametrize("name", [*DOCUMENTS, *WORKFLOWS])
def test_commands_name_existing_sessions_and_options(name: str) -> None:
    assert sessions_called(read(name)) <= set(docs.sessions())
    for command, parser in PARSERS.items():
        assert options_called(read(name), command) <= {option.split()[0] for option in docs.options(parser)}, command


def test_sessions_and_options_of_commands_are_found() -> None:
    text = (
        "```text\nnox -s a\n```\n\n    nox -s b -- --b\n\nnox -s c. `nox -s d e -- --d 1 [--e]`, `uvx 'nox[uv]' -s f`"
    )
    assert sessions_called(text) == {"a", "b", "d", "e", "f"}
    assert options_called(text, "nox -s d e --") == {"--d", "--e"}
    assert options_called(text, "nox -s b --") == {"--b"}
    assert options_called(text, "nox -s e --") == set()


# --- variables ------------------------------------------------------------------------------------------------------


def code_files(*patterns: str) -> list[Path]:
    return [path for pattern in patterns for path in ROOT.glob(pattern) if "target" not in path.parts]


def test_variables_are_those_that_the_code_reads() -> None:
    quoted = re.compile(r'"(PLATFORM_(?:[A-Z_]|\{[^}]+\})+)"')
    found = {name for path in code_files("harness/**/*.py") for name in quoted.findall(path.read_text())}
    found -= {"PLATFORM_TAKEDOWN"}  # the harness sets it itself
    listed = {variable.name for variable in variables.pins()}
    patterns = [re.sub(r"\{[^}]+\}", "([A-Z]+|…)", name) for name in found]
    assert [name for name in listed if not any(re.fullmatch(pattern, name) for pattern in patterns)] == []
    assert [p for p in patterns if not any(re.fullmatch(p, name) for name in listed)] == []

    tasks = "\n".join(path.read_text() for path in code_files("airflow/**/*.py"))
    connections = {f"AIRFLOW_CONN_{name.upper()}" for name in re.findall(r'Connection\.get\("(\w+)"', tasks)}
    of_feeds = {f"<FEED>_{name}" for name in re.findall(r'variable\(feed, "(\w+)"\)', tasks)}
    assert environment_reads(tasks) | connections | of_feeds == {variable.name for variable in variables.TASKS}
    project = "\n".join(path.read_text() for path in code_files("dbt/**/*.yml", "dbt/**/*.sql"))
    programs = read("dbt/run.py") + read("dbt/warehouse_lock.py")
    of_dbt = environment_reads(programs) | set(re.findall(r"env_var\('(\w+)'", project))
    of_dbt = {name for name in of_dbt if not name.startswith("AIRFLOW_CTX_")}  # Airflow sets them itself
    of_dbt -= {"NOX_CURRENT_SESSION"}  # so does nox
    assert of_dbt == {variable.name for variable in variables.DBT}


def environment_reads(text: str) -> set[str]:
    """Return the variables that TEXT, Python, reads by their names."""
    return set(re.findall(r'os\.environ(?:\.get\(|\[)\s*"(\w+)"(?!\]\s*=)', text))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_variables_that_are_mentioned_exist(name: str) -> None:
    deadlines = {f"PLATFORM_DEADLINE_{what.upper()}" for what in pins.versions()["deadlines"]}
    known = {variable.name for variable in variables.pins()} | deadlines | {"PLATFORM_DEADLINE"}
    assert set(re.findall(r"PLATFORM_[A-Z_]*[A-Z]", read(name))) <= known


def test_every_deadline_is_waited_for() -> None:
    text = "\n".join(path.read_text() for path in code_files("harness/**/*.py"))
    assert set(re.findall(r'deadline_s\("(\w+)"\)', text)) == set(pins.versions()["deadlines"])


# --- pins -----------------------------------------------------------------------------------------------------------


def wrong_pins(text: str) -> list[str]:
    """Return the images and versions in TEXT that are not the pinned ones."""
    images = {image.partition("@")[0] for image in pins.versions()["images"].values()}
    repositories = "|".join(re.escape(image.rpartition(":")[0]) for image in images)
    wrong = [name for name in re.findall(rf"(?<![\w/.-])(?:{repositories}):[\w][\w.-]*\w", text) if name not in images]
    versions = {
        "Airflow": pins.versions()["chart"]["airflow"],
        "PostgreSQL": str(postgres.MAJOR),
        "Python": tomllib.loads(read("pyproject.toml"))["project"]["requires-python"].removeprefix(">="),
    }
    for what, version in re.findall(r"(Airflow|PostgreSQL|Python) (\d+(?:\.\d+)*)", text):
        if not f"{versions[what]}.".startswith(f"{version}."):
            wrong.append(f"{what} {version}")
    return wrong


@pytest.mark.parametrize("name", PRESENT)
def test_quoted_pins_are_the_pinned_ones(name: str) -> None:
    assert wrong_pins(read(name)) == []


def test_wrong_pins_are_found() -> None:
    pinned = pins.versions()["images"]["postgres"]
    assert wrong_pins(f"`{pinned}`. `apache/airflow:1.0-python3.13`, python:3.9-slim. PostgreSQL 12") == [
        "apache/airflow:1.0-python3.13",
        "python:3.9-slim",
        "PostgreSQL 12",
    ]


@pytest.mark.parametrize("name", ["airflow", "dbt"])
def test_a_dockerfile_has_the_pinned_base(name: str) -> None:
    [base] = re.findall(r"^ARG \w+_IMAGE=(\S+)$", read(f"{name}/Dockerfile"), re.MULTILINE)
    assert base in pins.versions()["images"].values()


# --- the changelog --------------------------------------------------------------------------------------------------

CHANGES = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
GOOD = "# C\n## [Unreleased]\n## [1.10.0] - 2026-02-01\n### Added\n- a\n## [1.9.0] - 2026-01-01\n### Fixed\n- b\n"


def malformed(text: str) -> list[str]:
    """Return how TEXT differs from Keep a Changelog's form: Unreleased first, then versions from new to old."""
    wrong = []
    unreleased, *releases = re.findall(r"^## (.+)$", text, re.MULTILINE) or [""]
    if unreleased != "[Unreleased]":
        wrong.append("the first section is not [Unreleased]")
    released = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - (\d{4}-\d\d-\d\d)", title) for title in releases]
    wrong += [
        f"{title} is not of the form [1.2.3] - 2026-01-31"
        for title, match in zip(releases, released, strict=True)
        if not match
    ]
    order = [(tuple(map(int, match.groups()[:3])), date.fromisoformat(match[4])) for match in released if match]
    if any(not (a[0] > b[0] and a[1] >= b[1]) for a, b in itertools.pairwise(order)):
        wrong.append("the versions do not go from new to old")
    for release in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        name, *parts = (part.partition("\n") for part in re.split(r"^### ", release, flags=re.MULTILINE))
        kinds = [kind for kind, _, _ in parts]
        wrong += [f"{name[0]} has the section {kind}" for kind in kinds if kind not in CHANGES]
        wrong += [f"{name[0]} has {kind} twice" for kind in CHANGES if kinds.count(kind) > 1]
        wrong += [f"{name[0]} has nothing under {p[0]}" for p in parts if not re.search(r"^- \S", p[2], re.MULTILINE)]
    return wrong


def test_the_changelog_is_well_formed() -> None:
    assert malformed(read("CHANGELOG.md")) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (GOOD, []),
        (GOOD.replace("## [Unreleased]\n", ""), ["the first section is not [Unreleased]"]),
        (GOOD.replace("1.10.0", "1.8.0"), ["the versions do not go from new to old"]),
        (GOOD.replace("2026-02-01", "2025-02-01"), ["the versions do not go from new to old"]),
        (GOOD.replace("[1.9.0] - ", "1.9.0 "), ["1.9.0 2026-01-01 is not of the form [1.2.3] - 2026-01-31"]),
        (GOOD.replace("Fixed", "Mended"), ["[1.9.0] - 2026-01-01 has the section Mended"]),
        (GOOD.replace("- b", "b"), ["[1.9.0] - 2026-01-01 has nothing under Fixed"]),
        (GOOD + "### Fixed\n- c\n", ["[1.9.0] - 2026-01-01 has Fixed twice"]),
    ],
)
def test_a_malformed_changelog_is_found(text: str, wrong: list[str]) -> None:
    assert malformed(text) == wrong

"""The helpers of these tests find what is wrong in texts that are wrong: none of the checks is one that cannot fail."""

import subprocess
from pathlib import Path

import pytest

from harness.project.paths import ROOT
from tests.docs import documents

TEXT = """# The `title`, and more

[a](README.md) and [b](#below-here-1), `[no](link.md)`.

```text
# no heading
[no](link.md)
nox -s fenced
```

## Below [here](README.md)

| name | meaning |
| --- | --- |
| `a`, `b` | one \\| two |
| `c` | `d` |

    nox -s indented -- --option

## Below here

`nox -s one two -- --target kind [--other]`, `nox -l`, and uvx 'nox[uv]' -s prose. `uvx 'nox[uv]' -s three`
"""


def test_anchors_are_those_that_github_gives() -> None:
    assert documents.anchors(TEXT) == {"the-title-and-more", "below-here", "below-here-1"}


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        (TEXT, []),
        ("[gone](gone.md)", ["gone.md: no such file"]),
        ("[gone](README.md#gone)", ["README.md#gone: no such heading"]),
        ("[gone](#gone)\n# here", ["#gone: no such heading"]),
        ("[outside](../outside.md)", ["../outside.md: no such file"]),
        ('![picture](gone.png "title")\n\n[defined]: gone.md', ["gone.png: no such file", "gone.md: no such file"]),
        ("[a [nested] one](gone.md)", ["gone.md: no such file"]),
        ("[elsewhere](https://example.org/gone.md) [mail](mailto:a@example.org)", []),
        ("[from the root](/docs/architecture.md#roles)", []),
    ],
)
def test_links_that_lead_nowhere_are_found(text: str, broken: list[str]) -> None:
    assert documents.broken_links(ROOT / "NEW.md", text) == broken


def test_a_link_is_relative_to_its_file() -> None:
    assert documents.broken_links(ROOT / "docs" / "new.md", "[up](../README.md) [beside](architecture.md)") == []
    assert documents.broken_links(ROOT / "docs" / "new.md", "[up](README.md)") == ["README.md: no such file"]


def test_every_markdown_file_is_read() -> None:
    found = {str(path.relative_to(ROOT)) for path in documents.markdown()}
    assert found >= {"README.md", "docs/adr/0001-teardown-is-a-closed-pipe.md", "CONTRIBUTING.md"}
    assert found >= {"dbt/models/docs.md", ".github/PULL_REQUEST_TEMPLATE.md"}
    assert not [name for name in found if name.startswith((".nox/", "build/"))]


@pytest.mark.needs("history")
def test_every_markdown_file_that_is_tracked_is_read() -> None:
    listed = subprocess.run(
        ("git", "ls-files", "-z", "--", "*.md"), cwd=ROOT, check=True, capture_output=True, text=True
    )
    tracked = {ROOT / name for name in listed.stdout.split("\0") if name}
    assert {path for path in tracked if path.exists()} <= set(documents.markdown())


def test_a_table_is_found_by_its_first_column() -> None:
    assert documents.table(TEXT, "name") == [["`a`, `b`", "one \\| two"], ["`c`", "`d`"]]
    with pytest.raises(AssertionError, match="no table with the first column 'session'"):
        documents.table(TEXT, "session")


def test_names_are_the_code_in_cells() -> None:
    assert documents.names(["`a`, `b` and c", "`--d DSN`"]) == ["a", "b", "--d DSN"]
    assert documents.names(["`a`, `--d DSN`"], r"(--\w+).*") == ["--d"]


def test_a_section_ends_at_the_next_heading_of_its_level() -> None:
    assert "uvx" in documents.section(TEXT, "Below here")
    assert documents.section("# a\nin a\n## b\nin b\n# c\nin c", "a") == "in a\n## b\nin b"
    with pytest.raises(AssertionError, match="no heading 'gone'"):
        documents.section(TEXT, "gone")


def test_differences_are_what_is_missing_too_much_or_doubled() -> None:
    assert documents.differences(["a", "b"], {"b", "a"}) == []
    assert documents.differences(["a", "a", "x"], {"a", "b"}) == [
        "a is documented 2 times",
        "b is not documented",
        "x is documented and does not exist",
    ]


def test_the_sessions_that_commands_name() -> None:
    assert documents.sessions_called(TEXT) == {"fenced", "indented", "one", "two", "three"}


def test_the_options_that_commands_give() -> None:
    assert documents.options_called(TEXT, "nox -s one two") == {"--target", "--other"}
    assert documents.options_called(TEXT, "nox -s indented") == {"--option"}
    assert documents.options_called(TEXT, "nox -s two") == set()


def test_text_that_is_read_is_a_file_of_the_project() -> None:
    assert documents.read("README.md").startswith("# ")
    assert isinstance(documents.markdown()[0], Path)

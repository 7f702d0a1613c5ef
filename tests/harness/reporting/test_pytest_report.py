"""What a run of pytest tells in the step's summary and beside the lines: small suites, run as sessions run them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FAILING = {
    "harness/shop.py": "def price(service):\n    return {'roof': 1}[service]\n",
    "tests/unit/test_shop.py": """\
import os
import pytest
from harness.shop import price

def test_a_roof_is_sold():
    print("asked for the price")
    assert price("roof") == 2, "the fee | of `roof`"

def check(service, fee):
    assert price(service) == fee

def test_a_fee():
    check("roof", 3)

def test_a_garden_is_sold():
    price("garden")

@pytest.fixture
def closed():
    raise OSError("it is closed")

def test_the_shop_is_open(closed):
    pass

def test_the_day():
    pass

@pytest.mark.needs("python3.1.1")
def test_the_night():
    pass

@pytest.mark.xfail(reason="not built yet")
def test_the_roof_is_tight():
    assert False

def test_what_the_tests_start_tells_nothing():
    assert not {"GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"} & set(os.environ)
""",
    "tests/unit/test_import.py": "import os\nimport shoop\n",
    "tests/unit/test_syntax.py": "import os\n\ndef test_x(:\n    pass\n",
}
SUMMARY = """\
## ✗ tests: 3 failed, 3 errors, 2 passed, 1 skipped, 1 xfailed (TIME)

### tests/unit/test_import.py could not be collected

at `tests/unit/test_import.py:2`

```text
ModuleNotFoundError: No module named 'shoop'
```

<details>…</details>

### tests/unit/test_syntax.py could not be collected

at `tests/unit/test_syntax.py:3`

```text
  File "CLONE/tests/unit/test_syntax.py", line 3
    def test_x(:
               ^
SyntaxError: invalid syntax
```

<details>…</details>

### test_the_shop_is_open could not be set up

at `tests/unit/test_shop.py:20`

```text
OSError: it is closed
```

<details>…</details>

### test_a_roof_is_sold failed

at `tests/unit/test_shop.py:7`

```text
AssertionError: the fee | of `roof`
assert 1 == 2
 +  where 1 = price('roof')
```

<details>…</details>

### test_a_fee failed

at `tests/unit/test_shop.py:13`, out of `tests/unit/test_shop.py:10`

```text
AssertionError: assert 1 == 3
 +  where 1 = price('roof')
```

<details>…</details>

### test_a_garden_is_sold failed

at `tests/unit/test_shop.py:16`, out of `harness/shop.py:2`

```text
KeyError: 'garden'
```

<details>…</details>

**What to do:** run what failed alone, `nox -s tests -- -k "tests/unit/test_import.py or tests/unit/test_syntax.py or \
test_the_shop_is_open or test_a_roof_is_sold or test_a_fee"`

**1 did not run, since something is missing**

- 1 test waits for Python 3.1.1: no interpreter here is one; put one on the path: https://www.python.org/downloads/release/python-311

**1 may fail**

| test | why |
| --- | --- |
| `tests/unit/test_shop.py::test_the_roof_is_tight` | not built yet |

<details>…</details>

"""
ANNOTATIONS = [
    "file=tests/unit/test_import.py,line=2,title=tests/unit/test_import.py could not be collected"
    "::ModuleNotFoundError: No module named 'shoop'",
    "file=tests/unit/test_syntax.py,line=3,title=tests/unit/test_syntax.py could not be collected"
    '::  File "CLONE/tests/unit/test_syntax.py", line 3%0A    def test_x(:%0A               ^%0A'
    "SyntaxError: invalid syntax",
    "file=tests/unit/test_shop.py,line=20,title=test_the_shop_is_open could not be set up::OSError: it is closed",
    "file=tests/unit/test_shop.py,line=7,title=test_a_roof_is_sold failed"
    "::AssertionError: the fee | of `roof`%0Aassert 1 == 2%0A +  where 1 = price('roof')",
    "file=tests/unit/test_shop.py,line=13,title=test_a_fee failed"
    "::AssertionError: assert 1 == 3%0A +  where 1 = price('roof')%0AIt comes from tests/unit/test_shop.py:10",
    "file=tests/unit/test_shop.py,line=16,title=test_a_garden_is_sold failed"
    "::KeyError: 'garden'%0AIt comes from harness/shop.py:2",
]


def run(clone: Path, files: dict[str, str], *options: str) -> tuple[int, str, str]:
    """Run pytest in CLONE on FILES; return its exit code, the lines for GitHub and the summary, without its times."""
    for name, content in files.items():
        path = clone / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    summary = clone / "summary.md"
    told = {"GITHUB_STEP_SUMMARY": str(summary), "GITHUB_ACTIONS": "true", "NOX_CURRENT_SESSION": "tests"}
    env = os.environ | {"PYTHONPATH": f"{clone}{os.pathsep}{clone / 'airflow' / 'include'}"} | told
    argv = [sys.executable, "-m", "pytest", "--continue-on-collection-errors", *options]
    done = subprocess.run(argv, cwd=clone, env=env, capture_output=True, text=True, check=False)
    commands = "".join(line for line in done.stdout.splitlines(keepends=True) if line.startswith("::"))
    written = re.sub(r"\((\d+ min )?[\d.]+ s\)", "(TIME)", summary.read_text()) if summary.exists() else done.stderr
    return done.returncode, commands.replace(str(clone), "CLONE"), written.replace(str(clone), "CLONE")


def lines(summary: str) -> list[str]:
    """Return the lines of SUMMARY but the one that says what to run again."""
    return [line for line in summary.splitlines() if not line.startswith("**What to do:** ")]


def folded(summary: str) -> dict[str, str]:
    """Return what is folded in SUMMARY, by title; the last of those with the same."""
    return dict(re.findall(r"<details><summary>(.*?)</summary>\n\n(.*?)\n\n</details>", summary, re.DOTALL))


@pytest.mark.parametrize("options", [(), ("--numprocesses=2", "--dist=loadfile")], ids=["one process", "xdist"])
def test_failures_are_told_with_their_lines(clone: Path, options: tuple[str, ...]) -> None:
    exit_code, commands, summary = run(clone, FAILING, *options)
    assert exit_code == 1
    unfolded = re.sub(r"<details>.*?</details>", "<details>…</details>", summary, flags=re.DOTALL)
    if options:  # then the order is chance's
        assert sorted(lines(unfolded)) == sorted(lines(SUMMARY))
    else:
        assert unfolded == SUMMARY
    assert sorted(commands.splitlines()) == sorted(f"::error {told}" for told in ANNOTATIONS)
    assert folded(summary)["The whole failure"].endswith("harness/shop.py:2: KeyError\n```")
    assert "---- Captured stdout call ----\nasked for the price\n" in summary
    slowest = folded(summary)["The 5 slowest"].splitlines()
    assert slowest[:2] == ["| test | seconds |", "| --- | ---: |"]
    assert len(slowest) == 7


def test_a_run_that_went_well_is_short(clone: Path) -> None:
    well = {"tests/test_a.py": "def test_a():\n    pass\n"}
    assert run(clone, well) == (
        0,
        "",
        "## ✓ tests: 1 passed (TIME)\n\n"
        "<details><summary>The 1 slowest</summary>\n\n"
        "| test | seconds |\n| --- | ---: |\n| `tests/test_a.py::test_a` | 0.0 |\n\n</details>\n\n",
    )


def test_no_test_is_no_success(clone: Path) -> None:
    assert run(clone, {"tests/test_a.py": ""}) == (5, "", "## ✗ tests: there was no test to run (TIME)\n\n")


def test_an_interrupt_is_told_with_what_had_failed_by_then(clone: Path) -> None:
    interrupted = "def test_a():\n    assert 0\n\ndef test_b():\n    raise KeyboardInterrupt\n"
    exit_code, _, summary = run(clone, {"tests/test_a.py": interrupted})
    assert exit_code == 2
    assert summary.startswith(
        "## ✗ tests: interrupted, 1 failed (TIME)\n\n### test_a failed\n\nat `tests/test_a.py:2`\n"
    )


def test_a_worker_that_is_killed_is_told(clone: Path) -> None:
    killed = "import os, signal\n\ndef test_a():\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    _, commands, summary = run(clone, {"tests/test_a.py": killed}, "--numprocesses=1", "--max-worker-restart=0")
    assert summary.startswith("## ✗ tests: 1 failed (TIME)\n\n### test_a failed\n\nat `tests/test_a.py`\n")
    assert "worker 'gw0' crashed while running 'tests/test_a.py::test_a'" in summary
    assert commands.startswith("::error file=tests/test_a.py,")


def test_the_message_and_the_number_of_failures_have_an_end(clone: Path) -> None:
    many = "import pytest\n\n@pytest.mark.parametrize('n', range(33))\ndef test_a(n):\n    assert 0, 'a\\n' * 20\n"
    _, commands, summary = run(clone, {"tests/test_a.py": many})
    assert commands.count("::error ") == 33
    assert summary.count("\n### test_a\\[") == 30
    assert "\n\n… and 3 more: the log has all.\n\n" in summary
    assert "\n\nGitHub shows the first 10 of these 33 beside their lines.\n\n" in summary
    assert summary.count("\n  a\n… 12 more lines\n  a\n  \nassert 0\n```") == 30
    assert '`nox -s tests -- -k "test_a"`' in summary

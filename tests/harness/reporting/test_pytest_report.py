"""What a pytest run reports in the step's summary, beside the lines and on the terminal."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.reporting import annotations
from harness.reporting.pytest_report import budget_line

pytest_plugins = ["pytester"]

Run = Callable[..., tuple[int, str, str, str]]
FAILING = {
    "shop.py": "def price(service):\n    return {'roof': 1}[service]\n",
    "tests/test_shop.py": """\
import os
import pytest
from shop import price

def test_a_roof_is_sold():
    print("asked for the price")
    assert price("roof") == 2, "the fee | of `roof`"

def check(service, fee):
    assert price(service) == fee

def test_a_garden_is_sold():
    check("garden", 3)

@pytest.fixture
def closed():
    raise OSError("it is closed")

def test_the_shop_is_open(closed):
    pass

def test_the_day():
    pass

def test_the_night():
    pytest.skip("it is dark")

@pytest.mark.xfail
def test_the_roof_is_tight():
    assert False

def test_variables_are_hidden():
    assert not {"GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"} & set(os.environ)
""",
    "tests/test_import.py": "import os\nimport shoop\n",
    "tests/test_syntax.py": "import os\n\ndef test_x(:\n    pass\n",
}
SUMMARY = """\
## ✗ tests: 2 failed, 3 errors, 2 passed, 1 skipped, 1 xfailed (TIME)
### tests/test_import.py could not be collected
at `tests/test_import.py:2`
```text
ModuleNotFoundError: No module named 'shoop'
```
### tests/test_syntax.py could not be collected
at `tests/test_syntax.py:3`
```text
  File "ROOT/tests/test_syntax.py", line 3
    def test_x(:
               ^
SyntaxError: invalid syntax
```
### test_the_shop_is_open could not be set up
at `tests/test_shop.py:17`
```text
OSError: it is closed
```
### test_a_roof_is_sold failed
at `tests/test_shop.py:7`
```text
AssertionError: the fee | of `roof`
assert 1 == 2
 +  where 1 = price('roof')
```
### test_a_garden_is_sold failed
at `tests/test_shop.py:13`, raised at `shop.py:2`
```text
KeyError: 'garden'
```
**What to do:** run only what failed: `nox -s tests -- -k "tests/test_import.py or tests/test_syntax.py or \
test_the_shop_is_open or test_a_roof_is_sold or test_a_garden_is_sold"`
**1 skipped, because something they need is missing**
- 1 test needs it is dark
Total: TIME, within the budget of 240 s (pyproject.toml, \\[tool.events-platform.budget_s\\])
"""
ANNOTATIONS = """\
tests/test_import.py,line=2,title=tests/test_import.py could not be collected::ModuleNotFoundError: No module \
named 'shoop'
tests/test_shop.py,line=13,title=test_a_garden_is_sold failed::KeyError: 'garden'%0Araised at shop.py:2
tests/test_shop.py,line=17,title=test_the_shop_is_open could not be set up::OSError: it is closed
tests/test_shop.py,line=7,title=test_a_roof_is_sold failed::AssertionError: the fee | of `roof`%0Aassert 1 == 2%0A \
+  where 1 = price('roof')
tests/test_syntax.py,line=3,title=tests/test_syntax.py could not be collected::  File "ROOT/tests/test_syntax.py", \
line 3%0A    def test_x(:%0A               ^%0ASyntaxError: invalid syntax
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Give a function that runs pytest as a session does: its exit code, output, lines for GitHub and summary."""
    file = pytester.path / "summary.md"
    monkeypatch.setattr(annotations, "ROOT", pytester.path)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(file))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("NOX_CURRENT_SESSION", "tests")
    pytester.syspathinsert()

    def run(files: dict[str, str], *options: str) -> tuple[int, str, str, str]:
        for name, content in files.items():
            path = pytester.path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
        argv = ("-p", "harness.reporting.pytest_report", "-p", "no:cacheprovider", "--import-mode=importlib", *options)
        result = pytester.runpytest_inprocess(*argv, no_reraise_ctrlc=True)
        output, summary = (
            re.sub(r"(\d+ min )?\d+\.\d s\b", "TIME", written).replace(str(pytester.path), "ROOT")
            for written in (str(result.stdout), file.read_text())
        )
        commands = "\n".join(line for line in output.splitlines() if line.startswith("::"))
        return int(result.ret), output, commands, summary

    return run


def folded(summary: str) -> dict[str, str]:
    """Return the folded blocks of SUMMARY, by title; the last of those with the same."""
    return dict(re.findall(r"<details><summary>(.*?)</summary>\n\n(.*?)\n\n</details>", summary, re.DOTALL))


def test_failures_are_reported_at_their_lines(run: Run) -> None:
    exit_code, output, commands, summary = run(FAILING, "--continue-on-collection-errors")
    assert exit_code == 1, output
    unfolded = re.sub(r"<details>.*?</details>", "", summary, flags=re.DOTALL)
    assert re.sub(r"\n+", "\n", unfolded) == SUMMARY
    assert sorted(commands.replace("::error file=", "").splitlines()) == ANNOTATIONS.splitlines()
    assert folded(summary)["The whole failure"].endswith("shop.py:2: KeyError\n```")
    assert "---- Captured stdout call ----\nasked for the price\n" in summary


def test_the_session_ends_with_its_slowest_tests_and_its_budget(run: Run) -> None:
    suite = """\
import time, pytest

@pytest.fixture
def slow():
    time.sleep(0.1)
    yield
    time.sleep(0.1)

def test_slow(slow):
    pass

@pytest.mark.parametrize("n", range(10))
def test_fast(n):
    pass
"""
    exit_code, output, commands, summary = run({"test_a.py": suite})
    assert (exit_code, commands) == (0, "")
    times = output[output.index("the 10 slowest tests, with setup and teardown") :].splitlines()[1:12]
    assert times[0].split(maxsplit=1) == ["TIME", "test_a.py::test_slow"]
    assert times[10] == "Total: TIME, within the budget of 240 s (pyproject.toml, [tool.events-platform.budget_s])"
    assert summary.startswith("## ✓ tests: 11 passed (TIME)\n\nTotal: TIME, within the budget of 240 s ")
    table = folded(summary)["The 10 slowest"].splitlines()
    assert table[:2] == ["| test | seconds |", "| --- | ---: |"]
    assert re.fullmatch(r"\| `test_a.py::test_slow` \| 0\.[2-9] \|", table[2])
    assert len(table) == 12


def test_a_session_over_its_budget_says_so() -> None:
    where = "(pyproject.toml, [tool.events-platform.budget_s])"
    assert budget_line("tests", 240) == f"Total: 4 min 0 s, within the budget of 240 s {where}"
    over = f"Total: 4 min 2 s, OVER the budget of 240 s {where}: make the slowest tests cheaper"
    assert budget_line("tests", 241.7) == over
    assert budget_line("pytest", 1) == budget_line(None, 1) == "Total: 1.0 s"


def test_a_run_without_tests_fails(run: Run) -> None:
    assert run({"test_a.py": ""})[0::3] == (5, "## ✗ tests: no tests ran (TIME)\n\n")


def test_an_interrupt_is_reported_with_the_failures_before_it(run: Run) -> None:
    interrupted = "def test_a():\n    assert 0\n\ndef test_b():\n    raise KeyboardInterrupt\n"
    exit_code, _, _, summary = run({"test_a.py": interrupted})
    assert exit_code == 2
    assert summary.startswith("## ✗ tests: interrupted, 1 failed (TIME)\n\n### test_a failed\n\nat `test_a.py:2`\n")


def test_long_messages_and_lists_are_cut(run: Run) -> None:
    many = "import pytest\n\n@pytest.mark.parametrize('n', range(33))\ndef test_a(n):\n    assert 0, 'a\\n' * 20\n"
    _, _, commands, summary = run({"test_a.py": many})
    assert commands.count("::error ") == 33
    assert summary.count("\n### test_a\\[") == 30
    assert "\n\n… and 3 more: the log has all.\n\n" in summary
    assert "\n\nGitHub shows the first 10 of these 33 beside their lines.\n\n" in summary
    assert summary.count("\n  a\n… 12 more lines\n  a\n  \nassert 0\n```") == 30
    assert '`nox -s tests -- -k "test_a"`' in summary


def test_xdist_reports_in_one_place_and_a_killed_worker_too(tmp_path: Path) -> None:
    suite = """\
import os, signal, pytest

def test_variables_are_hidden():
    assert not {"GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"} & set(os.environ)

@pytest.mark.needs("python3.0.8")
def test_needs_a_python():
    raise AssertionError("it does not run")

def test_skipped():
    pytest.skip("sundays")

def test_killed():
    os.kill(os.getpid(), signal.SIGKILL)
"""
    (tmp_path / "test_a.py").write_text(suite)
    summary = tmp_path / "summary.md"
    env = os.environ | {"GITHUB_STEP_SUMMARY": str(summary), "GITHUB_ACTIONS": "true", "NOX_CURRENT_SESSION": "tests"}
    plugins = ("-p", "harness.reporting.pytest_report", "-p", "harness.ci.pytest_needs", "-p", "no:cacheprovider")
    argv = [sys.executable, "-m", "pytest", *plugins, "--numprocesses=1", "--max-worker-restart=0", "test_a.py"]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    written = summary.read_text()
    assert written.startswith("## ✗ tests: 2 failed, 1 passed, 1 skipped ("), done.stdout
    assert "### test_skipped failed\n\nat `test_a.py::test_skipped`\n" in written
    assert "Skipped without a need: sundays\n" in written
    assert "worker 'gw0' crashed while running 'test_a.py::test_killed'" in written
    assert "\n- 1 test needs Python 3.0.8: it was not found; " in written
    assert "\n1 test needs Python 3.0.8: it was not found; " in done.stdout
    assert done.stdout.count("::error title=") == 2

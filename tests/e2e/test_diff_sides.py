"""Whole comparisons of `nox -s diff` without a difference, and with a base that cannot be built."""

import json
import re
from pathlib import Path

import pytest

from harness.warehouse.server import Server
from tests import comparisons, harness_command
from tests.clones import git
from tests.comparisons import DIMENSIONS, Run, edit

pytestmark = [pytest.mark.slow, pytest.mark.needs("git")]


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


@pytest.fixture
def run(server: Server, repository: Path, temporary: Path) -> Run:
    """Give a function that runs `nox -s diff` on few events."""
    return comparisons.runner(server, repository, temporary)


def test_nothing_was_changed(repository: Path, run: Run) -> None:
    (repository / "README.md").write_text("more")
    exit_code, output = run("--strict")
    assert exit_code == 0, output
    commit = git(repository, "rev-parse", "--short=8", "HEAD")
    assert re.sub(r"\(\d+\.\d s\)", "()", output).splitlines() == [
        "✓ loaded 14 events ()",
        "✓ parsed both dbt projects: 0 models changed, 0 can differ ()",
        "",
        "Nothing was changed in the dbt project, and so nothing in 9 marts.",
        "",
        f"  base    the merge base with main ({commit})",
        f"  branch  {commit} and uncommitted changes",
        "  rows    14 events",
        "",
        "  cannot differ, and are the base's: availability_snapshot, dim_date, dim_professionals, dim_services, "
        "fct_events, feed_days, professional_funnel, professional_productivity_daily and service_revenue_daily",
        "",
        "  The working tree has changes that are not committed: README.md.",
        "  They are compared as they are.",
        "  Commit them, or put them aside with git stash, to compare commits.",
        "",
        "  the page: build/diff/index.html",
        "  as JSON:  build/diff/diff.json",
    ]
    found = json.loads((repository / "build" / "diff" / "diff.json").read_text())
    assert (found["changed"], found["built"], found["marts"], len(found["unaffected"])) == ([], [], [], 9)


def test_a_base_that_does_not_build(repository: Path, run: Run, temporary: Path) -> None:
    (repository / "build" / "diff").mkdir()
    (repository / "build" / "diff" / "diff.json").write_text("of an earlier run")
    services = f"{DIMENSIONS}/dim_services.sql"
    edit(repository, services, ("service_name_en", "name_en"))
    git(repository, "commit", "--quiet", "--all", "--message", "broken")
    edit(repository, services, ("name_en", "service_name_en"))
    exit_code, output = run("--base", "HEAD")
    assert exit_code == 71, output
    commit = git(repository, "rev-parse", "--short=8", "HEAD")
    assert harness_command.error_lines(output) == [
        f"✗ The base, HEAD ({commit}), does not build: dim_services failed.",
        '  dbt says: column "name_en" does not exist'
        " (Database Error in model dim_services (models/marts/dim/dim_services.sql))",
        "  Compare with a commit that builds: nox -s diff -- --base REF",
    ]
    summary = temporary.with_name("summary.md").read_text()
    assert "\n  LINE 16:         name_en\n" in summary
    assert "~ rows read" not in summary

    assert not (repository / "build" / "diff" / "diff.json").exists()
    assert list(temporary.iterdir()) == []

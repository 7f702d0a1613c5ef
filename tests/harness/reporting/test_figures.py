"""The figures of a run are stored for the next run of its name, and shown beside its own."""

from pathlib import Path

import pytest

from harness.reporting import figures
from harness.reporting.console import Phases
from harness.reporting.figures import KEPT


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(figures, "FIGURES", tmp_path / "figures")
    return tmp_path / "figures"


def test_the_last_figures_are_those_stored_last() -> None:
    assert figures.last("e2e-kind") == {}
    figures.keep("e2e-kind", {"total": 1.23456})
    figures.keep("e2e-embedded", {"total": 2})
    figures.keep("e2e-kind", {"total": 3.5, "chart ready": 1})
    assert figures.last("e2e-kind") == {"total": 3.5, "chart ready": 1.0}
    assert figures.last("e2e-embedded") == {"total": 2.0}


UNREADABLE = (
    *("", "[1]", "{", "1", "[[]]", '{"total": "many"}', '{"total": null}', '{"total": NaN}', "[" * 100_000),
    '[{"ended_at": ""}]',
    '[{"ended_at": "", "figures": [1]}]',
)


@pytest.mark.parametrize("text", UNREADABLE, ids=range(len(UNREADABLE)))
def test_an_unreadable_file_counts_as_none(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "e2e-kind.json").write_text(text)
    assert figures.last("e2e-kind") == {}
    runs, damage = figures.history("e2e-kind")
    assert runs == []
    assert damage.startswith(f"{folder}/e2e-kind.json was ignored: it is damaged (")
    figures.keep("e2e-kind", {"total": 1})
    assert figures.last("e2e-kind") == {"total": 1.0}


def test_the_file_of_an_older_version_is_one_run(folder: Path) -> None:
    folder.mkdir()
    (folder / "e2e-kind.json").write_text('{"total": 2.5}')
    figures.keep("e2e-kind", {"total": 3})
    runs, damage = figures.history("e2e-kind")
    assert ([run.figures for run in runs], damage) == ([{"total": 2.5}, {"total": 3.0}], "")


def test_the_last_run_of_the_default_branch_is_kept_however_many_others_there_are() -> None:
    figures.keep("e2e-kind", {"total": 1}, {"dbt_build": 0.12345}, is_main=True)
    assert figures.history("e2e-kind")[0][0].steps == {"dbt_build": 0.123}
    figures.keep("e2e-kind", {"total": 2}, is_main=True)
    for number in range(KEPT + 2):
        figures.keep("e2e-kind", {"total": 10 + number})
    runs, _ = figures.history("e2e-kind")
    assert [run.figures["total"] for run in runs] == [2, *range(13, KEPT + 12)]
    main = figures.last_of_main(runs)
    assert main is runs[0]
    figures.keep("e2e-kind", {"total": 3}, is_main=True)
    runs, _ = figures.history("e2e-kind")
    assert [run.is_main for run in runs] == [*[False] * (KEPT - 1), True]


def test_only_the_latest_runs_are_kept() -> None:
    for number in range(KEPT + 2):
        figures.keep("e2e-kind", {"total": number})
    runs, _ = figures.history("e2e-kind")
    assert [run.figures["total"] for run in runs] == list(range(2, KEPT + 2))
    assert [run.ended_at for run in runs] == sorted(run.ended_at for run in runs)


@pytest.mark.parametrize(
    ("totals", "change"),
    [
        ([], None),
        ([10, 13, 13], None),  # nothing before
        ([10, 13, 13, 13], ("total", 10, 13)),
        ([10, 13, 12, 13], None),  # 20% are not more than 20%
        ([10, 13, 9, 13], None),
        ([10, 13, 13, 7], None),  # not the same change
        ([8, 10, 12, 7, 7.5, 6], ("total", 10, 7)),
        ([0, 13, 13, 13], None),
        ([10, 11, 100, 10, 13, 13, 14], ("total", 10.5, 13)),  # one run that was slow is no change
    ],
)
def test_a_change_that_lasts(totals: list[float], change: tuple[str, float, float] | None) -> None:
    runs = [{"total": total, "same": 1.0} for total in totals]
    assert figures.lasting_changes(runs) == ([] if change is None else [change])


def test_a_figure_that_the_last_run_does_not_have_is_no_change() -> None:
    runs = [{"old": 1.0}, {"old": 2.0}, {"old": 2.0}, {"old": 2.0}, {"new": 1.0}]
    assert figures.lasting_changes(runs) == []


def test_phases_are_shown_beside_those_of_the_last_run() -> None:
    phases = Phases(last={"cluster ready": 41.26, "gone": 1})
    phases.seconds = {"cluster ready": 40.04, "new": 2}
    assert phases.header == ("phase", "seconds", "last time")
    assert phases.rows()[:2] == [("cluster ready", "40.0", "41.3"), ("new", "2.0", "")]
    alone = Phases()
    alone.seconds = {"new": 2}
    assert alone.header == ("phase", "seconds")
    assert alone.rows()[0] == ("new", "2.0")


def test_a_full_disk_does_not_cost_the_runs_before(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures.keep("e2e-kind", {"total": 1})
    (folder / "e2e-kind.json.part").symlink_to("/dev/full")
    figures.keep("e2e-kind", {"total": 2})
    assert "the figures cannot be kept for the next run: [Errno 28] No space left" in capsys.readouterr().out
    assert figures.last("e2e-kind") == {"total": 1.0}

"""A delivery script: day by day what arrives in a feed's file, and which runs then load it.

It is a YAML file that a person can read and edit:

    feed: events
    seed: 7
    deliveries:
    - day: 2020-02-03
      rows:
      - ['12', proposed, '4', '2020-01-31 09:00:00', 3_tuin_garden_2.5]
      withdrawn: [['9']]
      runs:
      - {cadence: daily}
      - {cadence: weekly, outcome: retried}

`rows` are new, or replace the row that has their key; they and `withdrawn` change the file for good. What else a
delivery says holds for this delivery alone.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from feeds.contract import Feed
from feeds.interval import Interval
from feeds.uri import shown
from harness.errors import UsageError
from harness.oracle.row_values import RejectedError, value

Texts = tuple[str | None, ...]  # a row, or a key, as a file has it
Cadence = Literal["daily", "weekly", "monthly", "manual"]
Outcome = Literal["succeeds", "twice", "retried", "fails", "build_killed"]


class Part(BaseModel):
    """A part of a script; it cannot be changed, and knows no other fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Run(Part):
    """One run of a pipeline.

    Attributes:
        cadence: whose period it loads: the one with the day of `of`; `manual` loads all of the file.
        of: a day of the period, by default that of the delivery.
        outcome: `retried` fails while it loads and is tried again; `fails` is not; `build_killed` loads, and dbt is
            killed; `twice` is run again at its end.
        kill_at: the statement of dbt, from 1, at which it is killed.
        is_beside: whether the next run of the delivery loads at the same time, and then builds at the same time; both
            succeed.
    """

    cadence: Cadence
    of: date | None = Field(default=None, ge=date(1970, 1, 1), lt=date(9000, 1, 1))
    outcome: Outcome = "succeeds"
    kill_at: int = Field(default=1, ge=1)
    is_beside: bool = False


class Delivery(Part):
    """A file as it arrives on a day, and the runs that then load it.

    Attributes:
        day: the simulated day, whose end it arrives at.
        rows: those that are new, or correct the one with their key.
        withdrawn: keys of rows that are gone.
        repeated: keys of rows that this file has twice.
        file: `missing` if none is there, `truncated` if it is cut within a line.
        cut: the share of the rows, 0 to 1, before the cut.
        drift: how the columns differ from the contract's.
        runs: in this order.
    """

    day: date = Field(ge=date(1970, 1, 1), lt=date(9000, 1, 1))
    rows: tuple[Texts, ...] = ()
    withdrawn: tuple[Texts, ...] = ()
    repeated: tuple[Texts, ...] = ()
    file: Literal["whole", "missing", "truncated"] = "whole"
    cut: float = Field(default=0.5, ge=0, le=1)
    drift: Literal["none", "new_column", "column_order"] = "none"
    runs: tuple[Run, ...] = ()

    @model_validator(mode="after")
    def _runs_beside_others_succeed(self) -> "Delivery":
        for run, following in zip(self.runs, self.runs[1:], strict=False):
            if run.is_beside and {run.outcome, following.outcome} != {"succeeds"}:
                raise ValueError("runs: a run beside another one succeeds, and so does the other")
        return self


class Script(Part):
    """The deliveries of one feed, in the order of their days."""

    feed: str
    seed: int | None = Field(default=None, strict=True)
    deliveries: tuple[Delivery, ...]

    @model_validator(mode="after")
    def _days_rise(self) -> "Script":
        for before, after in zip(self.deliveries, self.deliveries[1:], strict=False):
            if after.day < before.day:
                raise ValueError(f"deliveries: {after.day} comes after {before.day}, and days do not run backwards")
        return self

    @property
    def runs(self) -> int:
        """The number of runs."""
        return sum(len(delivery.runs) for delivery in self.deliveries)

    def title(self) -> str:
        """Return what it plays, for people."""
        days = f"{self.deliveries[0].day} to {self.deliveries[-1].day}" if self.deliveries else "no days"
        seed = "" if self.seed is None else f"seed {self.seed}, "
        return f"{self.feed}, {seed}{days}, {self.runs} runs"


def interval_of(run: Run, day: date) -> Interval:
    """Return the interval that RUN loads after the delivery of DAY, computed from the calendar alone."""
    of = run.of or day
    match run.cadence:
        case "daily":
            first, last = of, of + timedelta(1)
        case "weekly":  # from Sunday to Sunday
            first = of - timedelta(of.isoweekday() % 7)
            last = first + timedelta(7)
        case "monthly":
            first = of.replace(day=1)
            last = (first + timedelta(31)).replace(day=1)
        case _:
            return Interval(None, None)
    return Interval(*(datetime(bound.year, bound.month, bound.day, tzinfo=UTC) for bound in (first, last)))


def read_script(path: Path, feeds: Mapping[str, Feed]) -> Script:
    """Return the script at PATH of one of FEEDS.

    Raises:
        UsageError: it is none, or names an unknown feed, or its rows are not rows of that feed.
    """
    try:
        script = Script.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(path, f"it cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        raise _unusable(path, "it is not YAML") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        raise _unusable(path, f"{where}: {what}" if where else what) from error
    if script.feed not in feeds:
        raise UsageError(
            f"{shown(str(path))} is a script of the feed {script.feed!r}, which there is not.",
            "Its contract was most likely removed or renamed since the script was made.",
            f"Name one of these in it: {', '.join(feeds)}",
        )
    check_rows(script, feeds[script.feed], path)
    return script


def check_rows(script: Script, feed: Feed, path: Path) -> None:
    """Raise UsageError if SCRIPT has no run, or a row or a key that is none of FEED."""
    if not script.runs:
        raise _unusable(path, "it has no run")
    for delivery in script.deliveries:
        for name, texts, count in (
            *(("rows", row, len(feed.columns)) for row in delivery.rows),
            *(("withdrawn", key, len(feed.key)) for key in delivery.withdrawn),
            *(("repeated", key, len(feed.key)) for key in delivery.repeated),
        ):
            if len(texts) != count:
                raise _unusable(path, f"{name} of {delivery.day}: {list(texts)} has {len(texts)} values, not {count}")
        for row in delivery.rows:
            for column, text in zip(feed.columns, row, strict=True):
                try:
                    value(column, text, feed)
                except RejectedError:
                    shown_text = "null" if text is None else repr(text)
                    what = f"rows of {delivery.day}: {shown_text} is no value of {column.name}"
                    raise _unusable(path, what) from None


def _unusable(path: Path, what: str) -> UsageError:
    return UsageError(
        f"{shown(str(path))} is no delivery script: {what}.",
        "A script is YAML with a feed and its deliveries; a replay writes one to build/replay/script.yaml.",
        "Correct it, or make a new one: nox -s replay -- --seed 1",
    )


def write_script(path: Path, script: Script) -> None:
    """Write SCRIPT to PATH, a line for each row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = script.model_dump(mode="json", exclude_defaults=True) | {"deliveries": _plain(script.deliveries)}
    text = yaml.dump(document, sort_keys=False, allow_unicode=True, width=120, Dumper=_Dumper)
    path.write_text(f"# Play it again: nox -s replay -- --script FILE\n{text}", encoding="utf-8")


def _plain(deliveries: Iterable[Delivery]) -> list[dict[str, Any]]:
    return [{"day": delivery.day} | delivery.model_dump(exclude_defaults=True) for delivery in deliveries]


class _Dumper(yaml.SafeDumper):
    """Writes rows, keys and runs on a line each."""


def _in_one_line(dumper: yaml.SafeDumper, texts: tuple[Any, ...]) -> yaml.Node:
    is_flow = all(text is None or isinstance(text, str) for text in texts)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", texts, flow_style=is_flow)


_Dumper.add_representer(tuple, _in_one_line)

"""The differences that a branch means to make: `dbt/expected_changes.yml`, see docs/diff.md."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from harness.diff.results import Approval, Difference
from harness.errors import ApprovalError
from harness.reporting.wording import value

FILE = Path("dbt", "expected_changes.yml")
OF_ROWS = ("rows added", "rows removed", "model added", "model removed")
OF_COLUMNS = ("values changed", "column added", "column removed", "column renamed", "column retyped")
FIELDS = {"model", "kind", "columns", "why"}
EXAMPLE = "{model: fct_events, kind: values changed, columns: [service_lead_fee], why: Fees are rounded to the cent}"


def approved_differences(root: Path, base: Path) -> set[Difference] | None:
    """Return the differences that the file in ROOT approves; None if it has no such file.

    What the file in BASE has approved, too, is history: it was merged with its change, and means nothing for this one.
    Raises ApprovalError for a file that is not valid.
    """
    if not (root / FILE).exists():
        return None
    merged = entries(base / FILE, is_base=True) if (base / FILE).exists() else []
    return {difference for entry in entries(root / FILE) if entry not in merged for difference in differences_of(entry)}


def compare_with_approved(found: Iterable[Difference], approved: set[Difference] | None) -> Approval | None:
    """Return how the differences FOUND fit those APPROVED; None if there are no approvals."""
    if approved is None:
        return None
    found = set(found)
    return Approval(sorted(found & approved), sorted(found - approved), sorted(approved - found))


def entries(path: Path, *, is_base: bool = False) -> list[dict[str, Any]]:
    """Return the entries of the file at PATH; of the BASE's one that is not valid there are none."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeError, OSError) as error:
        if is_base:
            return []
        raise invalid(f"it is no YAML: {value(' '.join(str(error).split()), 200)}") from error
    changes = content.get("changes") if isinstance(content, dict) else None
    if content is None or (isinstance(content, dict) and content.keys() <= {"changes"} and changes is None):
        return []
    if not isinstance(changes, list) or content.keys() != {"changes"}:
        if is_base:
            return []
        raise invalid("it has no list named `changes`")
    return [entry for entry in changes if is_base or is_valid(entry)]


def is_valid(entry: Any) -> bool:
    """Return True for a valid ENTRY, and raise ApprovalError for another."""
    if not isinstance(entry, dict) or not entry.keys() <= FIELDS:
        raise invalid(f"an entry has other fields than {', '.join(sorted(FIELDS))}: {value(repr(entry))}")
    if entry.get("kind") not in (*OF_ROWS, *OF_COLUMNS):
        raise invalid(
            f"{value(repr(entry.get('kind')))} is no kind; the kinds are: {', '.join((*OF_ROWS, *OF_COLUMNS))}"
        )
    if not all(isinstance(entry.get(name), str) and entry[name].strip() for name in ("model", "why")):
        raise invalid(f"an entry has no model, or does not say why: {value(repr(entry))}")
    columns = entry.get("columns", [])
    if not isinstance(columns, list) or not all(isinstance(column, str) for column in columns):
        raise invalid(f"`columns` is no list of names: {value(repr(columns))}")
    if bool(columns) != (entry["kind"] in OF_COLUMNS):
        raise invalid(f"{entry['kind']} {'has no' if columns else 'needs'} columns: {value(repr(entry))}")
    return True


def differences_of(entry: dict[str, Any]) -> list[Difference]:
    """Return the differences that ENTRY approves."""
    return [Difference(entry["model"], entry["kind"], column) for column in entry.get("columns") or [""]]


def invalid(what: str) -> ApprovalError:
    """Return the error for a file of which WHAT is wrong."""
    return ApprovalError(
        f"{FILE} is not valid: {what}.",
        "It names the differences that a branch means to make.",
        f"Write entries as: {EXAMPLE}",
    )

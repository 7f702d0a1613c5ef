"""Shrink a delivery script to the fewest days, rows and runs that still show a fault."""

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from harness.replay.script import Delivery, Run, Script

Item = TypeVar("Item")
Part = tuple[int, str, Any]  # the number of the delivery, its field, and the value or one of the values
LISTS = ("rows", "withdrawn", "repeated", "runs")
FLAGS = ("file", "drift")
PLAIN_RUNS = ({"outcome": "succeeds"}, {"is_beside": False}, {"kill_at": 1})


def shrink(script: Script, fails: Callable[[Script], bool], timeout_s: float) -> tuple[Script, bool]:
    """Return a smallest part of SCRIPT that still FAILS, and whether nothing more can go.

    Days go first, then single rows and runs, then what is special about a run. After TIMEOUT_S seconds it is the
    smallest that was found by then.
    """
    deadline = time.monotonic() + timeout_s

    def is_late() -> bool:
        return time.monotonic() > deadline

    def with_deliveries(deliveries: Sequence[Delivery]) -> Script:
        return script.model_copy(update={"deliveries": tuple(deliveries)})

    deliveries = smallest(script.deliveries, lambda some: fails(with_deliveries(some)), is_late)
    parts = smallest(parts_of(deliveries), lambda some: fails(with_deliveries(together(deliveries, some))), is_late)
    deliveries = together(deliveries, parts)
    places = [(number, place) for number, delivery in enumerate(deliveries) for place in range(len(delivery.runs))]
    for number, place in places:
        for plain in PLAIN_RUNS:
            run = deliveries[number].runs[place].model_copy(update=plain)
            plainer = _with_run(deliveries, number, place, run)
            if plainer != deliveries and not is_late() and fails(with_deliveries(plainer)):
                deliveries = plainer
    return with_deliveries(deliveries), not is_late()


def smallest(items: Sequence[Item], fails: Callable[[Sequence[Item]], bool], is_late: Callable[[], bool]) -> list[Item]:
    """Return a part of ITEMS that FAILS, and of which no single item can be left out, unless IS_LATE first.

    It leaves out halves, then quarters, and so on, as long as one of them is not needed: Zeller and Hildebrandt,
    Simplifying and Isolating Failure-Inducing Input, 2002.
    """
    items, size = list(items), max(len(items) // 2, 1)
    while items and not is_late():
        for start in range(0, len(items), size):
            rest = items[:start] + items[start + size :]
            if not is_late() and fails(rest):
                items = rest
                size = min(size, max(len(items) // 2, 1))
                break
        else:
            if size == 1:
                break
            size //= 2
    return items


def parts_of(deliveries: Sequence[Delivery]) -> list[Part]:
    """Return all that can be left out of DELIVERIES."""
    parts: list[Part] = []
    for number, delivery in enumerate(deliveries):
        parts += [(number, name, item) for name in LISTS for item in getattr(delivery, name)]
        parts += [(number, name, getattr(delivery, name)) for name in FLAGS if name in delivery.model_fields_set]
    return parts


def together(deliveries: Sequence[Delivery], parts: Sequence[Part]) -> list[Delivery]:
    """Return DELIVERIES with nothing but PARTS of them; those without any are left out."""
    found = []
    for number, delivery in enumerate(deliveries):
        own = [part for part in parts if part[0] == number]
        values: dict[str, Any] = {name: tuple(item for _, of, item in own if of == name) for name in LISTS}
        values |= {name: item for _, name, item in own if name in FLAGS}
        if own:
            found.append(Delivery(day=delivery.day, cut=delivery.cut, **values))
    return found


def _with_run(deliveries: Sequence[Delivery], number: int, place: int, run: Run) -> list[Delivery]:
    """Return DELIVERIES with RUN in the PLACE of one of the delivery NUMBER."""
    runs = list(deliveries[number].runs)
    runs[place] = run
    changed = deliveries[number].model_copy(update={"runs": tuple(runs)})
    return [*deliveries[:number], changed, *deliveries[number + 1 :]]

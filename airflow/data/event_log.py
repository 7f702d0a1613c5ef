"""Draw the events of the log from random numbers that are the same on every machine."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from marketplace import (
    ABLE,
    DAY_S,
    HIGHEST_FEE_CENTS,
    HOUR_S,
    HOUR_WEIGHTS,
    LIVES,
    PROPOSED,
    SERVICES,
    UNABLE,
    WEEKDAY_WEIGHTS,
    open_days,
)
from numpy.typing import NDArray

EVENTS_PER_PROFESSIONAL = 12
MOST_PROFESSIONALS = 200_000

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Draws:
    """Random whole numbers, the same on every machine."""

    def __init__(self, seed: int, stream: int) -> None:
        self._pcg = np.random.PCG64([seed, stream])

    def bits(self, count: int) -> Integers:
        """Return COUNT numbers of 31 random bits."""
        return (self._pcg.random_raw(count) >> np.uint64(33)).astype(np.int64)

    def below(self, bound: int | Integers, count: int) -> Integers:
        """Return COUNT numbers from 0 to BOUND - 1; BOUND is less than 2**31."""
        return (self.bits(count) * bound) >> 31

    def chance(self, share: int, of: int, count: int) -> Flags:
        """Return COUNT flags, SHARE in OF of which are true."""
        return self.below(of, count) < share

    def pick(self, weights: Sequence[int] | Integers, count: int) -> Integers:
        """Return COUNT random indices into WEIGHTS, distributed by weight."""
        upto = np.cumsum(np.asarray(weights, dtype=np.int64))
        return np.searchsorted(upto, self.below(int(upto[-1]), count), side="right").astype(np.int64)


@dataclass(frozen=True)
class Lives:
    """All events except proposals, by time; and the spans in which professionals are able to propose, by start.

    Times are seconds since the start of the log, without closed days.
    """

    at: Integers
    type: Integers
    professional: Integers
    able_from: Integers
    able_until: Integers
    able_professional: Integers
    professionals: int


def draw_lives(events: int, draws: Draws) -> Lives:
    """Draw the histories of the professionals in a log of EVENTS events."""
    days = len(open_days())
    professionals = min(events // EVENTS_PER_PROFESSIONAL + 1, MOST_PROFESSIONALS)
    life = draws.pick([share for share, _ in LIVES], professionals)
    day = draws.pick([max(1, 30 - 4 * number) for number in range(days)], professionals)
    at = np.sort((day * 24 + draws.pick(HOUR_WEIGHTS, professionals)) * HOUR_S + draws.below(HOUR_S, professionals))

    steps = max(len(story) for _, story in LIVES) // 2
    stories = [story.ljust(2 * steps, ".") for _, story in LIVES]
    times, types = [], []
    for step in range(steps):
        waits = np.array([{" ": 25 * DAY_S, "~": 4 * HOUR_S, "=": 1, ".": 1}[story[2 * step]] for story in stories])
        if step:
            at = at + draws.below(waits[life], professionals)
        times.append(at)
        types.append(np.array(["CAU.".index(story[2 * step + 1]) for story in stories])[life])

    until = np.full(professionals, np.iinfo(np.int64).max)
    able = []
    for at, type_ in zip(reversed(times), reversed(types), strict=True):
        until = np.where(type_ == UNABLE, at, until)
        who = np.flatnonzero((type_ == ABLE) & (at < days * DAY_S))
        able.append((at[who], until[who], who))
    able_from, able_until, able_professional = (np.concatenate(parts) for parts in zip(*able, strict=True))
    by_start = np.argsort(able_from, kind="stable")

    happens = [(type_ <= UNABLE) & (at < days * DAY_S) for at, type_ in zip(times, types, strict=True)]
    all_at = np.concatenate([at[kept] for at, kept in zip(times, happens, strict=True)])
    all_types = np.concatenate([type_[kept] for type_, kept in zip(types, happens, strict=True)])
    who = np.concatenate([np.flatnonzero(kept) for kept in happens])
    by_time = np.argsort(all_at, kind="stable")[:events]
    return Lives(
        at=all_at[by_time],
        type=all_types[by_time],
        professional=who[by_time],
        able_from=able_from[by_start],
        able_until=able_until[by_start],
        able_professional=able_professional[by_start],
        professionals=professionals,
    )


def proposals_by_hour(proposals: int, draws: Draws) -> Integers:
    """Distribute PROPOSALS over the open hours of a marketplace that grows, has quiet nights and bursts."""
    days = open_days()
    weights = np.outer(
        [min(number + 2, 30) * WEEKDAY_WEIGHTS[day.weekday()] for number, day in enumerate(days)], HOUR_WEIGHTS
    ).ravel()
    weights *= 7 + draws.below(7, weights.size)
    weights *= np.where(draws.chance(1, 100, weights.size), 12, 1)
    upto = np.cumsum(weights)
    # Python's integers, since the product may exceed 64 bits.
    whole = int(upto[-1])
    rounded = np.array([0] + [(2 * proposals * int(part) + whole) // (2 * whole) for part in upto], dtype=np.int64)
    return np.diff(rounded)


def draw_proposers(at: Integers, lives: Lives, draws: Draws) -> Integers:
    """Return who proposes AT these times: preferably professionals able for long; in 1 of 200 cases, anybody."""
    known = np.searchsorted(lives.able_from, at, side="left").astype(np.int64)
    anybody = draws.below(lives.professionals, at.size)
    if not lives.able_from.size:
        return anybody
    skewed = draws.bits(at.size)
    chosen = (((skewed * skewed) >> 31) * known) >> 31
    for _ in range(4):
        left = np.flatnonzero(lives.able_until[chosen] <= at)
        chosen[left] = draws.below(known[left], left.size)
    stranger = draws.chance(1, 200, at.size) | (known == 0)
    return np.where(stranger, anybody, lives.able_professional[chosen])


@dataclass(frozen=True)
class Batch:
    """Events in the order of the log; `offer` is the number of a pair of service and fee, or 0."""

    at: Integers
    type: Integers
    professional: Integers
    offer: Integers


def draw_batch(hours: range, per_hour: Integers, lives: Lives, draws: Draws) -> Batch:
    """Draw the proposals of HOURS, and return them and the other events of HOURS in the order of the log."""
    first, last = np.searchsorted(lives.at, [hours.start * HOUR_S, hours.stop * HOUR_S])
    rows = slice(int(first), int(last))
    at = np.repeat(np.arange(hours.start, hours.stop) * HOUR_S, per_hour[hours.start : hours.stop])
    at = np.sort(at + draws.below(HOUR_S, at.size))
    proposals = at.size
    together = np.flatnonzero(draws.chance(1, 200, max(proposals - 1, 0))) + 1
    at[together] = at[together - 1]
    who = draw_proposers(at, lives, draws)
    offer = 1 + draws.pick([weight for weight, *_ in SERVICES], proposals) * HIGHEST_FEE_CENTS
    offer += draws.below(HIGHEST_FEE_CENTS, proposals)

    at = np.concatenate([at, lives.at[rows]])
    order = np.argsort(at, kind="stable")
    delay = np.where(draws.chance(1, 100, at.size), draws.below(400, at.size), 0)
    order = order[np.argsort(np.arange(at.size) + delay, kind="stable")]
    others = np.zeros(at.size - proposals, dtype=np.int64)
    return Batch(
        at=at[order],
        type=np.concatenate([np.full(proposals, PROPOSED), lives.type[rows]])[order],
        professional=np.concatenate([who, lives.professional[rows]])[order],
        offer=np.concatenate([offer, others])[order],
    )

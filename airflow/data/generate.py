"""Generate the event log of an invented marketplace, to try the pipeline on.

    python airflow/data/generate.py --events 20000 --seed 1 --out airflow/data/events.csv

That command made the sample beside this file. `docs/events-format.md` describes the format.

**Same seed, same bytes.** The only source of chance is `PCG64.random_raw`, whose stream numpy guarantees for a fixed
seed (`Generator`'s methods carry no such guarantee), and all that follows is integer arithmetic and stable sorting, so
neither numpy's version nor the processor shows in the file.

**The log.** 105 days from Monday 25 November 2019 with busy weekdays and hours, bursts, a new year whose first ISO week
begins in the old one, a leap day, and days without any event (`CLOSED`). One professional per 12 events (200,000 at
most) lives one of `LIVES`; all other events are proposals, nearly always by somebody able to propose. Rows are in the
order in which a log receives them: by `created_at`, except that one in a hundred comes up to 400 rows late. Ids are
unique and rise, with gaps, in that order, except that one pair of neighbours in twenty has swapped them. Two services
change their name on 26 January.

Memory does not grow with the number of proposals: they are drawn, sorted and written in batches of whole hours.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from fractions import Fraction
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

HEADER = "event_id;event_type;professional_id_anonymized;created_at;meta_data"
EVENTS = 20_000
SEED = 1

FIRST_DAY = date(2019, 11, 25)
DAYS = 105
CLOSED = (
    date(2019, 12, 25),
    date(2019, 12, 26),
    date(2020, 1, 1),
    date(2020, 2, 11),
    date(2020, 2, 12),
    date(2020, 2, 13),
)
RENAMED_ON = date(2020, 1, 26)

HOUR_S = 3_600
DAY_S = 24 * HOUR_S
HOUR_WEIGHTS = (6, 3, 2, 1, 4, 9, 17, 30, 42, 48, 50, 49, 45, 47, 46, 50, 44, 43, 52, 55, 47, 34, 21, 11)
WEEKDAY_WEIGHTS = (13, 12, 11, 11, 9, 7, 8)

EVENTS_PER_PROFESSIONAL = 12
MOST_PROFESSIONALS = 200_000
BATCH_EVENTS = 1 << 16  # shapes the file (late rows stay in their batch): a change changes the sample

CREATED, ABLE, UNABLE, PROPOSED = range(4)
EVENT_TYPES = ("created_account", "became_able_to_propose", "became_unable_to_propose", "proposed")

# Share per thousand, and what a professional goes through: C(reated), A(ble), U(nable); before each the time since the
# one before: a blank for days, "~" for at most four hours, "=" for the very same second.
LIVES = (
    (405, " C"),
    (300, " C A"),
    (60, " C~A"),
    (50, " A C"),
    (50, " C A U"),
    (22, " C A U A"),
    (18, " C U A"),
    (10, " C U"),
    (15, " C A A"),
    (8, " C A U U A"),
    (20, " C A~U~A"),
    (10, " C~U~A~U A"),
    (10, " C A=U"),
    (6, " C A=U=A"),
    (6, " C U=A"),
    (10, " A"),
)

# Popularity, id, name in Dutch, name in English.
SERVICES = (
    (90, 11, "gevel-voegen", "repoint-brickwork"),
    (84, 3, "kozijnen-schilderen", "paint-window-frames"),
    (70, 27, "pvc-vloer-leggen", "lay-vinyl-floor"),
    (61, 8, "dakpannen-herleggen", "relay-roof-tiles"),
    (52, 40, "wc-renoveren", "refurbish-toilet"),
    (47, 19, "oprit-bestraten", "pave-driveway"),
    (43, 5, "spouwmuur-isoleren", "insulate-cavity-wall"),
    (38, 62, "zonnepanelen-monteren", "mount-solar-panels"),
    (33, 71, "meterkast-vernieuwen", "renew-fuse-box"),
    (30, 14, "wanden-glad-pleisteren", "skim-coat-walls"),
    (27, 88, "laadpaal-aansluiten", "connect-charging-point"),
    (25, 33, "warmtepomp-plaatsen", "fit-heat-pump"),
    (22, 102, "haag-knippen", "clip-hedge"),
    (20, 57, "vlonder-bouwen", "build-garden-deck"),
    (18, 96, "zolder-aftimmeren", "board-out-attic"),
    (17, 45, "keukenblad-vervangen", "replace-worktop"),
    (15, 120, "inboedel-opslaan", "store-household-goods"),
    (14, 23, "dubbel-glas-zetten", "fit-double-glazing"),
    (13, 77, "schoorsteen-vegen", "sweep-chimney"),
    (12, 134, "parket-oliën", "oil-parquet"),
    (11, 66, "douchewand-plaatsen", "fit-shower-screen"),
    (10, 109, "foto's-inlijsten", "frame-photos"),
    (9, 51, "garagedeur-repareren", "mend-garage-door"),
    (8, 145, "rookmelders-ophangen", "hang-smoke-alarms"),
    (7, 37, "tuinmuur-metselen", "lay-garden-wall"),
    (6, 152, "ramen-lappen", "wash-windows"),
    (6, 83, "trap-bekleden", "carpet-stairs"),
    (5, 168, "kruipruimte-ontvochtigen", "dry-out-crawl-space"),
    (4, 127, "jaloezieën-inkorten", "shorten-blinds"),
    (4, 174, "vijver-aanleggen", "dig-garden-pond"),
    (3, 91, "asbest-inventariseren", "survey-asbestos"),
    (3, 181, "bijenkast-timmeren", "make-beehive"),
    (2, 199, "piano-takelen", "hoist-piano"),
    (1, 204, "windvaan-vergulden", "gild-weathervane"),
)
NEW_NAMES = {40: ("toilet-moderniseren", "modernise-toilet"), 152: ("glasbewassing", "window-cleaning")}
HIGHEST_FEE_CENTS = 1_000

# What --bad writes, in turn: the reason for which the row is rejected, and the row, made from a valid one.
BAD_ROWS = (
    ("not_utf8", "{id};proposed;{professional};{at};11_gevel-v\udcffgen_repoint-brickwork_1.50"),
    ("nul_byte", "{id};proposed;{professional};{at};11_gevel\0voegen_repoint-brickwork_1.50"),
    ("quoting", '{id};"{type};{professional};{at};{meta}'),
    ("field_count", "{id};{type};{professional};{at}"),
    ("event_id", "no. {id};{type};{professional};{at};{meta}"),
    ("event_type", "{id};withdrew;{professional};{at};"),
    ("professional_id", "{id};{type};9223372036854775808;{at};{meta}"),
    ("created_at", "{id};{type};{professional};2020-02-30 12:00:00;{meta}"),
    ("metadata_missing", "{id};proposed;{professional};{at};"),
    ("metadata_unexpected", "{id};created_account;{professional};{at};11_gevel-voegen_repoint-brickwork_1.50"),
    ("metadata", "{id};proposed;{professional};{at};11_gevel-voegen_1.50"),
    ("service_id", "{id};proposed;{professional};{at};B11_gevel-voegen_repoint-brickwork_1.50"),
    ("lead_fee", "{id};proposed;{professional};{at};11_gevel-voegen_repoint-brickwork_1,50"),
    ("duplicate_event_id", "{earlier_id};created_account;{professional};{at};"),
    ("quoting", '{id};{type};"{professional}"0;{at};{meta}'),
    ("field_count", "{id};{type};{professional};{at};{meta};"),
    ("event_id", ";{type};{professional};{at};{meta}"),
    ("created_at", "{id};{type};{professional};yesterday;{meta}"),
    ("metadata", "{id};proposed;{professional};{at};11__repoint-brickwork_1.50"),
    ("lead_fee", "{id};proposed;{professional};{at};11_gevel-voegen_repoint-brickwork_NaN"),
)
LINE_LIMIT_BYTES = 1 << 20

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Texts = NDArray[np.bytes_]


class Draws:
    """Whole numbers drawn by chance, the same on every machine."""

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
        """Return COUNT indices into WEIGHTS, each as often as its weight says."""
        upto = np.cumsum(np.asarray(weights, dtype=np.int64))
        return np.searchsorted(upto, self.below(int(upto[-1]), count), side="right").astype(np.int64)


@dataclass(frozen=True)
class Lives:
    """All that professionals do except propose, by time; and when each is able to propose, by start.

    Times are seconds since the start of the log on a clock that stands still on closed days.
    """

    at: Integers
    type: Integers
    professional: Integers
    able_from: Integers
    able_until: Integers
    able_professional: Integers
    professionals: int


def open_days() -> list[date]:
    """Return the days of the log that have events."""
    days = (FIRST_DAY + timedelta(days=number) for number in range(DAYS))
    return [day for day in days if day not in CLOSED]


def draw_lives(events: int, draws: Draws) -> Lives:
    """Draw the lives of the professionals of a log of EVENTS events."""
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
    """Return how many of PROPOSALS fall into each open hour of a marketplace that grows, sleeps and has bursts."""
    days = open_days()
    weights = np.outer(
        [min(number + 2, 30) * WEEKDAY_WEIGHTS[day.weekday()] for number, day in enumerate(days)], HOUR_WEIGHTS
    ).ravel()
    weights *= 7 + draws.below(7, weights.size)
    weights *= np.where(draws.chance(1, 100, weights.size), 12, 1)
    upto = np.cumsum(weights)
    # Python's integers: the product may not fit into 64 bits.
    whole = int(upto[-1])
    rounded = np.array([0] + [(2 * proposals * int(part) + whole) // (2 * whole) for part in upto], dtype=np.int64)
    return np.diff(rounded)


def draw_proposers(at: Integers, lives: Lives, draws: Draws) -> Integers:
    """Return who makes each of the proposals made AT these times: the longer able, the more; 1 in 200 is anybody."""
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


def generate(events: int = EVENTS, seed: int = SEED, bad: Fraction = Fraction(0)) -> Iterator[bytes]:
    """Yield a log of exactly EVENTS rows after its header, in blocks of whole lines.

    Of these rows the share BAD, rounded down, is unreadable, in the ways of BAD_ROWS by turns and once by its length.
    The other rows are those of the log without bad rows.
    """
    yield f"{HEADER}\n".encode()
    draws = Draws(seed, stream=0)
    spoiler = Spoiler(bad, Draws(seed, stream=1))
    lives = draw_lives(events, draws)
    per_hour = proposals_by_hour(events - lives.at.size, draws)
    upto = np.concatenate([[0], np.cumsum(per_hour)])
    form = Form(lives.professionals)
    hour, written = 0, 0
    while hour < per_hour.size:
        end = max(hour + 1, int(np.searchsorted(upto, upto[hour] + BATCH_EVENTS, side="right")) - 1)
        batch = draw_batch(range(hour, end), per_hour, lives, draws)
        yield spoiler.spoil(form.lines(batch, written, draws), written)
        written += batch.at.size
        hour = end


@dataclass(frozen=True)
class Batch:
    """Some events in the order of the log; `offer` numbers the pairs of service and fee, and is 0 without."""

    at: Integers
    type: Integers
    professional: Integers
    offer: Integers


def draw_batch(hours: range, per_hour: Integers, lives: Lives, draws: Draws) -> Batch:
    """Draw the proposals of HOURS and put them and what else happens then in the order of the log."""
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


def table(texts: Iterable[str]) -> Texts:
    """Return TEXTS as an array of UTF-8, all as wide as the widest and filled up with NULs."""
    return np.array([text.encode() for text in texts])


class Form:
    """Writes events as lines, from tables of all texts that can occur in a field."""

    def __init__(self, professionals: int) -> None:
        days = open_days()
        self._id_ends = table(f"{number:04}" for number in range(10_000))
        self._types = table(f";{name};" for name in EVENT_TYPES)
        self._professionals = table(f"{5_000 + 3 * number};" for number in range(professionals))
        self._days = table(f"{day.isoformat()} " for day in days)
        self._times = table(f"{s // HOUR_S:02}:{s // 60 % 60:02}:{s % 60:02};" for s in range(DAY_S))
        before = [f"{number}_{nl}_{en}" for _, number, nl, en in SERVICES]
        after = ["{}_{}_{}".format(number, *NEW_NAMES.get(number, (nl, en))) for _, number, nl, en in SERVICES]
        fees = [f"{cents // 100}.{cents % 100:02}" for cents in range(1, HIGHEST_FEE_CENTS + 1)]
        self._offers = table(["\n", *(f"{name}_{fee}\n" for name in before + after for fee in fees)])
        self._renamed = len(SERVICES) * HIGHEST_FEE_CENTS
        self._renamed_at = sum(day < RENAMED_ON for day in days) * DAY_S

    def lines(self, batch: Batch, written: int, draws: Draws) -> bytes:
        """Return the lines of BATCH, which come after WRITTEN others."""
        count = batch.at.size
        if not count:
            return b""
        ids = 100_000 + 7 * np.arange(written, written + count) + draws.below(7, count)
        first = 2 * np.flatnonzero(draws.chance(1, 20, count // 2))
        ids[first], ids[first + 1] = ids[first + 1], ids[first]
        # The ids of a batch lie close together, so that few numbers are all their beginnings.
        id_start, id_end = np.divmod(ids, 10_000)
        lowest = int(id_start.min())
        day, second = np.divmod(batch.at, DAY_S)
        renamed = (batch.offer > 0) & (batch.at >= self._renamed_at)
        columns = (
            table(str(number) for number in range(lowest, int(id_start.max()) + 1))[id_start - lowest],
            self._id_ends[id_end],
            self._types[batch.type],
            self._professionals[batch.professional],
            self._days[day],
            self._times[second],
            self._offers[np.where(renamed, batch.offer + self._renamed, batch.offer)],
        )
        rows = np.empty(count, dtype=[(f"column_{place}", column.dtype) for place, column in enumerate(columns)])
        for name, column in zip(rows.dtype.names or (), columns, strict=True):
            rows[name] = column
        return rows.tobytes().translate(None, b"\0")


class Spoiler:
    """Makes an exact share of the rows unreadable."""

    def __init__(self, share: Fraction, draws: Draws) -> None:
        self._share = share
        self._draws = draws
        self._spoilt = 0
        self._valid_id: str | None = None

    def spoil(self, block: bytes, written: int) -> bytes:
        """Return BLOCK, whose lines come after WRITTEN others, with the share of its lines replaced."""
        if not self._share:
            return block
        lines = block.decode().split("\n")[:-1]
        wanted = int(self._share * (written + len(lines))) - self._spoilt
        spoilt = sorted(np.argsort(self._draws.bits(len(lines)), kind="stable")[:wanted].tolist())
        first_valid = next((i for i, row in enumerate(spoilt) if i != row), len(spoilt))
        for row in spoilt:
            if self._valid_id is None and first_valid < row:
                self._valid_id = lines[first_valid].partition(";")[0]
            lines[row] = self._unreadable(lines[row])
            self._spoilt += 1
        if self._valid_id is None and first_valid < len(lines):
            self._valid_id = lines[first_valid].partition(";")[0]
        return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")

    def _unreadable(self, line: str) -> str:
        if self._spoilt == len(BAD_ROWS):
            return line.ljust(LINE_LIMIT_BYTES + 1, "x")
        reason, form = BAD_ROWS[self._spoilt % len(BAD_ROWS)]
        if reason == "duplicate_event_id" and self._valid_id is None:
            form = BAD_ROWS[0][1]
        id_, type_, professional, at, meta = line.split(";")
        return form.format(id=id_, type=type_, professional=professional, at=at, meta=meta, earlier_id=self._valid_id)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a log to a file or to standard output."""
    parser = argparse.ArgumentParser(description="Generate the event log of an invented marketplace.")
    parser.add_argument("--events", type=int, default=EVENTS, metavar="N", help="rows (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=SEED, metavar="S", help="same seed, same file (default: %(default)s)"
    )
    parser.add_argument("--out", default="-", metavar="PATH", help="the file to write, or - for standard output")
    parser.add_argument(
        "--bad", type=share, default=Fraction(0), metavar="FRACTION", help="share of unreadable rows (default: 0)"
    )
    options = parser.parse_args(arguments)
    if options.events < 0 or options.seed < 0:
        parser.error("--events and --seed cannot be negative")
    blocks = generate(options.events, options.seed, options.bad)
    try:
        if options.out == "-":
            write(blocks, sys.stdout.buffer)
        else:
            with open(options.out, "wb") as file:
                write(blocks, file)
    except BrokenPipeError:
        # The reader has seen enough; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        parser.error(f"cannot write {options.out}: {error.strerror}")


def share(text: str) -> Fraction:
    """Return the share in TEXT, such as 0.01 or 1/100."""
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(-1)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share from 0 to 1, such as 0.01")
    return value


def write(blocks: Iterator[bytes], file: BinaryIO) -> None:
    """Write BLOCKS to FILE and flush it."""
    file.writelines(blocks)
    file.flush()


if __name__ == "__main__":
    main()

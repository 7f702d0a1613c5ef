"""Generate rows of a feed, to try its pipelines with: of `events` the log of an invented marketplace.

    python airflow/data/generate.py --rows 20000 --seed 1 --out airflow/data/events.csv

That command made the sample beside this file. `docs/events-format.md` describes the format. Of any other feed, rows are
made from its contract alone: see `feed_rows.py`.

**Same seed, same bytes.** All random numbers come from `PCG64.random_raw`, whose stream numpy guarantees for a fixed
seed (`Generator`'s methods have no such guarantee). Everything else is integer arithmetic and stable sorting, so the
file depends neither on numpy's version nor on the processor.

**The log.** 105 days from Monday 25 November 2019 with busy weekdays and hours, bursts, a new year whose first ISO week
begins in the old one, a leap day, and days without events (`CLOSED`). There is one professional per 12 events (at most
200,000), with one of the histories in `LIVES`; all other events are proposals, nearly always by a professional who is
able to propose. Rows are in the order in which a log receives them: by `created_at`, except that one in a hundred is up
to 400 rows late. Ids are unique and rise in that order, with gaps, except that one pair of neighbours in twenty is
swapped. Two services change their name on 26 January.

Memory does not grow with the number of proposals: they are drawn, sorted and written in batches of whole hours.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import BinaryIO

import numpy as np
from bad_rows import BadRows
from event_log import Batch, Draws, draw_batch, draw_lives, proposals_by_hour
from marketplace import DAY_S, EVENT_TYPES, HIGHEST_FEE_CENTS, HOUR_S, NEW_NAMES, RENAMED_ON, SERVICES, open_days
from numpy.typing import NDArray

HEADER = "event_id;event_type;professional_id_anonymized;created_at;meta_data"
EVENTS = 20_000
SEED = 1
BATCH_EVENTS = 1 << 16  # shapes the file (late rows stay in their batch): a change changes the sample

Texts = NDArray[np.bytes_]


def generate(events: int = EVENTS, seed: int = SEED, bad: Fraction = Fraction(0)) -> Iterator[bytes]:
    """Yield a header and exactly EVENTS rows, in blocks of whole lines.

    The share BAD of the rows, rounded down, is unreadable, for the reasons in BAD_ROWS by turns and one for its length.
    The other rows are the same as without bad rows.
    """
    yield f"{HEADER}\n".encode()
    draws = Draws(seed, stream=0)
    bad_rows = BadRows(bad, Draws(seed, stream=1))
    lives = draw_lives(events, draws)
    per_hour = proposals_by_hour(events - lives.at.size, draws)
    upto = np.concatenate([[0], np.cumsum(per_hour)])
    form = Form(lives.professionals)
    hour, written = 0, 0
    while hour < per_hour.size:
        end = max(hour + 1, int(np.searchsorted(upto, upto[hour] + BATCH_EVENTS, side="right")) - 1)
        batch = draw_batch(range(hour, end), per_hour, lives, draws)
        yield bad_rows.insert(form.lines(batch, written, draws), written)
        written += batch.at.size
        hour = end


def table(texts: Iterable[str]) -> Texts:
    """Return TEXTS as an array of UTF-8, padded with NULs to the length of the longest."""
    return np.array([text.encode() for text in texts])


class Form:
    """Formats events as lines, from tables of all texts that can occur in a field."""

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
        """Return the lines of BATCH, which follow WRITTEN others."""
        count = batch.at.size
        if not count:
            return b""
        ids = 100_000 + 7 * np.arange(written, written + count) + draws.below(7, count)
        first = 2 * np.flatnonzero(draws.chance(1, 20, count // 2))
        ids[first], ids[first + 1] = ids[first + 1], ids[first]
        # The ids of a batch are close together, so they have few different beginnings.
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Write rows to a file or to standard output."""
    parser = argparse.ArgumentParser(
        description="Generate rows of a feed; of events, the log of an invented marketplace."
    )
    parser.add_argument("--feed", default="events", metavar="NAME", help="the feed (default: %(default)s)")
    parser.add_argument(
        "--rows", "--events", dest="rows", type=int, default=EVENTS, metavar="N", help="rows (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=SEED, metavar="S", help="same seed, same file (default: %(default)s)"
    )
    parser.add_argument("--out", default="-", metavar="PATH", help="the file to write, or - for standard output")
    parser.add_argument(
        "--bad", type=share, default=Fraction(0), metavar="FRACTION", help="share of unreadable rows (default: 0)"
    )
    quirks = (
        ("late", "that come later than their time says"),
        ("ties", "that have the time of the row before"),
        ("duplicates", "that have the key of the row before"),
    )
    for quirk, text in quirks:
        parser.add_argument(
            f"--{quirk}",
            type=share,
            default=Fraction(0),
            metavar="FRACTION",
            help=f"not of events: share of rows {text}",
        )
    options = parser.parse_args(arguments)
    if options.rows < 0 or options.seed < 0:
        parser.error("--rows and --seed cannot be negative")
    if options.feed == "events" and any(getattr(options, quirk) for quirk, _ in quirks):
        parser.error(
            f"--feed events has its own quirks, and takes none of --{', --'.join(quirk for quirk, _ in quirks)}"
        )
    write = writer(options)
    try:
        if options.out == "-":
            write(sys.stdout.buffer)
        else:
            with open(options.out, "wb") as file:
                write(file)
    except BrokenPipeError:
        # The reader closed the pipe; Python would report it again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        parser.error(f"cannot write {options.out}: {error.strerror}")


def share(text: str) -> Fraction:
    """Return the share in TEXT, 0.01 or 1/100 for example."""
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(-1)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share from 0 to 1, for example 0.01")
    return value


def writer(options: argparse.Namespace) -> Callable[[BinaryIO], None]:
    """Return the function that writes what OPTIONS ask for; end the process if the contract or they are invalid."""
    if options.feed == "events":
        return lambda file: file.writelines(generate(options.rows, options.seed, options.bad))
    from feed_files import write_rows
    from feed_rows import Quirks, rows

    from feeds import contract
    from feeds.errors import FeedError

    path = contract.CONTRACTS / f"{options.feed}.yaml"
    if not path.exists():
        names = ", ".join(contract.feed_names())
        sys.exit(f"✗ There is no feed {options.feed!r}.\n  The feeds are {names}.\n  Name one of them.")

    def write(file: BinaryIO) -> None:
        try:
            feed = contract.read_feed(path)
            quirks = Quirks(options.late, options.ties, options.duplicates)
            made = rows(feed, options.rows, options.seed, quirks, os.environ.get("EVENTS_DSN"))
            write_rows(feed, made, file, options.bad)
        except FeedError as error:
            sys.exit(f"✗ {error.what}\n  {error.why}\n  {error.next_step}")

    return write


if __name__ == "__main__":
    main()

"""Hold the pattern of clean lines against the parser of one line, on the Python that runs this.

    PYTHONPATH=airflow/include python tests/events/clean_lines.py airflow/data/events.csv

Needs the standard library alone. Ends with 1 and says in what text how many runs of lines are cut wrong.
"""

import sys
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path

from events.records import CLEAN, Event, parse

ACCOUNT = b"7;created_account;8;2020-01-31 00:00:00;"
PROPOSAL = b"7;proposed;8;2020-02-29T23:59:59.5Z;3_a b_c_-0.50"
PIECES = (
    *(b"7", b"0", b"-1", b"007", b"-0", b"9" * 18, b"9" * 19, b"-" + b"9" * 18, b";", b";;"),
    *(b'"', b"\\", b"\\N", b"\r", b"\n", b"\0", b" "),
    *(b"created_account", b"proposed", b"became_able_to_propose", b"became_unable_to_propose", b"Proposed"),
    *(b"2020-01-31 00:00:00", b"2020-02-29 12:00:00", b"2019-02-29 12:00:00", b"1900-02-29 12:00:00"),
    *(
        b"2000-02-29T00:00:00Z",
        b"2020-04-31 00:00:00",
        b"2020-01-31 24:00:00",
        b"0999-01-01 00:00:00",
        b"0400-02-29 00:00:00",
    ),
    *(b"2020-01-31 00:00:00.123456", b"2020-01-31 00:00:00+01:00", b"2020-01-31 00:00:00.", b"2020-01-31 23:59:60"),
    *(b"3_a_b_1", b"3__b_1", b"3_a_b_1.1234567", b"3_a_b_1.", b"-3_a_b_+1.5", b"_", b"3_\xc3\xa9_b_1"),
    *(b"x" * 4000, b"x" * 4001, b"9" * 12, b"9" * 13, b".123456", b".1234567"),
)
MOST_LINES = 1000

Run = tuple[int, bytes]  # where it ends, and the day


def is_clean(line: bytes) -> bool:
    """Say whether LINE is what `CLEAN` may take, by the parser and by what COPY reads as it does."""
    if not isinstance(parse(line), Event) or any(special in line for special in (b'"', b"\\", b"\r")):
        return False
    event_id, _, professional_id, moment, meta_data = line.split(b";")
    ids = event_id, professional_id
    service_id, *names = meta_data.split(b"_")[:3]
    return (
        all(number == b"%d" % int(number) for number in ids)
        and all(len(number.lstrip(b"-")) <= 18 for number in (*ids, service_id))
        and moment >= b"1000"
        and b"+" not in moment
        and moment.count(b"-") == 2
        and all(len(name) <= 4000 for name in names)
    )


def by_pattern(text: bytes) -> Iterator[Run]:
    """Yield the runs of clean lines in TEXT as the load finds them."""
    position = 0
    while position < len(text):
        if run := CLEAN.match(text, position):
            yield run.end(), run["day"]
        position = run.end() if run else text.index(b"\n", position) + 1


def by_parser(text: bytes) -> Iterator[Run]:
    """Yield the runs of clean lines in TEXT, looked at line by line."""
    end = 0
    days = ((line, line.split(b";")[3][:10] if is_clean(line) else b"") for line in text.split(b"\n")[:-1])
    for day, lines in groupby(days, lambda pair: pair[1]):
        while part := list(islice(lines, MOST_LINES)):
            end += sum(len(line) + 1 for line, _ in part)
            if day:
                yield end, day


def texts(sample: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield texts to cut: the sample, clean lines damaged in every place, and a run that is too long for one match."""
    yield "the sample", sample.partition(b"\n")[2]
    damaged = [
        line[:at] + piece + line[at + without :]
        for line in (ACCOUNT, PROPOSAL)
        for at in range(len(line) + 1)
        for without in range(4)
        for piece in PIECES
    ]
    replaced = [
        b";".join([*line.split(b";")[:field], piece, *line.split(b";")[field + 1 :]])
        for line in (ACCOUNT, PROPOSAL)
        for field in range(5)
        for piece in PIECES
    ]
    yield "damaged lines", b"".join(line + b"\n" for line in damaged + replaced)
    yield "a long run", (ACCOUNT + b"\n") * (2 * MOST_LINES + 1) + PROPOSAL + b"\n"


def main(sample: Path) -> str | None:
    """Return what is wrong, None if nothing is."""
    for name, text in texts(sample.read_bytes()):
        found, wanted = list(by_pattern(text)), list(by_parser(text))
        if found != wanted:
            wrong = len(set(wanted) - set(found))
            return f"{sys.version.split()[0]}: {wrong} of {len(wanted)} runs of clean lines in {name} are cut wrong"
    return None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

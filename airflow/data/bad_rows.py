"""Unreadable rows for a log, one for each reason to reject a row."""

from fractions import Fraction

import numpy as np
from event_log import Draws

# Used by turns: the reason for which a row is rejected, with its column, and the row, made from a valid one.
BAD_ROWS = (
    ("encoding", "{id};proposed;{professional};{at};11_gevel-v\udcffgen_repoint-brickwork_1.50"),
    ("nul_byte", "{id};proposed;{professional};{at};11_gevel\0voegen_repoint-brickwork_1.50"),
    ("quoting", '{id};"{type};{professional};{at};{meta}'),
    ("field_count", "{id};{type};{professional};{at}"),
    ("event_id: type", "no. {id};{type};{professional};{at};{meta}"),
    ("event_type: value", "{id};withdrew;{professional};{at};"),
    ("professional_id_anonymized: type", "{id};{type};9223372036854775808;{at};{meta}"),
    ("created_at: type", "{id};{type};{professional};2020-02-30 12:00:00;{meta}"),
    ("only_proposals_have_metadata: rule", "{id};proposed;{professional};{at};"),
    (
        "only_proposals_have_metadata: rule",
        "{id};created_account;{professional};{at};11_gevel-voegen_repoint-brickwork_1.50",
    ),
    ("meta_data: pattern", "{id};proposed;{professional};{at};11_gevel-voegen_1.50"),
    ("meta_data: pattern", "{id};proposed;{professional};{at};B11_gevel-voegen_repoint-brickwork_1.50"),
    ("meta_data: pattern", "{id};proposed;{professional};{at};11_gevel-voegen_repoint-brickwork_1,50"),
    ("duplicate_key", "{earlier_id};created_account;{professional};{at};"),
    ("quoting", '{id};{type};"{professional}"0;{at};{meta}'),
    ("field_count", "{id};{type};{professional};{at};{meta};"),
    ("event_id: required", ";{type};{professional};{at};{meta}"),
    ("created_at: type", "{id};{type};{professional};yesterday;{meta}"),
    ("meta_data: pattern", "{id};proposed;{professional};{at};11__repoint-brickwork_1.50"),
    ("meta_data: pattern", "{id};proposed;{professional};{at};11_gevel-voegen_repoint-brickwork_NaN"),
)
LINE_LIMIT_BYTES = 1 << 20


class BadRows:
    """Replaces an exact share of the rows by unreadable ones."""

    def __init__(self, share: Fraction, draws: Draws) -> None:
        self._share = share
        self._draws = draws
        self._inserted = 0
        self._valid_id: str | None = None

    def insert(self, block: bytes, written: int) -> bytes:
        """Return BLOCK, whose lines follow WRITTEN others, with the share of its lines replaced."""
        if not self._share:
            return block
        lines = block.decode().split("\n")[:-1]
        wanted = int(self._share * (written + len(lines))) - self._inserted
        replaced = sorted(np.argsort(self._draws.bits(len(lines)), kind="stable")[:wanted].tolist())
        first_valid = next((i for i, row in enumerate(replaced) if i != row), len(replaced))
        for row in replaced:
            if self._valid_id is None and first_valid < row:
                self._valid_id = lines[first_valid].partition(";")[0]
            lines[row] = self._unreadable(lines[row])
            self._inserted += 1
        if self._valid_id is None and first_valid < len(lines):
            self._valid_id = lines[first_valid].partition(";")[0]
        return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")

    def _unreadable(self, line: str) -> str:
        if self._inserted == len(BAD_ROWS):
            return line.ljust(LINE_LIMIT_BYTES + 1, "x")
        reason, form = BAD_ROWS[self._inserted % len(BAD_ROWS)]
        if reason == "duplicate_key" and self._valid_id is None:
            form = BAD_ROWS[0][1]
        id_, type_, professional, at, meta = line.split(";")
        return form.format(id=id_, type=type_, professional=professional, at=at, meta=meta, earlier_id=self._valid_id)

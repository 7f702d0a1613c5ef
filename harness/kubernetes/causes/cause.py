"""What a cause is, and which of several is behind the others."""

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal[
    "node", "evicted", "claim", "unschedulable", "refused", "config", "image", "memory", "job", "crash",
    "job-running", "probe",
]  # fmt: skip

# A kind may bring about those after it: a missing image keeps the migrations from ending, and components wait for them.
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Cause:
    """Why something does not come up, and what to do; with `is_final` waiting longer is pointless."""

    kind: Kind
    what: str
    why: str
    next_step: str
    is_final: bool

"""One limit of a QoE, held against what a plan reaches."""

from __future__ import annotations

from typing import Literal

from dora_nb.domain.qoe import Term
from dora_nb.domain.record import Record


class Limit(Record):
    """A limit and whether a plan keeps it.

    Attributes
    ----------
    term
        What is limited.
    device
        Whose battery or memory; None for the whole plan.
    limit, value, unit
        The limit, what the plan reaches, and the unit of both. Throughput is at least the limit; everything else at
        most. For headroom it is the memory that may be filled, and that is filled.
    price
        What a unit beyond the limit adds to the objective; None: the limit is hard.
    kept
        Whether the plan is within the limit.
    """

    term: Term
    device: str | None = None
    limit: float
    value: float
    unit: Literal["s", "samples/s", "J", "bytes"]
    price: float | None = None
    kept: bool

    @property
    def cost(self) -> float:
        """What the plan's excess adds to the objective; 0 where the limit is kept or hard."""
        beyond = self.limit - self.value if self.term == "throughput" else self.value - self.limit
        return (self.price or 0.0) * max(0.0, beyond)

"""What the adapter did, when and why, in words that a person can read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dora_nb.units import format_seconds

#: ``resident``: a plan to choose from. ``change``: measurements say that something is faster or slower. ``left``,
#: ``back``: a device. ``weights``: which share each plan takes from now on. ``switch``: another plan runs. ``waiting``:
#: none can. ``re-plan``: plans for the present state were asked for, or not found.
EventKind = Literal["resident", "change", "left", "back", "weights", "switch", "waiting", "re-plan"]


@dataclass(frozen=True)
class AdapterEvent:
    """One entry of the log.

    Attributes
    ----------
    at_s
        Seconds since the start.
    kind
        See :data:`EventKind`.
    text
        What, and why.
    """

    at_s: float
    kind: EventKind
    text: str

    def __str__(self) -> str:
        return f"{format_seconds(self.at_s):>9}  {self.kind:<9} {self.text}"

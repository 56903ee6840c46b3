"""What a search hands over to be evaluated."""

from __future__ import annotations

from dataclasses import dataclass

from dora_nb.domain.placement import PlacedStage


@dataclass(frozen=True)
class Found:
    """Stages with what was proven of them, and how.

    Attributes
    ----------
    stages
        The placement.
    value_s
        What the search says it takes; None where only the evaluation knows exactly.
    bound_s
        No placement within ``scope`` is below.
    scope, method
        As in :class:`~dora_nb.domain.placement.Placement`.
    stopped
        Whether the time limit came first.
    """

    stages: tuple[PlacedStage, ...]
    value_s: float | None
    bound_s: float
    scope: str
    method: str
    stopped: bool = False

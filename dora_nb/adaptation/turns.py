"""Taking turns in proportion to shares that may change from turn to turn."""

from __future__ import annotations

from collections.abc import Mapping


class Turns:
    """Smooth weighted round robin, the rule of :func:`~dora_nb.domain.composition.evenly`, for shares with sum 1."""

    def __init__(self) -> None:
        self._credit: dict[int, float] = {}

    def due(self, shares: Mapping[int, float]) -> list[int]:
        """Everybody earns their share; those that have one, the richest first. Who is not named loses all credit."""
        self._credit = {each: self._credit.get(each, 0.0) + share for each, share in shares.items()}
        return sorted((each for each, share in shares.items() if share > 0), key=lambda each: -self._credit[each])

    def take(self, index: int) -> None:
        """The turn is theirs, whether they were due or not."""
        self._credit[index] = self._credit.get(index, 0.0) - 1.0

"""Layers as they were after some step, kept beside those that go on: what a device can fall back to or give away."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the record of what is held needs no torch
    from torch import Tensor

LayerState = Mapping[str, "Tensor"]


class Held:
    """States of layers by the number of training steps that made them; own layers and copies of others' alike.

    Parameters
    ----------
    depth
        How many numbers of steps are kept: the neighbours of a device are at most one step ahead of it or behind, so
        two are enough.
    """

    def __init__(self, depth: int = 2) -> None:
        self._depth = depth
        self._states: dict[int, dict[int, LayerState]] = {}

    def keep(self, completed: int, states: Mapping[int, LayerState]) -> None:
        """Add layers as they are after so many steps; the oldest ones go."""
        self._states.setdefault(completed, {}).update(states)
        for old in sorted(self._states)[: -self._depth]:
            del self._states[old]

    def get(self, completed: int) -> Mapping[int, LayerState]:
        """The layers kept of so many steps."""
        return self._states.get(completed, {})

    def layers(self) -> dict[int, tuple[int, ...]]:
        """Which layers are kept, by number of steps."""
        return {completed: tuple(sorted(states)) for completed, states in self._states.items()}

    def forget(self, but: Iterable[int] = ()) -> None:
        """Drop everything, some numbers of steps apart."""
        for completed in set(self._states) - set(but):
            del self._states[completed]

"""Two placements side by side, from what :func:`~dora_nb.sweeps.rows.stage_text` says of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """What is other in a second placement.

    Attributes
    ----------
    joined, left
        Devices that are in one of the two only.
    moved
        Layers, as ``first-last``, with the devices that ran them and those that run them.
    stages
        How many stages there are in each.
    """

    joined: tuple[str, ...]
    left: tuple[str, ...]
    moved: tuple[tuple[str, str, str], ...]
    stages: tuple[int, int]

    def __str__(self) -> str:
        if 0 in self.stages:
            return "no plan keeps the limits any more" if self.stages[1] == 0 else "a plan keeps the limits"
        parts = [f"{', '.join(self.joined)} {'joins' if len(self.joined) == 1 else 'join'}"] if self.joined else []
        parts += [f"{', '.join(self.left)} {'leaves' if len(self.left) == 1 else 'leave'}"] if self.left else []
        parts += [f"layers {layers} go from {before} to {after}" for layers, before, after in self.moved]
        return "; ".join(parts) or "other shares of the samples"


def placement_change(before: str, after: str) -> Change:
    """What is other in a second placement; an empty text is no plan."""
    homes = [_homes(before), _homes(after)]
    devices = [{device for home in each.values() for device in home} for each in homes]
    moved = []
    for first, last, pair in _runs(*homes):
        if pair[0] != pair[1]:
            layers = f"{first}-{last}" if last > first else str(first)
            moved.append((layers, "+".join(sorted(pair[0])) or "nobody", "+".join(sorted(pair[1])) or "nobody"))
    return Change(
        joined=tuple(sorted(devices[1] - devices[0])),
        left=tuple(sorted(devices[0] - devices[1])),
        moved=tuple(moved),
        stages=(before.count("|") + bool(before), after.count("|") + bool(after)),
    )


def _homes(placement: str) -> dict[int, frozenset[str]]:
    """By layer, the devices that run it."""
    found: dict[int, frozenset[str]] = {}
    for stage in filter(None, placement.split("|")):
        layers, _, devices = stage.partition(":")
        first, _, last = layers.partition("-")
        home = frozenset(each.partition("*")[0] for each in devices.split("+"))
        found |= dict.fromkeys(range(int(first), int(last) + 1), home)
    return found


def _runs(
    before: dict[int, frozenset[str]], after: dict[int, frozenset[str]]
) -> Iterator[tuple[int, int, tuple[frozenset[str], frozenset[str]]]]:
    """Contiguous layers that the same devices run, in both placements."""
    nobody: frozenset[str] = frozenset()
    start, last = None, None
    for layer in sorted(before.keys() | after.keys()):
        pair = before.get(layer, nobody), after.get(layer, nobody)
        if start is None or pair != last:
            if start is not None and last is not None:
                yield start, layer - 1, last
            start, last = layer, pair
        end = layer
    if start is not None and last is not None:
        yield start, end, last

"""Units of layers that share a device, the order between them, and the cuts of that order: downsets.

A pipeline whose stages follow one another is a chain of downsets: what runs up to and including a stage. For a chain of
layers these are its prefixes; a graph has more, up to one for every set of layers that do not depend on each other.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.table import Floats
from dora_nb.domain.problem import MeasuredProblem

#: Beyond so many downsets only the prefixes of some topological orders are looked at.
MOST_DOWNSETS = 100_000


@dataclass(frozen=True)
class Units:
    """Layers that have to be on one device, in an order in which units may follow one another.

    Attributes
    ----------
    layers
        Positions of the layers of each unit.
    before
        What each unit depends on directly, as a set of bits.
    fused
        Layers that were put together because they wait for each other through their groups.
    mirrored
        Units with backward layers only, whose place in the order is a choice of ours: the mirror image of what they
        exchange with other backward layers.
    """

    layers: tuple[tuple[int, ...], ...]
    before: tuple[int, ...]
    fused: int
    mirrored: int

    @classmethod
    def of(cls, problem: MeasuredProblem, ordered: bool = True) -> Units:
        """The units of a problem; if not ``ordered``, groups only, which depend on nothing."""
        groups: dict[object, list[int]] = {}
        for index, layer in enumerate(problem.layers):
            groups.setdefault(index if layer.group is None else layer.group, []).append(index)
        units = list(groups.values())
        if not ordered:
            return cls(tuple(tuple(each) for each in units), (0,) * len(units), 0, 0)
        home = {layer: unit for unit, layers in enumerate(units) for layer in layers}
        orphans = {unit for unit, layers in enumerate(units) if all(problem.layers[each].backward for each in layers)}
        after: list[set[int]] = [set() for _ in units]
        for source, target in _edges(problem):
            a, b = home[source], home[target]
            back = problem.layers[source].backward, problem.layers[target].backward
            if a == b:
                continue
            if back == (False, False):
                after[a].add(b)
            elif back == (True, True) and (a in orphans or b in orphans):
                after[b].add(a)
        circles = _strong_components(after)
        merged: list[list[int]] = [sorted(layer for unit in circle for layer in units[unit]) for circle in circles]
        place = {unit: index for index, circle in enumerate(circles) for unit in circle}
        before = [0] * len(merged)
        for unit, targets in enumerate(after):
            for target in targets:
                if place[unit] != place[target]:
                    before[place[target]] |= 1 << place[unit]
        fused = sum(len(circle) for circle in circles if len(circle) > 1)
        return cls(tuple(tuple(each) for each in merged), tuple(before), fused, len(orphans))

    def home(self) -> dict[int, int]:
        """The unit of every layer."""
        return {layer: unit for unit, layers in enumerate(self.layers) for layer in layers}

    def after(self) -> list[list[int]]:
        """What depends on each unit directly."""
        after: list[list[int]] = [[] for _ in self.layers]
        for unit, before in enumerate(self.before):
            for source in bits(before):
                after[source].append(unit)
        return after


def _edges(problem: MeasuredProblem) -> Iterator[tuple[int, int]]:
    where = problem.layer_index
    for tensor in problem.tensors:
        if tensor.producer is not None:
            for name in tensor.consumers:
                yield where[tensor.producer], where[name]


def bits(mask: int) -> Iterator[int]:
    """Positions of the bits that are set, lowest first."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def _strong_components(after: Sequence[set[int]]) -> list[list[int]]:
    """Components in topological order (Tarjan 1972, without recursion)."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    found: list[list[int]] = []
    for root in range(len(after)):
        if root in index:
            continue
        work = [(root, iter(sorted(after[root])))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            unit, targets = work[-1]
            target = next(targets, None)
            if target is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[unit])
                if low[unit] == index[unit]:
                    component: list[int] = []
                    while not component or component[-1] != unit:
                        component.append(stack.pop())
                        on_stack.discard(component[-1])
                    found.append(sorted(component))
            elif target not in index:
                index[target] = low[target] = len(index)
                stack.append(target)
                on_stack.add(target)
                work.append((target, iter(sorted(after[target]))))
            elif target in on_stack:
                low[unit] = min(low[unit], index[target])
    return found[::-1]


@dataclass(frozen=True)
class Downsets:
    """A family of downsets of the units, smaller ones first, from nothing to everything.

    Attributes
    ----------
    masks
        Each as a set of bits.
    every
        Whether these are all there are.
    members
        The same as an array, shape (downsets, units).
    words
        And packed, shape (downsets, 64-bit words).
    """

    masks: tuple[int, ...]
    every: bool
    members: NDArray[np.bool_]
    words: NDArray[np.uint64]

    @classmethod
    def of(cls, units: Units, masks: Sequence[int], every: bool) -> Downsets:
        """The family of some masks."""
        masks = sorted(set(masks), key=lambda mask: (mask.bit_count(), mask))
        count, width = len(units.layers), max(1, -(-len(units.layers) // 64))
        packed = b"".join(mask.to_bytes(8 * width, "little") for mask in masks)
        words = np.frombuffer(packed, dtype="<u8").reshape(len(masks), width).astype(np.uint64)
        octets = np.frombuffer(packed, dtype=np.uint8).reshape(len(masks), 8 * width)
        members = np.unpackbits(octets, axis=1, bitorder="little", count=count).astype(bool)
        return cls(tuple(masks), every, members, words)

    def __len__(self) -> int:
        return len(self.masks)

    def take(self, kept: NDArray[np.bool_]) -> Downsets:
        """The family of some of its members; nothing and everything have to stay in it."""
        kept = kept.copy()
        kept[[0, -1]] = True
        masks = tuple(self.masks[index] for index in np.flatnonzero(kept))
        return Downsets(masks, self.every, self.members[kept], self.words[kept])

    def within(self, inner: int, outer: NDArray[np.int64]) -> NDArray[np.int64]:
        """Members of ``outer`` that hold all of ``inner``."""
        missing = (self.words[inner] & ~self.words[outer]).any(axis=1)
        return np.asarray(outer[~missing])


def all_downsets(units: Units) -> Downsets | None:
    """Every downset, or None if there are more than :data:`MOST_DOWNSETS`."""
    after = units.after()
    start = 0
    for unit, before in enumerate(units.before):
        if not before:
            start |= 1 << unit
    ready = {0: start}
    level = [0]
    while level:
        following: dict[int, int] = {}
        for mask in level:
            open_units = ready[mask]
            for unit in bits(open_units):
                larger = mask | 1 << unit
                if larger in following:
                    continue
                possible = open_units & ~(1 << unit)
                for target in after[unit]:
                    if not units.before[target] & ~larger:
                        possible |= 1 << target
                following[larger] = possible
        ready.update(following)
        if len(ready) > MOST_DOWNSETS:
            return None
        level = list(following)
    return Downsets.of(units, list(ready), every=True)


def order_downsets(units: Units, weight: Floats, most: int) -> Downsets:
    """Prefixes of several topological orders, together.

    Parameters
    ----------
    units
        What is ordered.
    weight
        Work of each unit, for the order that takes the longest remaining path first.
    most
        Orders are left out that would lead to more downsets; never the first.
    """
    masks: set[int] = set()
    for order in topological_orders(units, weight):
        prefixes = {0}
        mask = 0
        for unit in order:
            mask |= 1 << unit
            prefixes.add(mask)
        if not masks or len(masks | prefixes) <= most:
            masks |= prefixes
    return Downsets.of(units, list(masks), every=len(masks) == len(units.layers) + 1 and _is_chain(units))


def _is_chain(units: Units) -> bool:
    """Whether there is one order only: each unit depends on the one before."""
    return all(before >> (unit - 1) & 1 for unit, before in enumerate(units.before) if unit)


def topological_orders(units: Units, weight: Floats) -> list[list[int]]:
    """Orders that are tried: depth first from either side, breadth first, and longest remaining path first."""
    count = len(units.layers)
    tail = [0.0] * count
    for unit in range(count - 1, -1, -1):
        tail[unit] += float(weight[unit])
        for source in bits(units.before[unit]):
            tail[source] = max(tail[source], tail[unit])
    ranks: list[Callable[[int, int], tuple[float, ...]]] = [
        lambda unit, turn: (-turn, unit),  # what became ready last: depth first
        lambda unit, turn: (-turn, -unit),
        lambda unit, turn: (turn, unit),  # what became ready first: breadth first
        lambda unit, _: (-tail[unit], unit),
        lambda unit, _: (unit,),
    ]
    return [_order(units, rank) for rank in ranks]


def _order(units: Units, rank: Callable[[int, int], tuple[float, ...]]) -> list[int]:
    after, waits = units.after(), [before.bit_count() for before in units.before]
    ready = [(rank(unit, 0), unit) for unit, count in enumerate(waits) if not count]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        _, unit = heapq.heappop(ready)
        order.append(unit)
        for target in after[unit]:
            waits[target] -= 1
            if not waits[target]:
                heapq.heappush(ready, (rank(target, len(order)), target))
    return order

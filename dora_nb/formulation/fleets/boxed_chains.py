"""Lightest chains of stages within boxes of seconds, many boxes at a time.

Give every type of device a weight, all devices of the fleet together a weight of 1. A plan uses each device once, so
its groups weigh at most 1. A *box* says between which seconds each stage of a pipeline lies, on a grid of levels up to
what a stage may take if a makespan is kept. If the lightest chain whose stages stay below the upper ends weighs more
than 1, no plan is in the box. One table of the lightest group by level and range of layers serves all boxes under the
same weights.

Where pipelines of more stages than R are looked at together (:mod:`~dora_nb.formulation.fleets.pipeline_rows`), those
in front take at most t each and Q together: for every price c of a second, ``least weight + c x seconds - c Q`` is a
bound on their weight, and the largest over some prices is taken. Weights are single numbers of 32 bits, so that only
what is above 1 by more than their rounding counts.

Our own design; the weights are the multipliers of a Lagrangian relaxation of "each device once".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.table import Floats
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.fleets.group_times import GroupTimes
from dora_nb.formulation.fleets.pipeline_rows import Kind

#: Levels up to the most seconds of a stage.
LEVELS = 256

#: Heavier than all devices by this much counts as too heavy; what is less may be rounding.
TOO_HEAVY = 1 + 1e-5

#: Rounding of a weight in 32 bits.
SINGLE = 1e-6

#: Prices of a second of the stages in front, as multiples of all devices' weight over the makespan.
PRICES = (0.0, *np.geomspace(0.3, 12.0, 8).tolist())

Singles = NDArray[np.float32]


class Levels:
    """Groups on ranges of layers by the least level that holds them.

    Parameters
    ----------
    times
        Seconds of groups on ranges.
    makespan_s
        Above it nothing will be asked.
    """

    def __init__(self, times: GroupTimes, makespan_s: float) -> None:
        self.times, self.makespan_s = times, makespan_s
        self.unit_s = makespan_s / times.micro_batches / LEVELS
        level = np.ceil(times.seconds / self.unit_s - 1e-9)
        held = level <= LEVELS
        self.of = np.where(held, level, LEVELS + 1).astype(np.int16)
        widths = times.stop - times.first
        self.widest = int(widths[held.any(axis=0)].max(initial=1))
        cuts = len(times.hop_s)
        group, range_ = np.nonzero(held)
        place = (self.widest - widths) * cuts + times.stop  # widest ranges first, each by its stop
        key = self.of[held].astype(np.int64) * (self.widest * cuts) + place[range_]
        order = np.argsort(key, kind="stable")
        self._group, self._seconds = group[order].astype(np.int32), times.seconds[held][order].astype(np.float32)
        self._key, self._begin = np.unique(key[order], return_index=True)

    @cached_property
    def by_range(self) -> Ints:
        """The levels, a row a range of layers, shape (ranges, groups)."""
        return np.ascontiguousarray(self.of.T)

    def lightest(self, weights: Floats, price: float = 0.0) -> Singles:
        """Least weight plus priced seconds by level and range, shape (levels + 1, widest, cuts).

        Ranges lie by their stop, and by their first layer from ``widest`` in front of it to one in front of it.
        """
        each = (self.times.used @ weights).astype(np.float32)[self._group]
        if price:
            each += np.float32(price) * self._seconds
        table = np.full((LEVELS + 1, self.widest, len(self.times.hop_s)), np.inf, dtype=np.float32)
        if len(each):
            table.ravel()[self._key] = np.minimum.reduceat(each, self._begin)
        return np.minimum.accumulate(table, axis=0, out=table)


@dataclass(frozen=True)
class Weighed:
    """Lightest chains under some weights.

    Attributes
    ----------
    levels
        What they are chains of.
    weights
        Of one device of each type, all devices together 1.
    """

    levels: Levels
    weights: Floats

    @cached_property
    def table(self) -> Singles:
        """Least weight of a stage, see :meth:`Levels.lightest`."""
        return self.levels.lightest(self.weights)

    def of_ranges(self, level: int) -> Floats:
        """Least weight of a stage within a level by range, shape (ranges,); infinite where there is none."""
        times, wide = self.levels.times, self.levels.widest
        widths = times.stop - times.first
        weight = self.table[level, np.maximum(wide - widths, 0), times.stop]
        return np.where(widths <= wide, weight, np.inf)

    @cached_property
    def by_first(self) -> Singles:
        """The table with ranges by their first layer, and by their stop from ``widest`` behind it to one behind it."""
        wide, cuts = self.levels.widest, len(self.levels.times.hop_s)
        found = np.full_like(self.table, np.inf)
        for place in range(wide):
            width = min(wide - place, cuts)
            found[:, place, : cuts - width] = self.table[:, place, width:]
        return found

    @cached_property
    def in_front(self) -> Singles:
        """Least weight plus priced seconds of stages that all keep a level, up to a cut: (prices, levels + 1, cuts)."""
        levels, times = self.levels, self.levels.times
        wide, cuts = levels.widest, len(times.hop_s)
        hops_s = times.directions * np.concatenate([np.zeros(wide), times.hop_s])
        found = np.full((len(PRICES), LEVELS + 1, wide + cuts), np.inf, dtype=np.float32)
        for at, multiple in enumerate(PRICES):
            price = multiple / levels.makespan_s
            table = levels.lightest(self.weights, price) if price else self.table
            found[at, :, wide] = 0.0
            for stop in range(1, cuts):
                before = found[at, :, stop : stop + wide] + (price * hops_s[stop : stop + wide]).astype(np.float32)
                found[at, :, wide + stop] = (before + table[:, :, stop]).min(axis=1)
        found = found[:, :, wide:]
        found[:, :, 0] = np.inf
        return found

    def least(self, kind: Kind, most: Ints) -> Floats:
        """Weight that every chain of a kind has at least whose figures stay within levels, shape (boxes,)."""
        beginning, rest = self._beginning(kind, most)
        for at in range(rest.shape[1] - 1):
            beginning = self._extended(beginning, self.table[rest[:, at]])
        if not rest.shape[1]:
            return np.asarray(beginning[:, -1], dtype=float)
        last = self._windows(beginning)[:, :, -1] + self.table[rest[:, -1], :, -1]
        return np.asarray(last.min(axis=1), dtype=float)

    def lower(self, kind: Kind, middle: Ints, most: Ints) -> Floats:
        """That :meth:`least` where one figure stays within a lower level, for each of them, shape (boxes, figures)."""
        beginning, rest = self._beginning(kind, most)
        halves = middle[:, middle.shape[1] - rest.shape[1] :]
        behind = self._endings(rest)
        found = []
        for at in range(most.shape[1] - rest.shape[1]):
            lowered = most.copy()
            lowered[:, at] = middle[:, at]
            found.append((self._beginning(kind, lowered)[0] + behind[0]).min(axis=1))
        for at in range(rest.shape[1]):
            stage = self._extended(beginning, self.table[halves[:, at]])
            found.append((stage + behind[at + 1]).min(axis=1))
            beginning = self._extended(beginning, self.table[rest[:, at]])
        return np.stack(found, axis=1).astype(float)

    def _endings(self, most: Ints) -> list[Singles]:
        """Least weight of the stages from each one on, by the cut in front, and of none."""
        wide, cuts = self.levels.widest, len(self.levels.times.hop_s)
        found = [np.where(np.arange(cuts) == cuts - 1, np.float32(0.0), np.float32(np.inf))[None].repeat(len(most), 0)]
        for at in range(most.shape[1] - 1, -1, -1):
            nothing = np.full((len(most), wide), np.inf, dtype=np.float32)
            behind = _windows(np.concatenate([found[-1], nothing], axis=1), wide + 1, cuts)[:, :0:-1]
            found.append((behind + self.by_first[most[:, at]]).min(axis=1))
        return found[::-1]

    def ahead(self, most: Ints) -> Floats:
        """Least weight of the stages up to each one, by the cut they end at, shape (stages + 1, cuts)."""
        found = [np.where(np.arange(len(self.levels.times.hop_s)) == 0, np.float32(0.0), np.float32(np.inf))[None]]
        for level in most:
            found.append(self._extended(found[-1], self.table[None, level]))
        return np.concatenate(found).astype(float)

    def behind(self, most: Ints) -> Floats:
        """Least weight of the stages from each one on, by the cut they begin at, shape (stages + 1, cuts)."""
        return np.concatenate(self._endings(most[None])).astype(float)

    def _beginning(self, kind: Kind, most: Ints) -> tuple[Singles, Ints]:
        if not kind.more:
            return self._alone(most[:, 0]), most[:, 1:]
        paid = np.array(PRICES)[:, None] / self.levels.makespan_s * most[:, 0] * self.levels.unit_s
        weight = self.in_front[:, most[:, 1]] - paid[:, :, None].astype(np.float32)
        return np.asarray(weight.max(axis=0)), most[:, 2:]

    def _alone(self, most: Ints) -> Singles:
        """Of a first stage, by its stop."""
        wide, cuts = self.levels.widest, len(self.levels.times.hop_s)
        found = np.full((len(most), cuts), np.inf, dtype=np.float32)
        stops = np.arange(1, min(wide, cuts - 1) + 1)
        found[:, stops] = self.table[most[:, None], wide - stops, stops]
        return found

    def _windows(self, beginning: Singles) -> Singles:
        """What is in front of the last stage, by its first layer and stop as in the table: (boxes, widest, cuts)."""
        wide, cuts = self.levels.widest, beginning.shape[1]
        nothing = np.full((len(beginning), wide), np.inf, dtype=np.float32)
        return _windows(np.concatenate([nothing, beginning], axis=1), wide, cuts)

    def _extended(self, beginning: Singles, stage: Singles) -> Singles:
        return np.asarray((self._windows(beginning) + stage).min(axis=1))


def _windows(rows: Singles, count: int, width: int) -> Singles:
    """Of each row the first windows of some width, one behind the other: (rows, count, width)."""
    along, across = rows.strides
    return np.lib.stride_tricks.as_strided(rows, (len(rows), count, width), (along, across, across), writeable=False)

"""Lightest chains of stages that keep a load, devices weighed: a bound on periods without a list of device sets.

Give every type of device a weight, all devices of the fleet together a weight of 1. A plan uses each device once, so
its groups weigh at most 1. If the lightest chain of stages among those that work at most so long for all micro-batches
together weighs more than 1, no plan keeps that load. Any weights give a valid bound; good ones are sought elsewhere.

Our own design; the weights are the multipliers of a Lagrangian relaxation of "each device once".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.fleets.group_times import GroupTimes

#: Heavier than any chain within the fleet by this much counts as refuted; what is less may be rounding.
ROUNDING = 1e-9


class LightChain(NamedTuple):
    """The lightest chain of stages, which may use devices more than once.

    Attributes
    ----------
    weight
        Of its devices; infinite if there is no chain at all.
    used
        Devices of each type that it takes, shape (types,); zeros without a chain.
    stages
        First to last: (first layer, stop layer, group).
    """

    weight: float
    used: Ints
    stages: tuple[tuple[int, int, int], ...]


class _Entries(NamedTuple):
    """Ways to run ranges: of every range the groups that no faster one undercuts in weight; sorted by stop."""

    first: Ints
    group: Ints
    seconds: Floats
    weight: Floats
    begin: Ints  # where the entries of each stop begin, shape (cuts + 1,)

    def of(self, stop: int) -> slice:
        return slice(int(self.begin[stop]), int(self.begin[stop + 1]))


@dataclass(frozen=True)
class LoadChains:
    """Lightest chains over the stages of one micro-batch size.

    Attributes
    ----------
    times
        Seconds of groups on ranges.
    """

    times: GroupTimes
    _known: dict[str, object] = field(default_factory=dict, init=False, repr=False)

    @property
    def layers(self) -> int:
        """How many there are."""
        return len(self.times.hop_s) - 1

    def within_load(self, weights: Floats, load_s: float) -> LightChain:
        """The lightest chain of stages that work at most so long for all micro-batches together."""
        entries = self._entries(weights, load_s / self.times.micro_batches)
        lightest, came = np.full(self.layers + 1, np.inf), np.full(self.layers + 1, -1)
        lightest[0] = 0.0
        for stop in range(1, self.layers + 1):
            own = entries.of(stop)
            weight = lightest[entries.first[own]] + entries.weight[own]
            if len(weight):
                at = int(weight.argmin())
                lightest[stop], came[stop] = weight[at], own.start + at
        picked, cut = [], self.layers
        while cut and came[cut] >= 0:
            picked.append((cut, int(came[cut])))
            cut = int(entries.first[came[cut]])
        return self._chain(float(lightest[-1]), entries, picked[::-1] if not cut else [])

    def _entries(self, weights: Floats, most_s: float) -> _Entries:
        every = self._all_entries(weights)
        kept = np.flatnonzero(every.seconds <= most_s)
        return _Entries(
            first=every.first[kept],
            group=every.group[kept],
            seconds=every.seconds[kept],
            weight=every.weight[kept],
            begin=np.searchsorted(kept, every.begin),
        )

    def _all_entries(self, weights: Floats) -> _Entries:
        """Kept for the last weights: they change more seldom than what is asked of them."""
        if weights.tobytes() != self._known.get("weights"):
            self._known.update(weights=weights.tobytes(), entries=self._find_entries(weights))
        entries = self._known["entries"]
        assert isinstance(entries, _Entries), "found with the weights"
        return entries

    def _find_entries(self, weights: Floats) -> _Entries:
        times = self.times
        order, seconds = times.by_seconds
        weight = (times.used @ weights)[order]
        lighter = np.isfinite(seconds)
        lighter[1:] &= weight[1:] < np.minimum.accumulate(weight, axis=0)[:-1]
        place, ranges = np.nonzero(lighter)
        sorted_ = np.lexsort((times.first[ranges], times.stop[ranges]))
        place, ranges = place[sorted_], ranges[sorted_]
        return _Entries(
            first=times.first[ranges],
            group=order[place, ranges],
            seconds=seconds[place, ranges],
            weight=weight[place, ranges],
            begin=np.searchsorted(times.stop[ranges], np.arange(self.layers + 2)),
        )

    def _chain(self, weight: float, entries: _Entries, picked: list[tuple[int, int]]) -> LightChain:
        """From (stop, entry) of every stage, first to last."""
        stages = tuple((int(entries.first[entry]), stop, int(entries.group[entry])) for stop, entry in picked)
        groups = [group for _, _, group in stages]
        return LightChain(weight, np.asarray(self.times.used[groups].sum(axis=0), dtype=np.int64), stages)

"""A lower bound on makespans and periods that needs no list of device sets: cheapest paths over cuts, devices priced.

Give every type of device a weight, all devices of the fleet together a weight of 1. A plan uses each device once, so
its groups weigh at most 1. If the lightest chain of stages among those that *could* keep a makespan T weighs more than
1, no plan keeps T. Any weights give a valid bound; good ones are sought elsewhere.

Which stages could keep T? With t the seconds of one micro-batch on a stage both ways, M micro-batches, U and D the
round trip of one micro-batch through all stages in front and behind (hand-overs included), and Q = U + t + D, every
stage with k micro-batches in flight has, whatever the order of transfers, when training:

* ``U + M t <= T``: the first micro-batch comes down, the stage works off all, the last gradient goes up. With
  U = Q - D - t this is ``(M - 1) t - D <= T - Q``;
* ``Q + (M - 1) t - (k - 1) f <= T``, f the forward part of t: after the first micro-batch's round trip through the
  stage all other backward passes are left, and all forward passes but k, which 1F1B has run at most by then;
* ``Q + n D + (M - 1 - n (k - 1)) t <= T`` where n k < M: each further round trip below the stage holds up the k-th
  next micro-batch, since 1F1B runs it only after the backward pass.

Each is the length of a path through the operations of the plan, so none can be beaten. Without backward passes a single
row is left: ``Q + (M - 1) t <= T``, for the forward pass alone.

Q is not known, so it is guessed: for plans with Q in [q, q') the rows hold with q in place of Q, and D ends below q'.
The narrower these classes, the tighter the bound. Chains are built from the last stage to the first, so that the number
of stages behind, and with it k for the largest depth allowed (a smaller k only makes the rows longer), is known. D is
rounded down to a grid after every stage; the first row takes that into account. The textbook's ``fill + (M - 1) x
slowest`` is not among the rows: with more micro-batches in flight it can be beaten.

Our own design; the weights are the multipliers of a Lagrangian relaxation of "each device once".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.group_times import GroupTimes

#: Cells of the grid for the round trip behind a stage, over the whole makespan.
CELLS = 250

#: Heavier than any chain within the fleet by this much counts as refuted; what is less may be rounding.
ROUNDING = 1e-9


class Chain(NamedTuple):
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
class RoundTrips:
    """Lightest chains over the stages of one micro-batch size.

    Attributes
    ----------
    times
        Seconds of groups on ranges.
    depth
        Largest in-flight depth: a stage with r stages behind it holds ``1 + depth x r`` micro-batches.
    trains
        Whether there are backward passes.
    """

    times: GroupTimes
    depth: int
    trains: bool
    _known: dict[str, object] = field(default_factory=dict, init=False, repr=False)

    @property
    def layers(self) -> int:
        """How many there are."""
        return len(self.times.hop_s) - 1

    @cached_property
    def in_flight(self) -> tuple[int, ...]:
        """Micro-batches in flight by stages behind; the last entry holds for all larger numbers."""
        batches, counts = self.times.micro_batches, [1]
        while self.trains and counts[-1] < batches:
            counts.append(min(batches, 1 + self.depth * len(counts)))
        return tuple(counts)

    @cached_property
    def most_stages(self) -> int:
        """No plan has more."""
        return min(self.layers, int(self.times.available.sum()))

    def within_load(self, weights: Floats, load_s: float) -> Chain:
        """The lightest chain of stages that work at most so long for all micro-batches together."""
        entries = self._entries(weights, load_s / self.times.micro_batches)
        lightest, came = np.full(self.layers + 1, np.inf), np.full(self.layers + 1, -1)
        lightest[0] = 0.0
        for stop in range(1, self.layers + 1):
            some = entries.of(stop)
            weight = lightest[entries.first[some]] + entries.weight[some]
            if len(weight):
                at = int(weight.argmin())
                lightest[stop], came[stop] = weight[at], some.start + at
        picked, cut = [], self.layers
        while cut and came[cut] >= 0:
            picked.append((cut, int(came[cut])))
            cut = int(entries.first[came[cut]])
        return self._chain(float(lightest[-1]), entries, picked[::-1] if not cut else [])

    def within_makespan(self, weights: Floats, makespan_s: float, trip_s: tuple[float, float]) -> Chain:
        """The lightest chain of stages that could keep a makespan with a round trip in [least, below)."""
        return _Layers(self, weights, makespan_s, *trip_s).lightest()

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

    def _chain(self, weight: float, entries: _Entries, picked: list[tuple[int, int]]) -> Chain:
        """From (stop, entry) of every stage, first to last."""
        stages = tuple((int(entries.first[entry]), stop, int(entries.group[entry])) for stop, entry in picked)
        groups = [group for _, _, group in stages]
        return Chain(weight, np.asarray(self.times.used[groups].sum(axis=0), dtype=np.int64), stages)


class _Layers:
    """Lightest beginnings (from the back) by stages placed, cut, and round trip so far, rounded down to a grid."""

    def __init__(self, owner: RoundTrips, weights: Floats, makespan_s: float, least_s: float, below_s: float) -> None:
        times = owner.times
        self.owner, self.batches = owner, times.micro_batches
        self.left_s = makespan_s - least_s  # T - q
        self.cell_s = makespan_s / CELLS
        self.cells = min(int(below_s / self.cell_s) + 1, CELLS + 1)
        forward = times.forward_share[1]
        held = np.array(owner.in_flight)
        per_stage = self.batches - 1 - (held - 1) * (forward if owner.trains else 0.0)
        self.most_s = np.divide(self.left_s, per_stage, out=np.full(len(held), np.inf), where=per_stage > 0)
        self.entries = owner._entries(weights, float(self.most_s.max()))
        first = self.entries.first
        trip_s = self.entries.seconds + times.directions * times.hop_s[first]
        self.shift = np.minimum(trip_s / self.cell_s, self.cells).astype(np.int64)
        self.to_front = self._to_front()

    def _to_front(self) -> Floats:
        """Weight that the layers in front of each cut take at least."""
        weight = np.full(self.owner.layers + 1, np.inf)
        weight[0] = 0.0
        for stop in range(1, len(weight)):
            some = self.entries.of(stop)
            weight[stop] = (weight[self.entries.first[some]] + self.entries.weight[some]).min(initial=np.inf)
        return weight

    def lightest(self) -> Chain:
        owner, entries, deepest = self.owner, self.entries, len(self.owner.in_flight) - 1
        self.weight = np.full((deepest + 1, owner.layers + 1, self.cells), np.inf)
        self.weight[0, owner.layers, 0] = 0.0
        for stop in range(owner.layers, 0, -1):
            for behind in range(deepest + 1):
                known = self.weight[behind, stop]
                known[known + self.to_front[stop] > 1 + ROUNDING] = np.inf  # too heavy already
                finite = np.flatnonzero(np.isfinite(known))
                if len(finite):
                    self._extend(stop, behind, int(finite[0]), int(finite[-1]) + 1)
        ends = self.weight[:, 0]
        if not np.isfinite(ends).any():
            return Chain(np.inf, np.zeros(owner.times.used.shape[1], dtype=np.int64), ())
        behind, cell = (int(each) for each in np.unravel_index(ends.argmin(), ends.shape))
        return owner._chain(float(ends[behind, cell]), entries, self._walk(behind, cell))

    def _allowed(self, stop: int, behind: int, cells: Ints) -> tuple[Ints, Floats]:
        """Entries that may come in front at some of the cells, and what they weigh there, shape (entries, cells)."""
        some = self.entries.of(stop)
        which = some.start + np.flatnonzero(self.entries.seconds[some] <= self.most_s[behind])
        seconds = self.entries.seconds[which]
        least, most = np.full(len(which), -np.inf), np.full(len(which), np.inf)
        if self.owner.trains:
            held = self.owner.in_flight[behind]
            # So many cells may the true round trip be above the rounded one.
            lost = behind if behind < len(self.owner.in_flight) - 1 else self.owner.most_stages
            least = ((self.batches - 1) * seconds - self.left_s) / self.cell_s - lost
            for times in range(1, (self.batches - 1) // held + 1):
                rest_s = self.left_s - (self.batches - 1 - times * (held - 1)) * seconds
                most = np.minimum(most, rest_s / (times * self.cell_s))
        open_ = (cells[None] >= least[:, None] - ROUNDING) & (cells[None] <= most[:, None] + ROUNDING)
        return which, np.where(open_, self.entries.weight[which][:, None], np.inf)

    def _extend(self, stop: int, behind: int, begin: int, end: int) -> None:
        which, added = self._allowed(stop, behind, np.arange(begin, end))
        weight = self.weight[behind, stop, begin:end][None] + added
        ahead = min(behind + 1, len(self.weight) - 1)
        firsts, shifts = self.entries.first[which], self.shift[which]
        useful = weight.min(axis=1, initial=np.inf) + self.to_front[firsts] <= 1 + ROUNDING
        for entry in np.flatnonzero(useful):
            at = begin + int(shifts[entry])
            into = self.weight[ahead, firsts[entry], at : at + end - begin]
            np.minimum(into, weight[entry, : len(into)], out=into)

    def _walk(self, behind: int, cell: int) -> list[tuple[int, int]]:
        """(stop, entry) of every stage, first to last: the steps back from the end that explain its weight."""
        picked: list[tuple[int, int]] = []
        first = 0
        while first < self.owner.layers:
            first, behind, cell, entry = self._step(first, behind, cell)
            picked.append((first, entry))
        return picked

    def _step(self, first: int, behind: int, cell: int) -> tuple[int, int, int, int]:
        here, deepest = self.weight[behind, first, cell], len(self.weight) - 1
        sources = {behind - 1, deepest} if behind == deepest else {behind - 1}
        for stop in range(first + 1, self.owner.layers + 1):
            for source in sorted(sources):
                if source < 0 or not np.isfinite(self.weight[source, stop]).any():
                    continue
                which, added = self._allowed(stop, source, np.arange(self.cells))
                start = cell - self.shift[which]
                mine = (self.entries.first[which] == first) & (start >= 0)
                for at in np.flatnonzero(mine):
                    if self.weight[source, stop, start[at]] + added[at, start[at]] == here:
                        return stop, source, int(start[at]), int(which[at])
        raise AssertionError("every weight comes from a stage behind it")

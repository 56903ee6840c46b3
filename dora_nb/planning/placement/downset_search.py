"""The best chain of stages over a family of downsets: a dynamic programme from the last stage to the first.

A state is a downset (what still lies ahead), the devices in use behind it counted by type, the rate of the stage right
behind it where a link's seconds depend on both ends, and the replicas behind it where memory depends on them. Its value
is the least bottleneck, or sum, of the stages behind it. One pass over the family is exact for it. States are dropped
only when no placement through them can be better than one in hand: by their value, or because the work still ahead is
more than the devices that are left can do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.table import Floats
from dora_nb.formulation.placement.crossings import Ints
from dora_nb.formulation.placement.downsets import Downsets
from dora_nb.formulation.placement.stage_table import Option, Rows, StageTable
from dora_nb.formulation.placement.ways import WayTable
from dora_nb.planning.placement.device_states import States
from dora_nb.planning.placement.work_bound import WorkBound

#: What a pass adds up: the slowest stage, seconds in a row, or weighted seconds of media within a limit on stages.
Measure = Literal["period", "latency", "airtime"]

#: What stages take is kept from pass to pass for families of at most so many downsets.
_KEPT_DOWNSETS = 300


@dataclass(frozen=True)
class Step:
    """A stage of the best chain: between which downsets, on what, with how many micro-batches in flight."""

    inner: int
    outer: int
    option: Option
    in_flight: int


def possible_downsets(downsets: Downsets, bound: WorkBound, states: States, below_s: float) -> NDArray[np.bool_]:
    """Which downsets a chain with a smaller period may go through.

    The work behind fits the devices that some state uses, and the work ahead the devices that it leaves.
    """
    possible = np.zeros(len(downsets), dtype=bool)
    if not np.isfinite(below_s):
        return ~possible
    limit = below_s * (1 + 1e-9)
    ahead = downsets.members @ bound.work_s
    behind, rounding = float(ahead[-1]) - ahead, 1e-12 * float(ahead[-1])
    used = np.unique(states.used, axis=0)
    spent, left = used @ bound.weights, (np.array(states.counts) - used) @ bound.weights
    for busy, free in np.unique(np.stack([spent, left], axis=1), axis=0):
        possible |= (ahead <= limit * free + rounding) & (behind <= limit * busy + rounding)
    return possible


class DownsetSearch:
    """Passes over one family of downsets."""

    def __init__(self, table: StageTable, states: States, work: WorkBound) -> None:
        self.table, self.states = table, states
        self.problem, self.downsets = table.problem, table.downsets
        rules = self.problem.execution
        self.piped = rules.in_flight == "pipeline"
        self.ways = [WayTable(self.problem, table.units, table.downsets, kind) for kind in table.kinds]
        self.chooses = [each.matters for each in self.ways]
        self.work_bound, self.weights = work, work.weights
        self.work = self.downsets.members @ work.work_s  # weighted work up to every downset
        self.rounding = 1e-12 * float(self.work[-1])
        # Weighted devices in use and free: sums of their own, as a difference would lose what small weights add.
        self.spent = self.states.used @ work.weights
        self.left = (np.array(self.states.counts) - self.states.used) @ work.weights
        self.rates, self.rate_of = self._rates()
        self._kept: dict[int, tuple[Ints, Rows]] = {}
        self._kept_ways: dict[tuple[int, int], tuple[Ints, tuple[Floats, Floats]]] = {}

    def _rates(self) -> tuple[list[float], list[int]]:
        """Rates that links tell apart, and which of them each type has."""
        if self.problem.execution.transfers != "link":
            return [np.inf], [0] * len(self.problem.devices)
        given = [device.bytes_per_s or np.inf for device in self.problem.devices]
        rates = sorted(set(given))
        return rates, [rates.index(rate) for rate in given]

    # ------------------------------------------------------------------ one pass

    def run(
        self,
        below: float,
        measure: Measure,
        *,
        limit_s: float = np.inf,
        shares: Floats | None = None,
        sure: bool = False,
    ) -> tuple[float, list[Step]]:
        """The best chain whose value is below a number, or infinity and no steps.

        Parameters
        ----------
        below
            Only smaller values are looked for.
        measure
            What is added up.
        limit_s, shares
            For ``airtime``: a limit on every stage and link, and the weight of each medium; together they are 1.
        sure
            Whether times are those of ways at hand; if not, lower bounds, exact where that is known.
        """
        self.measure, self.below, self.sure = measure, below, sure
        self.shares = np.zeros(0) if shares is None else shares
        self.limit_s = min(limit_s, np.finfo(float).max)  # no limit still leaves out what cannot be done at all
        count = len(self.downsets)
        self.value = np.full((count, len(self.rates), len(self.states)), np.inf)
        self.behind = self.value if len(self.rates) == 1 and not self._links else np.full_like(self.value, np.inf)
        self.value[-1, :, 0] = self.behind[-1, :, 0] = 0.0
        alive = np.zeros(count, dtype=bool)
        alive[-1] = True
        possible = self._possible()
        window = below * max(self.weights[option.device] * option.used for option in self.table.options)
        for inner in np.flatnonzero(possible)[::-1].tolist():
            if inner == count - 1:
                continue
            outer = np.flatnonzero(alive)
            if measure == "period":
                outer = outer[self.work[outer] <= self.work[inner] + window * (1 + 1e-9) + self.rounding]
            outer = self.downsets.within(inner, outer[outer > inner])
            if len(outer):
                self._extend(inner, outer)
                alive[inner] = bool(np.isfinite(self.value[inner]).any())
        found = self.value[0]
        best = float(found.min())
        if not best < below:
            return np.inf, []
        rate, state = np.unravel_index(int(np.argmin(found)), found.shape)
        return best, self._trace(int(rate), int(state))

    @property
    def _links(self) -> bool:
        return self.problem.execution.transfers == "link"

    def _possible(self) -> NDArray[np.bool_]:
        if self.measure != "period":
            return np.ones(len(self.downsets), dtype=bool)
        return possible_downsets(self.downsets, self.work_bound, self.states, self.below)

    def _rows(self, inner: int, outer: Ints) -> Rows:
        """Priced rows; those of small families are kept for the next pass."""
        if len(self.downsets) > _KEPT_DOWNSETS:
            return self.table.rows(inner, outer)
        if inner not in self._kept:
            every = self.downsets.within(inner, np.arange(inner + 1, len(self.downsets)))
            self._kept[inner] = every, self.table.rows(inner, every)
        every, rows = self._kept[inner]
        where = np.searchsorted(every, outer)
        return Rows(
            rows.time_s[:, where],
            rows.parameter_bytes[:, where],
            rows.fixed_bytes[:, where],
            rows.in_flight_bytes[:, where],
            rows.receive[:, where],
            rows.send[:, where],
            rows.airtime_bytes[where],
        )

    def _extend(self, inner: int, outer: Ints) -> None:
        """Values at a downset: every stage that starts there, in front of every chain behind."""
        rows = self._rows(inner, outer)
        here = self.value[inner]
        times = [self._times(kind, inner, outer, rows) for kind in range(len(self.table.kinds))]
        for option in self.table.options:
            self._join(here[self.rate_of[option.device]], option, rows, inner, outer, times[option.kind])
        if self.measure == "period" and np.isfinite(self.below):
            here[:, self.work[inner] > self.below * (1 + 1e-9) * self.left + self.rounding] = np.inf
        here[here >= self.below] = np.inf
        if self.problem.execution.micro_batches is not None:
            here[:, self.states.replicas > self.problem.execution.micro_batches] = np.inf
        if self.behind is not self.value:
            self.behind[inner] = self._before_links(inner)

    def _times(self, kind: int, inner: int, outer: Ints, rows: Rows) -> Floats:
        """Seconds of the stages by micro-batches in flight, infinite where memory is too small, shape (ends, most)."""
        cap = self.problem.devices[self.table.kinds[kind].device].memory_bytes
        most = self._most_in_flight
        if self.chooses[kind]:
            found = self._way_times(kind, inner, outer, rows)
            self.ways[kind].correct(inner, outer, found)
            return found
        if cap is None:
            return np.asarray(rows.time_s[kind][:, None])
        fixed, growing = rows.fixed_bytes[kind], rows.in_flight_bytes[kind]
        counts = np.arange(1, most + 1)
        fits = fixed[:, None] + counts * growing[:, None] <= cap
        return np.asarray(np.where(fits, rows.time_s[kind][:, None], np.inf))

    def _way_times(self, kind: int, inner: int, outer: Ints, rows: Rows) -> Floats:
        """Seconds of stages whose layers have a choice; those of small families are kept for the next pass."""
        if len(self.downsets) > _KEPT_DOWNSETS:
            return self._fitting_ways(kind, inner, outer, rows)[self.sure]
        if (kind, inner) not in self._kept_ways:
            every = self.downsets.within(inner, np.arange(inner + 1, len(self.downsets)))
            self._kept_ways[kind, inner] = every, self._fitting_ways(kind, inner, every, self._rows(inner, every))
        every, bounds = self._kept_ways[kind, inner]
        return np.asarray(bounds[self.sure][np.searchsorted(every, outer)])

    def _fitting_ways(self, kind: int, inner: int, outer: Ints, rows: Rows) -> tuple[Floats, Floats]:
        """Lower bounds, and times of ways at hand."""
        cap = self.problem.devices[self.table.kinds[kind].device].memory_bytes
        fixed, growing = rows.fixed_bytes[kind], rows.in_flight_bytes[kind]
        least = fixed[:, None] + np.arange(1, self._most_in_flight + 1) * growing[:, None]
        fits = (least <= (np.inf if cap is None else cap)) & np.isfinite(rows.time_s[kind])[:, None]
        deepest = int(np.flatnonzero(fits.any(axis=0)).max(initial=-1)) + 1
        found = np.full((2, len(outer), self._most_in_flight), np.inf)
        if deepest:
            able = np.flatnonzero(fits.any(axis=1))
            buffers = self.buffers(inner, outer[able], kind, fixed[able])
            found[:, able, :deepest] = self.ways[kind].times(inner, outer[able], deepest, buffers)
        return found[0], found[1]

    def buffers(self, inner: int, outer: Ints, kind: int, fixed: Floats) -> Floats:
        """What of the fixed bytes is buffers rather than layers."""
        layers = self.table.layer_bytes(kind)
        return np.asarray(fixed - (layers[outer] - layers[inner]))

    @property
    def _most_in_flight(self) -> int:
        return int(self.states.replicas.max()) if self.piped else 1

    def _join(self, here: Floats, option: Option, rows: Rows, inner: int, outer: Ints, times: Floats) -> None:
        """Put stages on one kind of devices in front."""
        states = self.states
        first, second = self.table.parts(option, rows, inner, outer)
        quickest = np.maximum(times.min(axis=1) / option.replicas + first, second)
        keep = np.flatnonzero(quickest < (self.below if self.measure != "airtime" else np.inf))
        if self.measure == "airtime":
            keep = np.flatnonzero(quickest <= self.limit_s)
        if not len(keep):
            return
        shape = states.shape(option.device)
        apart = states.replica_states > 1
        free = slice(0, states.counts[option.device] + 1 - option.used)
        taken = slice(option.used, None)
        fewer = slice(0, states.replica_states - option.replicas) if apart else slice(None)
        more = slice(option.replicas, None) if apart else slice(None)
        behind = self.behind[outer[keep], self.rate_of[option.device]]
        source = behind.reshape(len(keep), *shape)[:, :, free, :, fewer]
        if times.shape[1] > 1:
            in_flight = -(-(states.replicas + option.replicas) // option.replicas)
            at = in_flight.reshape(shape)[:, free, :, fewer]
            at = np.minimum(at, times.shape[1]) - 1  # states with more replicas than devices are never reached
            busy = times[keep][:, at] / option.replicas
        else:
            busy = times[keep, 0].reshape(-1, 1, 1, 1, 1) / option.replicas
        wide = (-1, 1, 1, 1, 1)
        stage = np.maximum(busy + first[keep].reshape(wide), second[keep].reshape(wide))
        if self.measure == "period":
            joined = np.maximum(source, stage)
        elif self.measure == "latency":
            joined = source + stage
        else:
            air = (self.shares @ self.table.media_s(option, rows))[keep].reshape(wide)
            joined = source + np.where(stage <= self.limit_s, air, np.inf)
        target = here.reshape(shape)[:, taken, :, more]
        np.minimum(target, joined.min(axis=0), out=target)

    def _before_links(self, inner: int) -> Floats:
        """Values at a downset with the link into it, by the rate of the stage in front."""
        return np.stack([self._over_link(inner, rate).min(axis=0) for rate in range(len(self.rates))])

    def _over_link(self, inner: int, rate: int) -> Floats:
        """Values with the link from a stage of one rate, by the rate of the stage behind."""
        value = self.value[inner]
        moved = self.problem.execution.crossings * float(self.table.link_bytes[inner])
        seconds = np.array([moved / min(self.rates[rate], other) for other in self.rates])[:, None]
        if self.measure == "period":
            return np.asarray(np.maximum(value, seconds))
        if self.measure == "latency":
            return np.asarray(value + seconds)
        return np.where(seconds <= self.limit_s, value, np.inf)

    def chain_media_s(self, steps: list[Step]) -> Floats:
        """Seconds that a chain holds each medium."""
        total = np.zeros(len(self.problem.media))
        for step in steps:
            rows = self.table.rows(step.inner, np.array([step.outer]))
            total += self.table.media_s(step.option, rows)[:, 0]
        return total

    def slowest(self, steps: list[Step]) -> float:
        """Seconds of the slowest stage or link of a chain."""
        worst, front = 0.0, np.inf
        for step in steps:
            outer = np.array([step.outer])
            rows = self.table.rows(step.inner, outer)
            first, second = self.table.parts(step.option, rows, step.inner, outer)
            busy = rows.time_s[step.option.kind] / step.option.replicas
            worst = max(worst, float(np.maximum(busy + first, second)[0]))
            rate = self.rates[self.rate_of[step.option.device]]
            if self._links and step.inner:
                moved = self.problem.execution.crossings * float(self.table.link_bytes[step.inner])
                worst = max(worst, moved / min(front, rate))
            front = rate
        return worst

    # ------------------------------------------------------------------ the chain behind a value

    def _trace(self, rate: int, state: int) -> list[Step]:
        """The steps that a state's value comes from, first stage first."""
        inner, last, steps = 0, len(self.downsets) - 1, []
        while inner != last:
            option, outer, in_flight = self._origin(inner, rate, state)
            steps.append(Step(inner, outer, option, in_flight))
            state -= self.states.shift(option)
            front = self.rate_of[option.device]
            if outer != last and self.behind is not self.value:
                rate = int(np.argmin(self._over_link(outer, front)[:, state]))
            else:
                rate = 0 if outer == last else front
            inner = outer
        return steps

    def _origin(self, inner: int, rate: int, state: int) -> tuple[Option, int, int]:
        """A stage and what is behind it that have exactly a state's value."""
        wanted = self.value[inner, rate, state]
        outer = self.downsets.within(inner, np.arange(inner + 1, len(self.downsets)))
        outer = outer[np.isfinite(self.behind[outer]).any(axis=(1, 2))]
        rows = self._rows(inner, outer)
        for option in self.table.options:
            source = state - self.states.shift(option)
            enough = (
                self.states.used[state] >= np.eye(len(self.states.counts), dtype=int)[option.device] * option.used
            ).all()
            if self.rate_of[option.device] != rate or not enough or self.states.replicas[state] < option.replicas:
                continue
            times = self._times(option.kind, inner, outer, rows)
            first, second = self.table.parts(option, rows, inner, outer)
            in_flight = -(-int(self.states.replicas[state]) // option.replicas) if self.piped else 1
            busy = times[:, min(in_flight, times.shape[1]) - 1] / option.replicas
            stage = np.maximum(busy + first, second)
            behind = self.behind[outer, self.rate_of[option.device], source]
            if self.measure == "period":
                joined = np.maximum(behind, stage)
            elif self.measure == "latency":
                joined = behind + stage
            else:
                air = self.shares @ self.table.media_s(option, rows)
                joined = behind + np.where(stage <= self.limit_s, air, np.inf)
            match = np.flatnonzero(joined == wanted)
            if len(match):
                return option, int(outer[match[0]]), in_flight
        raise AssertionError("every value comes from a stage")

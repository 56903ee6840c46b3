"""How the layers of a stage run when there are several ways: least time within memory.

For a number of micro-batches in flight this is a multiple-choice knapsack. Its linear relaxation takes steps from the
fastest ways towards smaller ones in the order of seconds per byte saved; up to the step that is cut it is a solution
too (Sinha and Zoltners, "The multiple-choice knapsack problem", 1979). So every stage gets a valid lower bound and a
way to run at once, and only stages that matter are solved exactly. What ways add to the bytes that enter and leave a
stage counts as computing where it adds to it: the least in the lower bound, the most in the way at hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.table import Floats
from dora_nb.domain.problem import MeasuredProblem, Way
from dora_nb.formulation.placement.crossings import Ints
from dora_nb.formulation.placement.downsets import Downsets, Units
from dora_nb.formulation.placement.kinds import Kind, ways_on

#: States of the exact solution beyond which a stage keeps its lower bound.
_MOST_STATES = 50_000


@dataclass(frozen=True)
class _Steps:
    """Steps away from the fastest ways for one number in flight, best ratio first.

    ``unit``, ``saved_bytes``, ``lost_s``: shape (steps,); ``time_s``, ``held_bytes``: of the fastest ways by unit.
    """

    unit: NDArray[np.int64]
    saved_bytes: Floats
    lost_s: Floats
    time_s: Floats
    held_bytes: Floats


@dataclass(frozen=True)
class _Added:
    """Seconds that each way of a layer adds to a hand-over with another one; their units, and whether it leaves."""

    layer: int
    unit: int
    other: int
    leaves: bool
    seconds: dict[str, float]


class WayTable:
    """Least seconds of stages on one kind of device, by micro-batches in flight."""

    def __init__(self, problem: MeasuredProblem, units: Units, downsets: Downsets, kind: Kind) -> None:
        self.problem, self.units, self.downsets, self.kind = problem, units, downsets, kind
        self.members = downsets.members.astype(float)
        cap_bytes = problem.devices[kind.device].memory_bytes
        self.room_bytes = np.inf if cap_bytes is None else cap_bytes
        self.type = problem.devices[kind.device].type
        self._added = self._added_s()
        self._steps: dict[int, _Steps] = {}
        self._stacks: dict[int, tuple[NDArray[np.int64], Floats, Floats, Floats, Floats]] = {}
        self._exact: dict[int, dict[tuple[int, int], float]] = {}

    @property
    def matters(self) -> bool:
        """Whether some layer has a choice, and memory is limited or ways differ in what they add to hand-overs."""
        if self._added:
            return True
        return np.isfinite(self.room_bytes) and any(
            len(ways_on(self.problem, layer, self.kind)) > 1 for layers in self.units.layers for layer in layers
        )

    def _added_s(self) -> list[_Added]:
        """What ways add to hand-overs above the least that any way of the layer adds; none where it is the same."""
        rules, rate = self.problem.execution, self.problem.devices[self.kind.device].bytes_per_s
        added, home = [], self.units.home()
        if rate is None or rules.transfers == "link" or (rules.overlap != "none" and rules.objective == "period"):
            return []
        for layer, other, leaves in _hand_overs(self.problem):
            if rules.transfers == ("receiver" if leaves else "sender") or home[layer] == home[other]:
                continue
            name = self.problem.layers[other].name
            more = {way.way: way.more_bytes.get(name, 0.0) for way in ways_on(self.problem, layer, self.kind)}
            least = min(more.values(), default=0.0)
            seconds = {way: rules.crossings * (each - least) / rate for way, each in more.items()}
            if any(seconds.values()):
                added.append(_Added(layer, home[layer], home[other], leaves, seconds))
        return added

    def _added_on(self, inner: int, outer: int) -> dict[int, list[_Added]]:
        """The seconds that hand-overs into and out of a stage add, by layer."""
        inside = self.downsets.members[outer] & ~self.downsets.members[inner]
        silent = inner == 0 and not self.problem.execution.first_stage_sends
        found: dict[int, list[_Added]] = {}
        for each in self._added:
            if inside[each.unit] and not inside[each.other] and not (each.leaves and silent):
                found.setdefault(each.layer, []).append(each)
        return found

    def _most_added_s(self, inside: Floats) -> Floats:
        """What the worst ways of stages add to hand-overs; ``inside`` has the units of each, shape (ends, units)."""
        most = np.array([max(each.seconds.values()) for each in self._added])
        here = np.array([each.unit for each in self._added], dtype=np.int64)
        there = np.array([each.other for each in self._added], dtype=np.int64)
        return np.asarray((inside[:, here] * (1 - inside[:, there])) @ most)

    def times(self, inner: int, outer: Ints, most: int, buffers: Floats) -> tuple[Floats, Floats]:
        """Lower bounds and what a solution takes, for 1 to ``most`` micro-batches in flight, shape (ends, most)."""
        units, saved, lost, time_s, held = self._stack(most)
        inside = self.members[outer] - self.members[inner]  # (ends, units)
        base_s, base_bytes = inside @ time_s.T, inside @ held.T  # (ends, most)
        need = base_bytes + buffers[:, None] - self.room_bytes
        lower, upper = base_s.copy(), base_s + self._most_added_s(inside)[:, None]
        tight = np.flatnonzero((need > 0).any(axis=1))
        if len(tight) and units.shape[1]:
            chosen = inside[tight][:, units]  # (tight, most, steps)
            saved_so_far = np.cumsum(chosen * saved, axis=2)
            lost_so_far = np.cumsum(chosen * lost, axis=2)
            short = need[tight]
            enough = saved_so_far >= short[:, :, None]
            first = np.argmax(enough, axis=2)
            possible = enough.any(axis=2)
            take = np.take_along_axis
            until = take(lost_so_far, first[:, :, None], axis=2)[:, :, 0]
            step_lost = take(np.broadcast_to(lost, chosen.shape), first[:, :, None], axis=2)[:, :, 0]
            step_saved = take(np.broadcast_to(saved, chosen.shape), first[:, :, None], axis=2)[:, :, 0]
            over = take(saved_so_far, first[:, :, None], axis=2)[:, :, 0] - short
            cut = until - step_lost * np.divide(over, step_saved, out=np.zeros_like(over), where=step_saved > 0)
            needed = short > 0
            upper[tight] += np.where(needed, np.where(possible, until, np.inf), 0.0)
            lower[tight] += np.where(needed, np.where(possible, np.maximum(cut, 0.0), np.inf), 0.0)
        elif len(tight):
            lower[need > 0] = upper[need > 0] = np.inf
        return lower, upper

    def learn(self, inner: int, outer: int, in_flight: int, seconds: float) -> bool:
        """Keep an exact solution; returns whether it is news."""
        known = self._exact.setdefault(inner, {})
        news = (outer, in_flight) not in known
        known[outer, in_flight] = seconds
        return news

    def correct(self, inner: int, outer: Ints, times: Floats) -> None:
        """Put exact solutions that are known into an array of times, shape (ends, most)."""
        for (end, in_flight), seconds in self._exact.get(inner, {}).items():
            place = int(np.searchsorted(outer, end))
            if place < len(outer) and outer[place] == end and in_flight <= times.shape[1]:
                times[place, in_flight - 1] = seconds

    def choose(self, inner: int, outer: int, in_flight: int, buffers: float) -> tuple[float, dict[int, Way], bool]:
        """The ways a stage runs fastest within memory.

        Returns
        -------
        tuple
            Seconds (infinite if nothing fits), the way of every layer, and whether that is proven.
        """
        layers = [
            layer
            for unit in np.flatnonzero(self.downsets.members[outer] & ~self.downsets.members[inner])
            for layer in self.units.layers[unit]
        ]
        # As full as the bounds allow, which are differences of sums: what rounding hides is for the evaluation to see.
        room, added = self.room_bytes * (1 + 1e-12) - buffers, self._added_on(inner, outer)
        choices = [self._points(layer, in_flight, added.get(layer, ())) for layer in layers]
        if np.isinf(room):
            choices = [each[-1:] for each in choices]  # the fastest
        least = [*np.cumsum([min(held for held, _, _ in each) for each in choices[::-1]])[::-1].tolist(), 0.0]
        quick = [*np.cumsum([min(seconds for _, seconds, _ in each) for each in choices[::-1]])[::-1].tolist(), 0.0]
        # States (bytes, seconds, back pointer) by layer, none beaten at both.
        states: list[tuple[float, float, int, Way | None]] = [(0.0, 0.0, -1, None)]
        history = [states]
        limit, proven = self._greedy_s(inner, outer, in_flight, buffers), True
        for place, each in enumerate(choices):
            grown = [
                (held + more, seconds + longer, index, way)
                for index, (held, seconds, _, _) in enumerate(states)
                for more, longer, way in each
                if held + more + least[place + 1] <= room and seconds + longer + quick[place + 1] <= limit * (1 + 1e-12)
            ]
            grown.sort(key=lambda state: (state[0], state[1]))
            states, best = [], np.inf
            for state in grown:
                if state[1] < best:
                    states.append(state)
                    best = state[1]
            if len(states) > _MOST_STATES:  # keep the quickest: still a solution, no longer proven to be the best
                states, proven = states[-_MOST_STATES:], False
            history.append(states)
        if not states:
            return np.inf, {}, proven
        place = min(range(len(states)), key=lambda index: states[index][1])
        seconds = states[place][1]
        chosen: dict[int, Way] = {}
        for index in range(len(layers), 0, -1):
            _, _, back, way = history[index][place]
            assert way is not None, "every state behind a layer says how the layer runs"
            chosen[layers[index - 1]], place = way, back
        return seconds, chosen, proven

    def _greedy_s(self, inner: int, outer: int, in_flight: int, buffers: float) -> float:
        _, upper = self.times(inner, np.array([outer]), in_flight, np.array([buffers]))
        return float(upper[0, in_flight - 1])

    def _points(self, layer: int, in_flight: int, added: Sequence[_Added] = ()) -> list[tuple[float, float, Way]]:
        """(bytes held, seconds, way) of a layer, least bytes first, those beaten at both left out."""
        points = []
        for way in ways_on(self.problem, layer, self.kind):
            seconds = way.time_s[self.type] + sum(each.seconds[way.way] for each in added)
            points.append((way.memory_bytes + in_flight * way.in_flight_bytes, seconds, way))
        points.sort(key=lambda point: (point[0], point[1]))
        kept: list[tuple[float, float, Way]] = []
        for point in points:
            if not kept or point[1] < kept[-1][1]:
                kept.append(point)
        return kept

    def _step_list(self, in_flight: int) -> _Steps:
        if in_flight in self._steps:
            return self._steps[in_flight]
        count = len(self.units.layers)
        time_s, held = np.zeros(count), np.zeros(count)
        steps: list[tuple[float, int, float, float]] = []
        for unit, layers in enumerate(self.units.layers):
            for layer in layers:
                points = self._points(layer, in_flight)
                if not points:
                    continue
                held[unit] += points[-1][0]
                time_s[unit] += points[-1][1]
                at = len(points) - 1
                while at > 0:  # along the lower hull, from the fastest way to the smallest
                    ratio, to = min(
                        ((points[to][1] - points[at][1]) / (points[at][0] - points[to][0]), to) for to in range(at)
                    )
                    saved, lost = points[at][0] - points[to][0], points[to][1] - points[at][1]
                    steps.append((ratio, unit, saved, lost))
                    at = to
        steps.sort()
        found = _Steps(
            np.array([unit for _, unit, _, _ in steps], dtype=np.int64),
            np.array([saved for _, _, saved, _ in steps], dtype=float),
            np.array([lost for _, _, _, lost in steps], dtype=float),
            time_s,
            held,
        )
        self._steps[in_flight] = found
        return found

    def _stack(self, most: int) -> tuple[NDArray[np.int64], Floats, Floats, Floats, Floats]:
        """Steps for 1 to ``most`` in flight, one row each, shorter ones filled up with steps of nothing."""
        if most not in self._stacks:
            each = [self._step_list(count) for count in range(1, most + 1)]
            width = max(len(steps.unit) for steps in each)
            units = np.zeros((most, width), dtype=np.int64)
            saved, lost = np.zeros((most, width)), np.zeros((most, width))
            for row, steps in enumerate(each):
                units[row, : len(steps.unit)] = steps.unit
                saved[row, : len(steps.unit)] = steps.saved_bytes
                lost[row, : len(steps.unit)] = steps.lost_s
            time_s, held = np.stack([steps.time_s for steps in each]), np.stack([steps.held_bytes for steps in each])
            self._stacks[most] = units, saved, lost, time_s, held
        return self._stacks[most]


def _hand_overs(problem: MeasuredProblem) -> Iterator[tuple[int, int, bool]]:
    """A layer at one end of a tensor, the one at the other end, and whether the tensor leaves the first."""
    where = problem.layer_index
    for tensor in problem.tensors:
        if tensor.producer is None:
            continue
        for name in tensor.consumers:
            yield where[name], where[tensor.producer], False
            yield where[tensor.producer], where[name], True

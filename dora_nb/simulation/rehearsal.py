"""What single steps and changes of plans are going to take, from the simulator itself, for those who know the world."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dora_nb.costs.resident import Residents
from dora_nb.costs.switching import Switch
from dora_nb.costs.table import CostTable
from dora_nb.domain.controller import Static
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import ROUNDING, QoE
from dora_nb.domain.workload import Workload
from dora_nb.simulation.clock import StepResult
from dora_nb.simulation.engine import run_step
from dora_nb.simulation.residency import Residency
from dora_nb.simulation.run import Run
from dora_nb.simulation.traces import Trace
from dora_nb.simulation.world import World


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """One step.

    Attributes
    ----------
    duration_s
        From its start to its end, or until it was given up.
    energy_j
        What it takes, under the accounting of the QoE.
    completed
        Whether it comes to its end.
    """

    duration_s: float
    energy_j: float
    completed: bool


class Rehearsal:
    """Tries single moves of :func:`~dora_nb.simulation.run.simulate`.

    Parameters
    ----------
    workload, world, qoe, horizon_s, free_changes, table
        As there.
    plans
        Those to be tried; what follows names them by their place.
    """

    def __init__(
        self,
        workload: Workload,
        world: World,
        qoe: QoE,
        plans: Sequence[Plan],
        *,
        horizon_s: float,
        free_changes: bool,
        table: CostTable,
    ) -> None:
        self.plans, self.world = tuple(plans), world
        self._residency = Residency(workload, world.cluster, table, (), free_changes)
        self._run = Run(
            workload=workload,
            world=world,
            controller=Static(plans[0]),
            qoe=qoe,
            horizon_s=horizon_s,
            every_s=0.0,
            residency=self._residency,
            plan=None,
            table=table,
            sharing="ordered",
        )
        self._times_s: list[float] = world.times_s.tolist()
        names = world.cluster.device_ids
        there = [
            frozenset(name for name, here in zip(names, state.present, strict=True) if here) for state in world.states
        ]
        needed = [frozenset(self._run.needed(plan)) for plan in self.plans]
        self._able = [tuple(n for n, own in enumerate(needed) if own <= present) for present in there]
        self._calm: dict[tuple[int, int], Rehearsed | None] = {}
        self._met: dict[tuple[int, float], Rehearsed] = {}
        predicted = tuple(self._residency.predicted(plan) for plan in plans)
        self._residents = Residents(workload, predicted, world.cluster.device_ids)
        self._room: dict[tuple[tuple[int, ...], int], tuple[int, ...]] = {}
        self._fits: dict[frozenset[int], bool] = {}
        self._held: dict[frozenset[int], bytes] = {}
        self._costs: dict[Hashable, Switch] = {}

    # ------------------------------------------------------------------ the world

    def row_at(self, time_s: float) -> int:
        """Which state of the world holds at a time."""
        return bisect_right(self._times_s, time_s) - 1

    def until_s(self, row: int) -> float:
        """When a state of the world ends; the last one never does."""
        return self._times_s[row + 1] if row + 1 < len(self._times_s) else math.inf

    def able(self, row: int) -> tuple[int, ...]:
        """Plans whose devices are all there in a state."""
        return self._able[row]

    # ------------------------------------------------------------------ steps

    def calm(self, plan: int, row: int) -> Rehearsed | None:
        """A step in a state that stays; None if it would never end."""
        key = (plan, row)
        if key not in self._calm:
            at_s = self._times_s[row]
            influences = tuple(
                replace(each, trace=Trace.constant(each.trace.at(at_s))) for each in self.world.influences
            )
            model = self._run.model(self.plans[plan])
            result = run_step(model, replace(self.world, influences=influences))
            self._calm[key] = self._told(plan, result) if result.completed else None
        return self._calm[key]

    def step(self, plan: int, at_s: float) -> Rehearsed:
        """A step in the world as it goes on; one that the horizon cuts off is not completed."""
        row = self.row_at(at_s)
        calm = self.calm(plan, row)
        if calm is not None and at_s + calm.duration_s < min(self.until_s(row), self._run.horizon_s):
            return calm
        key = (plan, at_s)
        if key not in self._met:
            model = self._run.model(self.plans[plan])
            result = run_step(model, self.world, at_s, until_s=self._run.horizon_s)
            self._met[key] = self._told(plan, result)
        return self._met[key]

    def _told(self, plan: int, result: StepResult) -> Rehearsed:
        report = self._run.report(self.plans[plan], result.start_s, result, self._run.above_idling_j(result))
        over = result.lost_to == ""  # nothing moves any more, or the time is over
        duration_s = self._run.horizon_s - result.start_s if over else result.duration_s
        return Rehearsed(duration_s, report.energy_j, result.completed)

    # ------------------------------------------------------------------ changes of plans

    def resident_after(self, resident: tuple[int, ...], plan: int) -> tuple[int, ...]:
        """Plans in place once a plan has been used, which is the last of them; those used least recently make room."""
        key = (resident, plan)
        if key not in self._room:
            others = [each for each in resident if each != plan]
            while others and not self._fit(frozenset((*others, plan))):
                others.pop(0)
            self._room[key] = (*others, plan)
        return self._room[key]

    def in_place(self, resident: tuple[int, ...]) -> Hashable:
        """What is in place with some plans: alike for plans that need the same."""
        key = frozenset(resident)
        if key not in self._held:
            units = self._residents.held[sorted(key)].any(axis=0) if key else np.zeros(0, dtype=bool)
            self._held[key] = units.tobytes()
        return self._held[key]

    def _fit(self, plans: frozenset[int]) -> bool:
        if plans not in self._fits:
            usable_bytes = np.array([device.usable_memory_bytes for device in self.world.cluster.devices])
            needed_bytes = self._residents.resident_bytes(sorted(plans))
            self._fits[plans] = bool((needed_bytes <= usable_bytes * (1 + ROUNDING)).all())
        return self._fits[plans]

    def change(self, resident: tuple[int, ...], before: int | None, after: int, at_s: float) -> Switch:
        """What going on with another plan costs."""
        world, trains = self.world, self._run.workload.trains
        if not trains and (after in resident or before is None):
            return Switch(0.0, 0.0, 0.0)
        state = world.states[self.row_at(at_s)]
        key = (frozenset(() if trains else resident), before, after, state.domain_rates, state.device_rates)
        if key not in self._costs:
            self._residency.resident = [self.plans[each] for each in resident]
            earlier = None if before is None else self.plans[before]
            self._costs[key] = self._residency.change(earlier, self.plans[after], state)
        return self._costs[key]

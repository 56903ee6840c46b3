"""The plans that a composition may use, each with its figures in every condition."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from dora_nb.costs.conditions import Surroundings, loads_s, mean_of, under
from dora_nb.costs.resident import Residents
from dora_nb.costs.switching import switch
from dora_nb.costs.table import CostTable, Floats
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.conditions import Conditions, handover
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import EnergyAccounting
from dora_nb.domain.workload import Workload
from dora_nb.formulation.composition.mixture import Changes, Mixture
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.space import SearchSpace


@dataclass(frozen=True)
class _Known:
    """A plan's figures in every condition, infinite where it cannot run."""

    makespan_s: Floats
    energy_j: Floats
    loads_s: list[dict[str, float]]


@dataclass
class Palette:
    """Plans known so far, retimed in every condition.

    Attributes
    ----------
    workload, cluster, table, conditions, accounting, space, requests_per_s
        What :func:`dora_nb.compose` was asked.
    plans
        Each with its prediction on the cluster without any condition.
    """

    workload: Workload
    cluster: Cluster
    table: CostTable
    conditions: Conditions
    accounting: EnergyAccounting
    space: SearchSpace | None
    requests_per_s: float | None
    plans: list[Plan] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.probability = np.array(self.conditions.probabilities)
        self.places = [under(self.cluster, self.table, each) for each in self.conditions.conditions]
        self.calm = Surroundings(self.cluster, self.table)
        self.usable_bytes = np.array([device.usable_memory_bytes for device in self.cluster.devices])
        self._figures: list[_Known] = []
        self._seen: set[Plan] = set()

    def add(self, plans: Iterable[Plan]) -> int:
        """Take plans that are new, with their figures in every condition; returns how many were."""
        before = len(self.plans)
        for plan in plans:
            key = plan.replace(label="", prediction=None, certificate=None)
            if key in self._seen:
                continue
            self._seen.add(key)
            prediction = self.calm.retimed(plan, self.workload)
            self.plans.append(plan.replace(prediction=prediction, certificate=None))
            found = [place.retimed(plan, self.workload) for place in self.places]
            self._figures.append(
                _Known(
                    np.array([np.inf if each is None else each.makespan_s for each in found]),
                    np.array([np.inf if each is None else each.energy_j(self.accounting) for each in found]),
                    [
                        {} if each is None else loads_s(plan, self.workload, place, each)
                        for place, each in zip(self.places, found, strict=True)
                    ],
                )
            )
        return len(self.plans) - before

    def mean(self, members: Iterable[int], weights: Floats) -> Surroundings | None:
        """The mean of some conditions; None where they share no device."""
        chosen = [self.conditions.conditions[k] for k in members]
        away = {device for each in chosen for device in each.absent_devices}
        if away >= set(self.cluster.device_ids):
            return None
        return mean_of(self.cluster, self.table, chosen, weights)

    def problem(self, place: Surroundings) -> Problem:
        """What is planned in some surroundings."""
        return Problem.of(self.workload, place.cluster, self.accounting, table=place.table, space=self.space)

    def figures(self, name: str) -> Floats:
        """Makespans (``latency``) or energies of all plans, shape (plans, conditions)."""
        return np.array([each.makespan_s if name == "latency" else each.energy_j for each in self._figures])

    def mixture(self, chosen: Sequence[int], *, changes: bool = False) -> Mixture:
        """Plans that were chosen, with their figures; in training also what changes of plans cost, if asked for."""
        plans = tuple(self.plans[j] for j in chosen)
        known = [self._figures[j] for j in chosen]
        return Mixture(
            residents=Residents(self.workload, plans, self.cluster.device_ids),
            usable_bytes=self.usable_bytes,
            probability=self.probability,
            makespan_s=np.array([each.makespan_s for each in known]),
            energy_j=np.array([each.energy_j for each in known]),
            loads_s=_loads([each.loads_s for each in known]),
            requests_per_s=self.requests_per_s,
            changes=self._changes(plans) if changes and self.workload.trains else None,
        )

    def _changes(self, plans: tuple[Plan, ...]) -> Changes:
        """Seconds and joules of every change of plans, inside every condition and between any two."""
        conditions = self.conditions.conditions
        count, states = len(plans), len(conditions)
        within = np.zeros((2, count, count, states))
        between = np.zeros((2, count, count, states, states))
        for before, after in itertools.product(range(states), repeat=2):
            state = handover(conditions[before], conditions[after], self.cluster)
            place = under(self.cluster, self.table, state).cluster
            for i, j in itertools.permutations(range(count), 2):
                if not {*plans[i].devices, *plans[j].devices} <= set(place.device_ids):
                    continue  # one of them cannot run here, so this change never happens
                change = switch(plans[i], plans[j], self.workload, place, self.accounting)
                if before == after:
                    within[:, i, j, after] = change.duration_s, change.energy_j
                else:
                    between[:, i, j, before, after] = change.duration_s, change.energy_j
        arrivals = np.tile(self.probability[:, None], states) / self.conditions.windows_per_change
        np.fill_diagonal(arrivals, 0.0)
        return Changes(within[0], within[1], between[0], between[1], arrivals)


def _loads(by_plan: list[list[dict[str, float]]]) -> Floats:
    """Loads as an array over every resource that some plan keeps busy."""
    resources = sorted({name for by_condition in by_plan for loads in by_condition for name in loads})
    return np.array(
        [[[loads.get(name, 0.0) for name in resources] for loads in by_condition] for by_condition in by_plan]
    )

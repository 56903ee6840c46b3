"""Which plans' parameters are in place during a simulated run, what has to move for another plan, and who held most."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dora_nb.costs.conditions import under
from dora_nb.costs.evaluate import evaluate, memory_of
from dora_nb.costs.memory import MemoryModel
from dora_nb.costs.resident import Residents, held_units
from dora_nb.costs.switching import Switch, move, switch
from dora_nb.costs.table import CostTable, Floats
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.conditions import Condition
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import ROUNDING
from dora_nb.domain.workload import Workload
from dora_nb.simulation.world import State


class Residency:
    """The plans whose parameters are in place.

    Parameters
    ----------
    workload, cluster, table
        What runs where, and its compute times without any influence.
    resident
        Plans in place from the start (inference).
    free_changes
        Whether changing plans costs nothing.

    Attributes
    ----------
    resident
        Plans in place now, the least recently used first.
    peak_bytes
        The most that every device ever needed. Shape (devices,).
    """

    def __init__(
        self, workload: Workload, cluster: Cluster, table: CostTable, resident: Iterable[Plan], free_changes: bool
    ) -> None:
        self.workload, self.cluster, self.table, self.free_changes = workload, cluster, table, free_changes
        self.resident = list(resident)
        self.peak_bytes: Floats = np.zeros(len(cluster.devices))
        self._noted: Plan | None = None
        self._together: dict[frozenset[int], tuple[Plan, ...]] = {}  # keeps the plans, and so their identities, alive
        self._finished: dict[int, tuple[Plan, Plan]] = {}

    def change(self, before: Plan | None, plan: Plan, state: State) -> Switch:
        """Put a plan in the place of another, and what that costs.

        Parameters
        ----------
        before, plan
            Which plan ran, if any did, and which runs from now on.
        state
            Of the world: bytes move at its rates, and at the usual ones where a medium stands still.
        """
        had: dict[str, set[int]] = {}
        for held in self.resident:
            for name, units in held_units(held, self.workload).items():
                had.setdefault(name, set()).update(units)
        if not self.workload.trains:  # in training only the state of the plan before is up to date
            self._make_resident(plan)
        if before is None or self.free_changes or not (had or self.workload.trains):
            return Switch(0.0, 0.0, 0.0)
        rates = {domain.id: rate for domain, rate in zip(self.cluster.domains, state.domain_rates, strict=True) if rate}
        own = dict(zip(self.cluster.device_ids, state.device_rates, strict=True))
        condition = Condition(name="now", probability=1.0, domain_rate_factors=rates, device_rate_factors=own)
        place = under(self.cluster, self.table, condition).cluster
        if self.workload.trains:
            return switch(before, plan, self.workload, place, "participating")
        return move(had, plan, self.workload, place, {*before.devices, *plan.devices})

    def _make_resident(self, plan: Plan) -> None:
        """Hold a plan's parameters, and let go of the plans used least recently if memory is short."""
        others = [each for each in self.resident if each.decisions() != plan.decisions()]
        usable_bytes = np.array([device.usable_memory_bytes for device in self.cluster.devices])
        while others:
            held = Residents(self.workload, tuple(map(self.predicted, [*others, plan])), self.cluster.device_ids)
            if (held.resident_bytes(range(len(others) + 1)) <= usable_bytes * (1 + ROUNDING)).all():
                break
            others.pop(0)
        self.resident = [*others, plan]

    def predicted(self, plan: Plan) -> Plan:
        """The plan with its prediction, made once."""
        if plan.prediction is not None:
            return plan
        if id(plan) not in self._finished:
            figures = evaluate(plan, self.workload, self.cluster, self.table).prediction
            self._finished[id(plan)] = (plan, plan.replace(prediction=figures))  # kept: no other gets its identity
        return self._finished[id(plan)][1]

    def note_memory(self, plan: Plan) -> None:
        """Keep the most that every device ever needed."""
        if plan is self._noted:
            return
        self._noted = plan
        together = (plan,) if self.workload.trains else (*self.resident, plan)
        key = frozenset(map(id, together))
        if key in self._together:
            return
        self._together[key] = together
        if len(key) == 1:
            needed_bytes, memory = np.zeros(len(self.cluster.devices)), MemoryModel(self.workload)
            for index, stage in enumerate(plan.stages):
                for place, name in enumerate(stage.devices):
                    needed_bytes[self.cluster.device_ids.index(name)] = memory_of(memory, plan, index, place)
        else:
            held = Residents(self.workload, tuple(map(self.predicted, together)), self.cluster.device_ids)
            needed_bytes = held.resident_bytes(range(len(together)))
        self.peak_bytes = np.maximum(self.peak_bytes, needed_bytes)

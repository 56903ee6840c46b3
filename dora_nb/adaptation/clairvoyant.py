"""A controller that knows what is going to happen, to compare the adapter with.

It works out beforehand which plan every step runs with (:mod:`~dora_nb.adaptation.foresight`) and then plays just that,
so its figures are those of the simulator, like everybody's.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from dora_nb.adaptation.foresight import BEAM, Foresight
from dora_nb.costs.table import CostTable, cost_table
from dora_nb.domain.controller import StepReport
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.simulation.rehearsal import Rehearsal
from dora_nb.simulation.world import World


class Clairvoyant:
    """Knows the world.

    Parameters
    ----------
    workload, world, qoe
        What runs, how the world is going to be, and what is to be kept.
    plans
        Those it may use; of several that decide the same the first one counts.
    horizon_s, window_s, every_s, resident, free_changes, table
        As in :func:`dora_nb.simulate`; what is not resident among the plans has to be loaded.
    beam
        How widely it searches, see :data:`~dora_nb.adaptation.foresight.BEAM`.
    """

    def __init__(
        self,
        workload: Workload,
        world: World,
        qoe: QoE,
        plans: Iterable[Plan],
        *,
        horizon_s: float,
        window_s: float,
        every_s: float = 0.0,
        resident: Iterable[Plan] = (),
        free_changes: bool = False,
        table: CostTable | None = None,
        beam: int = BEAM,
    ) -> None:
        in_place = list(resident)
        first: dict[object, Plan] = {}
        for plan in (*in_place, *plans):
            first.setdefault(plan.decisions(), plan)
        self.plans, place = tuple(first.values()), {decisions: number for number, decisions in enumerate(first)}
        rehearsal = Rehearsal(
            workload,
            world,
            qoe,
            self.plans,
            horizon_s=horizon_s,
            free_changes=free_changes,
            table=cost_table(workload, world.cluster) if table is None else table,
        )
        self._foresight = Foresight(
            rehearsal,
            qoe,
            horizon_s,
            window_s,
            every_s,
            workload.trains,
            tuple(dict.fromkeys(place[plan.decisions()] for plan in in_place)),
            free_changes,
            beam,
        )
        self._played = 0

    @cached_property
    def course(self) -> list[int | None]:
        """Places of the plans to run in turn; None: wait until something changes."""
        return [plan for plan, count in self._foresight.best() for _ in range(count)]

    def next_plan(self, now_s: float, present: frozenset[str]) -> Plan | None:
        """What was worked out to come next."""
        del now_s
        number = self.course[self._played] if self._played < len(self.course) else None
        self._played += 1
        if number is None or not present.issuperset(self.plans[number].devices):
            return None
        return self.plans[number]

    def observe(self, report: StepReport) -> None:
        """Nothing is learnt."""

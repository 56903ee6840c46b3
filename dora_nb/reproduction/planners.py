"""All planners of one setting: what each of them may run, and what it chooses for a question."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from dora_nb.adaptation.adapter import RESERVE
from dora_nb.costs.conditions import under
from dora_nb.costs.table import CostTable, cost_table
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.conditions import Condition, Conditions
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import ROUNDING, EnergyAccounting, QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InfeasibleError
from dora_nb.formulation.problem import Problem
from dora_nb.planning.baselines import BASELINES
from dora_nb.planning.baselines.sequential import sequentials
from dora_nb.planning.composition.compose import compose
from dora_nb.planning.plan import plan
from dora_nb.reproduction.cell import Headline, Transfers
from dora_nb.reproduction.grid import SLACK, Setting
from dora_nb.simulation import World, simulate
from dora_nb.simulation.engine import Sharing

#: Relative gap that our plans and compositions are proven to, where the time limit allows.
GAP = 1e-3

#: Seconds that one of our plans may take; no cell of the grid needs as many.
TIME_LIMIT_S = 20.0

ACCOUNTINGS: tuple[EnergyAccounting, ...] = ("participating", "all-on")
TRANSFERS: tuple[Transfers, ...] = ("list-scheduled", "fair-shared")
SHARING: dict[Transfers, Sharing] = {"list-scheduled": "ordered", "fair-shared": "fair"}

#: The baseline that composes as well, and that the runtime adapter therefore drives.
COMPOSES = "in sequence"


@dataclass(frozen=True)
class Alternative:
    """A plan with what it comes to alone, simulated.

    Attributes
    ----------
    plan
        With a transfer order.
    makespan_s, energy_j
        Of one iteration or batch; energy by accounting.
    """

    plan: Plan
    makespan_s: float
    energy_j: Mapping[EnergyAccounting, float]

    def value(self, objective: Headline, accounting: EnergyAccounting) -> float:
        """What an objective is about."""
        return self.makespan_s if objective == "latency" else self.energy_j[accounting]

    def keeps(self, limit_s: float) -> bool:
        """Whether it is fast enough."""
        return self.makespan_s <= limit_s * (1 + ROUNDING)


@dataclass(frozen=True)
class Planners:
    """The planners of a setting.

    Attributes
    ----------
    setting
        What they plan for.
    solver
        As in :func:`dora_nb.plan`.
    """

    setting: Setting
    solver: str = "auto"
    _ours: dict[tuple[Headline, EnergyAccounting], Plan] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def cluster(self) -> Cluster:
        """Where it runs."""
        return self.setting.cluster

    @cached_property
    def workload(self) -> Workload:
        """What runs."""
        return self.setting.workload

    @cached_property
    def table(self) -> CostTable:
        """Compute times of the roofline estimate."""
        return cost_table(self.workload, self.cluster)

    @cached_property
    def limit_s(self) -> float:
        """The latency limit: a multiple of the fastest baseline's makespan, or of ours where no baseline has a plan."""
        fastest = [each.makespan_s for own in self.baselines.values() for each in own]
        return SLACK * min(fastest, default=self.alone(self.ours("latency", "participating")).makespan_s)

    # ------------------------------------------------------------------ without dynamics

    @cached_property
    def baselines(self) -> dict[tuple[str, Transfers], list[Alternative]]:
        """Everything that each baseline may run, for both ways of sharing the network."""
        problem = Problem.of(self.workload, self.cluster, "participating", table=self.table)
        plans = {name: make(problem) for name, make in BASELINES.items()}
        return {
            (name, transfers): [self.alone(each, transfers) for each in own]
            for name, own in plans.items()
            for transfers in TRANSFERS
        }

    def chosen(
        self, by: tuple[str, Transfers], objective: Headline, accounting: EnergyAccounting
    ) -> Alternative | None:
        """What a baseline runs: of what keeps the limit, or else of everything, the best at the objective."""
        other: Headline = "energy" if objective == "latency" else "latency"

        def rank(each: Alternative) -> tuple[bool, float, float]:
            return not each.keeps(self.limit_s), each.value(objective, accounting), each.value(other, accounting)

        return min(self.baselines[by], key=rank, default=None)

    def ours(self, objective: Headline, accounting: EnergyAccounting) -> Plan:
        """Our own plan for a question."""
        key = (objective, accounting)
        if key not in self._ours:
            self._ours[key] = self._planned(*key)
        return self._ours[key]

    def _planned(self, objective: Headline, accounting: EnergyAccounting) -> Plan:
        return plan(
            self.workload,
            self.cluster,
            self.qoe(objective, accounting),
            most_plans=1,
            gap=GAP,
            time_limit_s=TIME_LIMIT_S,
            solver=self.solver,
            table=self.table,
        ).best

    def qoe(self, objective: Headline, accounting: EnergyAccounting) -> QoE:
        """A question: the fastest there is, or the least energy within the limit."""
        limit_s = self.limit_s if objective == "energy" else None
        return QoE(objective=objective, latency_s=limit_s, energy_accounting=accounting)

    def alone(self, plan: Plan, transfers: Transfers = "list-scheduled") -> Alternative:
        """Run one iteration or batch in the simulator, with nothing else going on."""
        forever_s = 1e12  # longer than any step, which the next one then never follows
        record = simulate(
            self.workload,
            World(self.cluster),
            plan,
            horizon_s=forever_s,
            window_s=forever_s,
            every_s=forever_s,
            table=self.table,
            sharing=SHARING[transfers],
        )
        (step,) = record.steps
        others_w = sum(device.idle_w for device in self.cluster.devices if device.id not in plan.devices)
        duration_s = step.end_s - step.start_s
        energy_j: dict[EnergyAccounting, float] = {
            "participating": step.energy_j,
            "all-on": step.energy_j + others_w * duration_s,
        }
        return Alternative(plan, duration_s, energy_j)

    # ------------------------------------------------------------------ under dynamics

    def composed(self, objective: Headline, accounting: EnergyAccounting) -> tuple[Plan, ...]:
        """Our resident plans: composed, or each planned for one condition where no composition keeps the limit.

        In training, where other plans take no memory, the plan for when nothing changes is at hand as well, and the
        one that is best if no other may be used.
        """

        def best_in(condition: Condition) -> Iterable[Plan]:
            place = under(self.cluster, self.table, condition)
            for qoe in (self.qoe(objective, accounting), QoE(energy_accounting=accounting)):
                try:
                    return plan(
                        self.workload,
                        place.cluster,
                        qoe,
                        most_plans=1,
                        gap=GAP,
                        time_limit_s=TIME_LIMIT_S,
                        solver=self.solver,
                        table=place.table,
                    ).plans
                except InfeasibleError:
                    continue
            return ()

        mixed = self._mixed(objective, accounting, None, best_in)
        if self.workload.trains:
            mixed = tuple(dict.fromkeys(map(_bare, [*mixed, self.ours(objective, accounting)])))
        return mixed

    def composed_in_sequence(self, objective: Headline, accounting: EnergyAccounting) -> tuple[Plan, ...]:
        """Resident plans of the baseline that partitions, then schedules, then composes."""
        given = {plan: None for own in self._in_sequence.values() for plan in own}
        if not given:
            return ()
        return self._mixed(objective, accounting, tuple(given), lambda condition: self._in_sequence[condition.name])

    @cached_property
    def _in_sequence(self) -> dict[str, tuple[Plan, ...]]:
        """What deciding in sequence comes to in every condition."""
        found: dict[str, tuple[Plan, ...]] = {}
        for condition in self.setting.conditions.conditions:
            place = under(self.cluster, self.table, condition)
            if place.cluster == self.cluster and condition.device_speed_factors == {}:
                best = [each.plan for each in self.baselines[COMPOSES, "list-scheduled"]]
            else:
                best = sequentials(Problem.of(self.workload, place.cluster, "participating", table=place.table))
            found[condition.name] = tuple(map(_bare, best))
        return found

    def _mixed(
        self,
        objective: Headline,
        accounting: EnergyAccounting,
        restrict: tuple[Plan, ...] | None,
        apart: Callable[[Condition], Iterable[Plan]],
    ) -> tuple[Plan, ...]:
        """Plans composed for all conditions; where some cannot be kept, for the others, with plans for each apart.

        In inference a part of the limit is left to the adapter, if it can be: windows hold few steps, and changes are
        noticed late.
        """
        qoe, conditions = self.qoe(objective, accounting), self.setting.conditions
        plans: list[Plan] = []
        if qoe.latency_s is not None and not self.workload.trains:
            plans = self._mix(qoe.replace(latency_s=qoe.latency_s * (1 - RESERVE)), conditions, restrict)
        plans = plans or self._mix(qoe, conditions, restrict)
        if not plans:
            alone = [(each, [_bare(plan) for plan in apart(each)]) for each in conditions.conditions]
            able = [each for each, own in alone if any(self._keeps(plan, each, qoe) for plan in own)]
            if 0 < len(able) < len(alone):
                total = sum(each.probability for each in able)
                likely = tuple(each.replace(probability=each.probability / total) for each in able)
                plans = self._mix(qoe, conditions.replace(conditions=likely), restrict)
            plans = [*plans, *(plan for _, own in alone for plan in own)]
        return tuple(dict.fromkeys(map(_bare, plans)))

    def _mix(self, qoe: QoE, conditions: Conditions, restrict: tuple[Plan, ...] | None) -> list[Plan]:
        """A composition's plans, in training with the one that is best if no other may be used; empty without any."""
        try:
            mix = compose(
                self.workload,
                self.cluster,
                qoe,
                conditions,
                restrict=restrict,
                gap=GAP,
                time_limit_s=TIME_LIMIT_S / 2,
                solver=self.solver,
                table=self.table,
            )
        except InfeasibleError:
            return []
        robust = [] if mix.single is None or not self.workload.trains else [mix.single]
        return [*mix.plans, *robust]

    def _keeps(self, plan: Plan, condition: Condition, qoe: QoE) -> bool:
        there = under(self.cluster, self.table, condition).retimed(plan, self.workload)
        return there is not None and qoe.keeps_means(there.makespan_s, there.energy_j(qoe.energy_accounting))


def _bare(plan: Plan) -> Plan:
    """A plan without figures that hold in one condition only."""
    return plan.replace(prediction=None, certificate=None, label="")


def finite(value: float) -> float | None:
    """A figure, or None where nothing ended."""
    return value if math.isfinite(value) else None

"""From one setting to its cells: every planner, every question, with and without dynamics."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from dora_nb.adaptation import Adapter
from dora_nb.domain.controller import Controller
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import EnergyAccounting, QoE
from dora_nb.reproduction.cell import OURS, Cell, Headline, Transfers
from dora_nb.reproduction.grid import WINDOW_REQUESTS, WINDOWS, Setting
from dora_nb.reproduction.planners import ACCOUNTINGS, COMPOSES, SHARING, Alternative, Planners, finite
from dora_nb.simulation import SimulationRecord, World, simulate
from dora_nb.simulation.generators import visits

HEADLINES: tuple[Headline, ...] = ("latency", "energy")

#: What is asked for, and whose energy counts.
Question = tuple[Headline, EnergyAccounting]


def cells_of(setting: Setting, seeds: Sequence[int], solver: str = "auto") -> list[Cell]:
    """Everything that is compared in one setting.

    Parameters
    ----------
    setting
        What runs where.
    seeds
        Of the traces that dynamic cells are means over.
    solver
        As in :func:`dora_nb.plan`.
    """
    planners = Planners(setting, solver)
    return [*_static(planners), *_dynamic(planners, seeds)]


def _static(planners: Planners) -> Iterator[Cell]:
    """Nothing changes."""
    for objective, accounting in itertools.product(HEADLINES, ACCOUNTINGS):
        mine = planners.ours(objective, accounting)
        assert mine.certificate is not None, "planned plans carry their certificate"
        gap = mine.certificate.gap
        yield _static_cell(planners, objective, accounting, (OURS, "list-scheduled"), planners.alone(mine), gap)
        for by in planners.baselines:
            theirs = planners.chosen(by, objective, accounting)
            yield _static_cell(planners, objective, accounting, by, theirs)


def _static_cell(
    planners: Planners,
    objective: Headline,
    accounting: EnergyAccounting,
    by: tuple[str, Transfers],
    found: Alternative | None,
    gap: float | None = None,
) -> Cell:
    return Cell(
        **_facts(planners, objective, accounting, by, dynamic=False),
        makespan_s=None if found is None else found.makespan_s,
        energy_j=None if found is None else found.energy_j[accounting],
        qoe_kept=float(found is not None and found.keeps(planners.limit_s)),
        gap=gap,
        note="no plan of it fits in memory" if found is None else "",
    )


def _dynamic(planners: Planners, seeds: Sequence[int]) -> Iterator[Cell]:
    """Conditions change: the adapter drives what was composed, all others run the plan chosen when nothing changed."""
    traces = _Traces(planners, seeds)
    for objective, accounting in itertools.product(HEADLINES, ACCOUNTINGS):
        question = (objective, accounting)
        yield _dynamic_cell(planners, question, (OURS, "list-scheduled"), traces.adapted(planners.composed, question))
        for by in planners.baselines:
            if by == (COMPOSES, "list-scheduled"):
                records = traces.adapted(planners.composed_in_sequence, question)
            else:
                theirs = planners.chosen(by, *question)
                records = [] if theirs is None else traces.fixed(theirs.plan, by[1])
            yield _dynamic_cell(planners, question, by, records)


def _dynamic_cell(
    planners: Planners,
    question: Question,
    by: tuple[str, Transfers],
    records: Sequence[SimulationRecord],
) -> Cell:
    objective, accounting = question
    steps = sum(len(record.steps) for record in records)
    total_s = sum(record.horizon_s for record in records)
    participating = accounting == "participating"
    total_j = sum(each.energy_participating_j if participating else each.energy_all_on_j for each in records)
    return Cell(
        **_facts(planners, objective, accounting, by, dynamic=True),
        makespan_s=finite(total_s / steps) if steps else None,
        energy_j=finite(total_j / steps) if steps else None,
        qoe_kept=float(np.mean([record.kept_share for record in records])) if records else 0.0,
        note="" if steps else "nothing ended" if records else "no plan of it fits in memory",
    )


class _Traces:
    """The worlds that all controllers go through, and what was simulated on them already."""

    def __init__(self, planners: Planners, seeds: Sequence[int]) -> None:
        self.planners = planners
        self.window_s = WINDOW_REQUESTS * planners.limit_s
        self.horizon_s = WINDOWS * self.window_s
        conditions = planners.setting.conditions
        self.worlds = [
            World.of_conditions(planners.cluster, visits(conditions, self.horizon_s, seed, window_s=self.window_s))
            for seed in seeds
        ]
        self._adapted: dict[tuple[str, Question], list[SimulationRecord]] = {}
        self._fixed: dict[tuple[Plan, Transfers], list[SimulationRecord]] = {}

    def fixed(self, plan: Plan, transfers: Transfers) -> list[SimulationRecord]:
        """One plan all the time."""
        key = (plan.decisions(), transfers)
        if key not in self._fixed:
            self._fixed[key] = [self._simulate(world, plan, transfers) for world in self.worlds]
        return self._fixed[key]

    def adapted(
        self, composed: Callable[[Headline, EnergyAccounting], tuple[Plan, ...]], question: Question
    ) -> list[SimulationRecord]:
        """Resident plans, driven by the runtime adapter, which makes no new ones."""
        if question[0] == "latency":
            question = ("latency", "participating")  # whose energy counts does not matter to the fastest
        key = (composed.__name__, question)
        if key not in self._adapted:
            plans = composed(*question)
            self._adapted[key] = [
                self._simulate(world, self._adapter(plans, question), resident=plans) for world in self.worlds if plans
            ]
        return self._adapted[key]

    def _adapter(self, plans: Sequence[Plan], question: Question) -> Adapter:
        planners = self.planners
        return Adapter(
            planners.workload,
            planners.cluster,
            planners.qoe(*question),
            plans,
            window_s=self.window_s,
            table=planners.table,
            conditions=planners.setting.conditions,
        )

    def _simulate(
        self,
        world: World,
        controller: Controller | Plan,
        transfers: Transfers = "list-scheduled",
        resident: Sequence[Plan] = (),
    ) -> SimulationRecord:
        planners = self.planners
        return simulate(
            planners.workload,
            world,
            controller,
            QoE(latency_s=planners.limit_s),
            horizon_s=self.horizon_s,
            window_s=self.window_s,
            resident=resident,
            table=planners.table,
            sharing=SHARING[transfers],
        )


def _facts(
    planners: Planners,
    objective: Headline,
    accounting: EnergyAccounting,
    by: tuple[str, Transfers],
    *,
    dynamic: bool,
) -> dict[str, Any]:
    """What tells a cell from others."""
    setting, workload = planners.setting, planners.workload
    return {
        "deployment": setting.deployment,
        "model": setting.model,
        "mode": setting.mode,
        "batch": workload.batch,
        "sequence": workload.sequence,
        "image_px": workload.image_px,
        "precision": workload.precision,
        "network": ", ".join(f"{domain.id} ({domain.kind})" for domain in planners.cluster.domains),
        "dynamic": dynamic,
        "objective": objective,
        "energy_accounting": accounting,
        "planner": by[0],
        "transfers": by[1],
        "latency_limit_s": planners.limit_s,
    }

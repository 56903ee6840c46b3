"""The adapter under random dynamics, against every fixed plan and against a clairvoyant.

``pytest tests/benchmarks/test_dynamics.py -o addopts='--import-mode=importlib' -s`` (about an hour, nearly all of it
the clairvoyant's). Fixed beforehand: windows of 60 s, half an hour a trace, 20 seeds a deployment; how long media and
the devices stay in a state is that of ``data/dynamics``; the latency limit is the one that the resident plans were
composed for. A row a controller: share of the windows kept and joules a step, means over the seeds; the fixed plans are
those of the composition, of :func:`dora_nb.plan` and of the baselines, the best of each kind at keeping shown. The
resident plans are the composition's; the adapter may have more made, which takes 5 s of simulated time.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from dora_nb.adaptation import Adapter, Clairvoyant, Delayed, planner_for
from dora_nb.catalog import load_cluster, load_conditions, load_dynamics, load_workload
from dora_nb.costs.table import cost_table
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.controller import Controller
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.formulation.problem import Problem
from dora_nb.planning.baselines import BASELINES, best_of
from dora_nb.planning.compose import compose
from dora_nb.planning.plan import plan
from dora_nb.simulation import SimulationRecord, World, simulate
from dora_nb.simulation.generators import absences, wander

WINDOW_S, HORIZON_S, SEEDS, REPLAN_S = 60.0, 1800.0, 20, 5.0


@dataclass(frozen=True)
class Case:
    """What runs where, and what wanders: the medium, devices that get hot, a device that comes and goes."""

    workload: Workload
    cluster: Cluster
    conditions: str
    latency_s: float
    medium: tuple[str, str]
    hot: tuple[str, ...]
    leaves: str

    def world(self, seed: int) -> World:
        domain, chain = self.medium
        world = World(self.cluster).having("domain rate", domain, wander(load_dynamics(chain), HORIZON_S, seed))
        for number, name in enumerate(self.hot, start=1):
            world = world.having("device speed", name, wander(load_dynamics("heat"), HORIZON_S, seed + 1000 * number))
        away = absences(HORIZON_S, seed + 500, there_s=600, away_s=120)
        return world.having("presence", self.leaves, away)


CASES = {
    "smart home, qwen3-0.6b inference": Case(
        load_workload("qwen3-0.6b", batch=8, source="phone", sink="phone"),
        load_cluster("smart-home"),
        "smart-home-evening",
        4.5,
        ("wifi", "wifi-neighbours"),
        ("laptop", "minipc"),
        "laptop",
    ),
    "traffic analytics, vit-b-16 inference": Case(
        load_workload("vit-b-16", batch=8, source="gateway", sink="gateway"),
        load_cluster("traffic-analytics"),
        "traffic-rush-hour",
        0.16,
        ("ethernet", "wifi-neighbours"),  # other people's traffic takes as much of a switch
        ("junction", "camera-1"),
        "junction",
    ),
}


@functools.cache
def resident(name: str) -> tuple[Plan, ...]:
    case = CASES[name]
    qoe = QoE(objective="energy", latency_s=case.latency_s)
    return compose(case.workload, case.cluster, qoe, load_conditions(case.conditions), solver="highs").plans


@pytest.mark.parametrize("name", CASES)
def test_the_adapter_against_fixed_plans_and_a_clairvoyant(name: str) -> None:
    case = CASES[name]
    workload, place, table = case.workload, case.cluster, cost_table(case.workload, case.cluster)
    qoe = QoE(objective="energy", latency_s=case.latency_s)
    fixed: dict[str, list[Plan]] = {
        "of the composition": list(resident(name)),
        "of plan()": list(plan(workload, place, qoe, solver="highs").plans),
    }
    problem = Problem.of(workload, place, "participating")
    for label, make in BASELINES.items():
        best = [best_of(make(problem), each) for each in (qoe, QoE())]
        fixed[label] = [each for each in best if each is not None]
    rows: dict[str, list[SimulationRecord]] = {}

    def run(label: str, controller: Controller | Plan, world: World) -> None:
        options = {"horizon_s": HORIZON_S, "window_s": WINDOW_S, "resident": resident(name), "table": table}
        rows.setdefault(label, []).append(simulate(workload, world, controller, qoe, **options))  # type: ignore[arg-type]

    for seed in range(SEEDS):
        world = case.world(seed)
        for label, plans in fixed.items():
            for number, each in enumerate(plans):
                run(f"{label} {number}", each, world)
        replanner = Delayed(planner_for(workload, place, table, qoe), REPLAN_S)
        run("adapter", Adapter(workload, place, qoe, resident(name), window_s=WINDOW_S, replanner=replanner), world)
        # What the adapter ended up with is what the clairvoyant may choose from, beside the fixed plans of plan().
        known = [*resident(name), *fixed["of plan()"]]
        run("clairvoyant", Clairvoyant(workload, world, qoe, known, window_s=WINDOW_S, table=table), world)
    _print(name, fixed, rows)
    kept = {label: float(np.mean([record.kept_share for record in records])) for label, records in rows.items()}
    assert max(kept[label] for label in kept if label not in ("adapter", "clairvoyant")) <= 0.9, "not hard enough"


def _print(name: str, fixed: Mapping[str, list[Plan]], rows: Mapping[str, list[SimulationRecord]]) -> None:
    print(f"\n{name}: {SEEDS} traces of {HORIZON_S:g} s, windows of {WINDOW_S:g} s")
    for kind in [*fixed, "adapter", "clairvoyant"]:
        own = {label: records for label, records in rows.items() if label == kind or label.rsplit(" ", 1)[0] == kind}
        if own:
            records = max(own.values(), key=lambda each: np.mean([record.kept_share for record in each]))
            kept, joules = ([getattr(r, figure) for r in records] for figure in ("kept_share", "energy_per_step_j"))
            steps = np.mean([len(record.steps) for record in records])
            print(f"  {kind:>22}: kept {np.mean(kept):6.1%}, {np.mean(joules):7.1f} J a step, {steps:5.0f} steps")

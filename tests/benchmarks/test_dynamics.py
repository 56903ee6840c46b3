"""The adapter under random dynamics, against every fixed plan, the baselines and two clairvoyants.

``pytest tests/benchmarks/test_dynamics.py -o addopts='--import-mode=importlib' -s``. Fixed beforehand: windows of 60 s,
half an hour a trace, 20 seeds a case; how long media and devices stay in a state is that of ``data/dynamics``. The
latency limit is the one that the resident plans are composed for: 4.5 s and 0.16 s in the first two cases (1.6 and 1.5
times the fastest plan when nothing disturbs it); in the other two, made later, a rule: twice the fastest plan.

- smart home, traffic analytics: the medium is used by others, two devices get hot, the one of them that helps most
  comes and goes.
- edge cluster: the Mac is as fast as all boards together, so it is the Mac that gets hot (and a Raspberry Pi 5) and
  comes and goes; MobileNet, because boards and Mac together are worth it there, in batches of 64.
- training in the smart home: another plan's parameters and optimizer state must be moved. MobileNet in batches of 64
  has 42 MB of them, some seconds on this Wi-Fi, and about a hundred steps in a window.

A row a controller: share of the windows kept, joules a step and steps, means over the seeds. The fixed plans are those
of the composition, of :func:`dora_nb.plan` and of the baselines, the best of each kind at keeping shown. The adapter
starts with the composition's and may have more made, which takes 5 s of simulated time. The clairvoyants may use all of
these, re-planned ones included; one loads what is not resident as the adapter does, for the other changes are free.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from dora_nb.adaptation import Adapter, Clairvoyant, Delayed, planner_for
from dora_nb.catalog import load_cluster, load_conditions, load_dynamics, load_workload
from dora_nb.costs.table import CostTable, cost_table
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.conditions import Condition, Conditions
from dora_nb.domain.controller import Controller
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import DoraError, InfeasibleError
from dora_nb.formulation.problem import Problem
from dora_nb.planning.baselines import BASELINES, best_of
from dora_nb.planning.composition.compose import compose
from dora_nb.planning.plan import plan
from dora_nb.simulation import SimulationRecord, World, simulate
from dora_nb.simulation.generators import absences, wander

WINDOW_S, HORIZON_S, SEEDS, REPLAN_S = 60.0, 1800.0, 20, 5.0

#: The latency limit where no other is given, in makespans of the fastest plan when nothing disturbs it.
TIMES_FASTEST = 2.0


@dataclass(frozen=True)
class Case:
    """What runs where, and what wanders: the medium, devices that get hot, a device that comes and goes."""

    workload: Workload
    cluster: Cluster
    conditions: str
    medium: tuple[str, str]
    hot: tuple[str, ...]
    leaves: str
    given_s: float | None = None

    @functools.cached_property
    def table(self) -> CostTable:
        return cost_table(self.workload, self.cluster)

    @functools.cached_property
    def latency_s(self) -> float:
        if self.given_s is not None:
            return self.given_s
        fastest = plan(self.workload, self.cluster, QoE(), solver="highs").best
        assert fastest.prediction is not None
        return TIMES_FASTEST * fastest.prediction.makespan_s

    @functools.cached_property
    def qoe(self) -> QoE:
        return QoE(objective="energy", latency_s=self.latency_s)

    @functools.cached_property
    def expected(self) -> Conditions:
        return load_conditions(self.conditions)

    @functools.cached_property
    def resident(self) -> tuple[Plan, ...]:
        return compose(self.workload, self.cluster, self.qoe, self.expected, solver="highs").plans

    @functools.cached_property
    def fixed(self) -> dict[str, list[Plan]]:
        """Static plans by kind."""
        found = {
            "of the composition": list(self.resident),
            "of plan()": list(plan(self.workload, self.cluster, self.qoe, solver="highs").plans),
        }
        problem = Problem.of(self.workload, self.cluster, "participating")
        for label, make in BASELINES.items():
            best = [best_of(make(problem), each) for each in (self.qoe, QoE())]
            found[label] = [each for each in best if each is not None]
        return found

    def world(self, seed: int) -> World:
        domain, chain = self.medium
        world = World(self.cluster).having("domain rate", domain, wander(load_dynamics(chain), HORIZON_S, seed))
        for number, name in enumerate(self.hot, start=1):
            world = world.having("device speed", name, wander(load_dynamics("heat"), HORIZON_S, seed + 1000 * number))
        away = absences(HORIZON_S, seed + 500, there_s=600, away_s=120)
        return world.having("presence", self.leaves, away)


class Planner:
    """Plans for a state, once for all seeds; who asked for what since ``made`` was cleared."""

    def __init__(self, case: Case) -> None:
        self._make = planner_for(case.workload, case.cluster, case.table, case.qoe)
        self._known: dict[str, tuple[Plan, ...] | str] = {}
        self.made: list[Plan] = []

    def __call__(self, condition: Condition) -> tuple[Plan, ...]:
        key = condition.replace(name="any").digest()
        if key not in self._known:
            try:
                self._known[key] = self._make(condition)
            except DoraError as error:
                self._known[key] = str(error)
        found = self._known[key]
        if isinstance(found, str):
            raise InfeasibleError(found)
        self.made.extend(found)
        return found


CASES = {
    "smart home, qwen3-0.6b inference": Case(
        load_workload("qwen3-0.6b", batch=8, source="phone", sink="phone"),
        load_cluster("smart-home"),
        "smart-home-evening",
        ("wifi", "wifi-neighbours"),
        ("laptop", "minipc"),
        "laptop",
        4.5,
    ),
    "traffic analytics, vit-b-16 inference": Case(
        load_workload("vit-b-16", batch=8, source="gateway", sink="gateway"),
        load_cluster("traffic-analytics"),
        "traffic-rush-hour",
        ("ethernet", "wifi-neighbours"),  # other people's traffic takes as much of a switch
        ("junction", "camera-1"),
        "junction",
        0.16,
    ),
    "edge cluster, mobilenet-v2 inference": Case(
        load_workload("mobilenet-v2", batch=64, source="pi5-2", sink="pi5-2"),
        load_cluster("edge-cluster"),
        "edge-cluster-day",
        ("ethernet", "wifi-neighbours"),
        ("mac", "pi5-1"),
        "mac",
    ),
    "smart home, mobilenet-v2 training": Case(
        load_workload("mobilenet-v2", mode="training", batch=64),
        load_cluster("smart-home"),
        "smart-home-evening",
        ("wifi", "wifi-neighbours"),
        ("laptop", "minipc"),
        "laptop",
    ),
}

CONTROLLERS = ("adapter", "clairvoyant", "free clairvoyant")


@pytest.mark.parametrize("name", CASES)
def test_the_adapter_against_fixed_plans_and_clairvoyants(name: str) -> None:
    case, rows, began = CASES[name], dict[str, list[SimulationRecord]](), time.perf_counter()
    planner = Planner(case)
    for seed in range(SEEDS):
        for label, record in _one_trace(case, seed, planner).items():
            rows.setdefault(label, []).append(record)
    print(
        f"\n{name}: {SEEDS} traces of {HORIZON_S:g} s, windows of {WINDOW_S:g} s, within {case.latency_s:.3g} s a step"
    )
    _print(rows, [*case.fixed, *CONTROLLERS])
    kept = {label: float(np.mean([record.kept_share for record in records])) for label, records in rows.items()}
    ratio = kept["adapter"] / kept["clairvoyant"]
    pairs = zip(rows["adapter"], rows["clairvoyant"], strict=True)
    ahead = sum(adapter.kept_share > knows.kept_share for adapter, knows in pairs)
    print(f"  the adapter keeps {ratio:.1%} of what the clairvoyant keeps, and more on {ahead} of the traces")
    print(f"  ({time.perf_counter() - began:.0f} s)")
    static = max(kept[label] for label in kept if label not in CONTROLLERS)
    assert static <= 0.9, "not hard enough"
    assert kept["adapter"] > static
    assert kept["free clairvoyant"] >= kept["clairvoyant"] - 1e-9


def _one_trace(case: Case, seed: int, planner: Planner) -> dict[str, SimulationRecord]:
    """What everybody does with a trace."""
    work, world, qoe, rows = case.workload, case.world(seed), case.qoe, dict[str, SimulationRecord]()

    def run(label: str, controller: Controller | Plan, free_changes: bool = False) -> None:
        rows[label] = simulate(
            work,
            world,
            controller,
            qoe,
            horizon_s=HORIZON_S,
            window_s=WINDOW_S,
            resident=case.resident,
            free_changes=free_changes,
            table=case.table,
        )

    for label, plans in case.fixed.items():
        for number, each in enumerate(plans):
            run(f"{label} {number}", each)
    planner.made.clear()
    adapter = Adapter(
        work,
        case.cluster,
        qoe,
        case.resident,
        window_s=WINDOW_S,
        conditions=case.expected,
        replanner=Delayed(planner, REPLAN_S),
    )
    run("adapter", adapter)
    known = [*case.resident, *(each for plans in case.fixed.values() for each in plans), *planner.made]
    for free in (False, True):
        knows = Clairvoyant(
            work,
            world,
            qoe,
            known,
            horizon_s=HORIZON_S,
            window_s=WINDOW_S,
            resident=case.resident,
            free_changes=free,
            table=case.table,
        )
        run("free clairvoyant" if free else "clairvoyant", knows, free)
    return rows


def _print(rows: Mapping[str, list[SimulationRecord]], kinds: list[str]) -> None:
    for kind in kinds:
        own = {label: records for label, records in rows.items() if label == kind or label.rsplit(" ", 1)[0] == kind}
        if own:
            records = max(own.values(), key=lambda each: np.mean([record.kept_share for record in each]))
            kept, joules = ([getattr(r, figure) for r in records] for figure in ("kept_share", "energy_per_step_j"))
            steps = np.mean([len(record.steps) for record in records])
            print(f"  {kind:>22}: kept {np.mean(kept):6.1%}, {np.mean(joules):7.4g} J a step, {steps:5.0f} steps")

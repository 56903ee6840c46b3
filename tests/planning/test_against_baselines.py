"""Our own plans against every baseline's: never worse at what each is best at.

More settings, simulated and under dynamics, too: ``tests/reproduction``.
"""

from __future__ import annotations

import pytest

from dora_nb.catalog import load_cluster, load_workload
from dora_nb.domain.qoe import QoE
from dora_nb.formulation.problem import Problem
from dora_nb.planning.baselines import BASELINES, best_of
from dora_nb.planning.plan import plan

GAP = 1e-3

CELLS = [
    ("traffic-analytics", "qwen3-1.7b", "inference", 8),
    ("edge-cluster", "bert-base", "inference", 8),
]


@pytest.mark.parametrize(("deployment", "name", "mode", "batch"), CELLS)
def test_no_baseline_is_better_at_either_objective(deployment: str, name: str, mode: str, batch: int) -> None:
    """``plan()`` compares itself with some of them, but takes none of their plans as its answer."""
    workload, place = load_workload(name, mode=mode, batch=batch), load_cluster(deployment)
    problem = Problem.of(workload, place, "participating")
    found = {
        objective: plan(workload, place, QoE(objective=objective), most_plans=1, gap=GAP, solver="highs").best
        for objective in ("latency", "energy")
    }
    compared = 0
    for label, make in BASELINES.items():
        alternatives = make(problem)
        for objective, ours in found.items():
            theirs = best_of(alternatives, QoE(objective=objective))
            if theirs is None:
                continue
            mine, other = ours.prediction, theirs.prediction
            assert mine is not None
            assert other is not None
            compared += 1
            if objective == "latency":
                assert mine.makespan_s <= other.makespan_s * (1 + GAP), label
            else:
                assert mine.energy_participating_j <= other.energy_participating_j * (1 + GAP), label
    assert compared >= 6

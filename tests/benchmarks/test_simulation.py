"""Events a second of the simulator, on one core.

``pytest tests/benchmarks/test_simulation.py -o addopts='--import-mode=importlib' -s``. Asked for: 200,000. No step is
replayed here; when nothing changes between two steps, :func:`dora_nb.simulation.simulate` does not simulate again.
"""

from __future__ import annotations

import time

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from dora_nb.catalog import load_cluster, load_workload
from dora_nb.costs.table import cost_table
from dora_nb.planning.plan import plan
from dora_nb.simulation import StepModel, Trace, World, run_step
from dora_nb.simulation.engine import Sharing

CASES = {
    "smart home (one medium), bert-base": ("smart-home", "bert-base"),
    "edge cluster (a switch), qwen3-1.7b": ("edge-cluster", "qwen3-1.7b"),
}

STEPS = 60


@pytest.mark.parametrize("sharing", ["ordered", "fair"])
@pytest.mark.parametrize("changes", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_events_a_second(case: str, changes: bool, sharing: Sharing, benchmark: BenchmarkFixture) -> None:
    deployment, name = CASES[case]
    workload, place = load_workload(name, mode="training", batch=16), load_cluster(deployment)
    model = StepModel(plan(workload, place, most_plans=1).best, workload, place, cost_table(workload, place))
    world = World(place)
    if changes:  # the medium's rate jumps ten times a second
        jumps = [(number / 10, 1.0 if number % 2 else 0.5) for number in range(2000)]
        world = world.having("domain rate", place.domains[0].id, Trace.steps(jumps))

    def steps() -> float:
        began, events = time.perf_counter(), 0
        for _ in range(STEPS):
            events += run_step(model, world, sharing=sharing).events
        return events / (time.perf_counter() - began)

    rate = benchmark.pedantic(steps, rounds=5, warmup_rounds=1)
    what = "a rate that changes" if changes else "nothing changes"
    median_s = benchmark.stats.stats.median
    print(f"\n{case}, {sharing}, {what}: {rate:,.0f} events a second, {STEPS} steps in {median_s:.3f} s")

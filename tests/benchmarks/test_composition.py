"""What composing gains over one plan, and over deciding in sequence.

``pytest tests/benchmarks/test_composition.py -o addopts='--import-mode=importlib' -s``
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from dora_nb.catalog import load_cluster, load_conditions, load_workload
from dora_nb.costs.conditions import under
from dora_nb.costs.table import cost_table
from dora_nb.domain.composition import Composition
from dora_nb.domain.qoe import QoE
from dora_nb.errors import InfeasibleError
from dora_nb.formulation.problem import Problem
from dora_nb.planning.baselines.sequential import sequential
from dora_nb.planning.composition.compose import compose

CASES = {
    "inputs where they are needed": ({}, 5.0),
    "inputs from and outputs to the phone": ({"source": "phone", "sink": "phone"}, 4.5),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("most_plans", [1, 2, 3])
def test_composing_on_the_smart_home(case: str, most_plans: int, benchmark: BenchmarkFixture) -> None:
    ends, latency_s = CASES[case]
    workload, place = load_workload("qwen3-0.6b", batch=8, **ends), load_cluster("smart-home")
    states, qoe = load_conditions("smart-home-evening"), QoE(objective="energy", latency_s=latency_s)
    mix: Composition = benchmark.pedantic(
        compose, (workload, place, qoe, states), {"most_plans": most_plans}, rounds=3, warmup_rounds=0
    )
    benchmark.extra_info["gap"] = mix.certificate.gap
    print(f"\n{case}, at most {most_plans} plans, median {benchmark.stats.stats.median:.1f} s\n{mix!r}")
    assert all(each.kept for each in mix.figures)


@pytest.mark.parametrize("mode", ["training", "inference"])
@pytest.mark.parametrize("model", ["qwen3-0.6b", "qwen3-1.7b", "bert-base", "vit-b-16"])
def test_composing_against_in_sequence(model: str, mode: str) -> None:
    """Partition by the closed form in every condition, then schedule, then compose what came of it; least latency."""
    workload = load_workload(model, mode=mode, batch={"training": 16, "inference": 8}[mode])
    place, states, qoe = load_cluster("smart-home"), load_conditions("smart-home-evening"), QoE(objective="latency")
    table, plans = cost_table(workload, place), []
    for condition in states.conditions:
        around = under(place, table, condition)
        found = sequential(Problem.of(workload, around.cluster, "participating", table=around.table), gap=1e-3)
        plans.extend(each.replace(prediction=None) for each in (() if found is None else found.plans))
    try:
        mix = compose(workload, place, qoe, states)
    except InfeasibleError as error:
        print(f"\n{model:>10} {mode:>9}: no composition at all: {error}")
        return
    cell = f"\n{model:>10} {mode:>9}: joint {mix.expected_s:8.4g} s (gap {mix.certificate.gap:.2%})"
    if not plans:
        print(f"{cell}; in sequence no partition fits in memory")
        return
    try:
        apart = compose(workload, place, qoe, states, restrict=plans)
    except InfeasibleError as error:
        print(f"{cell}; in sequence none: {error}")
        return
    print(f"{cell}, in sequence {apart.expected_s:8.4g} s, {1 - mix.expected_s / apart.expected_s:6.2%} shorter")
    assert mix.expected_s <= apart.expected_s * (1 + mix.certificate.gap + 1e-3)

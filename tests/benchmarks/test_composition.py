"""What composing gains over one plan: ``pytest tests/benchmarks -o addopts='--import-mode=importlib' -s``."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from dora_nb.catalog import load_cluster, load_conditions, load_workload
from dora_nb.domain.composition import Composition
from dora_nb.domain.qoe import QoE
from dora_nb.planning.compose import compose

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

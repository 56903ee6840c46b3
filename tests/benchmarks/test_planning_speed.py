"""How long planning takes on the deployments: ``pytest tests/benchmarks -o addopts='--import-mode=importlib' -s``."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from dora_nb.catalog import load_cluster, load_workload
from dora_nb.domain.plan_set import PlanSet
from dora_nb.planning.plan import plan

CASES = {
    "smart home, qwen3-0.6b, training, batch 16": ("qwen3-0.6b", "smart-home", {"mode": "training", "batch": 16}),
    "smart home, qwen3-0.6b, inference, batch 16": ("qwen3-0.6b", "smart-home", {"mode": "inference", "batch": 16}),
    "traffic analytics, vit-b-16, inference, batch 8": ("vit-b-16", "traffic-analytics", {"batch": 8}),
    "edge cluster, qwen3-1.7b, inference, batch 8": ("qwen3-1.7b", "edge-cluster", {"batch": 8, "precision": "fp16"}),
}


@pytest.mark.parametrize("case", CASES)
def test_planning(case: str, benchmark: BenchmarkFixture) -> None:
    model, deployment, options = CASES[case]
    workload, place = load_workload(model, **options), load_cluster(deployment)
    answers: PlanSet = benchmark.pedantic(plan, (workload, place), rounds=3, warmup_rounds=0)
    gaps = [each.certificate.gap for each in answers.plans if each.certificate is not None]
    benchmark.extra_info["largest_gap"] = max(gaps)
    median_s = benchmark.stats.stats.median
    print(f"\n{case}: median {median_s:.2f} s, {len(answers)} plans, largest gap {max(gaps):.2%}")
    assert len(gaps) == len(answers)

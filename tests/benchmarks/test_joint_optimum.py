"""Joint optima proven on the deployments, and on 30 layers and 8 unlike devices.

``pytest tests/benchmarks/test_joint_optimum.py -o addopts='--import-mode=importlib' -s`` prints a line a cell: what it
may choose among, on what network, for what; the median of three calls, the gap proven, and how the plan looks. Columns
of the table of gains: the same model solved in sequence (partition by the closed form, then the best in-flight depth
and transfer schedule of that partition) against the joint optimum.
"""

from __future__ import annotations

import resource
import sys

import numpy as np
import pytest
from builders import cluster, device, drawn_layers
from builders import workload as chain
from pytest_benchmark.fixture import BenchmarkFixture

from dora_nb.catalog import load_cluster, load_workload
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.baselines.sequential import sequential
from dora_nb.planning.plan import plan

DEPLOYMENTS = ("smart-home", "traffic-analytics", "edge-cluster")
MODELS = ("qwen3-0.6b", "qwen3-1.7b", "bert-base", "vit-b-16")
BATCH = {"training": 16, "inference": 8}

#: Asked for: 0.1 % within 2 s a cell (5 s for the large case), on HiGHS, 2 cores and under 1 GB.
GAP = 1e-3


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """linopy and its dependencies take a second to import, once a process; no cell shall pay for that."""
    place = cluster(2)
    plan(chain(2, batch=2), place, solver="highs")


@pytest.mark.parametrize("mode", BATCH)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("deployment", DEPLOYMENTS)
def test_joint_optimum(deployment: str, model: str, mode: str, benchmark: BenchmarkFixture) -> None:
    workload, place = load_workload(model, mode=mode, batch=BATCH[mode]), load_cluster(deployment)
    answers = _timed(workload, place, None, benchmark)
    space = Problem.of(workload, place, "participating").space
    network = ", ".join(domain.kind for domain in place.domains)
    _print(
        f"{deployment} ({network}), {model}, {mode}, batch {workload.batch}: latency, micro-batches "
        f"{space.micro_batch_sizes}, up to {space.most_replicas} replicas",
        answers,
        benchmark,
    )


@pytest.mark.parametrize("kind", ["shared", "switch"])
@pytest.mark.parametrize("seed", range(3))
def test_thirty_layers_on_eight_unlike_devices(seed: int, kind: str, benchmark: BenchmarkFixture) -> None:
    """8 micro-batches of 2 samples, groups of up to two, in-flight depths 1 to 3; figures drawn from a seed."""
    workload, place = thirty_by_eight(seed, kind)
    answers = _timed(workload, place, SearchSpace((2,), 2, (1, 2, 3)), benchmark)
    _print(f"30 layers x 8 unlike devices, {kind}, seed {seed}: latency, 8 micro-batches of 2", answers, benchmark)


def thirty_by_eight(seed: int, kind: str) -> tuple[Workload, Cluster]:
    dice = np.random.default_rng(seed)

    def between(low: float, high: float) -> float:
        return float(dice.uniform(low, high))

    layers = drawn_layers(between, 30)
    devices = [
        device(name, between(0.5, 4) * 1e9, idle_w=between(1, 3), active_w=between(4, 20), memory_bytes_per_s=1e10)
        for name in "abcdefgh"
    ]
    rates = [between(0.7, 1.5) * 3e7 for _ in devices]
    return chain(layers, batch=16), cluster(devices, rates, kind, latency_s=1e-3)


@pytest.mark.parametrize("mode", BATCH)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("deployment", DEPLOYMENTS)
def test_joint_against_in_sequence(deployment: str, model: str, mode: str) -> None:
    workload, place = load_workload(model, mode=mode, batch=BATCH[mode]), load_cluster(deployment)
    best = plan(workload, place, QoE(), most_plans=1, gap=GAP, solver="highs").best
    assert best.prediction is not None
    found = sequential(Problem.of(workload, place, "participating"), solver="highs", gap=GAP)
    cell = f"\n{deployment:>17} {model:>10} {mode:>9}:"
    if found is None:
        print(f"{cell} no partition of the closed form fits in memory; joint {best.prediction.makespan_s:8.4g} s")
        return
    values_s = [each.prediction.makespan_s for each in found.plans if each.prediction is not None]
    joint_s = best.prediction.makespan_s
    print(
        f"{cell} closed form says {found.formula_s:8.4g} s, its partition takes "
        f"{values_s[0]:8.4g} s at depth 1 and {min(values_s):8.4g} s at its best; joint {joint_s:8.4g} s, "
        f"{1 - joint_s / min(values_s):6.2%} shorter"
    )
    assert joint_s <= min(values_s) * (1 + GAP)


def _timed(workload: Workload, place: Cluster, space: SearchSpace | None, benchmark: BenchmarkFixture) -> PlanSet:
    return benchmark.pedantic(
        plan,
        (workload, place, QoE()),
        {"most_plans": 1, "gap": GAP, "space": space, "solver": "highs"},
        rounds=3,
        warmup_rounds=0,
    )


def _print(cell: str, answers: PlanSet, benchmark: BenchmarkFixture) -> None:
    best = answers.best
    assert best.certificate is not None
    assert best.prediction is not None
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    median_s = benchmark.stats.stats.median
    benchmark.extra_info.update(gap=best.certificate.gap, peak_bytes=peak_bytes)
    print(
        f"\n{cell}\n    median {median_s:.2f} s, gap {best.certificate.gap:.4%} ({best.certificate.status}), "
        f"{best.prediction.makespan_s:.4g} s on {len(best.stages)} stages, {best.micro_batches} x {best.micro_batch}, "
        f"{best.chunks} chunks, medium busy {best.prediction.airtime_s / best.prediction.makespan_s:.0%}, "
        f"peak {peak_bytes / 1e9:.2f} GB"
    )

"""Data parallel by hand: groups, shares, sums."""

from __future__ import annotations

import pytest
from builders import cluster, device, layer, workload

from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.baselines import best_of, data_parallels


def shares(plan: Plan) -> dict[str, int]:
    return {replica.device: replica.samples for replica in plan.stages[0].replicas}


def whole_batch(batch: int) -> SearchSpace:
    return SearchSpace((batch,), 1, (1,))


def test_two_equal_devices_by_hand() -> None:
    """Two layers of 1 s forward and 2 s backward a sample, two samples each, then the sum of 1 MB.

    12 s of computing. The sum goes in two buckets by star: b sends half a megabyte to a and gets it back, both hops on
    a medium of 1 MB/s: 2 s a bucket. The second starts when the last backward pass ends, so it takes 14 s in all.
    """
    chain = [layer(name, parameters=10**6 // 8) for name in "xy"]
    problem = Problem.of(workload(chain, batch=4), cluster(2), "participating", space=whole_batch(4))
    best = best_of(data_parallels(problem), QoE())
    assert best is not None
    assert shares(best) == {"a": 2, "b": 2}
    assert best.prediction is not None
    assert best.prediction.makespan_s == pytest.approx(12 + 2, rel=1e-5)  # and steps that take next to no time


def test_shares_in_proportion_to_speed() -> None:
    """At speeds 3 and 1, eight samples are 6 and 2: 4 s instead of 8 s for 4 and 4 (two layers of 1 s, inference)."""
    place = cluster([device("a", 1e9), device("b", 3e9)])
    problem = Problem.of(workload(2, mode="inference", batch=8), place, "participating", space=whole_batch(8))
    plans = data_parallels(problem)
    assert [shares(plan) for plan in plans] == [{"b": 8}, {"b": 4, "a": 4}, {"b": 6, "a": 2}]
    assert [plan.prediction.makespan_s for plan in plans] == pytest.approx([16 / 3, 8, 4])


def test_groups_are_the_fastest_that_can_hold_the_network() -> None:
    """d is fastest but too small; every k is tried, while there is a sample for each."""
    members = [device("a", 1e9), device("b", 3e9), device("c", 2e9), device("d", 9e9, memory_bytes=1e6)]
    work = workload([layer("x", parameters=10**6)], batch=2)
    plans = data_parallels(Problem.of(work, cluster(members), "participating"))
    assert {plan.devices for plan in plans} == {("b",), ("b", "c")}
    work = work.replace(batch=4)
    plans = data_parallels(Problem.of(work, cluster(members), "participating"))
    assert {plan.devices for plan in plans} == {("b",), ("b", "c"), ("b", "c", "a")}


def test_shares_respect_memory() -> None:
    """b is three times as fast, but has room for the stash of 5 of 8 samples (4 MB each) and no more."""
    members = [device("a", 1e9), device("b", 3e9, memory_bytes=21e6)]
    work = workload([layer("x", stash_elements=10**6, output_elements=1)], batch=8)
    plans = data_parallels(Problem.of(work, cluster(members), "participating", space=whole_batch(8)))
    assert [shares(plan) for plan in plans if len(plan.devices) == 2] == [{"b": 4, "a": 4}, {"b": 5, "a": 3}]


def test_gradients_accumulate_over_micro_batches() -> None:
    work = workload([layer("x", parameters=1000)], batch=4)
    plans = data_parallels(Problem.of(work, cluster(2), "participating"))
    assert {(plan.micro_batch, plan.micro_batches, len(plan.devices)) for plan in plans} == {
        (1, 4, 1), (2, 2, 1), (4, 1, 1), (2, 2, 2), (4, 1, 2),
    }  # fmt: skip

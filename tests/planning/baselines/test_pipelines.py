"""From cuts, devices and shares to plans: what is tried, and how samples are shared out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from builders import cluster, compositions, device, examples, layer, workload
from hypothesis import given, settings
from hypothesis import strategies as st

from dora_nb.formulation.problem import Problem
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.baselines.pipelines import even_shares, first_cuts, pipelines, proportional_shares

ENDS = {"parameters": 10**6, "tied_parameters": 10**6}


def problem(work, place, **options) -> Problem:
    return Problem.of(work, place, "participating", **options)


def test_every_in_flight_count_is_tried_once() -> None:
    """Two stages, four micro-batches: depth 1 holds (2, 1), depth 2 (3, 1), and 3 and 4 both hold (4, 1)."""
    asked = problem(workload(2, batch=4), cluster(2), space=SearchSpace((1,), 1, (1, 2, 3, 4)))
    plans = list(pipelines(asked, "some", (0, 1, 2), [{"b": 1}, {"a": 1}]))
    assert [[stage.in_flight for stage in plan.stages] for plan in plans] == [[2, 1], [3, 1], [4, 1]]
    assert {plan.label for plan in plans} == {"some"}
    assert {plan.devices for plan in plans} == {("b", "a")}
    assert {(plan.micro_batch, plan.micro_batches) for plan in plans} == {(1, 4)}


def test_where_tied_parameters_live_follows_from_the_cuts() -> None:
    tied = workload([layer("e", **ENDS), layer("m"), layer("n"), layer("h", **ENDS)])
    asked = problem(tied, cluster(2))
    assert first_cuts(tied, 2) == (0, 1)
    assert first_cuts(tied, 1) == first_cuts(workload(4), 2) == first_cuts(tied.replace(mode="inference"), 2) == (0,)
    for cuts, placement in ((0, 2, 4), "synchronised"), ((1, 2, 4), "hosted"), ((0, 4), "one-stage"):
        shares = [{name: 4} for name in "ab"[: len(cuts) - 1]]
        assert {plan.tied for plan in pipelines(asked, "", cuts, shares)} == {placement}
    assert {plan.tied for plan in pipelines(problem(workload(4), cluster(1)), "", (0, 4), [{"a": 4}])} == {"none"}


@pytest.mark.parametrize(("latency_s", "algorithm"), [(0.0, "ring"), (1.0, "star")])
def test_sums_go_the_way_that_takes_less(latency_s: float, algorithm: str) -> None:
    """Three ports of 1 MB/s, two buckets. Of 6 MB each and no latency: 4 rounds of 2 s by ring, 2 of 12 s by star. Of
    0.3 MB each and 1 s a message: 4 rounds of 0.1 + 1 s by ring, 2 of 0.6 + 1 s by star."""
    parameters = 1_500_000 if algorithm == "ring" else 75_000
    work = workload([layer("x", parameters=parameters), layer("y", parameters=parameters)], batch=3)
    asked = problem(work, cluster(3, 1e6, "switch", latency_s=latency_s))
    (plan, *_) = pipelines(asked, "", (0, 2), [{"a": 1, "b": 1, "c": 1}])
    assert plan.stages[0].all_reduce is not None
    assert plan.stages[0].all_reduce.algorithm == algorithm
    assert plan.stages[0].all_reduce.buckets == 2


def test_nothing_is_summed_without_training() -> None:
    asked = problem(workload(2, batch=2, mode="inference"), cluster(2))
    (plan,) = pipelines(asked, "", (0, 2), [{"a": 1, "b": 1}])
    assert plan.stages[0].all_reduce is None


def test_sums_are_whole_where_stages_may_not_overlap() -> None:
    work = workload([layer("x", parameters=100), layer("y", parameters=100)], batch=2)
    (plan, *_) = pipelines(problem(work, cluster(2), overlap=False), "", (0, 2), [{"a": 1, "b": 1}])
    assert plan.stages[0].all_reduce is not None
    assert plan.stages[0].all_reduce.buckets == 1


def test_even_shares() -> None:
    assert even_shares(7, 3) == [3, 2, 2]
    assert even_shares(6, 3) == [2, 2, 2]


def test_proportional_shares_by_hand() -> None:
    """8 samples at speeds 5:2:1 are 5, 2 and 1. At 6:1:1 it is 6, 1, 1; with room for 3 on the first, 3, 3 and 2 (what
    does not fit goes where most is lacking); with room for 9 in all but none on the last, nothing."""
    speed = np.array([[5.0, 6.0, 6.0, 6.0], [2.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    most = np.array([[8, 8, 3, 5], [8, 8, 8, 4], [8, 8, 8, 0]])
    assert proportional_shares(speed, most, 8).T.tolist() == [[5, 2, 1], [6, 1, 1], [3, 3, 2], [0, 0, 0]]


def test_fewer_samples_than_devices_cannot_be_shared_out() -> None:
    assert proportional_shares(np.ones((3, 1)), np.full((3, 1), 9), 2).tolist() == [[0], [0], [0]]


@settings(max_examples=examples(20))
@given(st.integers(0, 2**32 - 1))
def test_proportional_shares_are_the_nearest_that_fit(seed: int) -> None:
    """Of all whole shares that fit, none is nearer to the exact proportion (sum of squares)."""
    dice = np.random.default_rng(seed)
    count, samples = int(dice.integers(1, 4)), int(dice.integers(1, 9))
    speed, most = dice.uniform(0.1, 5, (count, 1)), dice.integers(0, 7, (count, 1))
    shares = proportional_shares(speed, most, samples)[:, 0]
    ideal = samples * speed[:, 0] / speed.sum()
    fitting = [
        each for each in (compositions(samples, count) if samples >= count else ()) if (each <= most[:, 0]).all()
    ]
    if not fitting:
        assert not shares.any()
        return
    nearest = min(((np.array(each) - ideal) ** 2).sum() for each in fitting)
    assert tuple(shares) in fitting
    assert ((shares - ideal) ** 2).sum() == pytest.approx(nearest)


def test_a_pipeline_with_replicas_names_them_in_order() -> None:
    work = workload([layer(f"l{index}", parameters=10) for index in range(3)], batch=4)
    place = cluster([device(name) for name in "abc"])
    (plan, *_) = pipelines(problem(work, place), "", (0, 1, 3), [{"c": 3, "a": 1}, {"b": 4}])
    taken = [[(each.device, each.samples) for each in stage.replicas] for stage in plan.stages]
    assert taken == [[("c", 3), ("a", 1)], [("b", 4)]]
    assert list(itertools.chain(*([stage.first_layer, stage.stop_layer] for stage in plan.stages))) == [0, 1, 1, 3]

"""exo's memory-weighted partitioning by hand."""

from __future__ import annotations

import pytest
from builders import cluster, device, layer, workload

from dora_nb.formulation.problem import Problem
from dora_nb.planning.baselines import memory_proportionals


@pytest.mark.parametrize(
    ("layers", "memory_gb", "taken"),
    [
        (8, (1, 2, 1), {"b": 4, "a": 2, "c": 2}),
        (30, (1, 1, 1), {"a": 10, "b": 10, "c": 10}),
        (7, (3, 1, 2), {"a": 3, "c": 2, "b": 2}),  # cuts at 3.5 and 5.83, rounded down
        (4, (1, 8, 1), {"b": 3, "c": 1}),  # cuts at 3.2 and 3.6: a holds none
        (5, (1, 1, 3), {"c": 3, "a": 1, "b": 1}),  # 3 x 0.7 of 5 x 0.7 GB is a little less than three fifths
    ],
)
def test_layers_in_proportion_to_memory(layers: int, memory_gb: tuple[int, ...], taken: dict[str, int]) -> None:
    members = [
        device(name, memory_bytes=size * 1e9, usable_memory_fraction=0.7)
        for name, size in zip("abc", memory_gb, strict=True)
    ]
    plans = memory_proportionals(Problem.of(workload(layers, batch=4), cluster(members), "participating"))
    assert plans
    for plan in plans:
        found = {stage.devices[0]: stage.stop_layer - stage.first_layer for stage in plan.stages}
        assert list(found.items()) == list(taken.items())
    assert {plan.micro_batch for plan in plans} == {1, 2, 4}


def test_what_does_not_fit_is_left_out() -> None:
    """Two layers each, but those of a weigh more than it can hold."""
    chain = [layer("x", parameters=10**6), layer("y", parameters=10**6), layer("m"), layer("n")]
    members = [device(name, memory_bytes=20e6) for name in "ab"]
    assert not memory_proportionals(Problem.of(workload(chain), cluster(members), "participating"))
    light = workload(4, batch=1)
    assert memory_proportionals(Problem.of(light, cluster(members), "participating"))


def test_hosted_ends_share_out_the_layers_between() -> None:
    ends = {"parameters": 1000, "tied_parameters": 1000}
    work = workload([layer("e", **ends), *(layer(f"l{index}") for index in range(5)), layer("h", **ends)], batch=2)
    plans = memory_proportionals(Problem.of(work, cluster(2), "participating"))
    cuts = {(plan.tied, *(stage.stop_layer for stage in plan.stages)) for plan in plans}
    assert cuts == {("synchronised", 3, 7), ("hosted", 4, 7)}

"""EdgeShard by hand: the least pass and the least bottleneck, with memory, transfers, source and sink."""

from __future__ import annotations

import pytest
from builders import cluster, device, layer, workload

from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.baselines import best_of, edgeshards

ONE_BY_ONE = SearchSpace((1,), 1, (1,))


def shards(plans: list[Plan]) -> set[tuple[tuple[str, int], ...]]:
    """Device and layers of each shard."""
    return {tuple((stage.devices[0], stage.stop_layer - stage.first_layer) for stage in plan.stages) for plan in plans}


def test_both_programmes_by_hand() -> None:
    """Four layers of 1 s on two equal devices, transfers of 0.2 s, four samples one by one.

    A single pass is shortest on one device: 4 s. The least bottleneck is 2 s, two layers each. The pipeline takes
    2 + 0.2 + 4 x 2 = 10.2 s, one device 16 s.
    """
    problem = Problem.of(workload(4, mode="inference"), cluster(2, 1e7), "participating", space=ONE_BY_ONE)
    plans = edgeshards(problem)
    assert shards(plans) == {(("a", 4),), (("a", 2), ("b", 2))}
    best = best_of(plans, QoE())
    assert best is not None
    assert best.prediction is not None
    assert best.prediction.makespan_s == pytest.approx(10.2)


@pytest.mark.parametrize(
    ("rate", "passes_through"),
    [(1e6, (("a", 3),)), (1e7, (("b", 2), ("a", 1)))],
)
def test_memory_and_transfers_by_hand(rate: float, passes_through: tuple[tuple[str, int], ...]) -> None:
    """a takes 1 s a layer and b 0.25 s, but b has room for the first two layers only.

    Handing over 1 MB takes 1 MB / rate twice. At 1 MB/s, 0.5 + 2 + 1 s are more than 3 s on a alone; at 10 MB/s,
    0.5 + 0.2 + 1 s are less.
    """
    chain = [layer("x", parameters=10**6), layer("y", parameters=10**6), layer("z", parameters=4 * 10**6)]
    members = [device("a", 1e9), device("b", 4e9, memory_bytes=12e6)]
    work = workload(chain, mode="inference", batch=1)
    plans = edgeshards(Problem.of(work, cluster(members, rate), "participating", space=ONE_BY_ONE))
    assert passes_through in shards(plans)
    fastest = best_of(plans, QoE())
    assert fastest is not None
    assert shards([fastest]) == {passes_through}


@pytest.mark.parametrize(("end", "moved"), [("source", "input_bytes"), ("sink", "output_bytes")])
def test_the_ends_count(end: str, moved: str) -> None:
    """b is twice as fast, but 3 MB reach or leave a at 1 MB/s twice: 6 s more on b than on a, where layers take 4 s."""
    for size, device_id in ((3e6, "a"), (0.0, "b")):
        work = workload(4, mode="inference", batch=1, **{end: "a", moved: size})
        place = cluster([device("a", 1e9), device("b", 2e9)], 1e6)
        plans = edgeshards(Problem.of(work, place, "participating", space=ONE_BY_ONE))
        best = best_of(plans, QoE())
        assert best is not None
        assert best.devices == (device_id,)


def test_training_passes_go_both_ways() -> None:
    """One layer of 3 s each (1 forward, 2 backward): a transfer of 2 s both ways is 4 s a cut, more than a layer.

    So the bottleneck of two stages is 4 s, of one stage 6 s; with 4 s one way (8 s both ways) one device is better.
    """
    for rate, stages in ((1e6, 2), (5e5, 1)):
        problem = Problem.of(workload(2), cluster(2, rate), "participating", space=ONE_BY_ONE)
        assert max(len(plan.stages) for plan in edgeshards(problem)) == stages


def test_more_in_flight_leaves_less_room() -> None:
    """Layers of 0.5, 0.5 and 1 s that stash 4 MB a sample each, on equal devices with room for 31 MB.

    The bottleneck is least with two layers in front. There they stash 8 MB a micro-batch: two in flight fit (depth 1),
    four do not (depth 3). Then one layer in front stashes 16 MB, and two behind, with one in flight, 8 MB.
    """
    chain = [
        layer(f"l{index}", flops=seconds * 1e9, stash_elements=10**6, output_elements=1)
        for index, seconds in enumerate((0.5, 0.5, 1))
    ]
    place = cluster([device(name, memory_bytes=31e6) for name in "ab"], 1e12)
    space = SearchSpace((1,), 1, (1, 3))
    plans = edgeshards(Problem.of(workload(chain, batch=4), place, "participating", space=space))
    pairs = [plan for plan in plans if len(plan.stages) == 2]
    found = {(tuple(stage.in_flight for stage in plan.stages), *shards([plan])) for plan in pairs}
    assert found == {((2, 1), (("a", 2), ("b", 1))), ((2, 1), (("a", 1), ("b", 2))), ((4, 1), (("a", 1), ("b", 2)))}

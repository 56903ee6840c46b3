"""PipeDream's and Alpa's pipelines of equal devices: by hand, against every pipeline, and on public inputs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from builders import cluster, device, examples, layer, workload
from hypothesis import given, settings
from hypothesis import strategies as st

from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.baselines import best_of, uniform_pipelines
from dora_nb.planning.baselines.uniform_pipeline import Loads, Split, least_load, least_round, stage_loads

CASES = sorted((Path(__file__).parents[4] / "shared" / "cases").glob("pipedream_*.json"))


def random_loads(seed: int) -> Loads:
    """Up to four layers on up to four devices; some stages do not fit."""
    dice = np.random.default_rng(seed)
    layers, devices = dice.integers(1, 5, 2).tolist()
    shape = (min(layers, devices), layers, layers + 1, devices + 1)
    load_s = dice.integers(1, 4, shape).astype(float)
    fill_s = load_s + dice.integers(0, 4, shape)
    allowed = dice.random(shape) < 0.85
    allowed[:, np.tril(np.ones((layers, layers + 1), dtype=bool))] = False
    allowed[..., 0] = False
    return Loads(load_s, fill_s, int(dice.integers(0, min(layers, 2)))).where(allowed)


def every_split(loads: Loads) -> Iterator[tuple[Split, list[float], list[float]]]:
    """All pipelines, with their loads and their parts of the fill."""
    most, layers, _, replicas = loads.load_s.shape
    for count in range(1, most + 1):
        for inner in itertools.combinations(range(loads.start + 1, layers), count - 1):
            cuts = (loads.start, *inner, layers)
            for shared in itertools.product(range(1, replicas), repeat=count):
                if sum(shared) < replicas:
                    stages = [
                        (count - 1 - place, cuts[place], cuts[place + 1], shared[place]) for place in range(count)
                    ]
                    figures = ([float(of[stage]) for stage in stages] for of in (loads.load_s, loads.fill_s))
                    yield Split(0.0, cuts, shared), *figures


@settings(max_examples=examples(40))
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 2, 5]))
def test_no_split_is_better(seed: int, micro_batches: int) -> None:
    """Zero micro-batches stand for PipeDream's value."""
    loads = random_loads(seed)

    def value(load_s: list[float], fill_s: list[float]) -> float:
        if np.isinf(max(load_s)):
            return np.inf
        return max(load_s) if not micro_batches else sum(fill_s) + (micro_batches - 1) * max(load_s)

    every = [(split, value(load_s, fill_s), sum(fill_s)) for split, load_s, fill_s in every_split(loads)]
    least = min(each for _, each, _ in every)
    found = least_round(loads, micro_batches) if micro_batches else least_load(loads)
    if not np.isfinite(least):
        assert found is None
        return
    assert found is not None
    assert found.value_s == pytest.approx(least)
    ((own, fill_s),) = [(each, fill_s) for split, each, fill_s in every if split == found._replace(value_s=0.0)]
    assert own == pytest.approx(least)
    if not micro_batches:
        assert fill_s == pytest.approx(min(fill for _, each, fill in every if each == least))


@pytest.mark.skipif(not CASES, reason="the shared cases are not at hand")
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_pipedream_on_public_inputs(path: Path) -> None:
    case = json.loads(path.read_text(encoding="utf-8"))
    layers, devices = case["layers"], case["devices"]["count"]

    def ranges(figures: list[float], elsewhere: float) -> np.ndarray:
        until = np.concatenate([[0.0], np.cumsum(figures)])
        table = until[None] - until[:-1, None]
        table[np.tril(np.ones(table.shape, dtype=bool))] = elsewhere
        return table

    loads = stage_loads(
        ranges([each["fwd_s"] + each["bwd_s"] for each in layers], np.inf),
        ranges([each["param_bytes"] for each in layers], 0.0),
        np.array([0.0, *(each["out_bytes"] for each in layers[:-1]), 0.0]),
        case["bandwidth_Bps"],
        devices,
    )
    best, shared = case["references"]
    found = least_load(loads)
    assert found is not None
    assert found.value_s == pytest.approx(best["objective"], rel=best.get("rtol", 1e-6))
    assert "data parallel" in shared["planner"]
    assert loads.load_s[0, 0, len(layers), devices] == pytest.approx(shared["objective"], rel=1e-6)
    split = Split(0.0, *zip_stages(best["plan"]["stages"]))
    assert loads.of(split).max() == pytest.approx(best["objective"], rel=1e-6)


def zip_stages(stages: list[list[int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Cuts and replicas of stages given as first layer, last layer, replicas."""
    return (0, *(last + 1 for _, last, _ in stages)), tuple(replicas for _, _, replicas in stages)


def test_loads_by_hand() -> None:
    """Two layers of 6 s with 8 bytes of gradients each, 10 bytes between them, two devices, 4 bytes a second.

    Both layers on both devices: (12 + 4 x 16 / (4 x 2)) / 2 = 10 s. One each: 6 s, and 2 x 10 / 4 = 5 s for what the
    second one receives and sends back, which is counted there only.
    """
    compute_s = np.array([[np.inf, 6, 12], [np.inf, np.inf, 6]])
    summed_bytes = np.array([[0, 8, 16], [0, 0, 8]])
    loads = stage_loads(compute_s, summed_bytes, np.array([0.0, 10.0, 0.0]), 4.0, 2)
    assert loads.load_s[0, 0, 2].tolist() == [np.inf, 12, 10]
    assert loads.load_s[0, 0, 1, 1] == loads.load_s[0, 1, 2, 1] == 6
    assert loads.fill_s[0, 0, 1, 1] == 6
    assert loads.fill_s[0, 1, 2, 1] == 11
    assert least_load(loads) == Split(6.0, (0, 1, 2), (1, 1))
    # Fill 17 s and 6 s for each further micro-batch, or all 12 s on one device; 10 s on both are better for up to two.
    assert least_round(loads, 2) == Split(20.0, (0, 2), (2,))
    assert least_round(loads, 4) == Split(35.0, (0, 1, 2), (1, 1))


# ------------------------------------------------------------------------------------------ plans


def laid(plan: Plan) -> tuple[tuple[str, int], ...]:
    """Devices and layers of each stage."""
    return tuple(("".join(stage.devices), stage.stop_layer - stage.first_layer) for stage in plan.stages)


def test_the_largest_stage_goes_to_the_fastest_device() -> None:
    """A layer of 1 s and one of 2 s, devices of speed 1 and 4: the cut is between them, whatever the devices.

    As listed, a takes 1 s and b 0.5 s a sample; the other way round would be 0.25 and 2 s. And b alone takes 0.75 s.
    """
    work = workload([layer("x", flops=1e9), layer("y", flops=2e9)], mode="inference", batch=4)
    place = cluster([device("a", 1e9), device("b", 4e9)], 1e12)
    problem = Problem.of(work, place, "participating", space=SearchSpace((1,), 1, (1,)))
    assert {laid(plan) for plan in uniform_pipelines(problem)} == {(("a", 1), ("b", 1)), (("b", 2),)}
    turned = problem.workload.replace(layers=work.layers[::-1])
    problem = Problem.of(turned, place, "participating", space=SearchSpace((1,), 1, (1,)))
    plans = uniform_pipelines(problem)
    assert {laid(plan) for plan in plans} == {(("a", 1), ("b", 1)), (("b", 1), ("a", 1)), (("b", 2),)}
    best = best_of(plans, QoE())
    assert best is not None
    assert best.prediction is not None
    assert best.prediction.makespan_s == pytest.approx(4 * 0.75)


def test_memory_overrules_speed() -> None:
    """b is fastest and would get the larger of two stages, whose parameters only a can hold."""
    heavy, light = layer("x", flops=2e9, parameters=10**7), layer("y", flops=1e9)
    work = workload([heavy, light], mode="inference", batch=4)
    place = cluster([device("b", 4e9, memory_bytes=30e6), device("a", 1e9)], 1e12)
    plans = uniform_pipelines(Problem.of(work, place, "participating", space=SearchSpace((1,), 1, (1,))))
    assert {laid(plan) for plan in plans} == {(("a", 1), ("b", 1))}


def test_more_in_flight_leaves_less_room() -> None:
    """Layers of 0.5, 0.5 and 1 s that stash 4 MB a sample each, on equal devices with room for 31 MB.

    The largest load is least with two layers in front. There they stash 8 MB a micro-batch: two in flight fit (depth
    1), four do not (depth 3). Then one layer in front stashes 16 MB, and two behind, with one in flight, 8 MB.
    """
    chain = [
        layer(f"l{index}", flops=seconds * 1e9, stash_elements=10**6, output_elements=1)
        for index, seconds in enumerate((0.5, 0.5, 1))
    ]
    place = cluster([device(name, memory_bytes=31e6) for name in "ab"], 1e12)
    problem = Problem.of(workload(chain, batch=4), place, "participating", space=SearchSpace((1,), 1, (1, 3)))
    pairs = [plan for plan in uniform_pipelines(problem) if len(plan.stages) == 2]
    found = {(plan.stages[0].in_flight, *(layers for _, layers in laid(plan))) for plan in pairs}
    assert found == {(2, 2, 1), (2, 1, 2), (4, 1, 2)}


def test_the_two_rules_differ() -> None:
    """Two layers of 1 s, one sample, a transfer of 1 s: the largest load is least in two stages, the fill in one."""
    work = workload([layer("x"), layer("y")], mode="inference", batch=1)
    plans = uniform_pipelines(Problem.of(work, cluster(2, 2e6), "participating"))
    assert {laid(plan) for plan in plans} == {(("a", 2),), (("a", 1), ("b", 1))}


def test_sums_and_activations_decide_between_stages_and_replicas() -> None:
    """Two layers of 3 s a sample on two equal devices, two samples of eight at a time.

    Replicas share 12 s a micro-batch, and so do stages. Gradients of 80 MB over 5 MB/s make replicas slower, and
    activations of 80 MB a micro-batch stages.
    """
    for parameters, elements, stages in ((10**7, 1, 2), (1, 10**7, 1)):
        chain = [layer(name, parameters=parameters, output_elements=elements) for name in "xy"]
        space = SearchSpace((2,), 2, (1,))
        problem = Problem.of(workload(chain, batch=8), cluster(2, 1e7), "participating", space=space)
        on_both = [plan for plan in uniform_pipelines(problem) if len(plan.devices) == 2]
        assert {len(plan.stages) for plan in on_both} == {stages}


def test_slow_devices_need_not_be_used() -> None:
    """b takes a hundred times as long: PipeDream on both would halve the layers."""
    place = cluster([device("a", 1e9), device("b", 1e7)], 1e12)
    best = best_of(uniform_pipelines(Problem.of(workload(4), place, "participating")), QoE())
    assert best is not None
    assert best.devices == ("a",)


def test_replicas_share_evenly() -> None:
    """Three layers of which the first takes twice as long as both others: it gets two of three devices.

    With two samples a micro-batch no stage has three replicas. So the largest load is 8 / 2 s and 4 s; all layers on
    two devices would be 12 / 2 s.
    """
    chain = [layer("x", flops=4e9), layer("y"), layer("z")]
    work = workload(chain, mode="inference", batch=12)
    problem = Problem.of(work, cluster(3, 1e12), "participating", space=SearchSpace((2,), 3, (1,)))
    best = best_of(uniform_pipelines(problem), QoE())
    assert best is not None
    assert laid(best) == (("ab", 1), ("c", 2))
    assert [[replica.samples for replica in stage.replicas] for stage in best.stages] == [[1, 1], [2]]
    assert best.prediction is not None
    assert best.prediction.makespan_s == pytest.approx(4 + 6 * 4, rel=1e-5)

"""Layers sliced over devices: what it is good for, and where plans with shards are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from builders import cluster, device, layer, workload

from dora_nb.catalog import load_cluster, load_workload
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.conditions import Condition
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InfeasibleError, InputError
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.composition.compose import compose
from dora_nb.planning.exact.programs import program_of
from dora_nb.planning.plan import plan
from dora_nb.planning.planner import Planner


def blocks(count: int = 3, **fields: Any) -> Workload:
    """One sample through layers of 1 s at 1 GFLOP/s, of 8 parts each, that hand over little."""
    chain = [layer(f"block.{index}", parts=8, output_elements=100, parameters=1000) for index in range(count)]
    return workload(chain, **({"mode": "inference", "batch": 1} | fields))


def test_a_single_sample_is_faster_on_two_devices_and_the_faster_one_holds_more() -> None:
    work, place = blocks(), cluster([device("slow"), device("fast", 3e9)], 1e9, "switch", latency_s=1e-3)
    alone = plan(work, place).best
    assert alone.prediction is not None
    assert alone.prediction.makespan_s == pytest.approx(1.0, rel=1e-3)  # replicas and pipelines do not help
    best = plan(work, place, space=SearchSpace.of(work, place, shards=2)).best
    assert best.prediction is not None
    assert best.certificate is not None
    (stage,) = best.stages
    assert dict(zip(stage.devices, stage.shards, strict=True)) == {"slow": 2, "fast": 6}
    # Three layers, each 3/4 of a third of a second, and twice two messages.
    assert best.prediction.makespan_s == pytest.approx(0.75 + 3 * 2 * 2e-3, rel=1e-4)
    assert best.certificate.gap <= 1e-4
    assert "layers sliced over up to 2 devices" in best.certificate.scope


def test_layers_that_fit_on_no_device_are_held_in_shards() -> None:
    big = tuple(each.replace(parameters=1_000_000) for each in blocks().layers)
    work = blocks().replace(layers=big)
    place = cluster([device(name, memory_bytes=8e6) for name in "ab"], 1e9, "switch")
    with pytest.raises(InfeasibleError):
        plan(work, place)
    best = plan(work, place, space=SearchSpace.of(work, place, shards=2)).best
    assert [stage.shards for stage in best.stages] == [(4, 4)]


def test_a_planner_keeps_shards_between_questions() -> None:
    work, place = blocks(), cluster([device("a"), device("b")], 1e9, "switch", latency_s=1e-3)
    planner = Planner(work, place, space=SearchSpace.of(work, place, shards=2))
    assert [stage.shards for stage in planner.best().stages] == [(4, 4)]
    slower = planner.having(bandwidth=1e-6)
    assert [stage.shards for stage in slower.best().stages] == [()]
    left = planner.without("b")
    assert [stage.devices for stage in left.best().stages] == [("a",)]


@pytest.mark.parametrize(
    ("field", "ask"),
    [
        ("shards", lambda: SearchSpace.of(blocks(), cluster(2), shards=0)),
        ("shards", lambda: SearchSpace.of(workload(2, mode="inference"), cluster(2), shards=2)),
        (
            "token_groups",
            lambda: SearchSpace.of(
                load_workload("qwen3-0.6b", mode="generate", batch=2, new_tokens=2),
                load_cluster("smart-home"),
                shards=2,
                token_groups=(1, 2),
            ),
        ),
        ("algorithm", lambda: plan(blocks(), cluster(2), space=_space(cluster(2)), algorithm="monolithic")),
        ("shards", lambda: plan(blocks(40), _fleet(), space=SearchSpace((1,), 1, (1,), recomputation=False, shards=2))),
        ("space.shards", lambda: _composed()),
        ("program", lambda: _program("joint")),
        ("program", lambda: _program("partition")),
    ],
)
def test_where_plans_with_shards_are_refused(field: str, ask: Callable[[], Any]) -> None:
    with pytest.raises(InputError) as caught:
        ask()
    assert caught.value.field == field


def _program(which: Any) -> Any:
    place = cluster([device("a"), device("b")], 1e9, "switch", latency_s=1e-3)
    best = plan(blocks(), place, space=_space(place)).best
    assert program_of(best, blocks(), place, which="transfers").name == "transfers"
    return program_of(best, blocks(), place, which=which)


def _space(place: Cluster) -> SearchSpace:
    return SearchSpace.of(blocks(), place, shards=2)


def _fleet() -> Cluster:
    """Too many unlike devices for the exact search."""
    return cluster([device(f"d{index}", 1e9 * (1 + index / 50)) for index in range(30)], 1e9, "switch")


def _composed() -> Any:
    calm = Condition(name="calm", probability=1.0)
    return compose(blocks(), cluster(2), QoE(), (calm,), space=_space(cluster(2)))

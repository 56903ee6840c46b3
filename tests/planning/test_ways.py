"""Ways to run a stage, from the question to the plan file: recomputation where memory is short, fewer bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from builders import cluster, device, layer, workload

from dora_nb.costs.evaluate import evaluate
from dora_nb.costs.table import cost_table
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan, Weights
from dora_nb.domain.plan_file import load_plan, save_plan
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InfeasibleError, InputError
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.plan import plan
from dora_nb.render.html import plan_set_html
from dora_nb.render.tables import describe_plan, plan_text


def short_of_memory() -> tuple[Workload, Cluster]:
    """Four layers that keep 4 MB a sample each and pass on 4 kB, and two devices with 20 MB to spare for that."""
    deep = [layer(f"l{index}", flops=1e9, stash_elements=10**6, output_elements=1000) for index in range(4)]
    return workload(deep, batch=8), cluster([device(name, 1e9, memory_bytes=20e6) for name in "ab"])


def whole_path(asked: PlanSet, path: Path) -> Plan:
    """The best plan as a file gives it back, evaluated again."""
    best, work, place = asked.best, asked.workload, asked.cluster
    save_plan(path, best, work, place)
    kept = load_plan(path).plan
    assert kept == best
    assert best.prediction is not None
    again = evaluate(kept, work, place).prediction
    assert again.makespan_s == pytest.approx(best.prediction.makespan_s)
    assert all(each.memory_bytes <= each.usable_memory_bytes for each in again.devices)
    return kept


def test_stages_recompute_where_memory_is_short_and_only_if_they_may(tmp_path: Path) -> None:
    work, place = short_of_memory()
    batch = QoE(latency_s=1000)
    space = SearchSpace.of(work, place, micro_batch_sizes=(2,), most_replicas=1)
    asked = plan(work, place, batch, space=space)
    kept = whole_path(asked, tmp_path / "plan.json")
    assert [stage.recomputes for stage in kept.stages] == [True, False]
    assert "recomputes activations" in describe_plan(kept, work)
    assert "recomputes activations" in plan_set_html(asked)
    assert '"recomputes": true' in (tmp_path / "plan.json").read_text()
    with pytest.raises(InfeasibleError):
        plan(work, place, batch, space=replace(space, recomputation=False))


def test_weights_go_to_8_bits_where_allowed_and_it_is_said(tmp_path: Path) -> None:
    deep = [layer("l0", flops=1e3, parameters=10, operator="lookup")]
    deep += [layer(f"l{index}", flops=1e3, parameters=10**6) for index in (1, 2)]
    work, place = workload(deep, batch=2, mode="inference"), cluster([device("a", 1e9, memory_bytes_per_s=1e6)])
    plain = plan(work, place)
    asked = plan(work, place, space=SearchSpace.of(work, place, weights=("int8",)))
    kept = whole_path(asked, tmp_path / "plan.json")
    assert [stage.weights for stage in kept.stages] == ["int8"]
    assert [stage.weights for stage in plain.best.stages] == [None]
    assert plain.best.prediction is not None
    assert asked.best.prediction is not None
    assert asked.best.prediction.makespan_s < plain.best.prediction.makespan_s / 2
    note = "Accuracy not measured: the weights of l1-2 are in 8 bits"
    for shown in (plan_text(asked), plan_set_html(asked)):
        assert note in shown
    assert "Accuracy" not in plan_text(plain)
    assert "weights in 8 bits" in describe_plan(kept, work)
    save_plan(tmp_path / "plain.json", plain.best, work, place)
    assert "weights" not in (tmp_path / "plain.json").read_text()  # files of plans without are as they were


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_stages_are_computed_in_16_bits_where_allowed_and_it_is_said(tmp_path: Path, kind: Weights) -> None:
    """One device computes twice as fast in them, one has room for half the bytes only, one gains nothing."""
    deep = [layer(f"l{index}", flops=1e6, parameters=10**6, output_elements=1) for index in range(4)]
    rates = {"matmul": {"fp32": 1e6, kind: 2e6}}
    places = [device("a", rates), device("b", 1e6, memory_bytes=2.2e6), device("c", 1e6)]
    work, place = workload(deep, batch=4, mode="inference"), cluster(places)
    asked = plan(work, place, space=SearchSpace.of(work, place, weights=(kind,), most_replicas=1))
    kept = whole_path(asked, tmp_path / "plan.json")
    held = {stage.devices[0]: stage.weights for stage in kept.stages}
    assert held == {"a": kind, "b": kind, "c": None}
    for shown in (plan_text(asked), plan_set_html(asked)):
        assert "Accuracy not measured" in shown
        assert f"computed in {kind.upper()}" in shown


@pytest.mark.parametrize("kind", ["fp16", "bf16", "int8"])
def test_weights_stay_where_fewer_bits_gain_nothing(kind: Weights) -> None:
    """Products take longer than reading: the plan is as fast without, and says so."""
    work = workload([layer("a", flops=1e9, parameters=100)], batch=2, mode="inference")
    place = cluster([device("a", 1e9)])
    best = plan(work, place, space=SearchSpace.of(work, place, weights=(kind,))).best
    assert best.stages[0].weights is None


def test_the_most_exact_weights_that_are_as_good_are_kept() -> None:
    """Reading in FP16 takes no longer than multiplying: 8 bits would gain nothing more."""
    work = workload([layer("a", flops=1e3, parameters=1000)], batch=1, mode="inference")
    place = cluster([device("a", 1e3, memory_bytes_per_s=2e3)])
    best = plan(work, place, space=SearchSpace.of(work, place, weights=("int8", "bf16", "fp16"))).best
    assert best.stages[0].weights == "fp16"


def test_weights_in_fewer_bits_need_their_times_and_no_training() -> None:
    work, place = workload(2, mode="inference"), cluster(2)
    space = SearchSpace.of(work, place, weights=("int8",))
    with pytest.raises(InputError, match="times with weights in int8"):
        plan(work, place, space=space, table=replace(cost_table(work, place), narrower={}))
    with pytest.raises(InputError, match="in training"):
        SearchSpace.of(workload(2), place, weights=("int8",))
    for wrong in ("int8", ("int4",)):
        with pytest.raises(InputError, match="some of 'fp16', 'bf16', 'int8'"):
            SearchSpace.of(work, place, weights=wrong)

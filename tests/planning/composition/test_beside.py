"""Plans beside others: they fit together, are what they say, and mixing is better for them."""

from __future__ import annotations

import pytest
from builders import cluster, device, layer, pipeline, workload
from worlds import scheduled

from dora_nb.catalog import load_cluster, load_conditions, load_workload
from dora_nb.costs.evaluate import evaluate
from dora_nb.costs.resident import Residents
from dora_nb.formulation.problem import Problem
from dora_nb.planning.composition.beside import beside
from dora_nb.planning.composition.compose import compose


def test_the_same_devices_the_other_way_round_share_what_they_hold() -> None:
    """Eight layers of 400 MB, devices of 2.2 GB: five layers fit, so a plan cut in the middle leaves room for one.

    The anchor has layers 0-3 on a and 4-7 on b. The plan is the other way round, which needs all eight on both; the
    variants that fit take the anchor's order, and the cut moves by one layer at most.
    """
    layers = [layer(f"l{n}", flops=1e9, parameters=100_000_000) for n in range(8)]
    work = workload(layers, mode="inference", batch=1)
    place = cluster([device(name, memory_bytes=2.2e9) for name in "ab"])
    anchor = scheduled(work, place, pipeline((0, 4, {"a": 1}), (4, 8, {"b": 1})))
    other = scheduled(work, place, pipeline((0, 4, {"b": 1}), (4, 8, {"a": 1})))
    usable = {each.id: each.usable_memory_bytes for each in place.devices}
    names = place.device_ids
    assert not fits(Residents(work, (anchor, other), names), usable)
    found = beside(other, anchor, Problem.of(work, place, "participating"), usable)
    assert {stage.devices for each in found for stage in each.stages[:1]} == {("a",)}
    assert {each.stages[0].stop_layer for each in found} == {3, 4, 5}
    figures = [each.prediction for each in found]
    assert figures == [evaluate(each, work, place).prediction for each in found]
    assert [each.makespan_s for each in figures] == sorted(each.makespan_s for each in figures)
    assert all(fits(Residents(work, (anchor, each), names), usable) for each in found)
    thrifty = beside(other, anchor, Problem.of(work, place, "participating"), usable, "participating")
    joules = [each.prediction.energy_participating_j for each in thrifty]
    assert joules == sorted(joules)


def fits(residents: Residents, usable: dict[str, float]) -> bool:
    return bool((residents.resident_bytes((0, 1)) <= list(usable.values())).all())


def test_a_single_stage_has_no_variants() -> None:
    work, place = workload([layer("l", parameters=10)], mode="inference", batch=1), cluster([device("a"), device("b")])
    alone = scheduled(work, place, pipeline((0, 1, {"a": 1})))
    usable = {each.id: each.usable_memory_bytes for each in place.devices}
    assert beside(alone, alone, Problem.of(work, place, "participating"), usable) == []


def test_a_composition_that_memory_binds_is_nearly_as_good_as_without() -> None:
    """A network that fills the devices of the crossing: the gap was 33 % when only best plans could be mixed."""
    work, place = load_workload("qwen3-1.7b", batch=8), load_cluster("traffic-analytics")
    mix = compose(work, place, None, load_conditions("traffic-rush-hour"), solver="highs")
    assert mix.certificate.gap <= 1e-3
    assert all(mix.resident_bytes[name] <= mix.usable_bytes[name] for name in place.device_ids)
    assert mix.expected_s == pytest.approx(1.15, rel=0.01)

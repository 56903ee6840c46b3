"""Streams played request by request: overlapping, in worlds that change, with arrivals of any kind."""

from __future__ import annotations

import math

import pytest
from builders import cluster, device, layer, pipeline, sliced, workload

import dora_nb as dora
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.transfer import Transfer
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.simulation import Trace, World, play_stream

Asked = tuple[Plan, Workload, Cluster]


@pytest.fixture(scope="module")
def asked() -> Asked:
    """0.3 s at the source, twice 0.1 s on the medium and 0.4 s on another device; a request every half second."""
    work = workload(
        [layer("l0", 3e8, output_elements=25_000), layer("l1", 4e8)],
        mode="stream",
        batch=1,
        requests_per_s=2.0,
        source="a",
        sink="b",
    )
    # Neither device has room for both layers.
    layers = tuple(each.replace(parameters=1000) for each in work.layers)
    work = work.replace(layers=layers, input_bytes=8.0, output_bytes=8.0)
    place = cluster([device("a", memory_bytes=3e5), device("b", memory_bytes=3e5)], 1e6)
    plan = dora.plan(work, place, space=dora.SearchSpace.of(work, place, most_replicas=1)).best
    return plan, work, place


def test_requests_overlap_and_take_what_was_predicted(asked: Asked) -> None:
    plan, work, place = asked
    assert plan.prediction is not None
    run = play_stream(plan, work, place, requests=6)
    assert run.latencies_s == pytest.approx([plan.prediction.makespan_s] * 6)
    assert plan.prediction.makespan_s > 0.5  # so requests do overlap
    assert run.completed
    assert not run.late(plan.prediction.makespan_s)
    assert repr(run) == "StreamRun of 6 requests, 900 ms in the median, 900 ms at most"


def test_requests_that_come_at_once_wait_for_the_slowest_stage(asked: Asked) -> None:
    plan, work, place = asked
    run = play_stream(plan, work, place, arrivals_s=[0.0] * 4)
    assert run.latencies_s == pytest.approx([0.9 + 0.4 * number for number in range(4)], rel=1e-3)
    assert run.late(1.0) == 3


def test_a_slow_minute_makes_requests_late_and_then_it_catches_up(asked: Asked) -> None:
    plan, work, place = asked
    slow = World(place).having("device speed", "b", Trace((0.0, 2.0, 6.0), (1.0, 0.5, 1.0)))
    run = play_stream(plan, work, place, requests=40, world=slow)
    latencies_s = run.latencies_s
    assert latencies_s[:3] == pytest.approx([0.9] * 3, rel=1e-3)
    assert max(latencies_s) > 1.5
    assert latencies_s[-1] == pytest.approx(0.9, rel=1e-3)
    fair = play_stream(plan, work, place, requests=40, world=slow, sharing="fair")
    assert fair.latencies_s == pytest.approx(latencies_s)  # nothing competes for the medium here


def test_what_a_device_that_leaves_had_to_do_is_lost(asked: Asked) -> None:
    plan, work, place = asked
    away = World(place).having("presence", "b", Trace((0.0, 1.0), (1.0, 0.0)))
    run = play_stream(plan, work, place, requests=3, world=away)
    assert not run.completed
    assert run.latencies_s == (pytest.approx(0.9, rel=1e-3), math.inf, math.inf)
    assert repr(run) == "StreamRun of 3 requests, 900 ms in the median, 900 ms at most, 2 lost"
    gone = World(place).having("presence", "b", Trace.constant(0.0))
    assert repr(play_stream(plan, work, place, requests=3, world=gone)) == "StreamRun of 3 requests, 3 lost"


def test_what_cannot_be_played_is_refused(asked: Asked) -> None:
    plan, work, place = asked
    with pytest.raises(InputError, match="simulate"):
        play_stream(plan, work.replace(mode="inference", requests_per_s=None), place)
    with pytest.raises(InputError, match="1 or more"):
        play_stream(plan, work, place, requests=0)
    for wrong in ([], [1.0, 0.5], [-1.0, 0.0], [0.0, math.inf], [math.nan]):
        with pytest.raises(InputError, match="in order"):
            play_stream(plan, work, place, arrivals_s=wrong)
    with pytest.raises(InputError, match="is missing"):
        play_stream(plan.replace(transfer_order=plan.transfer_order[:-1]), work, place)


def test_a_stage_with_shards_is_free_when_its_sums_are_over() -> None:
    work = workload([layer("block", parts=2)], mode="stream", batch=1, requests_per_s=0.4)
    place, order = cluster(2, 1e6, "switch"), (Transfer(kind="shard-sum", stage=0, micro_batch=0),)
    plan = sliced(pipeline((0, 1, {"a": 1})), 0, {"a": 1, "b": 1}).replace(transfer_order=order)
    assert play_stream(plan, work, place, requests=3).latencies_s == pytest.approx([0.5 + 2 * 1.0] * 3)
    queued = play_stream(plan, work, place, arrivals_s=[0.0] * 3)
    assert queued.latencies_s == pytest.approx([2.5, 5.0, 7.5])

"""Streams that share a cluster, played in worlds that change."""

from __future__ import annotations

import pytest
from builders import cluster, device, layer, workload

import dora_nb as dora
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.sharing import Sharing
from dora_nb.simulation import Trace, World
from dora_nb.simulation.shared import play


@pytest.fixture(scope="module")
def played() -> tuple[Sharing, list[dora.Stream], Cluster]:
    """Two cameras at ``b`` whose frames take 0.1 s to the only fast device and 0.3 s on it; results go back."""
    place = cluster([device("a"), device("b", 1e6)], 1e6, "switch")
    work = workload([layer("l0", 3e8)], mode="stream", batch=1, requests_per_s=1.0, source="b", sink="b")
    work = work.replace(input_bytes=1e5, output_bytes=1e4)
    streams = [dora.Stream(name="x", workload=work, count=2, deadline_s=0.5, phases_s=(0.0, 0.5))]
    return dora.share(streams, place), streams, place


def test_nothing_changes_and_all_is_as_predicted(played: tuple[Sharing, list[dora.Stream], Cluster]) -> None:
    sharing, streams, place = played
    run = play(sharing, streams, place, rounds=3)
    assert run.latencies_s == (pytest.approx((0.41,) * 3), pytest.approx((0.41,) * 3))
    assert (run.late, run.completed) == (0, True)
    assert repr(run) == "SharedRun of 6 requests over 2 cameras, 0 late"


def test_a_slower_medium_and_slower_rates_make_requests_late(
    played: tuple[Sharing, list[dora.Stream], Cluster],
) -> None:
    sharing, streams, place = played
    for quantity, name in (("domain rate", "net"), ("device rate", "b")):
        world = World(place).having(quantity, name, Trace.constant(0.5))
        run = play(sharing, streams, place, rounds=3, world=world)
        assert run.latencies_s[0] == pytest.approx((0.2 + 0.3 + 0.02,) * 3), quantity
        assert run.late == 6


def test_a_device_that_cannot_keep_up_falls_behind(played: tuple[Sharing, list[dora.Stream], Cluster]) -> None:
    sharing, streams, place = played
    run = play(sharing, streams, place, rounds=4, world=World(place).having("device speed", "a", Trace.constant(0.5)))
    first, second = run.latencies_s
    # Of 1.2 s of work a second 0.2 s are left over every time.
    assert first == pytest.approx([0.1 + 0.6 + 0.2 * number + 0.01 for number in range(4)])
    assert second == pytest.approx([0.1 + 0.7 + 0.2 * number + 0.01 for number in range(4)])
    assert run.late == 8


def test_a_device_that_leaves_ends_it(played: tuple[Sharing, list[dora.Stream], Cluster]) -> None:
    sharing, streams, place = played
    away = Trace((0.0, 1.0), (1.0, 0.0))
    run = play(sharing, streams, place, rounds=4, world=World(place).having("presence", "a", away))
    assert not run.completed
    assert sum(map(len, run.latencies_s)) == 2

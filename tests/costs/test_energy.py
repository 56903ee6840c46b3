"""Joules estimated from measured seconds of computing, by hand."""

from __future__ import annotations

import pytest
from builders import cluster, device, pipeline, workload

from dora_nb.costs.energy import busy_seconds, estimated_energy
from dora_nb.domain.run_timeline import RunEvent


def event(name: str, kind: str, start_s: float, end_s: float) -> RunEvent:
    return RunEvent(device=name, kind=kind, stage=0, micro_batch=0, step=0, start_s=start_s, end_s=end_s)


def test_only_computing_counts_as_busy() -> None:
    events = [
        event("a", "forward", 0, 2),
        event("a", "send", 2, 9),
        event("a", "backward", 9, 12),
        event("b", "receive", 0, 5),
        event("b", "step", 5, 6),
    ]
    assert busy_seconds(events) == {"a": 5.0, "b": 1.0}


def test_devices_draw_their_watts_and_the_network_by_the_byte() -> None:
    """Ten batches of one sample in 20 s: a computes for 5 s at 3 W, b never; 1 MB crosses each time at 1 uJ a byte."""
    work, place = workload(2, mode="inference", batch=1), cluster(2, energy_j_per_byte=1e-6)
    plan = pipeline((0, 1, {"a": 1}), (1, 2, {"b": 1}))
    a, b, network = estimated_energy(plan, work, place, {"a": 5.0}, seconds=20, iterations=10, emulated=False)
    assert (a.joules, a.scope, a.status) == (5 * 3.0 + 15 * 1.0, "device a", "estimated")
    assert (b.joules, b.scope) == (20.0, "device b")
    assert network.scope == "network"
    assert network.joules == pytest.approx(10 * 1e6 * 1e-6)
    assert "10,000,000 bytes" in network.note
    assert "of the cluster's device" in a.note


def test_alone_a_device_carries_nothing_and_an_imitated_one_is_named_as_such() -> None:
    work, place = workload(2, mode="inference", batch=1), cluster([device("a")])
    (only,) = estimated_energy(
        pipeline((0, 2, {"a": 1})), work, place, {"a": 9.0}, seconds=4, iterations=1, emulated=True
    )
    assert only.joules == 9 * 3.0  # clocks that disagree never make it idle for less than nothing
    assert "another machine stood in for" in only.note

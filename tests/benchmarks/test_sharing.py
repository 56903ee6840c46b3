"""Cameras that share the junction: how good, how far proven, how long.

``pytest tests/benchmarks/test_sharing.py -o addopts='--import-mode=importlib' -s``

Where frames all come at the same moment (synchronised), requests must queue, which the bound on latency leaves out.
"""

from __future__ import annotations

import time

import pytest

from dora_nb.catalog import load_cluster, load_streams
from dora_nb.domain.stream import Stream
from dora_nb.planning.sharing.share import Objective, share


def cameras(times: int, slowed: float, synchronised: bool) -> list[Stream]:
    """The eight cameras of the catalogue, each so many times, at a share of their rates."""
    found = []
    for stream in load_streams("traffic-cameras"):
        rate, count = stream.workload.requests_per_s, stream.count * times
        assert rate is not None
        work = stream.workload.replace(requests_per_s=rate * slowed)
        found.append(stream.replace(workload=work, count=count, phases_s=(0.0,) * count if synchronised else None))
    return found


@pytest.mark.parametrize("objective", ["energy", "latency"])
@pytest.mark.parametrize("synchronised", [False, True])
@pytest.mark.parametrize(("times", "slowed"), [(1, 1.0), (2, 1.0), (3, 0.5)])
def test_cameras(times: int, slowed: float, synchronised: bool, objective: Objective) -> None:
    streams, place = cameras(times, slowed, synchronised), load_cluster("traffic-analytics")
    started = time.process_time()
    found = share(streams, place, objective=objective)
    print(
        f"\n{len(found.cameras)} cameras at {slowed:g} x their rates, {'synchronised' if synchronised else 'free'}, "
        f"{objective}: {found.value:.4g} {found.unit}, bound {found.bound:.4g}, gap {found.gap:.2%}, "
        f"mean latency {found.figures.latency_s * 1e3:.1f} ms, {time.process_time() - started:.1f} s of CPU"
    )
    assert found.bound <= found.value

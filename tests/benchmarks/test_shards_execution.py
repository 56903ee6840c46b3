"""Plans that slice layers over devices, run on emulated devices: what was predicted, and what it took.

``pytest tests/benchmarks/test_shards_execution.py -o addopts='--import-mode=importlib' -s``. Printed, not asserted, but
that they equal one process in float64. On two cores that other programs kept busy (load averages of 4 to 7), predicted
and measured, in the plan's order and as ready:

    three mini-PCs, a request     0.355 s  0.409 s (+15 %)    0.202 s  0.258 s (+28 %)
    three mini-PCs, 16 tokens     0.506 s  1.002 s (+98 %)    0.554 s  0.997 s (+80 %)
    smart home, a batch           7.671 s  7.675 s (+0.1 %)   8.933 s  8.857 s (-0.9 %)
    smart home, training          29.73 s  28.62 s (-3.8 %)   37.93 s  38.63 s (+1.9 %)

Of the mini-PCs each token takes 16 sums of a few hundred microseconds on the imitated network; waking the threads that
play it took more than that each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from builders import sliced
from worlds import scheduled

import dora_nb as dora
from dora_nb.domain.cluster import Cluster, ContentionDomain
from dora_nb.domain.plan import Plan, Replica, Stage
from dora_nb.domain.workload import Workload
from dora_nb.executor import WorkerPool, execute

STEPS = 5

Question = tuple[Plan, Workload, Cluster]


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    """Workers that everything runs on."""
    with WorkerPool(4) as workers:
        yield workers


def mini_pcs(mode: str, **fields: int) -> Question:
    """One request on three mini-PCs and a gigabit switch, by the plan that is best with shards."""
    devices = [dora.load_device("minipc-n150").replace(id=f"minipc-{index + 1}") for index in range(3)]
    rates = {device.id: 938e6 / 8 for device in devices}
    switch = ContentionDomain(id="ethernet", kind="switch", rates_bytes_per_s=rates, latency_s=5e-4)
    place = Cluster(name="mini-PCs", devices=devices, domains=[switch])
    work = dora.load_workload("qwen3-1.7b", mode=mode, batch=1, **fields)
    return dora.plan(work, place, space=dora.SearchSpace.of(work, place, shards=3)).best, work, place


def smart_home(mode: str, algorithm: str) -> Question:
    """Between two stages of a device each, the middle third of Qwen3-0.6B in parts of 5 and 3 of 8."""
    place = dora.load_cluster("smart-home")
    work = dora.load_workload("qwen3-0.6b", mode=mode, batch=8)
    first, second, third, last, _ = place.device_ids
    bounds, in_flight = (0, 10, 20, len(work.layers)), (3, 2, 1)
    stages = [
        Stage(
            first_layer=bounds[index],
            stop_layer=bounds[index + 1],
            replicas=[Replica(device=device, samples=2)],
            in_flight=in_flight[index],
        )
        for index, device in enumerate((first, second, last))
    ]
    tied = "synchronised" if work.trains else "none"
    plan = Plan(micro_batch=2, micro_batches=4, tied=tied, stages=stages)
    return scheduled(work, place, sliced(plan, 1, {second: 5, third: 3}, algorithm)), work, place


CASES = {
    "three mini-PCs, a request": lambda: mini_pcs("inference"),
    "three mini-PCs, 16 tokens": lambda: mini_pcs("generate", new_tokens=16),
    "smart home, a batch": lambda: smart_home("inference", "star"),
    "smart home, training": lambda: smart_home("training", "ring"),
}


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_predicted_against_measured(pool: WorkerPool, name: str, in_order: bool) -> None:
    question = CASES[name]()
    record = execute(*question, steps=STEPS, in_order=in_order, workers=pool).wait()
    assert max(record.differences.outputs or 0.0, record.differences.losses or 0.0) <= 1e-12
    assert (record.differences.parameters or 0.0) <= 1e-10
    found = dora.compare(question[0], record)
    sums = "; ".join(
        f"{each.kind} {each.predicted_s:.4f} s, {each.measured_s:.4f} s"
        for each in found.transfers
        if each.kind.startswith("shard") and each.measured_s is not None
    )
    shards = " | ".join(str(stage.shards or "whole") for stage in question[0].stages)
    print(
        f"\n{name}, {shards}, {'in order' if in_order else 'as ready'}: predicted {found.predicted_s:.3f} s, measured "
        f"{found.measured_s:.3f} s ({found.measured_s / found.predicted_s - 1:+.1%}); {sums}; load "
        f"{os.getloadavg()[0]:.1f}",
        end="",
    )

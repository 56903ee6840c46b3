"""What slicing layers is good for: one request of a decoder on two or three mini-PCs. Printed, not asserted.

``pytest tests/benchmarks/test_shards.py -o addopts= -s``. Mini-PCs of the catalogue (Intel N150) on a gigabit switch,
938 Mbit/s and 0.5 ms a message, both assumed; FP32, one prompt of 128 tokens, 64 new ones. Predicted; every plan proven
best of its space (gap below 0.01 %), in at most 0.5 s of the processor each:

    Qwen3-0.6B, 2 mini-PCs: a request  1.27 s, sliced  1.10 s; 64 tokens  9.7 s, sliced  9.7 s (not sliced)
    Qwen3-0.6B, 3 mini-PCs: a request  1.27 s, sliced  1.10 s; 64 tokens  9.7 s, sliced  9.7 s (not sliced)
    Qwen3-1.7B, 2 mini-PCs: a request  3.59 s, sliced  2.67 s; 64 tokens 27.3 s, sliced 20.2 s
    Qwen3-1.7B, 3 mini-PCs: a request  3.59 s, sliced  2.53 s; 64 tokens 27.3 s, sliced 19.5 s

Every device computes embedding and head whole, and 56 sums a token each cost some messages: so the larger network gains
more, and the smaller one nothing where tokens come one by one.
"""

from __future__ import annotations

import time

import pytest

import dora_nb as dora
from dora_nb.domain.cluster import Cluster, ContentionDomain


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("model", ["qwen3-0.6b", "qwen3-1.7b"])
def test_one_request_on_a_few_mini_pcs(model: str, count: int) -> None:
    devices = [dora.load_device("minipc-n150").replace(id=f"minipc-{index + 1}") for index in range(count)]
    rates = {device.id: 938e6 / 8 for device in devices}
    switch = ContentionDomain(id="ethernet", kind="switch", rates_bytes_per_s=rates, latency_s=5e-4)
    place = Cluster(name="mini-PCs", devices=devices, domains=[switch])
    for mode, fields in (("inference", {}), ("generate", {"new_tokens": 64})):
        work = dora.load_workload(model, mode=mode, batch=1, **fields)
        for shards in (1, count):
            started_s = time.process_time()
            best = dora.plan(work, place, space=dora.SearchSpace.of(work, place, shards=shards)).best
            took_s = time.process_time() - started_s
            assert best.prediction is not None
            assert best.certificate is not None
            stages = "; ".join(f"{stage.first_layer}-{stage.stop_layer} {stage.shards}" for stage in best.stages)
            print(
                f"\n{model}, {mode}, {count} mini-PCs, shards up to {shards}: {best.prediction.makespan_s:.3f} s, gap "
                f"{best.certificate.gap:.1e}, {best.prediction.energy_participating_j:.0f} J, {stages}, {took_s:.2f} s",
                end="",
            )

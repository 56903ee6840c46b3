"""Several sites: how close chains of sites are proven, and what staying within sites costs. Printed, not asserted.

``pytest tests/benchmarks/test_sites.py -o addopts= -s``. Devices of the catalogue, drawn; gigabit switches within a
site and a line of 50 Mbit/s and 10 ms from each; inputs and outputs at one device. Once on a busy 2-core machine, in
seconds of the processor; of all plans as far as the exact search came:

    3 + 3 devices, ViT-B/16 x 16:          1.90 s, gap 1.8 %, in  2 s; all plans: 1.64 s, gap 0.1 %
    4 + 4 devices, Qwen3-0.6B x 8:         3.43 s, gap 3.5 %, in  6 s; all plans: 3.16 s, gap 0.1 %
    3 + 2 + 3 devices, ViT-B/16 x 16:      1.93 s, gap 2.1 %, in  9 s; all plans: 1.85 s, gap 21 % after 60 s
    6 + 6 + 6 devices, Qwen3-0.6B x 8:     2.57 s, gap 8.8 %, in 25 s
    8 + 8 + 8 + 8 devices, ViT-B/16 x 16:  1.28 s, gap 0.9 %, in  1 s

What all plans are better by are stages whose devices are in several sites.
"""

from __future__ import annotations

import random
import time

import pytest

import dora_nb as dora
from dora_nb.domain.cluster import Cluster, ContentionDomain
from dora_nb.formulation.problem import Problem
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.fleets.sites import SitesHunt

PROFILES = (
    *("macbook-neo-a18pro", "laptop-ryzen-ai-340", "minipc-n150", "tvbox-rk3588s", "rpi5-8g", "phone-class-qcs6490"),
    "rpi4b-8g",
)


def several_sites(sizes: tuple[int, ...], seed: int = 0) -> Cluster:
    dice = random.Random(seed)
    devices, domains = [], []
    for number, size in enumerate(sizes):
        ids = [f"s{number}d{index}" for index in range(size)]
        devices += [dora.load_device(dice.choice(PROFILES)).replace(id=name) for name in ids]
        rates = dict.fromkeys(ids, 117.5e6)
        domains.append(ContentionDomain(id=f"site{number}", kind="switch", rates_bytes_per_s=rates, latency_s=5e-4))
    lines = {f"site{number}": 6.25e6 for number in range(len(sizes))}
    top = ContentionDomain(id="line", kind="switch", rates_bytes_per_s=lines, latency_s=1e-2)
    return Cluster(name="sites", devices=devices, domains=[*domains, top])


@pytest.mark.parametrize(
    ("sizes", "model", "batch", "exact"),
    [
        ((3, 3), "vit-b-16", 16, True),
        ((4, 4), "qwen3-0.6b", 8, True),
        ((3, 2, 3), "vit-b-16", 16, True),
        ((6, 6, 6), "qwen3-0.6b", 8, False),
        ((8, 8, 8, 8), "vit-b-16", 16, False),
    ],
)
def test_chains_of_sites(sizes: tuple[int, ...], model: str, batch: int, exact: bool) -> None:
    place = several_sites(sizes)
    work = dora.load_workload(model, batch=batch, source="s0d0", sink="s0d0")
    sites = SitesHunt(Problem.of(work, place, "participating"), 1e-3, Deadline(time.monotonic() + 120))
    started_s = time.process_time()
    sites.run()
    took_s, gap = time.process_time() - started_s, 1 - sites.bound_s / sites.best_s
    print(
        f"\n{sizes} {model} x {batch}: {sites.best_s:.3f} s, gap {gap:.2%} in {took_s:.1f} s, {sites.asked} questions"
    )
    if exact:
        best = dora.plan(work, place, gap=1e-3, most_plans=1).best
        assert best.certificate is not None
        print(f"  all plans: {best.certificate.value:.3f} s, none below {best.certificate.bound:.3f} s")

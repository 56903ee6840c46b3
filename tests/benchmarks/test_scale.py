"""How long planning takes as problems grow, and how much memory.

``pytest tests/benchmarks/test_scale.py -o addopts='--import-mode=importlib' -s`` prints a line a size (seconds of the
processor in this process, wall seconds, gap proven, peak memory) and the exponent of a power law fitted to each row.
Quick cases are medians of five runs. A size that is stopped before it is proven keeps its true gap, and its time says
nothing about growth, so it is left out of the fit.

Asked for: 30 layers on 8 unlike devices, joint optimum proven to 0.1 % within 1 s, a changed QoE limit within 0.15 s.
Medians of five on an otherwise idle machine, seconds of the clock: the first plan took 0.56-0.83 s in all six cases,
proven to 0.1 %. Then a limit that leaves that plan the best took 0.01 s (0.3 s in one case), a limit that rules it out
0.10, 0.14, 0.27, 0.35, 0.48 and 0.60 s. Before whole sets of transfers decided what must wait for them, and labels of
the same devices were paired with columns together, it was 0.41-3.3 s, and 0.11-1.4 s after a limit. On the cases of
``test_joint_optimum.py``, single runs, ``Planner.best`` took 0.3-0.6 s at first, and 0.02-0.26 s after each of 36
changed limits of all kinds, half of them 0.1 s or less. Also asked for, with 8 micro-batches, groups of up to 4 and one
switch: 16 unlike devices x 48 layers within 1 % in 10 s, 64 devices of 8 types x 64 layers within 5 % in 30 s and 2 GB,
for the makespan of training and for a stream's period. They go to the path for large fleets, each in a process of its
own, whose peak memory is told. Reached for the period, medians of five: 2.6 s, 0.81 % and 0.21 GB; 1.6 s, 1.20 % and
0.13 GB. For the makespan, on an otherwise idle machine: 1.0 % after 8.6, 8.6, 8.9, 9.1, 9.2 and 9.4 s and 0.25 GB, 9.8
% in three other runs that the clock stopped after 10 s; 5.0 % after 16 and 17 s and 0.18 GB. Growth writes a figure for
each row into ``DORA_NB_FIGURES``; what it reached is in ``docs/fleets.md``.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from builders import cluster, device, drawn_layers
from builders import workload as chain

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.pace import fastest_stream
from dora_nb.planning.plan import plan
from dora_nb.planning.planner import Planner

#: Runs whose median is told, and seconds above which one is enough.
RUNS, QUICK_S = 5, 5.0

GAP, LIMIT_S = 1e-2, 30.0

#: Where figures of growth are written: nowhere lasting unless told.
FIGURES = Path(os.environ.get("DORA_NB_FIGURES", tempfile.gettempdir()))


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """linopy and its dependencies take a second to import, once a process; no case shall pay for that."""
    plan(chain(2, batch=2), cluster(2), solver="highs")


@pytest.mark.parametrize("kind", ["shared", "switch"])
@pytest.mark.parametrize("seed", range(3))
def test_thirty_layers_on_eight_unlike_devices_and_after_a_change(seed: int, kind: str) -> None:
    work, place = random_case(seed, layers=30, types=8, devices=8, micro_batches=8, kind=kind)
    space = SearchSpace((2,), 2, (1, 2, 3))
    first = told(
        f"30 layers x 8 unlike devices, {kind}, seed {seed}",
        lambda: plan(work, place, QoE(), most_plans=1, gap=1e-3, space=space, solver="highs").best,
    )
    assert first.prediction is not None
    energy_j = first.prediction.energy_j("participating")
    for share in (1.05, 0.95):
        planners = [Planner(work, place, space=space, solver="highs") for _ in range(RUNS)]
        for each in planners:  # what one run proves would answer the next
            each.plan(most_plans=1, gap=1e-3)
        qoe = QoE(energy_j=share * energy_j)
        started_s = time.process_time()
        planners[0].nearest(qoe)
        nearest_s = time.process_time() - started_s
        told(
            f"    then an energy limit of {share:.0%} of that plan's (nearest known plan: {1e3 * nearest_s:.1f} ms)",
            lambda planners=planners, qoe=qoe: planners.pop().best(qoe, gap=1e-3),
        )


#: Layers, types, devices, gap and seconds asked for.
LARGE = {"16 unlike devices x 48 layers": (48, 16, 16, 0.01, 10.0), "64 devices x 64 layers": (64, 8, 64, 0.05, 30.0)}


@pytest.mark.parametrize("mode", ["training", "stream"])
@pytest.mark.parametrize("name", LARGE)
def test_fleets_too_large_for_the_label_search(name: str, mode: str) -> None:
    runs = []
    for _ in range(RUNS):  # a process each: the peak memory of one shall not hide behind another's
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            runs.append(pool.submit(_large_run, *LARGE[name], mode).result())
    processor_s, wall_s, gap, peak_bytes = (statistics.median(figures) for figures in zip(*runs, strict=True))
    print(
        f"\n{name}, {mode}: {processor_s:.1f} s of the processor, {wall_s:.1f} s wall, gap {gap:.2%}, "
        f"peak {peak_bytes / 1e9:.2f} GB",
        end="",
    )


def _large_run(
    layers: int, types: int, devices: int, gap: float, limit_s: float, mode: str
) -> tuple[float, float, float, float]:
    """Seconds of the processor and of the clock, gap, peak bytes of one answer; micro-batches of 8 samples."""
    work, place = random_case(0, layers, types, devices, micro_batches=8)
    work = work.replace(batch=64)
    limit_s *= float(os.environ.get("DORA_NB_SLOWER", "1"))  # how many times slower a busy machine is than an idle one
    before_s, started_s = resource.getrusage(resource.RUSAGE_SELF).ru_utime, time.monotonic()
    if mode == "stream":
        work = work.replace(mode="stream", requests_per_s=1.0)
        space = SearchSpace((8,), 4, (1,), 1, recomputation=False)
        reached = fastest_stream(work, place, gap=gap, time_limit_s=limit_s, space=space).gap
    else:
        found = plan(work, place, gap=gap, time_limit_s=limit_s, space=SearchSpace((8,), 4, (1, 2, 3))).best
        assert found.certificate is not None
        reached = found.certificate.gap
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime - before_s, time.monotonic() - started_s, reached, _peak_bytes()


def _peak_bytes() -> float:
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def test_growth_with_layers() -> None:
    _grow("layers", (16, 32, 64, 128), random_case, types=4, devices=4, micro_batches=8)


def test_growth_with_devices() -> None:
    _grow("devices", (2, 4, 8, 16, 32, 64), random_case, layers=32, types=2, micro_batches=8)


def test_growth_with_micro_batches() -> None:
    _grow("micro_batches", (1, 2, 4, 8, 16, 32, 64), random_case, layers=16, types=4, devices=4)


def random_case(
    seed: int, layers: int, types: int, devices: int, micro_batches: int, kind: str = "switch"
) -> tuple[Workload, Cluster]:
    """Training with micro-batches of 2 samples, devices of so many types; figures drawn from a seed."""
    dice = np.random.default_rng(seed)

    def between(low: float, high: float) -> float:
        return float(dice.uniform(low, high))

    chained = drawn_layers(between, layers)
    figures = [(between(0.5, 4) * 1e9, between(1, 3), between(4, 20), between(0.7, 1.5) * 3e7) for _ in range(types)]
    members = [
        device(f"d{index}", speed, idle_w=idle_w, active_w=active_w, memory_bytes_per_s=1e10)
        for index in range(devices)
        for speed, idle_w, active_w, _ in [figures[index % types]]
    ]
    rates = [figures[index % types][3] for index in range(devices)]
    return chain(chained, batch=2 * micro_batches), cluster(members, rates, kind, latency_s=1e-3)


def told(what: str, solve: Callable[[], Plan | None]) -> Plan:
    """The plan that is found; prints how."""
    return _timed(what, solve)[0]


def _timed(what: str, solve: Callable[[], Plan | None]) -> tuple[Plan, float]:
    processor_s, wall_s = [], []
    while len(wall_s) < (RUNS if sum(wall_s) < QUICK_S else 1):
        before_s, started_s = resource.getrusage(resource.RUSAGE_SELF).ru_utime, time.monotonic()
        found = solve()
        wall_s.append(time.monotonic() - started_s)
        processor_s.append(resource.getrusage(resource.RUSAGE_SELF).ru_utime - before_s)
    assert found is not None
    assert found.certificate is not None
    assert found.certificate.bound <= found.certificate.value * (1 + 1e-9)
    median_s = statistics.median(processor_s)
    print(
        f"\n{what}: {median_s:.2f} s of the processor, {statistics.median(wall_s):.2f} s wall, "
        f"gap {found.certificate.gap:.3%} ({found.certificate.status}), {len(found.stages)} stages, "
        f"peak {_peak_bytes() / 1e9:.2f} GB",
        end="",
    )
    return found, median_s


def _grow(name: str, sizes: tuple[int, ...], case: Callable[..., tuple[Workload, Cluster]], **fixed: int) -> None:
    """One run a size, each in a process of its own, so that peaks of memory do not hide behind each other."""
    rows = []
    for size in sizes:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            row = pool.submit(_growing_run, case, {**fixed, name: size}).result()
        rows.append((size, *row))
        seconds, peak_bytes, gap, _ = row
        print(
            f"\n{size} {name}: {seconds:.2f} s of the processor, peak {peak_bytes / 1e6:.0f} MB, gap {gap:.2%}", end=""
        )
    fitted = np.array([(size, seconds, peak_bytes) for size, seconds, peak_bytes, _, proven in rows if proven])
    assert len(fitted) > 1, "too few sizes were proven within the limits to fit a rate"
    time_rate, memory_rate = (np.polyfit(np.log(fitted[:, 0]), np.log(fitted[:, at]), 1)[0] for at in (1, 2))
    print(
        f"\n    fitted to {fitted[-1, 0]:.0f} {name}: seconds grow with their number to the {time_rate:.2f}, ", end=""
    )
    print(f"peak memory to the {memory_rate:.2f}")
    (FIGURES / f"growth-{name}.svg").write_text(_figure(name, rows, time_rate, memory_rate), encoding="utf-8")


def _growing_run(
    case: Callable[..., tuple[Workload, Cluster]], size: dict[str, int]
) -> tuple[float, float, float, bool]:
    """Seconds of the processor, peak bytes, gap, and whether the gap asked for was proven in time."""
    work, place = case(0, **size)
    plan(chain(2, batch=2), cluster(2), solver="highs")  # imports shall not count
    before_s = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    space = SearchSpace((2,), 2, (1, 2, 3))
    found = plan(work, place, QoE(), most_plans=1, gap=GAP, space=space, time_limit_s=LIMIT_S, solver="highs").best
    used = resource.getrusage(resource.RUSAGE_SELF)
    assert found.certificate is not None
    return used.ru_utime - before_s, _peak_bytes(), found.certificate.gap, found.certificate.status == "optimal"


def _figure(name: str, rows: list[tuple[float, ...]], time_rate: float, memory_rate: float) -> str:
    """Seconds and peak memory by size on logarithmic axes; hollow where stopped before the gap was proven."""
    width, height, edge, colour = 340, 270, 45, "#0072b2"
    label, bottom = name.replace("_", "-"), height - 2 * edge + 15
    parts = []
    panels = (("seconds of the processor", 1, 1.0, time_rate), ("peak memory (MB)", 2, 1e6, memory_rate))
    for panel, (what, at, unit, rate) in enumerate(panels):
        sizes, values = (np.log([row[column] / by for row in rows]) for column, by in ((0, 1.0), (at, unit)))
        low, span = values.min(), max(float(np.ptp(values)), 0.1)
        proven = np.array([bool(row[4]) for row in rows])
        fit = np.polyval(np.polyfit(sizes[proven], values[proven], 1), sizes[proven])
        left, middle = panel * width + edge, (panel + 0.5) * width
        x = left + 10 + (width - 2 * edge - 20) * (sizes - sizes[0]) / (sizes[-1] - sizes[0])
        y, line = (bottom - 12 - (bottom - 75) * (each - low) / span for each in (values, fit))
        path = " ".join(f"{here:.1f},{there:.1f}" for here, there in zip(x[proven], line, strict=True))
        parts += [
            f'<text x="{middle}" y="18" text-anchor="middle" font-weight="bold">{what}</text>',
            f'<text x="{middle}" y="34" text-anchor="middle" fill="#666">grows with {label} to the {rate:.2f}</text>',
            f'<path d="M{left} {bottom}H{left + width - 2 * edge}" stroke="#666"/>',
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-dasharray="4 3" opacity="0.6"/>',
            f'<text x="{middle}" y="{bottom + 36}" text-anchor="middle">{label} (both scales are logarithmic)</text>',
        ]
        for here, there, row, value in zip(x, y, rows, np.exp(values), strict=True):
            fill = colour if row[4] else "white"
            parts.append(f'<circle cx="{here:.1f}" cy="{there:.1f}" r="4" fill="{fill}" stroke="{colour}"/>')
            parts.append(f'<text x="{here:.1f}" y="{there - 9:.1f}" text-anchor="middle">{value:.3g}</text>')
            parts.append(f'<text x="{here:.1f}" y="{bottom + 16}" text-anchor="middle">{row[0]:.0f}</text>')
    if not all(row[4] for row in rows):
        note = "hollow: stopped by the clock before the gap was proven, not part of the fit"
        parts.append(f'<text x="{width}" y="{height - 8}" text-anchor="middle" fill="#666">{note}</text>')
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * width} {height}" width="{2 * width}" '
        f'height="{height}" font-size="11" font-family="sans-serif">'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )

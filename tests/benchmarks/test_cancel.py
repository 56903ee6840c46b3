"""How long a cancel takes to be heard.

``pytest tests/benchmarks/test_cancel.py -o addopts='--import-mode=importlib' -s``

Asked for: the best so far within 0.3 s, whenever the cancel comes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from dora_nb.catalog import load_cluster, load_conditions, load_workload
from dora_nb.domain.certificate import Certificate
from dora_nb.domain.qoe import QoE
from dora_nb.planning.composition.compose import compose
from dora_nb.planning.plan import plan

#: Moments at which each call is cancelled, spread evenly over the time that it takes when left alone.
MOMENTS = 25


def test_cancelling_a_plan() -> None:
    workload, place = load_workload("qwen3-0.6b", mode="training", batch=16), load_cluster("smart-home")
    _cancel_often("plan()", lambda cancel: plan(workload, place, cancel=cancel, solver="highs").best.certificate)


def test_cancelling_a_composition() -> None:
    place, conditions = load_cluster("smart-home"), load_conditions("smart-home-evening")
    workload = load_workload("qwen3-0.6b", batch=8, source="phone", sink="phone")
    qoe = QoE(objective="energy", latency_s=9.5)
    _cancel_often(
        "compose()",
        lambda cancel: compose(workload, place, qoe, conditions, cancel=cancel, solver="highs", gap=1e-6).certificate,
    )


def _cancel_often(name: str, call: Callable[[threading.Event], Certificate | None]) -> None:
    call(threading.Event())  # imports
    began = time.monotonic()
    call(threading.Event())
    whole_s = time.monotonic() - began
    late_s, gaps = [], []
    for after_s in np.linspace(0.2 * whole_s, 0.95 * whole_s, MOMENTS):
        cancel, at = threading.Event(), []

        def stop(cancel: threading.Event = cancel, at: list[float] = at) -> None:
            at.append(time.monotonic())
            cancel.set()

        timer = threading.Timer(float(after_s), stop)
        timer.start()
        certificate = call(cancel)
        over = time.monotonic()
        timer.cancel()
        if at and certificate is not None:  # the answer may have been proven before the cancel came
            late_s.append(over - at[0])
            gaps.append(certificate.gap)
    assert late_s
    print(
        f"\n{name} takes {whole_s:.2f} s; cancelled at {len(late_s)} moments the best so far came after "
        f"{np.median(late_s):.3f} s (median), {max(late_s):.3f} s (most), "
        f"with gaps of {min(gaps):.1%} to {max(gaps):.1%}"
    )

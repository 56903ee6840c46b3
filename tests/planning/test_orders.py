"""A plan's transfers in other orders, against an exhaustive search and figures worked out by hand."""

from __future__ import annotations

import threading

import pytest
from builders import Dice, best_makespan, cluster, layer, pipeline, questions, random_plan, shape_and_timing, workload
from hypothesis import given
from hypothesis import strategies as st

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError, UnknownNameError
from dora_nb.formulation.problem import Problem
from dora_nb.planning.orders import order_transfers

#: Two samples pass three devices that compute 1 s, 1 s and 5 s each; 1 MB takes 2 s from one to the next.
WORK = workload([layer("a"), layer("b"), layer("c", 5e9)], mode="inference", batch=2)
PLACE = cluster(3)
PLAN = pipeline((0, 1, {"a": 1}), (1, 2, {"b": 1}), (2, 3, {"c": 1}), micro_batches=2)


def makespan_s(plan: Plan) -> float:
    assert plan.prediction is not None
    return plan.prediction.makespan_s


@pytest.mark.parametrize("rule", ["as-ready", "critical-path"])
def test_a_rule_that_never_waits_lets_the_last_device_wait(rule: str) -> None:
    """The medium is free at 3 s, and the second sample is ready; the first one, ready at 4 s, has to wait until 5 s."""
    found = order_transfers(PLAN, WORK, PLACE, rule)
    assert makespan_s(found) == pytest.approx(17)
    assert (found.label, found.certificate) == (rule, None)


def test_the_best_order_waits_for_the_urgent_transfer() -> None:
    found = order_transfers(PLAN, WORK, PLACE, most_chunks=1)
    assert makespan_s(found) == pytest.approx(16)
    assert found.certificate is not None
    assert (found.certificate.value, found.certificate.status) == (pytest.approx(16), "optimal")
    assert found.certificate.scope == "every order of the transfers of this plan, whole"


@given(questions(layers=(2, 4), batches=(1, 2, 3), device_count=(2, 4)), st.integers(0, 2**32 - 1))
def test_the_best_is_what_trying_all_orders_finds(question: tuple[Workload, Cluster], seed: int) -> None:
    work, place = question
    plan = random_plan(Dice(seed), work, place).replace(chunks=1)
    found = order_transfers(plan, work, place, most_chunks=1)
    best_s = best_makespan(*shape_and_timing(plan, Problem.of(work, place, "participating")))
    certificate = found.certificate
    assert certificate is not None
    assert makespan_s(found) == pytest.approx(certificate.value, rel=1e-5)
    assert certificate.bound <= best_s * (1 + 1e-6)
    if certificate.status == "optimal":
        assert makespan_s(found) <= best_s * (1 + 2e-4)
    for rule in ("as-ready", "critical-path"):
        assert makespan_s(order_transfers(plan, work, place, rule)) >= certificate.bound * (1 - 1e-6)


def test_it_stops_when_asked_to_and_says_so() -> None:
    stop = threading.Event()
    stop.set()
    found = order_transfers(PLAN, WORK, PLACE, cancel=stop)
    assert found.certificate is not None
    assert found.certificate.status == "cancelled"
    assert found.certificate.bound <= makespan_s(found)


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="as-ready"):
        order_transfers(PLAN, WORK, PLACE, "fifo")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="1, 2 or 4"):
        order_transfers(PLAN, WORK, PLACE, most_chunks=3)
    stream = WORK.replace(mode="stream", requests_per_s=1 / 60)
    with pytest.raises(InputError, match="training, inference or generate"):
        order_transfers(PLAN, stream, PLACE)

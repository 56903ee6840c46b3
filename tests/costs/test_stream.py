"""Streams by hand: when requests overlap, what they wait for, and what a request costs."""

from __future__ import annotations

import pytest
from builders import cluster, layer, pipeline, unrolled_latencies, workload

from dora_nb.costs import evaluate
from dora_nb.domain.plan import Plan
from dora_nb.domain.transfer import Transfer
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError


def stream(requests_per_s: float, layers: int = 2, **fields: object) -> Workload:
    return workload(layers, mode="stream", batch=1, requests_per_s=requests_per_s, **fields)


def two_stages(*lags: int) -> Plan:
    """One second of work on each of two devices, and between them a transfer of two seconds on a shared medium."""
    moves = tuple(Transfer(kind="activation", stage=0, micro_batch=0, lag=lag) for lag in lags)
    return pipeline((0, 1, {"a": 1}), (1, 2, {"b": 1})).replace(transfer_order=moves)


def test_requests_far_apart_take_as_long_as_one_alone() -> None:
    figures = evaluate(two_stages(0), stream(0.1), cluster(2)).prediction
    assert figures.makespan_s == pytest.approx(4)
    assert figures.period_s == pytest.approx(2)  # the medium is the busiest


def test_requests_may_overlap_up_to_the_busiest_load() -> None:
    work = stream(0.5)
    figures = evaluate(two_stages(0), work, cluster(2)).prediction
    assert figures.makespan_s == pytest.approx(4)
    assert unrolled_latencies(two_stages(0), work, cluster(2), 20)[-1] == pytest.approx(4)


@pytest.mark.parametrize("rate", [0.501, 1.0])
def test_an_overloaded_medium_is_refused(rate: float) -> None:
    with pytest.raises(InputError, match="can repeat every"):
        evaluate(two_stages(0), stream(rate), cluster(2))


def test_a_stage_is_done_with_a_request_before_the_next_one() -> None:
    """Two micro-batches, the second ready late: the first waits so that both fit into a period of 2.2 s.

    The network hands 1 s to each micro-batch's input; stage a works 1 s on each.
    """
    work = workload([layer("l0")], mode="stream", batch=2, requests_per_s=1 / 2.2, source="b", input_bytes=500_000)
    moves = tuple(Transfer(kind="input", stage=0, micro_batch=index) for index in (0, 1))
    plan = pipeline((0, 1, {"a": 1}), micro_batches=2).replace(transfer_order=moves)
    assert evaluate(plan, work, cluster(2)).prediction.makespan_s == pytest.approx(3)
    slow = work.replace(input_bytes=550_000)
    result = evaluate(plan, slow, cluster(2))  # inputs at 1.1 and 2.2 s
    assert result.prediction.makespan_s == pytest.approx(3.2)
    late = plan.replace(transfer_order=(moves[0], moves[1].replace(lag=1)))  # the second input a whole period late
    starts = {(entry.kind, entry.micro_batch): entry.start_s for entry in evaluate(late, slow, cluster(2)).timeline}
    assert starts["input", 1] == pytest.approx(3.3)
    assert starts["forward", 1] == pytest.approx(4.4)
    assert starts["forward", 0] == pytest.approx(3.2)  # not before its successor fits into the period


def test_devices_idle_from_one_arrival_to_the_next() -> None:
    """1 W idle, 3 W active: 2 x (5 s x 1 W + 1 s x 2 W), though a request takes 4 s; a third device only idles."""
    figures = evaluate(two_stages(0), stream(0.2), cluster(3)).prediction
    assert figures.energy_participating_j == pytest.approx(2 * (5 + 2))
    assert figures.energy_all_on_j == pytest.approx(2 * (5 + 2) + 5)


@pytest.mark.parametrize("rate", [None, 0.0, -1.0, "5 W", "often"])
def test_a_stream_needs_a_rate(rate: object) -> None:
    with pytest.raises(InputError, match="requests_per_s"):
        stream(rate)  # type: ignore[arg-type]


def test_other_modes_have_no_rate() -> None:
    with pytest.raises(InputError, match="none in every other mode"):
        workload(1, mode="inference", requests_per_s=1.0)


def test_a_rate_as_people_write_it() -> None:
    assert stream("30 /min").arrival_s == 2.0  # type: ignore[arg-type]

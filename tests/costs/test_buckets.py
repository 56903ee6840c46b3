"""Buckets of gradients: which layers, how many parameters, and that more of them never end later."""

from __future__ import annotations

import numpy as np
import pytest
from builders import cluster, layer, pipeline, workload
from hypothesis import given
from hypothesis import strategies as st

from dora_nb.costs import evaluate
from dora_nb.costs.buckets import MOST_BUCKETS, bucket_count, bucket_cuts, bucket_parameters
from dora_nb.costs.memory import MemoryModel
from dora_nb.costs.schedule import scheduled_transfers
from dora_nb.domain.workload import Workload
from dora_nb.formulation.problem import Problem
from dora_nb.planning.scheduling import finish


def chain(*parameters: int, tied: int = 0) -> Workload:
    last = len(parameters) - 1
    return workload(
        [
            layer(f"l{index}", parameters=count, tied_parameters=tied if index in (0, last) else 0)
            for index, count in enumerate(parameters)
        ]
    )


def cuts_of(work: Workload, first: int, stop: int, buckets: int) -> list[int]:
    return bucket_cuts(work, *(np.array([each]) for each in (first, stop, buckets)))[0].tolist()


def test_buckets_hold_about_the_same_number_of_parameters() -> None:
    work = chain(10, 10, 10, 10, 10, 10, 10, 10)
    assert cuts_of(work, 0, 8, 4) == [8, 6, 4, 2, 0]
    assert cuts_of(work, 2, 8, 3) == [8, 6, 4, 2]
    assert cuts_of(work, 1, 4, 1) == [4, 1]
    uneven = chain(1, 1, 1, 90, 1, 1)
    cuts = bucket_cuts(uneven, np.array([0]), np.array([6]), np.array([4]))
    assert cuts[0].tolist() == [6, 3, 3, 3, 0]  # the large layer fills three buckets at once
    assert bucket_parameters(uneven, cuts)[0].tolist() == [92, 0, 0, 3]


@given(st.lists(st.integers(0, 9), min_size=2, max_size=9), st.data())
def test_buckets_cover_a_stage_once(parameters: list[int], data: st.DataObject) -> None:
    tied = data.draw(st.integers(0, min(parameters[0], parameters[-1])))
    work = chain(*parameters, tied=tied)
    first = data.draw(st.integers(0, len(parameters) - 1))
    stop = data.draw(st.integers(first + 1, len(parameters)))
    buckets = data.draw(st.integers(1, stop - first))
    cuts = bucket_cuts(work, *(np.array([each]) for each in (first, stop, buckets)))
    assert cuts[0, 0] == stop
    assert cuts[0, -1] == first
    assert (np.diff(cuts[0]) <= 0).all()
    held = MemoryModel(work).gradient_parameters(first, stop)
    assert bucket_parameters(work, cuts).sum() == pytest.approx(float(held))


def test_no_buckets_where_sums_may_not_overlap() -> None:
    assert bucket_count(0, 9, hosts_first_layer=False, overlap=True) == MOST_BUCKETS
    assert bucket_count(3, 5, hosts_first_layer=False, overlap=True) == 2
    assert bucket_count(0, 9, hosts_first_layer=True, overlap=True) == 1
    assert bucket_count(0, 9, hosts_first_layer=False, overlap=False) == 1


@pytest.mark.parametrize("algorithm", ["ring", "star"])
@pytest.mark.parametrize("kind", ["shared", "switch"])
def test_more_buckets_never_end_later(kind: str, algorithm: str) -> None:
    work, place = chain(*[2_000_000] * 4), cluster(2, 5e6, kind, latency_s=0.01)
    problem = Problem.of(work, place, "participating")
    plan = pipeline((0, 4, {"a": 2, "b": 2}), algorithm=algorithm)
    ends_s = []
    for buckets in (1, 2, 3, 4):
        choice = plan.stages[0].all_reduce.replace(buckets=buckets)
        split = plan.replace(stages=(plan.stages[0].replace(all_reduce=choice),))
        ends_s.append(finish(split, problem).prediction.makespan_s)
    assert ends_s == sorted(ends_s, reverse=True)
    assert ends_s[-1] < ends_s[0]


def test_the_schedule_says_who_sends_what_to_whom() -> None:
    work = chain(1000, 1000, 1000, 1000).replace(source="c", input_bytes=1000.0)
    place = cluster(3)
    plan = pipeline((0, 2, {"a": 1, "b": 1}), (2, 4, {"c": 2}), micro_batches=2)
    problem = Problem.of(work, place, "participating")
    finished = finish(plan, problem)
    schedule = scheduled_transfers(finished, work, evaluate(finished, work, place).timeline)
    assert len(schedule) == len(finished.transfer_order)
    ends = {each.kind: (each.senders, each.receivers) for each in schedule}
    assert ends == {
        "input": (("c",), ("a", "b")),
        "activation": (("a", "b"), ("c",)),
        "gradient": (("c",), ("a", "b")),
        "all-reduce": (("a", "b"), ("a", "b")),
    }
    assert all(each.media == ("net",) for each in schedule)
    order = [(each.kind, each.stage, each.micro_batch, each.part) for each in schedule]
    assert order == [(t.kind, t.stage, t.micro_batch, t.part) for t in finished.transfer_order]
    whole = evaluate(finished, work, place).scheduled
    assert whole.prediction.schedule == schedule

"""The operations of a shape: how many there are, what waits for what, and the longest path through them."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from builders import Dice, questions, random_plan
from hypothesis import given
from hypothesis import strategies as st

from dora_nb.costs.operations import COMPUTE_KINDS, Operation, Operations, Shape
from dora_nb.costs.precedence import operations_of
from dora_nb.costs.table import cost_table
from dora_nb.costs.timing import timing_of
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Compute, compute_order
from dora_nb.domain.transfer import HOSTED
from dora_nb.domain.workload import Workload


def shape(*in_flight: int, micro_batches: int = 4, trains: bool = True, **fields: object) -> Shape:
    defaults = {"tied": None, "buckets": (0,) * len(in_flight)}
    return Shape(in_flight=in_flight, micro_batches=micro_batches, trains=trains, **(defaults | fields))


def counts(of: Shape) -> Counter[str]:
    return Counter(operation.kind for operation in operations_of(of).operations)


def ancestors(operations: Operations, of: Operation) -> set[Operation]:
    found: set[int] = set()
    front = [operations.index[of]]
    while front:
        for earlier in operations.predecessors[front.pop()]:
            if earlier not in found:
                found.add(earlier)
                front.append(earlier)
    return {operations.operations[index] for index in found}


def test_counts_of_an_inference_pipeline() -> None:
    assert counts(shape(4, 4, 4, trains=False)) == {"forward": 12, "activation": 8}
    ended = shape(4, 4, trains=False, inputs=True, outputs=True)
    assert counts(ended) == {"forward": 8, "activation": 4, "input": 4, "output": 4}


def test_counts_of_a_training_pipeline() -> None:
    assert counts(shape(3, 2, 1)) == {"forward": 12, "backward": 12, "activation": 8, "gradient": 8, "step": 3}
    replicated = shape(2, 1, buckets=(1, 0), inputs=True, labels=True)
    assert counts(replicated) == counts(shape(2, 1)) + Counter({"all-reduce": 1, "input": 4, "label": 4})
    # The last backward pass is in as many parts as there are buckets to fill.
    bucketed = shape(2, 1, buckets=(3, 0))
    assert counts(bucketed) == counts(shape(2, 1)) + Counter({"all-reduce": 3, "backward": 2})
    assert counts(shape(2, 1, chunks=3)) == counts(shape(2, 1)) + Counter({"activation": 8, "gradient": 8})


def test_a_bucket_is_summed_as_soon_as_it_is_full() -> None:
    operations = operations_of(shape(2, 1, buckets=(3, 0)))
    for bucket in (1, 2, 3):
        before = ancestors(operations, Operation("all-reduce", 0, 0, bucket))
        parts = {Operation("backward", 0, 3, part) for part in (1, 2, 3)}
        assert before & parts == {Operation("backward", 0, 3, part) for part in range(1, bucket + 1)}
        assert Operation("gradient", 0, 3) in before
        assert Operation("all-reduce", 0, 0, bucket) in ancestors(operations, Operation("step", 0, 0))


def test_a_stage_needs_every_chunk() -> None:
    operations = operations_of(shape(2, 1, chunks=2))
    for chunk in (1, 2):
        assert Operation("activation", 0, 1, chunk) in ancestors(operations, Operation("forward", 1, 1))
        assert Operation("gradient", 0, 1, chunk) in ancestors(operations, Operation("backward", 0, 1))


def test_without_overlap_a_stage_waits_for_what_it_sends() -> None:
    def waits(of: Shape, later: Operation, sent: Operation) -> bool:
        return sent in ancestors(operations_of(of), later)

    for overlap in (True, False):
        training = shape(2, 1, overlap=overlap)
        # Stage 0 runs f0 f1 b0 f2: without overlap f1 waits until the activation of micro-batch 0 has arrived.
        assert waits(training, Operation("forward", 0, 1), Operation("activation", 0, 0)) != overlap
        # Stage 1 runs f0 b0 f1 b1: f1 waits until the gradient of micro-batch 0 has arrived.
        assert waits(training, Operation("forward", 1, 1), Operation("gradient", 0, 0)) != overlap
        assert waits(training, Operation("step", 1, 0), Operation("gradient", 0, 3)) != overlap
        inference = shape(4, 4, trains=False, outputs=True, overlap=overlap)
        assert waits(inference, Operation("forward", 1, 1), Operation("output", 1, 0)) != overlap


def test_counts_of_synchronised_ties() -> None:
    single = counts(shape(2, 1, tied="synchronised"))
    assert single == counts(shape(2, 1)) + Counter({"tied-exchange": 1})
    both = counts(shape(3, 2, 1, tied="synchronised", buckets=(1, 1, 1)))
    extra = {"tied-exchange": 1, "tied-reduce": 2, "tied-broadcast": 2, "all-reduce": 3}
    assert both == counts(shape(3, 2, 1)) + Counter(extra)


def test_counts_of_a_hosted_first_layer() -> None:
    more = {"forward": 4, "backward": 4, "activation": 4, "gradient": 4}
    assert counts(shape(2, 1, tied="hosted")) == counts(shape(2, 1)) + Counter(more)


def test_one_forward_one_backward_by_hand() -> None:
    order = compute_order(0, in_flight=2, micro_batches=4, trains=True, hosts_first_layer=False)
    assert "".join(f"{each.phase[0]}{each.micro_batch}" for each in order) == "f0f1b0f2b1f3b2b3"
    order = compute_order(1, in_flight=1, micro_batches=2, trains=True, hosts_first_layer=True)
    assert [each.stage for each in order] == [HOSTED, HOSTED, 1, 1, 1, 1, HOSTED, HOSTED]
    order = compute_order(0, in_flight=1, micro_batches=3, trains=False, hosts_first_layer=False)
    assert order == tuple(Compute("forward", 0, index) for index in range(3))


def parts(kind: str, stages: range, micro_batch: int, count: int) -> set[Operation]:
    numbers = range(1, count + 1) if count > 1 else range(1)
    return {Operation(kind, stage, micro_batch, part) for stage in stages for part in numbers}


def last_part(operations: Operations, kind: str, stage: int, micro_batch: int) -> Operation:
    return max(each for each in operations.operations if each[:3] == (kind, stage, micro_batch))


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4).map(lambda held: tuple(sorted(held, reverse=True))),
    st.integers(1, 5),
    st.booleans(),
    st.sampled_from((None, "hosted", "synchronised")),
    st.tuples(*[st.booleans()] * 3),
    st.lists(st.integers(0, 3), min_size=4, max_size=4),
    st.integers(1, 3),
    st.booleans(),
)
def test_precedence_of_any_shape(
    held: tuple[int, ...],
    batches: int,
    trains: bool,
    tied: str | None,
    ends: tuple[bool, bool, bool],
    buckets: list[int],
    chunks: int,
    overlap: bool,
) -> None:
    tied = tied if trains and len(held) > 1 else None
    inputs, labels, outputs = ends[0], ends[1] and trains, ends[2] and not trains
    of = shape(
        *held,
        micro_batches=batches,
        trains=trains,
        tied=tied,
        buckets=tuple(each * trains for each in buckets[: len(held)]),
        chunks=chunks,
        overlap=overlap,
        inputs=inputs,
        labels=labels,
        outputs=outputs,
    )
    operations = operations_of(of)
    assert len(set(operations.operations)) == len(operations.operations)
    for index, before in enumerate(operations.predecessors):
        assert all(earlier < index for earlier in before), "topological"
    assert set(operations.transfers) == {
        index for index, each in enumerate(operations.operations) if each.kind not in COMPUTE_KINDS
    }
    last, first = len(held) - 1, HOSTED if tied == "hosted" else 0
    for micro_batch in range(batches):
        before = ancestors(operations, Operation("forward", last, micro_batch))
        assert {Operation("forward", stage, micro_batch) for stage in range(first, last)} <= before
        assert parts("activation", range(first, last), micro_batch, chunks) <= before
        assert (Operation("input", first, micro_batch) in before) == inputs
        if labels:
            assert Operation("label", last, micro_batch) in before
        if trains:
            before = ancestors(operations, last_part(operations, "backward", first, micro_batch))
            for stage in range(first + 1, last + 1):
                assert last_part(operations, "backward", stage, micro_batch) in before
            assert parts("gradient", range(first, last), micro_batch, chunks) <= before
            assert Operation("forward", last, micro_batch) in before
    if trains:
        for stage in range(last + 1):
            before = ancestors(operations, Operation("step", stage, 0))
            assert {last_part(operations, "backward", stage, index) for index in range(batches)} <= before
            assert sum(each.kind == "all-reduce" and each.stage == stage for each in before) == of.buckets[stage]
            if tied == "synchronised" and stage in (0, last):
                assert {last_part(operations, "backward", each, batches - 1) for each in (0, last)} <= before
                assert Operation("tied-exchange", last, 0) in before
    for stage, count in enumerate(held):
        # No forward pass before the backward pass that makes room for it.
        for micro_batch in range(count if trains else batches, batches):
            before = ancestors(operations, Operation("forward", stage, micro_batch))
            assert last_part(operations, "backward", stage, micro_batch - count) in before


@given(questions(layers=(2, 4)), st.integers(0, 10**6))
def test_the_longest_path_of_arrays_is_that_of_numbers(question: tuple[Workload, Cluster], seed: int) -> None:
    work, place = question
    plan = random_plan(Dice(seed), work, place)
    operations = operations_of(Shape.of(plan, work))
    timing = timing_of(plan, work, place, cost_table(work, place))
    factors = np.array([1.0, 0.5, 3.0])
    scaled = {kind: seconds * factors for kind, seconds in timing.duration_s.items()}
    alone = float(operations.longest_path(timing.duration_s))
    assert operations.longest_path(scaled) == pytest.approx(alone * factors)
    # by the definition: the longest chain of what waits for what
    ends: list[float] = []
    for before, kind in zip(operations.predecessors, operations.classes, strict=True):
        ends.append(max((ends[each] for each in before), default=0.0) + timing.duration_s[kind])
    assert alone == pytest.approx(max(ends))


def test_a_stage_never_holds_more_than_its_in_flight_count() -> None:
    for held, batches in itertools.product(range(1, 5), range(1, 6)):
        order = compute_order(0, in_flight=held, micro_batches=batches, trains=True, hosts_first_layer=False)
        stashes, most = 0, 0
        for each in order:
            stashes += 1 if each.phase == "forward" else -1
            most = max(most, stashes)
        assert most == min(held, batches)
        assert sorted(order) == sorted(
            Compute(phase, 0, index) for phase in ("forward", "backward") for index in range(batches)
        )

"""List scheduling: its own clock against the recurrence that evaluates its order."""

from __future__ import annotations

import pytest
from builders import Dice, cluster, examples, layer, pipeline, questions, random_plan, workload
from hypothesis import given, settings
from hypothesis import strategies as st

from dora_nb.costs.operations import Operations, Shape, Timing
from dora_nb.costs.precedence import operations_of
from dora_nb.costs.start_times import start_times
from dora_nb.costs.table import cost_table
from dora_nb.costs.timing import timing_of
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.workload import Workload
from dora_nb.formulation.schedules.list_schedule import as_ready, by_critical_path, list_schedule


def parts(plan: Plan, work: Workload, place: Cluster) -> tuple[Operations, Timing]:
    return operations_of(Shape.of(plan, work)), timing_of(plan, work, place, cost_table(work, place))


def recomputed(plan: Plan, work: Workload, place: Cluster) -> tuple[float, float]:
    operations, timing = parts(plan, work, place)
    schedule = list_schedule(operations, timing)
    starts = start_times(operations, timing, schedule.transfers())
    ends = [start + timing.duration_s[kind] for start, kind in zip(starts, operations.classes, strict=True)]
    return schedule.makespan_s, max(ends)


@settings(max_examples=examples(100))
@given(questions(layers=(2, 5), batches=(1, 2, 3, 4, 6, 8), device_count=(2, 5)), st.integers(0, 2**32 - 1))
def test_the_clock_is_the_recurrence(question: tuple[Workload, Cluster], seed: int) -> None:
    work, place = question
    clock_s, makespan_s = recomputed(random_plan(Dice(seed), work, place), work, place)
    assert clock_s == pytest.approx(makespan_s, rel=1e-9)


@settings(max_examples=examples(60))
@given(questions(layers=(2, 5), batches=(1, 2, 4, 8), device_count=(2, 5)), st.integers(0, 2**32 - 1))
def test_it_is_the_better_of_both_rules(question: tuple[Workload, Cluster], seed: int) -> None:
    """The second rule is given up as soon as it cannot be better."""
    operations, timing = parts(random_plan(Dice(seed), *question), *question)
    by_path, by_arrival = by_critical_path(operations, timing), as_ready(operations, timing)
    schedule = list_schedule(operations, timing)
    assert schedule.makespan_s == pytest.approx(min(by_path.makespan_s, by_arrival.makespan_s), rel=1e-12)


def test_what_needs_no_medium_does_not_wait_for_it() -> None:
    """Inputs are where the first stage runs, labels travel for long: the first stage must not wait for labels.

    Labels hold the medium for 8 s each; F = 1 and B = 2 on both stages, a cut takes 2 s. One micro-batch: the label
    first, or the activation first. Either way the input, which goes nowhere, is there at once.
    """
    work = workload(2, batch=1, source="a", input_bytes=1.0, label_bytes=4e6)
    plan = pipeline((0, 1, {"a": 1}), (1, 2, {"b": 1}))
    clock_s, makespan_s = recomputed(plan, work, cluster(2, 1e6))
    assert clock_s == pytest.approx(makespan_s, rel=1e-9)
    # label 0-8, activation 8-10, F and B 10-13, gradient 13-15, B 15-17
    assert clock_s == pytest.approx(17)


def test_many_inputs_that_go_nowhere_and_labels_that_do() -> None:
    work = workload(2, batch=4, source="a", input_bytes=1.0, label_bytes=4e6)
    plan = pipeline((0, 1, {"a": 1}), (1, 2, {"b": 1}), micro_batches=4)
    clock_s, makespan_s = recomputed(plan, work, cluster(2, 1e6))
    assert clock_s == pytest.approx(makespan_s, rel=1e-9)


def test_the_urgent_transfer_goes_first() -> None:
    """Two stages hand over at once on one medium: first come first served would be slower here, and is tried too."""
    deep = [layer("a"), layer("b", output_elements=10**6), layer("c", flops=5e9)]
    work = workload(deep, batch=4, mode="inference")
    plan = pipeline((0, 1, {"a": 1}), (1, 2, {"b": 1}), (2, 3, {"c": 1}), micro_batches=4)
    operations, timing = parts(plan, work, cluster(3, 4e6))
    schedule = list_schedule(operations, timing)
    path_s = float(operations.longest_path(timing.duration_s))
    assert path_s <= schedule.makespan_s <= path_s * 1.2
    assert len(schedule.order) == len(set(schedule.order)) == 8

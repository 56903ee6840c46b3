"""Slack and busy times: by hand, and on random plans by delaying and shortening one operation after another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import pytest
from builders import Dice, cluster, examples, pipeline, questions, random_plan, random_question, workload
from hypothesis import given, settings
from hypothesis import strategies as st

from dora_nb.costs import Evaluation, cost_table, evaluate
from dora_nb.costs.details import slack_of
from dora_nb.costs.network import Hold
from dora_nb.costs.operations import OperationClass, Operations, Shape, Timing
from dora_nb.costs.precedence import operations_of
from dora_nb.costs.start_times import start_times, waits_of
from dora_nb.costs.timing import timing_of
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.transfer import Transfer
from dora_nb.domain.workload import Workload
from dora_nb.formulation.schedules.list_schedule import list_schedule


def scheduled(plan: Plan, work: Workload, place: Cluster) -> Plan:
    timing = timing_of(plan, work, place, cost_table(work, place))
    return plan.replace(transfer_order=list_schedule(operations_of(Shape.of(plan, work)), timing).transfers())


def evaluated(plan: Plan, work: Workload, place: Cluster) -> Evaluation:
    return evaluate(scheduled(plan, work, place), work, place)


def slack_by_operation(evaluation: Evaluation) -> dict[tuple[str, int, int], float]:
    return {
        (entry.kind, entry.stage, entry.micro_batch): slack_s
        for entry, slack_s in zip(evaluation.timeline, evaluation.details.slack_s, strict=True)
    }


def test_slack_by_hand() -> None:
    """Two micro-batches, a second stage twice as long as the first, transfers of 2 s.

    Stage 0 computes 0-1 and 1-2; transfers 1-3 and 3-5; stage 1 computes 3-5 and 5-7. The medium and stage 1 are both
    busy without a break from 3 on: everything is critical but the second forward pass of stage 0, which is needed at 3
    and done at 2.
    """
    work = workload(3, batch=2, mode="inference")
    plan = pipeline((0, 1, {"a": 1}), (1, 3, {"b": 1}), micro_batches=2)
    evaluation = evaluated(plan, work, cluster(2, 1e6))
    assert evaluation.prediction.makespan_s == pytest.approx(7)
    slack_s = slack_by_operation(evaluation)
    assert slack_s.pop(("forward", 0, 1)) == pytest.approx(1)
    assert len(slack_s) == 5
    assert set(slack_s.values()) == {0.0}


def test_a_medium_is_held_for_its_airtime_and_a_replica_for_its_own_share() -> None:
    work = workload(2, batch=4, mode="inference")
    plan = pipeline((0, 1, {"a": 3, "b": 1}), (1, 2, {"c": 4}))
    evaluation = evaluated(plan, work, cluster(3, 1e6, latency_s=0.25))
    first, moved, last = evaluation.details.busy_s
    assert first == pytest.approx((3, 1))  # 1 s a sample; the operation lasts 3 s
    assert moved == pytest.approx((8,))  # 4 MB, two hops; it arrives 0.25 s later
    assert last == pytest.approx((4,))
    assert evaluation.timeline[1].end_s - evaluation.timeline[1].start_s == pytest.approx(8.25)


@settings(max_examples=examples(20))
@given(questions(modes=("training", "inference", "generate")), st.integers(0, 2**32 - 1))
def test_busy_seconds_add_up_to_the_prediction(question: tuple[Workload, Cluster], seed: int) -> None:
    work, place = question
    evaluation = evaluated(random_plan(Dice(seed), work, place), work, place)
    busy_s: defaultdict[str, float] = defaultdict(float)
    for entry, seconds in zip(evaluation.timeline, evaluation.details.busy_s, strict=True):
        for name, each in zip(entry.places, seconds, strict=True):
            busy_s[name] += each
    for device in evaluation.prediction.devices:
        assert busy_s.pop(device.device) == pytest.approx(device.busy_s)
    assert max(busy_s.values(), default=0.0) == pytest.approx(evaluation.prediction.airtime_s)


class Case:
    """A plan's operations, each of which takes a time of its own that can be changed."""

    def __init__(self, plan: Plan, work: Workload, place: Cluster) -> None:
        self.order: tuple[Transfer, ...] = scheduled(plan, work, place).transfer_order
        of_classes = timing_of(plan, work, place, cost_table(work, place))
        shared = operations_of(Shape.of(plan, work))
        self.operations = Operations(shared.operations, shared.predecessors)
        own = [OperationClass(kind.kind, kind.stage, 1000 + number) for number, kind in enumerate(shared.classes)]
        self.operations.__dict__["classes"] = tuple(own)
        pairs = list(zip(own, shared.classes, strict=True))
        self.compute_s = {each: of_classes.compute_s[kind] for each, kind in pairs if kind in of_classes.compute_s}
        self.holds = {each: of_classes.holds[kind] for each, kind in pairs if kind in of_classes.holds}
        self.start_s = start_times(self.operations, self.timing(), self.order)
        self.makespan_s = self.end_of(self.start_s, self.timing())
        waits = waits_of(self.operations, self.timing(), self.order)
        self.slack_s = slack_of(self.operations, self.timing(), self.start_s, waits)

    def timing(self, factor: Callable[[int], float] = lambda index: 1.0) -> Timing:
        """With every operation's seconds times a factor."""
        by = {kind: factor(index) for index, kind in enumerate(self.operations.classes)}
        return Timing(
            {kind: by[kind] * seconds for kind, seconds in self.compute_s.items()},
            {kind: shortened(hold, by[kind]) for kind, hold in self.holds.items()},
        )

    def end_of(self, start_s: list[float], timing: Timing) -> float:
        kinds = self.operations.classes
        return max(start + timing.duration_s[kind] for start, kind in zip(start_s, kinds, strict=True))

    def makespan_with(self, factor: Callable[[int], float]) -> float:
        timing = self.timing(factor)
        return self.end_of(start_times(self.operations, timing, self.order), timing)

    def makespan_not_before(self, index: int, moment_s: float) -> float:
        """The makespan when one operation may not start before a moment."""
        timing = self.timing()
        return self.end_of(start_times(self.operations, timing, self.order, {index: moment_s}), timing)


def shortened(hold: Hold, factor: float) -> Hold:
    held_s = {name: factor * seconds for name, seconds in hold.seconds.items()}
    return Hold(held_s, factor * hold.duration_s, hold.size_bytes, hold.energy_j)


@settings(max_examples=examples(12))
@given(questions(kinds=("shared", "switch", "mixed"), device_count=(2, 4)), st.integers(0, 2**32 - 1))
def test_the_critical_operations_decide_the_makespan(question: tuple[Workload, Cluster], seed: int) -> None:
    """Shortening one that is not critical changes nothing; shortening all that are does."""
    case = Case(random_plan(Dice(seed), *question), *question)
    critical = [slack_s == 0 for slack_s in case.slack_s]
    assert any(critical)
    for index, own in enumerate(critical):
        if not own:
            shorter_s = case.makespan_with(lambda each, index=index: 0.5 if each == index else 1.0)  # type: ignore[misc]
            assert shorter_s == pytest.approx(case.makespan_s, rel=1e-12)
    assert case.makespan_with(lambda each: 0.5 if critical[each] else 1.0) < case.makespan_s * (1 - 1e-9)


@settings(max_examples=examples(12))
@given(questions(kinds=("shared", "switch", "mixed"), device_count=(2, 4)), st.integers(0, 2**32 - 1))
def test_an_operation_may_be_late_by_its_slack_and_no_more(question: tuple[Workload, Cluster], seed: int) -> None:
    case = Case(random_plan(Dice(seed), *question), *question)
    for index, slack_s in enumerate(case.slack_s):
        latest_s = case.start_s[index] + slack_s
        assert case.makespan_not_before(index, latest_s) == pytest.approx(case.makespan_s, rel=1e-8)
        assert case.makespan_not_before(index, latest_s + 1) == pytest.approx(case.makespan_s + 1, rel=1e-8)


def test_in_a_stream_an_operation_also_delays_the_next_request() -> None:
    """Every 3 s a request: a computes 0-1, hands over 1-3, b computes 3-5. Nothing waits for anything but its own."""
    work = workload(3, batch=1, mode="stream", requests_per_s=1 / 3)
    plan = pipeline((0, 1, {"a": 1}), (1, 3, {"b": 1}))
    plan = plan.replace(transfer_order=(Transfer(kind="activation", stage=0, micro_batch=0),))
    evaluation = evaluate(plan, work, cluster(2, 1e6))
    assert evaluation.prediction.makespan_s == pytest.approx(5)
    assert evaluation.details.slack_s == (0.0, 0.0, 0.0)


def test_slack_in_a_stream_that_is_full() -> None:
    """Two micro-batches a request, every 4 s: rounds of waits that are exactly full still come to an end."""
    work = workload(3, batch=2, mode="stream", requests_per_s=1 / 4)
    plan = pipeline((0, 1, {"a": 1}), (1, 3, {"b": 1}), micro_batches=2)
    order = tuple(Transfer(kind="activation", stage=0, micro_batch=each) for each in range(2))
    evaluation = evaluate(plan.replace(transfer_order=order), work, cluster(2, 1e6))
    slack_s = slack_by_operation(evaluation)
    assert evaluation.prediction.makespan_s == pytest.approx(7)
    assert slack_s.pop(("forward", 0, 1)) == pytest.approx(1)
    assert set(slack_s.values()) == {0.0}


def test_tokens_share_the_slack_of_their_chain() -> None:
    dice = Dice(3)
    work, place = next(
        (work, place)
        for work, place in iter(lambda: random_question(dice, modes=("generate",)), None)
        if work.decode_steps > 1 and len(place.devices) > 1
    )
    plan = next(plan for plan in iter(lambda: random_plan(dice, work, place), None) if len(plan.stages) > 1)
    evaluation = evaluated(plan, work, place)
    steps = [
        slack_s
        for entry, slack_s in zip(evaluation.timeline, evaluation.details.slack_s, strict=True)
        if entry.kind in ("decode", "token")
    ]
    assert len(steps) == 2 * len(plan.stages) * work.decode_steps
    assert set(steps) == {0.0}

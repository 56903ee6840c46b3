"""Peak memory: what the plan's prediction says of one plan, and what resident plans need together."""

from __future__ import annotations

import pytest
from builders import Dice, examples, pipeline, random_plan, seeded
from hypothesis import HealthCheck, given, settings
from worlds import Case, random_case, scheduled, two_ways

from dora_nb.costs.evaluate import evaluate
from dora_nb.costs.resident import Residents
from dora_nb.domain.controller import StepReport
from dora_nb.domain.plan import Plan
from dora_nb.simulation import World, simulate

QUICK = {"suppress_health_check": list(HealthCheck)}


class InTurns:
    """One plan after the other."""

    def __init__(self, *plans: Plan) -> None:
        self.plans, self.steps = plans, 0

    def next_plan(self, now_s: float, present: frozenset[str]) -> Plan | None:
        return self.plans[self.steps % len(self.plans)]

    def observe(self, report: StepReport) -> None:
        self.steps += report.completed


def two_plans(dice: Dice) -> tuple[Case, Plan]:
    work, place, plan = random_case(dice)
    figures = evaluate(plan, work, place).prediction
    other = scheduled(work, place, random_plan(dice, work, place))
    return (work, place, plan.replace(prediction=figures)), other


@settings(max_examples=examples(12), deadline=None, **QUICK)
@given(seeded(lambda dice: (random_case(dice), dice.pick(("ordered", "fair")))))
def test_one_plan_needs_what_it_is_predicted_to_need(drawn: tuple[Case, str]) -> None:
    (work, place, plan), sharing = drawn
    figures = evaluate(plan, work, place).prediction
    known = dict.fromkeys(place.device_ids, 0.0) | {each.device: each.memory_bytes for each in figures.devices}
    bare = plan.replace(prediction=None, transfer_order=() if sharing == "fair" else plan.transfer_order)
    for running in (None, bare):
        options = {"horizon_s": 2 * figures.makespan_s, "window_s": 1.0, "running": running, "sharing": sharing}
        record = simulate(work, World(place), bare, **options)  # type: ignore[arg-type]
        assert record.peak_memory_bytes == pytest.approx(known)


@settings(max_examples=examples(12), deadline=None, **QUICK)
@given(seeded(two_plans))
def test_two_plans_need_what_they_need_together_if_both_stay(drawn: tuple[Case, Plan]) -> None:
    (work, place, plan), other = drawn
    figures = [evaluate(each, work, place).prediction for each in (plan, other)]
    pair = tuple(each.replace(prediction=own) for each, own in zip((plan, other), figures, strict=True))
    alone = [dict.fromkeys(place.device_ids, 0.0) | {e.device: e.memory_bytes for e in own.devices} for own in figures]
    if work.trains:  # only the state of the plan that runs is kept
        expected = [max(own[name] for own in alone) for name in place.device_ids]
    else:
        expected = Residents(work, pair, place.device_ids).resident_bytes([0, 1]).tolist()
    known = dict(zip(place.device_ids, expected, strict=True))
    options = {"horizon_s": 3 * sum(own.makespan_s for own in figures), "window_s": 1.0, "free_changes": True}
    record = simulate(work, World(place), InTurns(*pair), **options)  # type: ignore[arg-type]
    assert {id(step.plan) for step in record.steps} == set(map(id, pair))
    assert record.peak_memory_bytes == pytest.approx(known)
    if not work.trains:  # what is in place from the start need not run
        record = simulate(work, World(place), pair[0], resident=pair, **options)  # type: ignore[arg-type]
        assert record.peak_memory_bytes == pytest.approx(known)


def test_a_plan_that_had_to_make_room_is_not_counted_with_the_one_it_made_room_for() -> None:
    """Each device can hold one of two layers of 1 MB and its buffers, not both."""
    work, place, _ = two_ways(parameters=250_000)
    ways = [pipeline((0, 1, {one: 1}), (1, 2, {other: 1})) for one, other in ("ab", "ba")]
    plans = [scheduled(work, place, plan) for plan in ways]
    figures = [evaluate(plan, work, place).prediction for plan in plans]
    room_bytes = max(each.memory_bytes for own in figures for each in own.devices) + 5e5
    small = place.replace(devices=tuple(each.replace(memory_bytes=room_bytes) for each in place.devices))
    record = simulate(work, World(small), InTurns(*plans), horizon_s=60, window_s=10)
    assert len(record.changes) > 2
    assert record.peak_memory_bytes == pytest.approx(dict.fromkeys("ab", room_bytes - 5e5))
    roomy = simulate(work, World(place), InTurns(*plans), horizon_s=60, window_s=10)
    assert roomy.peak_memory_bytes == pytest.approx(dict.fromkeys("ab", room_bytes + 5e5))


def test_where_nothing_runs_nothing_is_needed() -> None:
    work, place, _ = two_ways()

    class Nobody:
        def next_plan(self, now_s: float, present: frozenset[str]) -> Plan | None:
            return None

        def observe(self, report: StepReport) -> None: ...

    record = simulate(work, World(place), Nobody(), horizon_s=10, window_s=10)
    assert record.peak_memory_bytes == {"a": 0, "b": 0}

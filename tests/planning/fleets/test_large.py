"""Fleets too large for the label search: bounds against every plan there is, answers against the exact search's."""

from __future__ import annotations

import itertools
import random
import threading

import numpy as np
import pytest
from builders import (
    Dice,
    cluster,
    default_space,
    device,
    drawn_layers,
    every_plan,
    examples,
    questions,
    random_question,
    rated_plans,
    seeded,
    shape_and_timing,
    workload,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dora_nb.costs.evaluate import evaluate, period_s
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InfeasibleError, InputError, ObjectiveMismatchError
from dora_nb.formulation.fleets.group_times import GroupTimes
from dora_nb.formulation.fleets.priced_chains import Chain, ClassRows, KnownChains, Pipelines, PlanClass
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning import pace
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.fleets import large
from dora_nb.planning.fleets.annealing import longest_path
from dora_nb.planning.fleets.answer import tell_bounds
from dora_nb.planning.fleets.class_bound import class_bounds, proven_s
from dora_nb.planning.fleets.packing import packed
from dora_nb.planning.fleets.period_bound import PeriodBound, largest
from dora_nb.planning.fleets.stream import fastest_large_stream
from dora_nb.planning.pace import fastest_stream
from dora_nb.planning.plan import plan
from dora_nb.solvers import Event

ROUNDING = 1e-9

QUICK = {"suppress_health_check": list(HealthCheck)}

Question = tuple[Workload, Cluster]


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small questions need little annealing."""
    monkeypatch.setattr(large, "SHORT_STEPS", 100)
    monkeypatch.setattr(large, "MANY_KICKS", 3)
    monkeypatch.setattr(large, "PACKED_STEPS", 50)
    monkeypatch.setattr(large, "PACKED", 5)


def seconds(problem: Problem) -> list[GroupTimes]:
    """For every micro-batch size."""
    return [GroupTimes.of(problem, size) for size in problem.space.micro_batch_sizes]


@settings(max_examples=examples(4), **QUICK)
@given(questions(layers=(2, 3), batches=(1, 2, 3, 4), tied=False))
def test_no_plan_refutes_the_bound(question: Question) -> None:
    problem = Problem.of(*question, "participating", space=default_space(*question))
    plans = rated_plans(problem)
    best_s = min(rated.makespan_s for rated in plans)
    classes = [
        bound
        for times in seconds(problem)
        for bound in class_bounds(times, problem.space.in_flight_depths, problem.workload.trains, Deadline())
    ]
    bound_s = proven_s(classes, 0.05, lambda: 1.1 * best_s, lambda _: None, lambda _: None)
    for rated in plans:
        assert not rated.reaches_latency(bound_s * (1 - ROUNDING)), (rated.plan, bound_s)


@settings(max_examples=examples(10), **QUICK)
@given(questions(layers=(2, 4), batches=(1, 2, 4), tied=False, modes=("stream",)))
def test_no_plan_keeps_up_with_less_than_the_bound_on_the_period(question: Question) -> None:
    problem = Problem.of(*question, "participating", space=default_space(*question))
    least_s = min(PeriodBound(times, Deadline()).period_s(1e3, 1e-3) for times in seconds(problem))
    for each in every_plan(problem):
        operations, timing = shape_and_timing(each, problem)
        assert least_s <= period_s(each, problem.workload, timing, operations) * (1 + ROUNDING), each


def _scarce_stream(dice: Dice) -> Question:
    """A stream whose network fits on one device, or on several, or nowhere."""
    work, place = random_question(dice, layers=(2, 4), batches=(1, 2, 4), tied=False, modes=("stream",))
    layers = tuple(each.replace(parameters=dice.number(10**5, 10**6)) for each in work.layers)
    whole = 4 * sum(each.parameters for each in layers)
    devices = [each.replace(memory_bytes=whole * dice.pick((0.2, 0.6, 0.9, 50.0))) for each in place.devices]
    return work.replace(layers=layers), place.replace(devices=tuple(devices))


@settings(max_examples=examples(25), **QUICK)
@given(seeded(_scarce_stream))
def test_the_fastest_stream_of_a_fleet_keeps_its_period_and_none_keeps_less_than_the_bound(question: Question) -> None:
    work, place = question
    problem = Problem.of(*question, "participating", space=default_space(*question))
    alone = work.replace(mode="inference", requests_per_s=None)
    fitting = rated_plans(Problem.of(alone, place, "participating", space=problem.space))
    least_s = min((period_s(each.plan, work, each.timing, each.operations) for each in fitting), default=np.inf)
    try:
        best, best_s, bound_s = fastest_large_stream(problem, 0.01, Deadline())
    except InfeasibleError:
        return  # what does not fit tightly may not be found, and none is shown to be there
    assert bound_s <= least_s * (1 + ROUNDING)
    assert best_s >= least_s * (1 - ROUNDING)
    kept = evaluate(best, work.replace(requests_per_s=1 / best_s), place).prediction
    assert kept.period_s <= best_s * (1 + ROUNDING)
    assert all(each.memory_bytes <= each.usable_memory_bytes for each in kept.devices)


def fleet_question(layers: int, devices: int, types: int, **fields: object) -> Question:
    dice = np.random.default_rng(layers + devices)

    def between(low: float, high: float) -> float:
        return float(dice.uniform(low, high))

    speeds = [between(0.5, 4) * 1e9 for _ in range(types)]
    members = [device(f"d{index}", speeds[index % types]) for index in range(devices)]
    rates = [3e7 * (1 + index % types) for index in range(devices)]
    return workload(drawn_layers(between, layers), **{"batch": 16, **fields}), cluster(members, rates, "switch")


def test_seconds_are_those_of_the_best_share_vector() -> None:
    work, place = fleet_question(4, 4, 3)
    problem = Problem.of(work, place, "participating", space=SearchSpace((8,), 3, (1,)))
    times = GroupTimes.of(problem, 8)
    both_s = problem.table.forward_s + problem.table.backward_s
    for index, group in enumerate(times.groups):
        for column, (first, stop) in enumerate(zip(times.first, times.stop, strict=True)):
            seconds = both_s[first:stop].sum(axis=0)
            shared = [row for row in itertools.product(range(1, 9), repeat=len(group.devices)) if sum(row) == 8]
            best = min(max(seconds[d, n] for d, n in zip(group.devices, row, strict=True)) for row in shared)
            assert times.seconds[index, column] == pytest.approx(best)


@pytest.mark.parametrize("few_stages", [0, large.FEW_STAGES])
@pytest.mark.parametrize("mode", ["training", "inference"])
def test_answers_agree_with_the_exact_search(mode: str, few_stages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    work, place = fleet_question(6, 4, 2, mode=mode)
    space = SearchSpace((4,), 2, (1, 2) if mode == "training" else (1,))
    exact = plan(work, place, most_plans=1, space=space, solver="highs").best
    monkeypatch.setattr("dora_nb.planning.plan.is_large", lambda _: True)
    monkeypatch.setattr(large, "FEW_STAGES", few_stages)
    found = plan(work, place, gap=0.05, space=space).best
    assert exact.certificate is not None
    assert found.certificate is not None
    assert found.certificate.solver == large.METHOD
    assert found.certificate.bound <= exact.certificate.value * (1 + ROUNDING)
    assert exact.certificate.bound <= found.certificate.value * (1 + ROUNDING)
    assert found.certificate.value <= 1.05 * exact.certificate.value
    assert found.certificate.gap < 0.2
    assert found.prediction is not None
    assert found.prediction.makespan_s == found.certificate.value


def test_the_fastest_stream_agrees_with_the_exact_search(monkeypatch: pytest.MonkeyPatch) -> None:
    work, place = fleet_question(8, 4, 2, mode="stream", requests_per_s=1.0)
    space = SearchSpace((4,), 2, (1,), 1)
    exact = fastest_stream(work, place, gap=1e-3, space=space)
    monkeypatch.setattr(pace, "is_large", lambda _: True)
    found = fastest_stream(work, place, gap=0.01, space=space)
    assert found.bound_s <= exact.period_s * (1 + ROUNDING)
    assert exact.bound_s <= found.period_s * (1 + ROUNDING)
    assert found.period_s <= 1.02 * exact.period_s


@pytest.mark.parametrize("gap", [0.01, 0.3])
@pytest.mark.parametrize("share", [0.03, 0.2, 0.5, 0.7, 0.9, 1.0])
def test_the_largest_value_refuted_is_found_within_the_gap(gap: float, share: float) -> None:
    """Of a value in hand; what needs no proof, within the gap of it, is not asked for."""
    in_hand_s, asked = 7.0, list[float]()

    def refuted(value_s: float) -> bool:
        asked.append(value_s)
        return value_s < share * in_hand_s

    found_s = largest(in_hand_s, gap, refuted, Deadline())
    enough_s = (1 - gap) * in_hand_s
    assert found_s == 0 or refuted(found_s)
    assert found_s >= min(share * in_hand_s, enough_s) * (1 - gap)
    assert max(asked) <= enough_s
    assert largest(in_hand_s, gap, refuted, Deadline(0.0)) == 0


def test_packed_stages_use_each_device_once_and_keep_the_load() -> None:
    work, place = fleet_question(12, 6, 3, mode="stream", requests_per_s=1.0)
    problem = Problem.of(work, place, "participating", space=SearchSpace((4,), 2, (1,), 1))
    times = GroupTimes.of(problem, 4)
    bound = PeriodBound(times, Deadline())
    load_s = 1.05 * bound.period_s(1e4, 0.01)
    stages = packed(times, bound.weights, load_s)
    assert stages is not None
    assert [first for first, _, _ in stages] == [0, *(stop for _, stop, _ in stages[:-1])]
    assert (times.used[[group for *_, group in stages]].sum(axis=0) <= times.available).all()
    for first, stop, group in stages:
        assert times.micro_batches * times.seconds[group, times.range_of[first, stop]] <= load_s
    assert packed(times, bound.weights, 0.5 * load_s) is None


def test_sixty_four_devices_list_no_sets_of_devices() -> None:
    work, place = fleet_question(6, 64, 8)
    space = SearchSpace((4,), 2, (1,), 1)
    problem = Problem.of(work, place, "participating", space=space)
    assert large.is_large(problem)
    assert problem.fleet.codes == 9**8
    assert problem.fleet.groups_by_size[:3] == (1, 8, 36)
    found = plan(work, place, gap=0.05, time_limit_s=2.0, space=space).best
    assert found.certificate is not None
    assert found.certificate.bound <= found.certificate.value
    assert found.certificate.status in ("optimal", "feasible", "time limit")


def test_cancelling_returns_what_there_is() -> None:
    work, place = fleet_question(6, 64, 8)
    cancel = threading.Event()
    cancel.set()
    found = plan(work, place, space=SearchSpace((4,), 2, (1,), 1), cancel=cancel).best
    assert found.certificate is not None
    assert found.certificate.status == "cancelled"
    assert found.certificate.bound == 0


def test_what_does_not_fit_a_large_fleet_is_said() -> None:
    work, place = fleet_question(6, 64, 8)
    small = place.replace(devices=tuple(each.replace(memory_bytes=1e6) for each in place.devices))
    space = SearchSpace((4,), 2, (1,), 1)
    with pytest.raises(InfeasibleError, match="no plan was found that fits the devices' memory"):
        plan(work, small, space=space)
    with pytest.raises(InfeasibleError, match="no plan was found that fits the devices' memory"):
        fastest_stream(work.replace(mode="stream", requests_per_s=1.0), small, space=space)


def test_a_bound_above_the_plan_gives_no_answer() -> None:
    work, place = fleet_question(6, 4, 2)
    problem = Problem.of(work, place, "participating", space=SearchSpace((4,), 2, (1,), 1))
    heard: list[Event] = []
    hunt = large.LargeHunt(problem, 0.5, Deadline(), on_bound=tell_bounds(heard.append))
    hunt.run()
    assert [event.incumbent for event in heard][-1] == hunt.best_s
    assert all(event.bound <= event.incumbent for event in heard)
    assert heard[-1].bound == hunt.bound_s
    assert hunt.certified(scope="", solver="", reason="").certificate is not None
    hunt.bound_s = 1.01 * hunt.best_s
    with pytest.raises(ObjectiveMismatchError, match="is above the plan's own"):
        hunt.certified(scope="", solver="", reason="")


def test_what_cannot_be_asked_of_a_large_fleet_is_said() -> None:
    work, place = fleet_question(6, 64, 8)
    space = SearchSpace((4,), 2, (1,), 1)
    with pytest.raises(InputError, match="too many for the exact search"):
        plan(work, place, QoE(objective="energy"), space=space)
    with pytest.raises(InputError, match="mode"):
        plan(work.replace(mode="stream", requests_per_s=1.0), place, space=space)
    with pytest.raises(InfeasibleError, match="latency of 1 ms is"):
        plan(work, place, QoE(latency_s=1e-3), space=space, time_limit_s=2.0)


@settings(max_examples=examples(60), **QUICK)
@given(st.integers(0, 10**9))
def test_every_pipeline_meets_the_rows_of_its_class(seed: int) -> None:
    dice = Dice(seed)
    work, place = fleet_question(8, 6, 3, batch=dice.pick((4, 8, 16, 28, 32)))
    times = GroupTimes.of(Problem.of(work, place, "participating", space=SearchSpace((4,), 2, (1,))), 4)
    count, depth = dice.pick(range(1, 8)), dice.pick((1, 2, 3))
    pipelines = Pipelines(times, depth, trains=True)
    cuts = [0, *sorted(random.Random(seed).sample(range(1, 8), count - 1)), 8]
    stages = [(first, stop, dice.pick(range(len(times.groups)))) for first, stop in itertools.pairwise(cuts)]
    seconds = np.array([times.seconds[group, times.range_of[first, stop]] for first, stop, group in stages])
    hops_s = times.hop_s[cuts]
    held = [min(times.micro_batches, 1 + depth * behind) for behind in reversed(range(count))]
    makespan_s = longest_path(times, held, trains=True)(list(seconds), list(hops_s[1:]), np.inf)
    trip, slowest = (seconds.sum() + 2 * hops_s.sum()) / makespan_s, seconds.max() / makespan_s
    behind = int(np.argmax(seconds[::-1] == seconds.max()))
    mine = PlanClass(trip, trip * (1 + ROUNDING), slowest, slowest * (1 + ROUNDING), min(behind, pipelines.deepest))
    chain = Chain(
        times.used[[group for *_, group in stages]].sum(axis=0), tuple(stages), seconds[::-1], 2 * hops_s[-2::-1]
    )
    rows = ClassRows(pipelines, makespan_s, mine)
    values = rows.of(chain)
    assert values is not None, "within the limits of every stage"
    assert (values <= rows.limits_s + 1e-6 * makespan_s).all()
    known = KnownChains(pipelines.deepest)
    known.add(chain)
    known.add(chain)
    used, sides = rows.of_known(known, 2)
    assert used.tolist() == [chain.used.tolist()] * 2
    assert sides == pytest.approx(np.stack([values, values]))
    too_short = ClassRows(pipelines, makespan_s * 0.2, mine)
    assert too_short.of(chain) is None
    assert too_short.of_known(known, 2)[1].shape == (0, len(values))


def test_classes_without_disjoint_chains_lead_to_no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "FEW_STAGES", 0)
    monkeypatch.setattr(large, "packed_chains", lambda *_: [])
    monkeypatch.setattr("dora_nb.planning.plan.is_large", lambda _: True)
    work, place = fleet_question(6, 4, 2, mode="training")
    found = plan(work, place, gap=0.01, space=SearchSpace((4,), 2, (1, 2))).best
    assert found.certificate is not None
    assert 0 < found.certificate.bound <= found.certificate.value


class Refutable:
    """A bound that refutes up to a makespan; it counts how often it is asked."""

    def __init__(self, most_s: float) -> None:
        self.most_s, self.deadline, self.asked = most_s, Deadline(), 0

    def refuted(self, makespan_s: float) -> bool:
        self.asked += 1
        assert self.asked < 50, "asked again and again"
        return makespan_s <= self.most_s


@pytest.mark.parametrize("most_s", [60.0, 90.0, 93.0, 96.0, 97.5, 98.9, 99.5])
def test_what_cannot_be_refuted_is_not_asked_for_ever(most_s: float) -> None:
    bound = Refutable(most_s)
    found_s = proven_s([bound], 0.01, lambda: 100.0, lambda _: None, lambda _: None)  # type: ignore[list-item]
    assert found_s <= most_s
    assert found_s >= min(99.0, most_s - 0.5)

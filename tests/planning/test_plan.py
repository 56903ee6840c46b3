"""What plan() returns, refuses and explains; and the planners it is compared with."""

from __future__ import annotations

import itertools
import math
import re
import threading
from typing import Any

import pytest
from builders import Dice, cluster, default_space, device, layer, questions, random_question, workload
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dora_nb.catalog import load_cluster, load_workload
from dora_nb.costs import CostTable, cost_table, evaluate
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InfeasibleError, InputError, UnknownNameError
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.baselines import even_split, single_device
from dora_nb.planning.plan import plan

QUICK = {"suppress_health_check": list(HealthCheck)}


def unlike() -> Cluster:
    members = [device("a", 2e9, active_w=9.0), device("b", 1e9), device("c", 1.5e9, idle_w=2.0, active_w=4.0)]
    return cluster(members, [3e6, 1e6, 2e6], energy_j_per_byte=1e-7)


def home() -> Workload:
    return workload([layer(f"l{index}", parameters=10_000, stash_elements=1000) for index in range(4)], batch=4)


def predicted(each: Plan) -> tuple[float, float]:
    assert each.prediction is not None
    return each.prediction.makespan_s, each.prediction.energy_participating_j


# ------------------------------------------------------------------------------------------ the plan set


@settings(max_examples=15, **QUICK)
@given(
    questions(layers=(2, 4), batches=(2, 4)),
    st.sampled_from(("latency", "energy")),
    st.sampled_from(("participating", "all-on")),
)
def test_a_plan_set_keeps_its_promises(question: tuple[Workload, Cluster], objective: str, accounting: str) -> None:
    work, place = question
    qoe = QoE(objective=objective, energy_accounting=accounting)
    answers = plan(work, place, qoe, most_plans=4, space=default_space(work, place))
    figures = []
    for each in answers.plans:
        again = evaluate(each, work, place).scheduled.prediction
        assert again == each.prediction
        certificate = each.certificate
        assert certificate is not None
        energy_j = again.energy_j(accounting)
        assert certificate.value == (again.makespan_s if certificate.objective == "latency" else energy_j)
        assert certificate.unit == ("s" if certificate.objective == "latency" else "J")
        assert certificate.bound <= certificate.value
        assert certificate.status != "optimal" or certificate.gap <= 0.01 * (1 + 1e-9)
        assert certificate.latency_limit_s is None or again.makespan_s <= certificate.latency_limit_s
        assert all(one.memory_bytes <= one.usable_memory_bytes * (1 + 1e-9) for one in again.devices)
        figures.append((again.makespan_s, energy_j))
    assert figures == sorted(figures)
    assert all(slow[1] < fast[1] for fast, slow in itertools.pairwise(figures)), "non-dominated"
    best = answers.best.certificate
    assert best is not None
    assert best.objective == objective, "the best plan is certified for the objective asked for"
    assert best.latency_limit_s is None


def same(first: PlanSet, second: PlanSet) -> bool:
    return (first.plans, first.baselines) == (second.plans, second.baselines)


@pytest.mark.parametrize("objective", ["latency", "energy"])
def test_the_same_question_twice_has_the_same_answer(objective: str) -> None:
    qoe = QoE(objective=objective, latency_s=20)
    assert same(plan(home(), unlike(), qoe), plan(home(), unlike(), qoe))


@pytest.mark.parametrize("accounting", ["participating", "all-on"])
@pytest.mark.parametrize("seed", [128, 134, 168, 189, 225])
def test_a_limit_equal_to_what_was_reached_can_be_kept(seed: int, accounting: str) -> None:
    """What a plan takes is a limit that this very plan keeps: no rounding may call it impossible."""
    work, place = random_question(Dice(seed), layers=(2, 4), batches=(2, 3, 4), device_count=(2, 4))
    space = default_space(work, place)

    def figures(each: Plan) -> tuple[float, float]:
        assert each.prediction is not None
        return each.prediction.makespan_s, each.prediction.energy_j(accounting)

    reached = plan(work, place, QoE(energy_accounting=accounting), most_plans=2, space=space)
    fastest_s, thriftiest_j = figures(reached.plans[0])[0], figures(reached.plans[-1])[1]
    again = plan(work, place, QoE(energy_accounting=accounting, latency_s=fastest_s), most_plans=2, space=space)
    assert figures(again.plans[0])[0] <= fastest_s
    again = plan(work, place, QoE(energy_accounting=accounting, energy_j=thriftiest_j), most_plans=2, space=space)
    assert figures(again.plans[-1])[1] <= thriftiest_j


@pytest.mark.parametrize("objective", ["latency", "energy"])
@pytest.mark.parametrize("seed", [118, 143, 168, 200])
def test_the_best_plan_is_certified_for_the_objective(seed: int, objective: str) -> None:
    """Also where several plans are equally fast, or equally thrifty, and only one of them is shown."""
    dice = Dice(seed)
    work, place = random_question(dice, layers=(2, 4), batches=(2, 3, 4), device_count=(2, 4))
    drowsy = [each.replace(idle_w=dice.pick((0.0, 0.0, each.idle_w))) for each in place.devices]
    place = place.replace(devices=tuple(drowsy))
    for accounting in ("participating", "all-on"):
        qoe = QoE(objective=objective, energy_accounting=accounting)
        best = plan(work, place, qoe, space=default_space(work, place)).best
        assert best.certificate is not None
        assert best.certificate.objective == objective, accounting
        assert best.certificate.latency_limit_s is None


def test_limits_are_kept_and_named() -> None:
    free = plan(home(), unlike(), gap=1e-4)
    middle_s = math.sqrt(predicted(free.plans[0])[0] * predicted(free.plans[-1])[0])
    limited = plan(home(), unlike(), QoE(latency_s=middle_s, objective="energy"), gap=1e-4)
    assert all(predicted(each)[0] <= middle_s for each in limited.plans)
    assert limited.best.certificate is not None
    assert limited.best.certificate.latency_limit_s == middle_s
    middle_j = (predicted(free.plans[0])[1] + predicted(free.plans[-1])[1]) / 2
    limited = plan(home(), unlike(), QoE(energy_j=middle_j), gap=1e-4)
    assert all(predicted(each)[1] <= middle_j for each in limited.plans)
    assert limited.best.certificate is not None
    assert limited.best.certificate.energy_limit_j == middle_j


def test_progress_is_told() -> None:
    said: list[str] = []
    plan(home(), unlike(), on_progress=said.append)
    assert any("program" in sentence for sentence in said)
    assert any("stage columns" in sentence for sentence in said)


def test_a_measured_table_is_used() -> None:
    table, single = cost_table(home(), cluster(1)), SearchSpace((4,), 1, (1,))
    slower = CostTable(2 * table.forward_s, 2 * table.backward_s, 2 * table.step_s, "measured")
    fast, slow = (plan(home(), cluster(1), space=single, table=each) for each in (table, slower))
    assert predicted(slow.best)[0] == pytest.approx(2 * predicted(fast.best)[0])


@pytest.mark.parametrize("objective", ["latency", "energy"])
@pytest.mark.parametrize("mode", ["training", "inference"])
def test_devices_that_draw_nothing_while_idle(objective: str, mode: str) -> None:
    """Then energy does not depend on the makespan, and the program may leave the makespan anywhere above its rows."""
    members = [device("a", 2e9, idle_w=0.0), device("b", 1e9, idle_w=0.0), device("c", 1.5e9, idle_w=0.0)]
    work = workload(4, mode=mode)
    answers = plan(work, cluster(members, [3e6, 1e6, 2e6]), QoE(objective=objective))
    assert answers.best.certificate is not None
    assert answers.best.certificate.objective == objective


def test_a_cluster_of_one_device_without_a_network() -> None:
    place = Cluster(name="alone", devices=(device("a"),))
    answers = plan(workload(3), place)
    assert predicted(answers.best)[0] == pytest.approx(3 * 3 * 4)
    assert answers.best.certificate is not None
    assert answers.best.certificate.gap == pytest.approx(0, abs=1e-9)


def test_figures_of_very_different_size_do_not_stop_planning() -> None:
    """A layer that takes a nanosecond next to ones that take half an hour: one of them must not end the planning."""
    deep = [layer("a", flops=1.0), layer("b", flops=1e12), layer("c", flops=1e12)]
    answers = plan(workload(deep, batch=1, mode="inference"), cluster(3, 1e9), space=SearchSpace((1,), 1, (1,)))
    assert answers.best.certificate is not None


# ------------------------------------------------------------------------------------------ what cannot be done


def reason(work: Workload, place: Cluster, qoe: QoE | None = None, **options: Any) -> str:
    with pytest.raises(InfeasibleError) as caught:
        plan(work, place, qoe, **options)
    return str(caught.value)


def test_a_latency_too_small_says_what_can_be_reached() -> None:
    fastest_s = predicted(plan(workload(3), cluster(2)).plans[0])[0]
    message = reason(workload(3), cluster(2), QoE(latency_s=fastest_s / 10))
    assert re.search(rf"latency of .* is impossible: the best plan takes {fastest_s:.3g} s", message), message
    assert "tiny on tiny" in message


def test_an_energy_too_small_says_what_can_be_reached() -> None:
    least_j = predicted(plan(workload(3), cluster(2), QoE(objective="energy")).best)[1]
    message = reason(workload(3), cluster(2), QoE(energy_j=least_j / 10))
    assert re.search(rf"energy of .* is impossible: the thriftiest plan takes {least_j:.3g} J", message), message


def test_a_latency_that_the_energy_limit_puts_out_of_reach() -> None:
    answers = plan(home(), unlike(), gap=1e-4)
    (fastest_s, _), (_, least_j) = predicted(answers.plans[0]), predicted(answers.plans[-1])
    message = reason(home(), unlike(), QoE(latency_s=fastest_s * 1.001, energy_j=least_j * 1.001), gap=1e-4)
    assert "latency" in message
    assert "within" in message


def test_two_limits_too_small_are_not_blamed_on_each_other() -> None:
    """The thriftiest plan within the latency limit does not exist: a plan that breaks it must not be quoted as such."""
    message = reason(workload(3), cluster(2), QoE(latency_s=1e-6, energy_j=1e-6))
    assert "memory" not in message
    assert not re.search(r"within 1 us is impossible: the thriftiest plan takes", message), message


def test_a_network_that_fits_nowhere_says_so() -> None:
    place = cluster([device(name, memory_bytes=1e6) for name in "ab"])
    for qoe in (None, QoE(latency_s=1), QoE(energy_j=1)):
        message = reason(workload([layer("a", parameters=10**6), layer("b")]), place, qoe)
        assert "memory" in message
        assert "smaller batch" in message


def test_no_time_still_gives_a_plan_with_a_true_bound() -> None:
    work, place = workload(5, batch=12), cluster([device("abcde"[index], 1e9 + index * 1e8) for index in range(5)])
    patient, hasty = plan(work, place, gap=1e-3), plan(work, place, time_limit_s=1e-9)
    value, certificate = predicted(patient.plans[0])[0], hasty.best.certificate
    assert certificate is not None
    assert certificate.bound <= value * (1 + 1e-9) <= certificate.value * (1 + 2e-3)
    assert (certificate.status == "optimal") == (certificate.gap <= 0.01)


def test_no_time_limit_at_all() -> None:
    """Infinitely much time is a value above 0, which is all that is asked for."""
    assert len(plan(workload(2), cluster(1), time_limit_s=math.inf)) == 1


@pytest.mark.parametrize("end", ["source", "sink"])
def test_an_unknown_source_or_sink(end: str) -> None:
    with pytest.raises(UnknownNameError, match=rf"{end}.*nobody"):
        plan(workload(2, **{end: "nobody"}), cluster(2))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gap", 0),
        ("gap", 1),
        ("gap", -0.1),
        ("gap", math.nan),
        ("most_plans", 0),
        ("time_limit_s", 0),
        ("time_limit_s", -1),
        ("time_limit_s", math.nan),
        ("solver", "abacus"),
    ],
)
def test_values_that_cannot_be_used(field: str, value: float) -> None:
    with pytest.raises(InputError) as caught:
        plan(workload(2), cluster(2), **{field: value})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "space"),
    [
        ("micro_batch_sizes", SearchSpace((3,), 2, (1,))),
        ("micro_batch_sizes", SearchSpace((), 2, (1,))),
        ("micro_batch_sizes", SearchSpace((0,), 2, (1,))),
        ("most_replicas", SearchSpace((1,), 0, (1,))),
        ("in_flight_depths", SearchSpace((1,), 2, ())),
        ("in_flight_depths", SearchSpace((1,), 2, (0, 1))),
    ],
)
def test_spaces_without_plans(field: str, space: SearchSpace) -> None:
    with pytest.raises(InputError) as caught:
        plan(workload(2, batch=4), cluster(2), space=space)
    assert caught.value.field == field


def test_the_space_is_kept() -> None:
    space = SearchSpace((2,), 1, (2,))
    for each in plan(home(), unlike(), space=space).plans:
        assert each.micro_batch == 2
        assert all(len(stage.replicas) == 1 for stage in each.stages)
        assert each.certificate is not None
        assert each.certificate.scope == space.describe()


# ------------------------------------------------------------------------------------------ baselines


def problem(work: Workload, place: Cluster) -> Problem:
    return Problem.of(work, place, "participating")


def test_the_best_single_device_by_hand() -> None:
    members = [device("a", 1e9, active_w=3.0), device("b", 2e9, active_w=50.0), device("c", 4e9, memory_bytes=15.0)]
    work, place = workload([layer("x", parameters=1), layer("y"), layer("z")], batch=4), cluster(members)
    fastest = single_device(problem(work, place), QoE())
    assert fastest is not None
    assert fastest.devices == ("b",)
    assert predicted(fastest)[0] == pytest.approx(3 * 3 * 4 / 2)
    thriftiest = single_device(problem(work, place), QoE(objective="energy"))
    assert thriftiest is not None
    assert thriftiest.devices == ("a",)
    assert predicted(thriftiest)[1] == pytest.approx(36 * 3)


def test_a_baseline_within_the_limits_goes_first() -> None:
    place = cluster([device("a", 1e9, active_w=3.0), device("b", 2e9, active_w=50.0)])
    kept = single_device(problem(workload(3), place), QoE(objective="energy", latency_s=20))
    assert kept is not None
    assert kept.devices == ("b",)


def test_no_baseline_where_nothing_fits() -> None:
    work, place = workload(2), cluster([device(name, memory_bytes=1.0) for name in "ab"])
    assert even_split(problem(work, place), QoE()) is None  # no room for what crosses the cut
    heavy = workload([layer("x", parameters=1), layer("y")])
    assert single_device(problem(heavy, place), QoE()) is None


def test_an_even_split_by_hand() -> None:
    """Six layers on three equal devices and a free network: (M + 2)(F + B) with M = 4, F = 2, B = 4."""
    split = even_split(problem(workload(6, batch=4), cluster(3, 1e12)), QoE())
    assert split is not None
    assert [(stage.first_layer, stage.stop_layer) for stage in split.stages] == [(0, 2), (2, 4), (4, 6)]
    assert split.devices == ("a", "b", "c")
    assert split.micro_batch == 1
    assert predicted(split)[0] == pytest.approx(6 * 6, rel=1e-4)


@pytest.mark.parametrize("layers", range(1, 12))
@pytest.mark.parametrize("count", range(1, 6))
def test_an_even_split_is_even(layers: int, count: int) -> None:
    split = even_split(problem(workload(layers, batch=1), cluster(count)), QoE())
    assert split is not None
    sizes = [stage.stop_layer - stage.first_layer for stage in split.stages]
    assert sum(sizes) == layers
    assert len(sizes) == min(layers, count)
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("tight", [False, True])
def test_baselines_with_tied_parameters_keep_memory(tight: bool) -> None:
    ends = {"parameters": 10**6, "tied_parameters": 10**6}
    work = workload([layer("e", **ends), layer("m"), layer("n"), layer("h", **ends)], batch=2)
    room = 60e6 if tight else 1e12
    place = cluster([device(name, memory_bytes=room) for name in "ab"])
    for baseline in (single_device(problem(work, place), QoE()), even_split(problem(work, place), QoE())):
        assert baseline is not None
        assert baseline.tied in ("one-stage", "synchronised", "hosted")
        assert baseline.prediction is not None
        assert all(each.memory_bytes <= each.usable_memory_bytes for each in baseline.prediction.devices)
        assert evaluate(baseline, work, place).prediction == baseline.prediction


def test_plans_are_no_worse_than_their_baselines() -> None:
    answers = plan(home(), unlike(), gap=1e-3)
    assert answers.baselines
    for baseline in answers.baselines:
        assert predicted(answers.plans[0])[0] <= predicted(baseline)[0] * (1 + 1e-9)
        assert predicted(answers.plans[-1])[1] <= predicted(baseline)[1] * (1 + 1.01e-3)


@pytest.fixture(scope="module")
def whole() -> PlanSet:
    """All that there is to find at home, in as much time as it takes."""
    return plan(load_workload("qwen3-0.6b", mode="training", batch=16), load_cluster("smart-home"))


@pytest.mark.parametrize("time_limit_s", [1e-3, 0.3])
def test_a_time_limit_returns_the_best_so_far_with_its_true_gap(whole: PlanSet, time_limit_s: float) -> None:
    cut_short = plan(whole.workload, whole.cluster, time_limit_s=time_limit_s)
    assert {each.certificate.status for each in cut_short.plans} <= {"time limit", "optimal"}
    for objective, at in (("latency", 0), ("energy", -1)):
        best, found = whole.plans[at].certificate, cut_short.plans[at].certificate
        assert best.objective == found.objective == objective
        assert found.bound <= best.value * (1 + 1e-9)  # what was proven in a hurry is still true
        assert found.value >= best.bound * (1 - 1e-9)
        assert found.gap == pytest.approx((found.value - found.bound) / found.value)


def test_a_plan_set_is_returned_when_somebody_cancels(whole: PlanSet) -> None:
    cancel = threading.Event()

    def soon(step: str) -> None:
        if "take less energy" in step:
            cancel.set()

    plans = plan(whole.workload, whole.cluster, on_progress=soon, cancel=cancel)
    assert plans.plans
    assert {each.certificate.status for each in plans.plans} <= {"cancelled", "optimal"}
    best = whole.best.certificate
    assert plans.best.certificate.bound <= best.value * (1 + 1e-9)

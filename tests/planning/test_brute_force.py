"""The answers against every plan there is: all cuts, groups, shares, micro-batch sizes, depths, tied placements.

A plan's transfers are list-scheduled; where a bound is above what its operations need at least, all its transfer
orders are searched for one that would refute the bound.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest
from builders import (
    Dice,
    Rated,
    cluster,
    default_space,
    device,
    examples,
    layer,
    questions,
    random_question,
    random_workload,
    rated_plans,
    seeded,
    sliceable_question,
    workload,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dora_nb.costs.memory import MemoryModel
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Weights
from dora_nb.domain.qoe import EnergyAccounting, QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InfeasibleError
from dora_nb.formulation.columns import build_columns
from dora_nb.formulation.problem import Problem
from dora_nb.planning.bounding.screening import screen
from dora_nb.planning.bounding.search import Search
from dora_nb.planning.bounding.targets import Targets
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.plan import plan
from dora_nb.planning.scheduling import fits_memory, predicted
from dora_nb.planning.settle import settle_all

#: Relative rounding between two ways of adding up the same figures.
ROUNDING = 1e-9

Question = tuple[Workload, Cluster]
ACCOUNTINGS = st.sampled_from(("participating", "all-on"))


def search(
    problem: Problem,
    limits_s: Sequence[float] = (np.inf,),
    energy_limit_j: float = np.inf,
    *,
    tolerance: float = 1e-6,
    most_labels: int = 1_000_000,
    seconds: float = 100.0,
    schedules: int = 1_000_000,
) -> Targets:
    targets = Targets(np.array(limits_s, dtype=float), energy_limit_j=energy_limit_j, tolerance=tolerance)
    columns = build_columns(problem, problem.space.most_devices, screen(problem, targets))
    deadline = Deadline(time.monotonic() + seconds)
    hunt = Search(problem, columns, targets, most_labels, deadline, schedules)
    hunt.run()
    settle_all(problem, targets, hunt.open, solver="highs", deadline=deadline)
    return targets


def check_against_all(problem: Problem, share: float, scarce: bool) -> None:
    """Bounds and answers against every plan that fits, at a share of what plans take; with scarce energy or any."""
    plans = rated_plans(problem)
    if not plans:
        return
    latency_s, energy_j = limits_of(plans, share)
    targets = search(problem, (latency_s, np.inf), energy_j if scarce else np.inf)
    check_bounds(targets, plans)
    check_answers(targets, plans)


def check_bounds(targets: Targets, plans: Sequence[Rated]) -> None:
    """No transfer order of any plan refutes a bound."""
    energy_limit_j = targets.energy_limit_j
    for rated in plans:
        below_s = targets.latency_bound_s * (1 - ROUNDING)
        assert not rated.reaches_latency(below_s, energy_limit_j), (rated.plan, targets.latency_bound_s)
        for limit_s, bound_j in zip(targets.latency_limits_s, targets.energy_bounds_j, strict=True):
            below_j = min(bound_j * (1 - ROUNDING), energy_limit_j)
            assert not rated.reaches_energy(below_j, limit_s), (rated.plan, limit_s, bound_j)


def check_answers(targets: Targets, plans: Sequence[Rated]) -> None:
    """Every answer is a plan of the space that fits in memory, and the best one where the bound says so."""
    found = [each for each in (targets.latency_plan, *targets.energy_plans) if each is not None]
    assert all(fits_memory(predicted(each, plans[0].problem)) for each in found)
    affordable = [rated for rated in plans if rated.energy_j <= targets.energy_limit_j * (1 - ROUNDING)]
    fastest_s = min((rated.makespan_s for rated in affordable), default=np.inf)
    if targets.latency_bound_s >= targets.best_latency_s * (1 - 1e-6):
        assert targets.best_latency_s <= fastest_s * (1 + 2e-6)
    for limit_s, found_j, bound_j in zip(
        targets.latency_limits_s, targets.best_energy_j, targets.energy_bounds_j, strict=True
    ):
        least_j = min((rated.energy_j for rated in affordable if rated.makespan_s <= limit_s), default=np.inf)
        if np.isfinite(found_j) and bound_j >= found_j * (1 - 1e-6):
            assert found_j <= least_j * (1 + 2e-6)


def limits_of(plans: Sequence[Rated], share: float) -> tuple[float, float]:
    """A latency limit between the fastest plan and the thriftiest, and an energy limit between the two."""
    fastest = min(plans, key=lambda rated: rated.makespan_s)
    thriftiest = min(plans, key=lambda rated: rated.energy_j)
    latency_s = fastest.makespan_s + share * max(thriftiest.makespan_s - fastest.makespan_s, 0.0)
    energy_j = thriftiest.energy_j + share * max(fastest.energy_j - thriftiest.energy_j, 0.0)
    return latency_s * 1.0001, energy_j * 1.0001


SMALL = {"layers": (2, 3), "batches": (1, 2, 3, 4)}
QUICK = {"suppress_health_check": list(HealthCheck)}


@settings(max_examples=examples(40), **QUICK)
@given(questions(**SMALL), ACCOUNTINGS, st.sampled_from((0.0, 0.3, 0.7)), st.booleans())
def test_no_plan_refutes_the_bounds_of_a_search(
    question: Question, accounting: EnergyAccounting, share: float, scarce: bool
) -> None:
    problem = Problem.of(*question, accounting, space=default_space(*question))
    plans = rated_plans(problem)
    latency_s, energy_j = limits_of(plans, share)
    targets = search(problem, (latency_s, np.inf), energy_j if scarce else np.inf)
    check_bounds(targets, plans)
    check_answers(targets, plans)
    assert targets.best_latency_s >= min(rated.makespan_s for rated in plans) * (1 - ROUNDING)


def _short_of_memory(dice: Dice) -> Question:
    """Layers that keep much more than enters them, on devices that cannot hold it all."""
    work, place = random_question(dice, layers=(3, 3), batches=(2, 4), modes=("training",), device_count=(2, 2))
    layers = tuple(each.replace(stash_elements=dice.number(10**5, 10**6)) for each in work.layers)
    work = work.replace(layers=layers)
    kept = sum(each.stash_elements for each in layers) * 4 * work.batch
    devices = [each.replace(memory_bytes=4e6 + kept * dice.pick((0.2, 0.4, 0.8))) for each in place.devices]
    return work, place.replace(devices=tuple(devices))


@settings(max_examples=examples(10), **QUICK)
@given(seeded(_short_of_memory), ACCOUNTINGS, st.sampled_from((0.0, 0.3, 0.7)), st.booleans())
def test_no_plan_refutes_the_bounds_where_stages_may_recompute(
    question: Question, accounting: EnergyAccounting, share: float, scarce: bool
) -> None:
    """Every stage of the plans compared with may recompute, whether or not it fits without."""
    problem = Problem.of(*question, accounting, space=default_space(*question, recomputation=True))
    check_against_all(problem, share, scarce)


@pytest.mark.parametrize(("held", "makespan_s"), [(3, 12.0), (2, 12.5)])
def test_no_stage_holds_more_in_flight_than_fits(held: int, makespan_s: float) -> None:
    """A device holds one of two layers. Three in flight on the slower one take 12 s, its own work; two take 12.5 s."""
    layers = [layer(name, parameters=10**6, stash_elements=10**6) for name in "xy"]
    work = workload(layers, batch=4)
    memory = MemoryModel(work)
    room = {
        name: float(memory.replica_bytes(0, 1, samples=1.0, in_flight=count, micro_batches=4, replicated=False))
        for name, count in (("a", held), ("b", 1))
    }
    devices = [device("a", memory_bytes=room["a"]), device("b", 2e9, memory_bytes=room["b"])]
    place = cluster(devices, 1e12)
    problem = Problem.of(work, place, "participating", space=default_space(work, place, (1, 2, 3)))
    targets = search(problem)
    assert targets.best_latency_s == pytest.approx(makespan_s, rel=1e-3)
    assert targets.latency_plan is not None
    assert targets.latency_plan.stages[0].in_flight == held
    check_answers(targets, rated_plans(problem))


def _much_to_read(dice: Dice) -> Question:
    """Layers whose weights take longer to read than to multiply on some devices, and do not fit everywhere."""
    work, place = random_question(dice, layers=(2, 3), batches=(1, 2), modes=("inference",))
    layers = [each.replace(parameters=dice.number(10**5, 10**6), tied_parameters=0) for each in work.layers]
    whole = 4 * sum(each.parameters for each in layers)
    devices = [
        each.replace(
            memory_bytes=4e6 + whole * dice.pick((0.4, 0.8, 2.0)),
            memory_bytes_per_s=dice.pick((1e6, 1e7)),
            flops_per_s={
                name: rates
                | {kind: rates["fp32"] * times for kind in ("fp16", "bf16") if (times := dice.pick((0, 0.5, 1, 3)))}
                for name, rates in each.flops_per_s.items()
            },
        )
        for each in place.devices
    ]
    return work.replace(layers=tuple(layers)), place.replace(devices=tuple(devices))


@settings(max_examples=examples(10), **QUICK)
@given(
    seeded(_much_to_read),
    ACCOUNTINGS,
    st.sampled_from((0.0, 0.3, 0.7)),
    st.sampled_from([("fp16",), ("int8",), ("fp16", "int8"), ("fp16", "bf16", "int8")]),
    st.booleans(),
)
def test_no_plan_refutes_the_bounds_where_weights_may_be_held_in_fewer_bits(
    question: Question, accounting: EnergyAccounting, share: float, weights: tuple[Weights, ...], scarce: bool
) -> None:
    """Every stage of the plans compared with may hold them so, whether or not it gains."""
    problem = Problem.of(*question, accounting, space=default_space(*question, weights=weights))
    check_against_all(problem, share, scarce)


@settings(max_examples=examples(30), **QUICK)
@given(
    seeded(sliceable_question),
    ACCOUNTINGS,
    st.sampled_from((0.0, 0.3, 0.7)),
    st.sampled_from(((2, ()), (3, ()), (2, ("int8",)))),
    st.booleans(),
)
def test_no_plan_refutes_the_bounds_where_stages_may_have_shards(
    question: Question,
    accounting: EnergyAccounting,
    share: float,
    ways: tuple[int, tuple[Weights, ...]],
    scarce: bool,
) -> None:
    space = default_space(*question, shards=ways[0], weights=ways[1])
    problem = Problem.of(*question, accounting, space=space, overlap=not scarce)
    check_against_all(problem, share, scarce)


@settings(max_examples=examples(15), **QUICK)
@given(
    seeded(lambda dice: sliceable_question(dice, modes=("training",))),
    ACCOUNTINGS,
    st.sampled_from((0.0, 0.3, 0.7)),
    st.booleans(),
    st.booleans(),
)
def test_no_plan_refutes_the_bounds_where_stages_may_train_shards(
    question: Question, accounting: EnergyAccounting, share: float, scarce: bool, recomputation: bool
) -> None:
    space = default_space(*question, shards=3, recomputation=recomputation)
    problem = Problem.of(*question, accounting, space=space)
    check_against_all(problem, share, scarce)


@settings(max_examples=examples(15), **QUICK)
@given(
    seeded(lambda dice: sliceable_question(dice, modes=("inference", "generate", "training"))),
    ACCOUNTINGS,
    st.sampled_from(("latency", "energy")),
)
def test_plans_with_shards_are_within_their_gap_of_the_best_of_all(
    question: Question, accounting: EnergyAccounting, objective: str
) -> None:
    """Through the planner: partition program, schedules, ties and evaluation included."""
    space = default_space(*question, shards=3)
    plans = rated_plans(Problem.of(*question, accounting, space=space))
    qoe = QoE(objective=objective, energy_accounting=accounting)
    if not plans:
        with pytest.raises(InfeasibleError):
            plan(*question, qoe, space=space)
        return
    best = plan(*question, qoe, most_plans=2, gap=1e-6, space=space).best
    certificate = best.certificate
    assert certificate is not None
    assert "layers sliced over up to 3 devices" in certificate.scope
    below = certificate.bound * (1 - ROUNDING)
    if objective == "latency":
        assert not [rated for rated in plans if rated.reaches_latency(below)]
        least = min(rated.makespan_s for rated in plans)
    else:
        assert not [rated for rated in plans if rated.reaches_energy(below)]
        least = min(rated.energy_j for rated in plans)
    if certificate.gap <= 1e-6:
        assert certificate.value <= least * (1 + 2e-6)


@settings(max_examples=examples(15), **QUICK)
@given(questions(layers=(3, 3), batches=(2, 4), device_count=(3, 3), kinds=("switch",), tied=False), ACCOUNTINGS)
def test_no_plan_refutes_the_bounds_on_a_switch(question: Question, accounting: EnergyAccounting) -> None:
    problem = Problem.of(*question, accounting, space=default_space(*question))
    plans = rated_plans(problem)
    targets = search(problem)
    check_bounds(targets, plans)
    check_answers(targets, plans)


def _in_groups(dice: Dice) -> Question:
    """Tokens that take a group about as long as handing them over, so that several groups can be worth it."""
    work, place = random_question(dice, layers=(2, 3), batches=(2, 4), modes=("generate",), device_count=(2, 3))
    return work.replace(new_tokens=dice.pick((2, 3, 9))), place


@settings(max_examples=examples(15), **QUICK)
@given(seeded(_in_groups), ACCOUNTINGS, st.sampled_from((0.0, 0.3, 0.7)))
def test_no_plan_refutes_the_bounds_where_groups_follow_each_other(
    question: Question, accounting: EnergyAccounting, share: float
) -> None:
    problem = Problem.of(*question, accounting, space=default_space(*question, token_groups=(1, 2, 4)))
    plans = rated_plans(problem)
    latency_s, _ = limits_of(plans, share)
    targets = search(problem, (latency_s, np.inf))
    check_bounds(targets, plans)
    check_answers(targets, plans)


NETWORKS = ("links", "cell", "mixed", "mixed")  # where hand-overs depend on both ends


@settings(max_examples=examples(10), **QUICK)
@given(questions(**SMALL, kinds=NETWORKS), ACCOUNTINGS, st.sampled_from((0.0, 0.3, 0.7)), st.booleans())
def test_no_plan_refutes_the_bounds_on_any_network(
    question: Question, accounting: EnergyAccounting, share: float, scarce: bool
) -> None:
    problem = Problem.of(*question, accounting, space=default_space(*question))
    plans = rated_plans(problem)
    latency_s, energy_j = limits_of(plans, share)
    targets = search(problem, (latency_s, np.inf), energy_j if scarce else np.inf)
    check_bounds(targets, plans)
    check_answers(targets, plans)


@settings(max_examples=examples(15), **QUICK)
@given(questions(**SMALL), ACCOUNTINGS, st.sampled_from(((5, 100.0, 3), (1, 100.0, 0), (1_000, -1.0, 0))))
def test_a_search_that_stops_early_still_returns_true_bounds(
    question: Question, accounting: EnergyAccounting, stop: tuple[int, float, int]
) -> None:
    most_labels, seconds, schedules = stop
    problem = Problem.of(*question, accounting, space=default_space(*question, (1,)))
    plans = rated_plans(problem)
    latency_s, _ = limits_of(plans, 0.5)
    targets = search(problem, (latency_s, np.inf), most_labels=most_labels, seconds=seconds, schedules=schedules)
    assert np.isfinite(targets.latency_bound_s)
    check_bounds(targets, plans)


def tight(dice: Dice) -> Question:
    """Devices that hold about a part of what the whole network needs."""
    work, place = random_question(dice, **SMALL)
    per_parameter = 16 if work.trains else 4
    stash = sum(layer.stash_elements for layer in work.layers) * 4 * work.batch
    whole = work.parameters * per_parameter + stash + 4e6
    devices = [each.replace(memory_bytes=whole * dice.pick((0.2, 0.4, 0.7, 1.5))) for each in place.devices]
    return work, place.replace(devices=tuple(devices))


@settings(max_examples=examples(12), **QUICK)
@given(seeded(tight))
def test_bounds_and_answers_where_memory_is_scarce(question: Question) -> None:
    problem = Problem.of(*question, "participating", space=default_space(*question))
    plans = rated_plans(problem)
    targets = search(problem)
    assert (targets.latency_plan is not None) == bool(plans)
    if plans:
        check_bounds(targets, plans)
        check_answers(targets, plans)


@settings(max_examples=examples(12), **QUICK)
@given(
    questions(**SMALL, kinds=("shared", "switch", *NETWORKS)),
    ACCOUNTINGS,
    st.sampled_from(("latency", "energy")),
    st.sampled_from((None, 0.0, 0.4)),
    st.sampled_from((None, 0.4)),
)
def test_plans_are_within_their_gap_of_the_best_of_all(
    question: Question,
    accounting: EnergyAccounting,
    objective: str,
    latency_share: float | None,
    energy_share: float | None,
) -> None:
    work, place = question
    space = default_space(work, place)
    problem = Problem.of(work, place, accounting, space=space)
    plans = rated_plans(problem)
    qoe = QoE(
        objective=objective,
        energy_accounting=accounting,
        latency_s=None if latency_share is None else limits_of(plans, latency_share)[0],
        energy_j=None if energy_share is None else limits_of(plans, energy_share)[1],
    )
    latency_limit_s, energy_limit_j = qoe.latency_s or np.inf, qoe.energy_j or np.inf
    allowed = [rated for rated in plans if rated.energy_j <= energy_limit_j]
    try:
        answers = plan(work, place, qoe, most_plans=3, gap=1e-6, space=space)
    except InfeasibleError:
        assert not [rated for rated in allowed if rated.makespan_s <= latency_limit_s]
        return
    for each in answers.plans:
        certificate, prediction = each.certificate, each.prediction
        assert certificate is not None
        assert prediction is not None
        own_limit_s = certificate.latency_limit_s or np.inf
        assert prediction.makespan_s <= own_limit_s
        assert prediction.energy_j(accounting) <= energy_limit_j * (1 + ROUNDING)
        below = certificate.bound * (1 - ROUNDING)
        if certificate.objective == "latency":
            assert certificate.value == prediction.makespan_s
            refuted = [rated for rated in plans if rated.reaches_latency(below, energy_limit_j)]
            best = min(rated.makespan_s for rated in allowed)
        else:
            assert certificate.value == prediction.energy_j(accounting)
            below = min(below, energy_limit_j)
            refuted = [rated for rated in plans if rated.reaches_energy(below, own_limit_s)]
            best = min(rated.energy_j for rated in allowed if rated.makespan_s <= own_limit_s)
        assert not refuted, (refuted[0].plan, certificate)
        assert certificate.gap == pytest.approx((certificate.value - certificate.bound) / certificate.value, abs=1e-12)
        if certificate.gap <= 1e-6:
            assert certificate.value <= best * (1 + 2e-6)  # the others are only list-scheduled


@settings(max_examples=12, **QUICK)
@given(questions(layers=(2, 2), batches=(2, 3), device_count=(2, 2)))
def test_the_bounds_are_below_every_order_of_every_plan(question: Question) -> None:
    """No shortcut here: every transfer order of every plan of the very smallest problems."""
    problem = Problem.of(*question, "participating", space=default_space(*question))
    targets = search(problem)
    plans = rated_plans(problem)
    assert plans
    best_s = min(rated.best_s(np.inf) for rated in plans)
    least_j = min(rated.dynamic_j + rated.idle_w * rated.best_s(np.inf) for rated in plans)
    assert targets.latency_bound_s <= best_s * (1 + ROUNDING)
    assert targets.energy_bounds_j[-1] <= least_j * (1 + ROUNDING)
    assert targets.best_latency_s >= best_s * (1 - ROUNDING)


@settings(max_examples=10, **QUICK)
@given(seeded(lambda dice: random_workload(dice, layers=(3, 3), batches=(2, 4), ends=False)), st.integers(1, 4))
def test_equal_devices_are_interchangeable(work: Workload, rate: int) -> None:
    """Three equal devices: the answers are those of the brute force, which knows no types."""
    problem = Problem.of(work, cluster(3, rate * 1e6), "participating", space=default_space(work, cluster(3)))
    assert len(problem.fleet.types) == 1
    plans = rated_plans(problem)
    targets = search(problem)
    check_bounds(targets, plans)
    check_answers(targets, plans)


def test_replicas_that_share_a_slow_uplink_are_not_bounded_by_a_single_one() -> None:
    """On a switch, two slow ports carry a hand-over in half the time of one; the bound must not assume one port.

    Two devices are fast at the first layer and have slow ports, the third is fast at the second layer and has a fast
    port. Two samples, one micro-batch: 1 s of computing on each of the two, 1 s on their ports, then next to nothing.
    """
    first = {"matmul": {"fp32": 1e9}, "conv": {"fp32": 1e6}}
    second = {"matmul": {"fp32": 1e6}, "conv": {"fp32": 1e12}}
    place = cluster([device("a", second), device("b", first), device("c", first)], [1e12, 1e6, 1e6], "switch")
    work = workload([layer("x"), layer("y", operator="conv")], mode="inference", batch=2)
    problem = Problem.of(work, place, "participating")
    plans = rated_plans(problem)
    assert min(rated.makespan_s for rated in plans) == pytest.approx(2.002, rel=1e-3)
    targets = search(problem)
    assert targets.latency_bound_s <= 2.003
    assert targets.best_latency_s == pytest.approx(2.002, rel=1e-3)

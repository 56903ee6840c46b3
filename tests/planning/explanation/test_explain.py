"""Relaxations and marginal values, held against every plan there is."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import pytest
from builders import (
    Dice,
    Rated,
    cluster,
    default_space,
    device,
    examples,
    layer,
    random_question,
    rated_plans,
    seeded,
    workload,
)
from hypothesis import HealthCheck, given, settings

import dora_nb
from dora_nb.catalog import load_cluster, load_workload
from dora_nb.costs import evaluate
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.explanation import Change, Explanation, MarginalValue, Relaxation
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InfeasibleError, InputError
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.explanation.explain import explain
from dora_nb.planning.explanation.relax import PRECISION
from dora_nb.planning.plan import plan

ROUNDING = 1e-9
GAP = 1e-6
QUICK = {"suppress_health_check": list(HealthCheck)}
SMALL = {"layers": (2, 3), "batches": (1, 2, 3), "device_count": (2, 2)}

Asked = tuple[Workload, Cluster, QoE, SearchSpace]


# ---------------------------------------------------------------------------------------------- by brute force


def with_memory(place: Cluster, usable_bytes: dict[str, float]) -> Cluster:
    devices = [
        each.replace(memory_bytes=usable_bytes.get(each.id, each.usable_memory_bytes), usable_memory_fraction=1.0)
        for each in place.devices
    ]
    return place.replace(devices=tuple(devices))


def with_rates(place: Cluster, times: float = 1.0, more: dict[str, float] | None = None) -> Cluster:
    (domain,) = place.domains
    rates = {name: rate * times + (more or {}).get(name, 0.0) for name, rate in domain.rates_bytes_per_s.items()}
    return place.replace(domains=(domain.replace(rates_bytes_per_s=rates),))


def every_rated(work: Workload, place: Cluster, qoe: QoE, space: SearchSpace) -> list[Rated]:
    """Every plan of the space, as if memory had no limit."""
    roomy = with_memory(place, dict.fromkeys(place.device_ids, 1e15))
    return rated_plans(Problem.of(work, roomy, qoe.energy_accounting, space=space))


def held_bytes(rated: Rated) -> dict[str, float]:
    prediction = evaluate(rated.plan, rated.problem.workload, rated.problem.cluster, rated.problem.table).prediction
    return {each.device: each.memory_bytes for each in prediction.devices}


def room(place: Cluster) -> dict[str, float]:
    return {each.id: each.usable_memory_bytes for each in place.devices}


def fits(held: dict[str, float], usable: dict[str, float]) -> bool:
    return all(size <= usable[name] * (1 + ROUNDING) for name, size in held.items())


def limits(qoe: QoE) -> tuple[float, float]:
    return qoe.latency_s or math.inf, qoe.energy_j or math.inf


def some_order_keeps(rated: Rated, latency_s: float, energy_j: float) -> bool:
    """Whether some order of a plan's transfers keeps both limits with something to spare."""
    if rated.makespan_s <= latency_s * (1 - ROUNDING) and rated.energy_j <= energy_j * (1 - ROUNDING):
        return True
    return rated.reaches_latency(latency_s * (1 - ROUNDING), energy_j * (1 - ROUNDING))


def changed(question: Asked, changes: Sequence[Change], which: str = "needed") -> tuple[Cluster, QoE]:
    """The cluster and limits after some changes."""
    _, place, qoe, _ = question
    memory, times = {}, 1.0
    for change in changes:
        value = getattr(change, which)
        if change.limit == "memory":
            memory[change.device] = value
        elif change.limit == "bandwidth":
            times = value
        else:
            qoe = qoe.replace(**{"latency_s" if change.limit == "latency" else "energy_j": value})
    return with_rates(with_memory(place, memory), times), qoe


def no_plan_at(question: Asked, place: Cluster, qoe: QoE) -> bool:
    """Whether no order of any plan keeps the limits (in memory exactly, in time and energy with a hair to spare)."""
    usable = room(place)
    return not any(
        some_order_keeps(rated, *limits(qoe))
        for rated in every_rated(question[0], place, qoe, question[3])
        if fits(held_bytes(rated), {name: size * (1 - 2 * ROUNDING) for name, size in usable.items()})
    )


def check_relaxation(question: Asked, relaxation: Relaxation) -> None:
    """The plan keeps the changed limits; each change alone, a little smaller, is not enough."""
    work, _, _, _ = question
    place, qoe = changed(question, relaxation.changes)
    prediction = evaluate(relaxation.plan, work, place).prediction
    latency_s, energy_j = limits(qoe)
    assert prediction.makespan_s <= latency_s * (1 + ROUNDING)
    assert prediction.energy_j(qoe.energy_accounting) <= energy_j * (1 + ROUNDING)
    assert all(each.memory_bytes <= each.usable_memory_bytes * (1 + ROUNDING) for each in prediction.devices)
    assert relaxation.plan.certificate is not None
    for change in relaxation.changes:
        assert change.needed > change.asked
        if change.impossible is not None:
            assert change.asked < change.impossible <= change.needed * (1 + ROUNDING)
            others = [each for each in relaxation.changes if each is not change]
            tight = [change.model_copy(update={"needed": change.impossible}), *others]
            assert no_plan_at(question, *changed(question, tight)), change


def least_enough(question: Asked, kind: str, name: str | None) -> float:
    """The least value of one limit at which a list-scheduled plan keeps all others; infinite where none does."""
    work, place, qoe, space = question
    latency_s, energy_j = limits(qoe)
    least = math.inf
    for rated in every_rated(work, place, qoe, space):
        held = held_bytes(rated)
        fast, thrifty = rated.makespan_s <= latency_s, rated.energy_j <= energy_j
        roomy = fits(held, room(place) | ({str(name): math.inf} if kind == "memory" else {}))
        figure = {"latency": rated.makespan_s, "energy": rated.energy_j, "memory": held.get(str(name), 0.0)}[kind]
        if roomy and (fast or kind == "latency") and (thrifty or kind == "energy"):
            least = min(least, figure)
    return least


def check_infeasible(question: Asked, explanation: Explanation) -> None:
    singles = {(each.changes[0].limit, each.changes[0].device): each for each in explanation.relaxations}
    for relaxation in explanation.relaxations:
        check_relaxation(question, relaxation)
    alone = len(explanation.relaxations) == 0 or len(explanation.relaxations[0].changes) == 1
    _, place, qoe, _ = question
    kinds = [("memory", name) for name in place.device_ids]
    kinds += [("latency", None)] if qoe.latency_s else []
    kinds += [("energy", None)] if qoe.energy_j else []
    for kind, name in kinds:
        least = least_enough(question, kind, name)
        if math.isinf(least):
            continue
        assert alone, "a pair where a single limit is enough"
        change = singles[kind, name].changes[0]
        # Bisection ends at a fraction of the change, or of the limit.
        slack = max(PRECISION * (change.needed - change.asked), PRECISION / 10 * change.asked)
        slack += 2 * GAP * least if kind in ("latency", "energy") else 0.0
        assert change.needed <= least + slack * (1 + ROUNDING), (kind, name, least)
    for ruled_out in explanation.ruled_out:
        if ruled_out.proven:
            wide = {"latency": 1e12, "energy": 1e15, "memory": 1e15, "bandwidth": 999.0}
            units = {"latency": "s", "energy": "J", "memory": "bytes", "bandwidth": "times"}
            loose = [
                Change(limit=kind, device=name, unit=units[kind], asked=0, needed=wide[kind])
                for kind, name in ruled_out.limits
            ]
            assert no_plan_at(question, *changed(question, loose)), ruled_out


def doomed(dice: Dice) -> Asked:
    """A question that usually has no answer: limits below what is possible, memory that is not enough, or both."""
    work, place = random_question(dice, **SMALL)
    space = default_space(work, place)
    qoe = QoE(objective=dice.pick(("latency", "energy")), energy_accounting=dice.pick(("participating", "all-on")))
    plans = every_rated(work, place, qoe, space)
    fastest, thriftiest = min(each.makespan_s for each in plans), min(each.energy_j for each in plans)
    short = dice.pick(("latency", "energy", "memory", "both", "memory and latency", "neither quite"))
    if short in ("latency", "both", "memory and latency"):
        qoe = qoe.replace(latency_s=fastest * dice.pick((0.5, 0.9, 0.99)))
    if short in ("energy", "both"):
        qoe = qoe.replace(energy_j=thriftiest * dice.pick((0.5, 0.9, 0.99)))
    if short == "neither quite":
        qoe = qoe.replace(latency_s=fastest * 1.001, energy_j=thriftiest * 1.001)
    if "memory" in short:
        whole = 16 * work.parameters + 4e6
        place = with_memory(place, {name: whole * dice.pick((0.05, 0.2, 0.4)) for name in place.device_ids})
    return work, place, qoe, space


def explained(question: Asked, **options: object) -> Explanation:
    work, place, qoe, space = question
    return explain(work, place, qoe, space=space, gap=GAP, **options)  # type: ignore[arg-type]


@settings(max_examples=examples(8), **QUICK)
@given(seeded(doomed))
def test_relaxations_are_enough_and_the_smallest(question: Asked) -> None:
    explanation = explained(question)
    if explanation.feasible:
        return
    assert explanation.stopped is None
    check_infeasible(question, explanation)


# ---------------------------------------------------------------------------------------------- by hand


def test_a_latency_out_of_reach() -> None:
    question = (workload(3), cluster(2), QoE(latency_s=1.0), default_space(workload(3), cluster(2)))
    best = plan(workload(3), cluster(2), space=question[3], gap=GAP).best
    explanation = explained(question)
    assert not explanation.feasible
    assert "latency of 1 s is impossible" in explanation.message
    change = explanation.relaxations[0].changes[0]
    assert (change.limit, change.unit, change.asked) == ("latency", "s", 1.0)
    assert change.needed == pytest.approx(best.prediction.makespan_s)
    assert change.impossible == pytest.approx(change.needed, rel=1e-3)
    assert ("bandwidth", None) in [each.limits[0] for each in explanation.ruled_out]


def test_bytes_missing_on_one_device() -> None:
    """One device holds nothing; the other needs 16 bytes a parameter, its boundary tensors, and no more."""
    work = workload([layer("a", parameters=10**6), layer("b", parameters=10**6)], batch=1)
    place = cluster([device("a", memory_bytes=20e6), device("b", memory_bytes=1.0)])
    question = (work, place, QoE(), SearchSpace((1,), 1, (1,)))
    explanation = explained(question)
    by_device = {each.changes[0].device: each.changes[0] for each in explanation.relaxations}
    whole = least_enough(question, "memory", "a")
    assert by_device["a"].needed == pytest.approx(whole, rel=PRECISION)
    assert by_device["a"].needed >= 32e6
    assert by_device["a"].impossible is not None
    assert whole * (1 - PRECISION) <= by_device["a"].impossible <= by_device["a"].needed
    assert by_device["b"].needed == pytest.approx(least_enough(question, "memory", "b"), rel=PRECISION)


def test_a_faster_medium_may_be_enough() -> None:
    """Two equal devices on a slow medium: the limit can be kept if transfers take a fraction of the time."""
    work = workload([layer(f"l{index}", parameters=10**6) for index in range(3)], batch=4)
    place = cluster(2, 1e6)
    space = default_space(work, place)
    fast = plan(work, with_rates(place, 10.0), space=space, gap=GAP).best.prediction.makespan_s
    question = (work, place, QoE(latency_s=fast * 1.0001), space)
    explanation = explained(question)
    (bandwidth,) = [each for each in explanation.relaxations if each.changes[0].limit == "bandwidth"]
    assert 1 < bandwidth.changes[0].needed <= 10 * (1 + PRECISION)
    check_relaxation(question, bandwidth)


def test_two_limits_that_only_give_together() -> None:
    """Memory alone is too little because of the latency, and the latency alone because of the memory."""
    work = workload([layer("a", parameters=10**6), layer("b", parameters=10**6)], batch=1)
    place = cluster([device("a", memory_bytes=20e6)])
    question = (work, place, QoE(latency_s=1.0), SearchSpace((1,), 1, (1,)))
    explanation = explained(question)
    (relaxation,) = explanation.relaxations
    assert {change.limit for change in relaxation.changes} == {"latency", "memory"}
    check_relaxation(question, relaxation)
    needed = {change.limit: change.needed for change in relaxation.changes}
    assert needed["latency"] == pytest.approx(plan(work, cluster(1)).best.prediction.makespan_s, rel=1e-3)
    assert needed["memory"] == pytest.approx(
        least_enough((*question[:2], QoE(), question[3]), "memory", "a"), rel=2 * PRECISION
    )


def test_the_error_carries_the_relaxations() -> None:
    with pytest.raises(InfeasibleError) as caught:
        plan(workload(3), cluster(2), QoE(latency_s=1.0))
    (relaxation,) = caught.value.relaxations
    assert relaxation.changes[0].limit == "latency"
    assert caught.value.relaxations is caught.value.relaxations, "computed once"
    assert InfeasibleError("no").relaxations == ()


# ---------------------------------------------------------------------------------------------- what more is worth


def after_step(question: Asked, value: MarginalValue) -> tuple[Cluster, QoE]:
    _, place, qoe, _ = question
    if value.of == "latency":
        return place, qoe.replace(latency_s=qoe.latency_s + value.step)
    if value.of == "energy":
        return place, qoe.replace(energy_j=qoe.energy_j + value.step)
    if value.of == "memory":
        return with_memory(place, {value.device: room(place)[value.device] + value.step}), qoe
    (domain,) = place.domains
    if value.of == "bandwidth":
        names = place.device_ids if value.device is None else [value.device]
        return with_rates(place, more=dict.fromkeys(names, value.step)), qoe
    rates = dict(domain.rates_bytes_per_s)
    if value.step < 0:
        stay = tuple(each for each in place.devices if each.id != value.device)
        rates = {each.id: rates[each.id] for each in stay}
        return place.replace(devices=stay, domains=(domain.replace(rates_bytes_per_s=rates),)), qoe
    added = place.device(value.device).replace(id=f"{value.device}-2")
    rates |= {added.id: rates[value.device]}
    return place.replace(devices=(*place.devices, added), domains=(domain.replace(rates_bytes_per_s=rates),)), qoe


def scarce(dice: Dice) -> Asked:
    """A question with an answer, close to its limits."""
    work, place = random_question(dice, layers=(2, 2), batches=(1, 2), device_count=(2, 2))
    space = default_space(work, place, (1,))
    qoe = QoE(objective=dice.pick(("latency", "energy")), energy_accounting=dice.pick(("participating", "all-on")))
    plans = every_rated(work, place, qoe, space)
    chosen = dice.pick(plans)
    if dice.pick((True, False)):
        place = with_memory(place, {name: size * 1.001 for name, size in held_bytes(chosen).items()})
    if dice.pick((True, False)):
        qoe = qoe.replace(latency_s=chosen.makespan_s * 1.001)
    if dice.pick((True, False)):
        qoe = qoe.replace(energy_j=chosen.energy_j * 1.001)
    return work, place, qoe, space


@settings(max_examples=examples(8), **QUICK)
@given(seeded(scarce))
def test_marginal_values_are_differences_of_optima(question: Asked) -> None:
    work, place, qoe, _ = question
    explanation = explained(question)
    assert explanation.feasible
    assert explanation.stopped is None
    kinds = {(each.of, each.device, each.step > 0) for each in explanation.margins}
    assert {("memory", name, True) for name in place.device_ids} <= kinds
    assert {("device", name, False) for name in place.device_ids} <= kinds
    for value in explanation.margins:
        if value.of == "device" and value.step < 0 and value.device in (work.source, work.sink):
            assert value.proven == "impossible"
            continue
        then, limits_then = after_step(question, value)
        more = len(then.devices) - len(place.devices)
        space = SearchSpace(question[3].micro_batch_sizes, question[3].most_replicas + max(more, 0), (1,))
        usable = room(then)
        latency_s, energy_j = limits(limits_then)
        plans = [rated for rated in every_rated(work, then, limits_then, space) if fits(held_bytes(rated), usable)]
        kept = [rated for rated in plans if rated.makespan_s <= latency_s and rated.energy_j <= energy_j]
        figure = "makespan_s" if qoe.objective == "latency" else "energy_j"
        least = min((getattr(rated, figure) for rated in kept), default=math.inf)
        if value.after is None:
            assert value.proven == "impossible"
            assert not kept
            continue
        assert value.after_bound is not None
        assert value.after_bound <= value.after
        if value.after - value.after_bound <= GAP * value.after:
            assert value.after <= least * (1 + 2 * GAP)
        below = value.after_bound * (1 - ROUNDING)
        for rated in plans:
            if qoe.objective == "latency":
                assert not rated.reaches_latency(min(below, latency_s), energy_j), value
            else:
                assert not rated.reaches_energy(min(below, energy_j), latency_s), value
        if value.plan is not None and value.proven == "better":
            again = evaluate(value.plan, work, then).prediction
            assert again.makespan_s <= latency_s * (1 + ROUNDING)
            assert again.energy_j(qoe.energy_accounting) <= energy_j * (1 + ROUNDING)


def test_gains_come_first_and_nothing_last() -> None:
    explanation = plan(workload(4, batch=6), cluster(2)).explain()
    order = {"better": 0, "worse": 1, "impossible": 1, "nothing": 2}
    ranks = [order[each.proven] for each in explanation.margins]
    assert ranks == sorted(ranks)
    gains = [each.change for each in explanation.margins if each.proven == "better"]
    assert gains == sorted(gains)
    assert any(each.of == "device" and each.step > 0 for each in explanation.margins[: len(gains)])


def test_more_latency_is_worth_what_it_saves() -> None:
    """Two devices, one fast and one thrifty: 1 s more is just enough to leave all to the thrifty one."""
    place = cluster([device("fast", 2e9, active_w=50.0), device("thrifty", 1e9)], 1e3)
    work = workload(3)  # 36 s on the thrifty one at 3 W, 18 s on the fast one at 50 W; handing over takes too long
    qoe = QoE(objective="energy", latency_s=35.5)
    explanation = explain(work, place, qoe, steps={"latency": "1 s"})
    (latency,) = [each for each in explanation.margins if each.of == "latency"]
    assert latency.binds
    assert latency.after == pytest.approx(36 * 3)
    assert latency.step == 1.0
    assert latency.per_unit == pytest.approx(latency.change)
    # And of no use when it is not enough.
    explanation = explain(work, place, qoe, steps={"latency": 0.1})
    (latency,) = [each for each in explanation.margins if each.of == "latency"]
    assert latency.proven == "nothing"
    assert not latency.binds
    assert abs(latency.change) <= latency.uncertainty


@pytest.mark.parametrize("steps", [{"patience": 1.0}, {"memory": "1 s"}, {"memory": 0}, {"latency": "soon"}])
def test_steps_that_cannot_be_taken(steps: dict[str, float | str]) -> None:
    with pytest.raises(InputError, match="steps"):
        explain(workload(2), cluster(2), steps=steps)


def test_what_is_explained_is_either_plans_or_a_question() -> None:
    with pytest.raises(InputError, match="cluster"):
        explain(workload(2))
    with pytest.raises(InputError, match="cluster"):
        explain(plan(workload(2), cluster(2)), cluster(2))


def test_a_single_device_without_a_medium() -> None:
    place = Cluster(name="alone", devices=(device("a"),))
    explanation = explain(workload(2), place)
    assert {each.of for each in explanation.margins} == {"memory", "device"}
    assert [each.proven for each in explanation.margins if each.of == "device"] == ["impossible"]
    explanation = explain(workload(2), place, QoE(latency_s=1.0))
    assert [each.changes[0].limit for each in explanation.relaxations] == ["latency"]


# ---------------------------------------------------------------------------------------------- time


@pytest.mark.parametrize(
    ("step", "known"),
    [
        ("more latency", []),
        ("memory without limit", ["energy", "latency"]),
        ("faster for all", ["energy", "latency", "memory"]),
        ("without a", ["bandwidth", "energy", "latency", "memory"]),
        ("another a", ["bandwidth", "device", "energy", "latency", "memory"]),
    ],
)
def test_a_cancel_keeps_what_is_known(step: str, known: list[str]) -> None:
    """What was being asked when it came may be told or not; nothing is told of what would have come later."""
    cancel, said = threading.Event(), list[str]()

    def hear(word: str) -> None:
        said.append(word)
        if word == step:
            cancel.set()

    plans = plan(workload(4), cluster(3), QoE(latency_s=1e3, energy_j=1e5, objective="price", joules_per_s=1.0))
    explanation = plans.explain(on_progress=hear, cancel=cancel)
    assert explanation.stopped == "cancelled"
    assert said[-1] == step
    told = {each.of for each in explanation.margins}
    assert set(known) <= told
    asked = {"more latency": "latency", "memory without limit": "memory", "faster for all": "bandwidth"}
    assert told - set(known) <= {asked.get(step, "device")}


@pytest.mark.parametrize("step", ["looking for the least latency", "without limits of latency, energy"])
def test_a_cancel_rules_nothing_out_that_is_not_proven(step: str) -> None:
    cancel, said = threading.Event(), list[str]()

    def hear(word: str) -> None:
        said.append(word)
        if word == step:
            cancel.set()

    explanation = explain(workload(4), cluster(3), QoE(latency_s=1e-3, energy_j=1e-3), on_progress=hear, cancel=cancel)
    whole = explain(workload(4), cluster(3), QoE(latency_s=1e-3, energy_j=1e-3))
    assert explanation.stopped == "cancelled", said
    assert not explanation.feasible
    proven = {each.limits for each in whole.ruled_out if each.proven}
    assert {each.limits for each in explanation.ruled_out if each.proven} <= proven


def test_a_time_limit_holds_for_an_infeasible_question() -> None:
    question = load_workload("qwen3-0.6b", mode="training", batch=16), load_cluster("smart-home")
    explanation = explain(*question, QoE(latency_s=14, energy_j=600), time_limit_s=1.0)
    assert not explanation.feasible
    assert explanation.wall_s < 6  # the error itself may take some time after the limit
    for relaxation in explanation.relaxations:
        assert relaxation.plan.certificate is not None


def test_exports() -> None:
    assert dora_nb.explain is explain

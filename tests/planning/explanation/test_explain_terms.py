"""Explanations under random limits of every kind and on networks of every kind, held against every plan there is."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from functools import partial

import pytest
from builders import (
    Dice,
    cluster,
    default_space,
    device,
    examples,
    layer,
    random_cluster,
    random_workload,
    seeded,
    workload,
)
from hypothesis import HealthCheck, example, given, settings
from limits import ROUNDING, drawn_j, predictions, random_case, random_qoe, value

from dora_nb.costs.evaluate import evaluate
from dora_nb.costs.network import Network, Route
from dora_nb.domain.cluster import Cluster, ContentionDomain
from dora_nb.domain.explanation import Change, Explanation, MarginalValue
from dora_nb.domain.prediction import Prediction
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.explanation.alternatives import alternatives
from dora_nb.planning.explanation.explain import explain
from dora_nb.planning.explanation.relax import PRECISION
from dora_nb.planning.question import Question

GAP = 1e-6
QUICK = {"suppress_health_check": list(HealthCheck)}
KINDS = ("shared", "switch", "cell", "links", "mixed")

Asked = tuple[Workload, Cluster, QoE, SearchSpace]


# ---------------------------------------------------------------------------------------------- networks


def questions_about(place: Cluster) -> Question:
    return Question.of(workload(2, batch=2), place, QoE())


def figures(route: Route) -> tuple[list[float], float, float]:
    return [hop.bytes_per_s for hop in route.hops], route.latency_s, route.energy_j_per_byte


places = seeded(lambda dice: random_cluster(dice, devices=(2, 4), kinds=KINDS))


@settings(max_examples=examples(25), **QUICK)
@given(places)
def test_who_leaves_takes_no_way_between_others_along(place: Cluster) -> None:
    before = Network.of(place)
    for gone in place.device_ids:
        reduced = questions_about(place).without([gone]).cluster
        assert gone not in reduced.device_ids
        assert not any(gone in domain.members or not domain.members for domain in reduced.domains)
        after = Network.of(reduced)
        for a in reduced.device_ids:
            for b in set(reduced.device_ids) - {a}:
                assert after.route(a, b) == before.route(a, b)
    first, *others = place.device_ids
    assert questions_about(place).without(others).cluster.device_ids == (first,)


@settings(max_examples=examples(25), **QUICK)
@given(places)
def test_who_joins_reaches_everybody_like_the_one_it_is_like(place: Cluster) -> None:
    before = Network.of(place)
    for like in place.device_ids:
        grown = questions_about(place).with_another(like).cluster
        (added,) = set(grown.device_ids) - set(place.device_ids)
        after = Network.of(grown)
        for other in set(place.device_ids) - {like}:
            assert after.route(like, other) == before.route(like, other)
            assert figures(after.route(added, other)) == figures(before.route(like, other))
            assert figures(after.route(other, added)) == figures(before.route(other, like))
        assert figures(after.route(added, like)) == figures(after.route(like, added))
        assert after.alike(added, like)


@settings(max_examples=examples(25), **QUICK)
@given(places)
def test_rates_of_all_and_of_one(place: Cluster) -> None:
    before, question = Network.of(place), questions_about(place)
    fast = Network.of(question.with_rates(partial(operator.mul, 3.0)).cluster)
    for a in place.device_ids:
        for b in set(place.device_ids) - {a}:
            hops = before.route(a, b).hops
            assert [hop.bytes_per_s for hop in fast.route(a, b).hops] == [3.0 * hop.bytes_per_s for hop in hops]
    for name in place.device_ids:
        one = Network.of(question.with_rates(partial(operator.mul, 3.0), name).cluster)
        times = 1.0 if before.home(name).kind == "links" else 3.0
        other = next(each for each in place.device_ids if each != name)
        assert one.route(name, other).hops[0].bytes_per_s == times * before.route(name, other).hops[0].bytes_per_s
        for a in set(place.device_ids) - {name}:
            for b in set(place.device_ids) - {name, a}:
                assert one.route(a, b) == before.route(a, b)


def test_a_domain_left_empty_goes_and_links_need_two() -> None:
    inner = ContentionDomain(id="wifi", kind="shared", rates_bytes_per_s={"a": 1e6})
    top = ContentionDomain(id="lan", kind="links", links_bytes_per_s={"wifi": {"b": 2e6, "c": 3e6}, "b": {"c": 4e6}})
    place = Cluster(name="tree", devices=tuple(map(device, "abc")), domains=(inner, top))
    question = questions_about(place)
    assert [domain.id for domain in question.without("a").cluster.domains] == ["lan"]
    assert question.without("a").cluster.domains[0].members == ("b", "c")
    assert [domain.id for domain in question.without("bc").cluster.domains] == ["wifi"]
    assert question.without("ac").cluster.domains == ()


def test_devices_with_links_of_their_own_have_no_rate_of_their_own() -> None:
    links = ContentionDomain(id="mesh", kind="links", links_bytes_per_s={"a": {"b": 1e6, "c": 1e6}, "b": {"c": 1e6}})
    place = Cluster(name="mesh", devices=tuple(map(device, "abc")), domains=(links,))
    explanation = explain(workload(2, batch=2), place)
    assert [each.device for each in explanation.margins if each.of == "bandwidth"] == [None]
    assert "links of their own have no single rate" in repr(explanation)


# ---------------------------------------------------------------------------------------------- what must give


def with_memory(place: Cluster, usable_bytes: dict[str, float]) -> Cluster:
    devices = [
        each.replace(memory_bytes=usable_bytes.get(each.id, each.usable_memory_bytes), usable_memory_fraction=1.0)
        for each in place.devices
    ]
    return place.replace(devices=tuple(devices))


FIELDS = {"latency": "latency_s", "throughput": "samples_per_s", "energy": "energy_j"}


def changed(question: Asked, changes: Sequence[Change]) -> Asked:
    """The question with limits as the changes need them."""
    work, place, qoe, space = question
    for change in changes:
        if change.limit == "memory":
            place = with_memory(place, {str(change.device): change.needed})
        elif change.limit == "bandwidth":
            place = Question(work, place, qoe, None, space).with_rates(partial(operator.mul, change.needed)).cluster
        elif change.limit == "battery":
            qoe = qoe.replace(battery_j=qoe.battery_j | {change.device: change.needed})
        elif change.limit == "headroom":
            name = "headroom_fraction" if change.unit == "share" else "headroom_bytes"
            qoe = qoe.replace(**{name: change.needed})
        else:
            qoe = qoe.replace(**{FIELDS[change.limit]: change.needed})
    return work, place, qoe, space


def kept(question: Asked) -> list[Prediction]:
    """What the list-scheduled plans do that keep every hard limit."""
    work, place, qoe, space = question
    known = predictions(Problem.of(work, place, qoe.energy_accounting, space=space))
    return [each for each in known if math.isfinite(value(each, work, place, qoe))]


def hard(question: Asked) -> list[tuple[str, str | None]]:
    """The hard limits, memory and rates apart."""
    _, _, qoe, _ = question
    found: list[tuple[str, str | None]] = []
    found += [("latency", None)] if qoe.latency_s and qoe.latency_price is None else []
    found += [("throughput", None)] if qoe.samples_per_s and qoe.throughput_price is None else []
    found += [("energy", None)] if qoe.energy_j and qoe.energy_price is None else []
    found += [("battery", name) for name in qoe.battery_j] if qoe.battery_price is None else []
    free = qoe.headroom_bytes or qoe.headroom_fraction
    return found + ([("headroom", None)] if free and qoe.headroom_price is None else [])


def enough(question: Asked, kind: str, name: str | None) -> tuple[float, float] | None:
    """As a person asks for it, a limit and the closest value to it that a list-scheduled plan is at hand for."""
    work, place, qoe, space = question
    accounting = qoe.energy_accounting
    if kind == "memory":
        asked = place.device(str(name)).usable_memory_bytes
        plans = kept((work, with_memory(place, {str(name): 1e15}), qoe, space))
        held = [{each.device: each.memory_bytes for each in plan.devices}.get(str(name), 0.0) for plan in plans]
        if ("headroom", None) in hard(question):
            held = [(size + (qoe.headroom_bytes or 0)) / (1 - (qoe.headroom_fraction or 0)) for size in held]
        return (asked, min(held)) if held else None
    if kind == "latency":
        plans = kept((work, place, qoe.replace(latency_s=None), space))
        return (qoe.latency_s, min(each.makespan_s for each in plans)) if plans else None
    if kind == "throughput":
        plans = kept((work, place, qoe.replace(samples_per_s=None), space))
        return (qoe.samples_per_s, max(each.samples_per_s for each in plans)) if plans else None
    if kind == "energy":
        plans = kept((work, place, qoe.replace(energy_j=None), space))
        return (qoe.energy_j, min(each.energy_j(accounting) for each in plans)) if plans else None
    if kind == "battery":
        rest = {each: joules for each, joules in qoe.battery_j.items() if each != name}
        plans = kept((work, place, qoe.replace(battery_j=rest), space))
        drawn = [drawn_j(each, str(name), place, accounting) for each in plans]
        return (qoe.battery_j[str(name)], min(drawn)) if plans else None
    plans = kept((work, place, qoe.replace(headroom_bytes=None, headroom_fraction=None), space))
    free = []
    for plan in plans:
        left = [(each.usable_memory_bytes - each.memory_bytes, each.usable_memory_bytes) for each in plan.devices]
        free.append(min(size / (1.0 if qoe.headroom_bytes else usable) for size, usable in left))
    return (qoe.headroom_bytes or qoe.headroom_fraction, max(free)) if free else None


def check_infeasible(question: Asked, explanation: Explanation) -> None:
    work, place, _, _ = question
    kinds = [*hard(question), *(("memory", name) for name in place.device_ids)]
    for relaxation in explanation.relaxations:
        then = changed(question, relaxation.changes)
        again = evaluate(relaxation.plan, work, then[1]).prediction
        assert math.isfinite(value(again, work, then[1], then[2])), relaxation.changes
        assert all(each.memory_bytes <= each.usable_memory_bytes * (1 + ROUNDING) for each in again.devices)
        assert relaxation.plan.certificate is not None
        for change in relaxation.changes:
            assert (change.limit, change.device) in [*kinds, ("bandwidth", None)], "a price stands in nobody's way"
            if change.impossible is not None:
                others = [each for each in relaxation.changes if each is not change]
                # Limits are kept up to a rounding of their own size, however close to each other the two are.
                beyond = 10 * ROUNDING * max(abs(change.asked - change.impossible), abs(change.impossible))
                tighter = change.impossible + math.copysign(beyond, change.asked - change.impossible)
                assert not kept(changed(question, [change.replace(needed=tighter), *others])), change
    singles = {
        (each.changes[0].limit, each.changes[0].device): each.changes[0]
        for each in explanation.relaxations
        if len(each.changes) == 1
    }
    ruled_out = {each.limits[0] for each in explanation.ruled_out if each.proven and len(each.limits) == 1}
    for kind, name in kinds:
        known = enough(question, kind, name)
        if known is None:
            continue
        assert (kind, name) not in ruled_out
        asked, least = known
        change = singles[kind, name]
        assert change.asked == pytest.approx(asked, rel=1e-12)
        # Bisection ends at a fraction of the change, or of the limit (of a headroom: of what may be filled).
        whole = 1.0 if change.unit == "share" else place.devices[0].usable_memory_bytes
        scale = max(asked, whole) if kind == "headroom" else asked
        slack = PRECISION * abs(change.needed - asked) + (PRECISION / 10 + 4 * GAP) * scale
        assert abs(change.needed - asked) <= abs(least - asked) + slack, (kind, name, least)


def limited(dice: Dice) -> Asked:
    """A question with limits of every kind, mostly too tight."""
    work, place, _ = random_case(dice, layers=(2, 2), batches=(1, 2), device_count=(2, 2))
    space = default_space(work, place, (1,))
    known = predictions(Problem.of(work, place, "participating", space=space))
    qoe = random_qoe(dice, work, place, known)
    tight = dice.pick(("battery", "headroom", "throughput", "nothing"))
    like = dice.pick(known)
    if tight == "battery":
        drawn = [each.energy_j for each in like.devices]
        qoe = qoe.replace(battery_j={name: dice.pick((0.1, 0.8)) * min(drawn) for name in place.device_ids})
        qoe = qoe.replace(battery_price=None)
    if tight == "headroom":
        share = max(each.memory_bytes / each.usable_memory_bytes for each in like.devices)
        field = dice.pick(("headroom_fraction", "headroom_bytes"))
        size = 1.0 if field == "headroom_fraction" else place.devices[0].usable_memory_bytes
        free = (1 - share * dice.pick((0.3, 0.9))) * size
        qoe = qoe.replace(headroom_fraction=None, headroom_bytes=None, headroom_price=None).replace(**{field: free})
    if tight == "throughput":
        most = max(each.samples_per_s for each in known)
        qoe = qoe.replace(samples_per_s=dice.pick((1.1, 3.0)) * most, throughput_price=None)
    return work, place, qoe, space


def explained(question: Asked) -> Explanation:
    work, place, qoe, space = question
    return explain(work, place, qoe, space=space, gap=GAP)


@settings(max_examples=examples(10), **QUICK)
@example(limited(Dice(17)))  # only all limits together give way, and one of them need not after all
@example(limited(Dice(20)))  # memory and a headroom in bytes
@given(seeded(limited))
def test_relaxations_of_every_limit(question: Asked) -> None:
    explanation = explained(question)
    assert explanation.stopped is None
    if explanation.feasible:
        assert hard(question) == [] or kept(question) or explanation.best is not None
        return
    assert not kept(question)
    check_infeasible(question, explanation)


def test_prices_never_make_a_question_infeasible() -> None:
    qoe = QoE(
        latency_s=1e-3, latency_price=1.0, samples_per_s=1e6, throughput_price=1.0, energy_j=1e-3, energy_price=1.0,
        battery_j={"a": 1e-3, "b": 1e-3}, battery_price=1.0, headroom_fraction=1.0, headroom_price=1e-9,
    )  # fmt: skip
    assert explain(workload(2), cluster(2), qoe).feasible
    explanation = explain(workload(2), cluster(2), qoe.replace(latency_price=None))
    assert {each.limit for found in explanation.relaxations for each in found.changes} == {"latency"}


# ---------------------------------------------------------------------------------------------- what more is worth


def after_step(question: Asked, margin: MarginalValue) -> Asked:
    work, place, qoe, space = question
    asked = Question(work, place, qoe, None, space)
    name = str(margin.device)
    if margin.of == "battery":
        qoe = qoe.replace(battery_j=qoe.battery_j | {name: qoe.battery_j[name] + margin.step})
    elif margin.of == "headroom":
        field = "headroom_fraction" if margin.unit == "share" else "headroom_bytes"
        left = getattr(qoe, field) + margin.step
        qoe = qoe.replace(**{field: left or None})
    elif margin.of == "memory":
        place = with_memory(place, {name: place.device(name).usable_memory_bytes + margin.step})
    elif margin.of in FIELDS:
        limit = getattr(qoe, FIELDS[margin.of]) + margin.step
        qoe = qoe.replace(**{FIELDS[margin.of]: limit or None})
    else:
        if margin.of == "bandwidth":
            asked = asked.with_rates(partial(operator.add, margin.step), margin.device)
        else:
            asked = asked.with_another(name) if margin.step > 0 else asked.without([name])
        return work, asked.cluster, asked.qoe, asked.space
    return work, place, qoe, space


def scarce(dice: Dice) -> Asked:
    """A question with an answer, on any network, close to some of its limits."""
    place = random_cluster(dice, devices=(2, 2), kinds=KINDS)
    work = random_workload(dice, devices=place.device_ids, layers=(2, 2), batches=(1, 2))
    space = default_space(work, place, (1,))
    known = predictions(Problem.of(work, place, "participating", space=space))
    qoe = random_qoe(dice, work, place, known)
    for _ in range(20):
        if any(math.isfinite(value(each, work, place, qoe)) for each in known):
            break
        qoe = random_qoe(dice, work, place, known)
    return work, place, qoe, space


@settings(max_examples=examples(6), **QUICK)
@example(scarce(Dice(1)))  # a headroom and a least throughput, in steps down
@example(scarce(Dice(14)))  # memory matters
@given(seeded(scarce))
def test_marginal_values_under_every_limit(question: Asked) -> None:
    work, _, _, _ = question
    explanation = explained(question)
    if not explanation.feasible:
        assert not kept(question)
        return
    assert explanation.stopped is None
    assert {(each.of, each.device) for each in explanation.margins} >= set(hard(question))
    repr(explanation), explanation.to_frame()
    for margin in explanation.margins:
        if margin.of == "device" and margin.step < 0 and margin.device in (work.source, work.sink):
            assert margin.proven == "impossible"
            continue
        then = after_step(question, margin)
        _, there, qoe, _ = then
        least = min((value(each, work, there, qoe) for each in kept(then)), default=math.inf)
        if margin.after is None:
            assert margin.proven == "impossible"
            assert math.isinf(least)
            continue
        assert margin.after_bound is not None
        assert margin.after_bound <= min(margin.after, least * (1 + ROUNDING))
        if margin.after - margin.after_bound <= GAP * margin.after:
            assert margin.after <= least * (1 + 2 * GAP)
        if margin.proven != "nothing":
            assert margin.plan is not None
            again = evaluate(margin.plan, work, there).prediction
            assert value(again, work, there, qoe) == pytest.approx(margin.after, rel=1e-9)


def test_a_battery_that_binds() -> None:
    """One fast device on a small battery, one slow on mains: a joule more moves a layer to the fast one."""
    place = cluster([device("fast", 4e9), device("slow", 1e9)], 1e9)
    work = workload([layer("a"), layer("b")], batch=1)
    alone = evaluate(explain(work, place).best, work, place).prediction  # type: ignore[arg-type]
    (whole,) = [each.energy_j for each in alone.devices]
    question = QoE(battery_j={"fast": 0.9 * whole})
    explanation = explain(work, place, question, steps={"battery": f"{0.2 * whole} J"})
    (battery,) = [each for each in explanation.margins if each.of == "battery"]
    assert battery.binds
    assert battery.after == pytest.approx(alone.makespan_s)
    assert battery.limit == pytest.approx(0.9 * whole)
    assert "more battery on fast" in repr(explanation)


def test_an_alternative_without_a_device_on_battery() -> None:
    place = cluster([device("a", 4e9), device("b", 1e9)], 1e9)
    qoe = QoE(objective="price", joules_per_s=2.0, battery_j={"a": 1e6}, battery_price=1.0, energy_accounting="all-on")
    found = alternatives(workload(3), place, qoe)
    for name, other in (("a", "b"), ("b", "a")):
        assert found[name].plan.devices == (other,)
        assert found[name].plan.certificate.objective == "price"
        assert found[name].objective_unit == "J"

"""Compositions against every subset of plans and every whole count, the joint form, and the bounds' own claims."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from builders import (
    Dice,
    cluster,
    default_space,
    device,
    every_plan,
    examples,
    layer,
    pipeline,
    random_plan,
    random_question,
    rated_plans,
    seeded,
    shape_and_timing,
    workload,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dora_nb.costs.conditions import under
from dora_nb.costs.evaluate import evaluate
from dora_nb.costs.network import Flow, Network
from dora_nb.costs.resident import Residents
from dora_nb.costs.table import cost_table
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.conditions import Condition, Conditions, handover
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InfeasibleError, InputError, UnknownNameError
from dora_nb.formulation.composition.mixture import Mixture, Promise
from dora_nb.formulation.composition.program import joint_model, mixing_model
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.schedules.list_schedule import list_schedule
from dora_nb.planning.composition.compose import compose
from dora_nb.planning.composition.generation import Generator
from dora_nb.planning.composition.mixer import Mixer
from dora_nb.planning.composition.palette import Palette
from dora_nb.planning.composition.shortlist import Shortlist, plans_below
from dora_nb.planning.deadline import Deadline
from dora_nb.solvers import Options, solve

QUICK = {"suppress_health_check": list(HealthCheck)}

#: Relative disagreement that solver tolerances explain.
TOLERANCE = 1e-5


# ---------------------------------------------------------------------------------------------- random questions


def random_conditions(dice: Dice, work: Workload, place: Cluster, count: int) -> Conditions:
    """A calm condition, and others with slower media, slower devices or a device less."""
    shares = [dice.number(1, 6) for _ in range(count)]
    there = [name for name in place.device_ids if name not in (work.source, work.sink)]
    made = []
    for index, share in enumerate(shares):
        changes: dict[str, Any] = {}
        if index and dice.number(0, 2):
            changes["domain_rate_factors"] = {place.domains[0].id: dice.pick((0.2, 0.5, 2.0))}
        if index and dice.number(0, 2):
            changes["device_speed_factors"] = {dice.pick(place.device_ids): dice.pick((0.3, 0.7, 1.5))}
        if index and there and len(place.devices) > 1 and not dice.number(0, 2):
            changes["absent_devices"] = (dice.pick(there),)
        made.append(Condition(name=f"c{index}", probability=share / sum(shares), **changes))
    return Conditions(conditions=tuple(made), windows_per_change=dice.pick((1.0, 5.0)))


def scheduled(plan: Plan, problem: Problem) -> Plan:
    """The plan with its transfers list-scheduled for a problem."""
    return plan.replace(transfer_order=list_schedule(*shape_and_timing(plan, problem)).transfers())


def figures(plans: Sequence[Plan], work: Workload, place: Cluster, states: Conditions, qoe: QoE) -> Any:
    """Makespans and energies of plans in conditions, one evaluation each; infinite where a device is absent."""
    table = cost_table(work, place)
    makespan_s = np.full((len(plans), len(states)), np.inf)
    energy_j = makespan_s.copy()
    for k, condition in enumerate(states.conditions):
        around = under(place, table, condition)
        for j, plan in enumerate(plans):
            if not set(plan.devices) & set(condition.absent_devices):
                found = evaluate(plan, work, around.cluster, around.table).prediction
                makespan_s[j, k] = found.makespan_s
                energy_j[j, k] = found.energy_j(qoe.energy_accounting)
    return makespan_s, energy_j


def tight(dice: Dice, place: Cluster, plans: Sequence[Plan], work: Workload) -> Cluster:
    """The cluster with one device that can hold every plan alone, but perhaps not all together."""
    needs = {}
    for plan in plans:
        for each in evaluate(plan, work, place).prediction.devices:
            needs[each.device] = max(needs.get(each.device, 0.0), each.memory_bytes)
    name = dice.pick(needs)
    small = [
        each.replace(memory_bytes=needs[name] * dice.pick((1.0, 1.2)) * 1.000001) if each.id == name else each
        for each in place.devices
    ]
    return place.replace(devices=tuple(small))


Question = tuple[Workload, Cluster, Conditions, list[Plan], QoE, dict[str, Any]]


def random_mixture(dice: Dice, modes: Sequence[str]) -> Question:
    """A few plans to mix, with limits that some of them exceed."""
    work, place = random_question(dice, modes=modes, batches=(1, 2, 4))
    states = random_conditions(dice, work, place, dice.number(1, 3))
    problem = Problem.of(work, place, "participating")
    plans = [scheduled(random_plan(dice, work, place), problem) for _ in range(dice.number(2, 5))]
    plans = list(dict.fromkeys(plans))
    if dice.number(0, 1):
        place = tight(dice, place, plans, work)
    qoe = QoE(objective=dice.pick(("latency", "energy")), energy_accounting=dice.pick(("participating", "all-on")))
    makespan_s, energy_j = figures(plans, work, place, states, qoe)
    limits: dict[str, float] = {}
    for name, figure in (("latency_s", makespan_s), ("energy_j", energy_j)):
        if dice.number(0, 1):
            known = sorted(figure[np.isfinite(figure)])
            limits[name] = known[0] + dice.pick((0.05, 0.3, 0.6)) * (known[-1] - known[0]) + 1e-3
    options = {
        "most_plans": dice.number(1, 3),
        "window": dice.pick((1, 3, 4)),
        "keep": dice.pick(("mean", "mean", "tail")),
        "missed_share": dice.pick((0.0, 0.25, 0.5)),
    }
    return work, place, states, plans, qoe.replace(**limits), options


# ---------------------------------------------------------------------------------------------- brute force


def held_bytes(plans: Sequence[Plan], work: Workload, place: Cluster) -> dict[str, float]:
    """Bytes on every device when plans are resident, from the stages: every layer once, tied parameters once."""
    per_parameter = work.bytes_per_element + (8 if work.trains else 0)
    last = len(work.layers) - 1
    state: dict[str, dict[str, float]] = {name: {} for name in place.device_ids}
    working = dict.fromkeys(place.device_ids, 0.0)
    for plan in plans:
        own: dict[str, dict[str, float]] = {}
        for index, stage in enumerate(plan.stages):
            inside = list(range(stage.first_layer, stage.stop_layer))
            if plan.tied == "hosted" and index == len(plan.stages) - 1:
                inside.append(0)
            for name in stage.devices:
                parts = own.setdefault(name, {})
                for each in inside:
                    parts[f"layer {each}"] = float(work.layers[each].parameters - work.layers[each].tied_parameters)
                if work.tied_parameters and {0, last} & set(inside):
                    parts["tied"] = float(work.tied_parameters)
        for each in evaluate(plan, work, place).prediction.devices:
            mine = sum(own[each.device].values()) * per_parameter
            working[each.device] = max(working[each.device], each.memory_bytes - mine)
            state[each.device] |= own[each.device]
    return {name: sum(parts.values()) * per_parameter + working[name] for name, parts in state.items()}


def switching(before: Plan, after: Plan, work: Workload, place: Cluster, qoe: QoE) -> tuple[float, float]:
    """Seconds and joules of a change of plans in training, from the definitions."""
    last, network = len(work.layers) - 1, Network.of(place)

    def holders(plan: Plan) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for index, stage in enumerate(plan.stages):
            inside = set(range(stage.first_layer, stage.stop_layer))
            if plan.tied == "hosted" and index == len(plan.stages) - 1:
                inside.add(0)
            names = {f"layer {each}" for each in inside}
            if work.tied_parameters and inside & {0, last}:
                names.add("tied")
            for each in stage.devices:
                found.setdefault(each, set()).update(names)
        return found

    had, flows = holders(before), []
    for receiver, parts in holders(after).items():
        for part in sorted(parts - had.get(receiver, set())):
            sender = max((each for each in before.devices if part in had[each]), key=network.rate)
            if part == "tied":
                parameters = work.tied_parameters
            else:
                at = work.layers[int(part.split()[1])]
                parameters = at.parameters - (at.tied_parameters if work.tied_parameters else 0)
            flows.append(Flow(sender, receiver, float(parameters * (work.bytes_per_element + 8))))
    hold = network.exchange(flows)
    counted = place.device_ids if qoe.energy_accounting == "all-on" else {*before.devices, *after.devices}
    idle_w = sum(place.device(name).idle_w for name in counted)
    return hold.duration_s, hold.energy_j + idle_w * hold.duration_s


def spreads(window: int, plans: int) -> Iterator[tuple[int, ...]]:
    """All ways to share a window out."""
    if plans == 1:
        yield (window,)
        return
    for first in range(window + 1):
        for rest in spreads(window - first, plans - 1):
            yield (first, *rest)


def brute_force(question: Question) -> float:
    """The least objective over all subsets, counts and, in training, plans to start windows with; inf: none."""
    work, place, states, plans, qoe, options = question
    makespan_s, energy_j = figures(plans, work, place, states, qoe)
    best = math.inf
    for size in range(1, min(options["most_plans"], len(plans)) + 1):
        for some in itertools.combinations(range(len(plans)), size):
            held = held_bytes([plans[j] for j in some], work, place)
            if any(held[each.id] > each.usable_memory_bytes * (1 + 1e-9) for each in place.devices):
                continue
            by_condition = [
                list(_ways(list(some), k, makespan_s, energy_j, qoe, options, work.trains)) for k in range(len(states))
            ]
            if work.trains:
                best = min(best, _with_changes(question, by_condition))
            else:
                kept = [[cost for cost, *_, good in ways if good] for ways in by_condition]
                if all(kept):
                    best = min(best, sum(p * min(each) for p, each in zip(states.probabilities, kept, strict=True)))
    return best


def _ways(
    some: list[int], k: int, makespan_s: Any, energy_j: Any, qoe: QoE, options: dict[str, Any], trains: bool
) -> Iterator[tuple[float, float, float, tuple[int, ...], bool]]:
    """Objective, mean seconds, mean joules, plans used, and whether the limits are kept, for every way to share out."""
    latency_s, limit_j = qoe.latency_s or math.inf, qoe.energy_j or math.inf
    for counts in spreads(options["window"], len(some)):
        used = tuple(j for j, count in zip(some, counts, strict=True) if count)
        if any(math.isinf(makespan_s[j, k]) for j in used) or (trains and len(used) > 2):
            continue
        shares = {j: count / options["window"] for j, count in zip(some, counts, strict=True) if count}
        mean_s = sum(share * makespan_s[j, k] for j, share in shares.items())
        mean_j = sum(share * energy_j[j, k] for j, share in shares.items())
        if options["keep"] == "mean":
            good = mean_s <= latency_s * (1 + 1e-9) and mean_j <= limit_j * (1 + 1e-9)
        else:
            over = [j for j in used if makespan_s[j, k] > latency_s or energy_j[j, k] > limit_j]
            good = sum(shares[j] for j in over) <= options["missed_share"] + 1e-9
        yield (mean_s if qoe.objective == "latency" else mean_j), mean_s, mean_j, used, good


def _with_changes(question: Question, by_condition: list[Any]) -> float:
    work, place, states, plans, qoe, options = question
    if not all(by_condition):
        return math.inf
    table, best = cost_table(work, place), math.inf
    costs: dict[Any, tuple[float, float]] = {}

    def change(i: int, j: int, before: int, after: int) -> tuple[float, float]:
        key = (i, j, before, after)
        if key not in costs:
            state = handover(states.conditions[before], states.conditions[after], place)
            around = under(place, table, state).cluster
            costs[key] = switching(plans[i], plans[j], work, around, qoe) if i != j else (0.0, 0.0)
        return costs[key]

    latency_s, limit_j = qoe.latency_s or math.inf, qoe.energy_j or math.inf
    starts = [sorted({(used, home) for *_, used, _ in ways for home in used}) for ways in by_condition]
    for chosen in itertools.product(*starts):
        total = 0.0
        for k, (used, home) in enumerate(chosen):
            seconds = joules = 0.0
            for j in used:
                if j != home:
                    for pair in ((home, j), (j, home)):
                        there = change(*pair, k, k)
                        seconds, joules = seconds + there[0], joules + there[1]
            for before, (_, other) in enumerate(chosen):
                if before != k:
                    rate = states.probabilities[before] / states.windows_per_change
                    there = change(other, home, before, k)
                    seconds, joules = seconds + rate * there[0], joules + rate * there[1]
            extra_s, extra_j = seconds / options["window"], joules / options["window"]
            fitting = []
            for cost, mean_s, mean_j, plans_used, good in by_condition[k]:
                if plans_used != used:
                    continue
                if options["keep"] == "mean":
                    good = mean_s + extra_s <= latency_s * (1 + 1e-9) and mean_j + extra_j <= limit_j * (1 + 1e-9)
                if good:
                    fitting.append(cost + (extra_s if qoe.objective == "latency" else extra_j))
            total += states.probabilities[k] * min(fitting, default=math.inf)
        best = min(best, total)
    return best


def check(question: Question) -> None:
    work, place, states, plans, qoe, options = question
    least = brute_force(question)
    try:
        mix = compose(work, place, qoe, states, restrict=plans, solver="highs", **options)
    except InfeasibleError:
        assert math.isinf(least), "brute force found a composition"
        return
    assert mix.certificate.value == pytest.approx(least, rel=TOLERANCE)
    assert mix.certificate.gap <= TOLERANCE
    assert mix.certificate.value == pytest.approx(mix.expected_s if qoe.objective == "latency" else mix.expected_j)
    assert len(mix.plans) <= options["most_plans"]
    assert all(each.kept for each in mix.figures)
    assert all(sum(each.counts) == options["window"] == len(each.order) for each in mix.figures)
    held = held_bytes(mix.plans, work, place)
    assert mix.resident_bytes == pytest.approx(held)
    assert all(held[each.id] <= each.usable_memory_bytes * (1 + 1e-6) for each in place.devices)


@settings(max_examples=examples(12), deadline=None, **QUICK)
@given(seeded(lambda dice: random_mixture(dice, ("inference",))))
def test_the_best_mixture_of_given_plans_is_that_of_brute_force(question: Question) -> None:
    check(question)


@settings(max_examples=examples(10), deadline=None, **QUICK)
@given(seeded(lambda dice: random_mixture(dice, ("training",))))
def test_in_training_too_with_every_change_of_plans(question: Question) -> None:
    check(question)


# ---------------------------------------------------------------------------------------------- joint = decomposed


def complete_space(problem: Problem, states: Conditions) -> list[Plan]:
    """Every plan of a tiny space that fits, with the order that list scheduling finds in each condition."""
    found: dict[Plan, None] = {}
    for condition in states.conditions:
        around = under(problem.cluster, problem.table, condition)
        here = Problem.of(problem.workload, around.cluster, "participating", table=around.table, space=problem.space)
        for each in every_plan(here):
            plan = scheduled(each, here)
            needs = held_bytes([plan], problem.workload, problem.cluster)
            if all(needs[each.id] <= each.usable_memory_bytes for each in problem.cluster.devices):
                found[plan] = None
    return list(found)


def mixture_of(plans: Sequence[Plan], work: Workload, place: Cluster, states: Conditions, qoe: QoE) -> Mixture:
    makespan_s, energy_j = figures(plans, work, place, states, qoe)
    evaluated = [plan.replace(prediction=evaluate(plan, work, place).prediction) for plan in plans]
    return Mixture(
        residents=Residents(work, tuple(evaluated), place.device_ids),
        usable_bytes=np.array([each.usable_memory_bytes for each in place.devices]),
        probability=np.array(states.probabilities),
        makespan_s=makespan_s,
        energy_j=energy_j,
        loads_s=np.zeros((*makespan_s.shape, 0)),
    )


SmallQuestion = tuple[Workload, Cluster, Conditions, QoE, dict[str, Any]]


def random_small(dice: Dice) -> SmallQuestion:
    """A question whose whole space is small, with a limit between its fastest and its thriftiest plan."""
    work, place = random_question(dice, modes=("inference",), layers=(2, 3), batches=(2, 4), device_count=(2, 3))
    states = random_conditions(dice, work, place, dice.number(1, 3))
    plans = complete_space(Problem.of(work, place, "participating", space=default_space(work, place)), states)
    if dice.number(0, 1):
        place = tight(dice, place, plans[:2], work)
    qoe = QoE(objective=dice.pick(("latency", "energy")))
    makespan_s, energy_j = figures(plans, work, place, states, qoe)
    name, figure = ("latency_s", makespan_s) if qoe.objective == "energy" else ("energy_j", energy_j)
    # Limits lie above what every condition can reach.
    least = max(figure[np.isfinite(figure[:, k]), k].min() for k in range(len(states)))
    most = figure[np.isfinite(figure)].max()
    limit = least + dice.pick((0.01, 0.2, 0.5)) * (most - least)
    options = {
        "most_plans": dice.number(1, 3),
        "window": dice.pick((4, 10)),
        "keep": dice.pick(("mean", "mean", "tail")),
        "missed_share": dice.pick((0.0, 0.3)),
    }
    return work, place, states, qoe.replace(**{name: limit * 1.0001}), options


def check_small(question: SmallQuestion) -> None:
    """Slots over the complete space, the integer program over it, and compose() making its own plans."""
    work, place, states, qoe, options = question
    problem = Problem.of(work, place, "participating", space=default_space(work, place))
    candidates = complete_space(problem, states)
    promise = Promise(qoe, options["keep"], options["missed_share"] if options["keep"] == "tail" else 0.0)
    window, most = options["window"], options["most_plans"]
    try:
        mix = compose(work, place, qoe, states, space=problem.space, solver="highs", gap=1e-6, **options)
    except InfeasibleError:
        mix = None
    if mix is not None:  # orders of transfers that no single condition suggests
        candidates = list(dict.fromkeys([*candidates, *(p.replace(label="", prediction=None) for p in mix.plans)]))
    mixture = mixture_of(candidates, work, place, states, qoe)
    joint = solve(joint_model(mixture, promise, slots=most, window=window), Options(mip_gap=1e-7), solver="highs")
    pooled = solve(mixing_model(mixture, promise, most_plans=most, window=window), Options(mip_gap=1e-7))
    assert joint.status is pooled.status
    if joint.objective is None:
        assert mix is None
        return
    assert pooled.objective == pytest.approx(joint.objective, rel=TOLERANCE)
    if mix is None:  # plans that fit together are looked for, not enumerated; the message says "reached"
        assert mixture.scarce
        return
    assert mix.certificate.bound <= joint.objective * (1 + TOLERANCE), "a composition refutes the bound"
    assert mix.certificate.value == pytest.approx(joint.objective, rel=TOLERANCE)


@settings(max_examples=examples(6), deadline=None, **QUICK)
@given(seeded(random_small))
def test_joint_form_and_decomposition_agree(question: SmallQuestion) -> None:
    check_small(question)


@pytest.mark.parametrize(
    "seed",
    [
        117,  # whole counts of a mixture: partitions are listed to prove it
        19,  # one plan alone, which none can be
        74,  # what is scarce is shared within a limit
        76,  # one plan alone, whose tail is late
        92,  # a condition that no plan serves in time, on the tail
    ],
)
def test_cases_that_few_draws_meet(seed: int) -> None:
    check_small(random_small(Dice(seed)))


@pytest.mark.parametrize("seed", [35, 76])
def test_orders_are_the_best_in_every_condition(seed: int) -> None:
    """Partitions as they are listed, in every condition in which their devices are there; not in others."""
    work, place, states, qoe, _ = random_small(Dice(seed))
    problem = Problem.of(work, place, "participating", space=default_space(work, place))
    bare = list(dict.fromkeys(each.replace(transfer_order=()) for each in complete_space(problem, states)))[:4]
    palette = Palette(work, place, cost_table(work, place), states, "participating", problem.space, None)
    generator = Generator(palette, Promise(qoe, "mean", 0.0), 2, 1e-6, "highs", solve, Deadline(), lambda _: None)
    generator.add_scheduled(bare, Deadline())
    for plan in bare:
        same = [each for each in palette.plans if in_short(each) == in_short(plan)]
        there = [each for each in palette.places if set(plan.devices) <= set(each.cluster.device_ids)]
        listed = [scheduled(plan, palette.problem(each)) for each in there]
        known = figures(listed, work, place, states, qoe)
        found = figures(same, work, place, states, qoe)
        assert np.array_equal(np.isfinite(known[0].min(axis=0)), np.isfinite(found[0].min(axis=0)))
        assert (found[0].min(axis=0) <= known[0].min(axis=0) * (1 + 1e-9)).all()


def test_without_time_no_room_is_looked_for() -> None:
    """Two devices that two plans do not fit on together: what was made stays, and nothing is added."""
    work, place, states, qoe, _ = random_small(Dice(74))
    palette = Palette(work, place, cost_table(work, place), states, "participating", default_space(work, place), None)
    begun = Generator(palette, Promise(qoe, "mean", 0.0), 2, 1e-6, "highs", solve, Deadline(), lambda _: None)
    begun.make_plans()
    plans = list(palette.plans)
    assert palette.mixture(range(len(plans))).scarce
    late = Generator(palette, begun.promise, 2, 1e-6, "highs", solve, Deadline(0.0), lambda _: None)
    late.make_room()
    late.share_room()
    assert list(palette.plans) == plans
    begun.make_room()
    begun.share_room()
    assert len(palette.plans) > len(plans)


# ---------------------------------------------------------------------------------------------- what is listed


def in_short(plan: Plan) -> Any:
    """A partition, whatever it holds in flight."""
    stages = tuple((each.first_layer, each.stop_layer, frozenset(each.replicas)) for each in plan.stages)
    return plan.micro_batch, stages


@settings(max_examples=examples(12), deadline=None, **QUICK)
@given(
    seeded(lambda dice: random_question(dice, modes=("inference",), layers=(2, 3), batches=(1, 2, 4))),
    st.sampled_from(((1.0, 0.0), (0.0, 1.0), (1.0, 0.3))),
    st.booleans(),
)
def test_every_partition_below_a_price_is_listed(
    question: tuple[Workload, Cluster], prices: tuple[float, float], limited: bool
) -> None:
    """Half of all plans, and with a limit those of them that keep it."""
    problem = Problem.of(*question, "participating", space=default_space(*question))
    rated = rated_plans(problem)
    costs = [prices[0] * each.makespan_s + prices[1] * each.energy_j for each in rated]
    below, limit_s = float(np.median(costs)), float(np.median([each.makespan_s for each in rated]))
    limits = {"latency": limit_s} if limited else {}
    listed = plans_below(problem, per_s=prices[0], per_j=prices[1], below=below, limits=limits, deadline=Deadline())
    assert listed is not None
    known = set(map(in_short, listed))
    for each, cost in zip(rated, costs, strict=True):
        if cost < below * (1 - 1e-9) and (not limited or each.makespan_s <= limit_s):
            assert in_short(each.plan) in known


@settings(max_examples=examples(6), deadline=None, **QUICK)
@given(seeded(random_small))
def test_no_composition_is_below_what_the_listed_partitions_allow(question: SmallQuestion) -> None:
    """Of single plans and of mixtures: the best of what is listed bounds the best of all plans from below."""
    work, place, states, qoe, options = question
    space = default_space(work, place)
    candidates = complete_space(Problem.of(work, place, "participating", space=space), states)
    promise = Promise(qoe, options["keep"], options["missed_share"] if options["keep"] == "tail" else 0.0)
    mixture, window = mixture_of(candidates, work, place, states, qoe), options["window"]
    palette = Palette(work, place, cost_table(work, place), states, "participating", space, None)
    for most in (1, 2):
        best = solve(mixing_model(mixture, promise, most_plans=most, window=window), Options(mip_gap=1e-7))
        if best.objective is None:
            continue
        value, deadline = best.objective * 1.0001, Deadline()
        mixer = Mixer(palette, promise, most, window, 1e-6, "highs", deadline, lambda _: None)
        shortlist = Shortlist(palette, promise, most, window, deadline)
        if most == 1 and promise.keep == "mean":
            listed = shortlist.of_single_plans(value)
        else:
            generator = Generator(palette, promise, most, 1e-6, "highs", mixer.solve, deadline, lambda _: None)
            generator.make_plans()
            generator.generate()
            listed = None if generator.proof is None else shortlist.of_mixtures(generator.proof, value)
        if listed is not None:
            bound = solve(mixing_model(listed, promise, most_plans=most, window=window), Options(mip_gap=1e-7))
            assert bound.objective is not None
            assert bound.objective <= best.objective * (1 + TOLERANCE)
            assert mixer.bound_of(listed, deadline)[0] <= best.objective * (1 + TOLERANCE)


@pytest.mark.parametrize("too", ["late", "many"])
def test_a_list_that_is_too_late_or_too_long_is_given_up(too: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """None instead of a list that lacks something: a bound on it would not be one."""
    work, place, states, qoe, options = random_small(Dice(117))
    space, promise, window = default_space(work, place), Promise(qoe, "mean", 0.0), options["window"]
    palette = Palette(work, place, cost_table(work, place), states, "participating", space, None)
    mixer = Mixer(palette, promise, 2, window, 1e-6, "highs", Deadline(), lambda _: None)
    generator = Generator(palette, promise, 2, 1e-6, "highs", mixer.solve, Deadline(), lambda _: None)
    generator.make_plans()
    generator.generate()
    assert generator.proof is not None
    value = mixer.value(mixer.choose()) * 1.01
    problem = palette.problem(palette.calm)
    asked = {"per_s": 1.0, "per_j": 0.0, "below": 1e6, "limits": {}}
    whole = Shortlist(palette, promise, 2, window, Deadline())
    assert plans_below(problem, **asked, deadline=Deadline())
    nothing = whole.of_single_plans(value)  # two plans are better than any alone
    assert nothing is not None
    assert nothing.residents.plans == ()
    assert mixer.bound_of(nothing, Deadline()) == (math.inf, [])
    listed = whole.of_mixtures(generator.proof, value)
    assert listed is not None
    assert len(listed.residents.plans) >= 2
    if too == "many":
        monkeypatch.setattr("dora_nb.planning.composition.shortlist.MOST_PARTITIONS", 0)
    deadline = Deadline(0.0) if too == "late" else Deadline()
    cut = Shortlist(palette, promise, 2, window, deadline)
    assert plans_below(problem, **asked, deadline=deadline) is None
    assert cut.of_single_plans(100 * value) is None
    assert cut.of_mixtures(generator.proof, value) is None


# ---------------------------------------------------------------------------------------------- bounds and solvers


@settings(max_examples=examples(8), deadline=None, **QUICK)
@given(seeded(lambda dice: random_mixture(dice, ("inference", "training"))))
def test_both_solvers_give_the_same_composition(question: Question) -> None:
    work, place, states, plans, qoe, options = question
    values = []
    for solver in ("highs", "gurobi"):
        try:
            values.append(compose(work, place, qoe, states, restrict=plans, solver=solver, **options).certificate.value)
        except InfeasibleError:
            values.append(math.inf)
    assert values[0] == pytest.approx(values[1], rel=TOLERANCE)


def home() -> tuple[Workload, Cluster]:
    """Two devices: b is twice as fast and draws five times as much; four samples, nothing to send but activations."""
    work = workload([layer("l0", flops=1e9), layer("l1", flops=1e9)], mode="inference", batch=4)
    devices = [device("a", idle_w=1.0, active_w=2.0), device("b", 2e9, idle_w=1.0, active_w=10.0)]
    return work, cluster(devices, 1e7)


CALM = Condition(name="calm", probability=0.75)
BUSY = Condition(name="busy", probability=0.25, device_speed_factors={"b": 0.5})


def test_mixing_keeps_a_mean_that_no_thrifty_plan_keeps_alone() -> None:
    """Alone a takes 8 s and 16 J, b 4 s and 40 J: within 6 s on the mean, half of each."""
    work, place = home()
    fast = compose(work, place, QoE(objective="latency"), [CALM.replace(probability=1.0)], most_plans=1)
    mix = compose(work, place, QoE(objective="energy", latency_s=6.0), [CALM.replace(probability=1.0)])
    assert fast.certificate.status == "optimal"
    assert mix.certificate.gap <= 1e-3
    assert mix.expected_s <= 6.0 * (1 + 1e-9)
    assert mix.single_value is not None
    assert mix.certificate.value < mix.single_value
    assert len(mix.plans) == 2
    (only,) = mix.figures
    assert sorted(only.order) == sorted([0] * only.counts[0] + [1] * only.counts[1])
    assert only.switch_s == 0.0


def test_conditions_that_share_no_device_need_a_plan_each() -> None:
    """Away by turns: b takes half as long as a, so that the mean is between; one plan alone is there for one only."""
    work, place = home()
    states = [
        Condition(name="b away", probability=0.25, absent_devices=("b",)),
        Condition(name="a away", probability=0.75, absent_devices=("a",)),
    ]
    alone = {name: evaluate(pipeline((0, 2, {name: 4})), work, place).prediction.makespan_s for name in "ab"}
    mix = compose(work, place, None, states, most_plans=2, window=4)
    assert {each.devices for each in mix.plans} == {("a",), ("b",)}
    assert mix.expected_s == pytest.approx(0.25 * alone["a"] + 0.75 * alone["b"])
    assert mix.certificate.gap <= 1e-3
    with pytest.raises(InfeasibleError, match="serve every condition"):
        compose(work, place, None, states, most_plans=1, window=4)
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(InfeasibleError, match="cancelled before a composition was found"):
        compose(work, place, None, states, most_plans=1, window=4, cancel=cancel)


def test_of_a_tail_only_the_share_allowed_is_missed() -> None:
    work, place = home()
    qoe = QoE(objective="energy", latency_s=5.0)
    strict = compose(work, place, qoe, [CALM, BUSY], keep="tail", missed_share=0.0)
    loose = compose(work, place, qoe, [CALM, BUSY], keep="tail", missed_share=0.25)
    assert all(each.missed_share == 0 for each in strict.figures)
    assert max(each.missed_share for each in loose.figures) == 0.25
    assert loose.certificate.value < strict.certificate.value
    for mix in (strict, loose):
        assert mix.certificate.gap <= 1e-3


def test_a_limit_out_of_reach_names_the_condition_and_what_can_be_reached() -> None:
    work, place = home()
    slow = BUSY.replace(name="very busy", device_speed_factors={"a": 0.1, "b": 0.1})
    with pytest.raises(InfeasibleError, match=r"condition 'very busy'.*the best plan takes 30 s"):
        compose(work, place, QoE(latency_s=6.0), [CALM, slow])
    found = compose(work, place, QoE(objective="energy"), [CALM, slow])
    with pytest.raises(InfeasibleError, match=r"'very busy' cannot be kept within 6 s on the mean: \S+ % above"):
        compose(work, place, QoE(latency_s=6.0), [CALM, slow], restrict=found.plans)
    gone = BUSY.replace(name="b away", device_speed_factors={}, absent_devices=("b",))
    with_b = [each for each in compose(work, place, None, [CALM.replace(probability=1.0)]).plans if "b" in each.devices]
    with pytest.raises(InfeasibleError, match="none of the plans can run in condition 'b away'"):
        compose(work, place, None, [CALM, gone], restrict=with_b)


def test_plans_that_cannot_be_resident_together_are_refused_or_replaced() -> None:
    """Each half of the layers fits a device, both halves do not: the device keeps what it has in every condition."""
    layers = [layer("l0", parameters=250_000), layer("l1", parameters=250_000)]
    work = workload(layers, mode="inference", batch=2)
    place = cluster([device("a", memory_bytes=9e6), device("b", 2e9, memory_bytes=9e6)], 1e7)
    free = compose(work, place, QoE(), [CALM, BUSY])
    need = max(free.resident_bytes.values())
    assert need <= 9e6
    tightest = place.replace(devices=tuple(each.replace(memory_bytes=6e6) for each in place.devices))
    mix = compose(work, tightest, QoE(), [CALM, BUSY])
    held = held_bytes(mix.plans, work, tightest)
    assert all(held[name] <= 6e6 for name in held)
    assert mix.resident_bytes == pytest.approx(held)


def test_plans_that_a_device_cannot_hold_both_of_are_not_mixed() -> None:
    """One is fast, the other thrifty, and each has one of two layers of 4 MB on each device: both take 8 MB of 6."""
    work = workload([layer("l0", parameters=10**6), layer("l1", 2e9, parameters=10**6)], mode="inference", batch=1)
    roomy = cluster([device("a", active_w=2.0), device("b", 2e9, active_w=10.0)], 1e7)
    problem, states = Problem.of(work, roomy, "participating"), [CALM.replace(probability=1.0)]
    fast, thrifty = (scheduled(pipeline((0, 1, {one: 1}), (1, 2, {other: 1})), problem) for one, other in ("ab", "ba"))
    fast_s, thrifty_s = (evaluate(each, work, roomy).prediction.makespan_s for each in (fast, thrifty))
    assert fast_s < thrifty_s
    qoe = QoE(objective="energy", latency_s=(fast_s + thrifty_s) / 2)
    both = compose(work, roomy, qoe, states, restrict=[fast, thrifty])
    assert len(both.plans) == 2
    needed = max(both.resident_bytes.values())
    scarce = roomy.replace(devices=tuple(each.replace(memory_bytes=0.75 * needed) for each in roomy.devices))
    one = compose(work, scarce, qoe, states, restrict=[fast, thrifty])
    assert [plan.decisions() for plan in one.plans] == [fast.decisions()]
    assert one.certificate.value > both.certificate.value


def test_requests_at_a_rate_keep_no_device_busier_than_all_the_time() -> None:
    """One request takes 8 s on a, or 4 s on b: together they serve up to 0.375 a second."""
    work, place = home()
    calm = [CALM.replace(probability=1.0)]
    alone = {name: pipeline((0, 2, {name: 4})) for name in ("a", "b")}
    mix = compose(work, place, QoE(objective="energy"), calm, restrict=alone.values(), requests_per_s=0.3, window=100)
    busy = {"a": 8.0, "b": 4.0}
    for share, each in zip(mix.figures[0].weights, mix.plans, strict=True):
        assert share * busy[each.devices[0]] * 0.3 <= 1 + 1e-9
    assert mix.figures[0].weights[[each.devices[0] for each in mix.plans].index("a")] == 0.41
    with pytest.raises(InfeasibleError, match=r"0\.4 requests a second"):
        compose(work, place, QoE(objective="energy"), calm, restrict=alone.values(), requests_per_s=0.4)


def test_training_pays_for_changes_and_runs_are_contiguous() -> None:
    """With states to move over a slow medium one plan stays; with nothing to move plans take turns."""
    by_parameters = {}
    for parameters in (0, 20_000_000):
        layers = [layer("l0", parameters=parameters), layer("l1", parameters=parameters)]
        work = workload(layers, mode="training", batch=2)
        place = cluster([device("a", active_w=2.0), device("b", 3e9, active_w=30.0)], 1e7)
        mix = compose(work, place, QoE(objective="energy", latency_s=9.0), [CALM.replace(probability=1.0)])
        by_parameters[parameters] = mix
        for each in mix.figures:
            runs = [plan for plan, _ in itertools.groupby(each.order)]
            assert len(runs) == len(set(runs))
    assert len(by_parameters[0].plans) == 2
    assert by_parameters[0].figures[0].switch_s == 0.0
    costly = by_parameters[20_000_000]
    assert len(costly.plans) == 1 or costly.figures[0].switch_s > 0


# ---------------------------------------------------------------------------------------------- stopping


def test_a_time_limit_and_a_cancel_return_the_best_so_far_with_its_true_gap() -> None:
    work = workload([layer(f"l{index}", flops=1e8 * (1 + index % 3)) for index in range(8)], mode="inference", batch=8)
    work = work.replace(source="a", sink="a", input_bytes=1e6)
    speeds, draws = (1e9, 2e9, 3e9, 4e9), (2.0, 5.0, 12.0, 30.0)
    devices = [device("abcd"[d], speeds[d], active_w=draws[d]) for d in range(4)]
    place, qoe = cluster(devices, (2e7, 2e7, 1e7, 3e7)), QoE(objective="energy", latency_s=12.0)
    states = Conditions(conditions=(CALM, BUSY.replace(domain_rate_factors={"net": 0.3})))
    short = compose(work, place, qoe, states, time_limit_s=1e-3)  # over before the first step, on any machine
    proof = short.certificate
    assert proof.status == "time limit"
    assert 0 <= proof.bound <= proof.value
    assert proof.gap == pytest.approx((proof.value - proof.bound) / proof.value)
    assert all(each.kept for each in short.figures)

    cancel = threading.Event()

    def listen(text: str) -> None:
        if text.startswith("round 1"):
            cancel.set()

    stopped = compose(work, place, qoe.replace(latency_s=4.0), states, on_progress=listen, cancel=cancel)
    assert stopped.certificate.status == "cancelled"
    assert all(each.kept for each in stopped.figures)


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"most_plans": 0}, "most_plans"),
        ({"window": 0}, "window"),
        ({"keep": "always"}, "keep"),
        ({"keep": "tail", "missed_share": 1.0}, "missed_share"),
        ({"restrict": []}, "restrict"),
        ({"requests_per_s": 0.0}, "requests_per_s"),
        ({"gap": 0.0}, "gap"),
        ({"time_limit_s": 0.0}, "time_limit_s"),
        ({"solver": "abacus"}, "solver"),
    ],
)
def test_what_cannot_be_used_is_refused(options: dict[str, Any], field: str) -> None:
    work, place = home()
    with pytest.raises(InputError) as refused:
        compose(work, place, None, [CALM, BUSY], **options)
    assert refused.value.field == field


def test_limits_that_are_not_composed_yet_are_refused() -> None:
    work, place = home()
    for qoe in (QoE(latency_s=1.0, latency_price=2.0), QoE(headroom_fraction=0.1), QoE(battery_j={"a": 5.0})):
        with pytest.raises(InputError, match="hard limits on latency and energy only"):
            compose(work, place, qoe, [CALM, BUSY])
    with pytest.raises(InputError, match="latency or energy"):
        compose(work, place, QoE(objective="price", joules_per_s=1.0), [CALM, BUSY])


def test_conditions_that_do_not_fit_are_refused() -> None:
    work, place = home()
    with pytest.raises(UnknownNameError, match="did you mean 'net'"):
        compose(work, place, None, [CALM, BUSY.replace(domain_rate_factors={"nett": 0.5})])
    with pytest.raises(InputError, match="at least one device left"):
        compose(work, place, None, [CALM, BUSY.replace(absent_devices=("a", "b"))])
    with pytest.raises(InputError, match="other than the source and the sink"):
        compose(work.replace(source="a"), place, None, [CALM, BUSY.replace(absent_devices=("a",))])
    with pytest.raises(InputError, match="add up to 1"):
        compose(work, place, None, [CALM])

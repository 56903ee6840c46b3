"""Plans to serve requests that want tokens: against all plans of tiny cases, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import threading

import numpy as np
import pytest
from builders import Dice, cluster, device, examples, layer, seeded
from hypothesis import given, settings
from served import Case, case_of, every_plan, random_case, service_of, two_layers

import dora_nb as dora
from dora_nb.costs.serving.bound import Limited
from dora_nb.costs.serving.figures import needed_bytes, serving_figures
from dora_nb.costs.serving.service import Service, serving_plan
from dora_nb.domain.layer import NextToken
from dora_nb.domain.serving import AT_ONCE, Batching, Joining, Serving, ServingFigures, ServingGoal, ServingObjective
from dora_nb.domain.workload import Workload
from dora_nb.errors import InfeasibleError, InputError
from dora_nb.formulation.serving.chains import Chains
from dora_nb.planning.serving.rearrange import beside
from dora_nb.planning.serving.search import whole_waves
from dora_nb.simulation.serving import play

SLOTS, GROUPS, WAVES, REQUESTS = (1, 3), (1, 2), (1, 2), 12
WAYS = ((None,), (AT_ONCE,), (AT_ONCE, Joining(wave=2)), (Joining("static"),), (AT_ONCE, Joining("static")))


def served(case: Case, goal: ServingGoal, batching: Batching | None = None, gap: float = 1e-6) -> Serving:
    return dora.serve(
        case.work,
        case.place,
        goal,
        slots=SLOTS,
        groups=GROUPS,
        requests=REQUESTS,
        batching=batching,
        waves=None if batching == "static" else WAVES,
        gap=gap,
        table=case.table,
    )


def joinings_of(service: Service, batching: Batching | None) -> list[Joining]:
    """That its slots hold."""
    in_waves = [Joining(wave=wave) for wave in WAVES if wave <= service.slots * service.groups]
    return in_waves * (batching != "static") + [Joining("static")] * (batching != "continuous")


def figures_of(service: Service, requests_per_s: float, joining: Joining) -> ServingFigures:
    requests = whole_waves(REQUESTS, joining.together(service.slots))
    return serving_figures(service, requests_per_s, requests=requests, joining=joining)


def that_fit(case: Case) -> list[Service]:
    """What every plan takes that fits in memory."""
    services = [service_of(case, plan) for plan in every_plan(case, SLOTS, GROUPS)]
    return [
        each
        for each in services
        if all(
            needed <= case.place.device(name).usable_memory_bytes
            for needed, name in zip(needed_bytes(each), each.devices, strict=True)
        )
    ]


def random_goal(dice: Dice, case: Case, objective: ServingObjective) -> ServingGoal:
    """A rate and limits of the order of what the devices can do, so that they may bind."""
    alone = [service_of(case, plan).alone_s for plan in every_plan(case, (1,), (1,))]
    limit = dice.pick((None, 1.2, 2.0, 5.0))
    first = dice.pick((None, None, 1.5))
    return ServingGoal(
        objective=objective,
        requests_per_s=None if objective == "rate" else dice.pick((0.3, 0.7, 1.2)) / min(alone),
        latency_s=limit and limit * min(alone),
        first_token_s=first and first * min(alone),
        token_s=dice.pick((None, None, min(alone))),
        energy_accounting=dice.pick(("participating", "all-on")),
    )


def value_of(figures: ServingFigures, goal: ServingGoal) -> float:
    return figures.latency_s if goal.objective == "latency" else figures.energy_j(goal.energy_accounting)


@settings(max_examples=examples(40))
@given(seeded(random_case), seeded(lambda dice: dice))
def test_no_plan_of_all_is_better(case: Case, dice: Dice) -> None:
    goal = random_goal(dice, case, dice.pick(("latency", "energy")))
    batching: Batching | None = dice.pick((None, None, "continuous", "static"))
    assert goal.requests_per_s is not None
    best = math.inf
    for service in that_fit(case):
        for joining in joinings_of(service, batching):
            figures = figures_of(service, goal.requests_per_s, joining)
            # Beyond its capacity a plan keeps up with so few requests only as long as they fill its slots.
            if goal.keeps(figures) and goal.requests_per_s <= service.capacity_per_s * (1 + 1e-9):
                best = min(best, value_of(figures, goal))
    if math.isinf(best):
        with pytest.raises(InfeasibleError, match=r"no plan fits|more than any plan serves"):
            served(case, goal, batching)
        return
    answer = served(case, goal, batching)
    assert answer.status == "optimal"
    assert answer.value == pytest.approx(best, rel=2e-6)
    assert answer.bound <= best * (1 + 1e-9)
    assert goal.keeps(answer.figures)
    (again,) = [each for each in that_fit(case) if each.plan == answer.plan]
    assert batching in (None, answer.batching)
    assert figures_of(again, goal.requests_per_s, answer.joining) == answer.figures


@settings(max_examples=examples(15))
@given(seeded(random_case), seeded(lambda dice: dice))
def test_no_plan_serves_more_than_the_bound(case: Case, dice: Dice) -> None:
    """Whenever requests come, without limits: here all at once, so that slots are never empty before the last came."""
    goal = random_goal(dice, case, "rate")
    fitting = that_fit(case)
    try:
        answer = served(case, goal)
    except InfeasibleError:
        return
    assert answer.value <= answer.bound * (1 + 1e-9)
    assert answer.value == pytest.approx(answer.figures.requests_per_s)
    assert goal.keeps(answer.figures)
    most = max(
        1 / Limited(service, goal).least_between_s(joining)
        for service in fitting
        for joining in joinings_of(service, None)
        if is_possible(service, goal)
    )
    assert most <= answer.bound * (1 + 1e-9)
    if (goal.first_token_s, goal.token_s, goal.latency_s) == (None,) * 3:
        arrivals = [0.0] * REQUESTS
        for service in fitting:
            for each in joinings_of(service, None):
                ended = play(service.plan, case.work, case.place, arrivals, **each._asdict(), table=case.table).end_s
                assert REQUESTS / float(ended.max()) <= answer.bound * (1 + 1e-9)


def is_possible(service: Service, goal: ServingGoal) -> bool:
    """Whether a request alone keeps the limits."""
    return (
        (goal.latency_s is None or service.alone_s <= goal.latency_s)
        and (goal.first_token_s is None or service.first_token_alone_s <= goal.first_token_s)
        and (goal.token_s is None or service.token_alone_s <= goal.token_s)
    )


@settings(max_examples=examples(25))
@given(seeded(random_case), seeded(lambda dice: dice))
def test_a_chain_by_its_stages_is_the_one_that_comes_in_order(case: Case, dice: Dice) -> None:
    goal = random_goal(dice, case, dice.pick(("latency", "energy", "rate")))
    slots, groups, joining = dice.pick((1, 2, 3)), dice.pick((1, 2)), dice.pick(WAYS)
    chains = Chains(case.work, case.place, case.table, goal, slots, groups, joining)
    in_order = [(least, chain) for least, chain in chains.in_order() if chain is not None]
    assert all(least <= chain.least * (1 + 1e-9) for least, chain in in_order)  # also while it was a beginning
    listed = {chain.plan: chain.least for _, chain in in_order}
    if goal.objective == "rate":
        assert {chain.plan for _, chain in chains.in_order(by_capacity=True) if chain is not None} == set(listed)
    for plan in every_plan(case, (slots,), (groups,)):
        chain = chains.of([(stage.first_layer, stage.stop_layer, stage.leader) for stage in plan.stages])
        assert (chain is None) == (plan not in listed)
        assert chain is None or chain.least == pytest.approx(listed[plan], rel=1e-12)


def test_by_steps_to_chains_beside_it_one_comes_to_every_chain() -> None:
    devices = ("a", "b", "c")
    every = set()
    for stages in range(1, 4):
        for inner in itertools.combinations(range(1, 6), stages - 1):
            for names in itertools.permutations(devices, stages):
                cuts = itertools.pairwise((0, *inner, 6))
                every.add(tuple((first, stop, name) for (first, stop), name in zip(cuts, names, strict=True)))
    seen, ahead = set(), [((0, 6, "a"),)]
    while ahead:
        chain = ahead.pop()
        if chain not in seen:
            seen.add(chain)
            near = [tuple(each) for each in beside(list(chain), devices)]
            assert chain not in near
            ahead += near
    assert seen == every


def test_waves_serve_more_where_prompts_are_long_and_groups_are_few() -> None:
    """Prompts of 1 s a stage, tokens of 0.01 s: one by one they leave the other stage idle, in waves they do not."""
    token = NextToken(flops=1e7, read_parameters=0, output_elements=1)
    chain = [layer(f"l{index}", next_token=token, output_elements=1) for index in range(2)]
    work = Workload(name="long", mode="generate", batch=1, layers=tuple(chain), sequence=8, new_tokens=50)
    case = case_of(work, cluster(2, 1e9), 4)

    def fastest(wave: int) -> float:
        goal = ServingGoal(objective="rate")
        shape = {"slots": (4,), "groups": (2,), "requests": 48, "table": case.table}
        return dora.serve(
            case.work, case.place, goal, batching="continuous", waves=(wave,), time_limit_s=5.0, **shape
        ).value  # type: ignore[arg-type]

    assert fastest(8) > 1.2 * fastest(1)


def test_static_batching_is_chosen_where_it_serves_more() -> None:
    """One device, 2 s a prompt, 0.2 s a token, however many have one, and at most 0.26 s a token on the mean.

    Ten further tokens have 0.6 s to wait, which is less than a prompt: nobody may join whom others wait for.
    """
    case = two_layers(tokens=11)
    flat = case.table.token_s
    assert flat is not None
    flat[:] = np.where(np.arange(flat.shape[2]) > 0, flat[:, :, 1:2], 0.0)
    case = Case(case.work, cluster(1), case.table.of_devices(np.array([0])))
    goal, shape = ServingGoal(objective="rate", token_s=0.26), {"slots": (1, 4), "groups": (1,), "table": case.table}

    def of(batching: Batching | None) -> Serving:
        return dora.serve(case.work, case.place, goal, batching=batching, **shape)  # type: ignore[arg-type]

    either, static, continuous = of(None), of("static"), of("continuous")
    assert continuous.value < 1 / 4 < static.value  # a request alone takes 2 + 10 x 0.2 s
    assert either.batching == static.batching == "static"
    assert either.value == pytest.approx(static.value, rel=0.02)
    assert static.bound == pytest.approx(4 / (4 * 2 + 10 * 0.2))
    assert either.bound == pytest.approx(static.bound)
    assert "continuous or static batching, waves of 1, 4, 16" in either.scope
    figures = serving_figures(service_of(case, either.plan), either.value, requests=120, joining=either.joining)
    assert figures == either.figures


def test_slots_are_added_where_requests_would_wait() -> None:
    """One slot serves 1 / 2.4 s; of 0.45 a second, two in a slot each have tokens together at no more cost."""
    case = two_layers()
    flat = case.table.token_s
    assert flat is not None
    together = np.where(np.arange(flat.shape[2]) > 0, flat[:, :, 1:2], 0.0)
    table = dora.CostTable(case.table.forward_s, case.table.backward_s, case.table.step_s, "measured", together)
    case = Case(case.work, cluster(1), table.of_devices(np.array([0])))
    answer = served(case, ServingGoal(requests_per_s=0.45))
    assert (answer.slots, answer.groups) == (3, 1)
    assert not serving_figures(service_of(case, serving_plan([(0, 2, "a")], 1, 1)), 0.45).keeps_up


def test_the_best_so_far_comes_with_its_bound_when_time_is_up() -> None:
    stop, heard = threading.Event(), []

    def say(text: str) -> None:
        heard.append(text)
        stop.set()

    case, goal = two_layers(), ServingGoal(objective="rate")
    answer = dora.serve(
        case.work,
        case.place,
        goal,
        slots=(2,),
        table=case.table,
        on_progress=say,
        cancel=stop,
    )
    assert answer.status == "cancelled"
    assert answer.bound > answer.value
    assert len(heard) == 1
    assert "slots on" in heard[0]
    stop.set()
    with pytest.raises(InfeasibleError, match="none is proven impossible"):
        dora.serve(case.work, case.place, goal, table=case.table, slots=(2,), cancel=stop)


def test_without_a_goal_the_largest_rate_is_found() -> None:
    case = two_layers()
    answer = dora.serve(case.work, case.place, slots=(1,), groups=(1,), table=case.table)
    assert answer.unit == "requests/s"
    assert 0.9 * answer.bound < answer.value <= answer.bound


def test_batches_are_found_as_soon_as_the_first_request_need_not_wait_too_long_for_the_last() -> None:
    """Batches of two: one device is busy for 4.8 s with each; the first waits for half of it, and 4 s for prompts."""
    case, goal = two_layers(), ServingGoal(objective="rate", first_token_s=6.41)
    shape = {"slots": (2,), "groups": (1,), "batching": "static", "table": case.table}
    answer = dora.serve(case.work, case.place, goal, **shape)  # type: ignore[arg-type]
    assert answer.value == pytest.approx(1 / 2.4, rel=1e-3)
    assert answer.bound == pytest.approx(1 / 2.4)
    with pytest.raises(InfeasibleError, match="no plan fits in memory and keeps the limits; 0 plans"):
        dora.serve(case.work, case.place, goal.replace(first_token_s=6.39), **shape)  # type: ignore[arg-type]


def test_a_rate_beyond_any_capacity_is_told_apart_from_too_little_memory() -> None:
    case = two_layers()
    most = dora.serve(case.work, case.place, slots=(1,), groups=(1,), table=case.table).bound
    goal = ServingGoal(requests_per_s=2 * most)
    with pytest.raises(InfeasibleError, match=re.escape(f"at most {most:.3g}/s")):
        dora.serve(case.work, case.place, goal, slots=(1,), groups=(1,), table=case.table)


def test_times_of_too_few_samples_are_refused() -> None:
    case = two_layers(slots=2)
    with pytest.raises(InputError, match="times of up to 2 samples"):
        dora.serve(case.work, case.place, slots=(3,), table=case.table)
    with pytest.raises(InputError, match=r"table\.token_s"):
        dora.serve(case.work, case.place, slots=(2,), table=dataclasses.replace(case.table, token_s=None))


@pytest.mark.parametrize(
    ("option", "field"),
    [
        ({"slots": ()}, "slots"),
        ({"groups": (0,)}, "groups"),
        ({"requests": 3}, "requests"),
        ({"batching": "none"}, "batching"),
        ({"gap": 2.0}, "gap"),
        ({"waves": (0,)}, "waves"),
        ({"waves": ()}, "waves"),
        ({"waves": (99,)}, "waves"),
        ({"waves": (4,), "batching": "static"}, "waves"),
    ],
)
def test_what_cannot_be_asked_is_refused(option: dict[str, object], field: str) -> None:
    case = two_layers()
    with pytest.raises(InputError) as refused:
        dora.serve(case.work, case.place, ServingGoal(requests_per_s=0.1), **option)  # type: ignore[arg-type]
    assert refused.value.field == field


def test_more_devices_than_sets_can_be_listed_of_are_refused() -> None:
    many = cluster([device(f"d{number}") for number in range(11)])
    with pytest.raises(InputError, match="leave some out"):
        dora.serve(two_layers().work, many, ServingGoal(requests_per_s=0.1))

"""What limits on every request cost in requests per second: by hand, and against what is played."""

from __future__ import annotations

import math

import numpy as np
import pytest
from builders import Dice, examples, seeded
from hypothesis import given, settings
from served import Case, case_of, random_served, service_of, two_layers

from dora_nb.costs.serving import Service, serving_plan
from dora_nb.costs.serving_figures import serving_figures
from dora_nb.costs.serving_limits import Limited, least_mean, most_at_once
from dora_nb.costs.serving_rounds import evenly_spaced, play_rounds
from dora_nb.domain.plan import Plan
from dora_nb.domain.serving import Batching, ServingGoal

ANY_RATE = ServingGoal(objective="rate")


def most(goal: ServingGoal, first_s: list[float], between_s: float = 0.0, tokens: int = 11) -> int:
    """Rounds of 0.1 s, and 2 s a prompt."""
    each = {"token_s": np.array(0.1), "joiner_s": np.array(2.0), "between_s": np.array(between_s)}
    return int(most_at_once(goal, tokens, np.array(first_s), **each))


def test_as_many_are_together_as_the_limits_have_room_for() -> None:
    firsts = [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]
    assert most(ANY_RATE, firsts) == 6
    # Ten further tokens of at most 0.55 s: 4.5 s more than their own are two prompts more. One joins at first.
    slow = ServingGoal(objective="rate", token_s=0.55, first_token_s=3.0)
    assert most(slow, firsts) == 3
    # Three may join together within 7 s, of which the first has waited for the others.
    assert most(slow.replace(first_token_s=7.0), firsts) == 5
    assert most(slow.replace(first_token_s=7.0), firsts, between_s=1.5) == 4
    # 9 s: 6 s of one's own prompt and of prompts beside it are left where two join together, 8 s where one does.
    assert most(ServingGoal(objective="rate", latency_s=9.0), firsts) == 4
    assert most(ServingGoal(objective="rate", first_token_s=1.0), firsts) == 0
    assert most(ServingGoal(objective="rate", token_s=0.05), firsts) == 0
    assert most(ServingGoal(objective="rate", first_token_s=5.0), firsts, tokens=1) == 2


def test_a_mixture_spends_what_is_allowed_on_the_mean() -> None:
    costs, spent = np.array([4.0, 1.0, 3.0]), np.array([1.0, 3.0, 2.0])
    assert least_mean(costs, spent, 5.0) == 1.0
    assert least_mean(costs, spent, 2.0) == pytest.approx(2.5)
    assert math.isinf(least_mean(costs, spent, 0.9))


def test_fewer_in_a_group_share_less() -> None:
    """Two layers on one device: 2 s a prompt, 0.2 s a token; two at once take 0.3 s, four 0.5 s."""
    case = two_layers(tokens=11)
    assert case.table.token_s is not None
    together = np.arange(5) * 0.05 + 0.05
    together[0] = 0.0
    case.table.token_s[:] = together
    limited = Limited(
        service_of(case, serving_plan([(0, 2, "a")], 4, 1)),
        ServingGoal(objective="rate", token_s=0.45, first_token_s=3.0),
    )
    # Ten tokens within 4.5 s have room for one prompt beside them: two at once, 0.15 s each.
    assert limited.least_between_s() == pytest.approx(2.0 + 10 * 0.15)


def random_limits(dice: Dice, service: Service) -> ServingGoal:
    """A little more than a request alone takes, so that they bind."""
    first, token, whole = (dice.pick((None, 1.1, 1.6, 3.0)) for _ in range(3))
    return ServingGoal(
        objective="rate",
        first_token_s=first and first * service.first_token_alone_s,
        token_s=token and (token * service.token_alone_s or None),
        latency_s=whole and whole * service.alone_s,
    )


@settings(max_examples=examples(150))
@given(seeded(random_served), seeded(lambda dice: dice))
def test_requests_within_their_limits_are_not_served_sooner(served: tuple[Case, Plan], dice: Dice) -> None:
    case, plan = served
    case = case_of(case.work.replace(new_tokens=dice.pick((1, 2, 5, 9))), case.place, 3)
    service = service_of(case, plan)
    goal = random_limits(dice, service)
    limited = Limited(service, goal)
    ways: list[tuple[Batching, int]] = [("continuous", 1), ("static", 1)]
    ways.append(("continuous", dice.number(1, service.slots * service.groups)))
    for rate in np.array([0.3, 0.6, 0.8, 0.9, 1.0, 1.3, 3.0]) * service.capacity_per_s:
        for batching, wave in ways:
            figures = serving_figures(service, rate, requests=15, batching=batching, wave=wave)
            if goal.keeps(figures.replace(keeps_up=True)):
                played = play_rounds(service, evenly_spaced(rate, 15), batching, wave)
                assert float(played.end_s.max()) * (1 + 1e-9) >= 15 * limited.seconds_each(1 / rate)
                assert played.together <= service.slots
    between_s = limited.least_between_s()
    assert between_s >= 1 / service.capacity_per_s
    assert math.isinf(between_s) or limited.seconds_each(between_s) <= between_s * (1 + 1e-9)


@settings(max_examples=examples(60))
@given(seeded(random_served), seeded(lambda dice: dice))
def test_no_more_are_together_than_is_said(served: tuple[Case, Plan], dice: Dice) -> None:
    """Within limits that are those of what was played, as tight as may be."""
    case, plan = served
    case = case_of(case.work.replace(new_tokens=dice.pick((2, 5, 9))), case.place, 3)
    service = service_of(case, plan)
    rate = dice.pick((0.4, 0.8, 1.1)) * service.capacity_per_s
    figures = serving_figures(service, rate, requests=15)
    goal = ServingGoal(
        objective="rate",
        first_token_s=figures.worst_first_token_s,
        token_s=dice.pick((None, figures.worst_token_s)),
        latency_s=dice.pick((None, figures.worst_latency_s)),
    )
    assert Limited(service, goal).most_at_once(1 / rate) >= figures.together

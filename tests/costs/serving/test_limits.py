"""What limits on every request cost in requests per second: by hand, and against what is played."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from builders import Dice, examples, seeded
from hypothesis import given, settings
from served import case_of, every_plan, random_case, service_of, two_layers

from dora_nb.costs.serving.bound import Limited, least_mean
from dora_nb.costs.serving.figures import serving_figures
from dora_nb.costs.serving.limits import (
    Case,
    Least,
    always_have_room,
    least_between_turns_s,
    most_at_once,
    most_by_waiting,
)
from dora_nb.costs.serving.rounds import evenly_spaced, play_rounds
from dora_nb.costs.serving.service import Service, serving_plan
from dora_nb.domain.serving import AT_ONCE, Joining, ServingGoal

ANY_RATE = ServingGoal(objective="rate")


def taken(first_s: list[float], token_s: float = 0.1, joiner_s: float = 2.0) -> Least:
    return Least(np.array(first_s), np.array(token_s), np.array(joiner_s))


def most(goal: ServingGoal, first_s: list[float], between_s: float = 0.0, tokens: int = 11) -> int:
    """Rounds of 0.1 s, and 2 s a prompt."""
    return int(most_at_once(Case(goal, tokens, taken(first_s), np.array(between_s))))


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


def test_no_more_join_together_than_arrive_in_a_round() -> None:
    """Further tokens of 0.55 s on the mean: one of ten takes 4.6 s at most, in which five arrive a second apart."""
    goal, firsts = ServingGoal(objective="rate", token_s=0.55), [2.0 * each for each in range(1, 11)]
    assert most_at_once(Case(goal, 11, taken(firsts), np.array(1.0))) == 10
    assert most_by_waiting(Case(goal, 11, taken(firsts), np.array(1.0))) == 5 + 2
    assert most_by_waiting(Case(goal, 11, taken(firsts[:7]), np.array(1.0))) == 7  # as many as there are slots
    assert most_by_waiting(Case(goal, 11, taken(firsts), np.array(5.0))) == 1 + 2


def test_tokens_take_turns_with_prompts() -> None:
    """Prompts of 2 s, rounds of 0.1 s; eleven further tokens of at most 0.5 s are 5.4 s from boundary to boundary.

    Two prompts may be within these: 4 s, and 6 of 10 rounds that they leave. A boundary each and two at the ends, the
    other seven in three places: three in one, which is two rounds, behind the 2 s.
    """
    goal = ServingGoal(objective="rate", token_s=0.5)
    apart = least_between_turns_s(Case(goal, 12, taken([2.0]), np.array(1.0)), passed=1)
    assert apart == pytest.approx(2.0 + 2 * 0.1)
    assert least_between_turns_s(Case(goal, 12, taken([2.0]), np.array(3.0)), passed=1) == 3.0
    # Nine or more within less than 2 s each may follow each other closely.
    assert least_between_turns_s(Case(goal, 12, taken([2.0]), np.array(0.6)), passed=1) == 0.6
    assert math.isinf(
        least_between_turns_s(Case(goal.replace(token_s=0.09), 12, taken([2.0]), np.array(1.0)), passed=1)
    )
    # Two boundaries each: eight of eleven, the others one in each place.
    assert least_between_turns_s(Case(goal, 12, taken([2.0]), np.array(1.6)), passed=2) == pytest.approx(2.0)


def test_groups_have_room_for_all_who_arrive_until_the_first_of_them_has_ended() -> None:
    """First tokens within 3 s and ten further ones within 0.5 s each: 8 s, in which nine arrive a second apart."""
    goal, one = ServingGoal(objective="rate", first_token_s=3.0, token_s=0.5), taken([2.0])
    assert always_have_room(Case(goal, 11, one, np.array(1.0)), 9)
    assert not always_have_room(Case(goal, 11, one, np.array(1.0)), 8)
    assert always_have_room(Case(goal.replace(latency_s=7.5), 11, one, np.array(1.0)), 8)
    assert not always_have_room(Case(ServingGoal(objective="rate", token_s=0.5), 11, one, np.array(1.0)), 99)


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


def random_limited(dice: Dice) -> tuple[Service, ServingGoal]:
    """Prompts as long as several tokens, and limits of a little more than a request alone takes, so that they bind."""
    case = random_case(dice, slots := dice.pick((1, 2, 3, 4)))
    given = {} if dice.pick((True, False)) else {"source": None, "input_bytes": 0.0}
    case = case_of(case.work.replace(new_tokens=dice.pick((1, 2, 5, 9, 17)), **given), case.place, slots)
    case.table.forward_s[:] *= dice.pick((1, 5, 20))
    service = service_of(case, dice.pick(every_plan(case, (slots,), (1, 2, 4))))
    first, token, whole = (dice.pick((None, 1.1, 1.6, 3.0)) for _ in range(3))
    goal = ServingGoal(
        objective="rate",
        first_token_s=first and first * service.first_token_alone_s,
        token_s=token and (token * service.token_alone_s or None),
        latency_s=whole and whole * service.alone_s,
    )
    return service, goal


@settings(max_examples=examples(60))
@given(seeded(lambda dice: dice))
def test_requests_that_are_kept_up_with_within_their_limits_are_as_is_said(dice: Dice) -> None:
    requests = 24  # whole batches of any slots
    service, goal = random_limited(dice)
    limited = Limited(service, goal)
    joinings = (AT_ONCE, Joining("static"), Joining(wave=dice.number(1, service.slots * service.groups)))
    for busy, joining in itertools.product((0.3, 0.6, 0.8, 0.9, 1.0, 1.3), joinings):
        rate = busy * service.capacity_per_s
        figures = serving_figures(service, rate, requests=requests, joining=joining)
        if goal.keeps(figures.replace(keeps_up=True)):
            assert limited.slowest_per_s(joining) <= rate * (1 + 1e-9)
            over_s = play_rounds(service, evenly_spaced(rate, requests), joining).end_s.max()
            for way in (None, joining):
                most, apart_s = limited.of_way(1 / rate, way)
                assert figures.together <= most
                assert over_s * (1 + 1e-9) >= requests * limited.seconds_each(most)
                # Batches keep groups and stages busy for so long, also beyond what is kept up with.
                longest_s = max(1 / rate, over_s / requests) if way == Joining("static") else 1 / rate
                assert apart_s <= longest_s * (1 + 1e-9)


@settings(max_examples=examples(60))
@given(seeded(lambda dice: dice))
def test_no_step_leads_beyond_what_it_began_with(dice: Dice) -> None:
    service, goal = random_limited(dice)
    limited = Limited(service, goal)
    for way in (None, AT_ONCE, Joining(wave=2), Joining("static")):
        between_s = limited.least_between_s(way)
        assert between_s >= 1 / service.capacity_per_s
        assert limited.least_between_s(None) <= between_s * (1 + 1e-9)
    assert Limited(service, ANY_RATE).least_between_s(AT_ONCE) == pytest.approx(1 / service.capacity_per_s)

"""Requests that want tokens, played event by event: as predicted, and with arrivals that nobody foresees."""

from __future__ import annotations

import numpy as np
import pytest
from builders import Dice, examples, seeded
from hypothesis import given, settings
from served import Case, random_arrivals, random_served, service_of, two_layers

from dora_nb.costs.serving.rounds import evenly_spaced, play_rounds
from dora_nb.costs.serving.service import serving_plan
from dora_nb.domain.plan import Plan
from dora_nb.domain.serving import AT_ONCE, Joining
from dora_nb.errors import InputError
from dora_nb.simulation.serving import ServedRequests, play, poisson_arrivals


def played(case: Case, plan: Plan, arrivals_s: list[float], joining: Joining = AT_ONCE) -> ServedRequests:
    return play(plan, case.work, case.place, arrivals_s, **joining._asdict(), table=case.table)


@settings(max_examples=examples(60))
@given(seeded(random_served), seeded(lambda dice: dice))
def test_every_token_comes_when_it_is_predicted(served: tuple[Case, Plan], dice: Dice) -> None:
    service = service_of(*served)
    rate = dice.pick((0.4, 0.9, 1.3)) * service.capacity_per_s
    for arrivals in (
        random_arrivals(dice, service, 12),
        evenly_spaced(rate, 12),
        poisson_arrivals(rate, 12, seed=dice.number(0, 99)),
    ):
        in_waves = Joining(wave=dice.number(1, service.slots * service.groups))
        for joining in (AT_ONCE, Joining("static"), in_waves):
            simulated = played(*served, arrivals, joining)
            predicted = play_rounds(service, arrivals, joining)
            assert np.array_equal(simulated.first_token_at_s, predicted.first_token_s)
            assert np.array_equal(simulated.last_token_at_s, predicted.last_token_s)
            assert np.array_equal(simulated.end_s, predicted.end_s)


def test_arrivals_at_random_have_their_mean_rate_and_come_again() -> None:
    arrivals = poisson_arrivals(2.0, 4_000, seed=3)
    assert arrivals[0] == 0
    assert arrivals[-1] / 3_999 == pytest.approx(0.5, rel=0.05)
    assert arrivals == poisson_arrivals(2.0, 4_000, seed=3)
    assert arrivals != poisson_arrivals(2.0, 4_000, seed=4)


def test_arrivals_at_random_wait_longer_than_evenly_spaced_ones() -> None:
    case, plan = two_layers(), serving_plan([(0, 2, "a")], 1, 1)
    even = played(case, plan, evenly_spaced(0.35, 200))
    random = played(case, plan, poisson_arrivals(0.35, 200))
    assert even.latency_s == pytest.approx(np.full(200, 2.4))
    assert random.latency_s.mean() > 1.5 * even.latency_s.mean()
    assert repr(even) == (
        "ServedRequests, 200: first token after 2 s (median) and 2 s (95 %), last after 2.4 s and 2.4 s"
    )


def test_arrivals_come_in_order() -> None:
    case = two_layers()
    for arrivals in ([], [-1.0], [1.0, 0.5]):
        with pytest.raises(InputError, match="arrivals_s"):
            played(case, serving_plan([(0, 2, "a")], 1, 1), arrivals)


def test_a_wave_is_no_more_than_the_slots_hold() -> None:
    case, plan = two_layers(), serving_plan([(0, 2, "a")], 2, 2)
    with pytest.raises(InputError, match="from 1 to 4, the slots of all groups"):
        played(case, plan, [0.0], Joining(wave=5))
    with pytest.raises(InputError, match="to batch statically"):
        played(case, plan, [0.0], Joining("static", 2))

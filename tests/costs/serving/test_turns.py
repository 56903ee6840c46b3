"""What passing prompts in turn costs in requests per second: by hand, and against what is played."""

from __future__ import annotations

import math

import numpy as np
import pytest
from builders import Dice, examples, seeded
from hypothesis import given, settings
from served import case_of, every_plan, random_case, service_of, two_layers

from dora_nb.costs.serving.bound import Limited
from dora_nb.costs.serving.figures import serving_figures
from dora_nb.costs.serving.rounds import _Group, _Rounds, evenly_spaced, play_rounds
from dora_nb.costs.serving.service import Service, serving_plan
from dora_nb.costs.serving.turns import Turns, least_between_prompts_s
from dora_nb.domain.serving import AT_ONCE, Joining, ServingGoal

ANY_RATE = ServingGoal(objective="rate")


def turns_of(prompt_s: float, waiting_s: float, token_s: float, tokens: int, slots: int, groups: int) -> Turns:
    """The busiest stage takes half of a prompt's seconds."""
    more_s = np.array([0.5, 1.0, 1.5]) * prompt_s
    return Turns(tokens, slots, groups, np.array(prompt_s), more_s, np.array(token_s), np.array(waiting_s))


def test_tokens_have_their_time_between_prompts() -> None:
    """Two groups of two slots, prompts of 2 s, 20 tokens each, of which 2 (2 + 2) are had in and behind one prompt.

    Of two prompts, 2 (3 + 2) of 40 tokens: they are on their way for 3 s or more, and 30 tokens need as many times
    0.1 s. If a request may wait for 0.5 s, two in a run take 1.5 s and as long as until another one arrives.
    """
    alone = turns_of(2.0, 0.5, 0.1, tokens=20, slots=2, groups=2)
    assert [float(alone.between_runs_s(m)) for m in (1, 2)] == pytest.approx([1.2, 3.0])
    assert [float(alone.run_s(m)) for m in (1, 2, 4, 9)] == pytest.approx([2.0, 3.0, 5.0, 5.0])
    assert least_between_prompts_s(alone) == pytest.approx(3.2)  # one by one: 2 + 1.2 s; two need 1.5 + 3.0 s
    patient = turns_of(2.0, 2.0, 0.1, tokens=20, slots=2, groups=2)
    assert least_between_prompts_s(patient) == pytest.approx(3.0)  # two: (3.0 + 3.0) / 2 and 0 + 3.0 s
    assert least_between_prompts_s(turns_of(2.0, math.inf, 0.1, tokens=20, slots=2, groups=2)) == 0
    assert least_between_prompts_s(turns_of(2.0, 0.5, 0.1, tokens=20, slots=20, groups=2)) == 0


def is_possible(turns: Turns, each_s: float, between_s: float, most: int) -> bool:
    """Whether requests that arrive so far apart may take so long each, for some number of them in a run."""
    return any(
        m * each_s * (1 + 1e-9)
        >= max(turns.run_s(m), turns.prompt_s + (m - 1) * between_s - turns.waiting_s) + turns.between_runs_s(m)
        for m in range(1, most + 1)
    )


@settings(max_examples=examples(100))
@given(seeded(lambda dice: dice))
def test_no_less_time_between_prompts_is_possible(dice: Dice) -> None:
    tokens, slots, groups = dice.pick((5, 20, 64)), dice.pick((1, 2, 4)), dice.pick((1, 2, 4))
    turns = turns_of(1.0, dice.pick((0.0, 0.3, 1.0, 2.5)), dice.pick((0.001, 0.01, 0.05)), tokens, slots, groups)
    least_s = float(least_between_prompts_s(turns))
    if least_s > 0:
        assert not is_possible(turns, least_s * (1 - 1e-6), least_s * (1 - 1e-6), 500)


def random_service(dice: Dice) -> Service:
    """Prompts as long as several tokens, one or two stages, inputs sent or not."""
    case = random_case(dice, slots := dice.pick((1, 2, 3, 4)))
    given = {} if dice.pick((True, False)) else {"source": None, "input_bytes": 0.0}
    case = case_of(case.work.replace(new_tokens=dice.pick((1, 2, 5, 9, 17)), **given), case.place, slots)
    case.table.forward_s[:] *= dice.pick((1, 5, 20))
    return service_of(case, dice.pick(every_plan(case, (slots,), (1, 2, 4))))


@settings(max_examples=examples(40))
@given(seeded(random_service), seeded(lambda dice: dice))
def test_requests_take_as_long_as_is_said_whoever_joins_when(service: Service, dice: Dice) -> None:
    """Of all that is played, kept up with or not, with as long as any request has waited as the limit."""
    requests, turns = 24, Limited(service, ANY_RATE).turns
    joinings = (AT_ONCE, Joining("static"), Joining(wave=dice.number(1, service.slots * service.groups)))
    for joining in joinings:
        for busy in (0.3, 0.6, 0.8, 0.9, 1.0, 1.3):
            rate = busy * service.capacity_per_s
            played = play_rounds(service, evenly_spaced(rate, requests), joining)
            waited_s = (played.joined_s - played.arrival_s).max() - service.input.alone_s(1, 0)
            each_s = float(played.end_s.max()) / requests
            bound = turns._replace(waiting_s=np.asarray(waited_s * (1 + 1e-9) + service.tick_s))
            assert is_possible(bound, each_s, 1 / rate, requests)


def test_what_is_kept_comes_closer_to_the_bound_than_to_the_capacity() -> None:
    """Two stages of 1 s a prompt, 17 tokens in rounds of 0.2 s, two groups of one slot, and little time to wait."""
    case, goal = two_layers(tokens=17, bytes_per_s=1e9), ServingGoal(objective="rate", first_token_s=2.5)
    service = service_of(case, serving_plan([(0, 1, "a"), (1, 2, "b")], 1, 2))
    least_s = Limited(service, goal).least_between_s(AT_ONCE)
    # A prompt of 2 s; 4 of its 17 tokens have their round begun with it or before the next, 13 take 0.1 s of a stage.
    assert least_s == pytest.approx(2 + 13 * 0.1, abs=0.01)
    assert 1 / service.capacity_per_s == pytest.approx(2.6, abs=0.01)
    assert goal.keeps(serving_figures(service, 1 / (1.07 * least_s), requests=60))


class Logged(_Rounds):
    """With every boundary, in order: when, of which group, who joined, how many then were there."""

    def __init__(self, service: Service, arrivals_s: list[float], joining: Joining) -> None:
        super().__init__(service, arrivals_s, joining)
        self.log: list[tuple[int, _Group, list[int], int]] = []

    def _board(self, now: int, group: _Group) -> bool:
        goes = super()._board(now, group)
        self.log.append((now, group, list(group.joining), len(group.tokens)))
        return goes


@settings(max_examples=examples(60))
@given(seeded(random_service), seeded(lambda dice: dice))
def test_runs_of_prompts_and_the_times_between_are_as_is_said(service: Service, dice: Dice) -> None:
    """Boundaries and seconds of every run; between runs tokens of rounds that end there, and one more of each group."""
    turns, tick_s = Limited(service, ANY_RATE).turns, service.tick_s
    for joining in (AT_ONCE, Joining("static"), Joining(wave=dice.number(1, service.slots * service.groups))):
        rate = dice.pick((0.3, 0.6, 0.8, 0.9, 1.0, 1.3)) * service.capacity_per_s
        rounds = Logged(service, evenly_spaced(rate, 24), joining)
        rounds.run()
        joins = [(at, rounds.first[who[0]], len(who)) for at, _, who, _ in rounds.log if who]
        runs: list[list[tuple[int, int, int]]] = []
        for one in joins:
            if runs and one[0] < runs[-1][-1][1]:
                runs[-1].append(one)
            else:
                runs.append([one])
        spans = [(run[0][0], run[-1][1]) for run in runs]
        inside = [0] * len(runs)
        place = -1
        between: list[list[tuple[int, _Group, int]]] = [[] for _ in range(len(runs) + 1)]
        for at, group, who, there in rounds.log:
            if place + 1 < len(runs) and who and at == spans[place + 1][0] and (place < 0 or at >= spans[place][1]):
                place += 1
            if place >= 0 and at < spans[place][1]:
                inside[place] += there > 0
            else:
                between[place + 1].append((at, group, there))
        for run, (begin, end), boundaries in zip(runs, spans, inside, strict=True):
            assert boundaries <= (service.groups - 1) * len(run) + 1
            requests = sum(count for *_, count in run)
            assert (end - begin) * tick_s * (1 + 1e-9) + 99 * tick_s >= turns.run_s(requests)
        for those in between[1:]:
            back = [group in [other for _, other, _ in those[place + 1 :]] for place, (_, group, _) in enumerate(those)]
            ended = sum(there for (*_, there), is_back in zip(those, back, strict=True) if is_back)
            if those:
                over_s = (those[-1][0] - those[0][0]) * tick_s
                assert ended * float(turns.token_s) <= over_s * (1 + 1e-9) + 99 * tick_s

"""Groups that follow each other while tokens are generated: by hand, played in another way, and against bounds."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from builders import Dice, cluster, device, examples, layer, pipeline, questions, random_plan, seeded, workload
from hypothesis import given, settings

from dora_nb.costs import Evaluation, evaluate
from dora_nb.costs.operations import Shape
from dora_nb.costs.precedence import operations_of
from dora_nb.costs.table import cost_table
from dora_nb.costs.timing import timing_of
from dora_nb.costs.token_rounds import Going, Leg, every_leg, least_rounds_s, rounds_s, slack_s
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.layer import NextToken
from dora_nb.domain.plan import Plan
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.formulation.schedules.list_schedule import list_schedule

HALF = pipeline((0, 1, {"a": 1}), (1, 2, {"b": 1}), micro_batches=4)


#: 0.1 s of work and 20,000 bytes handed over for one sample's next token.
TOKEN = NextToken(flops=1e8, read_parameters=0, output_elements=5_000)


def generating() -> Workload:
    chain = [layer(f"l{index}", next_token=TOKEN, kv_elements=100) for index in range(2)]
    return workload(chain, mode="generate", sequence=8, new_tokens=5, batch=4)


def evaluated(plan: Plan, work: Workload, place: Cluster) -> Evaluation:
    timing = timing_of(plan, work, place, cost_table(work, place))
    schedule = list_schedule(operations_of(Shape.of(plan, work)), timing)
    return evaluate(plan.replace(transfer_order=schedule.transfers()), work, place)


def test_two_groups_compute_while_the_other_is_elsewhere() -> None:
    """Two stages of 0.1 s a sample, 4 samples, 20 kB of a sample over 2 hops of 1 MB/s, 8 bytes back.

    As one unit a token takes 2 x 0.4 s and 4 x 0.04 s. Two groups of two: each goes round in 2 x 0.2 s + 2 x 0.04 s,
    which is longer than a stage needs for both; the second one is 0.2 s behind the first, on its last round as well.
    """
    work, place = generating(), cluster(2)
    whole, halves = (evaluated(HALF.replace(token_groups=groups), work, place).prediction for groups in (1, 2))
    back_s = 2 * 8e-6
    assert whole.token_s == pytest.approx(2 * 0.4 + 4 * 0.04 + 4 * back_s)
    assert halves.first_token_s == pytest.approx(whole.first_token_s)
    rounds_s = 4 * (2 * 0.2 + 2 * 0.04) + 0.2
    assert halves.token_s == pytest.approx(rounds_s / 4, rel=1e-3)  # the way back is some microseconds
    assert halves.makespan_s == pytest.approx(halves.first_token_s + rounds_s, rel=1e-3)
    assert [each.busy_s for each in halves.devices] == pytest.approx([each.busy_s for each in whole.devices])
    assert halves.network_bytes == whole.network_bytes
    assert halves.airtime_s == pytest.approx(whole.airtime_s)


def test_the_busiest_stage_decides_with_many_groups() -> None:
    work, place = generating(), cluster([device("a"), device("b", 4e9)], 1e9)
    figures = evaluated(HALF.replace(token_groups=4), work, place).prediction
    # 4 steps of 4 groups, and the quick stage once.
    assert figures.token_s == pytest.approx((4 * 4 * 0.1 + 0.025) / 4, rel=1e-3)


def test_the_medium_decides_where_it_is_slow() -> None:
    """20 kB of each of 4 samples over two hops of 10 kB/s: 4 s a sample and token, and the way back."""
    figures = evaluated(HALF.replace(token_groups=4), generating(), cluster(2, 1e4)).prediction
    assert figures.token_s is not None
    air_s = 4 * (2 * 2 + 2 * 8e-4)
    # The last stage once at the end; and once a token, at most, the medium waits for the first stage.
    assert air_s + 0.1 / 4 < figures.token_s < air_s + 0.1 / 4 + 0.1


def played(result: Evaluation, plan: Plan, work: Workload) -> dict[int, list[float]]:
    """Every round as the timeline has it: nothing is in two rounds at once, and a group does one thing after another.

    Returns when each group's tokens were there.
    """
    entries = [
        (entry, busy)
        for entry, busy in zip(result.timeline, result.details.busy_s, strict=True)
        if entry.kind in ("decode", "token")
    ]
    by_place: dict[str, list[tuple[float, float]]] = {}
    by_group: dict[int, list[Any]] = {}
    for entry, busy in entries:
        by_group.setdefault(entry.micro_batch % plan.token_groups, []).append(entry)
        for name, seconds in zip(entry.places, busy, strict=True):
            by_place.setdefault(name, []).append((entry.start_s, entry.start_s + seconds))
    tiny_s = 1e-9 * result.prediction.makespan_s
    for taken in by_place.values():
        assert all(before[1] <= after[0] + tiny_s for before, after in pairwise(sorted(taken)))
    ends: dict[int, list[float]] = {}
    for group, legs in by_group.items():
        legs.sort(key=lambda each: (each.start_s, each.end_s))
        assert all(before.end_s <= after.start_s + tiny_s for before, after in pairwise(legs))
        last = [each for each in legs if (each.kind, each.stage) == ("decode", len(plan.stages) - 1)]
        assert len(last) == work.decode_steps
        ends[group] = [each.end_s for each in last]
    return ends


@settings(max_examples=examples(40))
@given(
    questions(modes=("generate",), batches=(2, 4, 6), kinds=("shared", "switch", "links", "mixed")),
    seeded(lambda dice: dice),
)
def test_what_is_predicted_is_what_comes_of_playing_every_round(question: tuple[Workload, Cluster], dice: Dice) -> None:
    work, place = question[0].replace(new_tokens=dice.number(2, 5)), question[1]
    plan = random_plan(dice, work, place)
    plan = plan.replace(token_groups=dice.pick(n for n in (1, 2, 3, 4, 6) if plan.micro_batches % n == 0))
    result = evaluated(plan, work, place)
    figures = result.prediction
    ends = played(result, plan, work)
    assert figures.token_s is not None
    assert figures.first_token_s is not None
    assert sorted(ends) == list(range(plan.token_groups))
    rounds_s = max(map(max, ends.values())) - figures.first_token_s
    assert rounds_s == pytest.approx(work.decode_steps * figures.token_s)
    output_s = sum(each.end_s - each.start_s for each in result.timeline if each.kind == "output")
    assert max(map(max, ends.values())) == pytest.approx(figures.makespan_s - output_s)
    busy_s = {each.device: 0.0 for each in figures.devices}
    for entry, busy in zip(result.timeline, result.details.busy_s, strict=True):
        if entry.kind in ("forward", "decode"):
            for name, seconds in zip(entry.places, busy, strict=True):
                busy_s[name] += seconds
    assert [each.busy_s for each in figures.devices] == pytest.approx(list(busy_s.values()))


def random_legs(dice: Dice) -> list[Leg]:
    """Back to the first stage, and stages and hand-overs in turn; on a medium, with a message that holds nothing."""
    legs, count = [], dice.number(1, 4)
    for stage in range(count):
        air_s = dice.number(0, 9) / 16
        if count > 1:
            legs.append(Leg(air_s + dice.pick((0.0, 1 / 16)), {"air": air_s}))
        seconds = dice.number(1, 9) / 16
        legs.append(Leg(seconds, {f"stage {stage}": seconds}))
    return legs


@settings(max_examples=examples(200))
@given(seeded(lambda dice: (random_legs(dice), dice.number(1, 6), dice.number(1, 40))))
def test_rounds_by_another_clock(case: tuple[list[Leg], int, int]) -> None:
    """Moment by moment: whoever waits longest for something free has it; not before a bound, and nothing is skipped."""
    legs, groups, steps = case
    ready_s, at, free_s = dict.fromkeys(range(groups), 0.0), dict.fromkeys(range(groups), 0), {}
    end_s = 0.0
    while ready_s:
        group = min(ready_s, key=lambda each: (ready_s[each], each))
        leg = legs[at[group] % len(legs)]
        ((name, held_s),) = leg.held_s.items()
        start_s = max(ready_s[group], free_s.get(name, 0.0))
        free_s[name], ready_s[group], at[group] = start_s + held_s, start_s + leg.duration_s, at[group] + 1
        end_s = max(end_s, ready_s[group])
        if at[group] == steps * len(legs):
            del ready_s[group]
    assert rounds_s(legs, groups, steps) == pytest.approx(end_s, rel=1e-7)
    going = list(every_leg(legs, groups, steps))
    assert len(going) == groups * steps * len(legs)
    assert max(each.start_s + legs[each.leg].duration_s for each in going) == pytest.approx(end_s)
    chain_s = steps * sum(leg.duration_s for leg in legs)
    stages_s = [groups * steps * leg.duration_s for leg in legs if "air" not in leg.held_s]
    air_s = groups * steps * sum(leg.held_s.get("air", 0.0) for leg in legs)
    figures = (np.array(each) for each in (chain_s, max(stages_s), air_s, stages_s[-1]))
    assert float(least_rounds_s(*figures, groups, steps)) <= end_s * (1 + 1e-9)
    if groups == 1:
        assert end_s == pytest.approx(chain_s)


@settings(max_examples=examples(60))
@given(seeded(lambda dice: (random_legs(dice), dice.number(1, 4), dice.number(1, 4), dice)))
def test_a_leg_that_starts_later_by_its_slack_delays_nothing(case: tuple[list[Leg], int, int, Dice]) -> None:
    legs, groups, steps, dice = case
    goings = list(every_leg(legs, groups, steps))

    def end_s(late: Going | None, by_s: float) -> float:
        free_s: dict[object, float] = {}
        over_s = 0.0
        for each in goings:  # in the same order, each as soon as it can
            duration_s, held_s = legs[each.leg]
            start_s = max(free_s.get(each.group, 0.0), *(free_s.get(name, 0.0) for name in held_s))
            start_s += by_s if each == late else 0.0
            free_s |= {name: start_s + seconds for name, seconds in held_s.items()} | {each.group: start_s + duration_s}
            over_s = max(over_s, start_s + duration_s)
        return over_s

    whole_s, slack = end_s(None, 0.0), slack_s(legs, goings)
    each = dice.pick(goings)
    assert end_s(each, slack[each]) == pytest.approx(whole_s)
    assert end_s(each, slack[each] + 1) == pytest.approx(whole_s + 1)
    assert any(late == 0 for late in slack.values())


def test_groups_are_of_equally_many_micro_batches() -> None:
    with pytest.raises(InputError, match="a divisor of the 4 micro-batches"):
        HALF.replace(token_groups=3)


def test_only_who_generates_splits_a_batch_in_groups() -> None:
    with pytest.raises(InputError, match=r"plan.token_groups.*1 in mode 'inference'"):
        evaluated(HALF.replace(token_groups=2), workload(2, mode="inference"), cluster(2))

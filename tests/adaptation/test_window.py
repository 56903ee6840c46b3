"""What the rest of a window may take: spent to the last, the mean is the limit."""

from __future__ import annotations

import math

import pytest
from builders import Dice, examples, pipeline, seeded
from hypothesis import given, settings

from dora_nb.adaptation.window import RunningWindow
from dora_nb.domain.controller import StepReport
from dora_nb.domain.qoe import QoE
from dora_nb.simulation.record import ledger


def step(start_s: float, end_s: float, energy_j: float = 0.0) -> StepReport:
    return StepReport(pipeline((0, 1, {"a": 1})), start_s, start_s, end_s, None, energy_j, {}, {})


@settings(max_examples=examples(30), deadline=None)
@given(seeded(lambda dice: dice))
def test_one_after_the_other_the_rest_makes_up_for_what_was(dice: Dice) -> None:
    window = RunningWindow(QoE(latency_s=4.0), 60.0)
    now_s = 0.0
    for _ in range(dice.number(0, 6)):
        took_s = dice.pick((1.0, 3.0, 5.0, 7.0))
        window.observe(step(now_s, now_s + took_s))
        now_s += took_s
    step_s = window.latency_left_s(now_s)
    ahead_s = 60 - now_s
    if window.latency_s <= 4 * window.steps:  # ahead: what is left may all be spent
        more = ahead_s / step_s
        assert (window.latency_s + more * step_s) / (window.steps + more) == pytest.approx(4.0)
    else:  # behind: whole steps are enough, even if the last one ends too late
        more = int(ahead_s / step_s + 1e-9)
        assert (window.latency_s + more * step_s) / (window.steps + more) <= 4.0 + 1e-9


def test_a_window_that_is_far_ahead_may_take_anything() -> None:
    """55 steps of 1 s and 5 s to go: even without another one the mean is below 4 s."""
    window = RunningWindow(QoE(latency_s=4.0), 60.0)
    for number in range(55):
        window.observe(step(number, number + 1))
    assert math.isinf(window.latency_left_s(55.0))


def test_at_a_rate_the_steps_to_come_are_known() -> None:
    """Asked for every 10 s; two took 6 s each, so the four to come may take 3 s each to make it 4 on the mean."""
    window = RunningWindow(QoE(latency_s=4.0), 60.0, every_s=10.0)
    window.observe(step(0, 6))
    window.observe(step(10, 16))
    assert window.latency_left_s(20.0) == pytest.approx(3.0)


def test_what_ends_with_a_window_belongs_to_it() -> None:
    window = RunningWindow(QoE(latency_s=4.0), 10.0)
    window.observe(step(0, 10))
    assert (window.index, window.steps) == (0, 1)
    window.observe(step(10, 10.5))
    assert (window.index, window.steps) == (1, 1)
    assert window.latency_left_s(31.0) == pytest.approx(4.0)
    assert (window.index, window.steps) == (3, 0)


def test_energy_left() -> None:
    """Two steps took 30 J each of 20 on the mean; four of 10 s to come may take 15 J each."""
    window = RunningWindow(QoE(energy_j=20.0), 60.0)
    window.observe(step(0, 10, 30))
    window.observe(step(10, 20, 30))
    assert window.energy_left_j(20.0, 10.0) == pytest.approx(15.0)
    assert math.isinf(window.latency_left_s(20.0))
    assert math.isinf(RunningWindow(QoE(), 60.0).energy_left_j(0.0, 1.0))


def test_how_much_is_ahead() -> None:
    window = RunningWindow(QoE(), 10.0)
    assert [window.share_left(at) for at in (0.0, 2.5, 10.0, 15.0)] == [1.0, 0.75, 0.0, 0.5]


def test_a_long_step_may_spoil_a_window() -> None:
    """52 s of 11 steps by 46 s: within 5 s on the mean, 12 s and then 2 s are too much, a step of 2 s is not."""
    window = RunningWindow(QoE(latency_s=5.0), 60.0, steps=11, latency_s=52.0)
    assert not window.survives(46.0, 12.0, 2.0)
    assert window.survives(46.0, 2.0, 2.0)
    assert RunningWindow(QoE(), 60.0).survives(46.0, 99.0, 2.0)


def test_a_step_into_the_next_window_must_leave_both_to_be_kept() -> None:
    ahead = RunningWindow(QoE(latency_s=5.0), 60.0, steps=12, latency_s=50.0)
    assert ahead.survives(50.0, 12.0, 2.0)  # the next one begins with a step of 12 s and has 58 s to make up for it
    behind = RunningWindow(QoE(latency_s=5.0), 60.0, steps=9, latency_s=50.0)
    assert not behind.survives(50.0, 12.0, 2.0)


@settings(max_examples=examples(60), deadline=None)
@given(seeded(lambda dice: dice))
def test_windows_lost_ahead_are_those_of_the_ledger(dice: Dice) -> None:
    """Some steps, then a wait and steps of one kind: counted step by step, the same windows miss the limit."""
    window_s, qoe = 10.0, QoE(latency_s=2.0, energy_j=5.0)
    window = RunningWindow(qoe, window_s)
    steps, now_s = [], 0.0
    for _ in range(dice.number(0, 12)):
        steps.append(step(now_s, now_s + dice.pick((0.7, 1.9, 2.3, 3.1)), dice.pick((3.0, 6.0))))
        window.observe(steps[-1])
        now_s = steps[-1].end_s
    present = math.ceil(now_s / window_s - 1e-12) - 1 if now_s % window_s == 0 and now_s else int(now_s / window_s)
    horizon_s = (present + 12) * window_s
    step_s, step_j = dice.pick((0.61, 1.73, 2.17)), dice.pick((2.0, 4.9, 5.2))
    wait_s = dice.pick((0.0, 0.37, 4.1, 23.9))
    lost = window.lost_ahead(now_s, horizon_s - now_s, wait_s, 1.0, step_s, step_j)
    start_s, end_s, energy_j = now_s, now_s + wait_s + step_s, step_j + 1.0
    while end_s <= horizon_s:
        steps.append(step(start_s, end_s, energy_j))
        start_s, end_s, energy_j = end_s, end_s + step_s, step_j
    windows = ledger(steps, [each.arrival_s for each in [*steps, step(start_s, end_s)]], qoe, window_s, horizon_s)
    assert lost == pytest.approx(sum(not each.kept for each in windows[window.index :]))


def test_by_how_much_a_window_is_missed() -> None:
    """11 steps took 52 s by 46 s: within 5 s each, 3 s are in reserve, and each step of 2 s until 60 s earns 3 more."""
    window = RunningWindow(QoE(latency_s=5.0), 60.0, steps=11, latency_s=52.0)
    assert window.short_s(46.0, 10.0, 2.0) == pytest.approx(-3 + 5 - 2 * 3)
    assert window.short_s(46.0, 2.0, 2.0, lost_s=8.0) == pytest.approx(-3 + 5 - 2 * 3)
    # It ends as late as the window does: whether in it or just after cannot be told, so the worse counts.
    assert window.short_s(46.0, 14.0, 2.0) == pytest.approx(-3 + 9)
    # It ends with the next window, which has 58 s for 29 steps to make up for 11 s.
    assert window.short_s(46.0, 16.0, 2.0) == pytest.approx(-3)
    assert math.isinf(RunningWindow(QoE(), 60.0).short_s(46.0, 99.0, 2.0))


def test_what_lasts_longer_than_the_limit_uses_the_reserve_up() -> None:
    window = RunningWindow(QoE(latency_s=5.0), 60.0, steps=8, latency_s=34.0)
    assert window.short_s(34.0, 6.0, 6.0) == pytest.approx(-6 + 1 + 3 * 1)

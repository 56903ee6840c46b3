"""Transfers in turns and as ready, held against figures by hand."""

from __future__ import annotations

import itertools

import pytest

from dora_nb.costs.network import Hold
from dora_nb.costs.operations import Operation as Op
from dora_nb.costs.operations import OperationClass, Operations, Timing
from dora_nb.executor.transit import Turn, as_ready, in_turns

LATENCY_S = 0.5


def two_senders(held_s: float, count: int = 2) -> tuple[Operations, Timing]:
    """Two devices that compute for 1 s and then hand so many equal tensors over, all on one medium."""
    passes = [Op("forward", stage, 0) for stage in (0, 2)]
    sent = [Op("activation", stage, micro_batch) for stage in (0, 2) for micro_batch in range(count)]
    operations = Operations((*passes, *sent), ((), (), *(((0,),) * count), *(((1,),) * count)))
    hold = Hold({"air": held_s}, held_s + LATENCY_S, 1.0, 0.0)
    computed = dict.fromkeys((OperationClass("forward", 0), OperationClass("forward", 2)), 1.0)
    return operations, Timing(computed, {OperationClass("activation", stage): hold for stage in (0, 2)})


def test_senders_share_a_medium_and_send_their_own_one_after_the_other():
    operations, timing = two_senders(held_s=1.0)
    times = as_ready(operations, timing, {})
    # Each has half of the medium: its first tensor has left after 2 s, its second one after 4 s, give or take a slice.
    assert times.end_s[2:] == pytest.approx([1 + 2 + LATENCY_S, 1 + 4 + LATENCY_S] * 2, abs=5e-3)
    assert times.start_s[2:] == pytest.approx([1.0, 3.0] * 2, abs=5e-3)
    later = as_ready(operations, timing, {1: 9.0})  # the other one is not there before
    assert later.end_s[2:] == pytest.approx([2.0 + LATENCY_S, 3.0 + LATENCY_S, 11 + LATENCY_S, 12 + LATENCY_S])


@pytest.mark.parametrize(
    ("on_arrival", "turn_s", "starts_s"),
    [
        (False, 0.0, [1.0, 3.0, 2.0, 4.0]),  # one after the other: 0, 2, 0, 2 by stage
        (False, 0.4, [1.0, 3.0, 2.0, 4.0]),  # the turn is there before the medium is free
        (False, 1.5, [1.0, 4.0, 2.5, 5.5]),  # the medium waits for the turn
        (True, 0.4, [1.0, 4.8, 2.9, 6.7]),  # held for 1 s, arrived after another 0.5 s, told in 0.4 s
    ],
)
def test_turns_take_their_time(on_arrival, turn_s, starts_s):
    operations, timing = two_senders(held_s=1.0)
    order = [2, 4, 3, 5]
    turns = [Turn(a, b, turn_s, on_arrival) for a, b in itertools.pairwise(order)]
    assert in_turns(operations, timing, turns, {}).start_s[2:] == pytest.approx(starts_s)


def test_turns_go_ahead_while_the_medium_is_busy():
    """Behind a long transfer of 3 s come three of 0.2 s, whose turns take 1.5 s each."""
    operations, timing = two_senders(held_s=0.2, count=3)
    long, *short = 2, 5, 6, 7
    timing.holds[OperationClass("activation", 0)] = Hold({"air": 3.0}, 3.0 + LATENCY_S, 1.0, 0.0)
    turns = [Turn(a, b, 1.5, on_arrival=False) for a, b in itertools.pairwise([long, *short])]
    turns += [Turn(short[-1], each, 0.0, on_arrival=False) for each in (3, 4)]
    # Turns are there after 2.5, 4 and 5.5 s; the medium is free after 4, 4.2 and 4.4 s.
    assert [in_turns(operations, timing, turns, {}).start_s[each] for each in short] == pytest.approx([4.0, 4.2, 5.5])

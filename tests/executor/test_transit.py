"""Transfers in turns and as ready, held against figures by hand."""

from __future__ import annotations

import itertools

import pytest
from builders import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from dora_nb.costs.network import Hold
from dora_nb.costs.operations import Operation as Op
from dora_nb.costs.operations import OperationClass, Operations, Timing
from dora_nb.executor.transit import Cores, Turn, as_ready, in_turns

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


def computing(seconds: list[list[float]], needs: list[tuple[int, ...]], cores: int, later: dict[int, float]):
    """When computations of so many seconds a device end, each behind those it needs."""
    passes = tuple(Op("forward", stage, 0) for stage in range(len(seconds)))
    own = {OperationClass("forward", stage): tuple(each) for stage, each in enumerate(seconds)}
    timing = Timing({kind: max(each) for kind, each in own.items()}, {})
    return as_ready(Operations(passes, tuple(needs)), timing, later, Cores(cores, own)).end_s


def test_devices_that_compute_at_once_share_the_cores():
    alone = [(), (), ()]
    # Three at once have two thirds of a core each; whoever is left behind has a whole one.
    assert computing([[1.0], [2.0], [2.0]], alone, 2, {}) == pytest.approx([1.5, 2.5, 2.5])
    assert computing([[1.0], [2.0], [2.0]], alone, 3, {}) == pytest.approx([1.0, 2.0, 2.0])
    # The second one comes when half of the first is done, and both end at the same time.
    assert computing([[2.0], [1.0]], [(), ()], 1, {1: 1.0}) == pytest.approx([3.0, 3.0])
    # Both replicas of a stage compute; it is over with the slower one, and what is behind it has the core alone.
    assert computing([[1.0, 3.0], [1.0]], [(), (0,)], 1, {}) == pytest.approx([4.0, 5.0])
    assert computing([[0.0], [1.0]], [(), (0,)], 1, {}) == pytest.approx([0.0, 1.0])


@settings(max_examples=examples(30))
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), min_size=1, max_size=6), st.integers(1, 3))
def test_shares_of_cores_in_small_steps(work, cores):
    """What begins later or takes longer, second by second in small steps."""
    seconds, step_s = [float(length) for _, length in work], 1e-3
    expected, now_s, left = [0.0] * len(work), 0.0, dict(enumerate(seconds))
    while left:
        here = [each for each in left if work[each][0] <= now_s + step_s / 2]
        now_s += step_s
        for each in here:
            left[each] -= step_s * min(1.0, cores / len(here))
            if left[each] <= step_s / 100:
                expected[each] = now_s
                del left[each]
    ends_s = computing(
        [[each] for each in seconds], [()] * len(work), cores, {i: float(at) for i, (at, _) in enumerate(work)}
    )
    assert ends_s == pytest.approx(expected, abs=0.05)
    # No core computes more than a second in a second, and all of it is computed.
    assert max(ends_s) >= sum(seconds) / cores - 1e-9

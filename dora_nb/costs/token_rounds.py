"""Groups of a batch that follow each other through the stages while tokens are generated.

Every group goes round, once for every token: the tokens chosen go back to the first stage, every stage computes and
hands on. All groups begin together. Whoever comes first to a stage, or to the media that a hand-over needs, has it
first; so the stages work while other groups are on their way. That order is our own choice, and what the executor does.

Times are whole numbers of a tiny tick, so that who comes first does not hang on rounding, and what repeats is not
played again: once all groups are where they were some rounds ago, relative to each other, the same follows in the same
time.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: A tick is the power of two that is as many bits below the seconds of a round alone.
_BITS = 42


class Leg(NamedTuple):
    """One computation or hand-over of a round.

    Attributes
    ----------
    duration_s
        From start to end.
    held_s
        Seconds from its start, by what it holds: its stage, or media and ports.
    """

    duration_s: float
    held_s: Mapping[str, float]


class Going(NamedTuple):
    """A group that sets out on a leg.

    Attributes
    ----------
    start_s
        When, from the beginning of all rounds.
    group, leg, step
        Which group, on which leg of which of its rounds.
    """

    start_s: float
    group: int
    leg: int
    step: int


def every_leg(legs: Sequence[Leg], groups: int, steps: int) -> Iterator[Going]:
    """All legs of all groups, in the order in which groups come to them.

    Parameters
    ----------
    legs
        Of a round, in order.
    groups
        How many groups there are.
    steps
        How often each goes round.
    """
    play = _Play(legs, groups, steps)
    while play.coming:
        yield play.go_on()


def slack_s(legs: Sequence[Leg], goings: Sequence[Going]) -> dict[Going, float]:
    """By how much each leg alone could start later without a later end of all rounds, in the same order.

    Its group goes on after it, and who has next what it holds does; the last ones must be over by the end.

    Parameters
    ----------
    legs
        Of a round, in order.
    goings
        All of :func:`every_leg`, in its order.
    """
    end_s = max(each.start_s + legs[each.leg].duration_s for each in goings)
    latest_s: dict[Going, float] = {}
    behind: dict[int, float] = {}  # latest start of the group's next leg
    after: dict[str, float] = {}  # and of the next one on what is held
    for going in reversed(goings):
        duration_s, held_s = legs[going.leg]
        least = [behind.get(going.group, end_s) - duration_s]
        least.extend(after[name] - seconds for name, seconds in held_s.items() if name in after)
        latest_s[going] = behind[going.group] = min(least)
        after.update(dict.fromkeys(held_s, latest_s[going]))
    tiny_s = end_s * 1e-9
    return {each: late if (late := latest_s[each] - each.start_s) > tiny_s else 0.0 for each in goings}


def rounds_s(legs: Sequence[Leg], groups: int, steps: int) -> float:
    """Seconds until all groups have gone round so many times; the end of :func:`every_leg`."""
    play = _Play(legs, groups, steps)
    seen: dict[tuple[object, ...], tuple[int, int]] = {}
    while play.coming:
        now, group, leg, step = play.coming[0]
        if (group, leg) == (0, 0):
            state = play.state(now, step)
            if state in seen:
                since, before = seen[state]
                play.skip(now - since, step - before)
                seen.clear()
            else:
                seen[state] = now, step
        play.go_on()
    return play.end * play.tick_s


def least_rounds_s(
    chain_s: Floats, busiest_s: Floats, air_s: Floats, last_s: Floats, groups: int, steps: int
) -> Floats:
    """No rounds are over sooner, in whatever order groups have what they need; arrays of one shape.

    One group alone takes its rounds. A stage computes in all rounds of all groups; before its first one a group has
    come to it, and after its last one that group goes on to the end, which together are the rest of a round. The medium
    carries all hand-overs, and after the last one the last stage computes.

    Parameters
    ----------
    chain_s
        Seconds of all rounds of one group alone.
    busiest_s
        Seconds that a stage computes in all rounds of all groups: of the stage that computes longest.
    air_s
        Seconds that a medium is held in them; 0 if there is none that all share.
    last_s
        Seconds of the last stage in all rounds of all groups.
    groups, steps
        How many groups, and rounds of each.
    """
    on_stage_s = busiest_s + (chain_s - busiest_s / groups) / steps
    on_medium_s = np.where(air_s > 0, air_s + last_s / (groups * steps), 0.0)
    return np.asarray(np.maximum.reduce([chain_s, on_stage_s, on_medium_s]))


class _Play:
    """Groups on their way, first come first served.

    Attributes
    ----------
    tick_s
        Seconds of a tick, in which all times are.
    coming
        A heap of when each group is ready for its next leg.
    end
        When the last leg so far ends.
    """

    def __init__(self, legs: Sequence[Leg], groups: int, steps: int) -> None:
        round_s = sum(leg.duration_s for leg in legs)
        self.tick_s = 2.0 ** (math.frexp(round_s)[1] - _BITS)
        self._steps = steps
        self._duration = [round(leg.duration_s / self.tick_s) for leg in legs]
        self._held = [{name: round(each / self.tick_s) for name, each in leg.held_s.items()} for leg in legs]
        self._free = {name: 0 for leg in legs for name in leg.held_s}
        self.coming = [(0, group, 0, 0) for group in range(groups)]
        self.end = 0

    def go_on(self) -> Going:
        """Let the group that is ready first set out."""
        ready, group, leg, step = heapq.heappop(self.coming)
        start = max((ready, *(self._free[name] for name in self._held[leg])))
        for name, held in self._held[leg].items():
            self._free[name] = start + held
        over = start + self._duration[leg]
        self.end = max(self.end, over)
        following = (leg + 1, step) if leg + 1 < len(self._duration) else (0, step + 1)
        if following[1] < self._steps:
            heapq.heappush(self.coming, (over, group, *following))
        return Going(start * self.tick_s, group, leg, step)

    def state(self, now: int, step: int) -> tuple[object, ...]:
        """Where all groups are, and until when what they need is taken, seen from a moment and a round."""
        groups = sorted((each[1], each[2], each[3] - step, each[0] - now) for each in self.coming)
        return (*groups, *(max(free - now, 0) for free in self._free.values()))

    def skip(self, ticks: int, steps: int) -> None:
        """Leave out as many repetitions of so many rounds as all groups still have to go."""
        times = (self._steps - 1 - max(each[3] for each in self.coming)) // steps
        self.coming = [(each[0] + times * ticks, each[1], each[2], each[3] + times * steps) for each in self.coming]
        self._free = {name: free + times * ticks for name, free in self._free.items()}

"""Works one step off, event by event, while the world around it changes.

Two ways to share a medium. ``ordered``: transfers enter every resource in the order that the plan decided, one at a
time. ``fair``: every transfer starts as soon as it is ready and gets an equal share of the airtime, as stations of an
access point do that nobody schedules; what a transfer cannot use elsewhere goes to the others (max-min fair, filled
progressively: Bertsekas and Gallager, "Data Networks", 1992, section 6.5).
"""

from __future__ import annotations

import heapq
from typing import Literal

from dora_nb.errors import InputError
from dora_nb.simulation.clock import INFINITE, Engine, StepResult
from dora_nb.simulation.steps import Steps
from dora_nb.simulation.world import State, World

Sharing = Literal["ordered", "fair"]


def run_step(
    model: Steps,
    world: World,
    start_s: float = 0.0,
    *,
    sharing: Sharing = "ordered",
    until_s: float = INFINITE,
    timeline: bool = False,
) -> StepResult:
    """Simulate one step.

    Parameters
    ----------
    model
        The step.
    world
        Its changes are met as they come; of the same cluster as the model.
    start_s
        When it begins.
    sharing
        How transfers share the media.
    until_s
        When to give up.
    timeline
        Whether to keep every operation's times.

    Raises
    ------
    InputError
        If ``sharing`` is unknown, or the plan's transfer order is incomplete or contradicts the precedence.
    """
    if sharing not in ("ordered", "fair"):
        raise InputError("sharing", sharing, "ordered or fair")
    fair = _FairMedium if len(model.resources) == 1 else _Fair
    return (_Ordered if sharing == "ordered" else fair)(model, world, start_s, until_s, timeline).run()


class _Ordered(Engine):
    """Every resource is entered in the plan's own order."""

    def __init__(self, model: Steps, world: World, start_s: float, until_s: float, timeline: bool) -> None:
        super().__init__(model, world, start_s, until_s, timeline)
        self.turns = model.turns
        self.turn = [0] * len(self.turns)
        self.asked = [False] * len(self.waiting)

    def _ask(self, index: int) -> None:
        self.asked[index] = True
        self._try(index)

    def _try(self, index: int) -> None:
        own, resource = self.parts.of[index], self.parts.resource
        for part in own:
            place = resource[part]
            if self.turns[place][self.turn[place]] != index:
                return
        self.asked[index] = False
        self.first_s[index] = self.now
        for part in own:
            self._begin(part)

    def _end(self, part: int) -> None:
        super()._end(part)
        place = self.parts.resource[part]
        if place < 0:
            return
        self.turn[place] = turn = self.turn[place] + 1
        if turn < len(self.turns[place]):
            following = self.turns[place][turn]
            if self.asked[following]:
                self._try(following)


class _Fair(Engine):
    """Every transfer starts when it is ready; all share the airtime fairly.

    A transfer is carried as a whole: its parts melt together, in proportion to their seconds.
    """

    def __init__(self, model: Steps, world: World, start_s: float, until_s: float, timeline: bool) -> None:
        super().__init__(model, world, start_s, until_s, timeline)
        self.left: dict[int, float] = {}  # of every transfer under way: what is left of it, 1 at first
        self.pace: dict[int, float] = {}  # how much of it is carried per second
        self.melted_s = start_s
        self.next = -1  # part of the transfer that ends first

    def _ask(self, index: int) -> None:
        self._melt()
        self._join(index)
        self._foresee()

    def _end(self, part: int) -> None:
        if self.parts.resource[part] < 0:
            super()._end(part)
            return
        index = self.parts.operation[part]
        self.ends_s[part] = INFINITE
        self.count += len(self.parts.of[index]) - 1  # its parts end together
        self._melt()
        self._carried(index, 1.0)
        self._leave(index)
        self._foresee()
        self._over(index)

    def _give_up(self) -> None:
        super()._give_up()
        self._melt()
        for index in self.left:
            self._carried(index, 1 - self._left(index))

    def _change(self, state: State) -> None:
        self._melt()
        super()._change(state)
        self._foresee()

    def _carried(self, index: int, done: float) -> None:
        """Account for what was carried of a transfer."""
        took_s = self.now - self.first_s[index]
        for part in self.parts.of[index]:
            self.work_s[self.parts.channel[part]] += self.parts.work_s[part] * done
            self.took_s[self.parts.channel[part]] += took_s

    def _expect(self, index: int, after_s: float) -> None:
        """Make the end of a transfer the next event of the media."""
        if self.next >= 0:
            self.ends_s[self.next] = INFINITE
        self.next = self.parts.of[index][0]
        if after_s < INFINITE:
            self.ends_s[self.next] = end_s = self.now + after_s
            heapq.heappush(self.events, (end_s, self.next))

    def _join(self, index: int) -> None:
        self.left[index], self.pace[index] = 1.0, 0.0

    def _leave(self, index: int) -> None:
        del self.left[index], self.pace[index]

    def _left(self, index: int) -> float:
        return self.left[index]

    def _melt(self) -> None:
        """Bring what is left of every transfer up to date."""
        passed_s = self.now - self.melted_s
        if passed_s > 0:
            for index, pace in self.pace.items():
                self.left[index] = max(self.left[index] - pace * passed_s, 0.0)
        self.melted_s = self.now

    def _foresee(self) -> None:
        """Max-min fair shares of the airtime; the transfer that ends first with them is the next event."""
        if not self.left:
            return
        needs_s = {index: self._needed_s(index) for index in self.left}
        self._fill(needs_s)
        after_s, first = min(
            (self.left[index] / pace if pace > 0 else INFINITE, index) for index, pace in self.pace.items()
        )
        self._expect(first, after_s)

    def _needed_s(self, index: int) -> dict[int, float]:
        """Seconds of every resource that a transfer needs as things stand."""
        parts = self.parts
        needed_s = {}
        for part in parts.of[index]:
            speed = self.speeds[parts.channel[part]]
            needed_s[parts.resource[part]] = parts.work_s[part] / speed if speed > 0 else INFINITE
        return needed_s

    def _fill(self, needs_s: dict[int, dict[int, float]]) -> None:
        """Progressive filling: all transfers get more and more alike until a resource is full; those on it stop there.

        Alike in the share that each has of the resource it needs longest.
        """
        longest_s = {index: max(needs.values()) for index, needs in needs_s.items()}
        self.pace = dict.fromkeys(needs_s, 0.0)
        open_ = {index for index, seconds in longest_s.items() if 0 < seconds < INFINITE}
        room: dict[int, float] = {place: 1.0 for index in open_ for place in needs_s[index]}
        while open_:
            asked = dict.fromkeys(room, 0.0)
            for index in open_:
                for place, seconds in needs_s[index].items():
                    asked[place] += seconds / longest_s[index]
            share, full = min((room[place] / each, place) for place, each in asked.items() if each > 0)
            for index in [each for each in open_ if needs_s[each].get(full)]:
                self.pace[index] = share / longest_s[index]
                open_.discard(index)
                for place, seconds in needs_s[index].items():
                    room[place] = max(room[place] - self.pace[index] * seconds, 0.0)


class _FairMedium(_Fair):
    """Fair sharing of one medium, where an equal share for all is the whole rule.

    What each transfer has been given since the step began is the same for all that were there, so the one that ends
    first is found in a queue (the virtual time of fair queueing: Demers, Keshav and Shenker, 1989).
    """

    def __init__(self, model: Steps, world: World, start_s: float, until_s: float, timeline: bool) -> None:
        super().__init__(model, world, start_s, until_s, timeline)
        self.given_s = 0.0  # seconds of the medium at full speed that each transfer has been given
        self.enough_s: list[tuple[float, int]] = []  # what has been given when a transfer ends, and which one that is

    def _join(self, index: int) -> None:
        self.left[index] = enough_s = self.given_s + self.parts.work_s[self.parts.of[index][0]]
        heapq.heappush(self.enough_s, (enough_s, index))

    def _leave(self, index: int) -> None:
        heapq.heappop(self.enough_s)
        del self.left[index]

    def _left(self, index: int) -> float:
        work_s = self.parts.work_s[self.parts.of[index][0]]
        return (self.left[index] - self.given_s) / work_s if work_s > 0 else 0.0

    def _melt(self) -> None:
        passed_s = self.now - self.melted_s
        if passed_s > 0 and self.left:
            self.given_s += passed_s * self.speeds[-1] / len(self.left)
        self.melted_s = self.now

    def _change(self, state: State) -> None:
        self._melt()
        left = {index: self._left(index) for index in self.left}
        super()._change(state)
        for index, share in left.items():
            self.left[index] = self.given_s + share * self.parts.work_s[self.parts.of[index][0]]
        self.enough_s = [(enough_s, index) for index, enough_s in self.left.items()]
        heapq.heapify(self.enough_s)
        self._foresee()

    def _foresee(self) -> None:
        if self.enough_s:
            enough_s, index = self.enough_s[0]
            speed = self.speeds[-1] / len(self.left)
            self._expect(index, max(enough_s - self.given_s, 0.0) / speed if speed > 0 else INFINITE)

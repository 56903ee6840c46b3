"""Requests that come and go at token boundaries, played round by round.

Whoever is ready first has a stage, or the media that a transfer needs, first; a transfer that waits for one medium has
its turn on all of them. Among those ready at the same time inputs come before groups, and groups before outputs. A
waiting request goes to the first group that comes to a boundary with a free slot; if groups are empty, to the first of
them at once. All of that is our own choice.

A prompt takes a stage for as long as many tokens do, and meanwhile the other stages run out of groups, since those come
round but once and then wait behind it. Requests that join one by one, wherever a slot is free, bring a prompt into
every few rounds. So requests may join in *waves*: none until several wait and as many slots are free, then all of
these, one in each round of a group, so that prompts follow each other through the stages, and tokens do between waves.
They end as they have begun, one after the other, and so does the next wave begin. That too is our own choice.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.serving.service import Leg, Service
from dora_nb.domain.serving import AT_ONCE, Joining

Floats = NDArray[np.float64]

#: What happens at one time, in this order.
WAITS, ENTERS, GOES, LEAVES = range(4)


@dataclass(frozen=True)
class Played:
    """When what happened to each request, in the order of their arrival, in seconds; and what it took.

    Attributes
    ----------
    arrival_s, joined_s, first_token_s, last_token_s, end_s
        When it came, took a slot, had its first and its last token at the last stage, and when that was at the sink.
    busy_s
        Seconds that each stage computed.
    held_s
        Seconds that each medium or port was held.
    rounds
        How often groups went round.
    together
        Requests in a group at once, at most.
    """

    arrival_s: Floats
    joined_s: Floats
    first_token_s: Floats
    last_token_s: Floats
    end_s: Floats
    busy_s: tuple[float, ...]
    held_s: dict[str, float]
    rounds: int
    together: int


class Gate:
    """Who may join.

    Parameters
    ----------
    joining
        By which rule.
    slots
        Of a group.
    """

    def __init__(self, joining: Joining, slots: int) -> None:
        self.joining, self.slots = joining, slots
        self._left = 0  # of a wave

    def is_open(self, waiting: int, free: int, more_come: bool) -> bool:
        """Whether an empty group may go; for a wave, once opened, until all have joined who then could.

        Parameters
        ----------
        waiting, free
            Requests without a slot, and slots of all groups that nobody has.
        more_come
            If not, those who are left are a wave, or a batch, however few they are.
        """
        fewest = self.joining.together(self.slots) if more_come else 1
        if self.joining.wave == 1:
            return waiting >= fewest
        could = min(waiting, free)
        if not self._left and could >= fewest:
            self._left = could
        return self._left > 0

    def let_in(self, here: int, waiting: int, free: int, more_come: bool) -> int:
        """How many join a group at its boundary now that it has so many slots free here; the others as above."""
        is_taken = self.joining.batching == "static" and here < self.slots
        if not here or is_taken or not self.is_open(waiting, free, more_come):
            return 0
        if self.joining.wave == 1:
            return min(here, waiting)
        self._left -= 1
        return 1


def play_rounds(service: Service, arrivals_s: Sequence[float], joining: Joining = AT_ONCE) -> Played:
    """Play all rounds, from an empty cluster until all requests have their tokens.

    Parameters
    ----------
    service
        What a plan takes.
    arrivals_s
        When requests arrive, in order.
    joining
        Who takes a slot when.
    """
    return _Rounds(service, arrivals_s, joining).run()


def evenly_spaced(requests_per_s: float, requests: int) -> list[float]:
    """When so many requests arrive at a rate, the first at 0."""
    return [number / requests_per_s for number in range(requests)]


def least_wait_s(wave: int, requests_per_s: float, requests: int) -> float:
    """Seconds that evenly spaced requests wait for their wave at least, on the mean.

    Requests join in the order of their arrival, so that of those who wait the i-th newest came at least (i - 1) / rate
    ago. The first k of at least k >= wave who wait have waited for (k - 1) / (2 rate) or more on the mean. Only those
    behind the last arrival may be in a smaller wave; the q of them have also waited for (q - 1) / (2 rate) on the mean,
    so that at most wave - 1 requests of all have waited for less than (wave - 1) / (2 rate).
    """
    return max(requests - (wave - 1), 0) / requests * (wave - 1) / (2 * requests_per_s)


class _Group:
    """A group on its way: who is in its slots, with how many tokens, how many leave next, and on which leg it is."""

    def __init__(self) -> None:
        self.tokens: dict[int, int] = {}
        self.joining: list[int] = []
        self.leg = 0
        self.done = 0
        self.asleep = True


class _Rounds:
    def __init__(self, service: Service, arrivals_s: Sequence[float], joining: Joining) -> None:
        self.service, self.gate = service, Gate(joining, service.slots)
        self.free_slots = service.slots * service.groups
        self.arrivals = [round(each / service.tick_s) for each in arrivals_s]
        count = len(self.arrivals)
        self.joined, self.first, self.last, self.over = ([0] * count for _ in range(4))
        self.to_come = count
        self.waiting: deque[int] = deque()
        self.groups = [_Group() for _ in range(service.groups)]
        self.free: dict[str, int] = {}
        self.held: dict[str, int] = {}
        self.leaving: list[list[int]] = []
        enters = ENTERS if service.input.seconds_per_byte else WAITS
        self.coming = [(at, enters, number) for number, at in enumerate(self.arrivals)]
        self.rounds = self.together = 0

    def run(self) -> Played:
        """Until nobody is left."""
        heapq.heapify(self.coming)
        while self.coming:
            now, kind, number = heapq.heappop(self.coming)
            if kind == ENTERS:
                arrived = self._take(now, self.service.carry(self.service.input, 1, 0))
                heapq.heappush(self.coming, (arrived, WAITS, number))
            elif kind == WAITS:
                self.waiting.append(number)
                self.to_come -= 1
                self._wake(now)
            elif kind == GOES:
                self._go_on(now, number)
            else:
                self._leave(now, self.leaving[number])
        return self._told()

    def _take(self, ready: int, leg: Leg) -> int:
        """Let a leg start as soon as it may; when it ends."""
        start = max([ready, *(self.free.get(name, 0) for name in leg.held)])
        for name, ticks in leg.held.items():
            self.free[name] = start + ticks
            self.held[name] = self.held.get(name, 0) + ticks
        return start + leg.duration

    def _wake(self, now: int) -> None:
        """The first empty group goes where there is somebody to take along."""
        group = next((number for number, each in enumerate(self.groups) if each.asleep), None)
        if group is not None and self.gate.is_open(len(self.waiting), self.free_slots, self.to_come > 0):
            self.groups[group].asleep = False
            heapq.heappush(self.coming, (now, GOES, group))

    def _go_on(self, now: int, number: int) -> None:
        """A group is ready for its next leg."""
        group, service = self.groups[number], self.service
        if group.leg == 0 and not self._board(now, group):
            return
        joining, going = len(group.joining), len(group.tokens) - len(group.joining)
        stage, is_hop = divmod(group.leg, 2)
        if is_hop:
            last = stage == len(service.devices) - 1
            leg = service.carry(service.back if last else service.hops[stage], 0 if last else joining, going)
            group.leg = 0 if last else group.leg + 1
            heapq.heappush(self.coming, (self._take(now, leg), GOES, number))
            return
        end = self._take(now, service.compute(stage, joining, going))
        group.leg += 1
        if stage == len(service.devices) - 1:
            self._have_tokens(end, group)
        heapq.heappush(self.coming, (end, GOES, number))

    def _board(self, now: int, group: _Group) -> bool:
        """At a boundary waiting requests join; whether there is anybody in the group."""
        self.free_slots += group.done
        group.done = 0
        here = self.service.slots - len(group.tokens)
        for _ in range(self.gate.let_in(here, len(self.waiting), self.free_slots, self.to_come > 0)):
            self.free_slots -= 1
            request = self.waiting.popleft()
            self.joined[request] = now
            group.tokens[request] = 0
            group.joining.append(request)
        if not group.tokens:
            group.asleep = True
            return False
        self.rounds += 1
        self.together = max(self.together, len(group.tokens))
        self._wake(now)
        return True

    def _have_tokens(self, end: int, group: _Group) -> None:
        """Everybody in a group has one token more; who has all of them leaves."""
        for request in group.joining:
            self.first[request] = end
        group.joining = []
        for request in group.tokens:
            group.tokens[request] += 1
        done = [request for request, tokens in group.tokens.items() if tokens == self.service.tokens]
        for request in done:
            del group.tokens[request]
            group.done += 1
            self.last[request] = end
        if done:
            heapq.heappush(self.coming, (end, LEAVES, len(self.leaving)))
            self.leaving.append(done)
        if not group.tokens or len(self.service.devices) == 1:
            group.leg = 0

    def _leave(self, now: int, requests: list[int]) -> None:
        over = now
        if self.service.output.seconds_per_byte:
            over = self._take(now, self.service.carry(self.service.output, len(requests), 0))
        for request in requests:
            self.over[request] = over

    def _told(self) -> Played:
        tick_s, stages = self.service.tick_s, [f"stage {each}" for each in range(len(self.service.devices))]
        held_s = {name: ticks * tick_s for name, ticks in self.held.items()}
        return Played(
            arrival_s=tick_s * np.array(self.arrivals, dtype=float),
            joined_s=tick_s * np.array(self.joined, dtype=float),
            first_token_s=tick_s * np.array(self.first, dtype=float),
            last_token_s=tick_s * np.array(self.last, dtype=float),
            end_s=tick_s * np.array(self.over, dtype=float),
            busy_s=tuple(held_s.pop(name, 0.0) for name in stages),
            held_s=held_s,
            rounds=self.rounds,
            together=self.together,
        )

"""The clock of a step: what is under way, when it ends, what waits for it; how media are shared is in ``engine``."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dora_nb.costs.operations import COMPUTE_KINDS
from dora_nb.costs.timeline import TimelineEntry
from dora_nb.simulation.steps import Parts, Steps
from dora_nb.simulation.world import State, World

INFINITE = math.inf


@dataclass(frozen=True)
class StepResult:
    """What happened from the start of a step to its end, or to the moment it could not go on.

    Attributes
    ----------
    start_s, end_s
        From when to when.
    lost_to
        The device that left, so that the step was given up; None if the step was completed. Empty if nothing moves
        any more and nothing will change.
    busy_s
        Seconds that each device computed, by place in the cluster.
    network_j
        Joules of what was carried.
    work_s, took_s
        By channel: seconds of all parts that were worked off at full speed, and what they took.
    events
        Ends of parts, and changes of the world.
    entries
        Every operation with its times, if they were asked for.
    """

    start_s: float
    end_s: float
    lost_to: str | None
    busy_s: tuple[float, ...]
    network_j: float
    work_s: tuple[float, ...]
    took_s: tuple[float, ...]
    events: int
    entries: tuple[TimelineEntry, ...] = ()

    @property
    def completed(self) -> bool:
        """Whether the step came to its end."""
        return self.lost_to is None

    @property
    def duration_s(self) -> float:
        """Seconds it took."""
        return self.end_s - self.start_s


class Engine:
    """The clock, the computations, and what waits for what; how media are shared is left to the two kinds of it."""

    def __init__(self, model: Steps, world: World, start_s: float, until_s: float, timeline: bool) -> None:
        operations = model.operations
        self.model, self.world, self.start_s, self.until_s = model, world, start_s, until_s
        self.successors = operations.successors
        self.waiting = [len(before) for before in operations.predecessors]
        self.row = world.index_at(start_s)
        self.parts: Parts = model.parts(world.states[self.row].device_rates)
        self.open_parts = [len(parts) for parts in self.parts.of]
        count = len(self.parts.operation)
        self.left_s = list(self.parts.work_s)  # at full speed
        self.since_s = [0.0] * count
        self.began_s = [0.0] * count
        self.ends_s = [INFINITE] * count  # as things stand; an event that says otherwise is out of date
        self.at_work: set[int] = set()
        self.events: list[tuple[float, int]] = []  # (when, part; ~operation: its latency is over)
        self.count, self.done, self.now = 0, 0, start_s
        channels = len(model.cluster.devices) + len(model.cluster.domains)
        self.work_s, self.took_s, self.network_j = [0.0] * channels, [0.0] * channels, 0.0
        self.spans: list[tuple[int, float, float]] | None = [] if timeline else None
        self.first_s = [0.0] * len(self.waiting)
        self._set_speeds(world.states[self.row])

    # ------------------------------------------------------------------ the clock

    def run(self) -> StepResult:
        """Work everything off."""
        lost_to = self._absent()
        if lost_to is None:
            self._ready([index for index, count in enumerate(self.waiting) if count == 0])
            lost_to = self._run()
        operations, holds = self.model.operations, self.model.resources
        entries = []
        for index, begin, end in self.spans or ():
            resources = [holds[place] for part in self.parts.of[index] if (place := self.parts.resource[part]) >= 0]
            operation = operations.operations[index]
            computes = operation.kind in COMPUTE_KINDS
            places = self.model.devices_of(operation.stage) if computes else tuple(resources)
            entries.append(TimelineEntry(*operation, begin, end, places))
        return StepResult(
            self.start_s,
            self.now,
            lost_to,
            tuple(self.took_s[: len(self.model.cluster.devices)]),
            self.network_j,
            tuple(self.work_s),
            tuple(self.took_s),
            self.count,
            tuple(sorted(entries, key=lambda entry: (entry.start_s, entry.end_s, entry.kind, entry.stage))),
        )

    def _run(self) -> str | None:
        """Until all is done; the device that left if it is not, or nothing if nothing moves any more."""
        events, ends_s, total = self.events, self.ends_s, len(self.waiting)
        pop, times_s = heapq.heappop, self.world.times_s
        change_s = float(times_s[self.row + 1]) if self.row + 1 < len(times_s) else INFINITE
        while self.done < total:
            if events and events[0][0] <= min(change_s, self.until_s):
                when, part = pop(events)
                if part < 0:
                    self.now = when
                    self._complete(~part)
                elif ends_s[part] == when:
                    self.now = when
                    self.count += 1
                    self._end(part)
            elif not events and change_s == INFINITE:
                self._give_up()
                return ""
            elif self.until_s <= change_s:
                self.now = self.until_s
                self._give_up()
                return ""
            else:
                self.now = change_s
                self.count += 1
                self.row += 1
                change_s = float(times_s[self.row + 1]) if self.row + 1 < len(times_s) else INFINITE
                self._change(self.world.states[self.row])
                lost_to = self._absent()
                if lost_to is not None:
                    return lost_to
        return None

    def _absent(self) -> str | None:
        present = self.world.states[self.row].present
        gone = next((place for place in self.model.devices if not present[place]), None)
        if gone is None:
            return None
        self._give_up()
        return self.model.cluster.device_ids[gone]

    def _give_up(self) -> None:
        """Account for what was done of all that is under way."""
        for part in self.at_work:
            self._account(part)

    def _set_speeds(self, state: State) -> None:
        self.speeds: Sequence[float] = (*state.device_speeds, *state.domain_rates)

    # ------------------------------------------------------------------ operations

    def _ready(self, able: Iterable[int]) -> None:
        """Begin operations whose predecessors are done."""
        stack, parts, resource = list(able), self.parts, self.parts.resource
        while stack:
            index = stack.pop()
            own = parts.of[index]
            self.first_s[index] = self.now
            if not own and self.parts.latency_s[index] > 0:
                self._over(index)
            elif not own:
                stack.extend(self._finished(index))
            elif resource[own[0]] < 0:
                for part in own:
                    self._begin(part)
            else:
                self._ask(index)

    def _begin(self, part: int) -> None:
        """Let a part progress at its channel's speed."""
        now, speed = self.now, self.speeds[self.parts.channel[part]]
        self.at_work.add(part)
        self.since_s[part] = self.began_s[part] = now
        if speed > 0:
            self.ends_s[part] = end_s = now + self.left_s[part] / speed
            heapq.heappush(self.events, (end_s, part))

    def _end(self, part: int) -> None:
        """A part is worked off."""
        self._account(part)
        self.left_s[part] = 0.0
        self.ends_s[part] = INFINITE
        self.at_work.discard(part)
        index = self.parts.operation[part]
        self.open_parts[index] -= 1
        if not self.open_parts[index]:
            self._over(index)

    def _over(self, index: int) -> None:
        """Nothing of an operation is left but its latency."""
        latency_s = self.parts.latency_s[index]
        if latency_s > 0:
            heapq.heappush(self.events, (self.now + latency_s, ~index))
        else:
            self._complete(index)

    def _account(self, part: int) -> None:
        channel, took_s = self.parts.channel[part], self.now - self.began_s[part]
        left_s = 0.0 if self.ends_s[part] <= self.now else self._left_now_s(part)
        self.work_s[channel] += self.parts.work_s[part] - left_s
        self.took_s[channel] += took_s

    def _left_now_s(self, part: int) -> float:
        return max(self.left_s[part] - (self.now - self.since_s[part]) * self.speeds[self.parts.channel[part]], 0.0)

    def _complete(self, index: int) -> None:
        self._ready(self._finished(index))

    def _finished(self, index: int) -> list[int]:
        """Note that an operation is over; those that waited for nothing else."""
        self.done += 1
        self.network_j += self.model.network_j[index]
        if self.spans is not None:
            self.spans.append((index, self.first_s[index], self.now))
        able, waiting = [], self.waiting
        for follower in self.successors[index]:
            waiting[follower] -= 1
            if waiting[follower] == 0:
                able.append(follower)
        return able

    # ------------------------------------------------------------------ changes

    def _change(self, state: State) -> None:
        """Go on at other speeds."""
        for part in self.at_work:
            self.left_s[part] = self._left_now_s(part)
        parts = self.model.parts(state.device_rates)
        if parts is not self.parts:
            for part, (new_s, old_s) in enumerate(zip(parts.work_s, self.parts.work_s, strict=True)):
                self.left_s[part] *= new_s / old_s if old_s > 0 else 1.0
            self.parts = parts
        self._set_speeds(state)
        for part in self.at_work:
            self._resume(part)

    def _resume(self, part: int) -> None:
        speed = self.speeds[self.parts.channel[part]]
        self.since_s[part] = self.now
        self.ends_s[part] = end_s = self.now + self.left_s[part] / speed if speed > 0 else INFINITE
        if end_s < INFINITE:
            heapq.heappush(self.events, (end_s, part))

    # ------------------------------------------------------------------ media

    def _ask(self, index: int) -> None:
        """A transfer is ready."""
        raise NotImplementedError

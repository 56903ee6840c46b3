"""When the operations of an iteration begin and end where its transfers get onto the media as the executor has them do.

The cost model's recurrence (:func:`dora_nb.costs.start_times.start_times`) lets every transfer begin the moment the one
before it in the plan's order lets go. Here a turn takes its time to be passed on; or nobody waits for a turn, and
senders share the media slice by slice, first come, first served, as :mod:`~dora_nb.executor.device.medium` has it.
Devices that are threads of one machine share its cores besides. Played event by event. Our own design.
"""

from __future__ import annotations

import functools
import heapq
import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from dora_nb.costs.operations import COMPUTE_KINDS, Operation, OperationClass, Operations, Timing
from dora_nb.executor.device.medium import SLICE_S
from dora_nb.executor.shared_cores import SharedCores

#: Something that happens at a moment, which it is told.
Action = Callable[[float], None]


class Times(NamedTuple):
    """When every operation begins and ends, in the order of ``operations.operations``."""

    start_s: list[float]
    end_s: list[float]


class Cores(NamedTuple):
    """Cores that all devices compute on.

    Attributes
    ----------
    number
        How many.
    seconds
        Of every computing class: what each of its devices computes, with a core of its own.
    """

    number: int
    seconds: Mapping[OperationClass, Sequence[float]]


class Turn(NamedTuple):
    """A turn that goes on from one transfer to another.

    Attributes
    ----------
    before, after
        Positions of the two transfers.
    seconds
        How long the turn is on its way.
    on_arrival
        Whether it goes on when the earlier transfer has arrived, or when that has its place on the media.
    """

    before: int
    after: int
    seconds: float
    on_arrival: bool


def in_turns(
    operations: Operations,
    timing: Timing,
    turns: Sequence[Turn],
    not_before_s: Mapping[int, float],
    cores: Cores | None = None,
) -> Times:
    """Times where transfers take turns.

    Parameters
    ----------
    operations, timing
        Of the plan.
    turns
        All there are; a transfer without any goes as soon as it is ready.
    not_before_s
        When what some operations need is there, by position.
    cores
        Where all devices compute; None: each on a core of its own.
    """
    play = _Play(operations, timing, not_before_s, cores)
    play.run(_InTurns(play, turns))
    return Times(play.start_s, play.end_s)


def as_ready(
    operations: Operations, timing: Timing, not_before_s: Mapping[int, float], cores: Cores | None = None
) -> Times:
    """Times where everything leaves as soon as it exists: each sender one thing after the other, all of them at once.

    Parameters
    ----------
    operations, timing, not_before_s, cores
        As for :func:`in_turns`.
    """
    play = _Play(operations, timing, not_before_s, cores)
    play.run(_Sharing(play))
    return Times(play.start_s, play.end_s)


class _Way(Protocol):
    """How transfers get onto the media."""

    def ready(self, transfer: int, now_s: float) -> None:
        """What a transfer takes along is there."""


class _Play:
    """Operations as they happen."""

    def __init__(
        self, operations: Operations, timing: Timing, not_before_s: Mapping[int, float], cores: Cores | None
    ) -> None:
        self.operations, self.timing = operations, timing
        self.start_s = [0.0] * len(operations.operations)
        self.end_s = [0.0] * len(operations.operations)
        self._not_before_s = not_before_s
        self._seconds = {} if cores is None else cores.seconds
        self._shared = None if cores is None else SharedCores(cores.number, self.at, self.ends)
        self._missing = [len(before) for before in operations.predecessors]
        self._free_s: dict[str, float] = defaultdict(float)
        self._coming: list[tuple[float, int, Action]] = []
        self._numbers = itertools.count()  # what happens at the same moment happens in the order in which it came up

    def run(self, way: _Way) -> None:
        self._way = way
        for index, missing in enumerate(self._missing):
            if not missing:
                self._able(index, 0.0)
        while self._coming:
            moment_s, _, action = heapq.heappop(self._coming)
            action(moment_s)

    def at(self, moment_s: float, action: Action) -> None:
        heapq.heappush(self._coming, (moment_s, next(self._numbers), action))

    def reserve(self, now_s: float, seconds: Mapping[str, float]) -> float:
        """Hold media from the first moment at which all are free; returns it."""
        start_s = max((now_s, *(self._free_s[name] for name in seconds)))
        for name, each in seconds.items():
            self._free_s[name] = start_s + each
        return start_s

    def ends(self, index: int, moment_s: float) -> None:
        self.end_s[index] = moment_s
        self.at(moment_s, functools.partial(self._over, index))

    def _able(self, index: int, now_s: float) -> None:
        self.at(max(now_s, self._not_before_s.get(index, 0.0)), functools.partial(self._begin, index))

    def _begin(self, index: int, now_s: float) -> None:
        self.start_s[index] = now_s
        kind = self.operations.classes[index]
        if kind.kind not in COMPUTE_KINDS:
            self._way.ready(index, now_s)
        elif self._shared is None:
            self.ends(index, now_s + self.timing.duration_s[kind])
        else:
            self._shared.begin(index, self._seconds[kind], now_s)

    def _over(self, index: int, now_s: float) -> None:
        for following in self.operations.successors[index]:
            self._missing[following] -= 1
            if not self._missing[following]:
                self._able(following, now_s)


class _InTurns:
    def __init__(self, play: _Play, turns: Sequence[Turn]) -> None:
        self._play = play
        self._following: dict[int, list[Turn]] = defaultdict(list)
        self._waits: dict[int, int] = defaultdict(lambda: 1)  # for its tensors, and for turns
        for each in turns:
            self._following[each.before].append(each)
            self._waits[each.after] += 1

    def ready(self, transfer: int, now_s: float) -> None:
        self._waits[transfer] -= 1
        if self._waits[transfer]:
            return
        play = self._play
        hold = play.timing.holds[play.operations.classes[transfer]]
        start_s = play.start_s[transfer] = play.reserve(now_s, hold.seconds)
        play.ends(transfer, start_s + hold.duration_s)
        for each in self._following[transfer]:
            passed_on_s = start_s + hold.duration_s if each.on_arrival else now_s
            play.at(passed_on_s + each.seconds, functools.partial(self.ready, each.after))


class _Sharing:
    """Everybody sends what is ready; the media are had slice by slice."""

    def __init__(self, play: _Play) -> None:
        self._play = play
        self._stages = 1 + max(each.stage for each in play.operations.operations)
        self._lines: dict[tuple[str, int], deque[int]] = defaultdict(deque)

    def ready(self, transfer: int, now_s: float) -> None:
        line = self._lines[self._line_of(self._play.operations.operations[transfer])]
        line.append(transfer)
        if len(line) == 1:
            self._send(line, now_s)

    def _line_of(self, operation: Operation) -> tuple[str, int]:
        """What a stage sends one thing after the other: what it hands over, and apart from that its sums."""
        match operation.kind:
            case "activation" | "token":
                return "hand-over", operation.stage % self._stages  # a hosted first layer is the last stage's
            case "gradient":
                return "hand-over", operation.stage + 1
        return "sum", operation.stage

    def _send(self, line: deque[int], now_s: float) -> None:
        """Begin with the first one in a line."""
        play, transfer = self._play, line[0]
        hold = play.timing.holds[play.operations.classes[transfer]]
        held_s = max(hold.seconds.values(), default=0.0)
        count = max(1, round(held_s / SLICE_S))
        per_slice = {name: seconds / count for name, seconds in hold.seconds.items()}

        def next_slice(left: int, now_s: float) -> None:
            if not left:
                line.popleft()
                play.ends(transfer, now_s + hold.duration_s - held_s)
                if line:
                    self._send(line, now_s)
                return
            start_s = play.reserve(now_s, per_slice)
            if left == count:
                play.start_s[transfer] = start_s
            play.at(start_s + held_s / count, functools.partial(next_slice, left - 1))

        next_slice(count, now_s)

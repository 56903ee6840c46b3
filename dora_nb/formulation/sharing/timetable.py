"""Timetables of several streams: tasks placed so that no two meet on a device or medium modulo the round.

First greedily, camera by camera, each task at the earliest time at which all it holds is free in every round; the
phase of a camera that may be triggered at any time is tried at the moments that fit to what is placed already. Then
exactly, for given paths: a periodic event scheduling program (Serafini and Ukovich 1989) with an integer for every two
tasks that share a device or a medium, and a variable phase for every camera that has none given.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from dora_nb.costs.sharing import Tasks
from dora_nb.domain.qoe import ROUNDING
from dora_nb.formulation.rows import LinearProgram, Rows, over, single
from dora_nb.formulation.schedules.stream_schedule import free_from
from dora_nb.formulation.sharing.paths import Link

#: Phases of a camera that are tried.
_MOST_PHASES = 60


@dataclass(frozen=True)
class Placed:
    """The tasks of one camera's requests in a round.

    Attributes
    ----------
    phase_s
        When the first request arrives.
    start_s
        Of every request's tasks, from the start of the round.
    latencies_s
        Of every request.
    """

    phase_s: float
    start_s: tuple[tuple[float, ...], ...]
    latencies_s: tuple[float, ...]

    @property
    def total_s(self) -> float:
        """All latencies together."""
        return sum(self.latencies_s)


@dataclass
class Board:
    """What is taken of every device and medium in a round."""

    round_s: float
    taken: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def add(self, links: Sequence[Link], placed: Placed) -> None:
        """Take what a camera needs."""
        for starts in placed.start_s:
            for link, start_s in zip(links, starts, strict=True):
                for place, seconds in link.held.items():
                    self.taken.setdefault(place, []).append((start_s, seconds))

    def place(self, links: Sequence[Link], requests: int, phase_s: float | None, deadline_s: float) -> Placed | None:
        """The tasks of a camera's requests, or None if they do not fit or some request would be late.

        Parameters
        ----------
        links
            The tasks of a request, one after the other.
        requests
            In a round.
        phase_s
            None: the best of some.
        deadline_s
            Longest time from arrival to the last output.
        """
        alone_s = sum(link.duration_s for link in links)
        if alone_s > deadline_s * (1 + ROUNDING):
            return None
        best: Placed | None = None
        for phase in [phase_s] if phase_s is not None else self._phases(links, self.round_s / requests):
            placed = self._at(links, requests, phase, deadline_s)
            if placed is not None and (best is None or placed.total_s < best.total_s):
                best = placed
                if placed.total_s <= requests * alone_s * (1 + ROUNDING):
                    break
        return best

    def _at(self, links: Sequence[Link], requests: int, phase_s: float, deadline_s: float) -> Placed | None:
        own: dict[str, list[tuple[float, float]]] = {
            place: list(self.taken.get(place, ())) for link in links for place in link.held
        }
        starts, latencies_s = [], []
        for request in range(requests):
            arrival_s = phase_s + request * self.round_s / requests
            now_s, times_s = arrival_s, []
            for link in links:
                free_s = free_from(now_s, link.held, own, self.round_s)
                if free_s is None:
                    return None
                times_s.append(free_s)
                now_s = free_s + link.duration_s
                for place, seconds in link.held.items():
                    own[place].append((free_s, seconds))
            if now_s - arrival_s > deadline_s * (1 + ROUNDING):
                return None
            starts.append(tuple(times_s))
            latencies_s.append(now_s - arrival_s)
        return Placed(phase_s, tuple(starts), tuple(latencies_s))

    def _phases(self, links: Sequence[Link], period_s: float) -> Iterable[float]:
        """Moments at which a task would begin just when its place is free, or end just before it is taken."""
        moments = [0.0]
        before_s = 0.0
        for link in links:
            for place, seconds in link.held.items():
                for start_s, taken_s in self.taken.get(place, ()):
                    moments += [start_s + taken_s - before_s, start_s - seconds - before_s]
            before_s += link.duration_s
        apart = {round(moment % period_s / period_s, 9): moment % period_s for moment in moments}
        into = sorted(apart.values())
        return into[:: max(1, math.ceil(len(into) / _MOST_PHASES))]


def order_of(tasks: Tasks, start_s: Sequence[float]) -> list[tuple[int, int]]:
    """Tasks with their lags by start within the round, for start times from the start of their own round."""
    turns = []
    for task, start in enumerate(start_s):
        lag = math.floor(start / tasks.round_s + ROUNDING)
        turns.append((start - lag * tasks.round_s, start, task, lag))
    return [(task, lag) for _, _, task, lag in sorted(turns)]


def pairs_of(tasks: Tasks) -> list[tuple[int, int, float, float]]:
    """Every two tasks that share a device or a medium, with the seconds each keeps the other away."""
    pairs = []
    for one, other in itertools.combinations(range(len(tasks)), 2):
        common = tasks.held[one].keys() & tasks.held[other].keys()
        held = max((tasks.held[one][place] for place in common), default=0.0)
        held_other = max((tasks.held[other][place] for place in common), default=0.0)
        if common:
            pairs.append((one, other, held, held_other))
    return pairs


def timetable_model(
    tasks: Tasks, phases_s: Sequence[float | None], deadlines_s: Sequence[float], latest_s: float
) -> LinearProgram:
    """The least mean latency of given paths, times in rounds. Variables: ``start`` of every task, ``phase``.

    ``held_i <= start_j - start_i + k round <= round - held_j`` for every two tasks that share a device or a medium, k
    an integer.

    Parameters
    ----------
    tasks
        Of given paths.
    phases_s
        Of every camera; None: to be chosen.
    deadlines_s
        Of every camera's requests; infinity: none.
    latest_s
        No task ends later.
    """
    unit, latest = tasks.round_s, latest_s / tasks.round_s
    rows = Rows()
    low = np.array([0.0 if phase is None else phase / unit for phase in phases_s])
    periods = np.array([1 / camera.requests for camera in tasks.cameras])
    high = np.array([periods[c] if phase is None else phase / unit for c, phase in enumerate(phases_s)])
    phase = rows.variables("phase", len(low), lower=low, upper=high)
    start = rows.variables("start", len(tasks), upper=latest)
    camera = np.array([each_camera for each_camera, _, _ in tasks.names])
    arrival = np.array(tasks.arrival_s) / unit
    rows.add("arrive", single(start) - single(phase[camera]), ">=", arrival)
    before = [(earlier, later) for later, own in enumerate(tasks.predecessors) for earlier in own]
    if before:
        earlier, later = (np.array(side) for side in zip(*before, strict=True))
        rows.add(
            "wait", single(start[later]) - single(start[earlier]), ">=", np.array(tasks.duration_s)[earlier] / unit
        )
    ends: dict[tuple[int, int], int] = {(c, r): task for task, (c, r, _) in enumerate(tasks.names)}
    last = np.array(list(ends.values()))
    offset = np.array(tasks.duration_s)[last] / unit - arrival[last]
    limits = np.array([deadlines_s[camera[task]] for task in last]) / unit
    late = np.flatnonzero(np.isfinite(limits))
    if len(late):
        tail = single(start[last[late]]) - single(phase[camera[last[late]]])
        rows.add("deadline", tail, "<=", (limits * (1 + ROUNDING) - offset)[late])
    pairs = pairs_of(tasks)
    if pairs:
        ones, others, held, held_other = (np.array(column) for column in zip(*pairs, strict=True))
        most = math.ceil(latest) + 1
        apart = rows.variables("apart", len(pairs), lower=-most, upper=most, kind="integer")
        between = single(start[others]) - single(start[ones]) + single(apart)
        rows.add("first", between, ">=", held / unit)
        rows.add("second", between, "<=", 1 - held_other / unit)
    return rows.build(over(start[last], 1 / len(last)) - over(phase[camera[last]], 1 / len(last)))


def mean_offset_s(tasks: Tasks) -> float:
    """What the objective of :func:`timetable_model` leaves out, in seconds: last durations less arrivals."""
    last = {(c, r): task for task, (c, r, _) in enumerate(tasks.names)}
    return sum(tasks.duration_s[task] - tasks.arrival_s[task] for task in last.values()) / len(last)

"""The search for how several streams share a cluster: a bound, timetables, and choices settled one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dora_nb import solvers
from dora_nb.costs.sharing import Camera, Tasks, memory_bytes
from dora_nb.costs.table import CostTable, cost_table
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.qoe import ROUNDING, EnergyAccounting
from dora_nb.domain.stream import Stream, common_round
from dora_nb.errors import InfeasibleError
from dora_nb.formulation.rows import LinearProgram
from dora_nb.formulation.sharing.paths import Path, Paths
from dora_nb.formulation.sharing.program import ChoiceProgram, Group
from dora_nb.formulation.sharing.timetable import mean_offset_s, order_of, pairs_of, timetable_model
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.sharing.seats import Seat, Seating, Seats
from dora_nb.units import counted, format_seconds

Progress = Callable[[str], None]

Objective = Literal["latency", "energy"]

#: Cameras up to which each is one of its own to the program, so that choices can be ruled out one by one.
MOST_APART = 6

#: Integers in an exact timetable program, beyond which the greedy timetable stands; and seconds that one gets.
MOST_PAIRS, PROGRAM_S = 400, 10.0

#: Choices that are settled exactly, in the order of their bounds.
MOST_CHOICES = 60

#: Loads of devices and media to which choices are held so that they are easier to put into a timetable.
_LOADS = (0.95, 0.85, 0.7)

#: Relative disagreement that rounding and a solver's tolerances explain.
AGREEMENT = 1e-6


@dataclass(frozen=True)
class Timetable:
    """A choice of paths with start times of its tasks."""

    paths: tuple[Path, ...]
    phases_s: tuple[float, ...]
    order: tuple[tuple[int, int], ...]


class SharingSearch:
    """The steps of :func:`dora_nb.share`, in the order they are taken.

    Parameters
    ----------
    streams, cluster, objective, accounting, gap, solver, tables, say
        As there.
    deadline
        When to stop.
    """

    def __init__(
        self,
        streams: tuple[Stream, ...],
        cluster: Cluster,
        objective: Objective,
        accounting: EnergyAccounting,
        gap: float,
        solver: str,
        deadline: Deadline,
        tables: Mapping[str, CostTable] | None,
        say: Progress | None,
    ) -> None:
        self.streams, self.cluster, self.objective, self.accounting = streams, cluster, objective, accounting
        self.gap, self.solver, self.deadline = gap, solver, deadline
        self.say: Progress = say or (lambda _: None)
        round_s, self.requests = common_round(streams)
        self.round_s = float(round_s)
        given = tables or {}
        self.tables = [given.get(stream.name) or cost_table(stream.workload, cluster) for stream in streams]
        self.paths = [Paths(s.workload, cluster, table) for s, table in zip(streams, self.tables, strict=True)]
        self.of = [index for index, stream in enumerate(streams) for _ in range(stream.count)]  # stream of each camera
        self.apart = len(self.of) <= MOST_APART
        self.limits_s = [math.inf if s.deadline_s is None else s.deadline_s for s in streams]
        self.lower, self.best = 0.0, math.inf
        self.found: Timetable | None = None
        self.latency_s = math.inf
        self.choice: list[Path] | None = None
        self.proven_by = ""
        self.exact = False
        self.seats = Seats(
            cluster,
            self.round_s,
            tuple(self._seat(camera) for camera in range(len(self.of))),
            objective,
            accounting,
            deadline,
        )

    def _seat(self, camera: int) -> Seat:
        index = self.of[camera]
        stream, number = self.streams[index], camera - self.of.index(index)
        phase_s = None if stream.phases_s is None else stream.phases_s[number]
        return Seat(self.paths[index], self.requests[index], phase_s, self.limits_s[index])

    # ------------------------------------------------------------------ bounds

    def _program(self, aim: Literal["latency", "energy", "load"]) -> ChoiceProgram:
        members = (
            [(index, 1) for index in self.of] if self.apart else [(i, s.count) for i, s in enumerate(self.streams)]
        )
        groups = [
            Group(self.paths[index], count, self.requests[index] / self.round_s, self.limits_s[index])
            for index, count in members
        ]
        return ChoiceProgram(groups, self.cluster, aim, self.accounting)

    def _solve(self, model: LinearProgram, limit_s: float = math.inf) -> solvers.Outcome:
        left_s = self.deadline.remaining_s
        options = solvers.Options(
            time_limit_s=None if left_s is None else max(min(left_s, limit_s), 0.05), mip_gap=self.gap / 2
        )
        return solvers.solve(model, options, solver=self.solver, cancel=self.deadline.cancel)

    def bound(self) -> None:
        """The program without timetable.

        Raises
        ------
        InfeasibleError
            If not even that has an answer.
        """
        requests = counted(sum(self.requests[i] for i in self.of), "request")
        self.say(f"{counted(len(self.of), 'camera')}, {requests} in a round")
        for stream, paths, limit_s in zip(self.streams, self.paths, self.limits_s, strict=True):
            least_s = float(paths.around_s.min())
            if least_s > limit_s * (1 + ROUNDING):
                raise InfeasibleError(
                    f"stream {stream.name!r}: a deadline of {format_seconds(limit_s)} is impossible: a request that "
                    f"never waits takes {format_seconds(least_s)}"
                )
        self.program = self._program(self.objective)
        outcome = self._solve(self.program.model())
        self.proven_by = f"choice program on {outcome.solver}"
        if outcome.status is solvers.Status.INFEASIBLE:
            raise InfeasibleError(self._why())
        if outcome.bound is not None:
            self.lower = outcome.bound + self.program.constant
        if outcome.status.has_incumbent:
            self.choice = self._choice(outcome)
        self.say(f"bound {self.lower:.6g} {self.unit}")

    @property
    def unit(self) -> Literal["s", "W"]:
        """Of the objective."""
        return "s" if self.objective == "latency" else "W"

    def _why(self) -> str:
        """Why not even the program without timetable has an answer."""
        outcome = self._solve(self._program("load").model())
        if outcome.status is solvers.Status.INFEASIBLE:
            return f"{self.cluster.name}: the models together do not fit the devices' memory"
        if outcome.bound is not None and outcome.bound > 1 + AGREEMENT:
            return (
                f"{self.cluster.name}: some device or medium would be needed {100 * outcome.bound:.0f} % of the time, "
                f"however the streams share them; at most {100 / outcome.bound:.0f} % of these rates is possible"
            )
        return (
            f"{self.cluster.name}: no sharing keeps all deadlines, not even if no request ever waited; "
            "allow more time, fewer cameras or lower rates"
        )

    # ------------------------------------------------------------------ timetables

    def seat(self) -> None:
        """Good timetables, greedily."""
        self.say("timetables, camera by camera")
        if self.choice is not None:
            self._offer(self.seats.along(self.choice))
        if self._enough:
            return
        for seating in self.seats.in_turn():
            self._offer(seating)
            if self._enough or self.deadline.passed:
                return
        for load in _LOADS:
            outcome = self._solve(self.program.model(most_load=load), PROGRAM_S)
            if outcome.status.has_incumbent:
                self._offer(self.seats.along(self._choice(outcome)))
            if self._enough or self.deadline.passed:
                return

    def _choice(self, outcome: solvers.Outcome) -> list[Path]:
        """The path of every camera."""
        return [path for own in self.program.paths_of(outcome.values) for path in own]

    @property
    def _enough(self) -> bool:
        return math.isfinite(self.best) and self.best - self.lower <= self.gap * self.best

    def _offer(self, seating: Seating | None) -> None:
        if seating is None:
            return
        tasks = self.tasks(seating.paths)
        links = [list(seat.paths.links(path)) for seat, path in zip(self.seats.seats, seating.paths, strict=True)]
        start_s = [0.0] * len(tasks)
        for camera, placed in enumerate(seating.placed):
            for request, starts in enumerate(placed.start_s):
                for link, start in zip(links[camera], starts, strict=True):
                    start_s[tasks.index[camera, request, link.kind, link.stage]] = start
        self._take(tasks, seating.paths, tuple(placed.phase_s for placed in seating.placed), start_s)

    def _take(
        self, tasks: Tasks, paths: tuple[Path, ...], phases_s: tuple[float, ...], start_s: Sequence[float]
    ) -> bool:
        """Keep a timetable if it is the best so far; whether it keeps all deadlines."""
        order = tuple(order_of(tasks, start_s))
        earliest_s = tasks.start_times(order, phases_s)
        if earliest_s is None:  # a solver's rounding
            return False
        latencies_s = tasks.latencies_s(earliest_s, phases_s)
        late = any(
            seconds > self.limits_s[index] * (1 + AGREEMENT)
            for index, own in zip(self.of, latencies_s, strict=True)
            for seconds in own
        )
        if late:
            return False
        figures = tasks.figures(latencies_s)
        value = figures.latency_s if self.objective == "latency" else figures.power_w(self.accounting)
        better = value < self.best * (1 - ROUNDING)
        known = (
            self.found is not None and self.objective == "energy" and not better and value <= self.best * (1 + ROUNDING)
        )
        if better or (known and figures.latency_s < self.latency_s):
            self.best, self.latency_s = min(value, self.best), figures.latency_s
            self.found = Timetable(paths, phases_s, order)
            self.say(f"{value:.6g} {self.unit}, mean latency {format_seconds(figures.latency_s)}")
        return True

    def tasks(self, paths: Sequence[Path]) -> Tasks:
        """The tasks of a choice, as the evaluation counts them."""
        cameras = [
            Camera(self.streams[i].workload, self.tables[i], self.paths[i].plan(path), self.requests[i])
            for i, path in zip(self.of, paths, strict=True)
        ]
        return Tasks(cameras, self.cluster, self.round_s)

    # ------------------------------------------------------------------ exact

    def settle(self) -> None:
        """Exact timetables: of the best choice, then of all choices in the order of their bounds while that helps."""
        if self._enough and self.objective == "latency":
            return
        if self.found is not None and not self.deadline.passed:
            self.say("exact timetable of the best choice")
            self._exact(self.found.paths)
        if not self.apart or self._enough:
            return
        settled: list[list[Path]] = []
        open_bound = math.inf  # of choices settled, as far as their timetables prove it
        for _ in range(MOST_CHOICES):
            if self.deadline.passed or self.choice is None:
                break
            value = self._exact(tuple(self.choice))
            open_bound = min(open_bound, value)
            settled.append(self.choice)
            outcome = self._solve(self.program.model(settled))
            if outcome.status is solvers.Status.INFEASIBLE:
                self._raise_bound(min(open_bound, self.best) if self.found is not None else open_bound)
                self.exact = True
                return
            if outcome.bound is None:
                break
            self._raise_bound(min(open_bound, outcome.bound + self.program.constant))
            self.say(f"{counted(len(settled), 'choice')} settled, bound {self.lower:.6g} {self.unit}")
            if self._enough:
                return
            self.choice = self._choice(outcome) if outcome.status.has_incumbent else None

    def _raise_bound(self, bound: float) -> None:
        self.lower = max(self.lower, min(bound, self.best))
        self.proven_by = self.proven_by.split(",")[0] + ", choices settled one by one"

    def _exact(self, paths: tuple[Path, ...]) -> float:
        """A bound for one choice by its exact timetable, which is kept if it is the best; infinity: there is none."""
        tasks = self.tasks(paths)
        power_w = tasks.figures([[0.0]]).power_w(self.accounting)
        alone_s = [seat.paths.alone_s(path) for seat, path in zip(self.seats.seats, paths, strict=True)]
        weights = [seat.requests for seat in self.seats.seats]
        mean_s = sum(w * s for w, s in zip(weights, alone_s, strict=True)) / sum(weights)
        plain = mean_s if self.objective == "latency" else power_w
        if not self._fits(paths):
            return math.inf
        if len(pairs_of(tasks)) > MOST_PAIRS:
            return plain
        phases_s = [seat.phase_s for seat in self.seats.seats]
        limits_s = [seat.deadline_s for seat in self.seats.seats]
        model = timetable_model(tasks, phases_s, limits_s, self._latest_s(paths, alone_s))
        outcome = self._solve(model, PROGRAM_S)
        if outcome.status is solvers.Status.INFEASIBLE:
            return math.inf
        if outcome.status.has_incumbent:
            moments = tuple((outcome.values["phase"] * self.round_s).tolist())
            self._take(tasks, paths, moments, (outcome.values["start"] * self.round_s).tolist())
        if self.objective == "energy" or outcome.bound is None:
            return plain
        return max(plain, outcome.bound * self.round_s + mean_offset_s(tasks))

    def _latest_s(self, paths: Sequence[Path], alone_s: Sequence[float]) -> float:
        """If any timetable keeps all deadlines, one ends by then: no task need wait longer than a round."""
        tails = []
        for seat, path, seconds in zip(self.seats.seats, paths, alone_s, strict=True):
            waits_s = seconds + len(list(seat.paths.links(path))) * self.round_s
            tails.append(min(waits_s, seat.deadline_s))
        return 2 * self.round_s + max(tails)

    def _fits(self, paths: Sequence[Path]) -> bool:
        pairs = [(s.paths.workload, s.paths.plan(path)) for s, path in zip(self.seats.seats, paths, strict=True)]
        needed = memory_bytes(pairs)
        return all(needed.get(d.id, 0.0) <= d.usable_memory_bytes * (1 + ROUNDING) for d in self.cluster.devices)

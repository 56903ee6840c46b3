"""Cameras that take their places on a cluster one after the other, each where it costs least of what is left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from dora_nb.costs.sharing import memory_bytes
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.qoe import ROUNDING, EnergyAccounting
from dora_nb.formulation.sharing.paths import Link, Path, Paths
from dora_nb.formulation.sharing.timetable import Board, Placed
from dora_nb.planning.deadline import Deadline

#: Paths of a camera that are placed, cheapest first; and rounds in which every camera is planned again.
_MOST_PATHS, _ROUNDS = 24, 4


@dataclass(frozen=True)
class Seat:
    """One camera.

    Attributes
    ----------
    paths
        Where its layers may run.
    requests
        In a round.
    phase_s
        When the first arrives; None: whenever.
    deadline_s
        Infinity: none.
    """

    paths: Paths
    requests: int
    phase_s: float | None
    deadline_s: float


@dataclass(frozen=True)
class Seating:
    """A place for every camera."""

    paths: tuple[Path, ...]
    placed: tuple[Placed, ...]


@dataclass(frozen=True)
class Seats:
    """All cameras, and what they share.

    Attributes
    ----------
    cluster, round_s
        What is shared, and the time after which everything repeats.
    seats
        The cameras.
    objective, accounting
        What is minimised.
    deadline
        When to stop looking for better places.
    """

    cluster: Cluster
    round_s: float
    seats: tuple[Seat, ...]
    objective: Literal["latency", "energy"]
    accounting: EnergyAccounting
    deadline: Deadline

    @cached_property
    def _orders(self) -> list[tuple[int, ...]]:
        """Heaviest first, most urgent first, most often first, as given."""
        every = range(len(self.seats))
        alone_s = [float(seat.paths.around_s.min()) for seat in self.seats]
        keys = (
            lambda c: -alone_s[c] * self.seats[c].requests,
            lambda c: self.seats[c].deadline_s - alone_s[c],
            lambda c: -self.seats[c].requests,
            lambda c: c,
        )
        return list(dict.fromkeys(tuple(sorted(every, key=key)) for key in keys))

    def along(self, paths: Sequence[Path]) -> Seating | None:
        """The best timetable for given paths; None if none was found, or a path takes a device twice."""
        if any(len({step.device for step in path}) < len(path) for path in paths):
            return None
        if not self._fits(enumerate(paths)):
            return None
        found = None
        for order in self._orders:
            board, placed = Board(self.round_s), dict[int, Placed]()
            for camera in order:
                seat, links = self.seats[camera], list(self.seats[camera].paths.links(paths[camera]))
                place = board.place(links, seat.requests, seat.phase_s, seat.deadline_s)
                if place is None:
                    break
                board.add(links, place)
                placed[camera] = place
            if len(placed) == len(paths):
                each = Seating(tuple(paths), tuple(placed[camera] for camera in range(len(paths))))
                if found is None or _total_s(each) < _total_s(found):
                    found = each
        return found

    def in_turn(self) -> Iterator[Seating]:
        """Timetables, one for each order in which cameras take their places, improved."""
        for order in self._orders:
            taken: dict[int, tuple[Path, Placed]] = {}
            for camera in order:
                cheapest = self._cheapest(camera, taken)
                if cheapest is None:
                    break
                taken[camera] = cheapest
            if len(taken) == len(self.seats):
                yield self._improved(taken, order)

    def _improved(self, taken: dict[int, tuple[Path, Placed]], order: Sequence[int]) -> Seating:
        """Every camera again, against all others, until none finds a better place."""
        for _ in range(_ROUNDS):
            before = self._cost(taken)
            for camera in order:
                if self.deadline.passed:
                    break
                old = taken.pop(camera)
                new = self._cheapest(camera, taken)
                known = self._cost(taken | {camera: old})
                taken[camera] = old if new is None or self._cost(taken | {camera: new}) >= known else new
            if self._cost(taken) >= before * (1 - ROUNDING):
                break
        count = range(len(self.seats))
        return Seating(tuple(taken[c][0] for c in count), tuple(taken[c][1] for c in count))

    def _cost(self, taken: Mapping[int, tuple[Path, Placed]]) -> float:
        """Seconds of all requests, or watts."""
        if self.objective == "latency":
            return sum(placed.total_s for _, placed in taken.values())
        return sum(self._power_w(camera, path) for camera, (path, _) in taken.items()) + self._idle_w(
            path for path, _ in taken.values()
        )

    def _power_w(self, camera: int, path: Path) -> float:
        seat = self.seats[camera]
        return seat.requests / self.round_s * seat.paths.joules(path)

    def _idle_w(self, paths: Iterable[Path]) -> float:
        if self.accounting == "all-on":
            return 0.0
        used = {step.device for path in paths for step in path}
        return sum(self.cluster.devices[device].idle_w for device in used)

    def _cheapest(self, camera: int, taken: Mapping[int, tuple[Path, Placed]]) -> tuple[Path, Placed] | None:
        """The place that costs a camera least beside others; None if there is none."""
        seat, board = self.seats[camera], Board(self.round_s)
        for other, (known_path, known_place) in taken.items():
            board.add(list(self.seats[other].paths.links(known_path)), known_place)
        used_s = {name: sum(seconds for _, seconds in spans) for name, spans in board.taken.items()}
        room = {name: (self.round_s * (1 + ROUNDING) - seconds) / seat.requests for name, seconds in used_s.items()}
        room = dict.fromkeys(self.cluster.device_ids, self.round_s / seat.requests * (1 + ROUNDING)) | room
        others = [path for path, _ in taken.values()]
        idle_w = self._idle_w(others)
        per_s, per_j = (1.0, 0.0) if self.objective == "latency" else (0.0, 1.0)
        ranked = [
            (self._power_w(camera, path) + self._idle_w([*others, path]) - idle_w if per_j else cost, path)
            for cost, path in seat.paths.cheapest(per_s, per_j, room)
        ]
        if self.objective == "energy":  # where the thriftiest paths are late, faster ones may not be
            known = {path for _, path in ranked}
            faster = [path for _, path in seat.paths.cheapest(1.0, 0.0, room) if path not in known]
            ranked += [(self._power_w(camera, path) + self._idle_w([*others, path]) - idle_w, path) for path in faster]
        best: tuple[Path, Placed] | None = None
        for cost, path in sorted(ranked)[:_MOST_PATHS]:
            if best is not None and (per_j or cost * seat.requests >= best[1].total_s):
                break
            links: list[Link] = list(seat.paths.links(path))
            placed = board.place(links, seat.requests, seat.phase_s, seat.deadline_s)
            if placed is None or (best is not None and placed.total_s >= best[1].total_s):
                continue
            if self._fits([*((other, each) for other, (each, _) in taken.items()), (camera, path)]):
                best = path, placed
        return best

    def _fits(self, chosen: Iterable[tuple[int, Path]]) -> bool:
        """Whether all devices can hold what these cameras need."""
        parts = ((self.seats[camera].paths, path) for camera, path in chosen)
        needed = memory_bytes((paths.workload, paths.plan(path)) for paths, path in parts)
        return all(needed.get(d.id, 0.0) <= d.usable_memory_bytes * (1 + ROUNDING) for d in self.cluster.devices)


def _total_s(seating: Seating) -> float:
    return sum(placed.total_s for placed in seating.placed)

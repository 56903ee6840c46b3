"""Several streams on one cluster: a plan for every camera and one timetable for all, with a proven gap."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from typing import get_args

from dora_nb.costs.sharing import Tasks
from dora_nb.costs.table import CostTable
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.fits import check_ends
from dora_nb.domain.qoe import EnergyAccounting
from dora_nb.domain.sharing import CameraPlan, Sharing, Turn
from dora_nb.domain.stream import Stream
from dora_nb.errors import InfeasibleError, InputError, ObjectiveMismatchError, UnknownNameError
from dora_nb.formulation.sharing.paths import Path
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.plan import check_effort
from dora_nb.planning.sharing.search import AGREEMENT, Objective, Progress, SharingSearch, Timetable

#: Over which plans bounds hold.
SCOPE = "contiguous stages on one device each, requests travel whole, any order on devices and media"


def share(
    streams: Sequence[Stream],
    cluster: Cluster,
    *,
    objective: Objective = "energy",
    energy_accounting: EnergyAccounting = "participating",
    gap: float = 1e-4,
    time_limit_s: float = 60.0,
    solver: str = "auto",
    tables: Mapping[str, CostTable] | None = None,
    on_progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Sharing:
    """Plan several streams of requests together, e.g. cameras with a frame rate and a deadline each.

    First a program that chooses where each stream's layers run, without timetable: a bound, and a choice. Then
    timetables: for that choice, and camera by camera in several orders against what is left, improved by planning
    each again; the best one's exactly where it is small. Where there are few cameras, choices are settled one by one
    in the order of their bounds until none is left that could be better. Everything is recomputed from plans and
    timetable alone.

    Parameters
    ----------
    streams
        At least one, each under a name of its own.
    cluster
        What they share.
    objective
        ``energy``: mean watts, deadlines kept. ``latency``: mean seconds over all requests, deadlines kept.
    energy_accounting
        Whose idle draw counts.
    gap
        Relative gap at which an answer is good enough.
    time_limit_s
        Seconds after which the best so far is returned with its true gap.
    solver
        ``auto``, ``gurobi`` or ``highs``.
    tables
        Measured times by the name of the stream; the roofline estimate for the others.
    on_progress
        Called with a sentence about each step.
    cancel
        Set from another thread to stop.

    Returns
    -------
    Sharing

    Raises
    ------
    InputError
        If something given cannot be used; also if the rates have no common period that is short enough.
    InfeasibleError
        If no sharing keeps the deadlines, or none was found.
    """
    started = time.monotonic()
    streams = tuple(streams)
    _check(streams, cluster, objective, energy_accounting, tables or {})
    check_effort(gap, time_limit_s, solver)
    deadline = Deadline(started + time_limit_s, cancel)
    search = SharingSearch(streams, cluster, objective, energy_accounting, gap, solver, deadline, tables, on_progress)
    search.bound()
    search.seat()
    search.settle()
    return _answer(search, started)


def _check(
    streams: Sequence[Stream],
    cluster: Cluster,
    objective: str,
    energy_accounting: str,
    tables: Mapping[str, CostTable],
) -> None:
    if not streams:
        raise InputError("streams", [], "at least one")
    names = [stream.name for stream in streams]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise InputError("streams", repeated, "every stream under a name of its own; equal cameras are one stream")
    for index, stream in enumerate(streams):
        try:
            check_ends(stream.workload, cluster)
        except InputError as error:
            raise InputError(f"streams[{index}].{error.field}", error.value, error.allowed) from None
    for name, given, allowed in (
        ("objective", objective, get_args(Objective)),
        ("energy_accounting", energy_accounting, get_args(EnergyAccounting)),
    ):
        if given not in allowed:
            raise InputError(name, given, ", ".join(allowed))
    for name in tables:
        if name not in names:
            raise UnknownNameError("tables", name, names)


def _answer(search: SharingSearch, started: float) -> Sharing:
    """The best sharing with what is proven of it.

    Raises
    ------
    InfeasibleError
        If there is none.
    ObjectiveMismatchError
        If two computations disagree.
    """
    found, cluster = search.found, search.cluster
    if found is None:
        if search.exact and math.isinf(search.lower):
            raise InfeasibleError(f"{cluster.name}: no timetable keeps all deadlines: every choice was tried")
        raise InfeasibleError(
            f"{cluster.name}: no timetable was found that keeps all deadlines, and none is proven impossible; allow "
            "more time, fewer cameras, lower rates or free phases"
        )
    tasks = search.tasks(found.paths)
    start_s = tasks.start_times(found.order, found.phases_s)
    assert start_s is not None, "it was computed before"
    latencies_s = tasks.latencies_s(start_s, found.phases_s)
    figures = tasks.figures(latencies_s)
    value = figures.latency_s if search.objective == "latency" else figures.power_w(search.accounting)
    _compare(search, found.paths, figures.power_w(search.accounting))
    if search.lower > value * (1 + AGREEMENT):
        raise ObjectiveMismatchError(f"the bound {search.lower:.9g} is above the value {value:.9g} {search.unit}")
    bound = min(search.lower, value)
    left = max(0.0, (value - bound) / value) if value else 0.0
    stopped = "cancelled" if search.deadline.cancelled else "time limit"
    return Sharing(
        cluster=cluster.name,
        objective=search.objective,
        energy_accounting=search.accounting,
        round_s=search.round_s,
        cameras=tuple(_camera(search, c, found, own) for c, own in enumerate(latencies_s)),
        turns=tuple(_turn(tasks, task, lag, start_s) for task, lag in found.order),
        figures=figures,
        value=value,
        unit=search.unit,
        bound=bound,
        gap=left,
        status="optimal" if left <= search.gap else stopped if search.deadline.passed else "feasible",
        scope=SCOPE,
        method=f"timetables camera by camera and exact; bound: {search.proven_by}",
        wall_s=time.monotonic() - started,
    )


def _compare(search: SharingSearch, paths: Sequence[Path], power_w: float) -> None:
    """The draw as the search counts it, against the evaluation's."""
    counted_w = sum(
        seat.requests / search.round_s * seat.paths.joules(path)
        for seat, path in zip(search.seats.seats, paths, strict=True)
    )
    used = {step.device for path in paths for step in path}
    everyone = search.accounting == "all-on"
    counted_w += sum(d.idle_w for place, d in enumerate(search.cluster.devices) if everyone or place in used)
    if abs(counted_w - power_w) > AGREEMENT * power_w:
        raise ObjectiveMismatchError(f"the search says {counted_w:.9g} W, the plans {power_w:.9g} W")


def _camera(search: SharingSearch, camera: int, found: Timetable, latencies_s: tuple[float, ...]) -> CameraPlan:
    index = search.of[camera]
    stream = search.streams[index]
    return CameraPlan(
        stream=stream.name,
        number=camera - search.of.index(index),
        phase_s=max(found.phases_s[camera], 0.0),
        deadline_s=stream.deadline_s,
        plan=search.paths[index].plan(found.paths[camera]),
        latencies_s=latencies_s,
    )


def _turn(tasks: Tasks, task: int, lag: int, start_s: Sequence[float]) -> Turn:
    camera, request, operation = tasks.names[task]
    return Turn(
        camera=camera,
        request=request,
        kind=operation.kind,
        stage=operation.stage,
        lag=max(lag, 0),
        start_s=start_s[task],
        end_s=start_s[task] + tasks.duration_s[task],
        places=tuple(tasks.held[task]),
    )

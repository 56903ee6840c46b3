"""In which order the schedules of open plans are settled, and what becomes of their bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from builders import cluster, pipeline
from builders import workload as chain

from dora_nb.formulation.problem import Problem
from dora_nb.planning import settle as settles
from dora_nb.planning.bounding.partitions import Open
from dora_nb.planning.bounding.targets import Targets
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.scheduling import Settled


def test_a_plan_that_stayed_open_is_asked_again_once_a_better_one_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first plan's bound is lowest, its schedule open below 10 s; the second one's turns out to take 8 s."""
    problem = Problem.of(chain(2, batch=2), cluster(2), "participating")
    first, second = (pipeline((0, 2, {name: 2})) for name in "ab")
    asked: list[tuple[str, float]] = []

    def answer(plan: object, problem: Problem, *, below_s: float, **options: object) -> Settled:
        name = "first" if plan is first else "second"
        asked.append((name, below_s))
        if name == "second":
            return Settled(8.0, 8.0, second)
        return Settled(7.5, below_s, None) if below_s < 9 else Settled(5.0, below_s, None)

    monkeypatch.setattr(settles, "settle", answer)
    targets = Targets(np.zeros(0), tolerance=1e-4)
    targets.offer(10.0, 1.0, first)
    settles.settle_all(
        problem,
        targets,
        [opened(plan, bound_s) for plan, bound_s in ((second, 6.0), (first, 5.0))],
        solver="highs",
        deadline=Deadline(),
    )
    assert [name for name, _ in asked] == ["first", "second", "first"]
    assert asked[0][1] == pytest.approx(10, rel=2e-4)
    assert asked[2][1] == pytest.approx(8, rel=2e-4)
    assert targets.latency_plan is second
    assert targets.latency_bound_s == pytest.approx(7.5)  # what was proven of the first one


def test_a_stream_without_a_schedule_that_repeats_holds_no_bound_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two plans one cannot keep up, whatever the order: the other one's bound alone counts."""
    work = chain(2, batch=2, mode="stream", requests_per_s=0.01)
    problem = Problem.of(work, cluster(2), "participating")
    slow, quick = (pipeline((0, 2, {name: 2})) for name in "ab")
    asked: list[object] = []

    def answer(plan: object, problem: Problem, **options: object) -> Settled:
        asked.append(plan)
        return Settled(math.inf, math.inf, None, "x") if plan is slow else Settled(8.0, 8.0, quick, "x")

    monkeypatch.setattr(settles, "settle_stream", answer)
    targets = Targets(np.zeros(0), tolerance=1e-4)
    done = settles.settle_all(
        problem, targets, [opened(slow, 5.0), opened(quick, 6.0)], solver="highs", deadline=Deadline()
    )
    assert asked[:2] == [slow, quick]
    assert (done.programs, done.solver) == (done.schedules, "x")
    assert targets.latency_plan is quick
    assert targets.latency_bound_s == pytest.approx(8.0)


def opened(plan: object, bound_s: float) -> Open:
    none = np.zeros((1, 0))
    return Open(
        plan=plan,  # type: ignore[arg-type]
        bound_s=bound_s,
        makespan_s=12.0,
        dynamic_j=np.ones(1),
        idle_w=np.zeros(1),
        cap_s=np.inf,
        code=np.zeros(1, dtype=np.int64),
        battery_j=none,
        over_bytes=np.zeros(1),
    )

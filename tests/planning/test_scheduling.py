"""Transfer schedules where lists do not settle the question: the program decides, or proves that nothing is better."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
import pytest
from builders import (
    Dice,
    best_makespan,
    default_space,
    examples,
    random_plan,
    random_question,
    seeded,
    shape_and_timing,
)
from hypothesis import HealthCheck, given, settings

from dora_nb.errors import ObjectiveMismatchError
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.schedules.serial_schedule import by_head
from dora_nb.formulation.schedules.transfers import TransferModel
from dora_nb.planning import scheduling
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.scheduling import Settled, settle

GAP = 1e-6
QUICK = {"suppress_health_check": list(HealthCheck)}


def contended(dice: Dice) -> tuple[Problem, object]:
    """A plan of several stages whose transfers share a medium, in whole pieces, so that all orders can be tried."""
    while True:
        work, place = random_question(
            dice, layers=(3, 4), batches=(2, 3), device_count=(3, 3), modes=("training", "inference"), kinds=("shared",)
        )
        space = dataclasses.replace(default_space(work, place), most_chunks=1)
        problem = Problem.of(work, place, "participating", space=space)
        plan = random_plan(dice, work, place)
        if len(plan.stages) > 1 and plan.chunks == 1:
            return problem, plan


def by_program(case: tuple[Problem, object], below_s: float, deadline: Deadline) -> Settled:
    """What settling comes to where no list is shorter than asked."""
    problem, plan = case
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scheduling, "_better", lambda best, *_, **__: best)
        return settle(plan, problem, below_s=below_s, gap=GAP, solver="highs", deadline=deadline)  # type: ignore[arg-type]


@settings(max_examples=examples(10), **QUICK)
@given(seeded(contended))
def test_the_program_finds_the_best_order_and_proves_that_none_is_better(case: tuple[Problem, object]) -> None:
    """With nodes to spend and with seconds; below the best makespan there is nothing, and that is proven."""
    problem, plan = case
    operations, timing = shape_and_timing(plan, problem)  # type: ignore[arg-type]
    best_s = best_makespan(operations, timing, math.inf)
    for deadline in (Deadline(), Deadline(time.monotonic() + 60)):
        found = by_program(case, 1.2 * best_s, deadline)
        assert found.plan is not None
        assert found.makespan_s == pytest.approx(best_s, rel=1e-5)
        assert found.bound_s <= best_s * (1 + 1e-9)
        nothing = by_program(case, best_s * (1 - 1e-4), deadline)
        assert nothing.plan is None
        assert best_s * (1 - 1e-4) * (1 - 2 * GAP) <= nothing.bound_s <= best_s * (1 + 1e-9)


@settings(max_examples=examples(6), **QUICK)
@given(seeded(contended))
def test_without_time_or_nodes_the_bound_is_still_true(case: tuple[Problem, object]) -> None:
    problem, plan = case
    best_s = best_makespan(*shape_and_timing(plan, problem), math.inf)  # type: ignore[arg-type]
    for name, value in (("PROGRAM_NODES", 1), ("MOST_PAIRS", 0), ("MOST_PAIRS_UNTIMED", 0), ("MOST_TRANSFERS", 0)):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(scheduling, name, value)
            found = by_program(case, 1.2 * best_s, Deadline())
        assert found.bound_s <= best_s * (1 + 1e-9)
        assert found.makespan_s >= best_s * (1 - 1e-9)


@settings(max_examples=examples(10), **QUICK)
@given(seeded(contended))
def test_whoever_finds_it_the_best_order_is_proven(case: tuple[Problem, object]) -> None:
    """Lists that are improved, lists that are not, so that more beginnings or the program have to; a rough gap."""
    problem, plan = case
    best_s = best_makespan(*shape_and_timing(plan, problem), math.inf)  # type: ignore[arg-type]
    for plain in (False, True):
        with pytest.MonkeyPatch.context() as patched:
            if plain:
                patched.setattr(scheduling, "_quick", lambda operations, timing, *_: by_head(operations, timing))
            for gap in (GAP, 0.1):
                asked = {"below_s": 1.5 * best_s, "gap": gap, "solver": "highs"}
                found = settle(plan, problem, **asked, deadline=Deadline())  # type: ignore[arg-type]
                assert found.plan is not None
                assert best_s * (1 - 1e-9) <= found.makespan_s <= best_s * (1 + gap) * (1 + 1e-5)
                assert found.makespan_s * (1 - gap) * (1 - 1e-5) <= found.bound_s <= best_s * (1 + 1e-9)
            late = settle(plan, problem, **asked, deadline=Deadline(time.monotonic() - 1))  # type: ignore[arg-type]
            assert late.bound_s <= best_s * (1 + 1e-9)
            assert late.makespan_s >= best_s * (1 - 1e-9)


def test_an_order_that_takes_longer_than_the_program_says_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    dice, told = Dice(3), 0
    honest = TransferModel.order

    def as_listed(self: TransferModel, start: np.ndarray) -> object:
        """An order that keeps the precedence and knows nothing of the solution."""
        return honest(self, np.arange(len(start), dtype=float))

    monkeypatch.setattr(TransferModel, "order", as_listed)
    for _ in range(20):
        case = contended(dice)
        best_s = best_makespan(*shape_and_timing(case[1], case[0]), math.inf)  # type: ignore[arg-type]
        try:
            found = by_program(case, 1.5 * best_s, Deadline())
        except ObjectiveMismatchError:
            told += 1
        else:
            assert found.makespan_s == pytest.approx(best_s, rel=1e-5)
    assert told

"""Columns kept from search to search: none is missing that may matter, and no bound on what is left out is too high."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from builders import Dice, examples, random_question, seeded
from hypothesis import HealthCheck, given, settings
from numpy.testing import assert_array_less

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.workload import Workload
from dora_nb.formulation.columns import Columns, build_columns
from dora_nb.formulation.problem import Problem
from dora_nb.planning.bounding import pool as pools
from dora_nb.planning.bounding.nearby import Near
from dora_nb.planning.bounding.pool import Pool
from dora_nb.planning.bounding.screening import screened
from dora_nb.planning.bounding.targets import Ladder, Targets
from dora_nb.planning.deadline import Deadline


def keys(columns: Columns) -> set[object]:
    return {columns.key(index) for index in range(len(columns))}


def drawn_targets(dice: Dice, everything: Columns, problem: Problem) -> Targets:
    """Questions with limits and incumbents around the figures of single stages."""
    spans_s = np.sort((everything.forward_s + everything.backward_s) * everything.micro_batches)
    joules = np.sort(everything.energy_j)

    def about(figures: np.ndarray) -> float:
        return float(figures[dice.number(0, len(figures) - 1)]) * dice.pick((0.5, 1.0, 2.0, 4.0))

    limits_s = np.unique([about(spans_s) for _ in range(dice.number(0, 3))] + [np.inf])
    ties = Ladder("makespan_s", "energy_j", np.array([about(joules)]))
    targets = Targets(
        limits_s,
        energy_limit_j=dice.pick((np.inf, about(joules))),
        makespan_limit_s=dice.pick((np.inf, about(spans_s))),
        tolerance=1e-4,
        seek_latency=dice.pick((True, False)),
        further=dice.pick(((), (ties,))),
    )
    for ladder in targets.asked:
        figures = spans_s if ladder.least == "makespan_s" else joules
        found = [dice.pick((np.inf, about(figures))) for _ in ladder.limits]
        ladder.best[:] = np.minimum.accumulate(found)  # a looser limit never has a worse answer
    return targets


def copy_of(targets: Targets) -> Targets:
    further = tuple(Ladder(each.least, each.within, each.limits) for each in targets.further)
    copied = replace(targets, further=further)
    for mine, theirs in zip(copied.asked, targets.asked, strict=True):
        mine.best[:] = theirs.best
    return copied


@settings(max_examples=examples(40), suppress_health_check=list(HealthCheck))
@given(seeded(lambda dice: dice))
def test_a_pool_serves_what_matters_and_bounds_the_rest(dice: Dice) -> None:
    work, place = random_question(dice, layers=(2, 4), batches=(2, 4), device_count=(2, 3))
    problem = Problem.of(work, place, "participating")
    most = problem.space.most_replicas
    everything, pool = build_columns(problem, most), Pool()
    if not len(everything):
        return
    for _ in range(6):
        targets = drawn_targets(dice, everything, problem)
        expected = copy_of(targets)
        needed = screened(everything, problem, expected)
        served = pool.columns(problem, most, targets, None)
        assert keys(served) == keys(needed)
        for mine, exact in zip(targets.asked, expected.asked, strict=True):
            assert (mine.floor <= exact.floor * (1 + 1e-12)).all()
            assert (mine.floor >= np.minimum(mine.best * (1 - targets.tolerance), exact.floor) * (1 - 1e-12)).all()


def test_questions_inside_a_region_are_served_without_making_columns_again(monkeypatch: pytest.MonkeyPatch) -> None:
    work, place = a_question()
    problem, made = Problem.of(work, place, "participating"), []

    def counted(*arguments: object, **options: object) -> Columns:
        made.append(arguments)
        return build_columns(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(pools, "build_columns", counted)
    pool, wide = Pool(), Targets(np.array([np.inf]))
    pool.columns(problem, 1, wide, None)
    narrow = Targets(np.array([np.inf]), tolerance=1e-4)
    narrow.latency.best[:] = narrow.energy.best[:] = 1e-9  # nothing is as good
    assert not len(pool.columns(problem, 1, narrow, None))
    assert len(made) == 1
    assert_array_less(0, narrow.energy.floor)
    pool.columns(problem, 2, narrow, None)
    assert len(made) == 2  # groups of two, for the narrow questions
    pool.columns(problem, 2, wide, None)
    assert len(made) == 3


def test_columns_of_a_search_that_was_stopped_are_not_kept() -> None:
    problem = Problem.of(*a_question(), "participating")
    pool, targets = Pool(), Targets(np.array([np.inf]))
    late = pool.columns(problem, 2, targets, Deadline(time.monotonic() - 1))
    assert not len(late)
    assert np.isfinite(targets.latency.floor).all()  # what was not made may be as good as its bounds say
    assert len(pool.columns(problem, 2, Targets(np.array([np.inf])), None))


@settings(max_examples=examples(20), suppress_health_check=list(HealthCheck))
@given(seeded(lambda dice: dice))
def test_columns_near_places_are_those_of_all_that_are_near(dice: Dice) -> None:
    """Whether they are made for themselves or picked from columns that are there.

    What is made is left out by figures that are known early, and so may be more than what is picked.
    """
    work, place = random_question(dice, layers=(3, 6), batches=(2, 4), device_count=(2, 3))
    problem = Problem.of(work, place, "participating")
    most = problem.space.most_replicas
    everything, pool = build_columns(problem, most), Pool()
    if not len(everything):
        return
    some = np.array([dice.number(0, len(everything) - 1) for _ in range(3)])
    near = Near(np.stack([everything.code, everything.first, everything.stop], axis=1)[some])
    targets = drawn_targets(dice, everything, problem)
    needed = keys(screened(near.columns(everything), problem, copy_of(targets)))
    made = pool.columns_near(problem, near, copy_of(targets), None)
    assert keys(made) >= needed
    assert keys(screened(made, problem, copy_of(targets))) == needed
    pool.columns(problem, most, copy_of(targets), None)
    assert keys(pool.columns_near(problem, near, copy_of(targets), None)) == needed


def a_question() -> tuple[Workload, Cluster]:
    return random_question(Dice(5), layers=(3, 4), batches=(4, 4), device_count=(3, 3))

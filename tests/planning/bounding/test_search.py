"""Bounds of unfinished pipelines, one by one, and the targets that prune with them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from builders import default_space, examples, pipeline, questions, shape_and_timing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dora_nb.costs.operations import Shape
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.workload import Workload
from dora_nb.formulation.columns import Columns, build_columns
from dora_nb.formulation.decode import decode
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.schedules.list_schedule import list_schedule
from dora_nb.planning.bounding.bounds import Bounds
from dora_nb.planning.bounding.family import Family
from dora_nb.planning.bounding.labels import Labels
from dora_nb.planning.bounding.partitions import Partitions, longest_paths
from dora_nb.planning.bounding.search import Search
from dora_nb.planning.bounding.targets import Figures, Ladder, Targets
from dora_nb.planning.deadline import Deadline

ANY = Plan.model_construct()  # a stand-in where only its identity matters


@dataclass
class Recording(Partitions):
    """Keeps every pipeline with the bounds of all its unfinished parts, and schedules none."""

    found: list[tuple[list[int], list[float], list[float], Family]] = field(default_factory=list)

    def take(self, bounds: Bounds, complete: NDArray[np.bool_], history: list[Labels]) -> None:
        levels = [bounds.of(level) for level in history]
        for label in np.flatnonzero(complete):
            chain, slowest, costliest, at = [], [], [], int(label)
            for depth in range(len(history) - 1, -1, -1):
                chain.append(int(history[depth].column[at]))
                slowest.append(float(levels[depth][0][at]))
                costliest.append(float(levels[depth][1][at]))
                at = int(history[depth].parent[at])
            self.found.append((chain, slowest, costliest, bounds.family))


def everything(problem: Problem, columns: Columns) -> list[tuple[list[int], list[float], list[float], Family]]:
    """Every pipeline there is, with the bounds of its parts: nothing is pruned."""
    targets = Targets(np.array([np.inf]))
    search = Search(problem, columns, targets, 10**7, Deadline(), 0)
    search.partitions = recording = Recording(problem, targets, Deadline(), 0, False)
    search.run()
    return recording.found


@settings(max_examples=examples(50), suppress_health_check=list(HealthCheck))
@given(
    questions(layers=(2, 3), batches=(1, 2, 3, 4), device_count=(2, 3)), st.sampled_from(("participating", "all-on"))
)
def test_no_bound_of_a_part_is_above_a_plan_that_continues_it(
    question: tuple[Workload, Cluster], accounting: str
) -> None:
    """Nothing is pruned here, so every bound is held against every pipeline below it."""
    problem = Problem.of(*question, accounting, space=default_space(*question))
    columns = build_columns(problem, problem.space.most_replicas)
    found = everything(problem, columns)
    assert found
    for chain, slowest, costliest, family in found:
        batches, family_columns = family.micro_batches, family.columns
        for depth in problem.space.in_flight_depths:
            held = problem.space.in_flight(depth, len(chain), batches)
            plan = decode(family_columns, chain, held, problem)
            makespan_s = list_schedule(*shape_and_timing(plan, problem)).makespan_s
            idle_w, dynamic_j = float(family_columns.idle_w[chain].sum()), float(family_columns.energy_j[chain].sum())
            energy_j = dynamic_j + (idle_w if problem.idle_all_w is None else problem.idle_all_w) * makespan_s
            assert max(slowest) <= makespan_s * (1 + 1e-9), (plan, slowest)
            assert max(costliest) <= energy_j * (1 + 1e-9), (plan, costliest)


@settings(max_examples=examples(12), suppress_health_check=list(HealthCheck))
@given(questions(layers=(2, 3), batches=(2, 4), device_count=(2, 3)))
def test_longest_paths_of_many_partitions_are_those_of_their_plans(question: tuple[Workload, Cluster]) -> None:
    problem = Problem.of(*question, "participating", space=default_space(*question))
    columns = build_columns(problem, problem.space.most_replicas)
    for chain, _, _, family in everything(problem, columns)[::7]:
        held = problem.space.in_flight(1, len(chain), family.micro_batches)
        said = longest_paths(family, np.array([chain]), held, bool(family.columns.hosts[chain[-1]]))
        plan = decode(family.columns, chain, held, problem)
        operations, timing = shape_and_timing(plan, problem)
        path_s, possible_s = float(operations.longest_path(timing.duration_s)), list_schedule(operations, timing)
        if max(Shape.of(plan, problem.workload).buckets) <= 1:
            assert float(said[0]) == pytest.approx(path_s)
        else:  # the search also knows that a stage's buckets do not travel at the same time
            assert path_s * (1 - 1e-9) <= float(said[0]) <= possible_s.makespan_s * (1 + 1e-9)


# ------------------------------------------------------------------------------------------ targets


def targets(*limits_s: float, **fields: float) -> Targets:
    return Targets(np.array(limits_s or (np.inf,)), **fields)


def figures(*values: float) -> NDArray[np.float64]:
    return np.array(values, dtype=float)


def test_without_incumbents_everything_is_relevant() -> None:
    open_ = targets(10, np.inf)
    assert open_.relevant(figures(1, 1e9), figures(1e9, 1)).all()
    assert open_.latency_bound_s == np.inf
    assert np.isinf(open_.energy_bounds_j).all()


def test_the_energy_limit_rules_out() -> None:
    limited = targets(energy_limit_j=5)
    assert limited.relevant(figures(1, 1), figures(5, 5.1)).tolist() == [True, False]
    limited.set_aside(figures(1), figures(5.1))
    assert np.isinf(limited.latency_bound_s)
    limited.offer(1, 5.1, ANY)
    assert limited.latency_plan is None
    assert not limited.improves(1, 5.1)


def test_relevant_is_faster_or_thriftier_within_a_limit() -> None:
    known = targets(10, 20, tolerance=0.1)
    known.offer(8, 100, ANY)
    known.offer(15, 50, ANY)
    assert known.best_latency_s == 8
    assert known.best_energy_j.tolist() == [100, 50]
    # 10 % better than an incumbent, or it is not worth a look
    assert known.relevant(figures(7.1, 7.3), figures(1000, 1000)).tolist() == [True, False]
    assert known.relevant(figures(9, 9, 11, 11), figures(89, 91, 44, 46)).tolist() == [True, False, True, False]
    assert known.relevant(figures(10, 20), figures(89, 44)).tolist() == [True, True]  # limits are inclusive
    assert known.relevant(figures(20.1), figures(1)).tolist() == [False]


@settings(max_examples=examples(60))
@given(st.integers(0, 2**32 - 1))
def test_sifting_is_asking_what_is_relevant_and_setting_the_rest_aside(seed: int) -> None:
    dice = np.random.default_rng(seed)
    limits_s, limit_j = np.unique(dice.integers(5, 20, 3)).astype(float), float(dice.choice([60, np.inf]))
    one, two = (targets(*limits_s, np.inf, tolerance=0.05, energy_limit_j=limit_j) for _ in range(2))
    for _ in range(4):
        makespan_s, energy_j = map(float, dice.integers(5, 90, 2))
        for each in (one, two):
            each.offer(makespan_s, energy_j, ANY)
    bounds = Figures(*dice.integers(1, 90, (3, 40)).astype(float))
    possible = dice.random(40) < 0.8
    kept = one.sift(possible, bounds)
    relevant = possible & two.relevant(*bounds)
    two.set_aside(*bounds.take(possible & ~relevant))
    assert kept.tolist() == relevant.tolist()
    for mine, theirs in zip(one.asked, two.asked, strict=True):
        assert mine.floor.tolist() == theirs.floor.tolist()


def test_only_the_latency_that_is_asked_for() -> None:
    energy_only = targets(10, seek_latency=False)
    energy_only.offer(5, 5, ANY)
    assert energy_only.relevant(figures(1), figures(6)).tolist() == [False]


def test_offers_improve_every_question_they_answer() -> None:
    first, second, third = ANY, Plan.model_construct(), Plan.model_construct()
    known = targets(10, 20, np.inf)
    known.offer(15, 7, first)
    assert known.energy_plans == [None, first, first]
    known.offer(9, 9, second)
    assert [plan is second for plan in known.energy_plans] == [True, False, False]
    assert known.latency_plan is second
    known.offer(30, 1, third)
    assert known.energy_plans[2] is third
    assert known.best_energy_j.tolist() == [9, 7, 1]
    assert known.improves(8, 100)
    assert known.improves(25, 0.5)
    assert not known.improves(25, 2)
    assert not known.improves(9, 9)


def test_what_is_set_aside_lowers_the_bounds_of_the_questions_it_could_answer() -> None:
    known = targets(10, 20, np.inf)
    known.offer(9, 100, ANY)
    assert known.energy_bounds_j.tolist() == [100, 100, 100]
    known.set_aside(figures(12, 25, 8.5), figures(60, 40, 90))
    assert known.latency_bound_s == 8.5
    assert known.energy_bounds_j.tolist() == [90, 60, 40]
    known.set_aside(figures(1e9), figures(0.5))
    assert known.energy_bounds_j.tolist() == [90, 60, 0.5]
    known.set_aside(figures(), figures())


def test_a_bound_never_exceeds_the_incumbent() -> None:
    known = targets()
    known.set_aside(figures(10), figures(10))
    known.offer(4, 3, pipeline((0, 1, {"a": 1})))
    assert known.latency_bound_s == 4
    assert known.energy_bounds_j.tolist() == [3]


def test_questions_after_the_objective_have_a_ladder_of_their_own() -> None:
    dear, cheap = Plan.model_construct(), Plan.model_construct()
    known = Targets(np.array([np.inf]), further=(Ladder("value", "makespan_s", np.array([10.0])),))
    known.offer(5, 5, dear, 100)
    known.offer(9, 9, cheap, 50)
    known.offer(11, 11, ANY, 1)  # too late
    (value,) = known.further
    assert value.plans == [cheap]
    assert known.relevant(figures(8, 8, 11), figures(8, 8, 11), figures(49, 51, 1)).tolist() == [True, False, False]
    known.set_aside(figures(8, 11), figures(8, 11), figures(40, 1))
    assert value.bounds.tolist() == [40]


def test_limits_of_another_search_are_joined() -> None:
    known, more = targets(10, 30), Targets(figures(20), seek_latency=False)
    known.offer(8, 100, ANY)
    known.set_aside(figures(9, 25), figures(95, 50))
    more.offer(15, 60, ANY)
    more.set_aside(figures(12), figures(58))
    known.add_limits(more.energy)
    assert known.latency_limits_s.tolist() == [10, 20, 30]
    assert known.best_energy_j.tolist() == [100, 60, 60]
    assert known.energy_bounds_j.tolist() == [95, 58, 50]
    assert known.asked[1] is known.energy

"""What is kept between questions: columns, plans, good partitions, and what is proven.

Questions about one workload on one cluster share a case, whatever their limits. Another bandwidth, device speed, memory
or set of devices is another case, which begins with what is known of its neighbours.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from dora_nb.costs.conditions import Surroundings, slowness
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.record import Record
from dora_nb.errors import InputError
from dora_nb.formulation.columns import Columns, build_columns
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.reuse import columns_left
from dora_nb.formulation.space import share_vectors, share_vectors_in_steps
from dora_nb.planning.bounding.nearby import Near, places_of, places_of_plans
from dora_nb.planning.bounding.partitions import Candidates
from dora_nb.planning.bounding.pool import Pool
from dora_nb.planning.bounding.screening import screened
from dora_nb.planning.bounding.targets import Targets
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.proven import Proven
from dora_nb.planning.scheduling import fits_memory, predicted

if TYPE_CHECKING:
    from dora_nb.planning.question import Question

#: Layer ranges times ways to share samples out, up to which all columns are made once, instead of those that matter.
MOST_COLUMNS = 60_000

#: Cases, plans of a case, and searches whose partitions are kept.
MOST_CASES, MOST_PLANS, MOST_SEARCHES = 24, 60, 8

#: What columns depend on of a QoE, and what is proven depends on beside limits on makespan and energy.
OwnLimits = tuple[object, ...]


@dataclass
class Case:
    """One workload on one cluster, and what is known of it.

    Attributes
    ----------
    question
        The first that was asked.
    problem
        That of any question about it, but for its terms.
    plans
        That were found, each once, the latest last.
    candidates
        Complete partitions of the latest searches.
    """

    question: Question
    problem: Problem
    plans: dict[Plan, Plan] = field(default_factory=dict)
    candidates: list[Candidates] = field(default_factory=list)
    _proven: dict[OwnLimits, Proven] = field(default_factory=dict)
    _columns: dict[OwnLimits, Columns] = field(default_factory=dict)
    _pools: dict[OwnLimits, Pool] = field(default_factory=dict)

    def problem_of(self, qoe: QoE) -> Problem:
        """The problem with the terms of a QoE."""
        return self.problem if qoe == self.problem.terms.qoe else self.problem.with_terms(qoe)

    def proven(self, qoe: QoE) -> Proven:
        """What is proven for the accounting and the limits of single devices that a QoE has."""
        return self._proven.setdefault((qoe.energy_accounting, *own_limits(qoe)), Proven())

    def columns(self, problem: Problem, most_devices: int, targets: Targets, deadline: Deadline | None) -> Columns:
        """The columns that may matter, from all of them where these are few enough to be kept."""
        if self._size > MOST_COLUMNS:
            return self._pool(problem).columns(problem, most_devices, targets, deadline)
        kept = screened(self._all_columns(problem), problem, targets)
        if most_devices >= problem.space.most_devices:
            return kept
        return kept.take(problem.fleet.used[kept.code].sum(axis=1) <= most_devices)

    def columns_near(self, problem: Problem, places: Ints, targets: Targets, deadline: Deadline | None) -> Columns:
        """Columns that may matter and are close to some places; no bound on the others is kept."""
        near = Near(places)
        if self._size > MOST_COLUMNS:
            return self._pool(problem).columns_near(problem, near, targets, deadline)
        return screened(near.columns(self._all_columns(problem)), problem, targets)

    def _all_columns(self, problem: Problem) -> Columns:
        key = own_limits(problem.terms.qoe)
        if key not in self._columns:
            self._columns[key] = build_columns(problem, problem.space.most_devices)
        return self._columns[key]

    def _pool(self, problem: Problem) -> Pool:
        """The columns that are made for questions with the same terms, but for limits on makespan and energy."""
        terms = problem.terms
        prices = None if terms.is_plain else terms.qoe.digest()
        key = (terms.qoe.energy_accounting, *own_limits(terms.qoe), prices)
        return self._pools.setdefault(key, Pool())

    def forget_columns(self) -> None:
        """Give back the memory of columns that are made for single questions."""
        self._pools.clear()

    @property
    def replicas(self) -> list[int]:
        """Group sizes for which good plans are looked for, one after the other.

        Each finds what keeps the next from many columns; where there are few, there is nothing to keep it from.
        """
        space = self.problem.space
        if self._size <= MOST_COLUMNS:
            return [space.most_devices]
        return [n for n in range(1, space.most_devices + 1) if n & (n - 1) == 0 or n == space.most_devices]

    @cached_property
    def _size(self) -> int:
        """About how many columns there are before any is left out."""
        problem, layers = self.problem, len(self.problem.workload.layers)
        sharings, parts = 0, {layer.parts for layer in problem.workload.layers} - {1}
        for group in problem.fleet.groups(problem.space.most_devices):
            size = len(group.devices)
            if size <= problem.space.most_replicas:
                sharings += sum(share_vectors(samples, size) for samples in problem.space.micro_batch_sizes)
            if 1 < size <= problem.space.shards:
                sizes = len(problem.space.micro_batch_sizes)
                sharings += sizes * sum(share_vectors_in_steps(count, size) for count in parts)
            if sharings * layers * (layers + 1) // 2 > MOST_COLUMNS:
                break
        return sharings * layers * (layers + 1) // 2

    def remember(self, plans: Iterable[Plan], candidates: Iterable[Candidates] = ()) -> None:
        """Keep plans and partitions for later questions."""
        for plan in plans:
            decisions = plan.decisions()
            self.plans.pop(decisions, None)
            self.plans[decisions] = plan
        for decisions in list(self.plans)[: max(0, len(self.plans) - MOST_PLANS)]:
            del self.plans[decisions]
        self.candidates = [*self.candidates, *candidates][-MOST_SEARCHES:]

    def places(self, problem: Problem, targets: Targets, candidates: Iterable[Candidates]) -> Ints:
        """Where the stages of good partitions and plans are, these and those known before."""
        within = [each.within(targets) for each in (*self.candidates, *candidates)]
        figures = dict.fromkeys(ladder.least for ladder in targets.asked)
        plans = places_of_plans([*self.plans.values(), *targets.plans], problem)
        return np.unique(np.concatenate([*(places_of(within, figure) for figure in figures), plans]), axis=0)

    def fitting(self, problem: Problem) -> list[Plan]:
        """The plans that were found for any question, predicted anew, that fit in memory and keep up with a stream."""
        found = []
        for plan in list(self.plans.values()):
            with suppress(InputError):  # transfers of a stream, in an order that cannot repeat on this network
                found.append(predicted(plan, problem))
        return [plan for plan in found if fits_memory(plan)]


class Session:
    """The cases of questions that belong together."""

    def __init__(self) -> None:
        self._cases: dict[tuple[object, ...], Case] = {}
        self._digests: dict[int, tuple[Record, str]] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Session], tuple[()]]:
        # Answers that are sent to another process leave what is remembered behind: it would only make them large.
        return Session, ()

    def case(self, question: Question) -> Case:
        """The case of a question."""
        table = question.table
        key = (
            self._digest(question.workload),
            self._digest(question.cluster),
            None if table is None else id(table),  # the case keeps the table, so its id stays its own
            question.space,
            question.overlap,
            own_limits(question.qoe)[:2],
        )
        with self._lock:
            if key in self._cases:
                self._cases[key] = self._cases.pop(key)
                return self._cases[key]
            case = Case(question, question.new_problem())
            for other in self._cases.values():
                inherit(case, other)
                other.forget_columns()
            self._cases[key] = case
            if len(self._cases) > MOST_CASES:
                del self._cases[next(iter(self._cases))]
            return case

    def _digest(self, record: Record) -> str:
        if id(record) not in self._digests:
            if len(self._digests) > 8 * MOST_CASES:
                self._digests.clear()
            self._digests[id(record)] = (record, record.digest())
        return self._digests[id(record)][1]


def inherit(case: Case, other: Case) -> None:
    """Begin a case with what is known of another one: its plans, and what of its proofs holds here as well.

    A cluster on which everything takes at least ``factor`` times as long, with no more memory, and from which devices
    may be missing, has no plan with less than ``factor`` times the makespan or the energy: every plan here is one
    there, a makespan is a maximum of sums of durations, and joules are watts times durations or bytes times a constant.
    Where all devices draw, a missing one draws no more.
    """
    if case.question.workload != other.question.workload:
        return
    ids = set(case.question.cluster.device_ids)
    here = (plan for plan in other.plans.values() if set(plan.devices) <= ids)
    case.remember(plan for plan in here if plan.decisions() not in case.plans)
    factor = _at_least(case, other)
    if factor is None:
        return
    if factor == 1 and _as_fast(case, other):
        for limits, columns in other._columns.items():
            if not limits[0] and (left := columns_left(columns, other.problem, case.problem)) is not None:
                case._columns[limits] = left
    fewer = len(ids) < len(other.question.cluster.devices)
    for key, proven in other._proven.items():
        if fewer and key[0] == "all-on":
            continue
        case._proven.setdefault(key, Proven()).include(proven.scaled(factor))


def _as_fast(case: Case, other: Case) -> bool:
    """Whether the devices that both clusters have, and their media, are the same in all that columns depend on."""
    there = other.question.cluster
    gone = set(there.device_ids) - set(case.question.cluster.device_ids)
    if (there.without(gone) if gone else there) != case.question.cluster:
        return False
    stay = np.array([index for index, name in enumerate(there.device_ids) if name not in gone], dtype=np.int64)
    return case.problem.table.same_times(other.problem.table.of_devices(stay))


def _at_least(case: Case, other: Case) -> float | None:
    """By which factor, 1 at most, durations are at least what they are in another case; None if that is not known.

    Batteries and the rate of a stream rule plans out by their durations: with faster parts other plans may be left.
    """
    mine, gone = case.question, set(other.question.cluster.device_ids) - set(case.question.cluster.device_ids)
    theirs = other.question
    if mine.workload.generates or not theirs.covers(mine, gone):
        return None
    theirs = theirs.without(gone) if gone else theirs
    there = theirs.new_problem() if gone else other.problem
    factor = slowness(Surroundings(mine.cluster, case.problem.table), Surroundings(theirs.cluster, there.table))
    timed = mine.workload.arrival_s is not None or bool(mine.qoe.battery_j)
    return factor if factor == 1 or not timed else None


def own_limits(qoe: QoE) -> OwnLimits:
    """What a QoE says of single devices."""
    battery = (tuple(sorted(qoe.battery_j.items())), qoe.battery_price is None)
    return (*battery, qoe.headroom_fraction, qoe.headroom_bytes, qoe.headroom_price is None)

"""Every partition that a better composition could use, where there are few enough to list them all.

The prices of a Lagrangian bound say what using a plan costs at least. A plan that costs more than a known composition
is above the bound is in none that is better (reduced-cost fixing, Nemhauser and Wolsey, "Integer and Combinatorial
Optimization", 1988). What is left is listed by the bounding search with a fixed threshold instead of incumbents, and
each partition gets figures that no order of its transfers undercuts in any condition. A mixture of these is a bound
that knows whole counts, the number of resident plans and their memory.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.operations import Shape
from dora_nb.costs.precedence import operations_of
from dora_nb.costs.resident import Residents
from dora_nb.costs.table import Floats
from dora_nb.costs.timing import timing_of
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import EnergyAccounting
from dora_nb.formulation.columns import build_columns
from dora_nb.formulation.composition.mixture import Mixture, Promise
from dora_nb.formulation.composition.prices import Prices
from dora_nb.formulation.decode import decode
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.schedules.windows import Windows
from dora_nb.planning.bounding.screening import screen
from dora_nb.planning.bounding.search import Search
from dora_nb.planning.bounding.targets import Figures, Ladder, Targets
from dora_nb.planning.composition.palette import Palette
from dora_nb.planning.composition.pricing import priced
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.scheduling import finish

#: Partial pipelines kept per search: more are too many to list.
MOST_LABELS = 20_000

#: Partitions listed: each is evaluated in every condition.
MOST_PARTITIONS = 1_500


@dataclass(frozen=True)
class Proof:
    """A Lagrangian bound with the prices that prove it.

    Attributes
    ----------
    prices
        Of the limits.
    request, place
        What serving the requests of a condition earns, shape (conditions,), and what a resident plan costs at least;
        no plan of the space earns more than it costs.
    bound
        What they prove.
    """

    prices: Prices
    request: Floats
    place: float
    bound: float

    def thresholds(self, value: float, window: int) -> Floats:
        """What a plan's price must be below in some condition, if it is used by a composition below a value.

        A plan that is used takes one request of a window at least.
        """
        slack = value - self.bound
        if self.place > slack:
            return self.request - (self.place - slack) / len(self.request)
        return self.request + window * slack

    def useful(self, price: Floats, value: float, window: int) -> NDArray[np.bool_]:
        """Which plans a composition below a value could use, by their prices, shape (plans, conditions)."""
        earned = np.maximum(self.request - price, 0.0).sum(axis=1)
        lost = np.maximum(price - self.request, 0.0).min(axis=1) / window
        return np.asarray(self.bound + np.maximum(self.place - earned, 0.0) + lost < value)


class _Threshold(Ladder):
    """A question that keeps its threshold: no plan answers it better, so everything below is listed."""

    def improved(self, figures: Figures) -> NDArray[np.bool_]:
        del figures
        return np.zeros(self.limits.shape, dtype=bool)


def plans_below(
    problem: Problem,
    *,
    per_s: float,
    per_j: float,
    below: float,
    limits: Mapping[str, float],
    deadline: Deadline,
) -> list[Plan] | None:
    """Every partition of an inference problem that may cost less than a threshold, without a transfer order.

    Share vectors that others beat are listed as well: they may beat those in another condition.

    Parameters
    ----------
    problem
        Of one condition.
    per_s, per_j
        Prices of a second and of a joule.
    below
        The threshold: what a plan costs at these prices.
    limits
        Most seconds (``latency``) and joules (``energy``) of a plan; without a limit, no entry.
    deadline
        When to give up.

    Returns
    -------
    list of Plan or None
        None if there are too many.
    """
    assert not problem.workload.trains, "a leader of an all-reduce is the best one in one condition only"
    problem, figure, unit = priced(problem, per_s, per_j)
    ladder = _Threshold(figure, "makespan_s", np.array([np.inf]))
    ladder.best[0] = below / unit
    targets = Targets(
        np.zeros(0),
        energy_limit_j=limits.get("energy", np.inf),
        makespan_limit_s=limits.get("latency", np.inf),
        seek_latency=False,
        further=(ladder,),
    )
    columns = build_columns(problem, problem.space.most_devices, screen(problem, targets, deadline), beaten=True)
    if len(columns) > MOST_LABELS:
        return None
    search = Search(problem, columns, targets, MOST_LABELS, deadline, schedules_left=0, insists=False)
    report = search.run()
    if deadline.passed or report.labels >= MOST_LABELS or report.partitions > MOST_PARTITIONS:
        return None
    plans: dict[Plan, None] = {}
    for found in search.candidates:
        for chosen in found.chosen.tolist():
            in_flight, *_ = problem.space.in_flight_counts(
                len(chosen), problem.workload.batch // int(found.columns.micro_batch[0])
            )
            plans |= dict.fromkeys(_renamed(decode(found.columns, chosen, in_flight, problem), problem))
            if len(plans) > MOST_PARTITIONS:
                return None
    return list(plans)


def _renamed(plan: Plan, problem: Problem) -> Iterator[Plan]:
    """A plan on every choice of devices that cannot be told apart here: elsewhere, or beside others, they may be."""
    alike = [[problem.cluster.devices[d].id for d in members] for members in problem.fleet.types if len(members) > 1]
    for orders in itertools.product(*(itertools.permutations(names) for names in alike)):
        names = {
            name: other
            for each, order in zip(alike, orders, strict=True)
            for name, other in zip(each, order, strict=True)
        }
        stages = []
        for stage in plan.stages:
            replicas = (each.replace(device=names.get(each.device, each.device)) for each in stage.replicas)
            stages.append(stage.replace(replicas=tuple(replicas)))
        yield plan.replace(stages=tuple(stages))


@dataclass
class Shortlist:
    """The partitions that a better composition could use, with figures that no order of transfers undercuts.

    Attributes
    ----------
    palette, promise, most_plans, window
        What is asked.
    deadline
        When to stop looking.
    """

    palette: Palette
    promise: Promise
    most_plans: int
    window: int
    deadline: Deadline

    def of_mixtures(self, proof: Proof, value: float) -> Mixture | None:
        """Plans of compositions below a value, going by the prices of a bound; None: too many to list."""
        found: dict[Plan, None] = {}
        for k, threshold in enumerate(proof.thresholds(value, self.window).tolist()):
            per_s, per_j = proof.prices.rates(self.promise, self.palette.probability, k)
            problem = self.palette.problem(self.palette.places[k])
            if not self._list(found, problem, per_s, per_j, threshold, {}):
                return None
        mixture = self._optimistic(list(found))
        if mixture is None:
            return None
        useful = proof.useful(proof.prices.charged(mixture, self.promise), value, self.window)
        return _unbeaten(mixture.take(np.flatnonzero(useful).tolist()))

    def of_single_plans(self, value: float) -> Mixture | None:
        """Single plans below a value, going by the mean of all conditions; None: too many to list."""
        states = range(len(self.palette.places))
        place = self.palette.mean(states, self.palette.probability)
        if place is None:
            return None
        free = Prices(np.zeros(len(states)), {}, 0.0)
        per_s, per_j = np.sum([free.rates(self.promise, self.palette.probability, k) for k in states], axis=0)
        found: dict[Plan, None] = {}
        if not self._list(found, self.palette.problem(place), per_s, per_j, value, self.promise.limits):
            return None
        mixture = self._optimistic(list(found))
        return None if mixture is None else _unbeaten(mixture)

    def _list(
        self,
        found: dict[Plan, None],
        problem: Problem,
        per_s: float,
        per_j: float,
        below: float,
        limits: Mapping[str, float],
    ) -> bool:
        """Add what one search lists; whether that was all."""
        listed = plans_below(problem, per_s=per_s, per_j=per_j, below=below, limits=limits, deadline=self.deadline)
        found |= dict.fromkeys(listed or ())
        return listed is not None and len(found) <= MOST_PARTITIONS

    def _optimistic(self, plans: list[Plan]) -> Mixture | None:
        """The partitions as a mixture, each as fast in every condition as a bound allows; None if time is up."""
        palette, figures = self.palette, np.full((2, len(plans), len(self.palette.places)), np.inf)
        calm, finished = palette.problem(palette.calm), []
        for plan in plans:
            if self.deadline.passed:
                return None
            finished.append(finish(plan, calm))
        for k, place in enumerate(palette.places):
            problem = palette.problem(place)
            for j, plan in enumerate(plans):
                if self.deadline.passed:
                    return None
                if set(plan.devices) <= set(place.cluster.device_ids):
                    figures[:, j, k] = _least(plan, problem, palette.accounting)
        return Mixture(
            residents=Residents(palette.workload, tuple(finished), palette.cluster.device_ids),
            usable_bytes=palette.usable_bytes,
            probability=palette.probability,
            makespan_s=figures[0],
            energy_j=figures[1],
            loads_s=np.zeros((*figures.shape[1:], 0)),
        )


def _unbeaten(mixture: Mixture) -> Mixture:
    """Without plans that another matches or beats in every condition, holding nothing that the one does not hold."""
    figures = np.hstack([mixture.makespan_s, mixture.energy_j, mixture.residents.working_bytes])
    held = mixture.residents.held
    held = held.reshape(len(held), math.prod(held.shape[1:]))  # also of no plans
    kept: list[int] = []
    order = np.lexsort((held.sum(axis=1), np.where(np.isfinite(figures), figures, 1e300).sum(axis=1)))
    for j in order.tolist():
        beats = (figures[kept] <= figures[j]).all(axis=1) & (held[kept] <= held[j]).all(axis=1)
        if not beats.any():
            kept.append(j)
    return mixture.take(sorted(kept))


def _least(plan: Plan, problem: Problem, accounting: EnergyAccounting) -> tuple[float, float]:
    """Seconds and joules that no order of a partition's transfers undercuts: what is idle draws in proportion."""
    timing = timing_of(plan, problem.workload, problem.cluster, problem.table)
    least_s = Windows(operations_of(Shape.of(plan, problem.workload)), timing).medium_bound_s()
    prediction = finish(plan, problem).prediction
    assert prediction is not None, "just predicted"
    idle = problem.cluster.device_ids if accounting == "all-on" else plan.devices
    idle_w = sum(problem.cluster.device(name).idle_w for name in idle)
    return least_s, prediction.energy_j(accounting) - idle_w * (prediction.makespan_s - least_s)

"""Answers to questions that only one figure of one plan is asked of: events on the way, and the certificate."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import final

from dora_nb import solvers
from dora_nb.domain.certificate import Certificate
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import ROUNDING
from dora_nb.domain.rating import qoe_value
from dora_nb.errors import InfeasibleError, InputError, ObjectiveMismatchError
from dora_nb.formulation.problem import Problem
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.scheduling import fits_memory, predicted, quick_schedule, scheduled
from dora_nb.units import format_seconds


def refuse_other_questions(problem: Problem, others: Mapping[str, tuple[object, bool]], allowed: str) -> None:
    """Refuse all that is neither the lowest latency alone nor a rate.

    Parameters
    ----------
    problem
        What is asked.
    others
        What else may stand in the way, by field: what was given, and whether it is possible.
    allowed
        Why not, and what is possible; goes on after ``on 40 devices``.

    Raises
    ------
    InputError
        That names the first thing that is not possible.
    """
    terms = problem.terms
    asked = {
        "objective": (terms.qoe.objective, terms.is_plain and terms.qoe.objective == "latency"),
        "energy_j": (terms.energy_limit_j, math.isinf(terms.energy_limit_j)),
        "battery_j": (terms.qoe.battery_j, not terms.qoe.battery_j),
    }
    for name, (value, possible) in (asked | dict(others)).items():
        if not possible:
            raise InputError(name, value, f"on {len(problem.cluster.devices)} devices {allowed}")


def tell_bounds(on_event: solvers.OnEvent | None) -> Callable[[float, float], None]:
    """What passes incumbents and bounds on as a solver's events, from now on."""
    started_s = time.monotonic()

    def on_bound(incumbent_s: float, bound_s: float) -> None:
        if on_event is not None and math.isfinite(incumbent_s):
            reached = solvers.relative_gap(incumbent_s, bound_s)
            on_event(solvers.Event(time.monotonic() - started_s, incumbent_s, bound_s, reached, 0))

    return on_bound


@dataclass
class LatencyHunt(ABC):
    """The best plan found so far, and what is proven; subclasses say how plans are found.

    Attributes
    ----------
    problem, gap, deadline
        What is asked, the relative gap that is good enough, and when to stop.
    say
        Told about each step.
    on_bound
        Told incumbent and bound as they change.
    best, best_s
        The fastest plan found that fits in memory, predicted, and its makespan.
    bound_s
        No plan considered takes less.
    """

    problem: Problem
    gap: float
    deadline: Deadline
    say: Callable[[str], None] = lambda _: None
    on_bound: Callable[[float, float], None] = lambda _, __: None
    best: Plan | None = field(default=None, init=False)
    best_s: float = field(default=math.inf, init=False)
    bound_s: float = field(default=0.0, init=False)

    @final
    @classmethod
    def plan(
        cls,
        problem: Problem,
        gap: float,
        deadline: Deadline,
        say: Callable[[str], None],
        on_event: solvers.OnEvent | None = None,
    ) -> Plan:
        """The plan of least makespan that is found, with its certificate.

        Parameters
        ----------
        problem
            What is asked.
        gap
            Relative gap that is good enough.
        deadline
            When to stop.
        say, on_event
            Told about each step, and about incumbents and bounds.

        Raises
        ------
        InputError
            If something is asked that only the exact search answers.
        InfeasibleError
            If no plan was found that fits, or none within the latency limit.
        """
        hunt = cls(problem, gap, deadline, say, tell_bounds(on_event))
        hunt.run()
        return hunt.answer()

    @abstractmethod
    def run(self) -> None:
        """Find plans and prove how good they are; both are in ``best``, ``best_s`` and ``bound_s``."""

    @abstractmethod
    def answer(self) -> Plan:
        """The best plan, :meth:`certified`."""

    def keep(self, plan: Plan) -> bool:
        """Whether a plan fits in memory, scheduled by list in every number of chunks; it is kept if it is the best."""
        fits = False
        for chunks in self.problem.space.chunk_counts:
            split = plan.replace(chunks=chunks)
            makespan_s, order = quick_schedule(split, self.problem)
            if math.isinf(makespan_s) or (fits and makespan_s >= self.best_s):  # a stream may not keep up
                continue
            done = predicted(split.replace(transfer_order=order), self.problem)
            assert done.prediction is not None, "a predicted plan carries its prediction"
            fits_so = fits_memory(done)
            fits = fits or fits_so
            if fits_so and done.prediction.makespan_s < self.best_s:
                self.best, self.best_s = done, done.prediction.makespan_s
        return fits

    def certified(self, *, scope: str, solver: str, reason: str) -> Plan:
        """The best plan with its certificate.

        Parameters
        ----------
        scope, solver, reason
            Of which plans none takes less than the bound, and who proved it; why no other.

        Raises
        ------
        InfeasibleError
            If no plan was found that fits, or none within the latency limit.
        ObjectiveMismatchError
            If the plan is better than it can be.
        """
        problem, limit_s = self.problem, self.problem.terms.makespan_limit_s
        where = f"{problem.workload.name} on {problem.cluster.name}"
        if self.best is None:
            rate = problem.workload.requests_per_s
            keeps_up = "" if rate is None else f" and keeps up with {rate:.4g} requests per second"
            found = "there is no plan" if math.isinf(self.bound_s) else "no plan was found"
            raise InfeasibleError(f"{where}: {found} that fits the devices' memory{keeps_up}")
        if self.best_s > limit_s:
            proven = "impossible" if self.bound_s > limit_s else "not found"
            raise InfeasibleError(
                f"{where}: a latency of {format_seconds(limit_s)} is {proven}: the best plan takes "
                f"{format_seconds(self.best_s)}, and none can take less than {format_seconds(self.bound_s)}"
            )
        if self.bound_s > self.best_s * (1 + ROUNDING):
            raise ObjectiveMismatchError(f"the bound {self.bound_s:.9g} is above the plan's own {self.best_s:.9g}")
        assert self.best.prediction is not None, "the best plan is predicted"
        reached = max(0.0, (self.best_s - self.bound_s) / self.best_s)
        stopped = ("cancelled" if self.deadline.cancelled else "time limit") if self.deadline.passed else "feasible"
        return scheduled(self.best, problem).replace(
            label="latency-optimal",
            certificate=Certificate(
                objective="latency",
                unit="s",
                latency_limit_s=limit_s if math.isfinite(limit_s) else None,
                limits=qoe_value(self.best.prediction, problem.terms.qoe).limits,
                value=self.best_s,
                bound=self.bound_s,
                gap=reached,
                status="optimal" if reached <= self.gap * (1 + 1e-6) else stopped,
                scope=scope,
                solver=solver,
                solver_reason=(
                    f"{len(problem.cluster.devices)} devices of {len(problem.fleet.types)} types are too many for the "
                    f"search that lists sets of devices; {reason}"
                ),
            ),
        )

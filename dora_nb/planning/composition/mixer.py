"""Chooses among the plans of a palette how often to use each, and says how good the choice is."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from dora_nb import solvers
from dora_nb.costs.table import Floats
from dora_nb.domain.certificate import Certificate
from dora_nb.domain.composition import Composition, ConditionFigures, evenly, in_runs, keeps
from dora_nb.domain.plan import Plan
from dora_nb.errors import InfeasibleError, ObjectiveMismatchError
from dora_nb.formulation.composition.mixture import Mixture, Promise
from dora_nb.formulation.composition.program import mixing_model
from dora_nb.formulation.rows import LinearProgram
from dora_nb.planning.composition.palette import Palette
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.hunt import Progress
from dora_nb.solvers import SolverChoice
from dora_nb.units import counted, format_joules, format_seconds

#: Plans that the integer program chooses from; in training fewer, because there it looks at pairs of them.
MOST_PLANS_MIXED, MOST_PLANS_MIXED_TRAINING = 60, 16

#: Plans that are tried in every combination when there is no time for the integer program.
MOST_PLANS_TRIED = 12

#: Seconds the integer program gets when time is up, and those that explain why there is no answer.
LEAST_MIXING_S, MOST_EXPLAINING_S = 1.0, 5.0

#: Relative disagreement of two computations that solver tolerances explain.
AGREEMENT = 1e-5


@dataclass(frozen=True)
class Choice:
    """Plans of a mixture and how often each is used.

    Attributes
    ----------
    mixture
        The plans.
    counts
        Shape (plans, conditions).
    homes
        With which plan the windows of each condition start.
    """

    mixture: Mixture
    counts: Floats
    homes: tuple[int, ...]

    def used(self) -> Choice:
        """Without the plans that are not used."""
        used = np.flatnonzero((self.counts > 0).any(axis=1)).tolist()
        homes = tuple(used.index(home) for home in self.homes)
        return Choice(self.mixture.take(used), self.counts[used], homes)


@dataclass(frozen=True)
class Bounds:
    """What no composition can fall below: over all conditions, and in each; and among which plans.

    Attributes
    ----------
    expected
        Of the objective over all conditions.
    by_condition
        Of the objective in each condition. Shape (conditions,).
    among
        The plans that the bounds hold for, in words.
    """

    expected: float
    by_condition: Floats
    among: str


@dataclass
class Mixer:
    """Chooses among the plans of a palette, and says how good the choice is.

    Attributes
    ----------
    palette, promise
        Plans with their figures, and what is asked.
    most_plans, window
        Resident plans at most, and requests of a window.
    gap
        Relative gap that is good enough.
    solver, deadline, say
        Who solves the programs, until when, and who is told about each step.
    """

    palette: Palette
    promise: Promise
    most_plans: int
    window: int
    gap: float
    solver: SolverChoice
    deadline: Deadline
    say: Progress

    def __post_init__(self) -> None:
        self.objective = self.promise.qoe.objective
        self.program_bound = 0.0
        self.solved_by, self.reason = "every choice of a plan per condition", "no program was solved"

    def solve(self, model: LinearProgram, seconds: float | None = None) -> solvers.Outcome:
        """Solve a program with the solver asked for."""
        options = solvers.Options(time_limit_s=seconds, mip_gap=AGREEMENT / 10)
        return solvers.solve(model, options, solver=self.solver, cancel=self.deadline.cancel)

    # ------------------------------------------------------------------ the choice

    def look(self) -> Choice | None:
        """The best composition of the plans known; None if there is none."""
        mixture = self._mixture(())
        return (None if self.deadline.cancelled else self._by_program(mixture)) or self._one_each(mixture)

    def value(self, choice: Choice) -> float:
        """The expected latency or energy of a composition."""
        figures = self._figures(choice)
        return float(
            self.palette.probability @ [e.mean_s if self.objective == "latency" else e.mean_j for e in figures]
        )

    def enough(self, choice: Choice, bound: float) -> bool:
        """Whether a composition is as near to a bound as asked."""
        return self.value(choice) * (1 - self.gap) <= bound

    def bound_of(self, mixture: Mixture, deadline: Deadline) -> tuple[float, list[int]]:
        """What no composition of some plans can fall below, and the plans of the best; infinite if there is none."""
        if not mixture.residents.plans:
            return math.inf, []
        model = mixing_model(mixture, self.promise, most_plans=self.most_plans, window=self.window)
        outcome = self.solve(model, deadline.grant_s(LEAST_MIXING_S))
        if outcome.status is solvers.Status.INFEASIBLE:
            return math.inf, []
        used = outcome.values["count"].sum(axis=1) > 0.5 if outcome.status.has_incumbent else np.zeros(0)
        return (-math.inf if outcome.bound is None else outcome.bound), np.flatnonzero(used).tolist()

    def _mixture(self, wanted: Iterable[int]) -> Mixture:
        mixture = self.palette.mixture(self._promising(wanted), changes=True)
        self.say(f"choosing among {counted(len(mixture.makespan_s), 'plan')}")
        return mixture

    def choose(self, wanted: Iterable[int] = ()) -> Choice:
        """The best composition of the plans known, some of which are to be looked at in any case.

        Raises
        ------
        InfeasibleError
            If there is none.
        """
        mixture = self._mixture(wanted)
        choice = (None if self.deadline.cancelled else self._by_program(mixture)) or self._one_each(mixture)
        if choice is None:
            workload, cluster = self.palette.workload, self.palette.cluster
            raise InfeasibleError(f"{workload.name} on {cluster.name}: {self._why_infeasible(mixture)}")
        return choice

    def _promising(self, wanted: Iterable[int]) -> list[int]:
        """The plans to choose from; when there are too many, those nearest to the best at something."""
        most = MOST_PLANS_MIXED_TRAINING if self.palette.workload.trains else MOST_PLANS_MIXED
        figures = np.hstack([self.palette.figures("latency"), self.palette.figures("energy")])
        expected = self.palette.figures(self.objective) @ self.palette.probability
        places = np.argsort(np.argsort(np.column_stack([figures, expected]), axis=0, kind="stable"), axis=0)
        nearest = np.argsort(places.min(axis=1), kind="stable")[:most]
        return sorted({*nearest.tolist(), *wanted})

    def _by_program(self, mixture: Mixture) -> Choice | None:
        """The choice of the integer program; its bound and its solver are noted."""
        model = mixing_model(mixture, self.promise, most_plans=self.most_plans, window=self.window)
        outcome = self.solve(model, self.deadline.grant_s(LEAST_MIXING_S))
        self.solved_by, self.reason = outcome.solver, outcome.reason
        self.program_bound = max(self.program_bound, outcome.bound or 0.0)
        if not outcome.status.has_incumbent:
            return None
        counts = np.rint(outcome.values["count"])
        # Without changes to pay for it does not matter where a window starts.
        starts = outcome.values["turn"].sum(axis=1) if mixture.changes is not None else counts
        return Choice(mixture, counts, tuple(int(home) for home in np.argmax(starts, axis=0)))

    def _one_each(self, mixture: Mixture) -> Choice | None:
        """The best composition of one plan per condition, by looking at every choice of few plans; None without."""
        good = mixture.able & ~mixture.misses(self.promise)
        cost = np.where(good, mixture.probability * mixture.figure(self.objective), np.inf)
        places = np.argsort(np.argsort(cost, axis=0, kind="stable"), axis=0)
        pool = sorted(np.argsort(places.min(axis=1), kind="stable")[:MOST_PLANS_TRIED].tolist())
        best, chosen = math.inf, None
        for size in range(1, min(self.most_plans, len(mixture.probability)) + 1):
            for tried in itertools.combinations(pool, size):
                value = float(cost[list(tried)].min(axis=0).sum())
                if value < best and mixture.fits(tried):
                    homes = tuple(tried[at] for at in np.argmin(cost[list(tried)], axis=0))
                    counts = np.zeros(cost.shape)
                    counts[homes, np.arange(len(homes))] = self.window
                    choice = Choice(mixture, counts, homes)
                    if mixture.within_capacity(counts / self.window) and all(e.kept for e in self._figures(choice)):
                        best, chosen = value, choice
        return chosen

    def _why_infeasible(self, mixture: Mixture) -> str:
        """Which limit is exceeded in which condition at least, by the program that exceeds them as little as it can."""
        if self.deadline.cancelled:
            return "cancelled before a composition was found"
        names, rate = self.palette.conditions.names, self.palette.requests_per_s
        for name, able in zip(names, mixture.able.T, strict=True):
            if not able.any():
                return f"none of the plans can run in condition '{name}'"
        plans = counted(self.most_plans, "plan")
        model = mixing_model(mixture, self.promise, most_plans=self.most_plans, window=self.window, elastic=True)
        outcome = self.solve(model, MOST_EXPLAINING_S)
        if not outcome.status.has_incumbent:
            served = "" if rate is None else f" and {rate:g} requests a second"
            return f"no {plans} at most can be resident together and serve every condition{served}"
        over = np.maximum(outcome.values["over"], 0.0)
        limits = [format_seconds(self.promise.limits["latency"])] if "latency" in self.promise.limits else []
        limits += [format_joules(self.promise.limits["energy"])] if "energy" in self.promise.limits else []
        parts = []
        for name, excess in zip(names, over.tolist(), strict=True):
            if excess > AGREEMENT and self.promise.keep == "mean":
                reached = f"{100 * excess:.3g} % above is the least that was reached"
                parts.append(f"condition '{name}' cannot be kept within {' and '.join(limits)} on the mean: {reached}")
            elif excess > AGREEMENT:
                share = 100 * (self.promise.missed_share + excess)
                reached = f"{share:.3g} % of its requests beyond is the least that was reached"
                parts.append(f"condition '{name}' cannot be kept within {' and '.join(limits)}: {reached}")
        return f"with at most {plans}, {'; '.join(parts)}"

    # ------------------------------------------------------------------ its figures

    def _figures(self, choice: Choice, floors: Floats | None = None) -> tuple[ConditionFigures, ...]:
        """Every figure of a composition, computed from its plans and counts without any program."""
        mixture, promise = choice.mixture, self.promise
        missed, trains = mixture.misses(promise), self.palette.workload.trains
        figures = []
        for k, home in enumerate(choice.homes):
            share = choice.counts[:, k] / self.window
            switch_s, switch_j = self._switching(choice, k)
            mean_s = float(share @ mixture.figure("latency")[:, k]) + switch_s / self.window
            mean_j = float(share @ mixture.figure("energy")[:, k]) + switch_j / self.window
            missed_share = float(share @ missed[:, k])
            counts = [int(count) for count in choice.counts[:, k]]
            figures.append(
                ConditionFigures(
                    counts=tuple(counts),
                    makespan_s=_known(mixture.makespan_s[:, k]),
                    energy_j=_known(mixture.energy_j[:, k]),
                    switch_s=switch_s,
                    switch_j=switch_j,
                    mean_s=mean_s,
                    mean_j=mean_j,
                    missed_share=missed_share,
                    kept=keeps(mean_s, mean_j, missed_share, promise.qoe, promise.keep, promise.missed_share),
                    bound=0.0 if floors is None else float(floors[k]),
                    order=in_runs(counts, home) if trains else evenly(counts),
                )
            )
        return tuple(figures)

    def _switching(self, choice: Choice, k: int) -> tuple[float, float]:
        """Seconds and joules of changing plans in an average window of a condition."""
        changes, homes = choice.mixture.changes, choice.homes
        if changes is None:
            return 0.0, 0.0
        home, costs = homes[k], []
        for within, between in ((changes.within_s, changes.between_s), (changes.within_j, changes.between_j)):
            away = [j for j in np.flatnonzero(choice.counts[:, k] > 0).tolist() if j != home]
            inside = sum(within[home, j, k] + within[j, home, k] for j in away)
            coming = sum(changes.arrivals[b, k] * between[homes[b], home, b, k] for b in range(len(homes)))
            costs.append(float(inside + coming))
        return costs[0], costs[1]

    def least_by_condition(self) -> Floats:
        """The best figure of any plan known in each condition: no mixture of them is below."""
        return np.asarray(self.palette.figures(self.objective).min(axis=0))

    def composition(self, choice: Choice, bounds: Bounds, started: float) -> Composition:
        """The choice with every figure and its certificate.

        Raises
        ------
        ObjectiveMismatchError
            If it is better than the bound: then one of the two computations is wrong.
        """
        choice, palette = choice.used(), self.palette
        figures = self._figures(choice, bounds.by_condition)
        value = self.value(choice)
        if bounds.expected > value * (1 + AGREEMENT):
            raise ObjectiveMismatchError(f"the bound {bounds.expected:.9g} is above the composition's own {value:.9g}")
        single, single_value = self._single()
        residents, device_ids = choice.mixture.residents, palette.cluster.device_ids
        held = residents.resident_bytes(range(len(residents.plans)), palette.requests_per_s is not None)
        return Composition(
            workload=palette.workload,
            cluster=palette.cluster,
            qoe=self.promise.qoe,
            conditions=palette.conditions,
            keep=self.promise.keep,
            missed_share=self.promise.missed_share,
            window=self.window,
            plans=residents.plans,
            figures=figures,
            certificate=self._certificate(value, bounds),
            single=single,
            single_value=single_value,
            resident_bytes=dict(zip(device_ids, held.tolist(), strict=True)),
            usable_bytes=dict(zip(device_ids, palette.usable_bytes.tolist(), strict=True)),
            wall_s=time.monotonic() - started,
        )

    def _single(self) -> tuple[Plan | None, float | None]:
        """The best of the plans known that serves every condition alone and keeps the limits there."""
        expected = self.palette.figures(self.objective) @ self.palette.probability
        for name, limit in self.promise.limits.items():
            expected[self.palette.figures(name).max(axis=1) > limit * (1 + AGREEMENT)] = np.inf
        best = int(np.argmin(expected))
        return (self.palette.plans[best], float(expected[best])) if np.isfinite(expected[best]) else (None, None)

    def _certificate(self, value: float, bounds: Bounds) -> Certificate:
        bound = min(bounds.expected, value)
        gap = (value - bound) / value if value else 0.0
        stopped = "cancelled" if self.deadline.cancelled else "time limit" if self.deadline.passed else "feasible"
        return Certificate(
            objective=self.objective,
            unit="s" if self.objective == "latency" else "J",
            latency_limit_s=self.promise.qoe.latency_s,
            energy_limit_j=self.promise.qoe.energy_j,
            value=value,
            bound=bound,
            gap=gap,
            status="optimal" if gap <= self.gap * (1 + AGREEMENT) else stopped,
            scope=f"mixtures of at most {self.most_plans} {bounds.among}",
            solver=self.solved_by if bounds.among.endswith("given") else f"bounding search and {self.solved_by}",
            solver_reason=self.reason,
        )


def _known(values: Floats) -> tuple[float | None, ...]:
    return tuple(float(value) if np.isfinite(value) else None for value in values)

"""What a search is after: questions, the best answers found, and how far each is proven."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.table import Floats
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import ROUNDING, QoE
from dora_nb.formulation.problem import Problem

#: ``value``: the objective with what soft limits add, see :class:`~dora_nb.formulation.terms.Terms`.
Figure = Literal["makespan_s", "energy_j", "value"]


class Figures(NamedTuple):
    """Figures of plans, or lower bounds on them; arrays of one entry each."""

    makespan_s: Floats
    energy_j: Floats
    value: Floats

    def take(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> Figures:
        """The figures at some places, or where a mask is true."""
        return Figures(self.makespan_s[which], self.energy_j[which], self.value[which])

    @property
    def numbers(self) -> tuple[float, float, float]:
        """Makespan, energy and value of the first entry."""
        return float(self.makespan_s[0]), float(self.energy_j[0]), float(self.value[0])


@dataclass
class Ladder:
    """Questions that ask for the least of one figure, each within a limit on another.

    All figures only grow with what is still missing of a plan, so lower bounds on them answer every question: a bound
    above a limit, or above an incumbent, rules out all plans it stands for.

    Attributes
    ----------
    least, within
        The figure asked for, and the one that is limited.
    limits
        Ascending; infinity means no limit.
    best, plans
        Incumbents.
    floor
        Least bound of what was set aside, by question.
    """

    least: Figure
    within: Figure
    limits: Floats
    best: Floats = field(init=False)
    plans: list[Plan | None] = field(init=False)
    floor: Floats = field(init=False)

    def __post_init__(self) -> None:
        questions = len(self.limits)
        self.best = np.full(questions, np.inf)
        self.plans = [None] * questions
        self.floor = np.full(questions, np.inf)
        self.unlimited = questions == 1 and bool(np.isinf(self.limits[0]))

    @property
    def longest_s(self) -> float:
        """Longest makespan of plans that could be a better answer to one of the questions."""
        if self.least == "makespan_s":
            return float(self.best.max())
        return float(self.limits[-1]) if self.within == "makespan_s" else np.inf

    def tightest(self, figures: Figures) -> NDArray[np.int64]:
        """The tightest limit that each still meets."""
        return np.asarray(np.searchsorted(self.limits * (1 + ROUNDING), getattr(figures, self.within)))

    def relevant(
        self, figures: Figures, tolerance: float, tightest: NDArray[np.int64] | None = None
    ) -> NDArray[np.bool_]:
        """Which lower bounds still leave room for a better answer; with the limits they meet, if these are known."""
        least = getattr(figures, self.least)
        if self.unlimited:
            return np.asarray(least < self.best[0] * (1 - tolerance))
        # A looser limit never has a larger incumbent, so the tightest limit that can still be met decides.
        to_beat = np.append(self.best * (1 - tolerance), -np.inf)
        return np.asarray(least < to_beat.take(self.tightest(figures) if tightest is None else tightest))

    def set_aside(self, figures: Figures, tightest: NDArray[np.int64] | None = None) -> None:
        """Remember the lower bounds of plans that are not looked at further."""
        least = getattr(figures, self.least)
        if not len(least):
            return
        if self.unlimited:
            self.floor[0] = min(self.floor[0], least.min())
            return
        tightest = self.tightest(figures) if tightest is None else tightest
        met = tightest < len(self.limits)
        np.minimum.at(self.floor, tightest[met], least[met])
        self.floor = np.minimum.accumulate(self.floor)

    def improved(self, figures: Figures) -> NDArray[np.bool_]:
        """The questions that a plan with these figures (one entry) answers better."""
        met = getattr(figures, self.within)[0] <= self.limits * (1 + ROUNDING)
        return np.asarray(met & (getattr(figures, self.least)[0] < self.best))

    def offer(self, figures: Figures, plan: Plan) -> None:
        """Take a plan with its exact figures (one entry) where it improves an answer."""
        for question in np.flatnonzero(self.improved(figures)).tolist():
            self.best[question], self.plans[question] = getattr(figures, self.least)[0], plan

    @property
    def bounds(self) -> Floats:
        """No plan within each limit has less."""
        return np.minimum(self.floor, self.best)


@dataclass
class Targets:
    """The questions that one search answers together.

    One asks for the shortest makespan within the energy limit; each latency limit asks for the least energy within it
    and the energy limit; further ladders ask for the objective's own value, or break ties.

    Attributes
    ----------
    latency_limits_s
        Ascending; infinity means no limit.
    energy_limit_j, makespan_limit_s
        Largest energy and makespan allowed in every question.
    tolerance
        Relative gap that is good enough: what cannot improve an answer by more is not looked at further.
    seek_latency
        Whether the shortest makespan is asked for.
    floor_s
        No plan within the limits is known to have a shorter makespan.
    further
        More questions.
    """

    latency_limits_s: Floats
    energy_limit_j: float = np.inf
    makespan_limit_s: float = np.inf
    tolerance: float = 0.0
    seek_latency: bool = True
    floor_s: float = 0.0
    further: tuple[Ladder, ...] = ()
    latency: Ladder = field(init=False)
    energy: Ladder = field(init=False)

    def __post_init__(self) -> None:
        # The energy limit holds for all questions and is checked once, before any of them is asked.
        self.latency = Ladder("makespan_s", "energy_j", np.array([np.inf]))
        self.energy = Ladder("energy_j", "makespan_s", self.latency_limits_s)
        first = [self.latency] if self.seek_latency else []
        self.asked = [*first, *([self.energy] if len(self.latency_limits_s) else []), *self.further]

    def sought(self, figures: Figures) -> list[Floats]:
        """Of some figures those that are asked for, each once."""
        return [getattr(figures, name) for name in dict.fromkeys(ladder.least for ladder in self.asked)]

    def limit(self, figure: Figure) -> float:
        """The largest value of a figure that is allowed in every question."""
        return {"makespan_s": self.makespan_limit_s, "energy_j": self.energy_limit_j, "value": np.inf}[figure]

    def allowed(self, makespan_s: Floats, energy_j: Floats) -> NDArray[np.bool_]:
        """Which lower bounds leave room for the limits of all questions."""
        allowed = energy_j <= self.energy_limit_j * (1 + ROUNDING)
        if np.isfinite(self.makespan_limit_s):
            allowed = allowed & (makespan_s <= self.makespan_limit_s * (1 + ROUNDING))
        return np.asarray(allowed)

    def relevant(self, makespan_s: Floats, energy_j: Floats, value: Floats | None = None) -> NDArray[np.bool_]:
        """Which lower bounds still leave room for a better answer to some question."""
        figures = Figures(makespan_s, energy_j, makespan_s if value is None else value)
        keep = np.zeros(np.shape(makespan_s), dtype=bool)
        for ladder in self.asked:
            keep |= ladder.relevant(figures, self.tolerance)
        return keep & self.allowed(makespan_s, energy_j)

    def sift(self, possible: NDArray[np.bool_], figures: Figures) -> NDArray[np.bool_]:
        """Which lower bounds of possible plans leave room for a better answer; the others of these are set aside.

        The same as :meth:`relevant` and :meth:`set_aside`, in one pass.
        """
        allowed = possible & self.allowed(figures.makespan_s, figures.energy_j)
        places = [None if ladder.unlimited else ladder.tightest(figures) for ladder in self.asked]
        keep = np.zeros(len(allowed), dtype=bool)
        for ladder, tightest in zip(self.asked, places, strict=True):
            keep |= ladder.relevant(figures, self.tolerance, tightest)
        keep &= allowed
        aside = np.flatnonzero(allowed & ~keep)
        dropped = figures.take(aside)
        for ladder, tightest in zip(self.asked, places, strict=True):
            ladder.set_aside(dropped, None if tightest is None else tightest[aside])
        return keep

    @property
    def longest_s(self) -> float:
        """Longest makespan of plans that could be a better answer to some question."""
        return min(self.makespan_limit_s, max((ladder.longest_s for ladder in self.asked), default=np.inf))

    def set_aside(self, makespan_s: Floats, energy_j: Floats, value: Floats | None = None) -> None:
        """Remember the lower bounds of plans that are not looked at further: every answer's bound must stay true."""
        allowed = self.allowed(makespan_s, energy_j)
        if not allowed.any():
            return
        figures = Figures(makespan_s, energy_j, makespan_s if value is None else value).take(allowed)
        for ladder in self.asked:
            ladder.set_aside(figures)

    def improves(self, makespan_s: float, energy_j: float, value: float = np.inf) -> bool:
        """Whether a plan with these figures would improve an answer."""
        figures = Figures(*(np.array([each]) for each in (makespan_s, energy_j, value)))
        allowed = bool(self.allowed(figures.makespan_s, figures.energy_j)[0])
        return allowed and any(ladder.improved(figures).any() for ladder in self.asked)

    def offer(self, makespan_s: float, energy_j: float, plan: Plan, value: float = np.inf) -> None:
        """Take a plan with its exact figures where it improves an answer.

        Parameters
        ----------
        makespan_s, energy_j
            What the plan takes.
        plan
            The plan.
        value
            The objective with what soft limits add.
        """
        figures = Figures(*(np.array([each]) for each in (makespan_s, energy_j, value)))
        if self.allowed(figures.makespan_s, figures.energy_j)[0]:
            for ladder in self.asked:
                ladder.offer(figures, plan)

    def alone(self, least: Figure, makespan_limit_s: float, floor_s: float) -> Targets:
        """One question after the least makespan, or the least energy within a makespan, without the plans found."""
        asks_energy = least == "energy_j"
        return Targets(
            np.array([np.inf] if asks_energy else []),
            energy_limit_j=self.energy_limit_j,
            makespan_limit_s=makespan_limit_s if asks_energy else np.inf,
            tolerance=self.tolerance,
            seek_latency=not asks_energy,
            floor_s=floor_s,
        )

    def add_limits(self, more: Ladder) -> None:
        """Take over what another search found and proved for further latency limits."""
        limits = np.concatenate([self.energy.limits, more.limits])
        order = np.argsort(limits, kind="stable")
        joined = Ladder("energy_j", "makespan_s", limits[order])
        best, floor = (
            np.concatenate(pair)[order] for pair in zip(*((e.best, e.bounds) for e in (self.energy, more)), strict=True)
        )
        plans = [*self.energy.plans, *more.plans]
        joined.plans = [plans[place] for place in order.tolist()]
        # A plan within a limit is within every looser one, and what no plan within a limit can undercut, none within
        # a tighter one can.
        for at in range(1, len(order)):
            if best[at - 1] < best[at]:
                best[at], joined.plans[at] = best[at - 1], joined.plans[at - 1]
        joined.best = best
        joined.floor = np.maximum.accumulate(floor[::-1])[::-1]
        self.asked = [joined if ladder is self.energy else ladder for ladder in self.asked]
        self.energy, self.latency_limits_s = joined, joined.limits

    def forget_bounds(self) -> None:
        """Keep the plans only: the bounds so far hold for a part of the plans considered."""
        for ladder in self.asked:
            ladder.floor[:] = np.inf

    @property
    def plans(self) -> list[Plan]:
        """Every incumbent, each once."""
        found = (plan for ladder in self.asked for plan in ladder.plans if plan is not None)
        return list({id(plan): plan for plan in found}.values())

    @property
    def best_latency_s(self) -> float:
        """The shortest makespan found."""
        return float(self.latency.best[0])

    @property
    def latency_plan(self) -> Plan | None:
        """The plan with that makespan."""
        return self.latency.plans[0]

    @property
    def best_energy_j(self) -> Floats:
        """The least energy found within each latency limit."""
        return self.energy.best

    @property
    def energy_plans(self) -> list[Plan | None]:
        """The plans that take it."""
        return self.energy.plans

    @property
    def latency_bound_s(self) -> float:
        """No plan within the energy limit is faster."""
        return float(self.latency.bounds[0])

    @property
    def energy_bounds_j(self) -> Floats:
        """No plan within each latency limit, and the energy limit, takes less."""
        return self.energy.bounds


def least_possible(problem: Problem, qoe: QoE, figure: Figure) -> float:
    """A bound on one figure before anything is searched: every device at work all the time."""
    rest, batch, layers = problem.completion, problem.workload.batch, len(problem.workload.layers)
    makespan_s = batch * rest.load_s[0, layers]
    dynamic_j, idle_w = batch * rest.energy_j[0, layers], rest.idle_w[0]
    energy_j = float(problem.energy_j(np.array(dynamic_j), np.array(idle_w), np.array(makespan_s)))
    if figure == "value":
        return float(qoe.base(makespan_s, energy_j))
    return float(makespan_s) if figure == "makespan_s" else energy_j

"""Plans that were found, with their figures predicted once; and the questions that they answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dora_nb.domain.plan import Plan
from dora_nb.domain.prediction import Prediction
from dora_nb.domain.qoe import Objective
from dora_nb.domain.rating import Rating, qoe_value
from dora_nb.formulation.problem import Problem
from dora_nb.planning.bounding.targets import Figure, Targets
from dora_nb.planning.scheduling import predicted


@dataclass(frozen=True)
class Asked:
    """One of the questions that the answers belong to.

    Attributes
    ----------
    label
        What the plan is best at.
    objective
        What is minimised; with prices on soft limits if ``priced``.
    latency_limit_s
        Within which makespan.
    """

    label: str
    objective: Objective
    latency_limit_s: float = np.inf
    priced: bool = False

    @property
    def figure(self) -> Figure:
        """The figure that is minimised."""
        return "value" if self.priced else "makespan_s" if self.objective == "latency" else "energy_j"

    @property
    def tie_figure(self) -> Figure:
        """The figure that breaks ties."""
        return "energy_j" if self.objective == "latency" else "makespan_s"


class Known:
    """What plans of one problem are predicted to do.

    Parameters
    ----------
    problem
        For which they are predicted.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem, self._qoe = problem, problem.terms.qoe
        self._finished: dict[int, tuple[Plan, Plan]] = {}

    def offer(self, targets: Targets, plans: list[Plan]) -> None:
        """Take plans that keep the limits of single devices where they improve an answer."""
        for plan in plans:
            finished = self.predicted(plan)
            rating = self.rating(finished)
            own = [limit for limit in rating.limits if limit.term in ("battery", "headroom") and limit.price is None]
            if all(limit.kept for limit in own):
                targets.offer(*self.figures(finished), plan, rating.value)

    def predicted(self, plan: Plan) -> Plan:
        """The plan with its figures predicted, once; it is kept beside them, so that its id stays its own."""
        if id(plan) not in self._finished:
            self._finished[id(plan)] = (plan, predicted(plan, self._problem))
        return self._finished[id(plan)][1]

    def figures(self, plan: Plan) -> tuple[float, float]:
        """Makespan in seconds and energy in joules of a predicted plan."""
        prediction = prediction_of(plan)
        return prediction.makespan_s, prediction.energy_j(self._qoe.energy_accounting)

    def rating(self, plan: Plan) -> Rating:
        """What a predicted plan is worth."""
        return qoe_value(prediction_of(plan), self._qoe)

    def figure(self, plan: Plan, figure: Figure) -> float:
        """One figure of a predicted plan."""
        makespan_s, energy_j = self.figures(plan)
        return self.rating(plan).value if figure == "value" else makespan_s if figure == "makespan_s" else energy_j


def prediction_of(plan: Plan) -> Prediction:
    """What a plan that has one is predicted to do."""
    assert plan.prediction is not None, "answers are predicted"
    return plan.prediction

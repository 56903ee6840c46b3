"""Where new plans come from while the adapter goes on: a planner in a thread, or one that takes simulated time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from dora_nb.costs.conditions import under
from dora_nb.costs.table import CostTable
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.conditions import Condition
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import DoraError
from dora_nb.planning.plan import plan_question
from dora_nb.planning.question import Question
from dora_nb.planning.session import Session

#: Seconds that planning for the present state may take.
TIME_LIMIT_S = 10.0

#: Makes plans for a state, or says why there is none.
Planner = Callable[[Condition], tuple[Plan, ...]]


def planner_for(workload: Workload, cluster: Cluster, table: CostTable, qoe: QoE) -> Planner:
    """A planner that asks for the best plan in a state and for the fastest; beyond the limits if it must be.

    Parameters
    ----------
    workload, cluster, qoe
        As for :func:`dora_nb.plan`.
    table
        Compute times in normal conditions.

    Returns
    -------
    Planner
    """
    """A planner that asks for the best plan in a state and for the fastest; beyond the limits if it must be."""
    session = Session()  # what is known of one state helps in the next

    def make(condition: Condition) -> tuple[Plan, ...]:
        place = under(cluster, table, condition)
        for wanted in (qoe, QoE(energy_accounting=qoe.energy_accounting)):
            try:
                question = Question.of(workload, place.cluster, wanted, place.table, session=session)
                found = plan_question(question, time_limit_s=TIME_LIMIT_S, most_plans=2)
            except DoraError as error:
                reason = error
                continue
            label = f"re-planned at {condition.name}"
            return tuple(each.replace(label=label, prediction=None, certificate=None) for each in found.plans)
        raise reason

    return make


class Replanner(Protocol):
    """Makes plans while others go on."""

    def ask(self, condition: Condition, now_s: float) -> None:
        """Begin to plan for a state; one that is under way is dropped."""

    def poll(self, now_s: float) -> tuple[Plan, ...] | str | None:
        """The plans if they are there, the reason if there are none, None if there is nothing (yet)."""


@dataclass
class Delayed:
    """Plans at once and hands them over after a fixed time, for simulations.

    Attributes
    ----------
    planner
        Makes the plans.
    delay_s
        Simulated seconds that planning takes; fixed, so that a simulation gives the same result everywhere.
    """

    planner: Planner
    delay_s: float
    _ready: tuple[float, tuple[Plan, ...] | str] | None = field(default=None, init=False)

    def ask(self, condition: Condition, now_s: float) -> None:
        """Plan for a state."""
        self._ready = (now_s + self.delay_s, _made(self.planner, condition))

    def poll(self, now_s: float) -> tuple[Plan, ...] | str | None:
        """What was planned, once the time has passed."""
        if self._ready is None or now_s < self._ready[0]:
            return None
        _, found = self._ready
        self._ready = None
        return found


@dataclass
class Background:
    """Plans in a thread.

    Attributes
    ----------
    planner
        Makes the plans.
    """

    planner: Planner
    _box: list[tuple[Plan, ...] | str] = field(default_factory=list, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def ask(self, condition: Condition, now_s: float) -> None:
        """Plan for a state in a new thread; what an older one still finds is thrown away."""
        del now_s
        self._box = box = []
        self._thread = threading.Thread(target=lambda: box.append(_made(self.planner, condition)), daemon=True)
        self._thread.start()

    def poll(self, now_s: float) -> tuple[Plan, ...] | str | None:
        """What was found, once."""
        del now_s
        return self._box.pop() if self._box else None


def _made(planner: Planner, condition: Condition) -> tuple[Plan, ...] | str:
    try:
        return planner(condition)
    except DoraError as error:
        return str(error)

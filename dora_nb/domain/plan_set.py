"""A small set of plans: the answers to one question, from fastest to thriftiest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.coverage import Coverage
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.rating import qoe_value
from dora_nb.domain.workload import Workload

if TYPE_CHECKING:
    import pandas as pd

    from dora_nb.domain.composition import Composition
    from dora_nb.domain.explanation import Alternative, Explanation
    from dora_nb.explorer import Explorer


@dataclass(frozen=True)
class PlanSet:
    """Plans for one workload on one cluster.

    Attributes
    ----------
    workload, cluster, qoe
        What was asked.
    plans
        By ascending makespan; each is better than every other in makespan, in energy or at the objective, and keeps
        the QoE's hard limits.
    given_baselines
        What to compare with; None: :attr:`baselines` finds it.
    wall_s
        Seconds the planning took.
    coverage
        How much of all trade-offs between makespan and energy the plans cover; None where nobody looked.
    options
        What else was given to :func:`dora_nb.plan`, for asking again: ``table``, ``space``, ``overlap``, ``gap``,
        ``solver``.
    """

    workload: Workload
    cluster: Cluster
    qoe: QoE
    plans: tuple[Plan, ...]
    given_baselines: tuple[Plan, ...] | None
    wall_s: float
    coverage: Coverage | None = None
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    _without: dict[tuple[str, ...], Alternative] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def best(self) -> Plan:
        """The plan that is best at the objective of the QoE."""
        return min(self.plans, key=self._rank)

    def _rank(self, plan: Plan) -> tuple[bool, float]:
        if plan.prediction is None:
            return True, 0.0
        rating = qoe_value(plan.prediction, self.qoe)
        return not rating.keeps_hard, rating.value

    @cached_property
    def baselines(self) -> tuple[Plan, ...]:
        """Plans of other planners on the same cost model, planned when first asked for; they need not keep limits.

        The best single device, an even split and, of all other baselines that answer soon, the strongest; each at its
        best for latency and at its best for energy.
        """
        if self.given_baselines is not None:
            return self.given_baselines
        from dora_nb.planning.baselines.comparison import compared_with  # a method that looks up a room

        return compared_with(self)

    @property
    def known_baselines(self) -> tuple[Plan, ...] | None:
        """The :attr:`baselines` if they were given or planned already, else None: nothing is planned for this."""
        known: tuple[Plan, ...] | None = self.__dict__.get("baselines", self.given_baselines)
        return known

    def __len__(self) -> int:
        return len(self.plans)

    def __getitem__(self, index: int) -> Plan:
        return self.plans[index]

    def without(self, *devices: str, time_limit_s: float = 60.0) -> Alternative:
        """The best plan that avoids some devices, or why there is none; planned when first asked for."""
        from dora_nb.planning.explanation.alternatives import alternatives_of  # a method that looks up a room

        key = tuple(sorted(devices))
        if key not in self._without:
            self._without.update({key: next(iter(alternatives_of(self, [key], time_limit_s=time_limit_s).values()))})
        return self._without[key]

    def explain(self, **options: Any) -> Explanation:
        """Which limits bind, and what more of everything is worth; options as for :func:`dora_nb.explain`."""
        from dora_nb.planning.explanation.explain import explain

        return explain(self, **options)

    def explore(self, mix: Composition | None = None) -> Explorer:
        """Look at the plans, ask on and run them, in a notebook.

        One screen: trade-offs to pick from, the timeline and the map of the plan picked, limits and what-ifs to drag
        with exact answers from the background, plans side by side, and the executor. Returns at once; it can be used
        from code as well, e.g. ``explorer.select(3)`` or ``explorer.ask(latency_s=20)``.

        Parameters
        ----------
        mix
            A composition to show beside the plans; None: none.

        Raises
        ------
        MissingDependencyError
            If ipywidgets or anywidget is not installed.
        """
        from dora_nb.explorer import Explorer  # a method that looks up a room: imported when called

        return Explorer(self, mix)

    def to_frame(self) -> pd.DataFrame:
        """One row a plan, baselines last, units in the column names."""
        from dora_nb.render.tables import plan_frame  # a method that looks up a room: imported when called

        return plan_frame(self)

    def __repr__(self) -> str:
        from dora_nb.render.tables import plan_text

        return plan_text(self)

    def _repr_html_(self) -> str:
        from dora_nb.render.html import plan_set_html

        return plan_set_html(self)

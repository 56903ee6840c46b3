"""A small set of plans: the answers to one question, from fastest to thriftiest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class PlanSet:
    """Plans for one workload on one cluster.

    Attributes
    ----------
    workload, cluster, qoe
        What was asked.
    plans
        By ascending makespan; each is better than every other in makespan or in energy, and keeps the QoE limits.
    baselines
        Plans of simpler planners on the same cost model, for comparison. They need not keep the limits.
    wall_s
        Seconds the planning took.
    """

    workload: Workload
    cluster: Cluster
    qoe: QoE
    plans: tuple[Plan, ...]
    baselines: tuple[Plan, ...]
    wall_s: float

    @property
    def best(self) -> Plan:
        """The plan that is best at the objective of the QoE."""
        return self.plans[0] if self.qoe.objective == "latency" else self.plans[-1]

    def __len__(self) -> int:
        return len(self.plans)

    def __getitem__(self, index: int) -> Plan:
        return self.plans[index]

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

"""Everything a search or a model reads, computed once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dora_nb.costs.table import CostTable, Floats, cost_table
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.qoe import EnergyAccounting
from dora_nb.domain.workload import Workload
from dora_nb.formulation.completion import Completion, completion_bounds
from dora_nb.formulation.fleet import Fleet
from dora_nb.formulation.space import SearchSpace


@dataclass(frozen=True)
class Problem:
    """A workload on a cluster, with its costs and the plans to consider.

    Attributes
    ----------
    idle_all_w
        Idle draw of the whole cluster where every device counts, None where only the plan's devices do.
    """

    workload: Workload
    cluster: Cluster
    table: CostTable
    space: SearchSpace
    fleet: Fleet
    completion: Completion
    idle_all_w: float | None

    @classmethod
    def of(
        cls,
        workload: Workload,
        cluster: Cluster,
        accounting: EnergyAccounting,
        *,
        table: CostTable | None = None,
        space: SearchSpace | None = None,
    ) -> Problem:
        """A problem with the roofline's costs and the default space where none are given.

        Raises
        ------
        InputError
            If the space does not fit the workload, or a device lacks a rate the workload needs.
        """
        table = cost_table(workload, cluster) if table is None else table
        fleet = Fleet.of(workload, cluster, table)
        space = SearchSpace.default(workload, fleet) if space is None else space
        space.check(workload)
        return cls(
            workload=workload,
            cluster=cluster,
            table=table,
            space=space,
            fleet=fleet,
            completion=completion_bounds(workload, cluster, table, fleet),
            idle_all_w=sum(device.idle_w for device in cluster.devices) if accounting == "all-on" else None,
        )

    @property
    def shared(self) -> bool:
        """Whether all transfers share one medium."""
        return self.cluster.domain is None or self.cluster.domain.kind == "shared"

    @property
    def message_s(self) -> float:
        """Seconds per message."""
        return self.cluster.domain.latency_s if self.cluster.domain else 0.0

    def energy_j(self, dynamic_j: Floats, idle_w: Floats, makespan_s: Floats) -> Floats:
        """Joules of an iteration under the accounting asked for; not a number where nothing is drawn forever."""
        with np.errstate(invalid="ignore"):
            return dynamic_j + (idle_w if self.idle_all_w is None else self.idle_all_w) * makespan_s

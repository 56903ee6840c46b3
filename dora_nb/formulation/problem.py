"""Everything a search or a model reads, computed once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.network import Network
from dora_nb.costs.table import CostTable, Floats, cost_table
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.qoe import ROUNDING, EnergyAccounting, QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.formulation.completion import Completion
from dora_nb.formulation.energy_left import EnergyLeft
from dora_nb.formulation.fleet import Fleet, Ints
from dora_nb.formulation.ground import Ground
from dora_nb.formulation.space import SearchSpace
from dora_nb.formulation.stages_left import StagesLeft
from dora_nb.formulation.terms import Terms

Seconds = TypeVar("Seconds", float, Floats)


@dataclass(frozen=True)
class Problem:
    """A workload on a cluster, with its costs and the plans to consider.

    Attributes
    ----------
    workload, cluster, table
        What is computed on what, and how long every layer takes there.
    space, fleet
        The plans to consider, and the devices by type.
    idle_all_w
        Idle draw of the whole cluster where every device counts, None where only the plan's devices do.
    terms
        The limits, and what is minimised.
    overlap
        Whether stages compute while they send; see :class:`~dora_nb.domain.plan.Plan`.
    """

    workload: Workload
    cluster: Cluster
    table: CostTable
    space: SearchSpace
    fleet: Fleet
    idle_all_w: float | None
    terms: Terms
    overlap: bool = True

    @classmethod
    def of(
        cls,
        workload: Workload,
        cluster: Cluster,
        accounting: EnergyAccounting,
        *,
        qoe: QoE | None = None,
        table: CostTable | None = None,
        space: SearchSpace | None = None,
        overlap: bool = True,
    ) -> Problem:
        """A problem with the roofline's costs and the default space where none are given; without a QoE, no limits.

        Parameters
        ----------
        workload, cluster
            What is computed on what.
        accounting
            Whose energy counts.
        qoe
            Limits and objective; None: no limits.
        table
            Compute times; None: the roofline's.
        space
            Plans to consider; None: the default ones.
        overlap
            Whether stages compute while they send.

        Raises
        ------
        InputError
            If the space or the overlap does not fit the workload, or a device lacks a rate the workload needs.
        """
        if workload.mode == "stream" and not overlap:
            raise InputError("overlap", overlap, "True in mode 'stream', whose stages compute while they send")
        table = cost_table(workload, cluster) if table is None else table
        qoe = QoE(energy_accounting=accounting) if qoe is None else qoe
        table = table.with_narrower(() if space is None else space.weights)
        fleet = Fleet.of(workload, cluster, table, qoe)
        space = SearchSpace.default(workload, fleet) if space is None else space
        space.check(workload)
        return cls(
            workload=workload,
            cluster=cluster,
            table=table,
            space=space,
            fleet=fleet,
            idle_all_w=sum(device.idle_w for device in cluster.devices) if accounting == "all-on" else None,
            terms=Terms.of(qoe, workload.batch, cluster, fleet),
            overlap=overlap,
        )

    def with_terms(self, qoe: QoE) -> Problem:
        """The problem under another QoE that limits the same batteries; what does not depend on it is kept."""
        accounting = qoe.energy_accounting
        idle_all_w = sum(device.idle_w for device in self.cluster.devices) if accounting == "all-on" else None
        terms = Terms.of(qoe, self.workload.batch, self.cluster, self.fleet)
        changed = replace(self, terms=terms, idle_all_w=idle_all_w)
        changed.__dict__["ground"] = self.ground
        return changed

    @cached_property
    def ground(self) -> Ground:
        """What does not depend on the terms."""
        return Ground(self.workload, self.cluster, self.table, self.space, self.fleet)

    @property
    def network(self) -> Network:
        """The network of the cluster."""
        return self.ground.network

    @property
    def completion(self) -> Completion:
        """What missing layers cost at least, by used devices; only for fleets whose codes can be listed."""
        return self.ground.completion

    @property
    def stages_left(self) -> StagesLeft:
        """What missing stages cost at least, given how many devices a stage has at most."""
        return self.ground.stages_left

    @property
    def energy_left(self) -> EnergyLeft:
        """What missing stages draw at least, given how long a plan may take and how long it takes at least."""
        return self.ground.energy_left(self.idle_all_w is not None)

    @property
    def shared(self) -> bool:
        """Whether all transfers share one medium."""
        return self.network.one_medium

    @property
    def message_s(self) -> float:
        """Seconds per message, between the two devices that need fewest."""
        return self.ground.message_s

    @property
    def byte_j(self) -> float:
        """Joules per byte, between the two devices that need fewest."""
        return self.ground.byte_j

    def energy_j(self, dynamic_j: Floats, idle_w: Floats, makespan_s: Floats) -> Floats:
        """Joules of an iteration under the accounting asked for; not a number where nothing is drawn forever."""
        with np.errstate(invalid="ignore"):
            return dynamic_j + (idle_w if self.idle_all_w is None else self.idle_all_w) * self.idle_s(makespan_s)

    def idle_s(self, makespan_s: Seconds) -> Seconds | float:
        """How long devices idle: for the makespan; in a stream until the next arrival, however long a request takes."""
        return makespan_s if self.workload.arrival_s is None else self.workload.arrival_s

    def overloaded(self, load_s: Floats) -> NDArray[np.bool_]:
        """Which seconds of work a request are more than there are until the next request of a stream."""
        arrival_s = np.inf if self.workload.arrival_s is None else self.workload.arrival_s
        return np.asarray(load_s > arrival_s * (1 + ROUNDING))

    def value(
        self,
        makespan_s: Floats,
        energy_j: Floats,
        code: Ints | None = None,
        battery_j: Floats | None = None,
        over_bytes: Floats | None = None,
    ) -> Floats:
        """The objective with what soft limits add, see :meth:`Terms.value`; without a code, of no devices.

        Parameters
        ----------
        makespan_s, energy_j
            Of plans, or lower bounds.
        code
            The plans' devices, as a code of the fleet.
        battery_j, over_bytes
            Joules above idling of devices with a priced battery limit, and bytes beyond a priced headroom.
        """
        shape = (*np.shape(makespan_s), len(self.terms.priced))
        if code is None or battery_j is None or over_bytes is None:
            nobody = np.zeros(shape, dtype=np.int64)
            return self.terms.value(makespan_s, energy_j, np.zeros(shape), nobody, np.zeros(shape[:-1]))
        used = self.fleet.used[code][:, self.terms.priced_types] if self.terms.priced else np.zeros(shape, np.int64)
        return self.terms.value(makespan_s, energy_j, battery_j, used, over_bytes)

"""What questions about one workload on one cluster have in common, whatever their limits: computed once for all."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from dora_nb.costs.network import Network
from dora_nb.costs.table import CostTable, Floats
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.workload import Workload
from dora_nb.formulation.completion import Completion, completion_bounds
from dora_nb.formulation.energy_left import EnergyLeft
from dora_nb.formulation.fleet import Fleet
from dora_nb.formulation.space import SearchSpace
from dora_nb.formulation.stages_left import StagesLeft


@dataclass(frozen=True, eq=False)
class Ground:
    """Bounds on missing stages, and the network, each made when it is first read.

    Attributes
    ----------
    workload, cluster, table, space, fleet
        Of a :class:`~dora_nb.formulation.problem.Problem`.
    """

    workload: Workload
    cluster: Cluster
    table: CostTable
    space: SearchSpace
    fleet: Fleet
    _energy_left: dict[bool, EnergyLeft] = field(default_factory=dict, repr=False)
    _missing: dict[int, tuple[Floats, Floats]] = field(default_factory=dict, repr=False)

    @cached_property
    def network(self) -> Network:
        """The network of the cluster."""
        return Network.of(self.cluster)

    @cached_property
    def completion(self) -> Completion:
        """What missing layers cost at least, by used devices; only for fleets whose codes can be listed."""
        space = self.space
        return completion_bounds(
            self.workload, self.cluster, self.table.least, self.fleet, space.token_groups, space.shards
        )

    @cached_property
    def stages_left(self) -> StagesLeft:
        """What missing stages cost at least, given how many devices a stage has at most."""
        most = max(min(self.space.most_replicas, max(self.space.micro_batch_sizes)), self.space.shards)
        return StagesLeft.of(self.table.least, self.fleet, most, self.workload.trains)

    def energy_left(self, all_on: bool) -> EnergyLeft:
        """What missing stages draw at least, where every device of the cluster draws, or only the plan's do."""
        if all_on not in self._energy_left:
            self._energy_left[all_on] = EnergyLeft.of(
                self.table.least, self.cluster, self.fleet, self.stages_left, all_on
            )
        return self._energy_left[all_on]

    @cached_property
    def message_s(self) -> float:
        """Seconds per message, between the two devices that need fewest."""
        return min((route.latency_s for route in self.network.routes()), default=0.0)

    @cached_property
    def byte_j(self) -> float:
        """Joules per byte, between the two devices that need fewest."""
        return min((route.energy_j_per_byte for route in self.network.routes()), default=0.0)

    def missing(self, by_cut: Floats) -> Floats:
        """A figure of the layers up to a cut, by used devices: of all of these layers, then without the first.

        Parameters
        ----------
        by_cut
            Of ``completion`` or ``stages_left``; kept, so that its id stays its own. Shape (codes, cuts).

        Returns
        -------
        array of shape (2 x codes x cuts,)
            Infinite where no device is left for what is missing.
        """
        known = self._missing.get(id(by_cut))
        if known is None or known[0] is not by_cut:  # an id means nothing in another process
            parts = []
            for hosted in (0, 1):
                with np.errstate(invalid="ignore"):
                    rest = by_cut - by_cut[:, hosted : hosted + 1]
                # inf - inf: no device is left for what is missing
                missing = np.where(np.arange(by_cut.shape[1]) > hosted, np.inf, 0.0)[None]
                parts.append(np.where(np.isnan(rest), missing, rest))
            known = self._missing[id(by_cut)] = by_cut, np.stack(parts).ravel()
        return known[1]

"""What the stages that are still missing in front of a pipeline must draw at least, given how long the plan takes.

The thriftiest device alone would take the least energy for every layer, but it has not the time: within a makespan T
any k stages spend at most a certain share of T on a micro-batch (see :mod:`~dora_nb.formulation.stages_left`), so the n
thriftiest devices do at most the work W(n) of the fastest of them in the stages with the largest shares. What is beyond
W(n) falls to dearer ones, and every device that takes part idles for as long as the plan takes, which is at least the
least makespan proven so far. Both together are summed for every set of devices that could run the missing stages
exactly, and the least over all sets that are left is the bound.

For one set: with costs a unit of work ``c(1) <= c(2) <= ...``, any sharing out has at most W(n) on the first n devices,
and of all that keep these nested limits the greedy one, which fills the cheapest first, costs least.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dora_nb.costs.table import CostTable, Floats
from dora_nb.domain.cluster import Cluster
from dora_nb.formulation.completion import INSTANT_S
from dora_nb.formulation.fleet import Fleet
from dora_nb.formulation.stages_left import StagesLeft, stage_speeds


@dataclass(frozen=True)
class EnergyLeft:
    """Joules of missing stages, by used devices (code of the fleet).

    Attributes
    ----------
    stages_left
        The unit of work, the speed of devices, and the shares of a makespan.
    fleet
        What the codes count.
    device_j
        Joules above idling of a unit of work on a device of each type. Shape (types,).
    idle_w
        Idle draw of a device of each type that takes part; 0 where every device of the cluster idles in any case.
    """

    stages_left: StagesLeft
    fleet: Fleet
    device_j: Floats
    idle_w: Floats

    @classmethod
    def of(cls, table: CostTable, cluster: Cluster, fleet: Fleet, stages_left: StagesLeft, all_on: bool) -> EnergyLeft:
        """The lower bounds for every set of used devices.

        Parameters
        ----------
        table, cluster, fleet
            Seconds of every layer, the devices' draws, and the devices by type.
        stages_left
            Of the same table and fleet.
        all_on
            Whether devices outside the plan draw as well.
        """
        samples = np.arange(1, table.forward_s.shape[2])
        members = [members[0] for members in fleet.types]
        best_s = ((table.forward_s + table.backward_s)[:, members, 1:] / samples).min(axis=2)
        devices = [cluster.devices[member] for member in members]
        draw_w = np.array([device.active_w - device.idle_w for device in devices])
        work = np.diff(stages_left.work)[:, None]
        return cls(
            stages_left=stages_left,
            fleet=fleet,
            device_j=(np.maximum(best_s, INSTANT_S) * draw_w / work).min(axis=0),
            idle_w=np.array([0.0 if all_on else device.idle_w for device in devices]),
        )

    def least_j(self, work: Floats, micro_batch: int, micro_batches: int, idle_s: float, longest_s: float) -> Floats:
        """Joules of the missing stages of a plan that keeps a makespan, their devices' idling included.

        Parameters
        ----------
        work
            Of a sample in the missing layers. Shape (cuts,).
        micro_batch, micro_batches
            Samples of one, and how many there are.
        idle_s
            How long every device of a plan idles at least.
        longest_s
            The makespan; finite.

        Returns
        -------
        array of shape (codes, cuts)
            Infinite where no plan keeps the makespan.
        """
        left, used = self.stages_left, self.fleet.used
        missing = micro_batch * work
        shares = left.shares(micro_batches) * longest_s
        energy_j = np.broadcast_to((used @ self.idle_w * idle_s)[:, None], (len(used), len(work))).copy()
        done = np.zeros_like(energy_j)
        for kind, speed in self._speeds:
            so_far = np.minimum(missing, (speed @ shares[: speed.shape[1]])[:, None])
            energy_j += micro_batches * self.device_j[kind] * np.maximum(so_far - done, 0.0)
            done = np.maximum(done, so_far)
        energy_j[missing - done > 1e-9 * micro_batch * left.work[-1]] = np.inf
        return self._of_any_left(energy_j)

    @cached_property
    def _speeds(self) -> list[tuple[int, Floats]]:
        """Types of devices, the thriftiest first, with the speeds of stages on those of it and of all before it."""
        left, so_far = self.stages_left, np.zeros_like(self.fleet.used)
        found = []
        for kind in np.argsort(self.device_j, kind="stable").tolist():
            so_far[:, kind] = self.fleet.used[:, kind]
            found.append((kind, stage_speeds(left.device_speed, so_far, left.most_devices, len(left.work) - 1)))
        return found

    def _of_any_left(self, exactly_j: Floats) -> Floats:
        """The least over all sets of devices that are left, by the devices used, of what each set draws; in place."""
        sizes = [len(members) + 1 for members in self.fleet.types]
        # The first type is the last digit of a code's place in an array that is counted row by row.
        by_count = exactly_j.reshape(*reversed(sizes), -1)
        for axis in range(len(sizes)):
            counts = np.moveaxis(by_count, axis, 0)
            for fewer, more in itertools.pairwise(counts):
                np.minimum(fewer, more, out=more)
        return by_count.reshape(exactly_j.shape)[::-1]  # what is left of the devices has the opposite code

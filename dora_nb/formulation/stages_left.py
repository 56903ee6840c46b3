"""What the stages that are still missing in front of a pipeline must cost at least, given how few devices a stage has.

:mod:`~dora_nb.formulation.completion` lets all devices that are left share every layer. A stage has only so many, and
stages differ in their devices, so the fastest few are in one stage only: the k-th fastest stage is at most as fast as
the k-th group when devices are grouped from the fastest down. What stages may take of a makespan T is limited as well.
With M micro-batches and t the seconds of one of them, every stage has ``sum of t upstream + M t <= T`` when training,
and ``sum of all other t + M t <= T`` otherwise; so any k stages together have at most the share ``1 - (1 - 1/M)^k`` of
T, or ``k / (k + M - 1)``. Work is done fastest when the fastest stages have the largest shares.

A stage whose devices hold shards does not work faster than its devices together either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dora_nb.costs.table import CostTable, Floats
from dora_nb.formulation.completion import INSTANT_S, shared_by_few
from dora_nb.formulation.fleet import Fleet, Ints


@dataclass(frozen=True)
class StagesLeft:
    """Lower bounds by used devices (code of the fleet) and by cut; layers before the cut are not placed.

    Attributes
    ----------
    forward_s, path_s
        Seconds per sample of one micro-batch through those layers, forward only and both ways. Shape (codes, cuts).
    work
        Work of a sample in those layers, forward and backward, in a unit of its own. Shape (cuts,).
    speed
        Work a second of the fastest stage that is left, of the second fastest, and so on; 0 where none is left. Shape
        (codes, stages).
    device_speed
        Work a second of one device of each type. Shape (types,).
    most_devices
        How many devices a stage has at most.
    trains
        Whether there are backward passes.
    """

    forward_s: Floats
    path_s: Floats
    work: Floats
    speed: Floats
    device_speed: Floats
    most_devices: int
    trains: bool

    @classmethod
    def of(cls, table: CostTable, fleet: Fleet, most_devices: int, trains: bool) -> StagesLeft:
        """The lower bounds for every set of used devices, with so many devices a stage at most.

        Parameters
        ----------
        table, fleet
            Seconds of every layer, and the devices by type.
        most_devices
            Devices that a stage has at most.
        trains
            Whether there are backward passes.
        """
        samples = np.arange(1, table.forward_s.shape[2])
        members = np.array([members[0] for members in fleet.types])
        forward_s = table.forward_s[:, members, 1:]
        both_s = forward_s + table.backward_s[:, members, 1:]
        best_forward_s = np.maximum((forward_s / samples).min(axis=2), INSTANT_S)  # shape (layers, types)
        best_both_s = np.maximum((both_s / samples).min(axis=2), INSTANT_S)
        left = fleet.available - fleet.used
        # The unit of work is a second of the whole fleet, as in the bound on loads of completion_bounds.
        weight = 1.0 / ((1.0 / best_both_s) @ fleet.available)
        device_speed = (weight[:, None] / best_both_s).max(axis=0)
        return cls(
            forward_s=_until_cut(shared_by_few(best_forward_s, left, most_devices)),
            path_s=_until_cut(shared_by_few(best_both_s, left, most_devices)),
            work=np.concatenate([[0.0], np.cumsum(weight)]),
            speed=stage_speeds(device_speed, left, most_devices, len(weight)),
            device_speed=device_speed,
            most_devices=most_devices,
            trains=trains,
        )

    def work_until(self, skipped: int) -> Floats:
        """Work of a sample in the layers before every cut, without the first ``skipped``. Shape (cuts,)."""
        return np.asarray(np.maximum(self.work - self.work[skipped], 0.0))

    def shares(self, micro_batches: int) -> Floats:
        """What one more stage may add to the part of a makespan that any 1, 2, ... stages spend on a micro-batch."""
        stages = np.arange(self.speed.shape[1] + 1)
        if self.trains:
            together = 1.0 - (1.0 - 1.0 / micro_batches) ** stages
        else:
            together = stages / np.maximum(stages + micro_batches - 1, 1)
        return np.diff(together)

    def least_makespan_s(self, micro_batch: int, micro_batches: int) -> Floats:
        """Makespan that the missing stages alone need, per unit of work of a sample. Shape (codes,)."""
        return _divided(float(micro_batch), self.speed @ self.shares(micro_batches))

    def path_within_s(self, work: Floats, micro_batch: int, micro_batches: int, makespan_s: float) -> Floats:
        """Seconds of one micro-batch through the missing stages of a plan that keeps a makespan.

        Parameters
        ----------
        work
            Of a sample in the missing layers. Shape (cuts,).
        micro_batch, micro_batches
            Samples of one, and how many there are.
        makespan_s
            Finite.

        Returns
        -------
        array of shape (codes, cuts)
            Infinite where no plan keeps the makespan.
        """
        path_s = np.zeros((len(self.speed), len(work)))
        missing = np.broadcast_to(micro_batch * work, path_s.shape).copy()
        for stage, share in enumerate(self.shares(micro_batches).tolist()):
            speed = self.speed[:, stage : stage + 1]
            done = np.minimum(missing, share * makespan_s * speed)
            path_s += np.divide(done, speed, out=np.zeros_like(done), where=speed > 0)
            missing -= done
        beyond = missing > 1e-9 * micro_batch * self.work[-1]
        return np.where(beyond, np.inf, path_s)


def stage_speeds(speed: Floats, counts: Ints, most: int, most_stages: int) -> Floats:
    """Speeds of stages when devices, so many of each type, are grouped from the fastest down. Shape (codes, stages)."""
    order = np.argsort(-speed)
    counts = counts[:, order]
    before = np.cumsum(counts, axis=1) - counts
    stages = min(-(-int(counts.sum(axis=1).max()) // most), most_stages)
    first = [np.clip(most * stage - before, 0, counts) @ speed[order] for stage in range(stages + 1)]
    return np.diff(np.stack(first, axis=1), axis=1)


def _divided(number: float, by: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.where(by > 0, number / by, np.inf)


def _until_cut(by_layer: Floats) -> Floats:
    return np.concatenate([np.zeros((len(by_layer), 1)), np.cumsum(by_layer, axis=1)], axis=1)

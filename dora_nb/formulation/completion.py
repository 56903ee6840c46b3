"""What the layers that are not placed yet must cost at least, on the devices that are left.

A device needs at least its best time per sample for every sample (a batch amortises weights and overhead, and the
best amount is taken), so k devices together need at least ``1 / sum(1 / seconds)`` per sample and layer. These
fractional figures hold for every grouping and every sharing out of the remaining devices.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.network import Network
from dora_nb.costs.table import CostTable, Floats
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.workload import Workload
from dora_nb.formulation.fleet import Fleet, Ints

#: Stands in for a layer measured to take no time, so that rates stay finite.
INSTANT_S = 1e-15


@dataclass(frozen=True)
class Completion:
    """Lower bounds by used devices (code of the fleet) and by cut; layers before the cut are not placed.

    Attributes
    ----------
    forward_s, path_s
        Seconds per sample of one micro-batch through those layers, forward only and both ways. Shape (codes, cuts).
    load_s
        Seconds per sample and iteration that the busiest stage needs for them. Shape (codes, cuts).
    energy_j
        Joules per sample above idling. Shape (codes, cuts).
    decode_s
        Seconds of all steps after the first token of one group, by how many groups of the batch there are; 0 if there
        are none. Each of shape (codes, cuts).
    idle_w
        Idle draw of the thriftiest device left. Shape (codes,).
    next_byte_s
        Seconds that a byte from the next stage holds its busiest resource at least, whoever sends it: at the
        best-connected device's rate on a single medium; elsewhere all devices left may send at once. Shape (codes,).
    """

    forward_s: Floats
    path_s: Floats
    load_s: Floats
    energy_j: Floats
    decode_s: Mapping[int, Floats]
    idle_w: Floats
    next_byte_s: Floats


def completion_bounds(
    workload: Workload,
    cluster: Cluster,
    table: CostTable,
    fleet: Fleet,
    token_groups: Collection[int] = (1,),
    shards: int = 1,
) -> Completion:
    """The lower bounds for every set of used devices, and these numbers of groups while tokens are generated.

    With shards a device computes a part of a layer for some samples in at least that part of its best time for them,
    so the fractional figures hold as they are; but a sample's own time is shared by up to so many devices.

    Parameters
    ----------
    workload, cluster, table, fleet
        What is computed where, and how long layers take.
    token_groups
        Numbers of groups of the batch that may follow each other while tokens are generated.
    shards
        Devices that may hold slices of one stage, at most.
    """
    samples = np.arange(1, workload.batch + 1)
    best_forward = np.maximum((table.forward_s[:, :, 1:] / samples).min(axis=2), INSTANT_S)
    best_both = np.maximum(((table.forward_s + table.backward_s)[:, :, 1:] / samples).min(axis=2), INSTANT_S)
    members = np.array([indices[0] for indices in fleet.types])
    left = (fleet.available - fleet.used).astype(float)  # (codes, types)
    forward_rate = left @ (1.0 / best_forward[:, members]).T  # samples per second by code and layer
    both_rate = left @ (1.0 / best_both[:, members]).T
    draw = np.array([device.active_w - device.idle_w for device in cluster.devices])
    idle = np.array([device.idle_w for device in cluster.devices])
    energy = best_both * draw
    decode = dict.fromkeys(token_groups, np.zeros((fleet.codes, len(workload.layers))))
    if table.token_s is not None and workload.decode_steps:
        best_token = workload.decode_steps * np.maximum((table.token_s[:, :, 1:] / samples).min(axis=2), INSTANT_S)
        energy = energy + best_token * draw
        # However many devices share a layer out, each of them takes at least the time of one sample.
        one_sample = workload.decode_steps * table.token_s[:, :, 1]
        shared = workload.batch * _inverse(left @ (1.0 / best_token[:, members]).T)
        alone = _least(left, one_sample[:, members])
        if shards > 1:
            can = np.array([layer.parts > 1 for layer in workload.layers])
            few = shared_by_few(np.maximum(one_sample[:, members], INSTANT_S), fleet.available - fleet.used, shards)
            alone = np.where(can[None], few, alone)
        decode = {groups: np.maximum(shared / groups, alone) for groups in token_groups}
    return Completion(
        forward_s=_until_cut(_inverse(forward_rate)),
        path_s=_until_cut(_inverse(both_rate)),
        load_s=_load(best_both[:, members], fleet.available.astype(float), left),
        energy_j=_until_cut(_least(left, energy[:, members])),
        decode_s={groups: _until_cut(each) for groups, each in decode.items()},
        idle_w=_least(left, idle[None, members])[:, 0],
        next_byte_s=_next_byte_s(cluster, members, left),
    )


def _next_byte_s(cluster: Cluster, members: NDArray[np.int64], left: Floats) -> Floats:
    if not cluster.domains:
        return np.zeros(len(left))
    network = Network.of(cluster)
    rates = np.array([network.rate(cluster.devices[index].id) for index in members])
    return _least(left, 1.0 / rates[None])[:, 0] if network.one_medium else _inverse(left @ rates)


def _until_cut(by_layer: Floats) -> Floats:
    return np.concatenate([np.zeros((len(by_layer), 1)), np.cumsum(by_layer, axis=1)], axis=1)


def _inverse(rate: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.where(rate > 0, 1.0 / rate, np.inf)


def _least(left: Floats, values: Floats) -> Floats:
    """Smallest value among the types left, shape (codes, rows of values); inf where no device is left."""
    return np.asarray(np.where(left[:, None, :] > 0, values[None], np.inf).min(axis=2))


def shared_by_few(best_s: Floats, left: Ints, most: int) -> Floats:
    """Seconds per sample of each layer on the fastest few devices that are left. Shape (codes, layers)."""
    seconds = np.empty((len(left), len(best_s)))
    for layer, by_type in enumerate(best_s):
        order = np.argsort(by_type)
        counts = left[:, order]
        before = np.cumsum(counts, axis=1) - counts
        seconds[:, layer] = _inverse(np.clip(most - before, 0, counts) @ (1.0 / by_type[order]))
    return seconds


def _load(best_s: Floats, available: Floats, left: Floats) -> Floats:
    """Load of the busiest stage.

    Give every layer a weight; a device works off at most ``max over layers of weight / seconds`` of weight a second,
    so all weight takes at least its sum over the sum of those speeds. The weights are each layer's time on the whole
    fleet, which makes the bound exact where devices differ by one factor.
    """
    weight = 1.0 / ((1.0 / best_s) @ available)
    speed = (weight[:, None] / best_s).max(axis=0)
    total = np.concatenate([[0.0], np.cumsum(weight)])
    # Nothing left to place costs nothing, even where no device is left.
    with np.errstate(invalid="ignore"):
        return np.where(total > 0, total * _inverse(left @ speed)[:, None], 0.0)

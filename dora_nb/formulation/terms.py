"""The terms of a QoE as numbers and arrays: hard limits, and what soft ones add to the objective.

Every term only grows with the makespan and with what is added to a plan, so lower bounds on makespan, energy, joules of
a device and bytes of memory give a lower bound on the value, and exact figures give the value itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.qoe import ROUNDING, QoE
from dora_nb.formulation.fleet import Fleet, Ints


@dataclass(frozen=True)
class Terms:
    """The limits of a QoE on one cluster, for one batch.

    Attributes
    ----------
    qoe, batch
        What was asked, and samples per iteration.
    makespan_limit_s, energy_limit_j
        Hard limits on the whole plan: latency, the batch over the least throughput, and under the accounting
        ``all-on`` how long every battery lasts while its device idles.
    battery_j
        Joules that each device may draw; infinite without a hard limit. Shape (devices,).
    most_bytes
        Bytes of each device that a stage may fill. Shape (devices,).
    room_bytes
        Bytes beyond which filling costs; infinite without a soft limit. Shape (devices,).
    priced, priced_j, priced_w, priced_types
        Devices whose battery is limited softly: index, limit, idle draw and type (each is a type of its own).
    all_on
        Whether devices outside the plan draw as well.
    """

    qoe: QoE
    batch: int
    makespan_limit_s: float
    energy_limit_j: float
    battery_j: Floats
    most_bytes: Floats
    room_bytes: Floats
    priced: tuple[int, ...]
    priced_j: Floats
    priced_w: Floats
    priced_types: Ints
    all_on: bool

    @classmethod
    def of(cls, qoe: QoE, batch: int, cluster: Cluster, fleet: Fleet) -> Terms:
        """The terms of a QoE whose devices are in the cluster.

        Parameters
        ----------
        qoe
            Limits and objective.
        batch
            Samples of an iteration.
        cluster, fleet
            The devices, and their types.
        """
        all_on = qoe.energy_accounting == "all-on"
        names, idle_w = cluster.device_ids, np.array([device.idle_w for device in cluster.devices])
        hard = qoe.battery_j if qoe.battery_price is None else {}
        battery_j = np.array([hard.get(name, np.inf) for name in names])
        usable_bytes = np.array([device.usable_memory_bytes for device in cluster.devices])
        room_bytes = np.array([qoe.room_bytes(usable) for usable in usable_bytes])
        limits_s = [np.inf]
        if qoe.latency_s is not None and qoe.latency_price is None:
            limits_s.append(qoe.latency_s)
        if qoe.samples_per_s is not None and qoe.throughput_price is None:
            limits_s.append(batch / qoe.samples_per_s)
        if all_on:
            limits_s.extend(_lasts_s(battery_j, idle_w))
        priced = tuple(names.index(name) for name in qoe.battery_j) if qoe.battery_price is not None else ()
        kind_of = {device: kind for kind, members in enumerate(fleet.types) for device in members}
        return cls(
            qoe=qoe,
            batch=batch,
            makespan_limit_s=float(min(limits_s)),
            energy_limit_j=qoe.energy_j if qoe.energy_j is not None and qoe.energy_price is None else np.inf,
            battery_j=battery_j,
            most_bytes=room_bytes if qoe.headroom_price is None else usable_bytes,
            room_bytes=room_bytes if qoe.headroom_price is not None else np.full(len(names), np.inf),
            priced=priced,
            priced_j=np.array([qoe.battery_j[names[device]] for device in priced]),
            priced_w=idle_w[list(priced)],
            priced_types=np.array([kind_of[device] for device in priced], dtype=np.int64),
            all_on=all_on,
        )

    @property
    def is_soft(self) -> bool:
        """Whether any limit has a price."""
        qoe = self.qoe
        prices = (qoe.latency_price, qoe.throughput_price, qoe.energy_price, qoe.battery_price, qoe.headroom_price)
        return any(price is not None for price in prices)

    @property
    def is_plain(self) -> bool:
        """Whether the value is the makespan or the energy itself."""
        return self.qoe.objective != "price" and not self.is_soft

    def value(self, makespan_s: Floats, energy_j: Floats, battery_j: Floats, used: Ints, over_bytes: Floats) -> Floats:
        """The objective with what soft limits add.

        Parameters
        ----------
        makespan_s, energy_j
            Of plans, or lower bounds.
        battery_j
            Joules above idling of each priced device, shape (plans, priced).
        used
            Whether each priced device is part of the plan, shape (plans, priced).
        over_bytes
            Bytes above the room of devices, all devices together.
        """
        qoe = self.qoe
        value = np.asarray(qoe.base(makespan_s, energy_j), dtype=float)
        if not self.is_soft:
            return value
        value = value + self.plan_costs(makespan_s, energy_j) + (qoe.headroom_price or 0.0) * over_bytes
        if self.priced:
            on = 1 if self.all_on else used
            with np.errstate(invalid="ignore"):
                drawn_j = battery_j + self.priced_w * on * makespan_s[..., None]
            beyond_j = np.where(np.isnan(drawn_j), np.inf, np.maximum(drawn_j - self.priced_j, 0.0))
            value = value + (qoe.battery_price or 0.0) * beyond_j.sum(axis=-1)
        return np.asarray(np.where(np.isnan(value), np.inf, value))

    def plan_costs(self, makespan_s: Floats, energy_j: Floats) -> Floats:
        """What soft limits on the whole plan add: latency, throughput, energy."""
        qoe, cost = self.qoe, np.zeros(np.shape(makespan_s))
        if qoe.latency_s is not None and qoe.latency_price:
            cost = cost + qoe.latency_price * np.maximum(makespan_s - qoe.latency_s, 0.0)
        if qoe.samples_per_s is not None and qoe.throughput_price:
            with np.errstate(divide="ignore"):
                reached = self.batch / np.asarray(makespan_s, dtype=float)
            cost = cost + qoe.throughput_price * np.maximum(qoe.samples_per_s - reached, 0.0)
        if qoe.energy_j is not None and qoe.energy_price:
            cost = cost + qoe.energy_price * np.maximum(energy_j - qoe.energy_j, 0.0)
        return cost

    def cap_s(self, device: Ints, dynamic_j: Floats, idle_w: Floats) -> Floats:
        """Longest makespan that devices' batteries last, given their joules above idling; -inf where none."""
        left_j = self.battery_j[device] * (1 + ROUNDING) - dynamic_j
        lasts_s = np.divide(left_j, idle_w, out=np.full_like(left_j, np.inf), where=idle_w > 0)
        return np.where(left_j < 0, -np.inf, lasts_s)


def _lasts_s(battery_j: Floats, idle_w: Floats) -> list[float]:
    """How long each battery lasts at an idle draw."""
    return [float(joules / watts) for joules, watts in zip(battery_j, idle_w, strict=True) if watts > 0]

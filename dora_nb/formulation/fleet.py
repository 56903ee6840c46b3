"""Devices counted by type, which removes the symmetry between equal ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.network import Network
from dora_nb.costs.table import CostTable
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Devices of a stage, counted by type.

    Attributes
    ----------
    counts
        How many devices of each type.
    devices
        Indices of representatives: the first ones of each type.
    code
        The counts as one number in mixed radix; codes of disjoint groups add up.
    """

    counts: tuple[int, ...]
    devices: tuple[int, ...]
    code: int


@dataclass(frozen=True)
class Fleet:
    """The devices of a cluster by type.

    Attributes
    ----------
    types
        Device indices of each type.
    """

    types: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, workload: Workload, cluster: Cluster, table: CostTable, qoe: QoE | None = None) -> Fleet:
        """Devices are of one type when nothing the cost model and the QoE see tells them apart.

        That includes the network: swapping two devices of a type changes no rate between any two devices. A battery
        whose limit has a price makes its device a type of its own: what each of two equal devices draws beyond its
        limit cannot be told from what both draw together.

        Parameters
        ----------
        workload, cluster, table
            What the cost model sees of a device.
        qoe
            Whose battery limits tell devices apart; None: there are none.
        """
        battery_j = {} if qoe is None else qoe.battery_j
        priced = qoe is not None and qoe.battery_price is not None
        by_key: dict[object, list[list[int]]] = {}
        network, tables = Network.of(cluster), (table, *table.narrower.values())
        for index, device in enumerate(cluster.devices):
            key = (
                device.usable_memory_bytes,
                device.idle_w,
                device.active_w,
                device.id in (workload.source, workload.sink) and device.id,
                battery_j.get(device.id),
                priced and device.id in battery_j and device.id,
                table.backward_s[:, index].tobytes(),
                table.step_s[:, index].tobytes(),
                *(each.forward_s[:, index].tobytes() for each in tables),
                *(each.token_s is not None and each.token_s[:, index].tobytes() for each in tables),
            )
            alike = by_key.setdefault(key, [])
            twins = (members for members in alike if network.alike(cluster.devices[members[0]].id, device.id))
            members = next(twins, None)
            if members is None:
                alike.append([index])
            else:
                members.append(index)
        types = (members for alike in by_key.values() for members in alike)
        return cls(tuple(sorted(tuple(members) for members in types)))

    @cached_property
    def radix(self) -> tuple[int, ...]:
        """What one device of each type adds to a code."""
        sizes = [len(members) + 1 for members in self.types]
        return tuple(math.prod(sizes[:position]) for position in range(len(sizes)))

    @cached_property
    def codes(self) -> int:
        """Number of codes, 0 (nothing used) to ``codes - 1`` (everything)."""
        return math.prod(len(members) + 1 for members in self.types)

    @cached_property
    def used(self) -> Ints:
        """Devices of each type in use, shape (codes, types)."""
        code = np.arange(self.codes)[:, None]
        sizes = np.array([len(members) + 1 for members in self.types])
        return np.asarray(code // np.array(self.radix) % sizes, dtype=np.int64)

    @cached_property
    def available(self) -> Ints:
        """Devices of each type."""
        return np.array([len(members) for members in self.types])

    @cached_property
    def packed(self) -> Ints:
        """The counts of each code side by side in one number, each below a bit that is free. Shape (codes,)."""
        return np.asarray(self.used @ (1 << self._free_bits[:-1]), dtype=np.int64)

    def fit_together(self, codes: Ints, other_codes: Ints) -> NDArray[np.bool_]:
        """Which codes, in arrays that broadcast, have disjoint groups: no count above what is available."""
        # What is missing from a count to the free bit above it makes every larger sum reach that bit.
        missing = (1 << np.diff(self._free_bits) - 1) - 1 - self.available
        spare = int((missing << self._free_bits[:-1]).sum())
        reached = (self.packed[codes] + spare) + self.packed[other_codes]
        return np.asarray(reached & int((1 << self._free_bits[1:] - 1).sum()) == 0)

    @cached_property
    def _free_bits(self) -> Ints:
        """Where each type's count begins in a packed number, and where the last one with its free bit ends."""
        widths = [int(count).bit_length() + 1 for count in self.available]
        return np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)

    def groups(self, most: int) -> Iterator[Group]:
        """All groups of one to ``most`` devices, by ascending code; the codes of the fleet are not listed for it."""
        counts: list[tuple[int, ...]] = [()]
        for members in self.types:
            counts = [(*taken, more) for taken in counts for more in range(min(len(members), most - sum(taken)) + 1)]
        code_of = {taken: sum(a * b for a, b in zip(taken, self.radix, strict=True)) for taken in counts if any(taken)}
        for taken, code in sorted(code_of.items(), key=lambda item: item[1]):
            devices = [members[i] for members, count in zip(self.types, taken, strict=True) for i in range(count)]
            yield Group(taken, tuple(devices), code)

    @cached_property
    def groups_by_size(self) -> tuple[int, ...]:
        """How many groups of 0, 1, 2, ... devices there are."""
        ways = [1]
        for members in self.types:
            total = [0] * (len(ways) + len(members))
            for size, count in enumerate(ways):
                for more in range(len(members) + 1):
                    total[size + more] += count
            ways = total
        return tuple(ways)

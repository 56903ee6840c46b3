"""What every stage that a baseline may build costs: arrays with one entry a range of layers [first, stop)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.memory import MemoryModel
from dora_nb.costs.table import Floats
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.problem import Problem

#: Stands in for seconds and bytes of nothing, by which something is divided.
LEAST = 1e-15


@dataclass(frozen=True)
class Ranges:
    """The stages of pipelines that start at layer 0, or at 1 if the last one hosts the first layer.

    Attributes
    ----------
    problem
        What is planned.
    start
        Where pipelines start.
    """

    problem: Problem
    start: int = 0
    _bytes: dict[tuple[int, int, int, bool], Floats] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def first(self) -> Ints:
        """First layer of each range."""
        return self._bounds[0]

    @cached_property
    def stop(self) -> Ints:
        """Layer after the last of each range."""
        return self._bounds[1]

    @cached_property
    def hosts(self) -> NDArray[np.bool_]:
        """Whether a stage of the range runs the network's first layer as well."""
        return np.asarray((self.stop == self.layers) & (self.start == 1))

    @property
    def layers(self) -> int:
        """Layers of the network."""
        return len(self.problem.workload.layers)

    @cached_property
    def directions(self) -> int:
        """How often a micro-batch crosses a cut."""
        return 2 if self.problem.workload.trains else 1

    @cached_property
    def cut_bytes(self) -> Floats:
        """Bytes of a sample that cross each cut in one direction; 0 at the two ends."""
        inner = [self.problem.workload.cut_bytes(cut) for cut in range(1, self.layers)]
        return np.array([0.0, *inner, 0.0])

    @cached_property
    def gradient_bytes(self) -> Floats:
        """Bytes that the replicas of a stage sum."""
        own, hosting = (self._memory.gradient_parameters(self.first, self.stop, hosts) for hosts in (False, True))
        return np.asarray(np.where(self.hosts, hosting, own) * self.problem.workload.bytes_per_element)

    def forward_s(self, device: int, samples: int | Ints) -> Floats:
        """Seconds of a forward pass; samples are the same in all ranges, or given for each."""
        return self._pass_s(self._forward_until, self.problem.table.forward_s, device, samples)

    def backward_s(self, device: int, samples: int | Ints) -> Floats:
        """Seconds of a backward pass; 0 without training."""
        return self._pass_s(self._backward_until, self.problem.table.backward_s, device, samples)

    def pass_s(self, device: int, samples: int | Ints) -> Floats:
        """Seconds of a forward and a backward pass."""
        return np.asarray(self.forward_s(device, samples) + self.backward_s(device, samples))

    def speed(self, device: int, samples: int) -> Floats:
        """How often a second both passes of so many samples can be done."""
        return np.asarray(1 / np.maximum(self.pass_s(device, samples), LEAST))

    def replica_bytes(self, samples: int, in_flight: int, micro_batches: int, *, replicated: bool = False) -> Floats:
        """Bytes that a replica needs, see :meth:`~dora_nb.costs.memory.MemoryModel.replica_bytes`."""
        key = samples, in_flight if self.problem.workload.trains else 1, micro_batches, replicated
        if key not in self._bytes:
            own, hosting = (
                self._memory.replica_bytes(
                    self.first,
                    self.stop,
                    samples=samples,
                    in_flight=in_flight,
                    micro_batches=micro_batches,
                    replicated=replicated,
                    hosts_first_layer=hosts,
                )
                for hosts in (False, True)
            )
            self._bytes[key] = np.asarray(np.where(self.hosts, hosting, own))
        return self._bytes[key]

    def usable_bytes(self, device: int) -> float:
        """Bytes that a device may fill."""
        return self.problem.cluster.devices[device].usable_memory_bytes

    def most_samples(self, device: int, size: int, in_flight: int, *, replicated: bool) -> Ints:
        """Samples of every micro-batch of a size that fit on a device, at most all of them."""
        micro_batches = self.problem.workload.batch // size
        fixed, with_one = (
            self.replica_bytes(samples, in_flight, micro_batches, replicated=replicated) for samples in (0, 1)
        )
        sample_bytes = np.maximum(with_one - fixed, LEAST)
        fit = np.floor((self.usable_bytes(device) - fixed) / sample_bytes)
        return np.clip(fit, 0, size).astype(np.int64)

    def place(self, first: int, stop: int) -> int:
        """Where a range stands among all."""
        return int(np.flatnonzero((self.first == first) & (self.stop == stop))[0])

    def table(self, values: NDArray[Any], elsewhere: float = np.inf) -> NDArray[Any]:
        """Figures of all ranges by their bounds, the last axis becoming (layers, layers + 1)."""
        spread = np.full((*values.shape[:-1], self.layers, self.layers + 1), elsewhere, dtype=values.dtype)
        spread[..., self.first, self.stop] = values
        return spread

    @cached_property
    def _bounds(self) -> tuple[Ints, Ints]:
        first, stop = np.triu_indices(self.layers, k=0)
        stop = stop + 1
        usable = first >= self.start
        if self.start == 1:  # a stage that hosts the first layer has another one between that layer and its own
            usable &= (stop < self.layers) | (first >= 2)
        return first[usable], stop[usable]

    @cached_property
    def _memory(self) -> MemoryModel:
        return MemoryModel(self.problem.workload)

    @cached_property
    def _forward_until(self) -> Floats:
        return _until_cut(self.problem.table.forward_s)

    @cached_property
    def _backward_until(self) -> Floats:
        return _until_cut(self.problem.table.backward_s)

    def _pass_s(self, until_s: Floats, layer_s: Floats, device: int, samples: int | Ints) -> Floats:
        own_s = until_s[self.stop, device, samples] - until_s[self.first, device, samples]
        return np.asarray(own_s + self.hosts * layer_s[0, device, samples])


@dataclass(frozen=True)
class Links:
    """What bytes take from one device to another if nobody else sends anything; nothing from a device to itself.

    Attributes
    ----------
    byte_s, message_s
        Seconds a byte and seconds a message, shape (devices, devices).
    """

    byte_s: Floats
    message_s: Floats

    @classmethod
    def of(cls, problem: Problem) -> Links:
        """The links between a problem's devices."""
        ids = problem.cluster.device_ids
        byte_s, message_s = np.zeros((2, len(ids), len(ids)))
        for u, v in itertools.permutations(range(len(ids)), 2):
            byte_s[u, v] = max(problem.network.fan_out(ids[u], {ids[v]: 1.0}).seconds.values())
            message_s[u, v] = problem.network.route(ids[u], ids[v]).latency_s
        return cls(byte_s, message_s)

    def seconds(self, size_bytes: float | Floats, pairs: tuple[Any, ...]) -> Floats:
        """Seconds of a transfer between some pairs of devices, given as indices into the two arrays."""
        trip_s = size_bytes * self.byte_s[pairs] + self.message_s[pairs]
        return np.asarray(np.where(np.asarray(size_bytes) > 0, trip_s, 0.0))


def fastest_first(problem: Problem, samples: int) -> list[int]:
    """Devices in the order in which they would be done with the whole network for so many samples."""
    passes_s = problem.table.forward_s[:, :, samples] + problem.table.backward_s[:, :, samples]
    return [int(device) for device in np.argsort(passes_s.sum(axis=0), kind="stable")]


def _until_cut(seconds: Floats) -> Floats:
    """Seconds of all layers before each cut, along the first axis."""
    return np.concatenate([np.zeros((1, *seconds.shape[1:])), np.cumsum(seconds, axis=0)])

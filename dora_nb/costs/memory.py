"""Bytes a replica of a stage needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.table import ADAMW_STATE_BYTES, Floats
from dora_nb.domain.plan import Weights
from dora_nb.domain.workload import Workload

#: A layer index, or an array of them.
Cuts = int | NDArray[np.int64]


class ReplicaBytes(NamedTuple):
    """Bytes that a replica needs: for each sample of a micro-batch, and in any case.

    Attributes
    ----------
    per_sample
        For each sample of a micro-batch.
    parameters
        For parameters, their gradients and optimizer state.
    fixed
        For the rest that does not grow with samples.
    """

    per_sample: Floats
    parameters: Floats
    fixed: Floats

    def of(self, samples: float | Floats | NDArray[np.int64]) -> Floats:
        """Bytes of one that takes so many samples of every micro-batch."""
        return np.asarray(samples * self.per_sample + self.parameters + self.fixed)


#: Tensors as wide as its output in a block's stash that are not sliced: its input, what two norms give or read, and
#: the sum behind attention.
WHOLE_TENSORS = 4


@dataclass(frozen=True)
class MemoryModel:
    """Memory of stages of one workload.

    A replica holds its parameters and, in training, their gradients and AdamW's two moments; the stash of its share
    of every micro-batch in flight; all boundary tensors of the iteration (our own, conservative choice: a stage never
    waits for a buffer); a copy of its gradients while replicas sum them; and the largest layer's working set. To
    generate it also holds the keys and values of its share of the whole batch, for the prompt and every new token.

    A stage that recomputes keeps what enters each of its layers instead of the layer's stash, and one layer's stash at
    a time while it is run again; the network's last layer, which is not run again, keeps its own.

    A device that holds a share of its layers' parts holds that share of what the sliced layers keep, but for the
    :data:`WHOLE_TENSORS` of their stash that every device has whole; boundary tensors and the working set, in which
    sums are received, are counted whole (our own, conservative choice).

    Stages are given as layers [first, stop), one stage or arrays of stages that broadcast together.
    """

    workload: Workload

    @cached_property
    def _parameters(self) -> Floats:
        return _running_sum([layer.parameters for layer in self.workload.layers])

    @cached_property
    def _int8_parameters(self) -> Floats:
        return _running_sum(list(self.workload.int8_parameters))

    @cached_property
    def _sliced_parameters(self) -> Floats:
        return _running_sum([layer.parameters if layer.parts > 1 else 0 for layer in self.workload.layers])

    @cached_property
    def _sliced_stash(self) -> Floats:
        sliced = [layer.stash_elements - WHOLE_TENSORS * layer.output_elements for layer in self.workload.layers]
        both = zip(self.workload.layers, sliced, strict=True)
        return _running_sum([max(elements, 0) if layer.parts > 1 else 0 for layer, elements in both])

    @cached_property
    def _sliced_cache(self) -> Floats:
        return self._cache_of([layer.kv_elements if layer.parts > 1 else 0 for layer in self.workload.layers])

    @cached_property
    def _stash(self) -> Floats:
        return _running_sum([layer.stash_elements for layer in self.workload.layers])

    @cached_property
    def _largest_stash(self) -> Floats:
        """Largest stash of a layer in [first, stop), shape (layers, layers + 1)."""
        return _largest([layer.stash_elements for layer in self.workload.layers])

    @cached_property
    def _entering_bytes(self) -> Floats:
        """Bytes of one sample that enter the layers before a cut, added up."""
        return _running_sum(self._cut_bytes[:-1])

    @cached_property
    def _cut_bytes(self) -> Floats:
        """Bytes of one sample across every cut; at the two ends the input's, and the label's or the output's."""
        inner = [self.workload.cut_bytes(cut) for cut in range(1, len(self.workload.layers))]
        end = self.workload.label_bytes if self.workload.trains else self.workload.output_bytes
        return np.array([self.workload.input_bytes, *inner, end])

    @cached_property
    def _working_set(self) -> Floats:
        """Largest traffic of a layer in [first, stop), shape (layers, layers + 1)."""
        return _largest([layer.traffic_elements for layer in self.workload.layers])

    @cached_property
    def _token_set(self) -> Floats:
        """Largest traffic of a layer in [first, stop) for one further token, its cache apart."""
        tokens = [layer.next_token for layer in self.workload.layers]
        return _largest([0 if token is None else token.traffic_elements for token in tokens])

    @cached_property
    def _cache(self) -> Floats:
        """Elements of one sample's key-value cache at its longest."""
        return self._cache_of([layer.kv_elements for layer in self.workload.layers])

    def _cache_of(self, elements: list[int]) -> Floats:
        workload = self.workload
        if not workload.generates or workload.sequence is None:
            return np.zeros(len(workload.layers) + 1)
        return np.asarray((workload.sequence + workload.new_tokens) * _running_sum(elements))

    def _is_whole(self, first: Cuts, stop: Cuts) -> NDArray[np.bool_]:
        return np.asarray((np.asarray(first) == 0) & (np.asarray(stop) == len(self.workload.layers)))

    def parameters(self, first: Cuts, stop: Cuts, hosts_first_layer: bool = False) -> Floats:
        """Parameters that a stage holds, tied ones counted once per device."""
        held = self._parameters[stop] - self._parameters[first]
        tied = self.workload.tied_parameters
        if hosts_first_layer:
            return np.asarray(held + (self.workload.layers[0].parameters - tied))
        return np.asarray(held - tied * self._is_whole(first, stop))

    def gradient_parameters(self, first: Cuts, stop: Cuts, hosts_first_layer: bool = False) -> Floats:
        """Parameters whose gradients the replicas of a stage sum among themselves.

        Tied parameters that also live in another stage are summed separately, across both stages.
        """
        held = self.parameters(first, stop, hosts_first_layer)
        if hosts_first_layer:
            return held
        at_an_end = (np.asarray(first) == 0) | (np.asarray(stop) == len(self.workload.layers))
        return np.asarray(held - self.workload.tied_parameters * (at_an_end & ~self._is_whole(first, stop)))

    def replica_bytes(
        self,
        first: Cuts,
        stop: Cuts,
        *,
        samples: float | Floats,
        in_flight: int,
        micro_batches: int,
        replicated: bool,
        hosts_first_layer: bool = False,
        recomputes: bool = False,
        weights: Weights | None = None,
        share: float | Floats = 1.0,
    ) -> Floats:
        """Bytes that one replica of a stage needs.

        Parameters
        ----------
        first, stop
            The stage's layers.
        samples
            Samples of every micro-batch the replica takes.
        in_flight
            Micro-batches the stage holds at once.
        micro_batches
            Micro-batches of the iteration.
        replicated
            Whether the stage has other replicas.
        hosts_first_layer
            Whether the replica also runs the network's first layer for the first stage, whose stash it keeps.
        recomputes
            Whether the stage runs its layers forward again before their backward pass.
        weights
            In what weights are held, see :attr:`~dora_nb.domain.plan.Stage.weights`.
        share
            Of the parts of every layer that can be sliced; see :attr:`~dora_nb.domain.plan.Stage.shards`.
        """
        whole = self.replica_parts(
            first,
            stop,
            in_flight=in_flight,
            micro_batches=micro_batches,
            replicated=replicated,
            hosts_first_layer=hosts_first_layer,
            recomputes=recomputes,
            weights=weights,
            share=share,
        )
        return whole.of(samples)

    def replica_parts(
        self,
        first: Cuts,
        stop: Cuts,
        *,
        in_flight: int,
        micro_batches: int,
        replicated: bool,
        hosts_first_layer: bool = False,
        recomputes: bool = False,
        weights: Weights | None = None,
        share: float | Floats = 1.0,
    ) -> ReplicaBytes:
        """What :meth:`replica_bytes` adds up, before the replica's samples are known; parameters as there."""
        workload, element = self.workload, self.workload.bytes_inside(weights)
        parameters = self.parameters(first, stop, hosts_first_layer)
        away = np.asarray(1.0 - share)  # what others hold of the sliced layers
        is_sliced = bool(away.any())
        sliced = away * (self._sliced_parameters[stop] - self._sliced_parameters[first]) if is_sliced else 0.0
        parameters = parameters - sliced
        per_parameter, stashes, directions = float(element), 0, 1
        fixed = np.zeros(np.shape(parameters))
        if weights == "int8":
            fixed = (1.0 - element) * (self._int8_parameters[stop] - self._int8_parameters[first])
        if workload.trains:
            per_parameter += element + ADAMW_STATE_BYTES
            stashes, directions = min(in_flight, micro_batches), 2
            summed = self.gradient_parameters(first, stop, hosts_first_layer) - sliced
            fixed = (parameters - summed) * element  # the other copy's gradient of tied parameters
            if replicated:
                fixed = fixed + summed * element
        per_sample = self._kept_bytes(first, stop, stashes, recomputes)
        if is_sliced:
            per_sample = per_sample - away * stashes * (self._sliced_stash[stop] - self._sliced_stash[first]) * element
        working_set = self._working_set[first, stop]
        if workload.generates:
            working_set = np.maximum(working_set, micro_batches * self._token_set[first, stop])
        if hosts_first_layer:
            working_set = np.maximum(working_set, workload.layers[0].traffic_elements)
        per_sample = per_sample + working_set * element
        per_sample = per_sample + directions * micro_batches * (self._cut_bytes[first] + self._cut_bytes[stop])
        cache = self._cache[stop] - self._cache[first]
        if is_sliced:
            cache = cache - away * (self._sliced_cache[stop] - self._sliced_cache[first])
        per_sample = per_sample + micro_batches * cache * element
        if hosts_first_layer:
            stash = workload.layers[0].stash_elements * element if workload.trains else 0
            ends = self._cut_bytes[0] + self._cut_bytes[1]
            per_sample = per_sample + micro_batches * (stash + directions * ends)
        return ReplicaBytes(per_sample, parameters * per_parameter, fixed)

    def least_bytes(self, kinds: Iterable[Weights] = ()) -> float:
        """Bytes that the network's parameters take at least, however it is split; in training without ``kinds``.

        Parameters
        ----------
        kinds
            In what stages may hold their weights beside the workload's precision: every layer is counted in what it
            takes fewest bytes in. Tied parameters may be left out twice of what is saved: too little, but never too
            much, is counted.
        """
        workload, layers = self.workload, np.arange(len(self.workload.layers))

        def held(first: Cuts, stop: Cuts, weights: Weights | None = None) -> Floats:
            return self.replica_bytes(
                first, stop, samples=0.0, in_flight=1, micro_batches=1, replicated=False, weights=weights
            )

        by_layer = [held(layers, layers + 1, weights) for weights in (None, *kinds)]
        saved = by_layer[0] - np.min(by_layer, axis=0)
        return float(held(0, len(workload.layers)) - saved.sum())

    def _kept_bytes(self, first: Cuts, stop: Cuts, stashes: int, recomputes: bool) -> Floats:
        """Bytes of one sample of so many micro-batches that are kept from forward to backward."""
        element = self.workload.bytes_per_element
        if not recomputes:
            return np.asarray(stashes * (self._stash[stop] - self._stash[first]) * element)
        again = np.minimum(stop, len(self.workload.layers) - 1)
        kept = self._entering_bytes[again] - self._entering_bytes[first]
        kept = kept + (self._stash[stop] - self._stash[again]) * element
        return np.asarray(stashes * kept + self._largest_stash[first, again] * element)


def _largest(values: list[int]) -> Floats:
    """Largest value in [first, stop), shape (values, values + 1)."""
    largest = np.zeros((len(values), len(values) + 1))
    for first in range(len(values)):
        largest[first, first + 1 :] = np.maximum.accumulate(np.array(values[first:], dtype=float))
    return largest


def _running_sum(values: list[int] | Floats) -> Floats:
    return np.concatenate([[0.0], np.cumsum(np.array(values, dtype=float))])

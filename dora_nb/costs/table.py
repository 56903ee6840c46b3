"""Seconds of every layer on every device: from measurements where there are any, else from the roofline."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dora_nb.domain.cluster import Cluster, Device
from dora_nb.domain.layer import Layer
from dora_nb.domain.plan import Weights
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.units import counted

Floats = NDArray[np.float64]

#: A backward pass computes the gradient of the input and of the parameters: twice the forward pass's products and
#: twice its memory traffic. The usual counting rule; ours to apply to every operator class.
BACKWARD_FACTOR = 2.0

#: AdamW keeps two moments in fp32 and reads and writes both.
ADAMW_STATE_BYTES = 8

#: Numbers in one array of a table (128 MB); there are up to eight such arrays.
LARGEST_TABLE = 2**24


@dataclass(frozen=True)
class CostTable:
    """Compute time by layer, device and number of samples.

    Attributes
    ----------
    forward_s, backward_s
        Seconds, shape (layers, devices, most samples + 1); entry n is the time of n samples at once, entry 0 is 0.
        ``backward_s`` is zero where the workload does not train.
    step_s
        Seconds of the optimizer step of one layer's parameters, shape (layers, devices).
    status
        ``measured`` where the times come from a profile, ``estimated`` from the roofline.
    token_s
        Seconds of one further token of every sample, on average over the tokens that are generated, same shape as
        ``forward_s``; None where the workload does not generate.
    narrower
        The same with weights in fewer bits, by what they are held in; none where that is not known, and in training.
    """

    forward_s: Floats
    backward_s: Floats
    step_s: Floats
    status: Literal["measured", "estimated"]
    token_s: Floats | None = None
    narrower: Mapping[Weights, CostTable] = field(default_factory=dict)

    def with_weights(self, weights: Weights | None) -> CostTable:
        """The times of a stage that holds its weights so.

        Raises
        ------
        InputError
            If they are not known.
        """
        if weights is None:
            return self
        if weights not in self.narrower:
            raise InputError(
                "table.narrower", sorted(self.narrower), f"times with weights in {weights}, which a stage is to have"
            )
        return self.narrower[weights]

    def with_narrower(self, weights: Collection[Weights]) -> CostTable:
        """The table with the times of these weights in fewer bits, and of no others.

        Raises
        ------
        InputError
            If some are not known.
        """
        return replace(self, narrower={each: self.with_weights(each) for each in weights})

    def of_devices(self, devices: NDArray[np.int64]) -> CostTable:
        """The times of some of the devices, by index."""
        return CostTable(
            forward_s=self.forward_s[:, devices],
            backward_s=self.backward_s[:, devices],
            step_s=self.step_s[:, devices],
            status=self.status,
            token_s=None if self.token_s is None else self.token_s[:, devices],
            narrower={weights: table.of_devices(devices) for weights, table in self.narrower.items()},
        )

    def of_layers(self, first: int, stop: int) -> CostTable:
        """The times of the layers [first, stop)."""
        return CostTable(
            forward_s=self.forward_s[first:stop],
            backward_s=self.backward_s[first:stop],
            step_s=self.step_s[first:stop],
            status=self.status,
            token_s=None if self.token_s is None else self.token_s[first:stop],
            narrower={weights: table.of_layers(first, stop) for weights, table in self.narrower.items()},
        )

    def up_to(self, batch: int) -> CostTable:
        """The times of up to so many samples."""
        samples = slice(0, batch + 1)
        return replace(
            self,
            forward_s=self.forward_s[..., samples],
            backward_s=self.backward_s[..., samples],
            token_s=None if self.token_s is None else self.token_s[..., samples],
            narrower={weights: table.up_to(batch) for weights, table in self.narrower.items()},
        )

    @property
    def least(self) -> CostTable:
        """The shortest times, whatever the weights are held in."""
        forward_s, token_s = self.forward_s, self.token_s
        for table in self.narrower.values():
            forward_s = np.minimum(forward_s, table.forward_s)
            if token_s is not None and table.token_s is not None:
                token_s = np.minimum(token_s, table.token_s)
        return replace(self, forward_s=forward_s, token_s=token_s)

    def slower(self, factors: Floats) -> CostTable:
        """The table with every device slower by a factor of its own. Shape (devices,)."""
        each = factors[None, :, None]
        return replace(
            self,
            forward_s=self.forward_s * each,
            backward_s=self.backward_s * each,
            step_s=self.step_s * factors,
            token_s=None if self.token_s is None else self.token_s * each,
            narrower={weights: table.slower(factors) for weights, table in self.narrower.items()},
        )

    def __repr__(self) -> str:
        layers, devices, entries = self.forward_s.shape
        times = f"{counted(layers, 'layer')} on {counted(devices, 'device')}"
        return f"CostTable: {times}, up to {counted(entries - 1, 'sample')} at once, {self.status}"

    def same_times(self, other: CostTable) -> bool:
        """Whether all seconds are equal."""
        if self.narrower.keys() != other.narrower.keys():
            return False
        pairs = [(self.forward_s, other.forward_s), (self.backward_s, other.backward_s), (self.step_s, other.step_s)]
        if self.token_s is not None and other.token_s is not None:
            pairs.append((self.token_s, other.token_s))
        same = all(np.array_equal(ours, theirs) for ours, theirs in pairs)
        return same and all(table.same_times(other.narrower[weights]) for weights, table in self.narrower.items())


def cost_table(workload: Workload, cluster: Cluster) -> CostTable:
    """The roofline estimate for a workload on a cluster.

    Seconds of a layer for n samples are ``max(n x FLOPs / rate, bytes moved / bandwidth) + overhead``, with the
    sustained rate of the layer's operator class in the workload's precision (Williams et al., "Roofline", 2009; the
    rates are the devices' own, see ``data/README.md``). With weights in 8 bits fewer bytes are moved, and products take
    as long as before (our assumption: what is multiplied is converted on the way). A stage in FP16 or BF16 moves half
    the bytes of FP32 and computes at the device's rate in it, or where that is not known at the workload's (our
    assumption); converting what enters and leaves it is not counted.

    Parameters
    ----------
    workload, cluster
        What is to run, and on what.

    Returns
    -------
    CostTable

    Raises
    ------
    InputError
        If a device has no rate for an operator class and precision that the workload needs, or the batch or the number
        of new tokens is beyond what a table can hold.
    """
    _check_size(workload, cluster)
    kinds: tuple[Weights, ...] = () if workload.trains else get_args(Weights)
    narrower = {weights: _roofline(workload, cluster, weights) for weights in kinds}
    return replace(_roofline(workload, cluster, None), narrower=narrower)


def _check_size(workload: Workload, cluster: Cluster) -> None:
    """Refuse a table of more numbers than memory is meant for."""
    most = LARGEST_TABLE // (len(workload.layers) * len(cluster.devices)) - 1
    if workload.batch > most:
        raise InputError(
            "batch",
            workload.batch,
            f"at most {most:,} for {len(workload.layers)} layers on {len(cluster.devices)} devices: their times are "
            "kept for every number of samples; give the samples of one iteration or request",
        )
    if (workload.batch + 1) * workload.decode_steps > LARGEST_TABLE:
        raise InputError(
            "new_tokens", workload.new_tokens, f"at most {LARGEST_TABLE // (workload.batch + 1):,} with this batch"
        )


def _roofline(workload: Workload, cluster: Cluster, weights: Weights | None) -> CostTable:
    """The estimate with weights in the workload's precision, or in fewer bits."""
    element = workload.bytes_inside(weights)
    samples = np.arange(workload.batch + 1, dtype=float)
    shape = (len(workload.layers), len(cluster.devices), workload.batch + 1)
    forward, backward = np.zeros(shape), np.zeros(shape)
    step = np.zeros(shape[:2])
    for d, device in enumerate(cluster.devices):
        for index, layer in enumerate(workload.layers):
            compute_s = samples * layer.forward_flops / _rate(device, layer, workload, weights)
            moved_bytes = (
                _read_parameters(layer) * _weight_bytes(workload, index, weights)
                + samples * layer.traffic_elements * element
            )
            busy_s = np.maximum(compute_s, moved_bytes / device.memory_bytes_per_s)
            forward[index, d, 1:] = busy_s[1:] + device.layer_overhead_s
            if workload.trains:
                backward[index, d, 1:] = BACKWARD_FACTOR * busy_s[1:] + device.layer_overhead_s
                step[index, d] = _step_bytes(layer, workload) / device.memory_bytes_per_s
    token = _token_times(workload, cluster, weights) if workload.generates else None
    return CostTable(forward, backward, step, "estimated", token)


def _token_times(workload: Workload, cluster: Cluster, weights: Weights | None) -> Floats:
    """Mean seconds of the steps in which one token is added to every sample.

    The same roofline, step by step: the context grows, and with it the attention and the cache that is read. All
    parameters are read in every step, however many samples there are.
    """
    assert workload.sequence is not None, "a workload that generates has a prompt"
    samples = np.arange(workload.batch + 1, dtype=float)[:, None]
    # Tokens that a step attends to: the prompt, what was generated before, and its own. One step if there are none.
    context = workload.sequence + np.arange(1.0, max(workload.decode_steps, 1) + 1)[None]
    seconds = np.zeros((len(workload.layers), len(cluster.devices), workload.batch + 1))
    for index, layer in enumerate(workload.layers):
        token = layer.next_token
        assert token is not None, "every layer of a workload that generates has its figures of a further token"
        flops = samples * (token.flops + token.context_flops * context)
        elements = samples * (token.traffic_elements + layer.kv_elements * context)
        weights_bytes = token.read_parameters * _weight_bytes(workload, index, weights)
        moved_bytes = weights_bytes + elements * workload.bytes_inside(weights)
        for d, device in enumerate(cluster.devices):
            memory_s = moved_bytes / device.memory_bytes_per_s
            busy_s = np.maximum(flops / _rate(device, layer, workload, weights), memory_s).mean(axis=1)
            seconds[index, d, 1:] = busy_s[1:] + device.layer_overhead_s
    return seconds


def _rate(device: Device, layer: Layer, workload: Workload, weights: Weights | None) -> float:
    if layer.operator == "lookup":  # moves memory only
        return np.inf
    rates = device.flops_per_s.get(layer.operator, {})
    if workload.precision not in rates:
        known = [f"{operator} in {precision}" for operator, by in device.flops_per_s.items() for precision in by]
        raise InputError(
            f"devices.{device.id}.flops_per_s.{layer.operator}.{workload.precision}",
            None,
            f"a sustained rate; {device.profile} has {', '.join(known) or 'none'}",
        )
    own = rates[workload.precision]
    return own if weights is None or weights == "int8" else rates.get(weights, own)


def _weight_bytes(workload: Workload, layer: int, weights: Weights | None) -> int:
    """Bytes of one parameter of a layer."""
    return 1 if weights == "int8" and workload.int8_parameters[layer] else workload.bytes_inside(weights)


def _read_parameters(layer: Layer) -> int:
    return layer.parameters if layer.read_parameters is None else layer.read_parameters


def _step_bytes(layer: Layer, workload: Workload) -> float:
    # The parameter is read and written, its gradient read, both moments read and written.
    return float(layer.parameters * (3 * workload.bytes_per_element + 2 * ADAMW_STATE_BYTES))

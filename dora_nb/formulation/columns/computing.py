"""What a stage computes: seconds and joules."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np

from dora_nb.costs.table import CostTable, Floats
from dora_nb.domain.plan import Weights
from dora_nb.formulation.columns.held import Held, is_whole
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.problem import Problem


class Sliced(NamedTuple):
    """Seconds before each cut of the layers that can be sliced, each (cuts, devices, samples)."""

    forward_until: Floats
    backward_until: Floats
    step_until: Floats
    token_until: Floats


class Computing:
    """Seconds and joules that stages take, each (share vectors or 1, stages or 1)."""

    def __init__(self, problem: Problem) -> None:
        self.workload, self.cluster = problem.workload, problem.cluster
        self.table, self.terms = problem.table, problem.terms
        self.layers = len(self.workload.layers)
        self.idle_w = np.array([device.idle_w for device in self.cluster.devices])
        self.draw_w = np.array([device.active_w for device in self.cluster.devices]) - self.idle_w
        tables: list[tuple[Weights | None, CostTable]] = [(None, self.table), *self.table.narrower.items()]
        self.forward_until = {weights: _until_cut(table.forward_s) for weights, table in tables}
        self.backward_until = _until_cut(self.table.backward_s)
        self.step_until = _until_cut(self.table.step_s)
        self.token_until = {
            weights: _until_cut(table.token_s) for weights, table in tables if table.token_s is not None
        }

    @cached_property
    def sliced(self) -> Sliced:
        """Seconds of the layers that can be sliced, and of no others."""
        can = np.array([layer.parts > 1 for layer in self.workload.layers])
        table, by_layer = self.table, can[:, None, None]
        return Sliced(
            _until_cut(table.forward_s * by_layer),
            _until_cut(table.backward_s * by_layer),
            _until_cut(table.step_s * can[:, None]),
            _until_cut((0.0 if table.token_s is None else table.token_s) * by_layer),
        )

    @cached_property
    def again_until(self) -> Floats:
        """Seconds of backward passes before each cut where layers are run again, each right before its own."""
        again_s = (
            self.table.forward_s * (np.arange(self.layers) < self.layers - 1)[:, None, None]
        )  # not the last of all
        return self.backward_until + _until_cut(again_s)

    def backward_until_s(self, recomputes: bool) -> Floats:
        """Seconds of the backward passes of all layers before each cut, shape (cuts, devices, samples)."""
        return self.again_until if recomputes else self.backward_until

    def figures(self, held: Held) -> dict[str, Floats]:
        """Of a micro-batch's passes, of the steps, and of the batteries that they draw on."""
        first, stop, hosts = held.first, held.stop, held.hosts
        micro_batches, token_groups = held.micro_batches, held.token_groups
        forward_until = self.forward_until[held.weights]
        backward_until = self.backward_until_s(held.recomputes)
        shape = (len(held.shares), len(first))
        forward, backward, step, decode, energy = (np.zeros(shape) for _ in range(5))
        host_forward, host_backward = (np.zeros((shape[0], 1)) for _ in range(2))
        cap = np.full((1, 1), np.inf)
        batteries = {f"battery_j {d}": np.zeros((1, 1)) for d in self.terms.priced}
        for place, d in enumerate(held.devices):
            samples = held.samples[:, place]
            own_forward = _between(forward_until, d, samples, first, stop)
            own_backward = _between(backward_until, d, samples, first, stop)
            if held.parts:
                sliced_s = _between(self.sliced.forward_until, d, samples, first, stop)
                own_forward = own_forward - (1.0 - held.share(place)) * sliced_s
                sliced_s = _between(self.sliced.backward_until, d, samples, first, stop)
                own_backward = own_backward - (1.0 - held.share(place)) * sliced_s
            busy = own_forward + own_backward
            if hosts:
                own_host = [table[0, d][:, samples].T for table in (self.table.forward_s, self.table.backward_s)]
                host_forward, host_backward = (
                    np.maximum(host_forward, own_host[0]),
                    np.maximum(host_backward, own_host[1]),
                )
                busy = busy + sum(own_host)
            own_step = self._step_s(d, first, stop, hosts)
            if held.parts:
                sliced_step_s = self.sliced.step_until[stop, d] - self.sliced.step_until[first, d]
                own_step = own_step - (1.0 - held.share(place)) * sliced_step_s
            forward, backward = np.maximum(forward, own_forward), np.maximum(backward, own_backward)
            step = np.maximum(step, own_step)
            own_decode = self._decode_s(held, place, d, micro_batches // token_groups * samples)
            decode = np.maximum(decode, own_decode)
            own_j = (micro_batches * busy + own_step + token_groups * own_decode) * self.draw_w[d]
            energy += own_j
            if np.isfinite(self.terms.battery_j[d]).any():
                cap = np.minimum(cap, self.terms.cap_s(d, own_j, self.idle_w[d]))
            for priced in self.terms.priced:
                if (d == priced).any():
                    batteries[f"battery_j {priced}"] = np.where(d == priced, own_j, batteries[f"battery_j {priced}"])
        return {
            "forward_s": forward,
            "backward_s": backward,
            "step_s": step,
            "host_forward_s": host_forward,
            "host_backward_s": host_backward,
            "decode_s": decode,
            "steps_s": token_groups * decode,
            "compute_j": energy,
            "cap_s": cap,
            **batteries,
        }

    def _decode_s(self, held: Held, place: int, device: Ints, samples: Ints) -> Floats:
        """Seconds of all steps after the first token on one device, shape (share vectors, stages) or (1, 1)."""
        if held.weights not in self.token_until:
            return np.zeros((1, 1))
        step_s = _between(self.token_until[held.weights], device, samples, held.first, held.stop)
        if held.parts:
            sliced_s = _between(self.sliced.token_until, device, samples, held.first, held.stop)
            step_s = step_s - (1.0 - held.share(place)) * sliced_s
        return np.asarray(self.workload.decode_steps * step_s)

    def _step_s(self, device: Ints, first: Ints, stop: Ints, hosts: bool) -> Floats:
        """Optimizer seconds on one device, parameters held twice counted once."""
        seconds = np.asarray(self.step_until[stop, device] - self.step_until[first, device])
        if not self.workload.tied_parameters:
            return seconds
        embedding_s = self.table.step_s[0, device]
        tied_s = embedding_s * self.workload.tied_parameters / self.workload.layers[0].parameters
        shared_s = embedding_s - tied_s if hosts else -tied_s * is_whole(first, stop, self.layers)
        return np.asarray(seconds + shared_s)


def _until_cut(by_layer: Floats) -> Floats:
    return np.concatenate([np.zeros((1, *by_layer.shape[1:])), np.cumsum(by_layer, axis=0)])


def _between(until_s: Floats, device: Ints, samples: Ints, first: Ints, stop: Ints) -> Floats:
    """Seconds of layers [first, stop) on a device of each stage, shape (share vectors, stages)."""
    return np.asarray((until_s[stop, device][:, samples] - until_s[first, device][:, samples]).T)

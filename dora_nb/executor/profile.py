"""Times the layers of the small network on one thread of this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dora_nb.domain.workload import Workload
from dora_nb.executor.data import label_count, loss_of, micro_batch
from dora_nb.executor.models import build_layer
from dora_nb.executor.replica import optimizer_of
from dora_nb.executor.threads import one_thread

REPETITIONS, WARM_UP = 9, 2


class LayerTimes(NamedTuple):
    """Measured seconds of one layer.

    Attributes
    ----------
    forward_s, backward_s
        By number of samples; no backward passes without training. The last layer's include the loss in training.
    step_s
        Of the optimizer on the layer's parameters; 0 without training.
    """

    forward_s: dict[int, float]
    backward_s: dict[int, float]
    step_s: float


def profile_layers(workload: Workload, samples: Iterable[int], dtype: torch.dtype) -> tuple[LayerTimes, ...]:
    """Time every layer; blocks are alike, so one of them speaks for all.

    Processor time of this thread is taken, which other processes disturb by a few percent where they disturb wall time
    by tens; the median of several repetitions.

    Parameters
    ----------
    workload
        Scaled down.
    samples
        Numbers of samples to time.
    dtype
        Of parameters and activations.
    """
    counts = sorted(set(samples))
    last = len(workload.layers) - 1
    with one_thread():
        of_kind = {index: _profile(workload, index, counts, dtype) for index in (0, 1, last)}
    return tuple(of_kind[min(index, 1) if index < last else last] for index in range(last + 1))


def _profile(workload: Workload, index: int, counts: list[int], dtype: torch.dtype) -> LayerTimes:
    assert workload.architecture is not None, "a scaled-down workload has an architecture"
    layer = build_layer(workload.architecture, index, dtype, 0, workload.image_px)
    forward_s, backward_s = {}, {}
    for count in counts:
        forward_s[count], backward_s[count] = _passes(workload, index, layer, count, dtype)
    if not workload.trains:
        return LayerTimes(forward_s, {}, 0.0)
    return LayerTimes(forward_s, backward_s, _median(optimizer_of(layer.parameters()).step))


def _passes(workload: Workload, index: int, layer: nn.Module, count: int, dtype: torch.dtype) -> tuple[float, float]:
    """Median seconds of a forward and a backward pass of so many samples."""
    data = micro_batch(workload, 0, 0, 0, count, dtype)
    entering = data.inputs
    if index > 0:
        assert workload.architecture is not None, "checked above"
        embedding = build_layer(workload.architecture, 0, dtype, 0, workload.image_px)
        entering = embedding(data.inputs).detach()
    is_last = index == len(workload.layers) - 1

    def forward() -> Tensor:
        with torch.set_grad_enabled(workload.trains):
            x = entering.requires_grad_(workload.trains) if index > 0 else entering
            x = layer(x)
            return loss_of(x, data.labels, label_count(workload)) if is_last and workload.trains else x

    if not workload.trains:
        return _median(forward), 0.0
    forwards, backwards = [], []
    for _ in range(WARM_UP + REPETITIONS):
        start_s = time.thread_time()
        leaving = forward()
        turned_s = time.thread_time()
        gradient = None if is_last else torch.ones_like(leaving)
        began_s = time.thread_time()
        torch.autograd.backward(leaving, gradient)
        backwards.append(time.thread_time() - began_s)
        forwards.append(turned_s - start_s)
    return statistics.median(forwards[WARM_UP:]), statistics.median(backwards[WARM_UP:])


def _median(work: Callable[[], object]) -> float:
    times = []
    for _ in range(WARM_UP + REPETITIONS):
        start_s = time.thread_time()
        work()
        times.append(time.thread_time() - start_s)
    return statistics.median(times[WARM_UP:])

"""Times the layers of a task on one thread of this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dora_nb.domain.plan import Weights
from dora_nb.domain.run_timeline import INFERENCE
from dora_nb.executor.device.adamw import AdamW
from dora_nb.executor.device.backward import run_backward
from dora_nb.executor.device.cache import KeyValueCache
from dora_nb.executor.networks.chain import built_layer, kind_of, tied_names
from dora_nb.executor.networks.weights import held_in
from dora_nb.executor.tasks.data import micro_batch
from dora_nb.executor.tasks.loss import part_of_loss
from dora_nb.executor.tasks.task import Cut, Data, Loss, MicroBatch, Network, Task, torch_dtype
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
    token_s
        Of one further token, by number of samples; None where none are generated.
    """

    forward_s: dict[int, float]
    backward_s: dict[int, float]
    step_s: float
    token_s: dict[int, float] | None = None


def profile_layers(
    task: Task, samples: Iterable[int], decoded: Iterable[int] = (), weights: Weights | None = None
) -> tuple[LayerTimes, ...]:
    """Time every layer, a layer in memory at a time; of layers of one kind, the first speaks for all.

    Processor time of this thread is taken, which other processes disturb by a few percent where they disturb wall time
    by tens; the median of several repetitions.

    Parameters
    ----------
    task
        What is computed.
    samples
        Numbers of samples to time.
    decoded
        Numbers of samples of which to time a further token, with half of the tokens before it that are generated.
    weights
        In what every layer holds its weights, see :attr:`~dora_nb.domain.plan.Stage.weights`.
    """
    counts = sorted(set(samples))
    network: Network = task.network.build()
    loss: Loss = task.loss.function()
    data: Data = task.data.build()
    widest = micro_batch(data, INFERENCE, 0, counts[-1], task.torch_dtype)
    kinds = [(kind_of(network, index), index == task.layer_count - 1) for index in range(task.layer_count)]
    tied = () if tied_names(network) is None else (0, task.layer_count - 1)
    measured = {}
    with one_thread(), torch.random.fork_rng(devices=()):
        for index, kind in enumerate(kinds):
            if kind not in measured:
                layer = built_layer(network, index, dtype=task.torch_dtype, seed=task.seed)
                layer = held_in(layer, weights, tied=index in tied)
                measured[kind] = _profile(task, index, layer, counts, widest, loss)
                if task.generates:
                    token_s = {count: _token_s(task, index, layer, count) for count in sorted(set(decoded))}
                    measured[kind] = measured[kind]._replace(token_s=token_s)
    return tuple(measured[kind] for kind in kinds)


def _profile(task: Task, index: int, layer: nn.Module, counts: list[int], widest: MicroBatch, loss: Loss) -> LayerTimes:
    layer.train(task.trains)
    forward_s, backward_s = {}, {}
    for count in counts:
        entering = widest.inputs[:count] if index == 0 else _anything(task.cuts[index - 1], count)
        if task.generates and index == task.layer_count - 1:
            entering = entering[:, -1:]
        labels = widest.labels[:count] if task.trains and index == task.layer_count - 1 else None
        forward_s[count], backward_s[count] = _passes(task, layer, entering, labels, loss)
    trained = [each for each in layer.parameters() if each.requires_grad]
    if not task.trains:
        return LayerTimes(forward_s, {}, 0.0)
    for each in trained:
        if each.grad is None:
            each.grad = torch.zeros_like(each)
    return LayerTimes(forward_s, backward_s, _median(AdamW(trained, task.optimizer).step) if trained else 0.0)


def _anything(cut: Cut, count: int) -> Tensor:
    """What a layer before could give: small random numbers, or ids of 0."""
    shape, dtype = (count, *cut.shape), torch_dtype(cut.dtype)
    if not dtype.is_floating_point:
        return torch.zeros(shape, dtype=dtype)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def _passes(task: Task, layer: nn.Module, entering: Tensor, labels: Tensor | None, loss: Loss) -> tuple[float, float]:
    """Median seconds of a forward and a backward pass; with labels, the loss is part of them."""
    floats = entering.is_floating_point()
    if task.generates:
        cache = KeyValueCache(len(entering), task.most_tokens)
        return _median(lambda: _prompt(layer, entering, cache)), 0.0

    def forward() -> Tensor:
        with torch.set_grad_enabled(task.trains):
            x: Tensor = layer(entering.detach().requires_grad_(task.trains and floats))
            return x if labels is None else part_of_loss(loss, x, labels, task.batch)

    if not task.trains:
        return _median(forward), 0.0
    forwards, backwards = [], []
    for _ in range(WARM_UP + REPETITIONS):
        start_s = time.thread_time()
        leaving = forward()
        turned_s = time.thread_time()
        gradient = None if labels is not None else torch.ones_like(leaving)
        began_s = time.thread_time()
        if leaving.requires_grad:
            run_backward(leaving, gradient)
        backwards.append(time.thread_time() - began_s)
        forwards.append(turned_s - start_s)
    return statistics.median(forwards[WARM_UP:]), statistics.median(backwards[WARM_UP:])


def _prompt(layer: nn.Module, entering: Tensor, cache: KeyValueCache) -> None:
    cache.clear()
    with torch.no_grad():
        layer(entering, cache.part())


def _token_s(task: Task, index: int, layer: nn.Module, count: int) -> float:
    """Median seconds of one further token, around the middle of those that are generated."""
    before = max(1, task.cuts[0].shape[0] + task.decode_steps // 2 - (WARM_UP + REPETITIONS) // 2)
    cache = KeyValueCache(count, before + WARM_UP + REPETITIONS)
    if index == 0:
        text = torch.zeros((count, before + 1), dtype=torch.int64)
    else:
        cut = task.cuts[index - 1]
        text = _anything(Cut(shape=(before + 1, *cut.shape[1:]), dtype=cut.dtype), count)
    with torch.no_grad():
        layer(text[:, :-1], cache.part())
        return _median(lambda: layer(text[:, -1:], cache.part()))


def _median(work: Callable[[], object]) -> float:
    times = []
    for _ in range(WARM_UP + REPETITIONS):
        start_s = time.thread_time()
        work()
        times.append(time.thread_time() - start_s)
    return statistics.median(times[WARM_UP:])

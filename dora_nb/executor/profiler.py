"""Any ``torch.nn.Sequential`` as a workload, with what its layers take on this device.

Every module of the sequence is one layer. Parameters and outputs are counted, operations too (torch's own counter: 2
per multiply-add of products, convolutions and attention), and what autograd keeps for the backward pass is measured:
every storage once, parameters left out, and a tensor between two layers counted with the first of them that keeps it.
"""

from __future__ import annotations

import contextlib
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dora_nb.domain.layer import Layer, OperatorClass, Precision
from dora_nb.domain.profile import LayerProfile, Profile
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.executor.replica import optimizer_of
from dora_nb.executor.threads import one_thread

#: Passes that are timed, and those before them that are not.
REPETITIONS, WARM_UP = 9, 2

_PRECISION: dict[torch.dtype, Precision] = {torch.float64: "fp64", torch.float32: "fp32", torch.float16: "fp16"}


def profile(
    model: nn.Sequential,
    sample: Tensor,
    *,
    mode: Literal["training", "inference"] = "inference",
    batch: int = 1,
    samples: Iterable[int] | None = None,
    name: str = "",
    repetitions: int = REPETITIONS,
) -> Profile:
    """Measure every layer of a model on this device.

    Processor time of one thread is taken, which other processes disturb by a few percent where they disturb wall time
    by tens; the median of several passes. The model, its gradients and torch's random numbers stay as they are.

    Parameters
    ----------
    model
        Layers in the order in which they run; each takes one tensor and gives one, the samples first.
    sample
        What goes in, with at least one sample; others are made by repeating it.
    mode, batch
        Of the workload.
    samples
        Numbers of samples that are timed; None: powers of two up to the batch, and the batch.
    name
        Of the workload; empty: the model's class.
    repetitions
        Passes that are timed, after two that are not.

    Returns
    -------
    Profile
        Its ``workload`` is what :func:`dora_nb.plan` takes; :func:`dora_nb.measured_table` makes a table of the
        profiles of all devices.

    Raises
    ------
    InputError
        If something given cannot be used.
    """
    _check(model, sample, batch, repetitions)
    counts = sorted({1 << n for n in range(batch.bit_length())} | {batch}) if samples is None else sorted(set(samples))
    if not counts or counts[0] < 1:
        raise InputError("samples", counts, "one number or more, each 1 or more")
    dtype = next((each.dtype for each in model.parameters() if each.is_floating_point()), torch.float32)
    if dtype not in _PRECISION:
        raise InputError("model", str(dtype), f"parameters of {', '.join(map(str, _PRECISION))}")
    with one_thread(), _as_it_was(model, mode == "training"):
        layers, measured = _layers(model, sample, mode == "training", counts, repetitions, dtype)
    workload = Workload(
        name=name or type(model).__name__,
        mode=mode,
        batch=batch,
        precision=_PRECISION[dtype],
        layers=tuple(layers),
        input_bytes=float(sample[:1].numel() * sample.element_size()),
        output_bytes=float(layers[-1].output_elements * dtype.itemsize),
    )
    machine = f"{platform.node()}, {platform.machine()}, torch {torch.__version__}, one thread"
    return Profile(workload=workload, layers=tuple(measured), machine=machine)


def _check(model: nn.Sequential, sample: Tensor, batch: int, repetitions: int) -> None:
    if not isinstance(model, nn.Sequential) or not len(model):
        raise InputError("model", type(model).__name__, "a torch.nn.Sequential of at least one layer")
    if not isinstance(sample, Tensor) or sample.dim() < 1 or not len(sample):
        raise InputError("sample", type(sample).__name__, "a tensor whose first dimension counts samples, at least one")
    elsewhere = {each.device.type for each in model.parameters()} - {"cpu"}
    if elsewhere:
        raise InputError("model", ", ".join(sorted(elsewhere)), "a model on the processor: others are not timed yet")
    for field, value in (("batch", batch), ("repetitions", repetitions)):
        if value < 1:
            raise InputError(field, value, "1 or more")


@contextlib.contextmanager
def _as_it_was(model: nn.Sequential, trains: bool) -> Iterator[None]:
    """Leave mode, gradients, buffers (statistics of batches, for example) and random numbers as they were."""
    mode = model.training
    gradients = [parameter.grad for parameter in model.parameters()]
    buffers = [buffer.detach().clone() for buffer in model.buffers()]
    model.zero_grad()
    model.train(trains)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        model.train(mode)
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(before)


def _layers(
    model: nn.Sequential, sample: Tensor, trains: bool, counts: Sequence[int], repetitions: int, dtype: torch.dtype
) -> tuple[list[Layer], list[LayerProfile]]:
    modules = list(model.children())
    tied = _tied(modules[0], modules[-1]) if len(modules) > 1 else 0
    layers, measured, entering, kept = [], [], sample[:1].clone(), False
    for index, module in enumerate(modules):
        name = f"{index}.{type(module).__name__}"
        layer, leaving, kept = _counted(name, module, entering, kept, trains, dtype)
        layers.append(layer.replace(tied_parameters=tied if index in (0, len(modules) - 1) else 0))
        measured.append(_timed(module, entering, trains, counts, repetitions))
        entering = leaving
    return layers, measured


def _tied(first: nn.Module, last: nn.Module) -> int:
    """Parameters that the first and the last layer share."""
    own = {id(each) for each in first.parameters()}
    return sum(each.numel() for each in last.parameters() if id(each) in own)


def _counted(
    name: str, module: nn.Module, entering: Tensor, already_kept: bool, trains: bool, dtype: torch.dtype
) -> tuple[Layer, Tensor, bool]:
    """What a layer consists of, its output for one sample, and whether that is kept for the backward pass."""
    left_out = {each.untyped_storage().data_ptr() for each in module.parameters()}
    entering = _fresh(entering, trains)
    if already_kept:
        left_out.add(entering.untyped_storage().data_ptr())
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in left_out:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that nothing else gets its place
        return tensor

    counter = FlopCounterMode(display=False)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with torch.set_grad_enabled(trains), counter, hooks:
        leaving = module(entering)
    if not isinstance(leaving, Tensor) or leaving.dim() < 1 or len(leaving) != 1:
        raise InputError(f"model.{name}", type(leaving).__name__, "a layer that gives one tensor, the samples first")
    kept_bytes = sum(each.untyped_storage().nbytes() for each in kept.values())
    layer = Layer(
        name=name,
        operator=_operator(module),
        forward_flops=float(counter.get_total_flops()),
        parameters=sum(each.numel() for each in module.parameters()),
        output_elements=leaving.numel(),
        stash_elements=-(-kept_bytes // dtype.itemsize),
        traffic_elements=entering.numel() + leaving.numel(),
    )
    place = leaving.untyped_storage().data_ptr()
    same = already_kept and place == entering.untyped_storage().data_ptr()  # a view of what came in
    return layer, leaving.detach(), same or place in kept


def _operator(module: nn.Module) -> OperatorClass:
    """What dominates a layer."""
    kinds = list(module.modules())
    convolutions = [each for each in kinds if isinstance(each, nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    if any(each.groups > 1 and each.groups == each.in_channels for each in convolutions):
        return "depthwise"
    if convolutions:
        return "conv"
    if any(isinstance(each, nn.Embedding) for each in kinds) and not any(isinstance(each, nn.Linear) for each in kinds):
        return "lookup"
    return "matmul"


def _timed(module: nn.Module, entering: Tensor, trains: bool, counts: Sequence[int], repetitions: int) -> LayerProfile:
    forward_s, backward_s, spreads = {}, {}, []
    for count in counts:
        several = _fresh(entering.repeat(count, *[1] * (entering.dim() - 1)), trains)
        forwards, backwards = [], []
        for _ in range(WARM_UP + repetitions):
            start_s = time.thread_time()
            with torch.set_grad_enabled(trains):
                leaving = module(several)
            turned_s = time.thread_time()
            forwards.append(turned_s - start_s)
            if trains and leaving.requires_grad:
                gradient = torch.ones_like(leaving)
                began_s = time.thread_time()
                torch.autograd.backward(leaving, gradient)
                backwards.append(time.thread_time() - began_s)
        forward_s[count] = statistics.median(forwards[WARM_UP:])
        backward_s[count] = statistics.median(backwards[WARM_UP:] or [0.0])
        spreads += [_spread(each[WARM_UP:]) for each in (forwards, backwards) if each]
    own = [each for each in module.parameters() if each.requires_grad]
    return LayerProfile(
        forward_s=forward_s,
        backward_s=backward_s if trains else {},
        step_s=_step_s(own, repetitions) if trains and own else 0.0,
        spread=max(spreads),
    )


def _step_s(parameters: list[nn.Parameter], repetitions: int) -> float:
    """Median of the optimizer's step, on copies: the model is not to learn anything."""
    copies = [nn.Parameter(each.detach().clone()) for each in parameters]
    for each in copies:
        each.grad = torch.zeros_like(each)
    return _median(optimizer_of(copies).step, repetitions)


def _fresh(tensor: Tensor, trains: bool) -> Tensor:
    """A leaf that gradients arrive at, where there can be any."""
    return tensor.detach().requires_grad_(trains and tensor.is_floating_point())


def _median(work: Callable[[], object], repetitions: int) -> float:
    times = []
    for _ in range(WARM_UP + repetitions):
        start_s = time.thread_time()
        work()
        times.append(time.thread_time() - start_s)
    return statistics.median(times[WARM_UP:])


def _spread(times: list[float]) -> float:
    """Interquartile range over the median; 0 where too little was timed to tell."""
    middle = statistics.median(times)
    if len(times) < 4 or middle <= 0:
        return 0.0
    low, _, high = statistics.quantiles(times, n=4)
    return (high - low) / middle

"""Any sequence of layers as a workload, with what the layers take on this device.

Every module of a sequence is one layer. Parameters and outputs are counted, operations too (torch's own counter: 2
per multiply-add of products, convolutions and attention), and what autograd keeps for the backward pass is measured:
every storage once, parameters left out, and a tensor between two layers counted with the first of them that keeps it.
"""

from __future__ import annotations

import contextlib
import copy
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dora_nb.domain.layer import Layer, OperatorClass, Precision
from dora_nb.domain.plan import Weights, checked_weights
from dora_nb.domain.profile import LayerProfile, Profile
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.executor.device.adamw import AdamW
from dora_nb.executor.device.backward import run_backward
from dora_nb.executor.networks.chain import built_layer, kind_of, tied_names
from dora_nb.executor.networks.shards import parts_of
from dora_nb.executor.networks.weights import held_in
from dora_nb.executor.tasks.task import DTYPES, Network, Source, torch_dtype
from dora_nb.executor.threads import one_thread

#: Passes that are timed, and those before them that are not.
REPETITIONS, WARM_UP = 9, 2

_PRECISION: dict[torch.dtype, Precision] = {torch_dtype(dtype): precision for precision, dtype in DTYPES.items()}


def profile(
    model: nn.Module | Network | Source | str | pathlib.Path,
    sample: Tensor,
    *,
    mode: Literal["training", "inference"] = "inference",
    batch: int = 1,
    samples: Iterable[int] | None = None,
    name: str = "",
    repetitions: int = REPETITIONS,
    dtype: str | None = None,
    weights: Sequence[Weights] = (),
) -> Profile:
    """Measure every layer of a model on this device.

    Processor time of one thread is taken, which other processes disturb by a few percent where they disturb wall time
    by tens; the median of several passes. The model, its gradients and torch's random numbers stay as they are.

    Parameters
    ----------
    model
        An ``nn.Sequential`` of layers in the order in which they run, each taking one tensor and giving one, the
        samples first. Or what :func:`dora_nb.execute` runs besides: a live Hugging Face model, the directory of a
        checkpoint, or a :class:`~dora_nb.executor.tasks.task.Network` or its source (``"module:function"``). Of what is
        not live, a layer at a time is in memory, and of layers of one kind the first is measured.
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
    dtype
        Of a network's parameters, ``float64`` for example; None: ``float32``. A live model keeps its own.
    weights
        In what layers are timed as well, see :attr:`~dora_nb.domain.plan.Stage.weights`; not in training.

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
    chain = _chain_of(model, dtype)
    _check(chain, sample, batch, repetitions)
    counts = sorted({1 << n for n in range(batch.bit_length())} | {batch}) if samples is None else sorted(set(samples))
    if not counts or counts[0] < 1:
        raise InputError("samples", counts, "one number or more, each 1 or more")
    kinds = checked_weights(weights, trains=mode == "training")
    if sample.is_floating_point():
        sample = sample.to(chain.dtype)
    with one_thread(), torch.random.fork_rng(devices=[]):
        layers, measured = _layers(chain, sample, mode == "training", counts, repetitions, kinds)
    workload = Workload(
        name=name or type(model).__name__,
        mode=mode,
        batch=batch,
        precision=_PRECISION[chain.dtype],
        layers=tuple(layers),
        input_bytes=float(sample[:1].numel() * sample.element_size()),
        output_bytes=float(layers[-1].output_elements * chain.dtype.itemsize),
    )
    machine = f"{platform.node()}, {platform.machine()}, torch {torch.__version__}, one thread"
    return Profile(workload=workload, layers=tuple(measured), machine=machine)


class _Chain(NamedTuple):
    """The layers of a model, live or built when they are asked for."""

    length: int
    layer: Callable[[int], nn.Module]
    kind: Callable[[int], Hashable]
    tied: int
    dtype: torch.dtype


def _chain_of(model: Any, dtype: str | None) -> _Chain:
    if isinstance(model, nn.Module) and hasattr(model, "save_pretrained"):
        from dora_nb.executor.networks.huggingface import sequential

        model = sequential(model)
    if isinstance(model, nn.Sequential):
        return _live(model)
    if isinstance(model, str | pathlib.Path | Source):
        from dora_nb.executor.tasks.assemble import named_network

        model = named_network(model).build()
    if isinstance(model, nn.Module) or not (hasattr(model, "layer") and hasattr(model, "__len__")):
        raise InputError(
            "model", type(model).__name__, "a torch.nn.Sequential of layers, or a network that builds them"
        )
    network: Network = model
    chosen = torch_dtype(dtype or "float32")

    def build(index: int) -> nn.Module:
        return built_layer(network, index, dtype=chosen, seed=0)

    names = tied_names(network)
    tied = 0 if names is None else build(0).get_parameter(names[0]).numel()
    return _Chain(len(network), build, lambda index: kind_of(network, index), tied, chosen)


def _live(model: nn.Sequential) -> _Chain:
    modules = list(model.children())
    elsewhere = {each.device.type for each in model.parameters()} - {"cpu"}
    if elsewhere:
        raise InputError("model", ", ".join(sorted(elsewhere)), "a model on the processor: others are not timed yet")
    dtype = next((each.dtype for each in model.parameters() if each.is_floating_point()), torch.float32)
    tied = 0
    if len(modules) > 1:
        own = {id(each) for each in modules[0].parameters()}
        tied = sum(each.numel() for each in modules[-1].parameters() if id(each) in own)
    return _Chain(len(modules), modules.__getitem__, lambda index: index, tied, dtype)


def _check(chain: _Chain, sample: Tensor, batch: int, repetitions: int) -> None:
    if not chain.length:
        raise InputError("model", "no layers", "at least one layer")
    if chain.dtype not in _PRECISION:
        raise InputError("model", str(chain.dtype), f"parameters of {', '.join(map(str, _PRECISION))}")
    if not isinstance(sample, Tensor) or sample.dim() < 1 or not len(sample):
        raise InputError("sample", type(sample).__name__, "a tensor whose first dimension counts samples, at least one")
    for field, value in (("batch", batch), ("repetitions", repetitions)):
        if value < 1:
            raise InputError(field, value, "1 or more")


@contextlib.contextmanager
def _as_it_was(layer: nn.Module, trains: bool) -> Iterator[None]:
    """Leave modes, gradients and buffers (statistics of batches, for example) as they were."""
    modes = [(module, module.training) for module in layer.modules()]
    gradients = [parameter.grad for parameter in layer.parameters()]
    buffers = [buffer.detach().clone() for buffer in layer.buffers()]
    layer.zero_grad()
    layer.train(trains)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, gradient in zip(layer.parameters(), gradients, strict=True):
            parameter.grad = gradient
        for buffer, before in zip(layer.buffers(), buffers, strict=True):
            buffer.copy_(before)


def _layers(
    chain: _Chain, sample: Tensor, trains: bool, counts: Sequence[int], repetitions: int, weights: Sequence[Weights]
) -> tuple[list[Layer], list[LayerProfile]]:
    layers: list[Layer] = []
    measured: list[LayerProfile] = []
    entering, kept = sample[:1].clone(), False
    known: dict[Hashable, tuple[str, Layer, LayerProfile, Tensor, bool]] = {}
    for index in range(chain.length):
        # Whether what enters is kept already decides what a layer adds to the stash.
        key = (chain.kind(index), entering.shape, entering.dtype, kept)
        if key not in known:
            module = chain.layer(index)
            kind = type(module).__name__
            with _as_it_was(module, trains):
                counted = _counted(f"{index}.{kind}", module, entering, kept, trains, chain.dtype)
                times = _timed(module, entering, trains, counts, repetitions)
                shares = chain.tied > 0 and index in (0, chain.length - 1)
                narrower_s = {
                    each: _timed(
                        held_in(copy.deepcopy(module), each, tied=shares), entering, trains, counts, repetitions
                    ).forward_s
                    for each in weights
                }
                times = times.replace(narrower_s=narrower_s)
            known[key] = (kind, counted[0], times, *counted[1:])
        kind, layer, times, entering, kept = known[key]
        tied = chain.tied if index in (0, chain.length - 1) else 0
        layers.append(layer.replace(name=f"{index}.{kind}", tied_parameters=tied))
        measured.append(times)
    return layers, measured


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
        try:
            leaving = module(entering)
        except Exception as error:  # the person's own code: which layer of it, and on what
            given = f"a tensor {tuple(entering.shape)} ({entering.dtype})"
            raise InputError(f"model.{name}", given, f"what the layer takes: {' '.join(str(error).split())}") from error
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
        parts=parts_of(module),
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
                run_backward(leaving, gradient)
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
    return _median(AdamW(copies).step, repetitions)


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

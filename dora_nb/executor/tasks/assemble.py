"""From what a person gives (a model, data, a loss) to a task that workers can build, and the plan in the form they run.

Files that workers read go to the run's private directory.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pydantic import JsonValue
from torch import nn

from dora_nb.costs.buckets import summed_parameters
from dora_nb.domain.architecture import DecoderArchitecture, EncoderArchitecture
from dora_nb.domain.plan import Plan
from dora_nb.domain.run_timeline import INFERENCE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.executor.device.shard_stages import shard_stages
from dora_nb.executor.networks.chain import cuts_of, tied_names
from dora_nb.executor.networks.description import name_of
from dora_nb.executor.networks.shards import parts_of
from dora_nb.executor.networks.stored import store
from dora_nb.executor.tasks.data import micro_batch
from dora_nb.executor.tasks.datasets import store_data
from dora_nb.executor.tasks.models import RandomNetwork
from dora_nb.executor.tasks.scale import executable, scaling_of
from dora_nb.executor.tasks.task import DTYPES, Data, Network, Optimizer, Source, Task, import_paths
from dora_nb.units import counted


class Assembled(NamedTuple):
    """What is run.

    Attributes
    ----------
    task
        See :class:`~dora_nb.executor.tasks.task.Task`.
    plan, workload
        What was planned, in the form that is run: scaled down if no model was given.
    in_run_form
        Turns other plans of the same workload into that form.
    """

    task: Task
    plan: Plan
    workload: Workload
    in_run_form: Callable[[Plan], Plan]


def task_of(
    model: object,
    plan: Plan,
    workload: Workload,
    *,
    directory: pathlib.Path,
    data: object = None,
    loss: str | Source | Callable[..., Any] | None = None,
    steps: int = 1,
    seed: int = 0,
    dtype: str | None = None,
    optimizer: Optimizer | None = None,
    torch_devices: Mapping[str, str] | None = None,
    others: Sequence[Plan] = (),
    every_block: bool = False,
) -> Assembled:
    """Everything workers need to know of what is to be computed.

    Parameters
    ----------
    model
        None: a small random network of the workload's structure, in fp64. Else the network itself, with as many
        layers as the workload: an ``nn.Sequential``, a live Hugging Face model or the directory of a checkpoint, or a
        :class:`~dora_nb.executor.tasks.task.Source` (``"module:function"`` for one without arguments, or the function)
        of a :class:`~dora_nb.executor.tasks.task.Network`.
    plan, workload
        What was planned; they fit each other.
    directory
        Private to the run; files with weights and data go there.
    data
        A source of :class:`~dora_nb.executor.tasks.task.Data`, or what
        :func:`~dora_nb.executor.tasks.datasets.store_data` takes. None: random tokens, where the network is a language
        model.
    loss
        Function of outputs and labels, or its source. None: cross-entropy over the last dimension.
    steps
        Training steps, or requests of a stream: so many batches of a person's own data are written down.
    seed
        Of what is random.
    dtype
        Of parameters and activations, ``bfloat16`` for example; None: the workload's precision.
    optimizer
        Settings of AdamW.
    torch_devices
        On what a device of the plan computes; see :class:`~dora_nb.executor.tasks.task.Task`.
    others, every_block
        Without a model: other plans that what runs must be fit for, or whether any may come.

    Raises
    ------
    InputError
        If something cannot be described to a worker, or does not fit the plan.
    MissingDependencyError
        If a Hugging Face model is given and transformers is not installed.
    """
    devices = dict(torch_devices or {})
    known = {device for each in (plan, *others) for device in each.devices}
    for device, name in devices.items():
        _check_device(device, name, known)
    if model is None:
        if any(each is not None for each in (data, loss, dtype)):
            raise InputError(
                "model", None, "a model of your own where data, loss or dtype are: without one, all is random, in fp64"
            )
        small, cut = scaling_of([plan, *others], workload, every_block=every_block)
        task = random_task(small, seed, optimizer=optimizer, torch_devices=devices, requests=_requests(workload, steps))
        return Assembled(task, cut(plan), small, cut)
    described = _network_source(model, directory)
    network: Network = described.build()
    for each in (plan, *others):
        _check_fit(network, each, workload)
    chosen = dtype or DTYPES[workload.precision]
    data_source = _data_source(data, network, workload, steps, seed, directory)
    loss_source = Source(factory="dora_nb.executor.tasks.loss:cross_entropy") if loss is None else _named(loss, "loss")
    loss_source.function()  # what cannot be imported is better known here than on a worker
    first: Data = data_source.build()
    sources = {"network": described, "data": data_source, "loss": loss_source}
    draft = Task(
        **sources,
        mode=workload.mode,
        batch=workload.batch,
        new_tokens=workload.new_tokens,
        requests=_requests(workload, steps),
        dtype=chosen,
        seed=seed,
        cuts=(),
        summed_parameters=summed_parameters(workload).tolist(),
        optimizer=optimizer or Optimizer(),
        torch_devices=devices,
        import_paths=import_paths(sources.values()),
    )
    inputs = micro_batch(first, INFERENCE, 0, plan.micro_batch, draft.torch_dtype).inputs
    cuts = cuts_of(network, inputs, dtype=draft.torch_dtype, seed=seed)
    here = workload.replace(source=None, sink=None)
    return Assembled(draft.replace(cuts=cuts), executable(plan), here, executable)


def random_task(
    workload: Workload,
    seed: int,
    *,
    optimizer: Optimizer | None = None,
    torch_devices: Mapping[str, str] | None = None,
    requests: int = 1,
) -> Task:
    """The random network of a scaled-down workload, on random data, in fp64.

    Parameters
    ----------
    workload
        Scaled down.
    seed
        Of weights and data.
    optimizer, torch_devices
        As for :func:`task_of`.
    requests
        Of a stream.
    """
    architecture = workload.architecture
    assert architecture is not None, "a scaled-down workload has an architecture"
    described: dict[str, JsonValue] = architecture.model_dump(mode="json")
    network = Source(
        factory=f"{RandomNetwork.__module__}:{RandomNetwork.__qualname__}",
        arguments={"architecture": described, "dtype": "float64", "seed": seed, "image_px": workload.image_px},
    )
    if isinstance(architecture, DecoderArchitecture | EncoderArchitecture):
        assert workload.sequence is not None, "language models read tokens"
        objective = "next" if isinstance(architecture, DecoderArchitecture) else "masked"
        data = _random_tokens(architecture.vocabulary, workload.sequence, objective, seed)
    else:
        px = workload.image_px or architecture.image_px
        data = Source(
            factory="dora_nb.executor.tasks.data:RandomImages",
            arguments={"px": px, "classes": architecture.classes, "dtype": "float64", "seed": seed},
        )
    inputs = data.build().micro_batch(INFERENCE, 0, 1).inputs
    return Task(
        network=network,
        data=data,
        mode=workload.mode,
        batch=workload.batch,
        new_tokens=workload.new_tokens,
        requests=requests,
        seed=seed,
        cuts=cuts_of(network.build(), inputs, dtype=torch.float64, seed=seed),
        summed_parameters=summed_parameters(workload).tolist(),
        optimizer=optimizer or Optimizer(),
        torch_devices=dict(torch_devices or {}),
    )


def named_network(model: object) -> Source:
    """Where the layers come from of a model that is not in memory.

    Parameters
    ----------
    model
        Directory of a checkpoint, a :class:`~dora_nb.executor.tasks.task.Source` of a network, ``"module:function"`` or
        the function itself.

    Raises
    ------
    InputError
        If it is something else.
    DocumentError
        If the checkpoint cannot be read.
    """
    if isinstance(model, pathlib.Path) or (isinstance(model, str) and pathlib.Path(model).is_dir()):
        from dora_nb.executor.networks.pretrained import checkpoint_source

        return checkpoint_source(pathlib.Path(model))
    if isinstance(model, nn.Module):
        raise InputError(
            "model",
            type(model).__name__,
            "an nn.Sequential whose modules are the layers, a Hugging Face model, or 'module:function' of a network",
        )
    return _named(model, "model")


def _requests(workload: Workload, steps: int) -> int:
    return steps if workload.mode == "stream" else 1


def _network_source(model: object, directory: pathlib.Path) -> Source:
    if isinstance(whole := getattr(model, "whole", None), tuple):  # a Hugging Face model as a sequence
        (model,) = whole
    if isinstance(model, nn.Sequential):
        return store(model, directory)
    if isinstance(model, nn.Module) and hasattr(model, "save_pretrained"):
        from dora_nb.executor.networks.pretrained import checkpoint_source, write_checkpoint

        return checkpoint_source(write_checkpoint(model, directory))
    return named_network(model)


def _named(given: object, field: str) -> Source:
    """A source, as it is given, by name, or from the function itself."""
    if isinstance(given, Source):
        return given
    if isinstance(given, str):
        return Source(factory=given)
    if callable(given):
        return Source(factory=name_of(given, field))
    raise InputError(field, type(given).__name__, "a Source, 'module:function', or a function of a file")


def _data_source(
    data: object, network: Network, workload: Workload, steps: int, seed: int, directory: pathlib.Path
) -> Source:
    if isinstance(data, Source | str) or callable(data):
        return _named(data, "data")
    if data is not None:
        return store_data(data, workload.batch, steps, directory, needs_labels=workload.trains)
    vocabulary: int | None = getattr(network, "vocabulary", None)
    if vocabulary is None or workload.sequence is None:
        raise InputError("data", None, "inputs and labels: only language models of a given sequence get random ones")
    return _random_tokens(vocabulary, workload.sequence, getattr(network, "objective", "next"), seed)


def _random_tokens(vocabulary: int, sequence: int, objective: str, seed: int) -> Source:
    return Source(
        factory="dora_nb.executor.tasks.data:RandomTokens",
        arguments={"vocabulary": vocabulary, "sequence": sequence, "objective": objective, "seed": seed},
    )


def _check_fit(network: Network, plan: Plan, workload: Workload) -> None:
    if not len(network) == plan.layer_count == len(workload.layers):
        raise InputError(
            "model",
            counted(len(network), "layer"),
            f"{counted(plan.layer_count, 'layer')}, as the plan has: plan with the workload that "
            "dora_nb.profile(model) gives",
        )
    if workload.generates and not (getattr(network, "caches", False) and len(network) > 1):
        raise InputError(
            "model",
            type(network).__name__,
            "a network with 'caches = True', whose layers take a cache of keys and values, to generate; Hugging Face "
            "decoders do",
        )
    for stage in shard_stages(plan):
        for index in stage.layers:
            found, planned = parts_of(getattr(network, "skeleton", network.layer)(index)), workload.layers[index].parts
            if found != planned:
                allowed = f"{planned}, as planned: plan with the workload that dora_nb.profile(model) gives"
                raise InputError(f"model.{index}", f"parts that it can be sliced into: {found}", allowed)
    tied = tied_names(network)
    if workload.trains and (tied is not None) != (workload.tied_parameters > 0):
        raise InputError(
            "model",
            "no tied parameters" if tied is None else f"tied parameters {' and '.join(tied)}",
            f"what the plan reckons with: {workload.tied_parameters} parameters tied between first and last layer",
        )


def _check_device(device: str, name: str, known: Collection[str]) -> None:
    if device not in known:
        raise InputError("torch_devices", device, f"devices of the plan: {', '.join(sorted(known))}")
    try:
        torch.device(name)
    except RuntimeError as error:
        raise InputError(f"torch_devices.{device}", name, "a device of torch: cpu, cuda, cuda:1 or mps") from error

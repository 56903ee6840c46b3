"""What weights in fewer bits do to the outputs: measured, a layer at a time in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from dora_nb.domain.accuracy import Accuracy
from dora_nb.domain.plan import Plan
from dora_nb.domain.run_timeline import INFERENCE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.executor.pool import require_torch

if TYPE_CHECKING:  # a name of the package needs no torch
    from torch import Tensor

    from dora_nb.executor.tasks.task import Task


def measure_accuracy(
    plan: Plan, workload: Workload, model: object, data: object = None, *, seed: int = 0, dtype: str | None = None
) -> Accuracy:
    """Compare a plan's outputs with those of the network all in its own precision, in this process.

    Of generation, the outputs are those behind every token of the prompts: both networks read the same text.

    Parameters
    ----------
    plan
        Stages say in what they hold their weights; where they run makes no difference.
    workload
        What was planned; not for training.
    model, data, seed, dtype
        As for :func:`dora_nb.execute`; the more samples the batch has, the more is known.

    Returns
    -------
    Accuracy

    Raises
    ------
    InputError
        If the plan does not fit the workload, or something else given cannot be used.
    MissingDependencyError
        If torch is not installed.
    """
    if workload.trains:
        raise InputError("workload.mode", workload.mode, "inference, stream or generate: training keeps all bits")
    if model is None:
        raise InputError("model", None, "the network whose outputs are compared: a random one would say little")
    require_torch()
    from dora_nb.executor.tasks.assemble import task_of
    from dora_nb.executor.threads import one_thread

    with tempfile.TemporaryDirectory() as directory, one_thread():
        assembled = task_of(model, plan, workload, directory=Path(directory), data=data, seed=seed, dtype=dtype)
        return accuracy_of(assembled.task, assembled.plan)


def accuracy_of(task: Task, plan: Plan) -> Accuracy:
    """What weights in fewer bits do to a task's outputs, under its plan in the form that is run."""
    import torch

    from dora_nb.executor.networks.chain import built_layer, tied_names
    from dora_nb.executor.networks.weights import held_in
    from dora_nb.executor.tasks.data import micro_batch

    task.make_importable()
    network, data = task.network.build(), task.data.build()
    tied = () if tied_names(network) is None else (0, task.layer_count - 1)
    batches = range(plan.micro_batches * task.requests)
    exact = [micro_batch(data, INFERENCE, each, plan.micro_batch, task.torch_dtype).inputs for each in batches]
    held = list(exact)
    with torch.no_grad():
        for index, weights in enumerate(plan.weights_by_layer):
            layer = built_layer(network, index, dtype=task.torch_dtype, seed=task.seed).eval()
            exact = [layer(x) for x in exact]
            smaller = held_in(layer, weights, tied=index in tied)
            held = [smaller(x) for x in held]
    return _compared(exact, held)


def _compared(exact: list[Tensor], held: list[Tensor]) -> Accuracy:
    apart = [(ours.double() - theirs.double()).abs() for ours, theirs in zip(held, exact, strict=True)]
    same = [(ours.argmax(-1) == theirs.argmax(-1)) for ours, theirs in zip(held, exact, strict=True)]
    elements = sum(each.numel() for each in exact)
    return Accuracy(
        choices=sum(each.numel() for each in same),
        same_choices=sum(int(each.sum()) for each in same),
        largest=max(float(each.max()) for each in apart),
        mean=sum(float(each.sum()) for each in apart) / elements,
        magnitude=sum(float(each.double().abs().sum()) for each in exact) / elements,
    )

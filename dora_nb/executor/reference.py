"""The same network in one process: what a run is held against."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dora_nb.domain.plan import Plan
from dora_nb.domain.run_record import INFERENCE
from dora_nb.domain.workload import Workload
from dora_nb.executor.data import label_count, loss_of, micro_batch
from dora_nb.executor.models import build_layers
from dora_nb.executor.replica import optimizer_of


class Reference(NamedTuple):
    """What one process computes.

    Attributes
    ----------
    outputs
        Of the inference batch, by micro-batch.
    losses
        Of every training step.
    gradients, parameters
        Of the last step and after it, by ``layer.name``; before any step, no gradients.
    """

    outputs: list[Tensor]
    losses: list[float]
    gradients: dict[str, Tensor]
    parameters: dict[str, Tensor]


def reference_run(workload: Workload, plan: Plan, steps: int, seed: int, dtype: torch.dtype) -> Reference:
    """Run the inference batch and the training steps in this process, in the plan's micro-batches.

    Parameters
    ----------
    workload, plan
        Scaled down; of the plan only the micro-batches count.
    steps
        Training steps; 0 for none.
    seed
        Of weights and data.
    dtype
        Of parameters and activations.
    """
    assert workload.architecture is not None, "a scaled-down workload has an architecture"
    layers = nn.Sequential(*build_layers(workload.architecture, dtype, seed, workload.image_px))
    data = [
        [micro_batch(workload, seed, step, index, plan.micro_batch, dtype) for index in range(plan.micro_batches)]
        for step in range(INFERENCE, steps)
    ]
    with torch.no_grad():
        outputs: list[Tensor] = [layers(batch.inputs) for batch in data[0]]
    optimizer = optimizer_of(layers.parameters())
    losses = []
    for batches in data[1:]:
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for batch in batches:
            loss = loss_of(layers(batch.inputs), batch.labels, label_count(workload))
            torch.autograd.backward(loss)
            total += loss.item()
        optimizer.step()
        losses.append(total)
    parameters = dict(layers.named_parameters(remove_duplicate=False))
    return Reference(
        outputs=outputs,
        losses=losses,
        gradients={name: each.grad for name, each in parameters.items() if each.grad is not None},
        parameters={name: each.detach() for name, each in parameters.items()},
    )

"""The same network in one process: what a run is held against."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dora_nb.domain.plan import Plan
from dora_nb.domain.run_timeline import INFERENCE
from dora_nb.executor.device.adamw import AdamW
from dora_nb.executor.device.backward import run_backward
from dora_nb.executor.device.gradients import gradients_of
from dora_nb.executor.networks.chain import built_layers
from dora_nb.executor.tasks.data import micro_batch
from dora_nb.executor.tasks.loss import part_of_loss
from dora_nb.executor.tasks.task import Data, Loss, MicroBatch, Task


class Reference(NamedTuple):
    """What one process computes.

    Attributes
    ----------
    outputs
        Of the inference batch, or of all requests of a stream, by micro-batch; where tokens are generated, the logits
        of the last one.
    tokens
        Those generated, (samples, tokens), by micro-batch.
    losses
        Of every training step.
    gradients, parameters
        Of the last step and after it, by ``layer.name``; before any step, no gradients.
    buffers
        After the last step, by ``layer.name``.
    """

    outputs: list[Tensor]
    tokens: list[Tensor]
    losses: list[float]
    gradients: dict[str, Tensor]
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]


def reference_run(task: Task, plan: Plan, steps: int) -> Reference:
    """Run the inference batch and the training steps in this process, in the plan's micro-batches.

    Parameters
    ----------
    task
        What is computed; here on the processor.
    plan
        Its micro-batches count, and in what its stages hold their weights.
    steps
        Training steps; 0 for none.
    """
    task.make_importable()
    layers = built_layers(
        task.network.build(), dtype=task.torch_dtype, seed=task.seed, weights_by_layer=plan.weights_by_layer
    )
    data: Data = task.data.build()
    loss: Loss = task.loss.function()

    def batch(step: int) -> list[MicroBatch]:
        samples, dtype = plan.micro_batch, task.torch_dtype
        return [micro_batch(data, step, index, samples, dtype) for index in range(plan.micro_batches * task.requests)]

    layers.eval()
    outputs, tokens = [], []
    with torch.no_grad():
        for inputs, _ in batch(INFERENCE):
            if task.generates:
                last_logits, generated = _generated(layers, inputs, task.new_tokens)
                outputs.append(last_logits)
                tokens.append(generated)
            else:
                outputs.append(layers(inputs))
    layers.train()
    trained = [each for each in layers.parameters() if each.requires_grad]
    optimizer = AdamW(trained, task.optimizer) if steps and trained else None
    losses = []
    for step in range(steps):
        layers.zero_grad(set_to_none=True)
        total = 0.0
        for inputs, labels in batch(step):
            part = part_of_loss(loss, layers(inputs), labels, task.batch)
            if part.requires_grad:
                run_backward(part, None)
            total += part.item()
        gradients_of(trained)
        if optimizer is not None:
            optimizer.step()
        losses.append(total)
    parameters = dict(layers.named_parameters(remove_duplicate=False))
    return Reference(
        outputs=outputs,
        tokens=tokens,
        losses=losses,
        gradients={name: each.grad for name, each in parameters.items() if each.grad is not None},
        parameters={name: each.detach() for name, each in parameters.items()},
        buffers=dict(layers.named_buffers(remove_duplicate=False)),
    )


def _generated(layers: nn.Module, prompts: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Logits of the last token, and the likeliest tokens behind prompts: without a cache, from the whole text each."""
    text = prompts
    for _ in range(count):
        logits = layers(text)[:, -1]
        text = torch.cat((text, logits.argmax(-1, keepdim=True)), dim=1)
    return logits, text[:, prompts.shape[1] :]

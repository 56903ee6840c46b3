"""A distributed run against one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dora_nb.domain.plan import Plan
from dora_nb.domain.run_record import Differences
from dora_nb.errors import ExecutionError
from dora_nb.executor.reference import Reference


def differences(
    reference: Reference,
    plan: Plan,
    outputs: Mapping[str, Mapping[str, Tensor]],
    parameters: Mapping[str, Mapping[str, Tensor]],
    losses: Sequence[float],
) -> Differences:
    """Largest absolute differences, every device and every replica's copy included.

    Parameters
    ----------
    reference
        From one process.
    plan
        Under which the outputs were made, in the form that is run.
    outputs
        What each device wrote of them: ``output/m``; nothing where no batch was run.
    parameters
        What each device wrote at the end: ``gradient/layer.name`` and ``parameter/layer.name``.
    losses
        Of every step, summed over devices.

    Raises
    ------
    ExecutionError
        If the devices together did not return every output, gradient and parameter.
    """
    trains = bool(reference.losses)
    return Differences(
        outputs=_outputs(reference, plan, outputs) if outputs else None,
        losses=max(abs(a - b) for a, b in zip(losses, reference.losses, strict=True)) if trains else None,
        gradients=_named("gradient", reference.gradients, parameters) if trains else None,
        parameters=_named("parameter", reference.parameters, parameters) if trains else None,
    )


def _outputs(reference: Reference, plan: Plan, results: Mapping[str, Mapping[str, Tensor]]) -> float:
    last = plan.stages[-1]
    whole = torch.cat(reference.outputs)
    pairs = []
    for device, (low, high) in zip(last.devices, last.intervals, strict=True):
        for micro_batch in range(plan.micro_batches):
            got = results[device].get(f"output/{micro_batch}")
            if got is None:
                raise ExecutionError(f"{device} returned no output of micro-batch {micro_batch}")
            first = micro_batch * plan.micro_batch
            pairs.append((got, whole[first + low : first + high]))
    return max(_distance(got, expected) for got, expected in pairs)


def _named(kind: str, expected: Mapping[str, Tensor], results: Mapping[str, Mapping[str, Tensor]]) -> float:
    got = [
        (name.removeprefix(f"{kind}/"), tensor)
        for tensors in results.values()
        for name, tensor in tensors.items()
        if name.startswith(f"{kind}/")
    ]
    missing = sorted(expected.keys() ^ {name for name, _ in got})
    if missing:
        raise ExecutionError(f"the devices' {kind}s and those of one process differ in {', '.join(missing)}")
    return max(_distance(tensor, expected[name]) for name, tensor in got)


def _distance(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        raise ExecutionError(f"a tensor of shape {tuple(a.shape)} came back instead of {tuple(b.shape)}")
    return float((a - b).abs().max())

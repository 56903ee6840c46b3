"""A distributed run against one process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from dora_nb.domain.run_record import Differences
from dora_nb.errors import ExecutionError
from dora_nb.executor.course import Outputs
from dora_nb.executor.reference import Reference


def differences(
    reference: Reference,
    outputs: Sequence[Outputs],
    parameters: Mapping[str, Mapping[str, Tensor]],
    losses: Sequence[float],
) -> Differences:
    """Largest absolute differences, every device and every replica's copy included.

    Parameters
    ----------
    reference
        From one process.
    outputs
        Those of the batch, or of all requests in their order, part by part; nothing where no batch was run.
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
        outputs=_furthest(_pairs("output", reference.outputs, outputs)) if outputs else None,
        losses=max(abs(a - b) for a, b in zip(losses, reference.losses, strict=True)) if trains else None,
        gradients=_named("gradient", reference.gradients, parameters) if trains else None,
        parameters=_named("parameter", reference.parameters, parameters) if trains else None,
        tokens=_others(_pairs("token", reference.tokens, outputs)) if outputs and reference.tokens else None,
    )


def _pairs(kind: str, expected: Sequence[Tensor], outputs: Iterable[Outputs]) -> Iterator[tuple[Tensor, Tensor]]:
    """What each device of the last stage wrote of every micro-batch, and what one process has there."""
    whole = torch.cat(list(expected))
    following = 0
    for plan, results, indices in outputs:
        last = plan.stages[-1]
        micro_batches = range(len(whole) // plan.micro_batch) if indices is None else indices
        if micro_batches.start * plan.micro_batch != following:
            break
        following = micro_batches.stop * plan.micro_batch
        for device, (low, high) in zip(last.devices, last.intervals, strict=True):
            for micro_batch in micro_batches:
                got = results[device].get(f"{kind}/{micro_batch}")
                if got is None:
                    raise ExecutionError(f"{device} returned no {kind} of micro-batch {micro_batch}")
                first = micro_batch * plan.micro_batch
                yield got, _like(got, whole[first + low : first + high])
    if following != len(whole):
        raise ExecutionError(f"there are {kind}s of the first {following} of {len(whole)} samples")


def _others(pairs: Iterable[tuple[Tensor, Tensor]]) -> int:
    return sum(int((got != expected).sum()) for got, expected in pairs)


def _furthest(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    return max(float((got - expected).abs().max()) for got, expected in pairs)


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
    return _furthest((tensor, _like(tensor, expected[name])) for name, tensor in got)


def _like(got: Tensor, expected: Tensor) -> Tensor:
    """What was expected, once it is sure that the two have one shape."""
    if got.shape != expected.shape:
        raise ExecutionError(f"a tensor of shape {tuple(got.shape)} came back instead of {tuple(expected.shape)}")
    return expected

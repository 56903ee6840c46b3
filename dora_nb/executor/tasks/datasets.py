"""A person's own inputs and labels: written to a file once, of which every process reads what it needs."""

from __future__ import annotations

import pathlib
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from dora_nb.domain.run_timeline import INFERENCE
from dora_nb.errors import InputError
from dora_nb.executor.networks.tensor_file import write_tensors
from dora_nb.executor.tasks.task import MicroBatch, Source

DATA_FILE = "data.safetensors"


class StoredData:
    """Samples in their order, from the first one again behind the last; see :class:`~dora_nb.executor.tasks.task.Data`.

    Step s trains on samples ``s * batch`` to ``(s + 1) * batch - 1``; the batch before the first step infers on the
    samples of the first step.

    Parameters
    ----------
    file
        With ``inputs`` and ``labels``, samples first.
    batch
        Samples per step.
    """

    def __init__(self, file: str, batch: int) -> None:
        self._file, self._batch = file, batch

    def micro_batch(self, step: int, index: int, samples: int) -> MicroBatch:
        """See :class:`~dora_nb.executor.tasks.task.Data`."""
        first = max(step, INFERENCE + 1) * self._batch + index * samples
        with safe_open(self._file, framework="pt") as file:
            return MicroBatch(*(_wrapped(file.get_slice(name), first, samples) for name in ("inputs", "labels")))


def store_data(data: object, batch: int, steps: int, directory: pathlib.Path, *, needs_labels: bool) -> Source:
    """Write down the samples that the steps of a run use.

    Parameters
    ----------
    data
        A pair of tensors (inputs, labels), samples first; or a map-style dataset of such pairs, one sample each;
        for inference also inputs alone.
    batch, steps
        Samples per step, and how many steps there are.
    directory
        Where the file goes.
    needs_labels
        Whether the task trains.

    Returns
    -------
    Source
        Of :class:`StoredData`.

    Raises
    ------
    InputError
        If data are of another form.
    """
    inputs, labels = _tensors(data, batch * max(steps, 1))
    if labels is None:
        if needs_labels:
            raise InputError("data", "inputs alone", "inputs and labels, to train")
        labels = torch.zeros(len(inputs))
    if len(inputs) != len(labels) or not len(inputs):
        raise InputError("data", (len(inputs), len(labels)), "as many labels as inputs, at least one")
    file = directory / DATA_FILE
    write_tensors({"inputs": inputs, "labels": labels}, file)
    return Source(
        factory=f"{StoredData.__module__}:{StoredData.__qualname__}", arguments={"file": str(file), "batch": batch}
    )


def _tensors(data: Any, most: int) -> tuple[Tensor, Tensor | None]:
    """At most so many samples."""
    if isinstance(data, Tensor):
        return data[:most], None
    if isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(each, Tensor) for each in data):
        return data[0][:most], data[1][:most]
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        samples = [data[index] for index in range(min(most, len(data)))]
        if samples and all(isinstance(each, tuple | list) and len(each) == 2 for each in samples):
            inputs, labels = ([torch.as_tensor(each) for each in column] for column in zip(*samples, strict=True))
            return torch.stack(inputs), torch.stack(labels)
        if samples and all(isinstance(each, Tensor) for each in samples):
            return torch.stack(samples), None
    raise InputError(
        "data",
        type(data).__name__,
        "a pair of tensors (inputs, labels), a dataset of such pairs with a length, or 'module:function' of an "
        "object with micro_batch(step, index, samples)",
    )


def _wrapped(column: Any, first: int, samples: int) -> Tensor:
    """Samples from ``first`` on, starting again at the end."""
    count = column.get_shape()[0]
    parts, start, left = [], first % count, samples
    while left:
        taken = min(left, count - start)
        parts.append(column[start : start + taken])
        start, left = 0, left - taken
    return parts[0] if len(parts) == 1 else torch.cat(parts)

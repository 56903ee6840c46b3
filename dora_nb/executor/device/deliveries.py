"""Outputs of a stream's requests, delivered one by one while it goes on: what is delivered outlives its device.

Every device of the last stage writes one safetensors file for each request it has completed, with the times of its
clock, into a directory of the coordinator's. A request counts as completed once all of these devices have delivered
theirs.
"""

from __future__ import annotations

import itertools
import pathlib
import queue
import shutil
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from dora_nb.errors import ExecutionError

if TYPE_CHECKING:  # who delivers, or reads, loads torch itself
    from torch import Tensor

    from dora_nb.executor.control.paths import Files


class Delivery(NamedTuple):
    """A device's part of one request.

    Attributes
    ----------
    outputs
        Of the last layer, by micro-batch.
    start_s, end_s
        When the devices began with the stream, or what was left of it, and when this device had completed the request;
        of ``time.perf_counter``.
    """

    outputs: Mapping[int, Tensor]
    start_s: float
    end_s: float


class Deliveries:
    """Delivers from a thread of its own, so that the stages need not wait.

    A context manager: leaving it waits until everything put so far is delivered, whatever happened.

    Parameters
    ----------
    files
        How the coordinator's files are reached.
    directory
        Where to, in its private directory.
    device
        Whose outputs.

    Raises
    ------
    ExecutionError
        On leaving it, if something could not be delivered; nothing behind that was.
    """

    def __init__(self, files: Files, directory: str, device: str) -> None:
        self._files, self._directory, self._device = files, pathlib.PurePath(directory), device
        self._waiting: queue.SimpleQueue[tuple[int, Delivery] | None] = queue.SimpleQueue()
        self._problem: Exception | None = None
        self._thread = threading.Thread(target=self._deliver_all, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.put(None)
        self._thread.join()
        if self._problem is not None and error is None:
            raise ExecutionError(f"outputs could not be delivered: {self._problem}") from self._problem

    def put(self, request: int, delivery: Delivery) -> None:
        """Deliver a device's part of a request; returns at once."""
        self._waiting.put((request, delivery))

    def _deliver_all(self) -> None:
        while (next_one := self._waiting.get()) is not None:
            if self._problem is None:  # what is delivered has no gaps
                try:
                    self._deliver(*next_one)
                except Exception as error:
                    self._problem = error

    def _deliver(self, request: int, delivery: Delivery) -> None:
        from dora_nb.executor.networks.tensor_file import write_tensors

        tensors = {str(micro_batch): each for micro_batch, each in delivery.outputs.items()}
        times = {"start_s": repr(delivery.start_s), "end_s": repr(delivery.end_s)}
        with self._files.deliver(str(self._directory / _name(request, self._device))) as path:
            write_tensors(tensors, path, times)


def take_delivered(directory: pathlib.Path, offsets_s: Mapping[str, float], first: int) -> list[dict[str, Delivery]]:
    """What was delivered of every completed request; the directory is removed.

    Parameters
    ----------
    directory
        The one that was delivered to.
    offsets_s
        Of each device of the last stage, what its clock shows more than this host's.
    first
        The first request that was to be delivered.

    Returns
    -------
    deliveries by device, of each request from the first one on until one that not all devices have delivered
    """
    completed = []
    for request in itertools.count(first):
        paths = {device: directory / _name(request, device) for device in offsets_s}
        if not all(path.is_file() for path in paths.values()):
            break
        completed.append({device: _read(path, offsets_s[device]) for device, path in paths.items()})
    shutil.rmtree(directory)
    return completed


def _read(path: pathlib.Path, offset_s: float) -> Delivery:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        times = file.metadata()
        outputs = {int(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    return Delivery(outputs, float(times["start_s"]) - offset_s, float(times["end_s"]) - offset_s)


def _name(request: int, device: str) -> str:
    return f"{request}.{device}.safetensors"

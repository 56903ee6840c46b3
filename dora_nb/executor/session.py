"""A group of workers that runs plans: prepared, run step by step, switched to another plan, re-formed after a fault.

The coordinator is never one of the ranks. Every iteration is an order of its own, so between two of them the group can
change: *prepare* connects a new group and builds what is missing beside what runs, *commit* makes it the current one.
"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from dora_nb.domain.plan import Plan
from dora_nb.domain.run_record import Link
from dora_nb.errors import ExecutionError, WorkerLostError
from dora_nb.executor.control.clock import clock_offsets
from dora_nb.executor.messages import (
    Abort,
    Commit,
    Exchange,
    Inventory,
    Iterate,
    Iterated,
    Job,
    NetworkUse,
    Order,
    Probe,
    Probed,
    Ready,
    Save,
    Stock,
    Target,
)
from dora_nb.executor.moves import Move, holders_of, layers_of, movers, moves_to
from dora_nb.executor.pool import WorkerPool
from dora_nb.executor.task import Task

if TYPE_CHECKING:
    from torch import Tensor

_Answer = TypeVar("_Answer")

#: Seconds in which building layers may keep a worker from giving a sign of life: imports hold everything up.
BUILDING_SILENCE_S = 20.0

#: Seconds for a living worker to come back from what it was at when all was given up.
WAKE_S = 30.0


class DeviceLostError(ExecutionError):
    """A device's worker ended, hangs or is cut off.

    Parameters
    ----------
    device
        Whose.
    problem
        What is known.
    """

    def __init__(self, device: str, problem: str) -> None:
        super().__init__(f"{device}: {problem}")
        self.device = device


class Switched(NamedTuple):
    """What a change of plans took.

    Attributes
    ----------
    seconds
        From the last step's end to readiness.
    moves
        What passed.
    """

    seconds: float
    moves: tuple[Move, ...]


class Session:
    """Runs one task on a pool's workers, under one plan after another.

    Parameters
    ----------
    pool
        With a worker per device of all plans together.
    task
        What runs.
    network
        How the group uses the network.
    worker_of
        Number of each device's worker.
    longest_s
        Seconds after which a wait for a peer under a plan is hopeless.
    """

    def __init__(
        self,
        pool: WorkerPool,
        task: Task,
        network: NetworkUse,
        worker_of: Mapping[str, int],
        longest_s: Callable[[Plan], float],
    ) -> None:
        self.pool, self.task, self.network = pool, task, network
        self.worker_of = dict(worker_of)
        self.completed = 0
        self.plan: Plan | None = None
        self._longest_s = longest_s
        self._wait_s = 0.0  # that of the plan that runs, which every step needs
        self._offsets_s: dict[int, float] = {}
        self._generation = 0

    @property
    def present(self) -> frozenset[str]:
        """Devices whose workers live."""
        alive = set(self.pool.alive)
        return frozenset(device for device, worker in self.worker_of.items() if worker in alive)

    # ------------------------------------------------------------------ plans

    def clear(self) -> None:
        """Make every worker forget what it ran for another session."""
        self._ask({device: Commit() for device in sorted(self.present)}, Ready, "clearing", WAKE_S)

    def prepare(self, plan: Plan, *, fresh: bool, checkpoint: pathlib.Path | None = None) -> None:
        """Connect a plan's devices and build their layers, beside what runs.

        Parameters
        ----------
        plan
            In the form that is run.
        fresh
            Whether layers of which nobody has a state start as the network's source has them.
        checkpoint
            Where states are, if not on the workers.
        """
        self._generation = self.pool.next_generation()
        timeout_s = self._longest_s(plan)
        jobs = {
            device: Job(
                generation=self._generation,
                devices=plan.devices,
                device=device,
                timeout_s=timeout_s,
                network=self.network,
                plan=plan,
                task=self.task,
                completed=self.completed,
                fresh=fresh,
                checkpoint=None if checkpoint is None else str(checkpoint),
            )
            for device in plan.devices
        }
        self._ask(jobs, Ready, "preparing", timeout_s + BUILDING_SILENCE_S, silence_s=BUILDING_SILENCE_S)

    def commit(self, plan: Plan) -> None:
        """Run what was prepared from now on; devices that are not part of it forget what they ran."""
        involved = dict.fromkeys((*plan.devices, *(self.plan.devices if self.plan is not None else ())))
        orders = {device: Commit() for device in involved if device in self.present}
        self._ask(orders, Ready, "committing", WAKE_S)
        self.plan, self._wait_s = plan, self._longest_s(plan)
        seats = {self.worker_of[device] for device in plan.devices}
        elsewhere = [worker for worker in self.pool.connected if worker in seats]
        self._offsets_s = {worker: each.offset_s for worker, each in clock_offsets(self.pool, elsewhere).items()}

    def switch(self, plan: Plan) -> Switched:
        """Go on with another plan, between two steps: what is missing moves first."""
        assert self.plan is not None, "something runs before it is switched"
        began_s = time.monotonic()
        moves = self._move(plan, holders_of(self.plan))
        self.prepare(plan, fresh=False)
        self.commit(plan)
        return Switched(time.monotonic() - began_s, moves)

    def probe(self) -> Link | None:
        """Measure the network between the first two devices; None if there is only one."""
        assert self.plan is not None, "a probe follows a commit"
        if len(self.plan.devices) == 1:
            return None
        orders = {device: Probe(rate=self.network.medium is None) for device in self.plan.devices[:2]}
        probed = self._ask(orders, Probed, "probing the network", self._wait_s)[self.plan.devices[0]]
        return Link(latency_s=probed.latency_s, rate_bytes_per_s=probed.rate_bytes_per_s)

    # ------------------------------------------------------------------ steps

    def iterate(
        self,
        step: int,
        *,
        trains: bool,
        targets: Mapping[str, Sequence[Target]],
        keep: bool = False,
        copies: Sequence[Move] = (),
        arrival_s: float | None = None,
    ) -> dict[str, Iterated]:
        """Run one iteration or batch.

        Parameters
        ----------
        step
            Which data.
        trains
            Whether it is a training step.
        targets
            How long each device's computations last.
        keep, copies
            Whether devices keep the states behind this step, and who gives a copy to whom.
        arrival_s
            Seconds between requests of a stream.

        Returns
        -------
        what each device did

        Raises
        ------
        DeviceLostError
            If a device is lost.
        ExecutionError
            If something else goes wrong.
        """
        assert self.plan is not None, "steps follow a commit"
        orders = {
            device: Iterate(
                step=step,
                trains=trains,
                targets=tuple(targets.get(device, ())),
                keep=keep,
                copies=tuple(copies),
                arrival_s=arrival_s,
            )
            for device in self.plan.devices
        }
        what = f"running step {step + 1}" if trains else "running a batch"
        done = self._ask(orders, Iterated, what, self._wait_s)
        self.completed += trains
        return {device: self._on_own_clock(device, each) for device, each in done.items()}

    def save(self, what: str, directory: pathlib.Path) -> dict[str, pathlib.Path]:
        """Let every device write tensors; see :class:`~dora_nb.executor.messages.Save`.

        Returns
        -------
        file by device
        """
        assert self.plan is not None, "there is something to save once something runs"
        paths = {device: directory / f"{device}.safetensors" for device in self.plan.devices}
        orders = {
            device: Save.model_validate({"path": str(path), "what": what, "layers": self._written_by(device, what)})
            for device, path in paths.items()
        }
        self._ask(orders, Ready, "saving", self._wait_s)
        return paths

    def load(self, what: str) -> dict[str, dict[str, Tensor]]:
        """What every device writes, by device."""
        from safetensors.torch import load_file

        loaded = {}
        for device, path in self.save(what, self.pool.directory).items():
            loaded[device] = load_file(path)
            path.unlink()
        return loaded

    def _written_by(self, device: str, what: str) -> tuple[int, ...] | None:
        """Layers that a device writes: of those that several hold, the first one writes them."""
        assert self.plan is not None, "checked by the caller"
        if what != "states":
            return None
        holders = holders_of(self.plan)
        return tuple(layer for layer in layers_of(self.plan, device) if holders[layer][0] == device)

    # ------------------------------------------------------------------ faults

    def give_up(self) -> None:
        """Make every living worker stop what it does; what it then answers is not read."""
        self.pool.abort(Abort(generation=self._generation))

    def drop(self, device: str) -> None:
        """End a device's worker, whatever state it is in."""
        self.pool.remove(self.worker_of[device])

    def stock(self) -> dict[str, Stock]:
        """What each living device has after how many steps."""
        orders = {device: Inventory() for device in sorted(self.present)}
        return self._ask(orders, Stock, "taking stock", WAKE_S)

    def go_on_with(self, plan: Plan, completed: int, holders: Mapping[int, Sequence[str]], *, fresh: bool) -> Switched:
        """Re-form the group around states after so many steps; see :func:`latest_complete`."""
        began_s = time.monotonic()
        self.completed = completed
        moves = self._move(plan, holders)
        self.prepare(plan, fresh=fresh)
        self.commit(plan)
        return Switched(time.monotonic() - began_s, moves)

    # ------------------------------------------------------------------ orders

    def _on_own_clock(self, device: str, done: Iterated) -> Iterated:
        """The times of a device on another host as this host's clock would have shown them."""
        offset_s = self._offsets_s.get(self.worker_of[device], 0.0)
        if not offset_s:
            return done
        iteration = done.iteration
        events = tuple(
            each.replace(start_s=each.start_s - offset_s, end_s=each.end_s - offset_s) for each in iteration.events
        )
        shifted = iteration.replace(
            start_s=iteration.start_s - offset_s, end_s=iteration.end_s - offset_s, events=events
        )
        return done.replace(iteration=shifted)

    def _move(self, plan: Plan, holders: Mapping[int, Sequence[str]]) -> tuple[Move, ...]:
        moves = moves_to(
            plan, {layer: [each for each in own if each in self.present] for layer, own in holders.items()}
        )
        if moves:
            devices = movers(moves)
            self._generation = self.pool.next_generation()
            timeout_s = self._longest_s(plan)
            orders = {
                device: Exchange(
                    generation=self._generation,
                    devices=devices,
                    device=device,
                    timeout_s=timeout_s,
                    network=self.network,
                    completed=self.completed,
                    moves=moves,
                )
                for device in devices
            }
            self._ask(orders, Ready, "moving layers", timeout_s)
        return moves

    def _ask(
        self,
        orders: Mapping[str, Order],
        answer: type[_Answer],
        doing: str,
        timeout_s: float,
        silence_s: float | None = None,
    ) -> dict[str, _Answer]:
        device_of = {worker: device for device, worker in self.worker_of.items()}
        numbered = {self.worker_of[device]: order for device, order in orders.items()}
        try:
            answers = self.pool.ask(
                numbered, answer, doing=doing, timeout_s=timeout_s, tolerant=True, silence_s=silence_s
            )
        except WorkerLostError as lost:
            raise DeviceLostError(device_of.get(lost.index, f"worker {lost.index}"), str(lost)) from lost
        return {device_of[worker]: each for worker, each in answers.items()}


def latest_complete(
    stock: Mapping[str, Mapping[int, Sequence[int]]], layers: Sequence[int], most: int | None = None
) -> tuple[int, dict[int, list[str]]] | None:
    """The most steps after which the living devices together have every layer, and who has which.

    Parameters
    ----------
    stock
        By device and number of steps: layers.
    layers
        Those of the network.
    most
        Of steps that count; None: all.

    Returns
    -------
    completed, holders by layer; None if there is no such number of steps
    """
    for completed in sorted({each for own in stock.values() for each in own}, reverse=True):
        if most is not None and completed > most:
            continue
        holders = {
            layer: [device for device, own in sorted(stock.items()) if layer in own.get(completed, ())]
            for layer in layers
        }
        if all(holders.values()):
            return completed, holders
    return None

"""A group of workers that runs plans: prepared, run step by step, switched to another plan, re-formed after a fault.

The coordinator is never one of the ranks. Every iteration is an order of its own, so between two of them the group can
change: *prepare* connects a new group and builds what is missing beside what runs, *commit* makes it the current one.
"""

from __future__ import annotations

import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from dora_nb.domain.plan import Plan
from dora_nb.domain.run_record import Link
from dora_nb.domain.serving import Joining
from dora_nb.errors import ExecutionError, WorkerLostError
from dora_nb.executor.control.clock import clock_offsets
from dora_nb.executor.control.orders import (
    Abort,
    Commit,
    Exchange,
    Inventory,
    Iterate,
    Job,
    NetworkUse,
    Order,
    Probe,
    Save,
    Serve,
    StreamPart,
    Target,
)
from dora_nb.executor.control.replies import Iterated, IterationReport, Probed, Ready, Served, Stock
from dora_nb.executor.device.deliveries import Delivery, take_delivered
from dora_nb.executor.device.shard_stages import check_shards_stay
from dora_nb.executor.faults.moves import Move, holders_of, layers_of, movers, moves_to
from dora_nb.executor.pool import WorkerPool
from dora_nb.executor.tasks.task import Task

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


class Answered(NamedTuple):
    """What became of the requests that an iteration was to answer.

    Attributes
    ----------
    requests
        Those that were completed, in order: what each device of the last stage delivered; times of this host's clock.
    ordered_s
        When the iteration was ordered, of ``time.perf_counter``.
    """

    requests: list[dict[str, Delivery]]
    ordered_s: float


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
        self._answering: tuple[pathlib.Path, int, float] | None = None  # where to, from which request on, since when

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
        """Go on with another plan, between two steps: what is missing moves first.

        Raises
        ------
        InputError
            If the two plans do not have the same shards; nothing has moved then.
        """
        assert self.plan is not None, "something runs before it is switched"
        check_shards_stay(self.plan, plan)
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
        first_request: int = 0,
        began_s: float | None = None,
    ) -> dict[str, Iterated]:
        """Run one iteration or batch, or what is left of a stream; :meth:`answered` must follow, also upon an error.

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
        first_request, began_s
            The first of them that is left, and when the stream began, of ``time.perf_counter``; None: it begins now.

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
        streams: dict[str, StreamPart] = {}
        if arrival_s is not None:
            directory = pathlib.Path(tempfile.mkdtemp(prefix="stream-", dir=self.pool.directory))
            self._answering = directory, first_request, time.perf_counter()
            streams = {
                device: StreamPart(
                    arrival_s=arrival_s,
                    first_request=first_request,
                    began_s=None if began_s is None else began_s + self._offset_s(device),
                    directory=str(directory),
                )
                for device in self.plan.devices
            }
        orders = {
            device: Iterate(
                step=step,
                trains=trains,
                targets=tuple(targets.get(device, ())),
                keep=keep,
                copies=tuple(copies),
                stream=streams.get(device),
            )
            for device in self.plan.devices
        }
        what = f"running step {step + 1}" if trains else "running a batch"
        done = self._ask(orders, Iterated, what, self._wait_s)
        self.completed += trains
        return {
            device: each.replace(iteration=self._on_own_clock(device, each.iteration)) for device, each in done.items()
        }

    def serve(self, arrivals_s: Sequence[float], joining: Joining) -> Served:
        """Serve requests for tokens, which arrive at these times and join so; what the first stage says."""
        assert self.plan is not None, "serving follows a commit"
        order = Serve(arrivals_s=tuple(arrivals_s), batching=joining.batching, wave=joining.wave)
        orders = dict.fromkeys(self.plan.devices, order)
        return self._ask(orders, Served, "serving requests", self._wait_s)[self.plan.devices[0]]

    def answered(self) -> Answered | None:
        """What became of the requests of the last iteration, told once; None if there were none, or it was told.

        Behind a fault, :meth:`stock` comes first: who answers it has nothing left to deliver.
        """
        if self._answering is None or self.plan is None:
            return None
        directory, first_request, ordered_s = self._answering
        self._answering = None
        offsets_s = {device: self._offset_s(device) for device in self.plan.stages[-1].devices}
        return Answered(take_delivered(directory, offsets_s, first_request), ordered_s)

    def save(self, what: str, directory: pathlib.Path) -> dict[str, pathlib.Path]:
        """Let every device write tensors; see :class:`~dora_nb.executor.control.messages.Save`.

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
        """What every device writes, by device; of shards the leader of their stage has the whole tensors."""
        from dora_nb.executor.device.saved import read_whole

        assert self.plan is not None, "there is something to load once something runs"
        paths = self.save(what, self.pool.directory)
        loaded = read_whole(paths, self.plan)
        for path in paths.values():
            path.unlink()
        return loaded

    def _written_by(self, device: str, what: str) -> tuple[int, ...] | None:
        """Layers that a device writes: of those that several hold, the first one; of a shard each its own."""
        assert self.plan is not None, "checked by the caller"
        if what != "states":
            return None
        holders = holders_of(self.plan)
        sliced = any(device in stage.devices for stage in self.plan.stages if stage.shards)
        return tuple(layer for layer in layers_of(self.plan, device) if sliced or holders[layer][0] == device)

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
        stock = self._ask(orders, Stock, "taking stock", WAKE_S)
        return {
            device: own if own.streamed is None else own.replace(streamed=self._on_own_clock(device, own.streamed))
            for device, own in stock.items()
        }

    def go_on_with(self, plan: Plan, completed: int, holders: Mapping[int, Sequence[str]], *, fresh: bool) -> Switched:
        """Re-form the group around states after so many steps; see :func:`latest_complete`."""
        began_s = time.monotonic()
        self.completed = completed
        moves = self._move(plan, holders)
        self.prepare(plan, fresh=fresh)
        self.commit(plan)
        return Switched(time.monotonic() - began_s, moves)

    # ------------------------------------------------------------------ orders

    def _offset_s(self, device: str) -> float:
        """What a device's clock shows more than this host's; 0 on this host."""
        return self._offsets_s.get(self.worker_of[device], 0.0)

    def _on_own_clock(self, device: str, report: IterationReport) -> IterationReport:
        """The times of a device on another host as this host's clock would have shown them."""
        offset_s = self._offset_s(device)
        if not offset_s:
            return report
        events = tuple(
            each.replace(start_s=each.start_s - offset_s, end_s=each.end_s - offset_s) for each in report.events
        )
        return report.replace(start_s=report.start_s - offset_s, end_s=report.end_s - offset_s, events=events)

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

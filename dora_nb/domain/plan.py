"""A plan: which layers run where, in which micro-batches, and which transfer goes first."""

from __future__ import annotations

import itertools
import operator
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from dora_nb.domain.limit import Limit
from dora_nb.domain.qoe import EnergyAccounting, Objective, Unit
from dora_nb.domain.record import Record
from dora_nb.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

#: How parameters shared by the first and the last layer are kept equal. ``none``: the workload ties nothing, or does
#: not train and each stage holds a copy. ``one-stage``: both layers sit in the only stage. ``synchronised``: two
#: copies whose gradients are summed each iteration. ``hosted``: the last stage's devices also run the first layer, so
#: that there is one copy; what crosses the network is that layer's output instead of the parameters.
TiedPlacement = Literal["none", "one-stage", "synchronised", "hosted"]

#: Pseudo-stage index of a first layer hosted by the last stage.
HOSTED = -1

#: Pieces of a transfer that are scheduled apart; smaller ones are the transport's own business.
MOST_CHUNKS = 4


class Compute(NamedTuple):
    """One pass of one micro-batch through one stage (:data:`HOSTED` for a hosted first layer)."""

    phase: Literal["forward", "backward"]
    stage: int
    micro_batch: int


def compute_order(
    stage: int, *, in_flight: int, micro_batches: int, trains: bool, hosts_first_layer: bool
) -> tuple[Compute, ...]:
    """The order in which every replica of a stage computes in one iteration.

    One-forward-one-backward with the stage's in-flight count: as many forward passes as it may hold, then a backward
    pass and a forward pass in turns. Devices that host the first layer run all its forward passes before, and all its
    backward passes after the stage's own work. Without training: forward passes only.
    """
    batches = range(micro_batches)
    forwards = [Compute("forward", stage, index) for index in batches]
    own = forwards
    if trains:
        warm_up = min(in_flight, micro_batches)
        own = forwards[:warm_up]
        for index in batches:
            own.append(Compute("backward", stage, index))
            own.extend(forwards[warm_up + index : warm_up + index + 1])
    if hosts_first_layer:
        before = [Compute("forward", HOSTED, index) for index in batches]
        after = [Compute("backward", HOSTED, index) for index in batches] if trains else []
        own = [*before, *own, *after]
    return tuple(own)


TransferKind = Literal[
    "input",
    "label",
    "activation",
    "gradient",
    "output",
    "token",
    "all-reduce",
    "tied-reduce",
    "tied-exchange",
    "tied-broadcast",
]


#: In what weights are held where they are not in the workload's precision.
Weights = Literal["int8"]

#: ``ring``: 2 (k - 1) rounds of parts of 1 / k. ``star``: everybody sends to the leader, which sends the sum back.
Algorithm = Literal["ring", "star"]


class Replica(Record):
    """One device's copy of a stage, with the samples of every micro-batch that it takes."""

    device: str = Field(min_length=1)
    samples: int = Field(ge=1)


class AllReduce(Record):
    """How the replicas of a stage sum their gradients, point to point.

    Attributes
    ----------
    algorithm
        See :data:`Algorithm`.
    leader
        Device in the middle of a star, and of the exchange of tied gradients.
    buckets
        In how many parts gradients are summed, each as soon as the last backward pass has filled it.
    """

    algorithm: Algorithm
    leader: str
    buckets: int = Field(default=1, ge=1)


class Stage(Record):
    """Contiguous layers on one device or several.

    Attributes
    ----------
    first_layer, stop_layer
        The stage runs layers ``first_layer`` to ``stop_layer - 1``.
    replicas
        Devices in order; they take consecutive sample intervals of every micro-batch.
    in_flight
        Micro-batches whose activations the stage may hold at once.
    all_reduce
        How gradients are summed; None with one replica or without training.
    recomputes
        Whether only what enters each layer is kept from forward to backward, and the layer is run forward again right
        before its backward pass (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016). The network's
        last layer is not run again: its backward pass comes next anyway. A plan file holds it only where it is so.
    weights
        ``int8``: matrices of dense products are held and read in 8 bits, one scale a row, and multiplied in the
        workload's precision; without training only, and not those that are tied. None: in the workload's precision; a
        plan file then does not hold it.
    """

    first_layer: int = Field(ge=0)
    stop_layer: int = Field(ge=1)
    replicas: tuple[Replica, ...] = Field(min_length=1)
    in_flight: int = Field(ge=1)
    all_reduce: AllReduce | None = None
    recomputes: bool = Field(default=False, exclude_if=operator.not_)
    weights: Weights | None = Field(default=None, exclude_if=operator.not_)

    @property
    def devices(self) -> tuple[str, ...]:
        """Device ids in replica order."""
        return tuple(replica.device for replica in self.replicas)

    @property
    def leader(self) -> str:
        """The device that speaks for the stage when tied gradients are summed."""
        return self.devices[0] if self.all_reduce is None else self.all_reduce.leader

    def layers_again(self, layers: int) -> range:
        """Layers that are run forward again before their backward pass, of a network of so many layers."""
        return range(self.first_layer, min(self.stop_layer, layers - 1)) if self.recomputes else range(0)

    @property
    def intervals(self) -> tuple[tuple[int, int], ...]:
        """Samples [start, stop) of every micro-batch that each replica takes."""
        bounds = [0]
        for replica in self.replicas:
            bounds.append(bounds[-1] + replica.samples)
        return tuple(itertools.pairwise(bounds))


class Transfer(Record):
    """One hand-over on the network.

    Attributes
    ----------
    kind
        ``activation`` leaves ``stage`` for the next one, ``gradient`` comes back to ``stage`` from the next one;
        ``input`` and ``label`` reach ``stage`` from the source; ``output`` leaves it for the sink; ``token`` stands for
        all hand-overs after the prompt's, one token at a time (from the last stage: the tokens chosen, back to the
        first); the others sum gradients at the end of an iteration.
    stage
        Index of the stage; :data:`HOSTED` for a hosted first layer.
    micro_batch
        Index of the micro-batch; 0 for the sums at the end.
    part
        Which chunk of a hand-over, or which bucket of an all-reduce, from 1; 0 if it travels whole.
    lag
        In a stream: how many requests have arrived since its own when it enters the network. 0 in other modes.
    """

    kind: TransferKind
    stage: int = Field(ge=HOSTED)
    micro_batch: int = Field(ge=0)
    part: int = Field(default=0, ge=0)
    lag: int = Field(default=0, ge=0)


class ScheduledTransfer(Record):
    """One transfer of the predicted schedule.

    Attributes
    ----------
    kind, stage, micro_batch, part
        As in :class:`Transfer`; of a ``token``, ``micro_batch`` is the step, or with several groups the round: all
        groups' first steps, then all their second ones.
    senders, receivers
        Devices at the two ends.
    media
        Media or ports that it holds.
    start_s, end_s
        From when until it has arrived, from the iteration's start.
    """

    kind: TransferKind
    stage: int
    micro_batch: int
    part: int
    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    media: tuple[str, ...]
    start_s: float
    end_s: float


class DevicePrediction(Record):
    """What one participating device is predicted to do in one iteration or batch."""

    device: str
    busy_s: float
    memory_bytes: float
    usable_memory_bytes: float
    energy_j: float


class IdlePrediction(Record):
    """What a device outside the plan draws meanwhile, if it is on."""

    device: str
    energy_j: float


class Prediction(Record):
    """What the cost model expects of a plan, for one iteration or batch. Predicted, never measured.

    Attributes
    ----------
    makespan_s
        First input to last output or step; in a stream, from a request's arrival to its last output.
    period_s
        Steady-state seconds between micro-batches: the largest load of a stage or a contention domain. In a stream:
        the same between requests, the shortest time between arrivals that no stage or domain rules out.
    samples_per_s
        Throughput: the batch over the makespan, in a stream over the time between requests.
    energy_participating_j, energy_all_on_j
        Energy under the two accountings of :data:`~dora_nb.domain.qoe.EnergyAccounting`. In a stream: per request, with
        idling counted from one arrival to the next, however long the request itself takes.
    first_token_s, token_s
        When every sample has its first new token, and seconds from one token to the next; None if nothing is
        generated (``token_s`` also where the first token is the only one).
    network_bytes
        Bytes carried.
    airtime_s
        Seconds the busiest medium (shared) or port (switch) is held.
    devices
        The participating devices.
    idle
        The other devices of the cluster.
    schedule
        Every transfer with its times, by start. On one medium that is the order in which it is used.
    """

    makespan_s: float
    period_s: float
    samples_per_s: float
    energy_participating_j: float
    energy_all_on_j: float
    network_bytes: float
    airtime_s: float
    devices: tuple[DevicePrediction, ...]
    idle: tuple[IdlePrediction, ...]
    first_token_s: float | None = None
    token_s: float | None = None
    schedule: tuple[ScheduledTransfer, ...] = ()

    def energy_j(self, accounting: EnergyAccounting) -> float:
        """Energy under one accounting."""
        return self.energy_participating_j if accounting == "participating" else self.energy_all_on_j


class SecondSolve(Record):
    """Among equally good plans (within the gap) none is better at the other figure than this.

    Attributes
    ----------
    objective, unit
        The other figure, and its unit.
    value, bound, gap
        As in :class:`Certificate`.
    """

    objective: Literal["latency", "energy"]
    unit: Unit
    value: float
    bound: float
    gap: float = Field(ge=0)


class Certificate(Record):
    """How good a plan is proven to be.

    Attributes
    ----------
    objective, unit
        What was minimised, and its unit (``s`` or ``J``).
    latency_limit_s, energy_limit_j
        Limits on makespan and energy it was minimised under: the QoE's, or a tighter one for a trade-off.
    limits
        Every limit of the QoE, and whether the plan keeps it; the bound holds for plans that keep all hard ones.
    with_prices
        Whether ``value`` and ``bound`` include what soft limits add. They do for the QoE's best plan; trade-offs
        show makespan and energy as they are.
    value
        The plan's own figure.
    bound
        No plan among those considered can be below this (see ``scope``).
    gap
        ``(value - bound) / value``.
    status
        ``optimal``: the gap is at most the tolerance asked for. ``feasible``: it is larger. ``time limit``
        and ``cancelled``: planning was stopped before the gap was reached.
    scope
        Over which plans the bound holds: micro-batch sizes, group sizes, in-flight depths.
    algorithm
        ``decomposed``: bounds first, then the schedules they leave open. ``monolithic``: the joint program.
    solver, solver_reason
        What proved the bound, and why that solver.
    then
        The tie-break; None where planning was stopped before it.
    """

    objective: Objective
    unit: Unit
    latency_limit_s: float | None = None
    energy_limit_j: float | None = None
    limits: tuple[Limit, ...] = ()
    with_prices: bool = False
    value: float
    bound: float
    gap: float = Field(ge=0)
    status: Literal["optimal", "feasible", "time limit", "cancelled"]
    scope: str
    algorithm: Literal["decomposed", "monolithic"] = "decomposed"
    solver: str
    solver_reason: str
    then: SecondSolve | None = None

    def _repr_html_(self) -> str:
        from dora_nb.render.html import certificate_html  # a method that looks up a room: imported when called

        return certificate_html(self)


def _is_one(number: int) -> bool:
    return number == 1


class Plan(Record):
    """A complete set of decisions for one workload on one cluster.

    Attributes
    ----------
    label
        What the plan is best at, e.g. ``latency-optimal``.
    micro_batch, micro_batches
        Samples per micro-batch and how many of them make up the batch.
    stages
        First to last; together they cover the layers once (a hosted first layer apart).
    tied
        Where parameters tied between the first and the last layer live.
    overlap
        Whether stages compute while they send. If not, a stage waits after every pass until what it sent has arrived.
    chunks
        In how many equal pieces activations and gradients travel; others may go between them.
    token_groups
        In how many groups of equally many micro-batches the batch follows itself through the stages while tokens are
        generated; see :mod:`dora_nb.costs.token_rounds`. 1: it travels as one unit; a plan file then does not hold it.
    transfer_order
        Every transfer of one iteration, in the order in which they enter the network; in a stream, in the order in
        which they do so within one period, each with its lag.
    prediction, certificate
        What the cost model expects, and how good the plan is proven to be. None for a plan that was not evaluated.
    """

    label: str = ""
    micro_batch: int = Field(ge=1)
    micro_batches: int = Field(ge=1)
    stages: tuple[Stage, ...] = Field(min_length=1)
    tied: TiedPlacement = "none"
    overlap: bool = True
    chunks: int = Field(default=1, ge=1, le=MOST_CHUNKS)
    token_groups: int = Field(default=1, ge=1, exclude_if=_is_one)
    transfer_order: tuple[Transfer, ...] = ()
    prediction: Prediction | None = None
    certificate: Certificate | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        position = 1 if self.tied == "hosted" else 0
        used: set[str] = set()
        for index, stage in enumerate(self.stages):
            where = f"stages[{index}]"
            if stage.first_layer != position or stage.stop_layer <= position:
                raise InputError(
                    f"{where}.first_layer",
                    (stage.first_layer, stage.stop_layer),
                    f"layers that start at {position}, where the stage before ends, at least one of them",
                )
            position = stage.stop_layer
            for device in stage.devices:
                if device in used:
                    raise InputError(f"{where}.replicas", device, "every device in one stage only")
                used.add(device)
            if sum(replica.samples for replica in stage.replicas) != self.micro_batch:
                raise InputError(
                    f"{where}.replicas",
                    [replica.samples for replica in stage.replicas],
                    f"samples that add up to the micro-batch of {self.micro_batch}",
                )
            if stage.all_reduce is not None:
                self._check_all_reduce(index, stage.all_reduce)
        held = [stage.in_flight for stage in self.stages]
        for index, (ahead, behind) in enumerate(itertools.pairwise(held)):
            if behind > ahead:
                raise InputError(
                    f"stages[{index + 1}].in_flight",
                    behind,
                    f"at most {ahead}, what the stage before may have sent it before a gradient comes back",
                )
        if self.micro_batches % self.token_groups:
            allowed = f"a divisor of the {self.micro_batches} micro-batches"
            raise InputError("token_groups", self.token_groups, allowed)
        if self.tied == "hosted" and len(self.stages) == 1:
            raise InputError("tied", self.tied, "'one-stage' when there is a single stage")
        return self

    def _check_all_reduce(self, index: int, choice: AllReduce) -> None:
        where, stage = f"stages[{index}].all_reduce", self.stages[index]
        if choice.leader not in stage.devices:
            raise InputError(f"{where}.leader", choice.leader, f"one of {stage.devices}")
        if choice.buckets > 1 and (self.hosts_first_layer(index) or not self.overlap):
            reason = (
                "where sums may not overlap with computing" if not self.overlap else "in a stage that hosts a layer"
            )
            raise InputError(f"{where}.buckets", choice.buckets, f"1 {reason}")

    def hosts_first_layer(self, index: int) -> bool:
        """Whether the devices of a stage also run the network's first layer for the first stage."""
        return self.tied == "hosted" and index == len(self.stages) - 1

    @property
    def devices(self) -> tuple[str, ...]:
        """Participating devices, stage by stage."""
        return tuple(device for stage in self.stages for device in stage.devices)

    @property
    def layer_count(self) -> int:
        """Layers covered."""
        return self.stages[-1].stop_layer

    def compute_order(self, stage: int, trains: bool) -> tuple[Compute, ...]:
        """The order in which every replica of a stage computes in one iteration.

        See :func:`compute_order`.

        Parameters
        ----------
        stage
            Index of the stage.
        trains
            Whether the workload trains.
        """
        return compute_order(
            stage,
            in_flight=self.stages[stage].in_flight,
            micro_batches=self.micro_batches,
            trains=trains,
            hosts_first_layer=self.hosts_first_layer(stage),
        )

    def stage_frame(self) -> pd.DataFrame:
        """One row for every device of every stage, units in the column names, as a pandas frame."""
        from dora_nb.render.frames import stage_frame  # a method that looks up a room: imported when called

        return stage_frame(self)

    def schedule_frame(self) -> pd.DataFrame:
        """One row for every transfer of the predicted schedule, by start, as a pandas frame."""
        from dora_nb.render.frames import schedule_frame  # a method that looks up a room: imported when called

        return schedule_frame(self)

    def _repr_html_(self) -> str:
        from dora_nb.render.html import plan_html  # a method that looks up a room: imported when called

        return plan_html(self)

    def decisions(self) -> Plan:
        """The same plan without label, order, prediction and certificate: what two equal plans share."""
        return self.replace(label="", transfer_order=(), prediction=None, certificate=None)

"""A plan: which layers run where, in which micro-batches, and which transfer goes first."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple, Self, get_args

from pydantic import Field, model_validator

from dora_nb.domain.certificate import Certificate
from dora_nb.domain.prediction import Prediction
from dora_nb.domain.record import Record, is_one
from dora_nb.domain.transfer import HOSTED, Transfer
from dora_nb.errors import InputError
from dora_nb.units import counted

if TYPE_CHECKING:
    import pandas as pd

#: How parameters shared by the first and the last layer are kept equal. ``none``: the workload ties nothing, or does
#: not train and each stage holds a copy. ``one-stage``: both layers sit in the only stage. ``synchronised``: two
#: copies whose gradients are summed each iteration. ``hosted``: the last stage's devices also run the first layer, so
#: that there is one copy; what crosses the network is that layer's output instead of the parameters.
TiedPlacement = Literal["none", "one-stage", "synchronised", "hosted"]


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

    Parameters
    ----------
    stage
        Its index.
    in_flight
        Micro-batches that it may hold.
    micro_batches
        Of an iteration.
    trains
        Whether there are backward passes.
    hosts_first_layer
        Whether its devices run the network's first layer as well.
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


#: In what weights are held where they are not in the workload's precision, from most exact to least.
Weights = Literal["fp16", "bf16", "int8"]


def checked_weights(kinds: Iterable[str], *, trains: bool) -> tuple[Weights, ...]:
    """Kinds that stages may hold weights in, each once, from most exact to least.

    Raises
    ------
    InputError
        If there is no such kind, or the workload trains.
    """
    given = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    allowed: tuple[Weights, ...] = get_args(Weights)
    if isinstance(kinds, str) or not set(given) <= set(allowed):
        raise InputError("weights", kinds, f"some of {', '.join(map(repr, allowed))}, as a tuple")
    if given and trains:
        raise InputError("weights", kinds, "() in training, which changes the weights")
    return tuple(each for each in allowed if each in given)


#: How devices sum. ``ring``: 2 (k - 1) rounds of parts of 1 / k. ``star``: everybody sends to the leader, which
#: sends the sum back.
Algorithm = Literal["ring", "star"]


class Replica(Record):
    """One device's copy or shard of a stage, with the samples of every micro-batch that it takes."""

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
        Devices in order; they take consecutive sample intervals of every micro-batch, unless they hold shards.
    in_flight
        Micro-batches whose activations the stage may hold at once.
    all_reduce
        How gradients are summed; None with one replica or without training.
    recomputes
        Whether only what enters each layer is kept from forward to backward, and the layer is run forward again right
        before its backward pass (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016). The network's
        last layer is not run again: its backward pass comes next anyway. A plan file holds it only where it is so.
    weights
        ``fp16`` or ``bf16``: parameters, activations inside the stage and its key-value cache are held in 16 bits, and
        computed in them. ``int8``: matrices of dense products, but for tied ones, are held and read in 8 bits, one
        scale a row, and multiplied in the workload's precision. None: all in the workload's precision, in which cuts
        are crossed in any case; a plan file then does not hold it. Without training only.
    shards
        Parts of every layer that can be sliced (:attr:`~dora_nb.domain.layer.Layer.parts`) that each device of
        ``replicas`` holds and computes, in their order; layers that cannot be are whole on each. Every device then
        takes all samples of a micro-batch. Empty, and left out of a plan file, where every device holds whole layers.
    shard_sum
        How the devices sum the outputs of their shards; a star's middle is the first device, which also hands over
        what leaves the stage. None without shards, and then left out of a plan file.
    """

    first_layer: int = Field(ge=0)
    stop_layer: int = Field(ge=1)
    replicas: tuple[Replica, ...] = Field(min_length=1)
    in_flight: int = Field(ge=1)
    all_reduce: AllReduce | None = None
    recomputes: bool = Field(default=False, exclude_if=operator.not_)
    weights: Weights | None = Field(default=None, exclude_if=operator.not_)
    shards: tuple[int, ...] = Field(default=(), exclude_if=operator.not_)
    shard_sum: Algorithm | None = Field(default=None, exclude_if=operator.not_)

    @model_validator(mode="after")
    def _check_shards(self) -> Self:
        if not self.shards:
            if self.shard_sum is not None:
                raise InputError("shard_sum", self.shard_sum, "None without shards: there is nothing to sum")
            return self
        if len(self.shards) != len(self.replicas) or len(self.shards) < 2 or min(self.shards) < 1:
            allowed = f"parts for each of the {len(self.replicas)} replicas, at least 2 of them, each at least 1 part"
            raise InputError("shards", self.shards, allowed)
        if self.shard_sum is None:
            raise InputError("shard_sum", None, "'ring' or 'star': how the outputs of the shards are summed")
        if self.all_reduce is not None:
            allowed = "None with shards: no device holds another's parameters, so no gradients are summed"
            raise InputError("all_reduce", self.all_reduce.algorithm, allowed)
        if self.recomputes:
            raise InputError("recomputes", True, "False with shards: their outputs are summed once a pass")
        if self.weights:
            raise InputError(
                "weights", self.weights, "None with shards, whose parts are not rounded like a whole layer"
            )
        return self

    @property
    def devices(self) -> tuple[str, ...]:
        """Device ids in replica order."""
        return tuple(replica.device for replica in self.replicas)

    @property
    def leader(self) -> str:
        """The device that speaks for the stage: when tied gradients are summed, and for all that its shards send."""
        return self.devices[0] if self.all_reduce is None else self.all_reduce.leader

    @property
    def buckets(self) -> int:
        """In how many buckets its replicas sum their gradients; 0 if there is nothing to sum."""
        return 0 if self.all_reduce is None or len(self.replicas) == 1 else self.all_reduce.buckets

    @property
    def senders(self) -> tuple[str, ...]:
        """Devices that hand over what leaves the stage: all, but of those with shards the leader."""
        return (self.leader,) if self.shards else self.devices

    def layers_again(self, layers: int) -> range:
        """Layers that are run forward again before their backward pass, of a network of so many layers."""
        return range(self.first_layer, min(self.stop_layer, layers - 1)) if self.recomputes else range(0)

    @property
    def intervals(self) -> tuple[tuple[int, int], ...]:
        """Samples [start, stop) of every micro-batch that each replica takes; with shards each takes all of them."""
        if self.shards:
            return tuple((0, replica.samples) for replica in self.replicas)
        bounds = [0]
        for replica in self.replicas:
            bounds.append(bounds[-1] + replica.samples)
        return tuple(itertools.pairwise(bounds))


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
    token_groups: int = Field(default=1, ge=1, exclude_if=is_one)
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
            self._check_samples(index, stage)
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
            allowed = f"a divisor of the {counted(self.micro_batches, 'micro-batch')}"
            raise InputError("token_groups", self.token_groups, allowed)
        if self.tied == "hosted" and len(self.stages) == 1:
            raise InputError("tied", self.tied, "'one-stage' when there is a single stage")
        return self

    def _check_samples(self, index: int, stage: Stage) -> None:
        samples = [replica.samples for replica in stage.replicas]
        if stage.shards and set(samples) != {self.micro_batch}:
            allowed = f"the whole micro-batch of {self.micro_batch} on every device of a stage with shards"
            raise InputError(f"stages[{index}].replicas", samples, allowed)
        if not stage.shards and sum(samples) != self.micro_batch:
            allowed = f"samples that add up to the micro-batch of {self.micro_batch}"
            raise InputError(f"stages[{index}].replicas", samples, allowed)
        if stage.shards and self.token_groups > 1:
            raise InputError("token_groups", self.token_groups, f"1 where a stage has shards, as stages[{index}] has")

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

    @property
    def weights_by_layer(self) -> tuple[Weights | None, ...]:
        """In what the weights of every layer are held; see :attr:`Stage.weights`."""
        return tuple(stage.weights for stage in self.stages for _ in range(stage.first_layer, stage.stop_layer))

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

    def __repr__(self) -> str:
        from dora_nb.render.plans import plan_summary  # a method that looks up a room: imported when called

        return plan_summary(self)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        from dora_nb.render.html import plan_html  # a method that looks up a room: imported when called

        return plan_html(self)

    def decisions(self) -> Plan:
        """The same plan without label, order, prediction and certificate: what two equal plans share."""
        return self.replace(label="", transfer_order=(), prediction=None, certificate=None)

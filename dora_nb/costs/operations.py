"""One iteration as operations with precedence: what must come before what, and how long each takes.

Operations of one kind and stage take equally long for every micro-batch, so a pipeline is described by its *shape*
(which decides the precedence, and is shared by thousands of candidate partitions) and the durations of its *classes*,
one per kind and stage.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.network import Hold
from dora_nb.domain.plan import Compute, Plan, compute_order
from dora_nb.domain.transfer import HOSTED, TransferKind
from dora_nb.domain.workload import Workload

Kind = Literal["forward", "backward", "step", "decode", "follow"] | TransferKind


class OperationClass(NamedTuple):
    """Operations that take equally long.

    The parts of a backward pass and the buckets of an all-reduce differ in length and are classes of their own; the
    chunks of a transfer are equally long and share the class of ``part`` 0.
    """

    kind: Kind
    stage: int
    part: int = 0


class Operation(NamedTuple):
    """One computation or transfer of one micro-batch (0 for what happens once an iteration).

    ``part`` counts from 1 where an operation is split: the chunks of a transfer, the buckets of an all-reduce and the
    parts of the backward pass that fill them. 0 is a whole operation.
    """

    kind: Kind
    stage: int
    micro_batch: int
    part: int = 0

    @property
    def cls(self) -> OperationClass:
        """What it takes as long as."""
        return OperationClass(self.kind, self.stage, self.part if self.kind in ("backward", "all-reduce") else 0)


class Shape(NamedTuple):
    """Everything about a plan that decides the precedence of its operations.

    Attributes
    ----------
    in_flight
        In-flight count of each stage, first to last.
    micro_batches
        Micro-batches per iteration.
    trains
        Whether there are backward passes.
    tied
        Whether tied parameters are ``hosted``, ``synchronised``, or need nothing (None).
    buckets
        In how many buckets each stage's replicas sum their gradients; 0 for a single replica.
    inputs, labels, outputs
        Whether inputs and labels travel from a source, and outputs to a sink.
    chunks
        In how many pieces activations and gradients travel.
    overlap
        Whether a stage computes on while it sends; if not, it sends, waits until all has arrived, and only then
        computes again. Receiving keeps nobody from computing.
    generates, decodes
        Whether the passes are those of a prompt, so that outputs leave at the very end; and whether tokens follow the
        first one.
    token_groups
        How many groups of the batch follow each other then.
    sharded
        Stages, by index, whose layers are sliced over devices: what a pass gives is there when the sums behind it are.
    """

    in_flight: tuple[int, ...]
    micro_batches: int
    trains: bool
    tied: Literal["hosted", "synchronised"] | None
    buckets: tuple[int, ...]
    inputs: bool = False
    labels: bool = False
    outputs: bool = False
    chunks: int = 1
    overlap: bool = True
    generates: bool = False
    decodes: bool = False
    token_groups: int = 1
    sharded: tuple[int, ...] = ()

    @classmethod
    def of(cls, plan: Plan, workload: Workload) -> Shape:
        """The shape of a plan."""
        return cls(
            in_flight=tuple(stage.in_flight if workload.trains else plan.micro_batches for stage in plan.stages),
            micro_batches=plan.micro_batches,
            trains=workload.trains,
            tied=plan.tied if plan.tied in ("hosted", "synchronised") else None,
            buckets=tuple(buckets_of(plan, index, workload) for index in range(len(plan.stages))),
            inputs=workload.source is not None and workload.input_bytes > 0,
            labels=workload.source is not None and workload.trains and workload.label_bytes > 0,
            outputs=workload.sink is not None and not workload.trains and workload.output_bytes > 0,
            chunks=plan.chunks,
            overlap=plan.overlap,
            generates=workload.generates,
            decodes=workload.decode_steps > 0,
            token_groups=plan.token_groups,
            sharded=tuple(index for index, stage in enumerate(plan.stages) if stage.shards),
        )


def buckets_of(plan: Plan, index: int, workload: Workload) -> int:
    """In how many buckets a stage's replicas sum their gradients; 0 if there is nothing to sum."""
    stage = plan.stages[index]
    if not workload.trains or len(stage.replicas) == 1 or stage.all_reduce is None:
        return 0
    return stage.all_reduce.buckets


@dataclass(frozen=True)
class Operations:
    """The operations of a shape in an order that respects their precedence.

    Attributes
    ----------
    operations
        In topological order.
    predecessors
        For each operation, the indices of those that must be done before it starts.
    """

    operations: tuple[Operation, ...]
    predecessors: tuple[tuple[int, ...], ...]

    @cached_property
    def index(self) -> dict[Operation, int]:
        """Position of each operation."""
        return {operation: position for position, operation in enumerate(self.operations)}

    @cached_property
    def classes(self) -> tuple[OperationClass, ...]:
        """The class of each operation."""
        return tuple(operation.cls for operation in self.operations)

    @cached_property
    def kinds(self) -> tuple[OperationClass, ...]:
        """Every class once."""
        return tuple(dict.fromkeys(self.classes))

    @cached_property
    def kind_of(self) -> tuple[int, ...]:
        """The class of each operation, as its place in ``kinds``."""
        places = {kind: place for place, kind in enumerate(self.kinds)}
        return tuple(places[kind] for kind in self.classes)

    @cached_property
    def successors(self) -> tuple[tuple[int, ...], ...]:
        """For each operation, those that wait for it."""
        following: list[list[int]] = [[] for _ in self.operations]
        for position, before in enumerate(self.predecessors):
            for earlier in before:
                following[earlier].append(position)
        return tuple(tuple(each) for each in following)

    @cached_property
    def transfers(self) -> tuple[int, ...]:
        """Positions of the operations that use the network."""
        return tuple(i for i, operation in enumerate(self.operations) if operation.kind not in COMPUTE_KINDS)

    def sums_behind(self, forward: int) -> int:
        """The position of the sums behind a forward pass, of its own where there are none."""
        _, stage, micro_batch, _ = self.operations[forward]
        return self.index.get(Operation("shard-sum", stage, micro_batch), forward)

    def longest_path(self, duration_s: Mapping[OperationClass, NDArray[np.float64] | float]) -> NDArray[np.float64]:
        """Makespan if nothing had to wait for the medium: a lower bound on every schedule.

        Parameters
        ----------
        duration_s
            Seconds of each class: numbers, or arrays of one shape for many partitions at once.

        Returns
        -------
        array of that shape
        """
        done: list[NDArray[np.float64] | float] = []
        for before, kind in zip(self.predecessors, self.classes, strict=True):
            start: NDArray[np.float64] | float = 0.0
            for position, earlier in enumerate(before):
                start = done[earlier] if position == 0 else np.maximum(start, done[earlier])
            done.append(start + duration_s[kind])
        ends = [np.asarray(done[i]) for i, after in enumerate(self.successors) if not after]
        return np.asarray(np.max(np.stack(ends), axis=0))


COMPUTE_KINDS = ("forward", "backward", "step", "decode", "follow")

#: What happens once for every token after the first; each operation stands for all steps together.
TOKEN_KINDS = ("decode", "token", "shard-token-sum")

_SUMS_BEHIND: dict[str, TransferKind] = {"forward": "shard-sum", "backward": "shard-gradient-sum"}


@lru_cache(maxsize=4096)
def operations_of(shape: Shape) -> Operations:
    """The operations of a shape and their precedence.

    Every stage computes in its own fixed order (:func:`~dora_nb.domain.plan.compute_order`). An activation leaves when
    the stage's slowest replica is done and the next stage starts when all of it has arrived (the stage barrier, our
    own modelling choice); gradients likewise. A bucket of gradients is summed as soon as the last backward pass has
    filled it.
    """
    return _Precedence(shape).build()


class _Precedence:
    """Collects what must come before what."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.last = len(shape.in_flight) - 1
        self.first = HOSTED if shape.tied == "hosted" else 0
        self.before: dict[Operation, list[Operation]] = {}

    def build(self) -> Operations:
        """All operations, sorted."""
        done = {stage: self._compute(stage) for stage in range(self.last + 1)}
        for micro_batch in range(self.shape.micro_batches):
            self._transfers(micro_batch)
        if self.shape.trains:
            self._sums_and_steps(done)
        if self.shape.generates:
            self._generation()
        return _sorted(self.before)

    def _needs(self, operation: Operation, *earlier: Operation) -> None:
        self.before.setdefault(operation, []).extend(earlier)

    def _compute(self, stage: int) -> list[Operation]:
        """The stage's passes, one after another; returns what must be over before it sums and steps."""
        over: list[Operation] = []
        for pass_ in self._program(stage):
            for part in self._parts(Operation(*pass_)):
                self._needs(part, *over)
                over = [part]
            over = self._given(Operation(*pass_))
            if not self.shape.overlap:
                over = [*over, *self._sent_after(Operation(*pass_))]
        return over

    def _program(self, stage: int) -> tuple[Compute, ...]:
        return compute_order(
            stage,
            in_flight=self.shape.in_flight[stage],
            micro_batches=self.shape.micro_batches,
            trains=self.shape.trains,
            hosts_first_layer=self.shape.tied == "hosted" and stage == self.last,
        )

    def _parts(self, operation: Operation) -> list[Operation]:
        """What an operation is split into, in order."""
        count = 1
        if operation.kind in ("activation", "gradient"):
            count = self.shape.chunks
        elif operation.kind == "all-reduce":
            count = self.shape.buckets[operation.stage]
        elif (operation.kind, operation.micro_batch) == ("backward", self.shape.micro_batches - 1):
            count = self.shape.buckets[operation.stage] if operation.stage != HOSTED else 1
        return [operation] if count <= 1 else [operation._replace(part=part) for part in range(1, count + 1)]

    def _given(self, pass_: Operation) -> list[Operation]:
        """What must be over before a pass has given what it is for: itself, or the sums behind it."""
        done = self._parts(pass_)[-1]
        if pass_.stage not in self.shape.sharded:
            return [done]
        sums = Operation(_SUMS_BEHIND[pass_.kind], pass_.stage, pass_.micro_batch)
        self._needs(sums, done)
        return [sums]

    def _sent_after(self, operation: Operation) -> list[Operation]:
        """What a stage sends when a pass is done."""
        kind, stage, micro_batch, _ = operation
        if kind == "forward" and stage < self.last:
            return self._parts(Operation("activation", stage, micro_batch))
        if kind == "forward" and self.shape.outputs and not self.shape.generates:
            return [Operation("output", stage, micro_batch)]
        if kind == "backward" and stage > self.first:
            return self._parts(Operation("gradient", stage - 1, micro_batch))
        return []

    def _transfers(self, micro_batch: int) -> None:
        shape = self.shape
        for stage in range(self.first, self.last):
            self._hand_over(
                Operation("forward", stage, micro_batch),
                Operation("activation", stage, micro_batch),
                Operation("forward", stage + 1, micro_batch),
            )
            if shape.trains:
                self._hand_over(
                    Operation("backward", stage + 1, micro_batch),
                    Operation("gradient", stage, micro_batch),
                    Operation("backward", stage, micro_batch),
                )
        arrivals = [("input", self.first)] * shape.inputs + [("label", self.last)] * shape.labels
        for kind, stage in arrivals:
            arrival = Operation(kind, stage, micro_batch)  # type: ignore[arg-type]
            self._needs(arrival)
            self._needs(Operation("forward", stage, micro_batch), arrival)
        if shape.outputs and not shape.generates:
            given = self._given(Operation("forward", self.last, micro_batch))
            self._needs(Operation("output", self.last, micro_batch), *given)

    def _hand_over(self, produced: Operation, transfer: Operation, used: Operation) -> None:
        for part in self._parts(transfer):
            self._needs(part, *self._given(produced))
            self._needs(self._parts(used)[0], part)

    def _generation(self) -> None:
        """What follows the prompt's passes."""
        prompt = self._given(Operation("forward", self.last, self.shape.micro_batches - 1))
        chain = [*prompt, *generation(self.shape)]
        for earlier, later in itertools.pairwise(chain):
            self._needs(later, earlier)

    def _sums_and_steps(self, done: dict[int, list[Operation]]) -> None:
        shape, last = self.shape, self.last
        exchange = Operation("tied-exchange", last, 0)
        for stage in range(last + 1):
            step = Operation("step", stage, 0)
            self._needs(step, *done[stage])
            if shape.buckets[stage]:
                for bucket in self._parts(Operation("all-reduce", stage, 0)):
                    filled = [Operation("backward", stage, shape.micro_batches - 1, bucket.part)]
                    self._needs(bucket, *(filled if bucket.part else done[stage]))
                    self._needs(step, bucket)
            if shape.tied == "synchronised" and stage in (0, last):
                if shape.buckets[stage]:
                    gathered, spread = Operation("tied-reduce", stage, 0), Operation("tied-broadcast", stage, 0)
                    self._needs(gathered, *done[stage])
                    self._needs(exchange, gathered)
                    self._needs(spread, exchange)
                    self._needs(step, spread)
                else:
                    self._needs(exchange, *done[stage])
                    self._needs(step, exchange)


def generation(shape: Shape) -> list[Operation]:
    """What follows the passes of the prompt, one after another; each operation stands for all steps together.

    The tokens chosen go back to the first stage, every stage computes, sums what its shards gave, and hands on. Where
    the whole batch travels as one unit nothing overlaps. Steps take equally long on average, so their sum may be put
    operation by operation. With several groups the operations are those of one group, and ``follow`` stands for how
    much longer all of them take (:mod:`dora_nb.costs.token_rounds`).
    """
    last = len(shape.in_flight) - 1
    chain: list[Operation] = []
    if shape.decodes:
        if last:
            chain.append(Operation("token", last, 0))
        for stage in range(last + 1):
            chain.append(Operation("decode", stage, 0))
            if stage in shape.sharded:
                chain.append(Operation("shard-token-sum", stage, 0))
            if stage < last:
                chain.append(Operation("token", stage, 0))
        if shape.token_groups > 1:
            chain.append(Operation("follow", last, 0))
    if shape.outputs:
        chain.append(Operation("output", last, 0))
    return chain


def _sorted(before: dict[Operation, list[Operation]]) -> Operations:
    order: list[Operation] = []
    position: dict[Operation, int] = {}
    waiting = {operation: len(set(earlier)) for operation, earlier in before.items()}
    after: dict[Operation, list[Operation]] = {operation: [] for operation in before}
    for operation, earlier in before.items():
        for each in set(earlier):
            after[each].append(operation)
    ready = [operation for operation, count in waiting.items() if count == 0]
    while ready:
        operation = ready.pop()
        position[operation] = len(order)
        order.append(operation)
        for each in after[operation]:
            waiting[each] -= 1
            if waiting[each] == 0:
                ready.append(each)
    assert len(order) == len(before), "the precedence of a shape has no cycle"
    return Operations(
        operations=tuple(order),
        predecessors=tuple(tuple(sorted({position[each] for each in before[operation]})) for operation in order),
    )


@dataclass(frozen=True)
class Timing:
    """Seconds of every class of a plan's operations.

    Attributes
    ----------
    compute_s
        Duration of each computing class: the stage's slowest replica.
    holds
        What each transferring class does to the network.
    """

    compute_s: Mapping[OperationClass, float]
    holds: Mapping[OperationClass, Hold]

    @cached_property
    def duration_s(self) -> dict[OperationClass, float]:
        """Seconds from start to end of every class."""
        return {**self.compute_s, **{kind: hold.duration_s for kind, hold in self.holds.items()}}

    def seconds_of(self, operations: Operations) -> list[float]:
        """Seconds of every operation."""
        by_kind = [self.duration_s[kind] for kind in operations.kinds]
        return [by_kind[kind] for kind in operations.kind_of]

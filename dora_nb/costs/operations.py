"""One iteration as operations with precedence: what must come before what, and how long each takes.

Operations of one kind and stage take equally long for every micro-batch, so a pipeline is described by its *shape*
(which decides the precedence, and is shared by thousands of candidate partitions) and the durations of its *classes*,
one per kind and stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.network import Hold
from dora_nb.domain.plan import Plan
from dora_nb.domain.transfer import TransferKind
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
        """The operations that take as long as this one."""
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
        inputs, labels, outputs = travelling(workload)
        return cls(
            in_flight=tuple(stage.in_flight if workload.trains else plan.micro_batches for stage in plan.stages),
            micro_batches=plan.micro_batches,
            trains=workload.trains,
            tied=plan.tied if plan.tied in ("hosted", "synchronised") else None,
            buckets=tuple(buckets_of(plan, index, workload) for index in range(len(plan.stages))),
            inputs=inputs,
            labels=labels,
            outputs=outputs,
            chunks=plan.chunks,
            overlap=plan.overlap,
            generates=workload.generates,
            decodes=workload.decode_steps > 0,
            token_groups=plan.token_groups,
            sharded=tuple(index for index, stage in enumerate(plan.stages) if stage.shards),
        )


def travelling(workload: Workload) -> tuple[bool, bool, bool]:
    """Whether inputs and labels travel from a source, and outputs to a sink."""
    return (
        workload.source is not None and workload.input_bytes > 0,
        workload.source is not None and workload.trains and workload.label_bytes > 0,
        workload.sink is not None and not workload.trains and workload.output_bytes > 0,
    )


def buckets_of(plan: Plan, index: int, workload: Workload) -> int:
    """In how many buckets a stage's replicas sum their gradients; 0 if there is nothing to sum."""
    return plan.stages[index].buckets if workload.trains else 0


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

"""One iteration as operations with precedence: what must come before what, and how long each takes.

Operations of one kind and stage take equally long for every micro-batch, so a pipeline is described by its *shape*
(which decides the precedence, and is shared by thousands of candidate partitions) and the durations of its *classes*,
one per kind and stage.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.network import Hold
from dora_nb.domain.plan import HOSTED, Compute, Plan, TransferKind, compute_order
from dora_nb.domain.workload import Workload

Kind = Literal["forward", "backward", "step"] | TransferKind


class OperationClass(NamedTuple):
    """Operations that take equally long."""

    kind: Kind
    stage: int


class Operation(NamedTuple):
    """One computation or transfer of one micro-batch (0 for what happens once an iteration)."""

    kind: Kind
    stage: int
    micro_batch: int


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
    replicated
        Whether each stage has several replicas.
    inputs, labels, outputs
        Whether inputs and labels travel from a source, and outputs to a sink.
    """

    in_flight: tuple[int, ...]
    micro_batches: int
    trains: bool
    tied: Literal["hosted", "synchronised"] | None
    replicated: tuple[bool, ...]
    inputs: bool = False
    labels: bool = False
    outputs: bool = False

    @classmethod
    def of(cls, plan: Plan, workload: Workload) -> Shape:
        """The shape of a plan."""
        return cls(
            in_flight=tuple(stage.in_flight if workload.trains else plan.micro_batches for stage in plan.stages),
            micro_batches=plan.micro_batches,
            trains=workload.trains,
            tied=plan.tied if plan.tied in ("hosted", "synchronised") else None,
            replicated=tuple(workload.trains and len(stage.replicas) > 1 for stage in plan.stages),
            inputs=workload.source is not None and workload.input_bytes > 0,
            labels=workload.source is not None and workload.trains and workload.label_bytes > 0,
            outputs=workload.sink is not None and not workload.trains and workload.output_bytes > 0,
        )


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
        return tuple(OperationClass(operation.kind, operation.stage) for operation in self.operations)

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


COMPUTE_KINDS = ("forward", "backward", "step")


@lru_cache(maxsize=4096)
def operations_of(shape: Shape) -> Operations:
    """The operations of a shape and their precedence.

    Every stage computes in its own fixed order (:func:`~dora_nb.domain.plan.compute_order`). An activation leaves when
    the stage's slowest replica is done and the next stage starts when all of it has arrived (the stage barrier, our
    own modelling choice); gradients likewise. Sums of gradients follow the stage's last backward pass.
    """
    last = len(shape.in_flight) - 1
    hosted = shape.tied == "hosted"
    stages = range(HOSTED if hosted else 0, last + 1)
    before: dict[Operation, list[Operation]] = {}

    def needs(operation: Operation, *earlier: Operation) -> None:
        before.setdefault(operation, []).extend(earlier)

    for stage in range(last + 1):
        program = _program(shape, stage)
        for pass_ in program:
            needs(Operation(*pass_))
        for earlier, later in itertools.pairwise(program):
            needs(Operation(*later), Operation(*earlier))
    for micro_batch in range(shape.micro_batches):
        for stage in stages[:-1]:
            activation = Operation("activation", stage, micro_batch)
            needs(activation, Operation("forward", stage, micro_batch))
            needs(Operation("forward", stage + 1, micro_batch), activation)
            if shape.trains:
                gradient = Operation("gradient", stage, micro_batch)
                needs(gradient, Operation("backward", stage + 1, micro_batch))
                needs(Operation("backward", stage, micro_batch), gradient)
        if shape.inputs:
            arrival = Operation("input", stages[0], micro_batch)
            needs(arrival)
            needs(Operation("forward", stages[0], micro_batch), arrival)
        if shape.labels:
            arrival = Operation("label", last, micro_batch)
            needs(arrival)
            needs(Operation("forward", last, micro_batch), arrival)
        if shape.outputs:
            needs(Operation("output", last, micro_batch), Operation("forward", last, micro_batch))
    if shape.trains:
        _add_sums_and_steps(shape, needs)
    return _sorted(before)


def _program(shape: Shape, stage: int) -> tuple[Compute, ...]:
    return compute_order(
        stage,
        in_flight=shape.in_flight[stage],
        micro_batches=shape.micro_batches,
        trains=shape.trains,
        hosts_first_layer=shape.tied == "hosted" and stage == len(shape.in_flight) - 1,
    )


def _add_sums_and_steps(shape: Shape, needs: Callable[..., None]) -> None:
    last = len(shape.in_flight) - 1
    done = {stage: Operation(*_program(shape, stage)[-1]) for stage in range(last + 1)}
    exchange = Operation("tied-exchange", last, 0)
    for stage in range(last + 1):
        step = Operation("step", stage, 0)
        needs(step, done[stage])
        if shape.replicated[stage]:
            all_reduce = Operation("all-reduce", stage, 0)
            needs(all_reduce, done[stage])
            needs(step, all_reduce)
        if shape.tied == "synchronised" and stage in (0, last):
            if shape.replicated[stage]:
                gathered, spread = Operation("tied-reduce", stage, 0), Operation("tied-broadcast", stage, 0)
                needs(gathered, done[stage])
                needs(exchange, gathered)
                needs(spread, exchange)
                needs(step, spread)
            else:
                needs(exchange, done[stage])
                needs(step, exchange)


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

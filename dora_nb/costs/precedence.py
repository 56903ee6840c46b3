"""What must come before what in an iteration of some shape: stages in their order, transfers, sums and steps."""

from __future__ import annotations

import itertools
from functools import lru_cache

from dora_nb.costs.operations import Operation, Operations, Shape
from dora_nb.domain.plan import Compute, compute_order
from dora_nb.domain.transfer import HOSTED, TransferKind

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
        arrivals = [Operation("input", self.first, micro_batch)] * shape.inputs
        arrivals += [Operation("label", self.last, micro_batch)] * shape.labels
        for arrival in arrivals:
            self._needs(arrival)
            self._needs(Operation("forward", arrival.stage, micro_batch), arrival)
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

"""Which plans are considered: the space over which every bound holds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from dora_nb.costs.table import cost_table
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import MOST_CHUNKS, Weights, checked_weights
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.formulation.fleet import Fleet
from dora_nb.units import counted

#: Ways to share a micro-batch out on one group that are looked at one by one; beyond, samples move in equal steps.
MOST_SHARE_VECTORS = 2_000

#: Ways to share out on all groups together, beyond which the default space has smaller groups.
MOST_SHARINGS = 20_000


@dataclass(frozen=True)
class SearchSpace:
    """The plans among which the best is sought.

    Attributes
    ----------
    micro_batch_sizes
        Samples per micro-batch; each divides the batch.
    most_replicas
        Largest number of devices on one stage.
    in_flight_depths
        A stage with r stages behind it holds at most ``1 + depth x r`` micro-batches; depth 1 is plain 1F1B, more
        hides transfers and costs memory.
    most_chunks
        Pieces in which activations and gradients may travel at most: a power of two.
    recomputation
        Whether a training stage may run its layers forward again where memory does not hold what it would otherwise
        keep; see :attr:`~dora_nb.domain.plan.Stage.recomputes`.
    weights
        In what a stage may hold its weights beside the workload's precision, where that is faster or thriftier or where
        memory does not hold them otherwise; see :attr:`~dora_nb.domain.plan.Stage.weights`. It changes what the network
        computes, by how much is not predicted; so only where asked for.
    token_groups
        Into how many groups of equally many micro-batches the batch may be split while tokens are generated, where its
        micro-batches allow it; see :attr:`~dora_nb.domain.plan.Plan.token_groups`. One group unless more are asked
        for.
    shards
        Most devices over which one stage's layers may be sliced; see :attr:`~dora_nb.domain.plan.Stage.shards`. The
        best-connected of them leads. 1: none, unless asked for. The batch then
        travels as one group, and no stage has both replicas and shards.
    """

    micro_batch_sizes: tuple[int, ...]
    most_replicas: int
    in_flight_depths: tuple[int, ...]
    most_chunks: int = MOST_CHUNKS
    recomputation: bool = True
    weights: tuple[Weights, ...] = ()
    token_groups: tuple[int, ...] = (1,)
    shards: int = 1

    @classmethod
    def of(cls, workload: Workload, cluster: Cluster, **changes: Any) -> SearchSpace:
        """The default space of a workload on a cluster, with some fields changed.

        Raises
        ------
        InputError
            If the changed space has no plans, or a device lacks a rate that the workload needs.
        """
        fleet = Fleet.of(workload, cluster, cost_table(workload, cluster))
        space = replace(cls.default(workload, fleet), **changes)
        space.check(workload)
        return space

    @classmethod
    def default(cls, workload: Workload, fleet: Fleet) -> SearchSpace:
        """All micro-batch sizes that divide the batch, depths 1 to 3, and the largest groups that stay interactive."""
        sizes = tuple(size for size in range(1, workload.batch + 1) if workload.batch % size == 0)
        most, total = 1, 0
        for replicas, groups in enumerate(fleet.groups_by_size):
            total += groups * sum(share_vectors(size, replicas) for size in sizes) if replicas else 0
            if total <= MOST_SHARINGS:
                most = max(most, replicas)
        chunks = 1 if workload.mode == "stream" else MOST_CHUNKS
        return cls(sizes, most, (1, 2, 3) if workload.trains else (1,), chunks, recomputation=workload.trains)

    def check(self, workload: Workload) -> None:
        """Refuse a space without plans.

        Raises
        ------
        InputError
            If a size does not divide the batch, a list is empty, or there are too many chunks.
        """
        for size in self.micro_batch_sizes or (0,):
            if size < 1 or workload.batch % size:
                raise InputError("micro_batch_sizes", size, f"divisors of the batch of {workload.batch}")
        if self.most_replicas < 1:
            raise InputError("most_replicas", self.most_replicas, "at least 1")
        if not self.in_flight_depths or min(self.in_flight_depths) < 1:
            raise InputError("in_flight_depths", self.in_flight_depths, "at least one depth, each at least 1")
        if self.most_chunks not in (1, 2, MOST_CHUNKS):
            raise InputError("most_chunks", self.most_chunks, f"1, 2 or {MOST_CHUNKS}")
        checked_weights(self.weights, trains=workload.trains)
        if not self.token_groups or min(self.token_groups) < 1:
            raise InputError("token_groups", self.token_groups, "at least one number, each at least 1")
        if self.token_groups != (1,) and not workload.generates:
            raise InputError("token_groups", self.token_groups, f"(1,) in mode {workload.mode!r}")
        if all((workload.batch // size) % groups for size in self.micro_batch_sizes for groups in self.token_groups):
            allowed = "a number that divides the micro-batches of one of the sizes"
            raise InputError("token_groups", self.token_groups, allowed)
        self._check_shards(workload)
        if self.most_chunks > 1 and workload.mode == "stream":
            raise InputError("most_chunks", self.most_chunks, "1 in mode 'stream', whose transfers travel whole")

    def _check_shards(self, workload: Workload) -> None:
        if self.shards < 1:
            raise InputError("shards", self.shards, "at least 1")
        if self.shards == 1:
            return
        if all(layer.parts == 1 for layer in workload.layers):
            raise InputError("shards", self.shards, f"1 for {workload.name}, none of whose layers can be sliced")
        if self.token_groups != (1,):
            raise InputError("token_groups", self.token_groups, "(1,) together with shards")

    @property
    def most_devices(self) -> int:
        """Most devices of one stage, with replicas or with shards."""
        return max(self.most_replicas, self.shards)

    @property
    def chunk_counts(self) -> tuple[int, ...]:
        """Numbers of chunks that are tried; every one is a special case of the largest."""
        return tuple(count for count in (1, 2, MOST_CHUNKS) if count <= self.most_chunks)

    def families(self, batch: int) -> list[tuple[int, int]]:
        """Micro-batch sizes with the numbers of groups that their micro-batches can be split into."""
        return [
            (size, groups)
            for size in self.micro_batch_sizes
            for groups in sorted(set(self.token_groups))
            if (batch // size) % groups == 0
        ]

    def in_flight(self, depth: int, stages: int, micro_batches: int) -> tuple[int, ...]:
        """In-flight counts of a pipeline, first stage to last."""
        return tuple(min(micro_batches, 1 + depth * behind) for behind in range(stages - 1, -1, -1))

    def in_flight_counts(self, stages: int, micro_batches: int) -> list[tuple[int, ...]]:
        """In-flight counts of every depth, each once: few micro-batches make depths alike."""
        return list(dict.fromkeys(self.in_flight(depth, stages, micro_batches) for depth in self.in_flight_depths))

    def describe(self) -> str:
        """The space in words, as a certificate states it."""
        sizes = ", ".join(map(str, self.micro_batch_sizes))
        depths = ", ".join(map(str, self.in_flight_depths))
        return (
            f"contiguous stages, micro-batches of {sizes}, up to {counted(self.most_replicas, 'replica')} a stage with "
            f"{self._shares()}, in-flight depth {depths}, transfers in up to {counted(self.most_chunks, 'chunk')}"
            f"{', recomputation where memory is short' if self.recomputation else ''}"
            f"{self._weights()}{self._groups()}"
            f"{f', layers sliced over up to {self.shards} devices' if self.shards > 1 else ''}"
        )

    def __repr__(self) -> str:
        return f"Plans considered: {self.describe()}"

    def _weights(self) -> str:
        if not self.weights:
            return ""
        kinds = checked_weights(self.weights, trains=False)
        return f", weights in {' or '.join(kinds)} where that is faster, thriftier or needed"

    def _groups(self) -> str:
        if self.token_groups == (1,):
            return ""
        counts = ", ".join(map(str, sorted(set(self.token_groups))))
        return f", {counts} groups behind each other, first come first served, while tokens are generated"

    def _shares(self) -> str:
        steps = {
            (replicas, size): step
            for size in self.micro_batch_sizes
            for replicas in range(1, min(self.most_replicas, size) + 1)
            if (step := share_step(size, replicas)) != 1
        }
        coarse = [
            f"{replicas} on a micro-batch of {size} " + (f"in steps of {step}" if step else "not at all")
            for (replicas, size), step in steps.items()
        ]
        return "any integer shares" + (f" ({'; '.join(coarse)})" if coarse else "")


def share_step(micro_batch: int, replicas: int) -> int | None:
    """Samples that move together when a micro-batch is shared out: 1, or the least divisor that leaves few enough ways.

    None where every divisor leaves too many ways, or too few samples for all.
    """
    for step in _divisors(micro_batch):
        if share_vectors_in_steps(micro_batch // step, replicas) <= MOST_SHARE_VECTORS:
            return step if micro_batch // step >= replicas else None
    return None


def share_vectors(micro_batch: int, replicas: int) -> int:
    """How many ways to share a micro-batch out are looked at for one group of unlike devices."""
    step = share_step(micro_batch, replicas)
    return 0 if step is None else share_vectors_in_steps(micro_batch // step, replicas)


def share_vectors_in_steps(steps: int, replicas: int) -> int:
    """Ways to give at least one of so many steps to each replica."""
    return math.comb(steps - 1, replicas - 1)


def _divisors(number: int) -> Iterator[int]:
    return (each for each in range(1, number + 1) if number % each == 0)

"""How many micro-batches a stage can hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dora_nb.costs.memory import MemoryModel, ReplicaBytes
from dora_nb.costs.table import Floats
from dora_nb.formulation.columns.held import Held
from dora_nb.formulation.problem import Problem


class Memory:
    """Micro-batches in flight that fit a stage's devices, and bytes beyond a priced headroom."""

    def __init__(self, problem: Problem) -> None:
        self.workload, self.cluster = problem.workload, problem.cluster
        self.terms, self.space = problem.terms, problem.space
        self.model = MemoryModel(self.workload)
        self._known: tuple[Held, dict[int, ReplicaBytes]] | None = None

    def most_in_flight(self, held: Held) -> Floats:
        """Micro-batches in flight that fit."""
        return self._fitting(held, self.terms.most_bytes)

    def _fitting(self, held: Held, most_bytes: Floats) -> Floats:
        """Micro-batches in flight that fit into so many bytes of each device."""
        fits = np.full((len(held.shares), len(held.first)), float(held.micro_batches))
        for place, d in enumerate(held.devices):
            needed = [each.of(held.samples[:, place, None]) for each in self._replicas(held, place, (1, 2))]
            room = most_bytes[d] - needed[0]
            per_extra = needed[1] - needed[0]
            extra = np.divide(room, per_extra, out=np.full_like(room, np.inf), where=per_extra > 0)
            fits = np.where(room < 0, 0.0, np.minimum(fits, 1 + np.floor(extra + 1e-9)))
        return fits

    def enough(self, held: Held, most_in_flight: Floats) -> Floats:
        """Micro-batches in flight that fit without anything being paid for memory."""
        if np.isinf(self.terms.room_bytes).all():
            return most_in_flight
        room_bytes = np.minimum(self.terms.most_bytes, self.terms.room_bytes)
        return self._fitting(held, room_bytes)

    def over_bytes(self, held: Held) -> dict[str, Floats]:
        """Bytes beyond the priced headroom, one figure for every in-flight count."""
        room_bytes = self.terms.room_bytes
        if np.isinf(room_bytes).all():
            return {"over_bytes 1": np.zeros((1, 1))}
        deepest = 1 + max(self.space.in_flight_depths) * (len(self.cluster.devices) - 1)
        figures = {}
        for count in range(1, (min(self.workload.batch, deepest) if self.workload.trains else 1) + 1):
            over = np.zeros((len(held.shares), len(held.first)))
            for place, d in enumerate(held.devices):
                (replica,) = self._replicas(held, place, (count,))
                over += np.maximum(replica.of(held.samples[:, place, None]) - room_bytes[d], 0.0)
            figures[f"over_bytes {count}"] = over
        return figures

    def _replicas(self, held: Held, place: int, in_flight: Sequence[int]) -> list[ReplicaBytes]:
        """Bytes that a device of each stage needs, for each of some in-flight counts."""
        if held.parts:
            return [self._replica(held, count, held.share(place)) for count in in_flight]
        if self._known is None or self._known[0] is not held:
            self._known = held, {}
        whole = self._known[1]  # the same for all devices
        for count in in_flight:
            if count not in whole:
                whole[count] = self._replica(held, count, 1.0)
        return [whole[count] for count in in_flight]

    def _replica(self, held: Held, in_flight: int, share: Floats | float) -> ReplicaBytes:
        return self.model.replica_parts(
            held.first,
            held.stop,
            in_flight=in_flight,
            micro_batches=held.micro_batches,
            replicated=held.size > 1 and not held.parts,
            hosts_first_layer=held.hosts,
            recomputes=held.recomputes,
            weights=held.weights,
            share=share,
        )

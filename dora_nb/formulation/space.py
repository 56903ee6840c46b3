"""Which plans are considered: the space over which every bound holds."""

from __future__ import annotations

from dataclasses import dataclass

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError

#: Replicas of a stage beyond which share vectors become too many to enumerate in interactive time.
MOST_REPLICAS = 5


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
    """

    micro_batch_sizes: tuple[int, ...]
    most_replicas: int
    in_flight_depths: tuple[int, ...]

    @classmethod
    def default(cls, workload: Workload, cluster: Cluster) -> SearchSpace:
        """All micro-batch sizes that divide the batch, groups of up to :data:`MOST_REPLICAS`, depths 1 to 3."""
        sizes = tuple(size for size in range(1, workload.batch + 1) if workload.batch % size == 0)
        return cls(sizes, min(len(cluster.devices), MOST_REPLICAS), (1, 2, 3) if workload.trains else (1,))

    def check(self, workload: Workload) -> None:
        """Refuse a space without plans.

        Raises
        ------
        InputError
            If a size does not divide the batch, or a list is empty.
        """
        for size in self.micro_batch_sizes or (0,):
            if size < 1 or workload.batch % size:
                raise InputError("micro_batch_sizes", size, f"divisors of the batch of {workload.batch}")
        if self.most_replicas < 1:
            raise InputError("most_replicas", self.most_replicas, "at least 1")
        if not self.in_flight_depths or min(self.in_flight_depths) < 1:
            raise InputError("in_flight_depths", self.in_flight_depths, "at least one depth, each at least 1")

    def in_flight(self, depth: int, stages: int, micro_batches: int) -> tuple[int, ...]:
        """In-flight counts of a pipeline, first stage to last."""
        return tuple(min(micro_batches, 1 + depth * behind) for behind in range(stages - 1, -1, -1))

    def describe(self) -> str:
        """The space in words, as a certificate states it."""
        sizes = ", ".join(map(str, self.micro_batch_sizes))
        depths = ", ".join(map(str, self.in_flight_depths))
        return (
            f"contiguous stages, micro-batches of {sizes}, up to {self.most_replicas} replicas a stage with any "
            f"integer shares, in-flight depth {depths}"
        )

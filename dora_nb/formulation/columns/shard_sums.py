"""How a stage's devices sum the outputs of their shards."""

from __future__ import annotations

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.domain.layer import SHARD_SUMS
from dora_nb.domain.plan import Algorithm, AllReduce
from dora_nb.formulation.columns.held import Held
from dora_nb.formulation.columns.record import leader_first
from dora_nb.formulation.columns.sums import NO_SUMS
from dora_nb.formulation.problem import Problem


class ShardSums:
    """Sums of the outputs of sliced layers, see :mod:`dora_nb.costs.shards`.

    A stage computes nothing else until the sums of a pass are over, so they lengthen the pass; what they hold of the
    media is in the stage's airtime.
    """

    def __init__(self, problem: Problem) -> None:
        self.workload, self.cluster, self.network = problem.workload, problem.cluster, problem.network
        self.resources = self.network.contended
        element = self.workload.bytes_per_element
        sliced = [layer if layer.parts > 1 else None for layer in self.workload.layers]
        tokens = [None if layer is None else layer.next_token for layer in sliced]
        self.count_until = _until_cut([0 if layer is None else SHARD_SUMS for layer in sliced])
        self.bytes_until = _until_cut(
            [0 if layer is None else SHARD_SUMS * element * layer.output_elements for layer in sliced]
        )
        self.token_bytes_until = _until_cut(
            [0 if token is None else SHARD_SUMS * element * token.output_elements for token in tokens]
        )

    def figures(self, held: Held, figures: dict[str, Floats]) -> dict[Algorithm, dict[str, Floats]]:
        """The figures that sums change, by algorithm; each of shape (share vectors or 1, stages)."""
        ids = [[self.cluster.devices[d].id for d in group.devices] for group in held.groups]
        ids = [[own[place] for place in leader_first(self.network, own)] for own in ids]
        steps, passes = self.workload.decode_steps, held.micro_batches * (2 if self.workload.trains else 1)
        count = self._of(self.count_until, held)
        pass_bytes = held.micro_batch * self._of(self.bytes_until, held)
        step_bytes = self.workload.batch * self._of(self.token_bytes_until, held)
        by_algorithm: dict[Algorithm, dict[str, Floats]] = {}
        for algorithm in self.network.all_reduce_algorithms:
            per_byte = [self.network.all_reduce(own, 1.0, AllReduce(algorithm=algorithm, leader=own[0])) for own in ids]
            byte_s = held.of_stages(np.array([[max(each.seconds.values()) for each in per_byte]]))
            duration_s, byte_j = (
                held.of_stages(np.array([[getattr(each, name) for each in per_byte]]))
                for name in ("duration_s", "energy_j")
            )
            latency_s = count * (duration_s - byte_s)
            pass_s, tokens_s = byte_s * pass_bytes + latency_s, steps * (byte_s * step_bytes + latency_s)
            used = held.of_stages(np.array([[[name in each.seconds for name in self.resources] for each in per_byte]]))
            by_algorithm[algorithm] = dict.fromkeys(NO_SUMS, np.zeros((1, 1))) | {
                "forward_s": figures["forward_s"] + pass_s,
                "backward_s": figures["backward_s"] + (pass_s if self.workload.trains else 0.0),
                "decode_s": figures["decode_s"] + tokens_s,
                "steps_s": figures["steps_s"] + tokens_s,
                "sum_j": byte_j * (passes * pass_bytes + steps * step_bytes),
                "sum_air_s": (passes * byte_s * pass_bytes)[:, :, None] * used,
            }
        return by_algorithm

    def _of(self, until: Floats, held: Held) -> Floats:
        return np.asarray(until[held.stop] - until[held.first])[None]


def _until_cut(by_layer: list[int]) -> Floats:
    return np.concatenate([[0.0], np.cumsum(np.array(by_layer, dtype=float))])

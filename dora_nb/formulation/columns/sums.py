"""How a stage's replicas sum their gradients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.buckets import bucket_count, bucket_cuts, bucket_parameters
from dora_nb.costs.memory import MemoryModel
from dora_nb.costs.network import Hold
from dora_nb.costs.table import Floats
from dora_nb.domain.plan import Algorithm, AllReduce
from dora_nb.formulation.columns.computing import Computing
from dora_nb.formulation.columns.dominance import TELLING
from dora_nb.formulation.columns.held import Held, is_whole
from dora_nb.formulation.columns.transfers import airtimes
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.problem import Problem

#: Figures of the sums of gradients, all 0 where there are none.
NO_SUMS = (
    *("sum_hold_s", "sum_left_s", "sum_tail_s", "tied_gather_s", "tied_part_s", "tied_spread_s"),
    *("sum_port_s", "sum_j"),
)


class Sums:
    """Sums of gradients over replicas, and of tied gradients over the two ends of the network."""

    def __init__(self, problem: Problem, computing: Computing) -> None:
        self.workload, self.cluster, self.network = problem.workload, problem.cluster, problem.network
        self.byte_j, self.overlap = problem.byte_j, problem.overlap
        self.memory, self.computing = MemoryModel(self.workload), computing
        self.layers = len(self.workload.layers)
        self.element = self.workload.bytes_per_element
        self.resources = self.network.contended

    def figures(self, held: Held, backward_s: Floats) -> dict[Algorithm, dict[str, Floats]]:
        """Sums of gradients by all-reduce algorithm, the one that holds the medium least first."""
        first, stop, hosts = held.first, held.stop, held.hosts
        none = np.zeros((1, len(first)))
        figures = dict.fromkeys(NO_SUMS, none) | {"sum_air_s": np.zeros((1, len(first), len(self.resources)))}
        if not self.cluster.domains or not self.workload.trains:
            return {"star": figures}
        ids = [[self.cluster.devices[d].id for d in group.devices] for group in held.groups]
        leaders = [own[0] if held.size == 1 else self.network.best_leader(own) for own in ids]
        if self.workload.tied_parameters and not hosts:
            synchronised = (((first == 0) | (stop == self.layers)) & ~is_whole(first, stop, self.layers))[None]
            figures |= self._tied_sums(held, ids, leaders, synchronised)
        if held.size == 1:
            return {"star": figures}
        cuts, filled_s = self._buckets(held, backward_s)
        sizes = self.element * (
            self.memory.gradient_parameters(first, stop, hosts)[:, None]
            if cuts.shape[1] == 2
            else bucket_parameters(self.workload, cuts)
        )
        by_algorithm = {}
        for algorithm in self.network.all_reduce_algorithms:
            by_group = zip(ids, leaders, strict=True)
            per_byte = [
                self.network.all_reduce(own, 1.0, AllReduce(algorithm=algorithm, leader=leader))
                for own, leader in by_group
            ]
            own = self._all_reduce(held, per_byte, sizes, filled_s, backward_s)
            byte_j = held.of_stages(np.array([[each.energy_j for each in per_byte]]))
            own["sum_j"] = figures["sum_j"] + byte_j * sizes.sum(axis=1)[None]
            used = held.of_stages(np.array([[[name in each.seconds for name in self.resources] for each in per_byte]]))
            own["sum_air_s"] = figures["sum_air_s"] + own["sum_hold_s"][:, :, None] * used
            own["sum_port_s"] = none if self.network.one_medium else own["sum_hold_s"] * self._at_own_hops(held, ids)
            filled = {f"{TELLING}filled_{k}": each for k, each in enumerate(filled_s)}
            by_algorithm[algorithm] = figures | own | filled
        return by_algorithm

    def _at_own_hops(self, held: Held, ids: Sequence[Sequence[str]]) -> Floats:
        """1 where sums hold what hand-overs hold too, shape (1, stages or 1).

        With links of its own to every other, a device may sum over other links than it hands over: 0.
        """
        own_hops = [all(self.network.own_hops(name) for name in own) for own in ids]
        return held.of_stages(np.array([own_hops], dtype=float))

    def _buckets(self, held: Held, backward_s: Floats) -> tuple[Ints, list[Floats]]:
        """Where buckets begin and end, shape (stages, buckets + 1), and how far into a backward pass each is full."""
        shares, first, stop = held.shares, held.first, held.stop
        until_s = self.computing.backward_until_s(held.recomputes)
        most = bucket_count(0, self.layers, hosts_first_layer=held.hosts, overlap=self.overlap)
        if most == 1:
            return np.stack([stop, first], axis=1), [backward_s]
        cuts = bucket_cuts(self.workload, first, stop, np.minimum(most, stop - first))
        filled_s = []
        for cut in cuts[:, 1:-1].T:
            slowest_s = np.zeros((len(shares), len(first)))
            for place, d in enumerate(held.devices):
                samples = shares[:, place]
                passed_s = (until_s[stop, d][:, samples] - until_s[cut, d][:, samples]).T
                slowest_s = np.maximum(slowest_s, passed_s)
            filled_s.append(slowest_s)
        return cuts, [*filled_s, backward_s]

    def _all_reduce(
        self, held: Held, per_byte: Sequence[Hold], sizes: Floats, filled_s: list[Floats], backward_s: Floats
    ) -> dict[str, Floats]:
        """What summing buckets of so many bytes, each as soon as it is full, takes at least."""
        most_s = np.array([[max(each.seconds.values()) for each in per_byte]])
        byte_s, duration_s = held.of_stages(most_s), held.of_stages(np.array([[each.duration_s for each in per_byte]]))
        latency_s = duration_s - byte_s
        held_until_s, over_s = np.zeros_like(backward_s), backward_s
        for size, full_s in zip(sizes.T, filled_s, strict=True):
            held_until_s = np.maximum(held_until_s, full_s) + byte_s * size[None]
            over_s = np.where(size > 0, np.maximum(over_s, held_until_s + latency_s), over_s)
        left_s = np.maximum(held_until_s - backward_s, 0.0)
        return {"sum_hold_s": byte_s * sizes.sum(axis=1)[None], "sum_left_s": left_s, "sum_tail_s": over_s - backward_s}

    def _tied_sums(
        self, held: Held, ids: Sequence[Sequence[str]], leaders: Sequence[str], synchronised: NDArray[np.bool_]
    ) -> dict[str, Floats]:
        """The stage's part in summing tied gradients, where it holds one of the two copies."""
        copies = synchronised.astype(np.float64)
        names = ("tied_gather_s", "tied_part_s", "tied_spread_s", "sum_j")
        parts, airs_s = zip(*(self._tied_part(*group) for group in zip(ids, leaders, strict=True)), strict=True)
        by_name = zip(names, np.array(parts).T, strict=True)
        sums = {name: held.of_stages(by_group[None]) * copies for name, by_group in by_name}
        return sums | {"sum_air_s": held.of_stages(np.array(airs_s)[None]) * copies[:, :, None]}

    def _tied_part(self, ids: Sequence[str], leader: str) -> tuple[tuple[float, float, float, float], Floats]:
        """Seconds to gather, of the leader's part and to spread, and joules; airtime of each contended resource."""
        tied_bytes = float(self.workload.tied_parameters * self.element)
        everyone = dict.fromkeys(ids, tied_bytes)
        gather, spread = self.network.fan_in(everyone, leader), self.network.fan_out(leader, everyone)
        # The leader sends its gradient and receives the other's: one after the other on a shared medium.
        turns = 2 if self.network.home(leader).kind == "shared" else 1
        part_s = turns * tied_bytes / self.network.rate(leader)
        hops = self.network.own_hops(leader)
        part_air_s = [sum(tied_bytes / hop.bytes_per_s for hop in hops if hop.resource == r) for r in self.resources]
        gather_s, spread_s = (max(each.seconds.values(), default=0.0) for each in (gather, spread))
        joules = gather.energy_j + spread.energy_j + self.byte_j * tied_bytes
        air_s = airtimes(self.network, [gather]) + airtimes(self.network, [spread]) + np.array(part_air_s)
        return (gather_s, part_s, spread_s, joules), air_s[0, 0]

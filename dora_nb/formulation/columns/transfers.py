"""What a stage sends and receives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.network import Hold, Network
from dora_nb.costs.table import Floats
from dora_nb.domain.architecture import INTEGER_BYTES
from dora_nb.formulation.columns.dominance import AIRTIMES, TELLING
from dora_nb.formulation.columns.held import Held, is_whole
from dora_nb.formulation.columns.record import leader_first
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.problem import Problem

#: Figures of the transfers a stage takes part in.
_TRANSFERS = (
    *("receive_s", "send_s", "host_send_s", "input_s", "label_s", "output_s", "token_receive_s", "token_send_s"),
    *("input_trip_s", "label_trip_s", "output_trip_s", "port_s", "network_j"),
)


class Transfers:
    """Figures of the transfers that stages take part in, each (shares or 1, ranges or 1), or that by resource."""

    def __init__(self, problem: Problem) -> None:
        self.workload, self.cluster, self.network = problem.workload, problem.cluster, problem.network
        self.byte_j = problem.byte_j
        self.layers = len(self.workload.layers)
        self.no_air = np.zeros((1, 1, len(self.network.contended)))
        inner = [self.workload.cut_bytes(cut) for cut in range(1, self.layers)]
        self.cut_bytes = np.array([0.0, *inner, 0.0])  # nothing crosses the two ends
        self.directions = 2 if self.workload.trains else 1

    def figures(self, held: Held) -> dict[str, Floats]:
        """Of hand-overs across the stage's two cuts, of inputs, labels and outputs, and of tokens."""
        group, shares, first, stop = held.group, held.samples, held.first, held.stop
        micro_batches, token_groups, hosts = held.micro_batches, held.token_groups, held.hosts
        none = np.zeros((1, 1))
        figures = dict.fromkeys(_TRANSFERS, none) | dict.fromkeys(AIRTIMES, self.no_air)
        if not self.cluster.domains:
            return figures
        ids = [self.cluster.devices[d].id for d in group.devices]
        per_byte = np.array([1.0 / self.network.rate(name) for name in ids])
        parts = shares * per_byte  # seconds for one byte per sample
        media = [self.network.medium(name) for name in ids]
        taking_turns = [parts[:, [each == medium for each in media]].sum(axis=1) for medium in dict.fromkeys(media)]
        airtime = sending = np.maximum.reduce(taking_turns)[:, None]
        if held.parts:  # each device needs all that enters, and the leader sends what leaves
            shares = shares[:1]
            leader = leader_first(self.network, ids)[0]
            airtime, sending = airtime[:1], parts[:1, leader, None]
        entering, leaving = self.cut_bytes[first][None], self.cut_bytes[stop][None]
        batch = self.workload.batch
        again = len(ids) - 1 if held.parts else 0
        network_bytes = self.directions * batch * leaving + again * batch * entering
        into = airtime
        if held.parts and self.workload.trains:  # gradients come and go the other way; the less of the two is counted
            into, network_bytes = sending, network_bytes + again * batch * leaving
        figures |= {"receive_s": into * entering, "send_s": sending * leaving}
        if hosts:
            figures["host_send_s"] = airtime * self.cut_bytes[1]
            network_bytes = network_bytes + self.directions * batch * self.cut_bytes[1]
        figures |= self._ends(ids, shares, held)
        if not held.parts:
            figures |= self._directions(ids, shares)
        if not self.network.one_medium:
            both = airtime * (entering + leaving)  # in training all devices receive both, activations and gradients
            one = np.maximum(airtime * entering, sending * leaving)
            figures["port_s"] = micro_batches * (both if self.workload.trains else one)
        if self.workload.generates:
            ways = airtime, sending, again
            tokens, sent_bytes = self._tokens(ways, first, stop, micro_batches // token_groups)
            figures |= tokens
            network_bytes = network_bytes + sent_bytes
        ends_j = [figures.pop(f"{end}_j", none) for end in ("input", "label", "output")]
        figures["network_j"] = self.byte_j * network_bytes + micro_batches * sum(ends_j)
        return figures

    def _tokens(
        self, ways: tuple[Floats, Floats, int], first: Ints, stop: Ints, batches: int
    ) -> tuple[dict[str, Floats], Floats]:
        """What follows the prompt's passes: a stage's part of a group's airtime, and the bytes it sends of all.

        ``ways``: airtime of a byte per sample into the stage and out of it, and how often more than once it enters.
        """
        workload, (airtime, sending, again) = self.workload, ways
        ends = float(INTEGER_BYTES)
        token_bytes = np.array([ends, *(workload.token_bytes(cut) for cut in range(1, self.layers)), ends])
        times = workload.decode_steps * ~is_whole(first, stop, self.layers)
        entering, leaving = times * token_bytes[first], times * token_bytes[stop]
        figures = {"token_receive_s": batches * airtime * entering, "token_send_s": batches * sending * leaving}
        return figures, workload.batch * (leaving + again * entering)

    def without_outputs(self, figures: dict[str, Floats], batches: int) -> dict[str, Floats]:
        """The figures with all that was generated leaving together, after the last step."""
        hold_s, trip_s = figures["output_s"], figures["output_trip_s"]
        left_s = figures["decode_s"] + np.where(trip_s > 0, batches * hold_s + (trip_s - hold_s), 0.0)
        none = np.zeros((1, 1))
        outputs = {"output_s": none, "output_trip_s": none, "output_air_s": self.no_air}
        return figures | outputs | {"decode_s": left_s}

    def _directions(self, ids: Sequence[str], shares: Ints) -> dict[str, Floats]:
        """What tells share vectors apart in a cell, where sending and receiving take unlike times."""
        if any(self.network.home(name).kind != "cell" for name in ids):
            return {}
        hops = [self.network.own_hops(name) for name in ids]
        per_byte = 1.0 / np.array([[hop.bytes_per_s for hop in pair] for pair in hops])
        return {f"{TELLING}{way}": (shares @ per_byte[:, way])[:, None] for way in range(2)}

    def _ends(self, ids: Sequence[str], shares: Ints, held: Held) -> dict[str, Floats]:
        """Transfers from the source and to the sink, for stages that may be first or last."""
        figures: dict[str, Floats] = {}
        workload = self.workload
        is_first = np.full(len(held.first), held.hosts) | (held.first == 0)
        is_last = held.stop == self.layers

        def add(end: str, where: NDArray[np.bool_], holds: list[Hold]) -> None:
            longest = [max(hold.seconds.values(), default=0.0) for hold in holds]
            figures[f"{end}_s"] = np.array(longest)[:, None] * where
            figures[f"{end}_trip_s"] = np.array([hold.duration_s for hold in holds])[:, None] * where
            figures[f"{end}_j"] = np.array([hold.energy_j for hold in holds])[:, None] * where
            name = "input_air_s" if end == "input" else "output_air_s"
            figures[name] = figures.get(name, 0.0) + airtimes(self.network, holds) * where[:, None]

        def sized(row: Ints, size: float) -> dict[str, float]:
            return {name: int(samples) * size for name, samples in zip(ids, row, strict=True)}

        if workload.source is not None and workload.input_bytes:
            holds = [self.network.fan_out(workload.source, sized(row, workload.input_bytes)) for row in shares]
            add("input", is_first, holds)
        if workload.source is not None and workload.trains and workload.label_bytes:
            holds = [self.network.fan_out(workload.source, sized(row, workload.label_bytes)) for row in shares]
            add("label", is_last, holds)
        if workload.sink is not None and not workload.trains and workload.output_bytes:
            size = workload.output_bytes * (workload.new_tokens if workload.generates else 1)
            if held.parts:
                ids = [ids[leader_first(self.network, ids)[0]]]
            holds = [self.network.fan_in(sized(row[: len(ids)], size), workload.sink) for row in shares]
            add("output", is_last, holds)
        return figures


def airtimes(network: Network, holds: Sequence[Hold]) -> Floats:
    """Seconds that transfers hold each contended resource, shape (transfers, 1, resources)."""
    by_resource = [[hold.seconds.get(name, 0.0) for name in network.contended] for hold in holds]
    return np.array(by_resource).reshape(len(holds), 1, len(network.contended))

"""What a stage sends and receives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

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
    """Figures of the transfers that stages take part in, each (shares or 1, stages or 1), or that by resource."""

    def __init__(self, problem: Problem) -> None:
        self.workload, self.cluster, self.network = problem.workload, problem.cluster, problem.network
        self.byte_j = problem.byte_j
        self.layers = len(self.workload.layers)
        self.ids = self.cluster.device_ids
        self.per_byte_s = np.array([1.0 / self.network.rate(name) for name in self.ids if self.cluster.domains])
        self.media = [self.network.medium(name) for name in self.ids if self.cluster.domains]
        self.no_air = np.zeros((1, 1, len(self.network.contended)))
        inner = [self.workload.cut_bytes(cut) for cut in range(1, self.layers)]
        self.cut_bytes = np.array([0.0, *inner, 0.0])  # nothing crosses the two ends
        self.directions = 2 if self.workload.trains else 1

    def figures(self, held: Held) -> dict[str, Floats]:
        """Of hand-overs across the stage's two cuts, of inputs, labels and outputs, and of tokens."""
        first, stop = held.first, held.stop
        micro_batches, token_groups, hosts = held.micro_batches, held.token_groups, held.hosts
        none = np.zeros((1, 1))
        figures = dict.fromkeys(_TRANSFERS, none) | dict.fromkeys(AIRTIMES, self.no_air)
        if not self.cluster.domains:
            return figures
        airtime, sending = (held.of_stages(each) for each in self._airtime(held))
        entering, leaving = self.cut_bytes[first][None], self.cut_bytes[stop][None]
        batch = self.workload.batch
        again = held.size - 1 if held.parts else 0
        network_bytes = self.directions * batch * leaving + again * batch * entering
        into = airtime
        if held.parts and self.workload.trains:  # gradients come and go the other way; the less of the two is counted
            into, network_bytes = sending, network_bytes + again * batch * leaving
        figures |= {"receive_s": into * entering, "send_s": sending * leaving}
        if hosts:
            figures["host_send_s"] = airtime * self.cut_bytes[1]
            network_bytes = network_bytes + self.directions * batch * self.cut_bytes[1]
        figures |= self._ends(held)
        if not held.parts:
            figures |= self._directions(held)
        if not self.network.one_medium:
            both = airtime * (entering + leaving)  # in training all devices receive both, activations and gradients
            own = np.maximum(airtime * entering, sending * leaving)
            figures["port_s"] = micro_batches * (both if self.workload.trains else own)
        if self.workload.generates:
            ways = airtime, sending, again
            tokens, sent_bytes = self._tokens(ways, first, stop, micro_batches // token_groups)
            figures |= tokens
            network_bytes = network_bytes + sent_bytes
        ends_j = [figures.pop(f"{end}_j", none) for end in ("input", "label", "output")]
        figures["network_j"] = self.byte_j * network_bytes + micro_batches * sum(ends_j)
        return figures

    def _airtime(self, held: Held) -> tuple[Floats, Floats]:
        """Seconds for one byte per sample into a stage and out of it, each (share vectors or 1, groups)."""
        airtimes_s, sending_s = [], []
        for group in held.groups:
            parts = held.samples * self.per_byte_s[list(group.devices)]
            media = [self.media[d] for d in group.devices]
            taking_turns = [parts[:, [each == medium for each in media]].sum(axis=1) for medium in dict.fromkeys(media)]
            airtimes_s.append(np.maximum.reduce(taking_turns))
            if held.parts:
                leader = leader_first(self.network, [self.ids[d] for d in group.devices])[0]
                sending_s.append(parts[:, leader])
        airtime_s = np.stack(airtimes_s, axis=1)
        if not held.parts:
            return airtime_s, airtime_s
        # Each device needs all that enters, and the leader sends what leaves.
        return airtime_s[:1], np.stack(sending_s, axis=1)[:1]

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

    def _directions(self, held: Held) -> dict[str, Floats]:
        """What tells share vectors apart in a cell, where sending and receiving take unlike times."""
        ids = [[self.ids[d] for d in group.devices] for group in held.groups]
        in_cells = [all(self.network.home(name).kind == "cell" for name in own) for own in ids]
        if not any(in_cells):
            return {}
        by_way: list[Floats] = []
        for way in range(2):
            seconds = np.zeros((len(held.shares), len(ids)))  # 0 for all vectors of a group tells none apart
            for at, own in enumerate(ids):
                if in_cells[at]:
                    per_byte = [1.0 / self.network.own_hops(name)[way].bytes_per_s for name in own]
                    seconds[:, at] = held.shares @ np.array(per_byte)
            by_way.append(held.of_stages(seconds))
        return {f"{TELLING}{way}": seconds for way, seconds in enumerate(by_way)}

    def _ends(self, held: Held) -> dict[str, Floats]:
        """Transfers from the source and to the sink, for stages that may be first or last."""
        figures: dict[str, Floats] = {}
        workload, shares = self.workload, held.samples[:1] if held.parts else held.shares
        by_group = [[self.ids[d] for d in group.devices] for group in held.groups]
        is_first = np.full(len(held.first), held.hosts) | (held.first == 0)
        is_last = held.stop == self.layers

        def add(end: str, where: NDArray[np.bool_], transfer: Callable[[dict[str, float]], Hold], size: float) -> None:
            """``transfer``: of so many bytes of each device, ``size`` a sample."""
            if not where.any():  # no group's transfers are looked at for nothing
                figures[f"{end}_s"] = figures[f"{end}_trip_s"] = figures[f"{end}_j"] = np.zeros((1, 1))
                return
            holds = [[transfer(_sized(own, row, size)) for own in by_group] for row in shares]
            longest = [[max(hold.seconds.values(), default=0.0) for hold in row] for row in holds]
            figures[f"{end}_s"] = held.of_stages(_table(longest, by_group)) * where
            trips = [[hold.duration_s for hold in row] for row in holds]
            figures[f"{end}_trip_s"] = held.of_stages(_table(trips, by_group)) * where
            joules = [[hold.energy_j for hold in row] for row in holds]
            figures[f"{end}_j"] = held.of_stages(_table(joules, by_group)) * where
            name = "input_air_s" if end == "input" else "output_air_s"
            air_s = airtimes(self.network, [hold for row in holds for hold in row])
            air_s = air_s.reshape(len(shares), len(by_group), len(self.network.contended))
            figures[name] = figures.get(name, 0.0) + held.of_stages(air_s) * where[:, None]

        source, sink = workload.source, workload.sink
        if source is not None and workload.input_bytes:
            add("input", is_first, partial(self.network.fan_out, source), workload.input_bytes)
        if source is not None and workload.trains and workload.label_bytes:
            add("label", is_last, partial(self.network.fan_out, source), workload.label_bytes)
        if sink is not None and not workload.trains and workload.output_bytes:
            size = workload.output_bytes * (workload.new_tokens if workload.generates else 1)
            if held.parts:
                by_group = [[own[leader_first(self.network, own)[0]]] for own in by_group]
                shares = shares[:, :1]
            add("output", is_last, partial(self.network.fan_in, receiver=sink), size)
        return figures


def _sized(ids: Sequence[str], row: Ints, size: float) -> dict[str, float]:
    """Bytes of each device, so many a sample."""
    return {name: int(samples) * size for name, samples in zip(ids, row, strict=True)}


def _table(rows: list[list[float]], groups: Sequence[object]) -> Floats:
    return np.array(rows, dtype=float).reshape(len(rows), len(groups))


def airtimes(network: Network, holds: Sequence[Hold]) -> Floats:
    """Seconds that transfers hold each contended resource, shape (transfers, 1, resources)."""
    by_resource = [[hold.seconds.get(name, 0.0) for name in network.contended] for hold in holds]
    return np.array(by_resource).reshape(len(holds), 1, len(network.contended))

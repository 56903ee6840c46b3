"""Stage columns: every way to run some contiguous layers on some devices.

A column is (layers between two cuts, device group, sample shares, micro-batch size). It carries what the stage costs
in itself, so that a pipeline's load, airtime, memory and energy are sums and maxima over its columns.

Devices that cannot be told apart form a *type*, and groups are counted by type: swapping two equal devices gives the
same column. Of the share vectors of a group only those that no other beats in every figure are kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.memory import MemoryModel
from dora_nb.costs.network import Hold, Network
from dora_nb.costs.table import Floats
from dora_nb.domain.plan import AllReduce
from dora_nb.formulation.fleet import Fleet, Group, Ints
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.space import share_step

#: Which stages may still matter: (micro-batch, group code, first, stop, seconds both ways, joules) -> mask. Arrays of
#: one entry per layer range, or of one per share vector and range.
Screen = Callable[[int, int, Ints, Ints, Floats, Floats], NDArray[np.bool_]]


@dataclass(frozen=True)
class Columns:
    """Columns as arrays, one entry each.

    Attributes
    ----------
    micro_batch, first, stop
        Samples per micro-batch, and layers [first, stop).
    hosts
        Whether the stage also runs the network's first layer (last stages with tied parameters only).
    choice
        Index into ``choices``.
    code
        The group's code.
    forward_s, backward_s
        Seconds of one micro-batch on the slowest replica.
    step_s
        Seconds of the optimizer step on the slowest replica.
    receive_s, send_s
        The stage's part of the airtime of one micro-batch across its first and its last cut, in one direction.
    host_forward_s, host_backward_s, host_send_s
        The same of a hosted first layer.
    input_s, label_s, output_s
        Seconds a micro-batch's input, label and output hold the medium if the stage is the one they reach or leave.
    sum_s, sum_hold_s
        Duration of the replicas' all-reduce, and how long it holds the medium.
    tied_gather_s, tied_part_s, tied_spread_s
        The stage's part in synchronising tied parameters, in seconds that the medium is held: its replicas to the
        leader, the leader's part of the exchange with the other end, and the sum back to the replicas.
    port_s
        Seconds the stage's busiest switch port is held in one iteration (0 on a shared medium).
    energy_j
        Joules of one iteration above idling: computing, and the bytes the stage sends.
    idle_w
        Idle draw of the stage's devices.
    most_in_flight
        Micro-batches whose stash fits every replica.
    choices
        Groups and sample shares (in the order of the group's devices).
    fleet, batch
        What the codes count, and samples per iteration.
    """

    micro_batch: Ints
    first: Ints
    stop: Ints
    hosts: NDArray[np.bool_]
    choice: Ints
    code: Ints
    forward_s: Floats
    backward_s: Floats
    step_s: Floats
    receive_s: Floats
    send_s: Floats
    host_forward_s: Floats
    host_backward_s: Floats
    host_send_s: Floats
    input_s: Floats
    label_s: Floats
    output_s: Floats
    sum_s: Floats
    sum_hold_s: Floats
    tied_gather_s: Floats
    tied_part_s: Floats
    tied_spread_s: Floats
    port_s: Floats
    energy_j: Floats
    idle_w: Floats
    most_in_flight: Ints
    choices: tuple[tuple[Group, tuple[int, ...]], ...]
    fleet: Fleet
    batch: int

    def __len__(self) -> int:
        return len(self.first)

    @property
    def micro_batches(self) -> Ints:
        """Micro-batches per iteration."""
        return self.batch // self.micro_batch

    @property
    def sums_s(self) -> Floats:
        """Seconds a stage's sums, of its own and of tied gradients, hold the medium."""
        return self.sum_hold_s + self.tied_gather_s + self.tied_part_s + self.tied_spread_s

    def tail_s(self, shared: bool) -> Floats:
        """Seconds after a stage's last backward pass: its sums, one after another on a shared medium, and its step."""
        tied_s = self.tied_gather_s + self.tied_part_s + self.tied_spread_s
        sums_s = self.sums_s if shared else np.maximum(self.sum_hold_s, tied_s)
        return np.asarray(sums_s + self.step_s)

    def take(self, chosen: NDArray[np.bool_] | Ints) -> Columns:
        """Some of the columns."""
        arrays = {
            field.name: getattr(self, field.name)[chosen]
            for field in fields(self)
            if isinstance(getattr(self, field.name), np.ndarray)
        }
        return Columns(**arrays, choices=self.choices, fleet=self.fleet, batch=self.batch)

    @staticmethod
    def join(parts: Sequence[Columns]) -> Columns:
        """Columns of one problem together, each once."""
        choices: list[tuple[Group, tuple[int, ...]]] = []
        arrays: dict[str, list[NDArray[np.generic]]] = {}
        for part in parts:
            for field in fields(part):
                values = getattr(part, field.name)
                if isinstance(values, np.ndarray):
                    arrays.setdefault(field.name, []).append(values)
            arrays["choice"][-1] = part.choice + len(choices)
            choices.extend(part.choices)
        merged = {name: np.concatenate(values) for name, values in arrays.items()}
        joined = Columns(**merged, choices=tuple(choices), fleet=parts[0].fleet, batch=parts[0].batch)
        first_of = {joined.key(index): index for index in reversed(range(len(joined)))}
        return joined.take(np.array(sorted(first_of.values()), dtype=np.int64))

    def key(self, column: int) -> tuple[int, int, int, bool, int, tuple[int, ...]]:
        """What tells a column from others of the same problem."""
        group, shares = self.choices[self.choice[column]]
        place = int(self.micro_batch[column]), int(self.first[column]), int(self.stop[column])
        return (*place, bool(self.hosts[column]), group.code, shares)


def build_columns(problem: Problem, most_replicas: int, screen: Screen | None = None) -> Columns:
    """All columns of a problem whose memory suffices for at least one micro-batch in flight.

    Columns over (interval, device group) follow the pipeline-partition models of the literature; uneven integer
    shares and hosted tied layers are our own.

    Parameters
    ----------
    problem
        What is planned.
    most_replicas
        Devices of a stage; at most the space's own limit.
    screen
        Leaves out columns that cannot matter; it is asked with lower bounds before share vectors are looked at, and
        again with the columns' own figures.
    """
    builder = _Builder(problem, screen or _everything)
    workload = problem.workload
    choices: list[tuple[Group, tuple[int, ...]]] = []
    parts: list[dict[str, NDArray[np.generic]]] = []
    for micro_batch in problem.space.micro_batch_sizes:
        for group in problem.fleet.groups(min(most_replicas, problem.space.most_replicas, micro_batch)):
            for hosts in (False, True) if workload.trains and workload.tied_parameters else (False,):
                part, shares = builder.columns(micro_batch, group, hosts)
                used, place = np.unique(part["choice"], return_inverse=True)
                part["choice"] = place + len(choices)
                choices.extend((group, tuple(int(share) for share in shares[index])) for index in used)
                parts.append(part)
    merged = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Columns(**merged, choices=tuple(choices), fleet=problem.fleet, batch=workload.batch)


def _everything(
    micro_batch: int, code: int, first: Ints, stop: Ints, both_s: Floats, energy_j: Floats
) -> NDArray[np.bool_]:
    del micro_batch, code, first, stop, energy_j
    return np.ones(both_s.shape, dtype=bool)


def _share_vectors(group: Group, micro_batch: int) -> Ints:
    """Positive shares that add up to the micro-batch, see :func:`~dora_nb.formulation.space.share_step`.

    Equal devices take theirs in descending order.
    """
    size = len(group.devices)
    step = share_step(micro_batch, size)
    if step is None:
        return np.zeros((0, size), dtype=np.int64)
    inner = range(step, micro_batch, step)
    vectors = [np.diff([0, *bounds, micro_batch]) for bounds in itertools.combinations(inner, size - 1)]
    shares = np.array(vectors, dtype=np.int64).reshape(-1, size)
    place = 0
    for count in group.counts:
        for left in range(place, place + count - 1):
            shares = shares[shares[:, left] >= shares[:, left + 1]]
        place += count
    # Balanced vectors first: they beat most of the others, which makes the filter below quick.
    return shares[np.argsort(shares.max(axis=1), kind="stable")]


class _Builder:
    """Columns of one group at a time, all layer ranges and share vectors at once."""

    def __init__(self, problem: Problem, screen: Screen) -> None:
        self.workload, self.cluster, self.table = problem.workload, problem.cluster, problem.table
        self.problem, self.screen = problem, screen
        self.network = Network.of(self.cluster)
        self.memory = MemoryModel(self.workload)
        self.layers = len(self.workload.layers)
        self.element = self.workload.bytes_per_element
        ranges = [(i, j) for i in range(self.layers) for j in range(i + 1, self.layers + 1)]
        self.first, self.stop = (np.array(side, dtype=np.int64) for side in zip(*ranges, strict=True))
        self.forward_until = _until_cut(self.table.forward_s)
        self.backward_until = _until_cut(self.table.backward_s)
        self.step_until = _until_cut(self.table.step_s)
        inner = [self.workload.cut_bytes(cut) for cut in range(1, self.layers)]
        self.cut_bytes = np.array([0.0, *inner, 0.0])  # nothing crosses the two ends
        self.directions = 2 if self.workload.trains else 1

    def columns(self, micro_batch: int, group: Group, hosts: bool) -> tuple[dict[str, NDArray[np.generic]], Ints]:
        """Columns of one group, and the share vectors that their ``choice`` counts."""
        eligible = self._may_matter(micro_batch, group)
        if hosts:
            eligible &= (self.stop == self.layers) & (self.first >= 2)  # at least one stage is left between the ends
        first, stop = self.first[eligible], self.stop[eligible]
        shares = _share_vectors(group, micro_batch) if len(first) else np.zeros((0, len(group.devices)), dtype=np.int64)
        micro_batches = self.workload.batch // micro_batch
        figures = self._compute(group, shares, first, stop, micro_batches, hosts)
        both_s = figures["forward_s"] + figures["backward_s"]
        dynamic_j = figures["compute_j"]
        kept = self.screen(micro_batch, group.code, first, stop, both_s, dynamic_j)
        rows = np.asarray(kept.any(axis=1))  # share vectors that no range needs are not looked at again
        shares, kept = shares[rows], kept[rows]
        figures = {name: values[rows] if len(values) == len(rows) else values for name, values in figures.items()}
        figures |= self._network(group, shares, first, stop, micro_batches, hosts)
        figures["energy_j"] = figures.pop("compute_j") + figures.pop("network_j")
        figures["most_in_flight"] = self._most_in_flight(group, shares, first, stop, micro_batches, hosts)
        kept = _not_dominated(figures, kept & (figures["most_in_flight"] >= 1))
        choice, place = np.nonzero(kept)
        part: dict[str, NDArray[np.generic]] = {
            name: np.broadcast_to(values, kept.shape)[kept] for name, values in figures.items()
        }
        part["most_in_flight"] = part["most_in_flight"].astype(np.int64)
        part |= {
            "micro_batch": np.full(len(choice), micro_batch),
            "first": first[place],
            "stop": stop[place],
            "hosts": np.full(len(choice), hosts),
            "choice": choice,
            "code": np.full(len(choice), group.code),
            "idle_w": np.full(len(choice), sum(self.cluster.devices[d].idle_w for d in group.devices)),
        }
        return part, shares

    def _may_matter(self, micro_batch: int, group: Group) -> NDArray[np.bool_]:
        """Layer ranges that may matter on a group, however samples are shared out on it."""
        rest, group_only = self.problem.completion, self.problem.fleet.codes - 1 - group.code
        first, stop = self.first, self.stop
        both_s = micro_batch * (rest.path_s[group_only, stop] - rest.path_s[group_only, first])
        energy_j = self.workload.batch * (rest.energy_j[group_only, stop] - rest.energy_j[group_only, first])
        return self.screen(micro_batch, group.code, first, stop, both_s, energy_j)

    def _compute(
        self, group: Group, shares: Ints, first: Ints, stop: Ints, micro_batches: int, hosts: bool
    ) -> dict[str, Floats]:
        shape = (len(shares), len(first))
        forward, backward, step, energy = (np.zeros(shape) for _ in range(4))
        host_forward, host_backward = np.zeros((len(shares), 1)), np.zeros((len(shares), 1))
        for place, d in enumerate(group.devices):
            device, samples = self.cluster.devices[d], shares[:, place]
            own_forward = (self.forward_until[stop, d][:, samples] - self.forward_until[first, d][:, samples]).T
            own_backward = (self.backward_until[stop, d][:, samples] - self.backward_until[first, d][:, samples]).T
            busy = own_forward + own_backward
            if hosts:
                own_host = self.table.forward_s[0, d, samples][:, None], self.table.backward_s[0, d, samples][:, None]
                host_forward, host_backward = (
                    np.maximum(host_forward, own_host[0]),
                    np.maximum(host_backward, own_host[1]),
                )
                busy = busy + sum(own_host)
            own_step = self._step_s(d, first, stop, hosts)
            forward, backward = np.maximum(forward, own_forward), np.maximum(backward, own_backward)
            step = np.maximum(step, own_step)
            energy += (micro_batches * busy + own_step) * (device.active_w - device.idle_w)
        return {
            "forward_s": forward,
            "backward_s": backward,
            "step_s": step,
            "host_forward_s": host_forward,
            "host_backward_s": host_backward,
            "compute_j": energy,
        }

    def _step_s(self, device: int, first: Ints, stop: Ints, hosts: bool) -> Floats:
        """Optimizer seconds on one device, parameters held twice counted once."""
        seconds = np.asarray(self.step_until[stop, device] - self.step_until[first, device])
        if not self.workload.tied_parameters:
            return seconds
        embedding_s = float(self.table.step_s[0, device])
        tied_s = embedding_s * self.workload.tied_parameters / self.workload.layers[0].parameters
        shared_s = embedding_s - tied_s if hosts else -tied_s * self._is_whole(first, stop)
        return np.asarray(seconds + shared_s)

    def _is_whole(self, first: Ints, stop: Ints) -> NDArray[np.bool_]:
        return np.asarray((first == 0) & (stop == self.layers))

    def _network(
        self, group: Group, shares: Ints, first: Ints, stop: Ints, micro_batches: int, hosts: bool
    ) -> dict[str, Floats]:
        """Figures of the transfers the stage takes part in, each (shares or 1, ranges or 1)."""
        none = np.zeros((1, 1))
        figures = dict.fromkeys(_TRANSFERS, none)
        domain = self.cluster.domain
        if domain is None:
            return figures
        ids = [self.cluster.devices[d].id for d in group.devices]
        per_byte = np.array([1.0 / self.network.rate(name) for name in ids])
        parts = shares * per_byte  # seconds for one byte per sample
        airtime = (parts.sum(axis=1) if domain.kind == "shared" else parts.max(axis=1))[:, None]
        entering, leaving = self.cut_bytes[first][None], self.cut_bytes[stop][None]
        batch = self.workload.batch
        network_bytes = self.directions * batch * leaving
        figures |= {"receive_s": airtime * entering, "send_s": airtime * leaving}
        if hosts:
            figures["host_send_s"] = airtime * self.cut_bytes[1]
            network_bytes = network_bytes + self.directions * batch * self.cut_bytes[1]
        figures |= self._ends(ids, shares, first, stop, hosts)
        sums = self._sums(ids, first, stop, hosts)
        network_bytes = network_bytes + sums.pop("bytes")
        figures |= sums
        if domain.kind == "switch":
            both = entering + leaving if self.workload.trains else np.maximum(entering, leaving)
            figures["port_s"] = micro_batches * airtime * both + figures["sum_hold_s"]
        joules_per_byte = domain.energy_j_per_byte
        end_bytes = [figures.pop(f"{end}_bytes", none) for end in ("input", "label", "output")]
        figures["network_j"] = joules_per_byte * (network_bytes + micro_batches * sum(end_bytes))
        return figures

    def _ends(self, ids: Sequence[str], shares: Ints, first: Ints, stop: Ints, hosts: bool) -> dict[str, Floats]:
        """Transfers from the source and to the sink, for stages that may be first or last."""
        figures: dict[str, Floats] = {}
        workload = self.workload
        is_first = np.full(len(first), hosts) | (first == 0)
        is_last = stop == self.layers

        def add(end: str, where: NDArray[np.bool_], holds: list[Hold]) -> None:
            longest = [max(hold.seconds.values(), default=0.0) for hold in holds]
            figures[f"{end}_s"] = np.array(longest)[:, None] * where
            figures[f"{end}_bytes"] = np.array([hold.size_bytes for hold in holds])[:, None] * where

        def sized(row: Ints, size: float) -> dict[str, float]:
            return {name: int(samples) * size for name, samples in zip(ids, row, strict=True)}

        if workload.source is not None and workload.input_bytes:
            holds = [self.network.fan_out(workload.source, sized(row, workload.input_bytes)) for row in shares]
            add("input", is_first, holds)
        if workload.source is not None and workload.trains and workload.label_bytes:
            holds = [self.network.fan_out(workload.source, sized(row, workload.label_bytes)) for row in shares]
            add("label", is_last, holds)
        if workload.sink is not None and not workload.trains and workload.output_bytes:
            holds = [self.network.fan_in(sized(row, workload.output_bytes), workload.sink) for row in shares]
            add("output", is_last, holds)
        return figures

    def _sums(self, ids: Sequence[str], first: Ints, stop: Ints, hosts: bool) -> dict[str, Floats]:
        """Sums of gradients; they depend on the group and the layers, not on the shares."""
        none = np.zeros((1, len(first)))
        names = ("sum_s", "sum_hold_s", "tied_gather_s", "tied_part_s", "tied_spread_s", "bytes")
        figures = dict.fromkeys(names, none)
        if not self.workload.trains:
            return figures
        network, domain = self.network, self.cluster.domain
        assert domain is not None
        leader = ids[0]
        if len(ids) > 1:
            sizes = self.memory.gradient_parameters(first, stop, hosts) * self.element
            figures |= self._all_reduce(ids, sizes)
            leader = network.best_all_reduce(ids, 1.0).leader
        if self.workload.tied_parameters and not hosts:
            synchronised = (((first == 0) | (stop == self.layers)) & ~self._is_whole(first, stop))[None]
            tied_bytes = float(self.workload.tied_parameters * self.element)
            everyone = dict.fromkeys(ids, tied_bytes)
            gather, spread = network.fan_in(everyone, leader), network.fan_out(leader, everyone)
            # The leader sends its gradient and receives the other's: one after the other on a shared medium.
            part_s = (2 if domain.kind == "shared" else 1) * tied_bytes / network.rate(leader)
            figures["tied_gather_s"] = max(gather.seconds.values(), default=0.0) * synchronised
            figures["tied_part_s"] = part_s * synchronised
            figures["tied_spread_s"] = max(spread.seconds.values(), default=0.0) * synchronised
            tied_total = gather.size_bytes + spread.size_bytes + tied_bytes
            figures["bytes"] = figures["bytes"] + tied_total * synchronised
        return figures

    def _all_reduce(self, ids: Sequence[str], sizes: Floats) -> dict[str, Floats]:
        """The faster algorithm for every size; both take a fixed time plus one in proportion to the bytes."""
        leader = self.network.best_all_reduce(ids, 1.0).leader
        options = []
        for algorithm in ("star", "ring"):
            choice = AllReduce(algorithm=algorithm, leader=leader)
            per_byte = self.network.all_reduce(ids, 1.0, choice)
            hold_s = max(per_byte.seconds.values())
            options.append(
                (hold_s * sizes + (per_byte.duration_s - hold_s), hold_s * sizes, per_byte.size_bytes * sizes)
            )
        star, ring = options
        faster = star[0] <= ring[0]
        some = sizes > 0
        names = ("sum_s", "sum_hold_s", "bytes")
        return {name: (np.where(faster, a, b) * some)[None] for name, a, b in zip(names, star, ring, strict=True)}

    def _most_in_flight(
        self, group: Group, shares: Ints, first: Ints, stop: Ints, micro_batches: int, hosts: bool
    ) -> Floats:
        fits = np.full((len(shares), len(first)), float(micro_batches))
        replicated = len(group.devices) > 1
        for place, d in enumerate(group.devices):
            needed = [
                self.memory.replica_bytes(
                    first[None],
                    stop[None],
                    samples=shares[:, place, None].astype(float),
                    in_flight=count,
                    micro_batches=micro_batches,
                    replicated=replicated,
                    hosts_first_layer=hosts,
                )
                for count in (1, 2)
            ]
            room = self.cluster.devices[d].usable_memory_bytes - needed[0]
            per_extra = needed[1] - needed[0]
            extra = np.divide(room, per_extra, out=np.full_like(room, np.inf), where=per_extra > 0)
            fits = np.where(room < 0, 0.0, np.minimum(fits, 1 + np.floor(extra + 1e-9)))
        return fits


#: Figures of the transfers a stage takes part in.
_TRANSFERS = (
    *("receive_s", "send_s", "host_send_s", "input_s", "label_s", "output_s"),
    *("sum_s", "sum_hold_s", "tied_gather_s", "tied_part_s", "tied_spread_s", "port_s", "network_j"),
)

#: Figures that depend on how samples are shared out; a vector no better in any of them is never needed.
_SHARED_OUT = (
    *("forward_s", "backward_s", "host_forward_s", "host_backward_s", "receive_s", "send_s", "host_send_s"),
    *("input_s", "label_s", "output_s", "port_s", "energy_j"),
)


def _not_dominated(figures: dict[str, Floats], candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which candidate (share vector, layer range) pairs no earlier-kept vector matches or beats in every figure."""
    shape = candidates.shape
    # Figures that are the same for every share vector cannot tell two apart.
    telling = [np.broadcast_to(figures[name], shape) for name in _SHARED_OUT if figures[name].shape[0] == shape[0]]
    telling.append(-figures["most_in_flight"])
    kept = np.zeros(shape, dtype=bool)
    rows: list[int] = []
    for row in range(shape[0]):
        open_ranges = candidates[row]
        if rows:
            beaten = kept[rows]
            for values in telling:
                beaten = beaten & (values[rows] <= values[row] + 1e-12 * np.abs(values[row]))
            open_ranges = open_ranges & ~beaten.any(axis=0)
        if open_ranges.any():
            kept[row] = open_ranges
            rows.append(row)
    return kept


def _until_cut(by_layer: Floats) -> Floats:
    return np.concatenate([np.zeros((1, *by_layer.shape[1:])), np.cumsum(by_layer, axis=0)])

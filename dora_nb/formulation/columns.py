"""Stage columns: every way to run some contiguous layers on some devices.

A column is (layers between two cuts, device group, sample shares, micro-batch size). It carries what the stage costs
in itself, so that a pipeline's load, airtime, memory and energy are sums and maxima over its columns.

Devices that cannot be told apart form a *type*, and groups are counted by type: swapping two equal devices gives the
same column. Of the share vectors of a group only those that no other beats in every figure are kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.buckets import bucket_count, bucket_cuts, bucket_parameters
from dora_nb.costs.memory import MemoryModel
from dora_nb.costs.network import Hold
from dora_nb.costs.table import Floats
from dora_nb.domain.architecture import INTEGER_BYTES
from dora_nb.domain.plan import Algorithm, AllReduce, Weights
from dora_nb.formulation.fleet import Fleet, Group, Ints
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.space import share_step

#: One for all stages, or one for each.
Counts = int | Ints

#: Which stages may still matter: (micro-batch, groups of tokens, group code, first, stop, seconds both ways, seconds of
#: steps after the first token, joules) -> mask. Arrays of one entry per layer range, or of one per share vector and
#: range.
Screen = Callable[[Counts, Counts, Counts, Ints, Ints, Floats, Floats, Floats], NDArray[np.bool_]]


class Choice(NamedTuple):
    """Who runs a stage, and how.

    Attributes
    ----------
    group
        Its devices.
    shares
        Samples of each, in the order of the group's devices.
    algorithm
        How they sum gradients; ``star`` too where there is nothing to sum.
    recomputes
        Whether they run layers forward again before their backward pass.
    weights
        In what they hold them, see :attr:`~dora_nb.domain.plan.Stage.weights`.
    """

    group: Group
    shares: tuple[int, ...]
    algorithm: Algorithm
    recomputes: bool = False
    weights: Weights | None = None


@dataclass(frozen=True)
class Columns:
    """Columns as arrays, one entry each.

    Attributes
    ----------
    micro_batch, token_groups, first, stop
        Samples per micro-batch, groups of the batch while tokens are generated, and layers [first, stop).
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
        Seconds that a micro-batch across the stage's first and its last cut, in either direction, holds the resource
        that the stage's devices share, or the busiest of those they have each. On one medium or switch it is exact;
        elsewhere transfers hold other resources as well, see :mod:`~dora_nb.formulation.hand_overs`.
    host_forward_s, host_backward_s, host_send_s
        The same of a hosted first layer.
    input_s, label_s, output_s
        Seconds a micro-batch's input, label and output hold the medium, or the busiest resource, if the stage is the
        one they reach or leave.
    input_trip_s, label_trip_s, output_trip_s
        Seconds from their start to their arrival.
    decode_s
        Seconds of all steps after the first token of one group on the slowest replica; of a last stage, also of the
        outputs' way to the sink, which follows.
    steps_s
        Seconds of all groups' steps after the first token on the slowest replica.
    token_receive_s, token_send_s
        The stage's part of the airtime of one group's steps across its first and its last cut; across the two ends of
        the network the tokens chosen go back. 0 of a stage that is the whole network.
    sum_hold_s, sum_left_s, sum_tail_s
        Seconds that the replicas' all-reduce holds the medium; how many of them are left at least when the last
        backward pass ends, since buckets are summed as it fills them; and seconds from that end until all is summed.
    tied_gather_s, tied_part_s, tied_spread_s
        The stage's part in synchronising tied parameters, in seconds that the medium is held: its replicas to the
        leader, the leader's part of the exchange with the other end, and the sum back to the replicas.
    port_s
        Seconds the busiest resource that the stage's devices share, or have each, is held in one iteration at least
        (0 on a single medium, whose airtime is added up over stages).
    input_air_s, output_air_s, sum_air_s
        Seconds that each contended resource of the network (:attr:`~dora_nb.costs.network.Network.contended`) is held
        by a micro-batch's input, by its label and output, and in one iteration by the stage's sums. Shape
        (columns, resources).
    energy_j
        Joules of one iteration above idling: computing, and the bytes the stage sends; what it hands to others at the
        least joules per byte between any two devices.
    idle_w
        Idle draw of the stage's devices.
    most_in_flight
        Micro-batches whose stash fits every replica.
    least_in_flight
        Fewest micro-batches in flight for which the column is of use: 1, or, of one that recomputes, one more than the
        same stage holds without.
    cap_s
        Longest makespan that the batteries of the stage's devices last; infinite without a hard limit.
    battery_j
        Joules above idling of every device whose battery has a priced limit, shape (columns, such devices).
    over_bytes
        Bytes that the stage's devices fill beyond a priced memory headroom, by micro-batches in flight (1, 2, ...);
        the last entry holds for all larger counts. One entry of 0 without such a limit.
    choices
        What tells columns of the same layers and micro-batch size apart.
    fleet, batch
        What the codes count, and samples per iteration.
    """

    micro_batch: Ints
    token_groups: Ints
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
    input_trip_s: Floats
    label_trip_s: Floats
    output_trip_s: Floats
    decode_s: Floats
    steps_s: Floats
    token_receive_s: Floats
    token_send_s: Floats
    sum_hold_s: Floats
    sum_left_s: Floats
    sum_tail_s: Floats
    tied_gather_s: Floats
    tied_part_s: Floats
    tied_spread_s: Floats
    port_s: Floats
    input_air_s: Floats
    output_air_s: Floats
    sum_air_s: Floats
    energy_j: Floats
    idle_w: Floats
    most_in_flight: Ints
    least_in_flight: Ints
    cap_s: Floats
    battery_j: Floats
    over_bytes: Floats
    choices: tuple[Choice, ...]
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
        after_s = self.sum_left_s + tied_s if shared else tied_s
        return np.asarray(np.maximum(self.sum_tail_s, after_s) + self.step_s)

    def holds(self, columns: Ints, in_flight: Ints | int) -> NDArray[np.bool_]:
        """Whether some columns are to be used with so many micro-batches in flight."""
        return np.asarray((self.least_in_flight[columns] <= in_flight) & (in_flight <= self.most_in_flight[columns]))

    def over_bytes_at(self, columns: Ints, in_flight: int) -> Floats:
        """Bytes beyond the memory headroom of some columns with so many micro-batches in flight."""
        return np.asarray(self.over_bytes[columns, min(in_flight, self.over_bytes.shape[1]) - 1])

    def take(self, chosen: NDArray[np.bool_] | Ints) -> Columns:
        """Some of the columns."""
        arrays = {
            field.name: getattr(self, field.name)[chosen]
            for field in fields(self)
            if isinstance(getattr(self, field.name), np.ndarray)
        }
        return Columns(**arrays, choices=self.choices, fleet=self.fleet, batch=self.batch)

    @staticmethod
    def beside(parts: Sequence[Columns]) -> Columns:
        """Columns of one problem one after the other; none of them is in two parts."""
        if len(parts) == 1:
            return parts[0]
        choices: list[Choice] = []
        arrays: dict[str, list[NDArray[np.generic]]] = {}
        for part in parts:
            for field in fields(part):
                values = getattr(part, field.name)
                if isinstance(values, np.ndarray):
                    arrays.setdefault(field.name, []).append(values)
            arrays["choice"][-1] = part.choice + len(choices)
            choices.extend(part.choices)
        merged = {name: np.concatenate(values) for name, values in arrays.items()}
        return Columns(**merged, choices=tuple(choices), fleet=parts[0].fleet, batch=parts[0].batch)

    @staticmethod
    def join(parts: Sequence[Columns]) -> Columns:
        """Columns of one problem together, each once."""
        joined = Columns.beside(parts)
        first_of = {joined.key(index): index for index in reversed(range(len(joined)))}
        return joined.take(np.array(sorted(first_of.values()), dtype=np.int64))

    def key(self, column: int) -> tuple[int, int, int, bool, int, tuple[int, ...], int, str, bool, Weights | None]:
        """What tells a column from others of the same problem."""
        group, shares, *how = self.choices[self.choice[column]]
        place = int(self.micro_batch[column]), int(self.first[column]), int(self.stop[column])
        return (*place, bool(self.hosts[column]), group.code, shares, int(self.token_groups[column]), *how)


def build_columns(
    problem: Problem,
    most_replicas: int,
    screen: Screen | None = None,
    *,
    beaten: bool = False,
    least_replicas: int = 1,
) -> Columns:
    """All columns of a problem whose memory suffices for at least one micro-batch in flight.

    A stage recomputes only with more micro-batches in flight than fit without (and, where a headroom of memory has a
    price, than fit in the room below it). With as many as fit, a plan loses nothing when the stage does not recompute:
    every operation lasts as long or less and none is added, so no transfer, in the same order, starts later; devices
    compute less and idle for no longer; and nothing is paid for memory. So columns that recompute are added only where
    memory is scarce, and :attr:`Columns.least_in_flight` keeps them from being looked at elsewhere.

    Weights are held in 8 bits, where that is allowed, if a forward pass, a step of generation or the joules get less by
    it, or if they do not fit otherwise (or only beyond a priced headroom): elsewhere the same column with weights in
    the workload's precision is as good in every figure.

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
    beaten
        Keep share vectors that others beat as well: on other durations they may beat those.
    least_replicas
        Fewest devices of a stage; at most what a micro-batch of the space can be shared out on.
    """
    builder = _Builder(problem, screen or _everything, beaten)
    workload = problem.workload
    choices: list[Choice] = []
    parts: list[dict[str, NDArray[np.generic]]] = []  # the first may be empty: it says which figures there are
    for micro_batch, token_groups in problem.space.families(workload.batch):
        for group in problem.fleet.groups(min(most_replicas, problem.space.most_replicas, micro_batch)):
            if len(group.devices) < least_replicas:
                continue
            for hosts in (False, True) if workload.trains and workload.tied_parameters else (False,):
                found = builder.columns(micro_batch, token_groups, group, hosts, skip_empty=bool(parts))
                for made_as, part, shares in found:
                    used, place = np.unique(part["choice"], return_inverse=True)
                    part["choice"] = place + len(choices)
                    choices.extend(Choice(group, tuple(map(int, shares[index])), *made_as) for index in used)
                    parts.append(part)
    merged = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Columns(**merged, choices=tuple(choices), fleet=problem.fleet, batch=workload.batch)


def stage_columns(problem: Problem, micro_batch: int, group: Group, first: int, stop: int) -> Columns:
    """All columns of one group on one range of layers, see :func:`build_columns`; no layer is hosted."""
    builder = _Builder(problem, _everything, beaten=False)
    builder.first, builder.stop = np.array([first]), np.array([stop])
    parts = []
    for made_as, part, shares in builder.columns(micro_batch, 1, group, hosts=False, skip_empty=False):
        choices = tuple(Choice(group, tuple(map(int, row)), *made_as) for row in shares)
        parts.append(Columns(**part, choices=choices, fleet=problem.fleet, batch=problem.workload.batch))  # type: ignore[arg-type]
    return Columns.join(parts)


def _everything(
    micro_batch: Counts,
    token_groups: Counts,
    code: Counts,
    first: Ints,
    stop: Ints,
    both_s: Floats,
    decode_s: Floats,
    energy_j: Floats,
) -> NDArray[np.bool_]:
    del micro_batch, token_groups, code, first, stop, decode_s, energy_j
    return np.ones(both_s.shape, dtype=bool)


def _share_vectors(group: Group, micro_batch: int, ordered: bool = True) -> Ints:
    """Positive shares that add up to the micro-batch, see :func:`~dora_nb.formulation.space.share_step`.

    Equal devices take theirs in descending order, unless the order matters.
    """
    size = len(group.devices)
    step = share_step(micro_batch, size)
    if step is None:
        return np.zeros((0, size), dtype=np.int64)
    inner = range(step, micro_batch, step)
    vectors = [np.diff([0, *bounds, micro_batch]) for bounds in itertools.combinations(inner, size - 1)]
    shares = np.array(vectors, dtype=np.int64).reshape(-1, size)
    place = 0
    for count in group.counts if ordered else ():
        for left in range(place, place + count - 1):
            shares = shares[shares[:, left] >= shares[:, left + 1]]
        place += count
    # Balanced vectors first: they beat most of the others, which makes the filter below quick.
    return shares[np.argsort(shares.max(axis=1), kind="stable")]


class _Held(NamedTuple):
    """What a group holds: share vectors of layer ranges, and how they are run."""

    group: Group
    shares: Ints
    first: Ints
    stop: Ints
    micro_batches: int
    token_groups: int
    hosts: bool
    recomputes: bool
    weights: Weights | None


class _Found(NamedTuple):
    """Columns of a group run in one way.

    Attributes
    ----------
    held
        What is left of the share vectors.
    sought
        Which of them, by range, may matter as far as time and energy go.
    enough
        Micro-batches in flight that fit without anything being paid for memory.
    parts
        The columns by all-reduce algorithm.
    """

    held: _Held
    sought: NDArray[np.bool_]
    enough: Floats
    parts: list[tuple[Algorithm, dict[str, NDArray[np.generic]]]]


class _Builder:
    """Columns of one group at a time, all layer ranges and share vectors at once."""

    def __init__(self, problem: Problem, screen: Screen, beaten: bool) -> None:
        self.workload, self.cluster, self.table = problem.workload, problem.cluster, problem.table
        self.problem, self.screen, self.beaten = problem, screen, beaten
        self.network = problem.network
        self.memory = MemoryModel(self.workload)
        self.layers = len(self.workload.layers)
        self.element = self.workload.bytes_per_element
        ranges = [(i, j) for i in range(self.layers) for j in range(i + 1, self.layers + 1)]
        self.first, self.stop = (np.array(side, dtype=np.int64) for side in zip(*ranges, strict=True))
        self.forward_until = _until_cut(self.table.forward_s)
        self.backward_until = _until_cut(self.table.backward_s)
        int8 = self.table.int8
        self.int8_until = None if int8 is None else _until_cut(int8.forward_s)
        self.int8_token_until = None if int8 is None or int8.token_s is None else _until_cut(int8.token_s)
        # A layer that is run again is so right before its own backward pass; the last layer of all is not.
        again_s = self.table.forward_s * (np.arange(self.layers) < self.layers - 1)[:, None, None]
        self.recomputation = problem.space.recomputation and self.workload.trains
        self.again_until = self.backward_until + _until_cut(again_s) if self.recomputation else self.backward_until
        self.step_until = _until_cut(self.table.step_s)
        self.token_until = None if self.table.token_s is None else _until_cut(self.table.token_s)
        inner = [self.workload.cut_bytes(cut) for cut in range(1, self.layers)]
        self.cut_bytes = np.array([0.0, *inner, 0.0])  # nothing crosses the two ends
        self.directions = 2 if self.workload.trains else 1
        self.resources = self.network.contended

    def columns(
        self, micro_batch: int, token_groups: int, group: Group, hosts: bool, *, skip_empty: bool
    ) -> Iterator[tuple[tuple[Algorithm, bool, Weights | None], dict[str, NDArray[np.generic]], Ints]]:
        """Columns of one group by algorithm and way to run them, and the share vectors that their ``choice`` counts.

        With ``skip_empty`` nothing comes of a group that is in no column.
        """
        eligible = self._may_matter(micro_batch, token_groups, group)
        if hosts:
            eligible &= (self.stop == self.layers) & (self.first >= 2)  # at least one stage is left between the ends
        first, stop = self.first[eligible], self.stop[eligible]
        shares = np.zeros((0, len(group.devices)), dtype=np.int64)
        if skip_empty and not len(first):
            return
        if len(first):
            shares = _share_vectors(group, micro_batch, ordered=self._is_separable(group))
        micro_batches = self.workload.batch // micro_batch
        whole = _Held(group, shares, first, stop, micro_batches, token_groups, hosts, recomputes=False, weights=None)
        sought, least = np.ones((len(shares), len(first)), dtype=bool), np.ones((len(shares), len(first)))
        found = self._held_so(micro_batch, whole, sought, least, skip_empty=skip_empty)
        for algorithm, part in found.parts:
            yield (algorithm, False, None), part, found.held.shares
        if self.recomputation:
            deeper = found.sought & (found.enough < self._deepest(group, stop, micro_batches))
            again = found.held._replace(recomputes=True)
            recomputed = self._held_so(micro_batch, again, deeper, 1 + found.enough, skip_empty=True)
            for algorithm, part in recomputed.parts:
                yield (algorithm, True, None), part, recomputed.held.shares
        if self.int8_until is not None:
            smaller = self._held_so(
                micro_batch, whole._replace(weights="int8"), self._gains(whole), least, skip_empty=True
            )
            for algorithm, part in smaller.parts:
                yield (algorithm, False, "int8"), part, smaller.held.shares

    def _held_so(
        self, micro_batch: int, held: _Held, sought: NDArray[np.bool_], least: Floats, *, skip_empty: bool
    ) -> _Found:
        """Columns of share vectors and ranges that are sought, each from so many micro-batches in flight on."""
        figures = self._compute(held)
        both_s = figures["forward_s"] + figures["backward_s"]
        dynamic_j, decode_s = figures["compute_j"], figures["decode_s"]
        place = micro_batch, held.token_groups, held.group.code, held.first, held.stop
        kept = sought & self.screen(*place, both_s, decode_s, dynamic_j)
        rows = np.asarray(kept.any(axis=1))  # share vectors that no range needs are not looked at again
        held, kept, least = held._replace(shares=held.shares[rows]), kept[rows], least[rows]
        if skip_empty and not rows.any():
            return _Found(held, kept, least, [])
        figures = {name: values[rows] if len(values) == len(rows) else values for name, values in figures.items()}
        figures["least_in_flight"] = least
        figures["most_in_flight"] = self._most_in_flight(held, self.problem.terms.most_bytes)
        figures |= self._over_bytes(held)
        figures |= self._network(held)
        if self.workload.generates:
            figures = self._without_outputs(figures, held.micro_batches)
        fitting = kept & (figures["most_in_flight"] >= least)
        parts = list(self._by_algorithm(micro_batch, held, figures, fitting))
        return _Found(held, kept, self._enough(held, figures["most_in_flight"]), parts)

    def _enough(self, held: _Held, most_in_flight: Floats) -> Floats:
        """Micro-batches in flight that fit without anything being paid for memory."""
        if np.isinf(self.problem.terms.room_bytes).all():
            return most_in_flight
        room_bytes = np.minimum(self.problem.terms.most_bytes, self.problem.terms.room_bytes)
        return self._most_in_flight(held, room_bytes)

    def _gains(self, whole: _Held) -> NDArray[np.bool_]:
        """Where weights in 8 bits make a stage faster or thriftier, or make it fit."""
        ours, theirs = self._compute(whole._replace(weights="int8")), self._compute(whole)
        fits = self._enough(whole, self._most_in_flight(whole, self.problem.terms.most_bytes))
        gains = fits < 1
        drawn = [name for name in theirs if name.startswith("battery_j ")]
        for name in ("forward_s", "decode_s", "compute_j", *drawn):
            gains = gains | (ours[name] < theirs[name] * (1 - _ROUNDING))
        gains = gains | (ours["cap_s"] > theirs["cap_s"])
        return np.asarray(gains)

    def _deepest(self, group: Group, stop: Ints, micro_batches: int) -> Ints:
        """Most micro-batches that a stage can be asked to hold, given how many stages there may be behind it."""
        behind = np.minimum(self.layers - stop, len(self.cluster.devices) - len(group.devices))
        return np.asarray(np.minimum(micro_batches, 1 + max(self.problem.space.in_flight_depths) * behind))

    def _by_algorithm(
        self, micro_batch: int, held: _Held, figures: dict[str, Floats], kept: NDArray[np.bool_]
    ) -> Iterator[tuple[Algorithm, dict[str, NDArray[np.generic]]]]:
        """The columns of every all-reduce algorithm."""
        shortest_tail_s: Floats | None = None
        for algorithm, own in self._sums(held, figures["backward_s"]).items():
            useful = kept
            if shortest_tail_s is not None and self.network.single is not None:
                # The first holds the network least; another is worth a look only where it ends sooner.
                useful = kept & (own["sum_tail_s"] < shortest_tail_s)
            shortest_tail_s = own["sum_tail_s"]
            yield algorithm, self._part(micro_batch, held, figures | own, useful)

    def _part(
        self,
        micro_batch: int,
        held: _Held,
        figures: dict[str, Floats],
        candidates: NDArray[np.bool_],
    ) -> dict[str, NDArray[np.generic]]:
        """The columns of one algorithm that none other matches or beats, as they go into :class:`Columns`."""
        figures, group = dict(figures), held.group
        figures["energy_j"] = figures.pop("compute_j") + figures.pop("network_j") + figures.pop("sum_j")
        figures["port_s"] = figures["port_s"] + figures.pop("sum_port_s")
        compared = self._is_separable(group) and not self.beaten
        kept = _not_dominated(figures, candidates) if compared else candidates
        choice, place = np.nonzero(kept)
        part: dict[str, NDArray[np.generic]] = {
            name: np.broadcast_to(values, (*kept.shape, *values.shape[2:]))[kept]
            for name, values in figures.items()
            if not name.startswith(_TELLING)
        }
        for name in ("least_in_flight", "most_in_flight"):
            part[name] = part[name].astype(np.int64)
        for name in ("battery_j", "over_bytes"):
            numbered = [part.pop(each) for each in figures if each.startswith(f"{name} ")]
            part[name] = np.stack(numbered, axis=1) if numbered else np.zeros((len(choice), 0))
        part |= {
            "micro_batch": np.full(len(choice), micro_batch),
            "token_groups": np.full(len(choice), held.token_groups),
            "first": held.first[place],
            "stop": held.stop[place],
            "hosts": np.full(len(choice), held.hosts),
            "choice": choice,
            "code": np.full(len(choice), group.code),
            "idle_w": np.full(len(choice), sum(self.cluster.devices[d].idle_w for d in group.devices)),
        }
        return part

    def _is_separable(self, group: Group) -> bool:
        """Whether what a hand-over costs is a part of the group's own and a part of its partner's.

        Then the order of replicas does not matter, and share vectors can be compared by their own figures. It is so
        for devices of one domain, which reach all others in the same way, unless each pair has a link of its own.
        """
        ids = [self.cluster.devices[d].id for d in group.devices]
        if len(ids) == 1:
            return True
        return len({self.network.home(name).id for name in ids}) == 1 and bool(self.network.own_hops(ids[0]))

    def _may_matter(self, micro_batch: int, token_groups: int, group: Group) -> NDArray[np.bool_]:
        """Layer ranges that may matter on a group, however samples are shared out on it."""
        if self.screen is _everything:
            return np.ones(len(self.first), dtype=bool)
        rest, group_only = self.problem.completion, self.problem.fleet.codes - 1 - group.code
        first, stop = self.first, self.stop
        both_s = micro_batch * (rest.path_s[group_only, stop] - rest.path_s[group_only, first])
        energy_j = self.workload.batch * (rest.energy_j[group_only, stop] - rest.energy_j[group_only, first])
        own_s = rest.decode_s[token_groups]
        decode_s = own_s[group_only, stop] - own_s[group_only, first]
        return self.screen(micro_batch, token_groups, group.code, first, stop, both_s, decode_s, energy_j)

    def _compute(self, held: _Held) -> dict[str, Floats]:
        group, shares, first, stop, micro_batches, token_groups, hosts, recomputes, weights = held
        forward_until = self.forward_until if weights is None else self.int8_until
        assert forward_until is not None, "weights in 8 bits are sought where their times are known"
        backward_until = self.again_until if recomputes else self.backward_until
        shape = (len(shares), len(first))
        forward, backward, step, decode, energy = (np.zeros(shape) for _ in range(5))
        host_forward, host_backward = np.zeros((len(shares), 1)), np.zeros((len(shares), 1))
        terms = self.problem.terms
        cap = np.full((1, 1), np.inf)
        batteries = {f"battery_j {d}": np.zeros((1, 1)) for d in terms.priced}
        for place, d in enumerate(group.devices):
            device, samples = self.cluster.devices[d], shares[:, place]
            own_forward = (forward_until[stop, d][:, samples] - forward_until[first, d][:, samples]).T
            own_backward = (backward_until[stop, d][:, samples] - backward_until[first, d][:, samples]).T
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
            own_decode = self._decode_s(d, micro_batches // token_groups * samples, first, stop, weights)
            decode = np.maximum(decode, own_decode)
            own_j = (micro_batches * busy + own_step + token_groups * own_decode) * (device.active_w - device.idle_w)
            energy += own_j
            if np.isfinite(terms.battery_j[d]):
                cap = np.minimum(cap, terms.cap_s(d, own_j, device.idle_w))
            if d in terms.priced:
                batteries[f"battery_j {d}"] = own_j
        return {
            "forward_s": forward,
            "backward_s": backward,
            "step_s": step,
            "host_forward_s": host_forward,
            "host_backward_s": host_backward,
            "decode_s": decode,
            "steps_s": token_groups * decode,
            "compute_j": energy,
            "cap_s": cap,
            **batteries,
        }

    def _decode_s(self, device: int, samples: Ints, first: Ints, stop: Ints, weights: Weights | None) -> Floats:
        """Seconds of all steps after the first token on one device, shape (share vectors, ranges) or (1, 1)."""
        token_until = self.token_until if weights is None else self.int8_token_until
        if token_until is None:
            return np.zeros((1, 1))
        until_s = token_until[:, device]
        return np.asarray(self.workload.decode_steps * (until_s[stop][:, samples] - until_s[first][:, samples]).T)

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

    def _network(self, held: _Held) -> dict[str, Floats]:
        """Figures of the transfers the stage takes part in, each (shares or 1, ranges or 1), or that by resource."""
        group, shares, first, stop, micro_batches, token_groups, hosts, *_ = held
        none = np.zeros((1, 1))
        figures = dict.fromkeys(_TRANSFERS, none) | dict.fromkeys(_AIRTIMES, np.zeros((1, 1, len(self.resources))))
        if not self.cluster.domains:
            return figures
        ids = [self.cluster.devices[d].id for d in group.devices]
        per_byte = np.array([1.0 / self.network.rate(name) for name in ids])
        parts = shares * per_byte  # seconds for one byte per sample
        media = [self.network.medium(name) for name in ids]
        taking_turns = [parts[:, [each == medium for each in media]].sum(axis=1) for medium in dict.fromkeys(media)]
        airtime = np.maximum.reduce(taking_turns)[:, None]
        entering, leaving = self.cut_bytes[first][None], self.cut_bytes[stop][None]
        batch = self.workload.batch
        network_bytes = self.directions * batch * leaving
        figures |= {"receive_s": airtime * entering, "send_s": airtime * leaving}
        if hosts:
            figures["host_send_s"] = airtime * self.cut_bytes[1]
            network_bytes = network_bytes + self.directions * batch * self.cut_bytes[1]
        figures |= self._ends(ids, shares, first, stop, hosts) | self._directions(ids, shares)
        if not self.network.one_medium:
            both = entering + leaving if self.workload.trains else np.maximum(entering, leaving)
            figures["port_s"] = micro_batches * airtime * both
        if self.workload.generates:
            tokens, sent_bytes = self._tokens(airtime, first, stop, micro_batches // token_groups)
            figures |= tokens
            network_bytes = network_bytes + sent_bytes
        ends_j = [figures.pop(f"{end}_j", none) for end in ("input", "label", "output")]
        figures["network_j"] = self.problem.byte_j * network_bytes + micro_batches * sum(ends_j)
        return figures

    def _tokens(self, airtime: Floats, first: Ints, stop: Ints, batches: int) -> tuple[dict[str, Floats], Floats]:
        """What follows the prompt's passes: a stage's part of a group's airtime, and the bytes it sends of all."""
        workload = self.workload
        ends = float(INTEGER_BYTES)
        token_bytes = np.array([ends, *(workload.token_bytes(cut) for cut in range(1, self.layers)), ends])
        times = workload.decode_steps * ~self._is_whole(first, stop)
        entering, leaving = times * token_bytes[first], times * token_bytes[stop]
        figures = {"token_receive_s": batches * airtime * entering, "token_send_s": batches * airtime * leaving}
        return figures, workload.batch * leaving

    def _without_outputs(self, figures: dict[str, Floats], batches: int) -> dict[str, Floats]:
        """The figures with all that was generated leaving together, after the last step."""
        hold_s, trip_s = figures["output_s"], figures["output_trip_s"]
        left_s = figures["decode_s"] + np.where(trip_s > 0, batches * hold_s + (trip_s - hold_s), 0.0)
        none = np.zeros((1, 1))
        outputs = {"output_s": none, "output_trip_s": none, "output_air_s": np.zeros((1, 1, len(self.resources)))}
        return figures | outputs | {"decode_s": left_s}

    def _directions(self, ids: Sequence[str], shares: Ints) -> dict[str, Floats]:
        """What tells share vectors apart in a cell, where sending and receiving take unlike times."""
        if any(self.network.home(name).kind != "cell" for name in ids):
            return {}
        hops = [self.network.own_hops(name) for name in ids]
        per_byte = 1.0 / np.array([[hop.bytes_per_s for hop in pair] for pair in hops])
        return {f"{_TELLING}{way}": (shares @ per_byte[:, way])[:, None] for way in range(2)}

    def _air(self, holds: Sequence[Hold]) -> Floats:
        """Seconds that transfers hold each contended resource, shape (transfers, 1, resources)."""
        by_resource = [[hold.seconds.get(name, 0.0) for name in self.resources] for hold in holds]
        return np.array(by_resource).reshape(len(holds), 1, len(self.resources))

    def _ends(self, ids: Sequence[str], shares: Ints, first: Ints, stop: Ints, hosts: bool) -> dict[str, Floats]:
        """Transfers from the source and to the sink, for stages that may be first or last."""
        figures: dict[str, Floats] = {}
        workload = self.workload
        is_first = np.full(len(first), hosts) | (first == 0)
        is_last = stop == self.layers

        def add(end: str, where: NDArray[np.bool_], holds: list[Hold]) -> None:
            longest = [max(hold.seconds.values(), default=0.0) for hold in holds]
            figures[f"{end}_s"] = np.array(longest)[:, None] * where
            figures[f"{end}_trip_s"] = np.array([hold.duration_s for hold in holds])[:, None] * where
            figures[f"{end}_j"] = np.array([hold.energy_j for hold in holds])[:, None] * where
            name = "input_air_s" if end == "input" else "output_air_s"
            figures[name] = figures.get(name, 0.0) + self._air(holds) * where[:, None]

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
            holds = [self.network.fan_in(sized(row, size), workload.sink) for row in shares]
            add("output", is_last, holds)
        return figures

    def _sums(self, held: _Held, backward_s: Floats) -> dict[Algorithm, dict[str, Floats]]:
        """Sums of gradients by all-reduce algorithm, the one that holds the medium least first."""
        group, first, stop, hosts = held.group, held.first, held.stop, held.hosts
        none = np.zeros((1, len(first)))
        figures = dict.fromkeys(_SUMS, none) | {"sum_air_s": np.zeros((1, len(first), len(self.resources)))}
        if not self.cluster.domains or not self.workload.trains:
            return {"star": figures}
        ids = [self.cluster.devices[d].id for d in group.devices]
        leader = ids[0] if len(ids) == 1 else self.network.best_leader(ids)
        if self.workload.tied_parameters and not hosts:
            synchronised = (((first == 0) | (stop == self.layers)) & ~self._is_whole(first, stop))[None]
            figures |= self._tied_sums(ids, leader, synchronised)
        if len(ids) == 1:
            return {"star": figures}
        cuts, filled_s = self._buckets(held, backward_s)
        sizes = self.element * (
            self.memory.gradient_parameters(first, stop, hosts)[:, None]
            if cuts.shape[1] == 2
            else bucket_parameters(self.workload, cuts)
        )
        by_algorithm = {}
        for algorithm in self.network.all_reduce_algorithms:
            per_byte = self.network.all_reduce(ids, 1.0, AllReduce(algorithm=algorithm, leader=leader))
            own = self._all_reduce(per_byte, sizes, filled_s, backward_s)
            own["sum_j"] = figures["sum_j"] + per_byte.energy_j * sizes.sum(axis=1)[None]
            used = np.array([name in per_byte.seconds for name in self.resources])
            own["sum_air_s"] = figures["sum_air_s"] + own["sum_hold_s"][:, :, None] * used
            # With links of its own to every other, a device may sum over other links than it hands over.
            by_pair = any(not self.network.own_hops(name) for name in ids)
            own["sum_port_s"] = none if self.network.one_medium or by_pair else own["sum_hold_s"]
            filled = {f"{_TELLING}filled_{k}": each for k, each in enumerate(filled_s)}
            by_algorithm[algorithm] = figures | own | filled
        return by_algorithm

    def _buckets(self, held: _Held, backward_s: Floats) -> tuple[Ints, list[Floats]]:
        """Where buckets begin and end, shape (ranges, buckets + 1), and how far into a backward pass each is full."""
        shares, first, stop = held.shares, held.first, held.stop
        until_s = self.again_until if held.recomputes else self.backward_until
        most = bucket_count(0, self.layers, hosts_first_layer=held.hosts, overlap=self.problem.overlap)
        if most == 1:
            return np.stack([stop, first], axis=1), [backward_s]
        cuts = bucket_cuts(self.workload, first, stop, np.minimum(most, stop - first))
        filled_s = []
        for cut in cuts[:, 1:-1].T:
            slowest_s = np.zeros((len(shares), len(first)))
            for place, d in enumerate(held.group.devices):
                samples = shares[:, place]
                passed_s = (until_s[stop, d][:, samples] - until_s[cut, d][:, samples]).T
                slowest_s = np.maximum(slowest_s, passed_s)
            filled_s.append(slowest_s)
        return cuts, [*filled_s, backward_s]

    def _all_reduce(
        self, per_byte: Hold, sizes: Floats, filled_s: list[Floats], backward_s: Floats
    ) -> dict[str, Floats]:
        """What summing buckets of so many bytes, each as soon as it is full, takes at least."""
        byte_s = max(per_byte.seconds.values())
        latency_s = per_byte.duration_s - byte_s
        held_until_s, over_s = np.zeros_like(backward_s), backward_s
        for size, full_s in zip(sizes.T, filled_s, strict=True):
            held_until_s = np.maximum(held_until_s, full_s) + byte_s * size[None]
            over_s = np.where(size > 0, np.maximum(over_s, held_until_s + latency_s), over_s)
        left_s = np.maximum(held_until_s - backward_s, 0.0)
        return {"sum_hold_s": byte_s * sizes.sum(axis=1)[None], "sum_left_s": left_s, "sum_tail_s": over_s - backward_s}

    def _tied_sums(self, ids: Sequence[str], leader: str, synchronised: NDArray[np.bool_]) -> dict[str, Floats]:
        """The stage's part in summing tied gradients, where it holds one of the two copies."""
        copies = synchronised.astype(np.float64)
        tied_bytes = float(self.workload.tied_parameters * self.element)
        everyone = dict.fromkeys(ids, tied_bytes)
        gather, spread = self.network.fan_in(everyone, leader), self.network.fan_out(leader, everyone)
        # The leader sends its gradient and receives the other's: one after the other on a shared medium.
        turns = 2 if self.network.home(leader).kind == "shared" else 1
        part_s = turns * tied_bytes / self.network.rate(leader)
        hops = self.network.own_hops(leader)
        part_air_s = [sum(tied_bytes / hop.bytes_per_s for hop in hops if hop.resource == r) for r in self.resources]
        return {
            "tied_gather_s": max(gather.seconds.values(), default=0.0) * copies,
            "tied_part_s": part_s * copies,
            "tied_spread_s": max(spread.seconds.values(), default=0.0) * copies,
            "sum_air_s": (self._air([gather]) + self._air([spread]) + np.array(part_air_s)) * copies[:, :, None],
            "sum_j": (gather.energy_j + spread.energy_j + self.problem.byte_j * tied_bytes) * copies,
        }

    def _most_in_flight(self, held: _Held, most_bytes: Floats) -> Floats:
        """Micro-batches in flight that fit into so many bytes of each device."""
        fits = np.full((len(held.shares), len(held.first)), float(held.micro_batches))
        for place, d in enumerate(held.group.devices):
            needed = [self._replica_bytes(held, place, count) for count in (1, 2)]
            room = most_bytes[d] - needed[0]
            per_extra = needed[1] - needed[0]
            extra = np.divide(room, per_extra, out=np.full_like(room, np.inf), where=per_extra > 0)
            fits = np.where(room < 0, 0.0, np.minimum(fits, 1 + np.floor(extra + 1e-9)))
        return fits

    def _replica_bytes(self, held: _Held, place: int, in_flight: int) -> Floats:
        """Bytes that one of the replicas needs, shape (share vectors, ranges)."""
        return self.memory.replica_bytes(
            held.first[None],
            held.stop[None],
            samples=held.shares[:, place, None].astype(float),
            in_flight=in_flight,
            micro_batches=held.micro_batches,
            replicated=len(held.group.devices) > 1,
            hosts_first_layer=held.hosts,
            recomputes=held.recomputes,
            weights=held.weights,
        )

    def _over_bytes(self, held: _Held) -> dict[str, Floats]:
        """Bytes beyond the priced headroom, one figure for every in-flight count."""
        room_bytes = self.problem.terms.room_bytes
        if np.isinf(room_bytes).all():
            return {"over_bytes 1": np.zeros((1, 1))}
        deepest = 1 + max(self.problem.space.in_flight_depths) * (len(self.cluster.devices) - 1)
        figures = {}
        for count in range(1, (min(self.workload.batch, deepest) if self.workload.trains else 1) + 1):
            over = np.zeros((len(held.shares), len(held.first)))
            for place, d in enumerate(held.group.devices):
                over += np.maximum(self._replica_bytes(held, place, count) - room_bytes[d], 0.0)
            figures[f"over_bytes {count}"] = over
        return figures


#: Relative difference below which two sums of seconds or joules are one.
_ROUNDING = 1e-9

#: Longer than any makespan.
_LONGEST_S = 1e300

#: Figures of the transfers a stage takes part in.
_TRANSFERS = (
    *("receive_s", "send_s", "host_send_s", "input_s", "label_s", "output_s", "token_receive_s", "token_send_s"),
    *("input_trip_s", "label_trip_s", "output_trip_s", "port_s", "network_j"),
)

#: Figures of the sums of gradients.
_SUMS = (
    *("sum_hold_s", "sum_left_s", "sum_tail_s", "tied_gather_s", "tied_part_s", "tied_spread_s"),
    *("sum_port_s", "sum_j"),
)

#: Figures by contended resource.
_AIRTIMES = ("input_air_s", "output_air_s", "sum_air_s")

#: Prefix of figures that tell share vectors apart and that columns do not carry: when a bucket is full, for example.
_TELLING = "telling_"

#: Figures that depend on how samples are shared out; a vector no better in any of them is never needed. Those that
#: tell most pairs of vectors apart come first.
_SHARED_OUT = (
    *("sum_left_s", "energy_j", "receive_s", "forward_s", "send_s", "backward_s"),
    *("host_forward_s", "host_backward_s", "host_send_s", "input_s", "label_s", "output_s", "port_s", "sum_tail_s"),
    *("decode_s", "steps_s", "token_receive_s", "token_send_s"),
)

#: So many of them are compared for all pairs; few pairs are left after that.
_COMPARED_AT_ONCE = 3


def _not_dominated(figures: dict[str, Floats], candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which candidate (share vector, layer range) pairs no earlier-kept vector matches or beats in every figure."""
    shape = candidates.shape
    # Figures that are the same for every share vector cannot tell two apart.
    also = (name for name in figures if name.startswith((_TELLING, "battery_j ", "over_bytes ")))
    names = [name for name in (*_SHARED_OUT, *also) if figures[name].shape[0] == shape[0]]
    telling = [np.broadcast_to(figures[name], shape) for name in names]
    for air_s in (figures[name] for name in _AIRTIMES if figures[name].shape[2] > 1):
        telling.extend(np.broadcast_to(each, shape) for each in np.moveaxis(air_s, 2, 0) if each.shape[0] == shape[0])
    telling.append(-figures["most_in_flight"])
    if figures["cap_s"].shape == shape:
        telling.append(-np.clip(figures["cap_s"], -_LONGEST_S, _LONGEST_S))  # infinities cannot be compared below
    kept = np.zeros(shape, dtype=bool)
    rows: list[int] = []
    for row in range(shape[0]):
        open_ranges = candidates[row]
        if rows:
            beaten = kept[rows] & open_ranges
            for values in telling[:_COMPARED_AT_ONCE]:
                beaten &= values[rows] <= values[row] + 1e-12 * np.abs(values[row])
            before, *place = np.nonzero(beaten)
            earlier = np.array(rows)[before]
            for values in telling[_COMPARED_AT_ONCE:]:
                own = values[(row, *place)]
                beats = values[(earlier, *place)] <= own + 1e-12 * np.abs(own)
                earlier, place = earlier[beats], [each[beats] for each in place]
            open_ranges = open_ranges.copy()
            open_ranges[tuple(place)] = False
        if open_ranges.any():
            kept[row] = open_ranges
            rows.append(row)
    return kept


def _until_cut(by_layer: Floats) -> Floats:
    return np.concatenate([np.zeros((1, *by_layer.shape[1:])), np.cumsum(by_layer, axis=0)])

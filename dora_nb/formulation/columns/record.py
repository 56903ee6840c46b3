"""What a column is, and columns as arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.network import Network
from dora_nb.costs.table import Floats
from dora_nb.domain.plan import Algorithm, Weights
from dora_nb.formulation.fleet import Fleet, Group, Ints

#: One for all stages, or one for each.
Counts = int | Ints


class Considered(NamedTuple):
    """Stages that are asked about, in arrays of one entry per stage, or of one per share vector and stage.

    Attributes
    ----------
    micro_batch, token_groups, code
        Samples of a micro-batch, groups that tokens are generated in, and the devices' code.
    first, stop
        Layers.
    both_s, decode_s, energy_j
        Seconds of a micro-batch both ways, and of the steps after the first token; joules above idling.
    """

    micro_batch: Counts
    token_groups: Counts
    code: Ints
    first: Ints
    stop: Ints
    both_s: Floats
    decode_s: Floats
    energy_j: Floats


#: Which stages may still matter.
Screen = Callable[[Considered], NDArray[np.bool_]]


class Choice(NamedTuple):
    """Who runs a stage, and how.

    Attributes
    ----------
    group
        Its devices.
    shares
        Samples of each, in the order of the group's devices; or, where layers are sliced, parts of each.
    algorithm
        How they sum gradients, or the outputs of their shards; ``star`` too where there is nothing to sum.
    recomputes
        Whether they run layers forward again before their backward pass.
    weights
        In what they hold them, see :attr:`~dora_nb.domain.plan.Stage.weights`.
    sliced
        Where each holds shards of the layers (:attr:`~dora_nb.domain.plan.Stage.shards`): the samples of a micro-batch,
        all of which it takes. 0 elsewhere.
    """

    group: Group
    shares: tuple[int, ...]
    algorithm: Algorithm
    recomputes: bool = False
    weights: Weights | None = None
    sliced: int = 0


def leader_first(network: Network, ids: Sequence[str]) -> list[int]:
    """Places of a group's devices in the order of a stage with shards: the best-connected, then the others."""
    leader = list(ids).index(network.best_leader(ids))
    return [leader, *(place for place in range(len(ids)) if place != leader)]


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
    copies
        How many devices of the stage each need all that enters: those that hold shards; 1 where they take samples.
    forward_s, backward_s
        Seconds of one micro-batch on the slowest replica; of shards, with the sums behind it.
    step_s
        Seconds of the optimizer step on the slowest replica.
    receive_s, send_s
        Seconds that a micro-batch across the stage's first and its last cut, in either direction, holds the resource
        that the stage's devices share, or the busiest of those they have each. On one medium or switch it is exact;
        elsewhere transfers hold other resources as well, see :mod:`~dora_nb.formulation.hand_overs`. Of a stage with
        shards in training both are what its leader takes, which is the less of the two directions: all devices need
        what enters, in either one.
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
        Seconds of all groups' steps after the first token on the slowest replica; sums of shards count in both.
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
    copies: Ints
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
        """The columns at some places, or where a mask is true."""
        if chosen.dtype == np.bool_:
            if chosen.all():
                return self
            chosen = np.flatnonzero(chosen)
        arrays = {}
        for field in fields(self):
            values = getattr(self, field.name)
            if isinstance(values, np.ndarray):
                arrays[field.name] = values.take(chosen, axis=0)
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

    def key(self, column: int) -> tuple[object, ...]:
        """What tells a column from others of the same problem."""
        group, shares, *how = self.choices[self.choice[column]]
        place = int(self.micro_batch[column]), int(self.first[column]), int(self.stop[column])
        return (*place, bool(self.hosts[column]), group.code, shares, int(self.token_groups[column]), *how)

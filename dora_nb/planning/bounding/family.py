"""The stage columns of one micro-batch size and one number of groups, and what hand-overs between them take."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.domain.architecture import INTEGER_BYTES
from dora_nb.formulation.columns import Columns
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.hand_overs import HandOver, HandOvers
from dora_nb.formulation.problem import Problem


@dataclass(frozen=True)
class Family:
    """Columns of one micro-batch size, and one number of groups while tokens are generated.

    Attributes
    ----------
    problem, columns, micro_batch, token_groups
        What is planned, and with which columns of how many samples and groups.
    hand_overs
        What a hand-over takes between choices, where that depends on both; None where it is a part of each one's own.
    """

    problem: Problem
    columns: Columns
    micro_batch: int
    token_groups: int
    hand_overs: HandOvers | None

    @cached_property
    def micro_batches(self) -> int:
        """Micro-batches per iteration."""
        return self.columns.batch // self.micro_batch

    @cached_property
    def layers(self) -> int:
        """Layers of the network."""
        return len(self.problem.workload.layers)

    @cached_property
    def trains(self) -> bool:
        """Whether there are backward passes."""
        return self.problem.workload.trains

    @cached_property
    def tail_s(self) -> Floats:
        """Seconds after each column's last backward pass."""
        return self.columns.tail_s(self.problem.shared)

    @cached_property
    def cut_bytes(self) -> Floats:
        """Bytes of a sample across each cut; 0 before the first layer. Shape (layers,)."""
        return np.array([0.0, *(self.problem.workload.cut_bytes(cut) for cut in range(1, self.layers))])

    @cached_property
    def _token_bytes(self) -> Floats:
        """Bytes of a sample's token across each cut; across the last one the tokens chosen go back."""
        inner = (self.problem.workload.token_bytes(cut) for cut in range(1, self.layers))
        return np.array([0.0, *inner, float(INTEGER_BYTES)])

    def token_s(self, ahead: Ints, behind: Ints) -> Floats:
        """Seconds of the hand-overs of one group between two columns in all steps after the first token."""
        c, steps = self.columns, self.problem.workload.decode_steps
        if not steps:
            return np.zeros(len(ahead))
        if self.hand_overs is not None:
            moved_bytes = self.micro_batches // self.token_groups * self._token_bytes[c.stop[ahead]]
            return steps * self.hand_overs.between(c.choice[ahead], c.choice[behind], moved_bytes).there_s
        send_s = self._to_all(c.token_send_s[ahead], behind)
        return self.hold_s(send_s, c.token_receive_s[behind]) + steps * self.problem.message_s

    def token_air_s(self, ahead: Ints, behind: Ints) -> Floats:
        """Airtime of all groups' hand-overs between two columns, on one shared medium; 0 elsewhere."""
        c = self.columns
        held_s = self.token_groups * (self._to_all(c.token_send_s[ahead], behind) + c.token_receive_s[behind])
        return held_s if self.problem.shared and self.hand_overs is None else np.zeros(len(ahead))

    def move(self, ahead: Ints, behind: Ints, *, hosted: bool = False) -> HandOver:
        """Hand-overs of a micro-batch between columns, or from a hosted first layer to columns."""
        c = self.columns
        if self.hand_overs is not None:
            entering = self.cut_bytes[c.first[behind]]
            return self.hand_overs.between(c.choice[ahead], c.choice[behind], entering)
        send_s = self._to_all((c.host_send_s if hosted else c.send_s)[ahead], behind)
        hold_s = self.hold_s(send_s, c.receive_s[behind])
        transfer_s = hold_s + self.problem.message_s
        return HandOver(transfer_s, transfer_s, self.one_medium_s(hold_s), np.zeros_like(hold_s))

    def _to_all(self, send_s: Floats, behind: Ints) -> Floats:
        """Seconds of sending to columns each of whose devices may need all of it, given those of sending it once."""
        if self.problem.space.shards == 1 or self.trains:  # in training less is counted, see Columns.receive_s
            return send_s
        return send_s * self.columns.copies[behind]

    def one_medium_s(self, hold_s: Floats) -> Floats:
        """Airtime of hand-overs, both directions in training: on a shared medium only, and none of a device alone."""
        directions = 2 if self.trains else 1
        resources = len(self.problem.network.contended)
        return directions * hold_s[:, None] if self.problem.shared else np.zeros((len(hold_s), resources))

    def hold_s(self, send_s: Floats, receive_s: Floats) -> Floats:
        """Seconds that a transfer holds its medium, or the busier of two ports."""
        return send_s + receive_s if self.problem.shared else np.maximum(send_s, receive_s)

"""One hand-over on the network, and when it is predicted to take place."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dora_nb.domain.record import Record

#: Pseudo-stage index of a first layer hosted by the last stage.
HOSTED = -1


TransferKind = Literal[
    "input",
    "label",
    "activation",
    "gradient",
    "output",
    "token",
    "all-reduce",
    "tied-reduce",
    "tied-exchange",
    "tied-broadcast",
    "shard-sum",
    "shard-gradient-sum",
    "shard-token-sum",
]


class Transfer(Record):
    """One hand-over on the network.

    Attributes
    ----------
    kind
        ``activation`` leaves ``stage`` for the next one, ``gradient`` comes back to ``stage`` from the next one;
        ``input`` and ``label`` reach ``stage`` from the source; ``output`` leaves it for the sink; ``token`` stands for
        all hand-overs after the prompt's, one token at a time (from the last stage: the tokens chosen, back to the
        first); ``shard-sum`` and ``shard-gradient-sum`` are all sums of a forward or a backward pass of ``stage`` over
        the devices that hold its shards, ``shard-token-sum`` those of all tokens after the prompt's; the others sum
        gradients at the end of an iteration.
    stage
        Index of the stage; :data:`HOSTED` for a hosted first layer.
    micro_batch
        Index of the micro-batch; 0 for the sums at the end.
    part
        Which chunk of a hand-over, or which bucket of an all-reduce, from 1; 0 if it travels whole.
    lag
        In a stream: how many requests have arrived since its own when it enters the network. 0 in other modes.
    """

    kind: TransferKind
    stage: int = Field(ge=HOSTED)
    micro_batch: int = Field(ge=0)
    part: int = Field(default=0, ge=0)
    lag: int = Field(default=0, ge=0)


class ScheduledTransfer(Record):
    """One transfer of the predicted schedule.

    Attributes
    ----------
    kind, stage, micro_batch, part
        As in :class:`Transfer`; of a ``token``, ``micro_batch`` is the step, or with several groups the round: all
        groups' first steps, then all their second ones.
    senders, receivers
        Devices at the two ends.
    media
        Media or ports that it holds.
    start_s, end_s
        From when until it has arrived, from the iteration's start.
    """

    kind: TransferKind
    stage: int
    micro_batch: int
    part: int
    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    media: tuple[str, ...]
    start_s: float
    end_s: float

    def __repr__(self) -> str:
        from dora_nb.render.briefly import transfer_text  # a method that looks up a room: imported when called

        return transfer_text(self)

    __str__ = __repr__

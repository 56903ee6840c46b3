"""What devices were predicted to do, and what they did, operation by operation."""

from __future__ import annotations

import operator
from typing import Literal

from pydantic import Field

from dora_nb.domain.record import Record
from dora_nb.domain.transfer import ScheduledTransfer

#: Step index of the events of the inference batch that precedes the training steps.
INFERENCE = -1

EventKind = Literal[
    "arrive",
    "receive",
    "forward",
    "send",
    "backward",
    "decode",
    "token-receive",
    "token-send",
    "shard-sum",
    "shard-gradient-sum",
    "shard-token-sum",
    "all-reduce",
    "tied-sum",
    "step",
]


class RunEvent(Record):
    """One instruction as one device carried it out. Measured.

    Attributes
    ----------
    device
        Who.
    kind
        What; a ``receive`` lasts as long as the device waited for it, a ``send`` only as long as handing it over. Those
        of a token are apart from those of the prompt's activations. An ``arrive`` waits for a request. Sums of
        gradients follow one another, beside what the device computes. The sums inside a pass of a stage with shards
        (``shard-sum`` and alike) are shown as one behind it, and the pass without them: both last as long as they did,
        though they took turns.
    stage
        Stage that computes; for hand-overs as in :class:`~dora_nb.domain.transfer.Transfer`.
    micro_batch
        Index of the micro-batch, in a stream counted on over all requests; 0 for the sums and the step at the end. Of
        what happens with a token, the step behind the first one.
    part
        Which bucket of gradients was summed, or which part of a backward pass filled it, from 1; 0: all at once.
    step
        Training step, from 0; :data:`INFERENCE` for the inference batch.
    start_s, end_s
        Seconds since that step (or the inference batch) began on the first device.
    """

    device: str
    kind: EventKind
    stage: int
    micro_batch: int
    step: int
    start_s: float
    end_s: float
    part: int = Field(default=0, ge=0, exclude_if=operator.not_)


class PredictedComputation(Record):
    """One computation as one device was predicted to carry it out.

    Attributes
    ----------
    device
        Who; every replica of a stage has its own, which begin together.
    kind, stage, micro_batch, part
        What; as in :class:`~dora_nb.domain.transfer.Transfer`, the parts being those of a backward pass that fill a
        bucket of gradients. Of a ``decode``, ``micro_batch`` is the step.
    start_s, end_s
        Seconds from the start of the iteration, or the batch.
    """

    device: str
    kind: Literal["forward", "backward", "step", "decode"]
    stage: int
    micro_batch: int
    part: int
    start_s: float
    end_s: float


class PredictedTimeline(Record):
    """An iteration, or a batch, as it was predicted before the run. Not changed since.

    Attributes
    ----------
    makespan_s
        First input to last output or step.
    computations
        Of every device, by start.
    transfers
        Each once, with the devices at its ends, by start.
    """

    makespan_s: float
    computations: tuple[PredictedComputation, ...]
    transfers: tuple[ScheduledTransfer, ...]

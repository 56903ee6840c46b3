"""What was predicted of a run, before it began, beside what was measured."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dora_nb.domain.record import Record

if TYPE_CHECKING:
    import pandas as pd


def relative_error(predicted: float, measured: float | None) -> float | None:
    """Measured over predicted, less 1; None where one of them is missing or nothing was predicted."""
    return None if measured is None or predicted <= 0 else measured / predicted - 1


class StepComparison(Record):
    """One training step, or the inference batch.

    Attributes
    ----------
    step
        From 0; :data:`~dora_nb.domain.run_timeline.INFERENCE` for the inference batch.
    predicted_s, measured_s
        Makespan; all training steps are predicted alike.
    """

    step: int
    predicted_s: float
    measured_s: float

    @property
    def error(self) -> float | None:
        """Relative."""
        return relative_error(self.predicted_s, self.measured_s)


class StageComparison(Record):
    """One kind of computation of one stage.

    Attributes
    ----------
    stage
        Index; :data:`~dora_nb.domain.transfer.HOSTED` for a hosted first layer.
    kind
        What is computed.
    devices
        The stage's.
    count
        Micro-batches of all steps that were measured.
    predicted_s, measured_s
        Of the slowest replica, which the others wait for: the median over micro-batches and steps.
    """

    stage: int
    kind: Literal["forward", "backward", "step", "decode"]
    devices: tuple[str, ...]
    count: int
    predicted_s: float
    measured_s: float

    @property
    def error(self) -> float | None:
        """Relative."""
        return relative_error(self.predicted_s, self.measured_s)


class TransferComparison(Record):
    """One kind of transfer at one boundary, or of one stage.

    Attributes
    ----------
    kind, stage
        As in :class:`~dora_nb.domain.transfer.Transfer`; ``tied-sum`` stands for all transfers that sum tied gradients.
    part
        Which bucket of gradients is summed, from 1; 0 for all that is not in buckets.
    count
        Transfers of all steps.
    waited
        For how many of them a receiver waited. Only of these is it known when they arrived; the others had arrived
        before their receiver turned to them.
    predicted_s, measured_s
        Median seconds from the sender's having it to the receiver's having it, waiting for the medium included; of
        sums, from when the last device had something to add and no other sum to end before it. ``measured_s`` is None
        where nobody waited.
    """

    kind: str
    stage: int
    count: int
    waited: int
    predicted_s: float
    measured_s: float | None
    part: int = Field(default=0, ge=0, exclude_if=operator.not_)

    @property
    def error(self) -> float | None:
        """Relative."""
        return relative_error(self.predicted_s, self.measured_s)


class DeviceComparison(Record):
    """How busy one device was.

    Attributes
    ----------
    device
        Which.
    predicted_busy, measured_busy
        Share of the makespan in which it computed: the median over steps. The rest is bubble.
    """

    device: str
    predicted_busy: float
    measured_busy: float


class Comparison(Record):
    """A run against its prediction, which was frozen before it began.

    Attributes
    ----------
    label
        The plan's.
    planned_s
        What the plan itself is predicted to take: the whole network, on the planned devices and network. None for a
        plan without a prediction.
    what
        What the other figures speak of.
    predicted_s, measured_s
        Makespan of the network that ran, where it ran; measured: the median over steps.
    emulation
        How unlike devices were imitated, in words.
    steps
        Each training step under the plan after the inference batch, or only that.
    stages, transfers, devices
        Part by part, of the training steps if there are any.
    """

    label: str
    planned_s: float | None
    what: Literal["training step", "inference batch", "generated batch", "stream"]
    predicted_s: float
    measured_s: float
    emulation: str
    steps: tuple[StepComparison, ...]
    stages: tuple[StageComparison, ...]
    transfers: tuple[TransferComparison, ...]
    devices: tuple[DeviceComparison, ...]

    @property
    def error(self) -> float | None:
        """Relative, of the makespan."""
        return relative_error(self.predicted_s, self.measured_s)

    def to_frame(self) -> pd.DataFrame:
        """One row a step, stage and kind, transfer, and device; shares of devices in columns of their own."""
        from dora_nb.render.comparison import comparison_frame  # a method that looks up a room: imported when called

        return comparison_frame(self)

    def __repr__(self) -> str:
        from dora_nb.render.comparison import comparison_text

        return comparison_text(self)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        from dora_nb.render.comparison import comparison_html

        return comparison_html(self)

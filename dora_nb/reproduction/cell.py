"""One figure of the comparison, with everything that says what it is a figure of."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dora_nb.domain.qoe import ROUNDING, EnergyAccounting
from dora_nb.domain.record import Record

#: What our own rows are called.
OURS = "dora_nb"

#: ``list-scheduled``: transfers in the order that scheduling them chose. ``fair-shared``: nobody schedules them, the
#: medium is shared fairly among those that are ready.
Transfers = Literal["list-scheduled", "fair-shared"]

#: The two headline modes: as fast as can be, or the least energy within the latency limit.
Headline = Literal["latency", "energy"]


class Cell(Record):
    """What one planner's plans come to in one setting, simulated.

    Attributes
    ----------
    deployment, model, mode
        The setting.
    batch, sequence, image_px, precision
        Of its workload; ``sequence`` in tokens for language models, ``image_px`` for vision models, else None.
    network
        The deployment's contention domains.
    dynamic
        Whether conditions change meanwhile.
    objective
        ``latency``: the fastest. ``energy``: the least energy within the latency limit.
    energy_accounting
        Whose energy counts, for the figure and for the choice of the plan.
    planner, transfers
        Who planned, and how transfers share the network.
    latency_limit_s
        The limit whose keeping ``qoe_kept`` counts, the same for all planners.
    makespan_s
        Of an iteration or batch; under dynamics, where one follows the other, the time that passed for each that was
        completed: waiting for devices, changes of plans and what was lost are in it. None: no plan, or nothing ended.
    energy_j
        Of an iteration or batch; under dynamics of the whole time, by what was completed.
    qoe_kept
        Share of the windows in which the mean latency keeps the limit; without dynamics 1 or 0.
    gap
        Proven relative gap to what any plan can reach; for our plans without dynamics only.
    note
        What a reader must know, such as why there is no plan.
    """

    deployment: str
    model: str
    mode: Literal["training", "inference"]
    batch: int
    sequence: int | None
    image_px: int | None
    precision: str
    network: str
    dynamic: bool
    objective: Headline
    energy_accounting: EnergyAccounting
    planner: str
    transfers: Transfers
    latency_limit_s: float
    makespan_s: float | None
    energy_j: float | None
    qoe_kept: float = Field(ge=0, le=1)
    gap: float | None = None
    note: str = ""

    @property
    def question(self) -> tuple[str, str, str, bool, Headline, EnergyAccounting]:
        """What tells the questions that planners are compared on apart."""
        return (self.deployment, self.model, self.mode, self.dynamic, self.objective, self.energy_accounting)

    @property
    def by(self) -> str:
        """The planner, with how its transfers share the network."""
        return f"{self.planner}, {self.transfers}"

    @property
    def value(self) -> float | None:
        """The figure that the objective is about."""
        return self.makespan_s if self.objective == "latency" else self.energy_j

    def comparable(self, ours: Cell) -> bool:
        """Whether it answers the question as well as ours: any plan that runs, or one that keeps as much QoE."""
        if self.value is None:
            return False
        return self.objective == "latency" or self.qoe_kept >= ours.qoe_kept - ROUNDING

    def not_worse(self, other: Cell, tolerance: float) -> bool:
        """Whether another planner's figure is not better: more QoE kept goes before less energy.

        Parameters
        ----------
        tolerance
            Relative difference that a gap explains.
        """
        if other.value is None:
            return True
        if self.value is None:
            return False
        if self.objective == "energy" and abs(self.qoe_kept - other.qoe_kept) > ROUNDING:
            return self.qoe_kept > other.qoe_kept
        return self.value <= other.value * (1 + tolerance)

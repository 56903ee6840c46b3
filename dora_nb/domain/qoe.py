"""Quality of experience: the limits to keep and what to optimise under them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dora_nb.domain.record import Record
from dora_nb.units import Joules, Seconds

Objective = Literal["latency", "energy"]
#: ``participating``: only the plan's devices draw power; ``all-on``: every device of the cluster idles meanwhile.
EnergyAccounting = Literal["participating", "all-on"]


class QoE(Record):
    """Limits and objective.

    Attributes
    ----------
    latency_s
        Longest makespan allowed of an iteration or batch; None: no limit. Text such as ``"80 ms"`` is accepted.
    energy_j
        Largest energy allowed of an iteration or batch, under ``energy_accounting``; None: no limit.
    objective
        What the best plan minimises within the limits.
    energy_accounting
        Whose energy counts; every reported figure names it.
    """

    latency_s: Seconds | None = Field(default=None, gt=0)
    energy_j: Joules | None = Field(default=None, gt=0)
    objective: Objective = "latency"
    energy_accounting: EnergyAccounting = "participating"

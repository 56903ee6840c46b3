"""Who decides which plan runs next, and what they get to know: the same for a simulated and for a real cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from dora_nb.domain.plan import Plan


@dataclass(frozen=True)
class StepReport:
    """What was measured of one iteration, batch or request.

    Attributes
    ----------
    plan
        Which plan ran.
    arrival_s, start_s, end_s
        When it was asked for, begun, and over or given up.
    lost_to
        The device that left, so that the step was given up; None if it was completed. Empty if nothing moved any more.
    energy_j
        What it took, under the accounting of the QoE.
    expected_s, measured_s
        By device and by contention domain: seconds that its work takes as planned, and those it took. What did
        nothing is left out.
    """

    plan: Plan
    arrival_s: float
    start_s: float
    end_s: float
    lost_to: str | None
    energy_j: float
    expected_s: Mapping[str, float]
    measured_s: Mapping[str, float]

    @property
    def completed(self) -> bool:
        """Whether it came to its end."""
        return self.lost_to is None

    @property
    def latency_s(self) -> float:
        """From the moment it was asked for to its end."""
        return self.end_s - self.arrival_s


class Controller(Protocol):
    """Chooses the plan of every step, at step boundaries only."""

    def next_plan(self, now_s: float, present: frozenset[str]) -> Plan | None:
        """The plan to run now; None to wait until something changes.

        Parameters
        ----------
        now_s
            Seconds since the start.
        present
            Devices that are there.
        """

    def observe(self, report: StepReport) -> None:
        """What came of the plan chosen last."""


@dataclass(frozen=True)
class Static:
    """Always the same plan; waits while one of its devices is away.

    Attributes
    ----------
    plan
        With a transfer order.
    """

    plan: Plan

    def next_plan(self, now_s: float, present: frozenset[str]) -> Plan | None:
        """The plan, if all of its devices are there."""
        del now_s
        return self.plan if present.issuperset(self.plan.devices) else None

    def observe(self, report: StepReport) -> None:
        """Nothing is learnt."""

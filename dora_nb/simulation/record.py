"""What happened in a simulation: every step, every window of the QoE, every change of plans, and what was lost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dora_nb.domain.controller import StepReport
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import ROUNDING, QoE
from dora_nb.units import counted, format_joules, format_seconds

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class PlanChange:
    """One change of plans.

    Attributes
    ----------
    at_s
        When it began.
    before, after
        The plans.
    size_bytes, duration_s, energy_j
        What it moved, took and drew.
    """

    at_s: float
    before: Plan
    after: Plan
    size_bytes: float
    duration_s: float
    energy_j: float


@dataclass(frozen=True)
class QoEWindow:
    """One window of the ledger: the steps that ended in it.

    Attributes
    ----------
    start_s, end_s
        Of the window.
    steps
        How many ended in it.
    mean_s, mean_j
        Their mean latency and energy; None without any.
    kept
        Whether the limits are kept on the mean. A window in which something was asked for and nothing ended is not.
    """

    start_s: float
    end_s: float
    steps: int
    mean_s: float | None
    mean_j: float | None
    kept: bool


@dataclass(frozen=True)
class Waiting:
    """A time in which no plan could run, or nothing moved.

    Attributes
    ----------
    start_s, end_s
        From when to when.
    why
        In words.
    """

    start_s: float
    end_s: float
    why: str


@dataclass(frozen=True)
class SimulationRecord:
    """What a simulation came to. Simulated, never measured.

    Attributes
    ----------
    qoe
        What was to be kept.
    horizon_s, window_s
        How long it went on, and how long a window is.
    steps
        Those completed, by end.
    lost
        Those given up because a device left; each was asked for again.
    changes, waits
        Changes of plans, and times in which nothing could run.
    windows
        The ledger.
    energy_participating_j, energy_all_on_j
        Of the whole time, under the two accountings: idling of the devices of a plan while it runs and is changed, or
        of every device that is there.
    events
        How many were simulated; steps that met no change and repeat an earlier one are replayed and count as well.
    notes
        What a reader must know, such as a trace that ended early, or when a battery was empty.
    battery_left_j
        Joules left at the end, by device with a battery.
    peak_memory_bytes
        The most that each device needed while plans ran: in inference for all resident plans together, see
        :class:`~dora_nb.costs.resident.Residents`, in training for the plan that ran.
    """

    qoe: QoE
    horizon_s: float
    window_s: float
    steps: tuple[StepReport, ...]
    lost: tuple[StepReport, ...]
    changes: tuple[PlanChange, ...]
    waits: tuple[Waiting, ...]
    windows: tuple[QoEWindow, ...]
    energy_participating_j: float
    energy_all_on_j: float
    events: int
    notes: tuple[str, ...]
    battery_left_j: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: Mapping[str, float] = field(default_factory=dict)

    @property
    def kept_share(self) -> float:
        """Share of the windows in which the QoE was kept; 1 without any window."""
        return float(np.mean([window.kept for window in self.windows])) if self.windows else 1.0

    @property
    def mean_latency_s(self) -> float:
        """Mean latency of the completed steps; infinite without any."""
        return float(np.mean([step.latency_s for step in self.steps])) if self.steps else math.inf

    @property
    def energy_j(self) -> float:
        """Energy of the whole time under the QoE's accounting."""
        participating = self.qoe.energy_accounting == "participating"
        return self.energy_participating_j if participating else self.energy_all_on_j

    @property
    def energy_per_step_j(self) -> float:
        """Energy of the whole time for every completed step; infinite without any."""
        return self.energy_j / len(self.steps) if self.steps else math.inf

    def to_frame(self) -> pd.DataFrame:
        """One row a completed step, units in the column names."""
        import pandas as pd

        return pd.DataFrame(
            {
                "arrival_s": [step.arrival_s for step in self.steps],
                "start_s": [step.start_s for step in self.steps],
                "end_s": [step.end_s for step in self.steps],
                "latency_s": [step.latency_s for step in self.steps],
                "energy_j": [step.energy_j for step in self.steps],
                "plan": [step.plan.label for step in self.steps],
            }
        )

    def __repr__(self) -> str:
        kept = sum(window.kept for window in self.windows)
        lines = [
            f"Simulated {format_seconds(self.horizon_s)}: {counted(len(self.steps), 'step')} completed, "
            f"{len(self.lost)} lost, {counted(len(self.changes), 'change')} of plans",
            f"QoE kept in {kept} of {counted(len(self.windows), 'window')} of {format_seconds(self.window_s)} "
            f"({100 * self.kept_share:.3g} %)",
        ]
        if self.steps:
            lines.append(
                f"mean latency {format_seconds(self.mean_latency_s)}, {format_joules(self.energy_per_step_j)} a step "
                f"({self.qoe.energy_accounting} devices)"
            )
        lines += [f"{format_seconds(each.start_s)} to {format_seconds(each.end_s)}: {each.why}" for each in self.waits]
        if self.battery_left_j:
            left = [f"{name} {format_joules(j) if j else 'nothing'}" for name, j in self.battery_left_j.items()]
            lines.append(f"left in batteries: {', '.join(left)}")
        return "\n".join([*lines, *self.notes])

    def _repr_html_(self) -> str:
        from dora_nb.render.simulation import simulation_html  # a method that looks up a room: imported when called

        return simulation_html(self)


def ledger(
    steps: list[StepReport], asked_s: list[float], qoe: QoE, window_s: float, horizon_s: float
) -> tuple[QoEWindow, ...]:
    """Whole windows from the start on, each with the steps that ended in it.

    Parameters
    ----------
    steps
        Completed, by end.
    asked_s
        Arrival of every step that was ever asked for, completed or not.
    """
    windows = []
    ends_s, arrivals_s = np.array([step.end_s for step in steps]), np.array(asked_s)
    count = int(np.floor(horizon_s / window_s * (1 + ROUNDING)))
    places = np.searchsorted(ends_s, [window_s * index for index in range(count + 1)], side="right")
    for index in range(count):
        start_s, end_s = window_s * index, window_s * (index + 1)
        inside = steps[places[index] : places[index + 1]]
        mean_s = float(np.mean([step.latency_s for step in inside])) if inside else None
        mean_j = float(np.mean([step.energy_j for step in inside])) if inside else None
        # What was asked for before the window's end and had not ended when it began was waited for.
        waited = int((arrivals_s < end_s).sum()) > int(places[index])
        windows.append(QoEWindow(start_s, end_s, len(inside), mean_s, mean_j, _kept(mean_s, mean_j, qoe, waited)))
    return tuple(windows)


def _kept(mean_s: float | None, mean_j: float | None, qoe: QoE, waited: bool) -> bool:
    if mean_s is None or mean_j is None:
        return not waited
    return qoe.keeps_means(mean_s, mean_j)

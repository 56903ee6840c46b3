"""How far the solve in the background is, in numbers and in a sentence."""

from __future__ import annotations

from typing import Literal

from dora_nb import solvers
from dora_nb.domain.certificate import Certificate
from dora_nb.domain.qoe import Unit
from dora_nb.domain.record import Record
from dora_nb.units import format_joules, format_seconds

#: ``running``: the best plan is sought. ``checking``: it is known; its second computation, its ties and the trade-offs
#: around it are under way. ``relaxing``: there is no plan; the smallest changes with which there is one are sought.
SolveState = Literal["running", "checking", "relaxing", "done", "infeasible", "cancelled", "failed"]

#: While these last, there is news to wait for.
GOING_ON: tuple[SolveState, ...] = ("running", "checking", "relaxing")


class Moment(Record):
    """What was known at a moment of a solve."""

    wall_s: float
    incumbent: float | None
    bound: float | None


class Progress(Record):
    """A solve.

    Attributes
    ----------
    state
        See :data:`SolveState`.
    unit
        Of what is minimised.
    incumbent, bound, gap
        Best figure so far, what no plan can be below, and their relative distance; None where not known.
    stopped
        What ended the solve before its gap was small enough: ``time limit`` or ``cancelled``; empty: nothing.
    wall_s
        Seconds since the question was asked.
    moments
        How incumbent and bound came together.
    note
        What else there is to say: what goes on, what failed, or what cannot be.
    """

    state: SolveState
    unit: Unit
    incumbent: float | None = None
    bound: float | None = None
    gap: float | None = None
    stopped: str = ""
    wall_s: float = 0.0
    moments: tuple[Moment, ...] = ()
    note: str = ""

    @property
    def going_on(self) -> bool:
        """Whether it can be cancelled."""
        return self.state in GOING_ON

    def after(self, event: solvers.Event) -> Progress:
        """With what an event tells."""
        moment = Moment(wall_s=event.wall_s, incumbent=event.incumbent, bound=event.bound)
        return self.replace(
            incumbent=event.incumbent,
            bound=event.bound,
            gap=event.gap,
            wall_s=max(self.wall_s, event.wall_s),
            moments=(*self.moments, moment),
        )

    def proven_by(self, proof: Certificate | None) -> Progress:
        """With what a certificate proves."""
        if proof is None:
            return self
        stopped = proof.status if proof.status in ("time limit", "cancelled") else ""
        return self.replace(unit=proof.unit, incumbent=proof.value, bound=proof.bound, gap=proof.gap, stopped=stopped)

    @property
    def sentence(self) -> str:
        """In words."""
        took = format_seconds(round(self.wall_s, 1)) if self.wall_s else ""
        figures = self._figures()
        if self.state == "running":
            return f"Solving ({took or '0 s'}){f': {figures}' if figures else ''}"
        solved = f"Stopped ({self.stopped})" if self.stopped else "Solved"
        if self.state == "checking":
            return f"{solved}: {figures}. {self.note} ({took})"
        if self.state == "relaxing":
            return f"{self.note} Looking for the smallest changes that help ({took})"
        if self.state == "done":
            return f"{solved}: {figures}{f' ({took})' if took else ''}"
        if self.state == "cancelled":
            return f"Cancelled{f' after {took}' if took else ''}{f': {figures}' if figures else ''}"
        return self.note

    @property
    def bound_words(self) -> str:
        """What the bound says, and how far the best plan is above it; empty without a bound."""
        return ", ".join(self._bound_and_gap())

    def _figures(self) -> str:
        best = [] if self.incumbent is None else [f"best {self._say(self.incumbent)}"]
        return ", ".join([*best, *self._bound_and_gap()])

    def _bound_and_gap(self) -> list[str]:
        bound = [] if self.bound is None else [f"none can be below {self._say(self.bound)}"]
        return [*bound, *([] if self.gap is None else [f"gap {round(100 * self.gap, 4):.2g} %"])]

    def _say(self, value: float) -> str:
        return format_seconds(value) if self.unit == "s" else format_joules(value)

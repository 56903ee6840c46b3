"""How good a plan is proven to be."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dora_nb.domain.limit import Limit
from dora_nb.domain.qoe import Objective, Unit
from dora_nb.domain.record import Record


class SecondSolve(Record):
    """Among equally good plans (within the gap) none is better at the other figure than this.

    Attributes
    ----------
    objective, unit
        The other figure, and its unit.
    value, bound, gap
        As in :class:`Certificate`.
    """

    objective: Literal["latency", "energy"]
    unit: Unit
    value: float
    bound: float
    gap: float = Field(ge=0)


class Certificate(Record):
    """How good a plan is proven to be.

    Attributes
    ----------
    objective, unit
        What was minimised, and its unit (``s`` or ``J``).
    latency_limit_s, energy_limit_j
        Limits on makespan and energy it was minimised under: the QoE's, or a tighter one for a trade-off.
    limits
        Every limit of the QoE, and whether the plan keeps it; the bound holds for plans that keep all hard ones.
    with_prices
        Whether ``value`` and ``bound`` include what soft limits add. They do for the QoE's best plan; trade-offs
        show makespan and energy as they are.
    value
        The plan's own figure.
    bound
        No plan among those considered can be below this (see ``scope``).
    gap
        ``(value - bound) / value``.
    status
        ``optimal``: the gap is at most the tolerance asked for. ``feasible``: it is larger. ``time limit``
        and ``cancelled``: planning was stopped before the gap was reached.
    scope
        Over which plans the bound holds: micro-batch sizes, group sizes, in-flight depths.
    algorithm
        ``decomposed``: bounds first, then the schedules they leave open. ``monolithic``: the joint program.
    solver, solver_reason
        What proved the bound, and why that solver.
    then
        The tie-break; None where planning was stopped before it.
    """

    objective: Objective
    unit: Unit
    latency_limit_s: float | None = None
    energy_limit_j: float | None = None
    limits: tuple[Limit, ...] = ()
    with_prices: bool = False
    value: float
    bound: float
    gap: float = Field(ge=0)
    status: Literal["optimal", "feasible", "time limit", "cancelled"]
    scope: str
    algorithm: Literal["decomposed", "monolithic"] = "decomposed"
    solver: str
    solver_reason: str
    then: SecondSolve | None = None

    def __repr__(self) -> str:
        from dora_nb.render.certificates import certificate_text  # a method that looks up a room: imported when called

        return certificate_text(self)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        from dora_nb.render.html import certificate_html

        return certificate_html(self)

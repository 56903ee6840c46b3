"""Why an answer is what it is: what would have to give, what more of everything is worth, and who may leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import Objective, QoE, Term
from dora_nb.domain.qoe import Unit as ObjectiveUnit
from dora_nb.domain.record import Record
from dora_nb.domain.workload import Workload

if TYPE_CHECKING:
    import pandas as pd

#: What can be looser: hard limits of the QoE; ``memory``, the usable bytes of one device; ``bandwidth``, all rates.
LimitKind = Term | Literal["memory", "bandwidth"]
Unit = Literal["s", "samples/s", "J", "bytes", "share", "times"]
StoppedBy = Literal["time limit", "cancelled"]


class Change(Record):
    """One limit made looser.

    Attributes
    ----------
    limit, device
        Which limit; the device whose memory or battery it is.
    unit
        Of the three figures: ``s``, ``samples/s``, ``J``, ``bytes``, a ``share`` of every device's usable memory, or
        ``times`` the rates that the network has now.
    asked, needed
        The limit as it is, and the value at which a plan is at hand: less of throughput and headroom, more of all else.
    impossible
        It is proven that, with the other changes made, there is no plan at this value (of latency, throughput and
        energy: at any value closer to ``asked``). None where nothing beyond ``asked`` itself was proven.
    """

    limit: LimitKind
    device: str | None = None
    unit: Unit
    asked: float
    needed: float
    impossible: float | None = None


class Relaxation(Record):
    """A smallest change that makes a question feasible.

    Attributes
    ----------
    changes
        One limit; several where no single one is enough: all looser by the same fraction, then each as little as the
        others allow.
    plan
        A plan that keeps the changed limits.
    """

    changes: tuple[Change, ...] = Field(min_length=1)
    plan: Plan

    def __str__(self) -> str:
        from dora_nb.render.explanations import relaxation_words  # a method that looks up a room

        return relaxation_words(self)


class RuledOut(Record):
    """Limits that do not make a question feasible however loose they are.

    Attributes
    ----------
    limits
        The limit and, of memory and batteries, the device.
    proven
        Whether that is proven; else no plan was found.
    """

    limits: tuple[tuple[LimitKind, str | None], ...]
    proven: bool


class MarginalValue(Record):
    """What a little more, or less, of something changes about the best plan: two solves and their difference.

    Attributes
    ----------
    of, device
        What there is more or less of, and on which device; ``device`` None: a limit of the whole, or all rates.
    step, unit
        How much more (negative: less), e.g. 1 ``s`` of latency limit, one ``device`` fewer, or a ``share`` of usable
        memory less to keep free.
    limit, used
        The limit as it is and what the best plan takes of it, in ``unit``; None where there is no such limit.
    objective, objective_unit
        What the plans minimise.
    before, before_bound
        Figure of the best plan as asked (with what soft limits add), and what no plan can be below.
    after, after_bound
        The same after the step. ``after`` is None where no plan was found, ``after_bound`` None where none exists.
    plan
        The best plan after the step.
    """

    of: LimitKind | Literal["device"]
    device: str | None = None
    step: float
    unit: Literal["s", "samples/s", "J", "bytes", "share", "bytes/s", "devices"]
    limit: float | None = None
    used: float | None = None
    objective: Objective
    objective_unit: ObjectiveUnit
    before: float
    before_bound: float
    after: float | None
    after_bound: float | None
    plan: Plan | None

    @property
    def change(self) -> float | None:
        """After minus before; None without a plan after the step."""
        return None if self.after is None else self.after - self.before

    @property
    def per_unit(self) -> float | None:
        """Change of the objective by one unit of what there is more of."""
        return None if self.change is None else self.change / abs(self.step)

    @property
    def proven(self) -> Literal["better", "worse", "impossible", "nothing"]:
        """What the two gaps together leave no doubt about."""
        if self.after_bound is None:
            return "impossible"
        if self.after_bound > self.before:
            return "worse"
        if self.after is not None and self.after < self.before_bound:
            return "better"
        return "nothing"

    @property
    def uncertainty(self) -> float:
        """By how much the true change may differ from :attr:`change`: the two gaps together."""
        after = 0.0 if self.after is None or self.after_bound is None else self.after - self.after_bound
        return self.before - self.before_bound + after

    @property
    def binds(self) -> bool:
        """Whether the present limit is proven to keep a better plan away."""
        return self.proven == "better"


class Alternative(Record):
    """A plan that some devices may leave, or why there is none.

    Attributes
    ----------
    without
        The devices it avoids.
    plan
        The best plan without them; None where there is none.
    reason
        Why there is none, or why it is the best plan itself.
    objective, objective_unit
        What plans are compared by, and its unit.
    loss
        By how much its figure is above the best plan's, in the objective's unit; None without a plan.
    """

    without: tuple[str, ...] = Field(min_length=1)
    plan: Plan | None
    reason: str = ""
    objective: Objective
    objective_unit: ObjectiveUnit
    loss: float | None

    def __repr__(self) -> str:
        from dora_nb.render.explanations import alternative_line  # a method that looks up a room

        return alternative_line(self)

    __str__ = __repr__


@dataclass(frozen=True)
class Explanation:
    """Why a question has the answer it has.

    Attributes
    ----------
    workload, cluster, qoe
        What was asked.
    best
        The best plan; None where no plan keeps the limits.
    message
        Why no plan keeps the limits; empty where one does.
    relaxations, ruled_out
        Where no plan keeps the limits: what would have to give, smallest relative change first, and what does not help.
    margins
        Where one does: what more or less of everything is worth, most useful first.
    solves
        How many questions were solved for it.
    stopped
        What stopped it before everything was looked at; None: nothing did.
    wall_s
        Seconds it took.
    """

    workload: Workload
    cluster: Cluster
    qoe: QoE
    best: Plan | None
    message: str
    relaxations: tuple[Relaxation, ...]
    ruled_out: tuple[RuledOut, ...]
    margins: tuple[MarginalValue, ...]
    solves: int
    stopped: StoppedBy | None
    wall_s: float

    @property
    def feasible(self) -> bool:
        """Whether some plan keeps the limits."""
        return self.best is not None

    def to_frame(self) -> pd.DataFrame:
        """One row a relaxed limit, or a row each marginal value; units in columns of their own."""
        from dora_nb.render.explanations import explanation_frame  # a method that looks up a room

        return explanation_frame(self)

    def __repr__(self) -> str:
        from dora_nb.render.explanations import explanation_text

        return explanation_text(self)

    def _repr_html_(self) -> str:
        from dora_nb.render.explanations import explanation_html

        return explanation_html(self)

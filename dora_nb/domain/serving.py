"""Requests that each want tokens, served by a plan with slots: what is asked of it, and what it is predicted to do."""

from __future__ import annotations

from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator

from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import EnergyAccounting
from dora_nb.domain.record import Record
from dora_nb.domain.sharing import DeviceShare, MediumShare
from dora_nb.errors import InputError
from dora_nb.units import PerS, Seconds

#: ``continuous``: waiting requests take free slots whenever their group has come round with a token each (Yu et al.,
#: "Orca", OSDI 2022). ``static``: a group waits until there is a request for every slot, and takes new ones when all
#: have all their tokens.
Batching = Literal["continuous", "static"]


class Joining(NamedTuple):
    """How requests take the slots of a plan.

    Attributes
    ----------
    batching
        Who joins when.
    wave
        Of continuous batching: requests that join together at least; 1: whoever waits joins where a slot is free. 1 of
        static batching, where a group is filled.
    """

    batching: Batching = "continuous"
    wave: int = 1

    def together(self, slots: int) -> int:
        """Requests that wait for each other, where a group has so many slots."""
        return slots if self.batching == "static" else self.wave


#: Whoever waits joins where a slot is free.
AT_ONCE = Joining()

#: ``latency``: seconds of a request, on the mean. ``energy``: joules of a request. ``rate``: requests per second.
ServingObjective = Literal["latency", "energy", "rate"]


class ServingGoal(Record):
    """What is asked of serving.

    Attributes
    ----------
    objective
        What the best plan has least of, within the limits; of ``rate`` it has most.
    requests_per_s
        How often a request arrives, evenly spaced; None where the objective is the largest such rate. Text such as
        ``"0.5 /s"`` is accepted.
    first_token_s
        Longest time from a request's arrival to its first token; None: no limit.
    token_s
        Longest time from one token to the next, on the mean over the tokens of a request.
    latency_s
        Longest time from a request's arrival to its last token, at the sink if there is one.
    energy_accounting
        Whose energy counts.
    """

    objective: ServingObjective = "latency"
    requests_per_s: PerS | None = Field(default=None, gt=0)
    first_token_s: Seconds | None = Field(default=None, gt=0)
    token_s: Seconds | None = Field(default=None, gt=0)
    latency_s: Seconds | None = Field(default=None, gt=0)
    energy_accounting: EnergyAccounting = "participating"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.objective == "rate") != (self.requests_per_s is None):
            raise InputError(
                "requests_per_s", self.requests_per_s, "a rate, or nothing where the objective is the largest rate"
            )
        return self

    def keeps(self, figures: ServingFigures) -> bool:
        """Whether every request is within the limits, and no more of them wait as time goes on."""
        limits = (
            (figures.worst_first_token_s, self.first_token_s),
            (figures.worst_token_s, self.token_s),
            (figures.worst_latency_s, self.latency_s),
        )
        within = all(limit is None or value is None or value <= limit * (1 + 1e-9) for value, limit in limits)
        return within and figures.keeps_up

    def __repr__(self) -> str:
        from dora_nb.render.serving import goal_text  # a method that looks up a room: imported when called

        return goal_text(self)

    __str__ = __repr__


class ServingFigures(Record):
    """What a plan is predicted to do for requests that arrive evenly spaced, the first at an empty cluster.

    Attributes
    ----------
    requests, requests_per_s
        How many were looked at, and how often one arrived. Means, worst cases, loads and joules are those of all.
    first_token_s, worst_first_token_s
        From arrival to the first token, at the last stage: mean, and of the request that waits longest.
    token_s, worst_token_s
        From one token to the next, on the mean over a request's tokens: mean and worst; None if there is but one token.
    latency_s, worst_latency_s
        From arrival to the last token, at the sink if there is one.
    waiting
        Requests that waited when another one arrived, on the mean over the last third.
    together
        Requests that a group had in its slots at once, at most.
    keeps_up
        Whether these are at most one more than over the third before; if not, more and more requests wait.
    capacity_per_s
        No plan with these stages, slots and groups serves more requests in any time, whenever they arrive.
    energy_participating_j, energy_all_on_j
        Of one request, with idling counted from one arrival to the next.
    network_bytes
        Carried for one request.
    devices, media
        Every device of the cluster, and every medium or port that is used.
    """

    requests: int = Field(ge=1)
    requests_per_s: float = Field(gt=0)
    first_token_s: float
    worst_first_token_s: float
    token_s: float | None
    worst_token_s: float | None
    latency_s: float
    worst_latency_s: float
    waiting: float
    together: int
    keeps_up: bool
    capacity_per_s: float
    energy_participating_j: float
    energy_all_on_j: float
    network_bytes: float
    devices: tuple[DeviceShare, ...]
    media: tuple[MediumShare, ...]

    def energy_j(self, accounting: EnergyAccounting) -> float:
        """Energy of a request under one accounting."""
        return self.energy_participating_j if accounting == "participating" else self.energy_all_on_j

    def __repr__(self) -> str:
        from dora_nb.render.serving import figures_text  # a method that looks up a room: imported when called

        return figures_text(self)

    __str__ = __repr__


class Serving(Record):
    """A plan with slots for requests that want tokens, with what is proven of it.

    Attributes
    ----------
    cluster
        Its name.
    goal
        What was asked.
    batching
        Who joins when; see :data:`Batching`.
    wave
        Of continuous batching: requests wait until so many do and as many slots are free; then all who can join, one in
        each round of a group. 1: whoever waits joins where a slot is free.
    plan
        Its micro-batch is the slots of a group, its micro-batches the groups: as a plan of mode ``generate`` it is
        that of a batch that fills all slots.
    figures
        Predicted at ``requests_per_s``.
    value, unit
        The objective, and its unit.
    bound
        No plan within ``scope`` that keeps the limits is better: has less, or a larger rate.
    gap
        Between the two, relative to the value.
    status
        ``optimal``: the gap is at most the one asked for. ``feasible``: it is larger. ``time limit`` and
        ``cancelled``: and it was stopped.
    scope
        Over which plans the bound holds, and in what sense.
    played
        Plans whose requests were played one by one.
    wall_s
        Seconds it took.
    """

    cluster: str
    goal: ServingGoal
    batching: Batching
    wave: int = Field(default=1, ge=1)
    plan: Plan
    figures: ServingFigures
    value: float
    unit: Literal["s", "J", "requests/s"]
    bound: float
    gap: float = Field(ge=0)
    status: Literal["optimal", "feasible", "time limit", "cancelled"]
    scope: str
    played: int = Field(ge=1)
    wall_s: float = Field(ge=0)

    @property
    def joining(self) -> Joining:
        """How requests take the plan's slots."""
        return Joining(self.batching, self.wave)

    @property
    def slots(self) -> int:
        """Requests that a group has at once."""
        return self.plan.micro_batch

    @property
    def groups(self) -> int:
        """Groups that follow each other through the stages."""
        return self.plan.token_groups

    def __repr__(self) -> str:
        from dora_nb.render.serving import serving_text  # a method that looks up a room: imported when called

        return serving_text(self)

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        from dora_nb.render.serving import serving_html

        return serving_html(self)

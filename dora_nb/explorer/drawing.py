"""The views of an explorer's state: what its widgets draw. Timelines are remembered, since they take longest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dora_nb.costs.evaluate import evaluate
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.rating import qoe_value
from dora_nb.explorer.known import Known
from dora_nb.explorer.state import ExplorerState
from dora_nb.explorer.views.front import FrontView, front_of_plans
from dora_nb.explorer.views.map import MapView, map_view
from dora_nb.explorer.views.timeline import TimelineView
from dora_nb.explorer.whatif import WhatIf
from dora_nb.render import words
from dora_nb.render.envelope import Point, covered_by, proven_by, proven_so_far

#: Timelines that are remembered.
_MOST_TIMELINES = 32


class Drawn:
    """What was drawn last, so that the same is not drawn again, and nothing is set back that a person just changed."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[Any, ...]] = {}
        self._put: dict[tuple[int, str], Any] = {}

    def is_new(self, name: str, *what: Any) -> bool:
        """Whether something is other than the last time this was asked; it is taken to be drawn then."""
        last, self._last[name] = self._last.get(name), what
        return last is None or any(a is not b and a != b for a, b in zip(last, what, strict=True))

    def put(self, control: Any, name: str, value: Any) -> None:
        """Set what a control shows, unless it was set to that the last time.

        A person may have changed it since, on another thread: what the person asks for with it is still to come.
        """
        key = (id(control), name)
        if key not in self._put or self._put[key] != value:
            self._put[key] = value
            setattr(control, name, value)

    def forget(self) -> None:
        """Set every control again the next time: what a person changed was refused."""
        self._put.clear()


class Timelines:
    """The predicted timelines of the plans looked at."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Plan, TimelineView]] = {}

    def of(self, state: ExplorerState) -> TimelineView | None:
        """The timeline of the plan looked at in the case of now; None without a plan."""
        if state.selected < 0:
            return None
        plan, question = state.plan, state.question
        if id(plan) not in self._made:
            bare = plan.replace(prediction=None, certificate=None)
            evaluation = evaluate(bare, question.workload, question.cluster, question.table)
            self._made[id(plan)] = plan, TimelineView.of(evaluation)
            if len(self._made) > _MOST_TIMELINES:
                del self._made[next(iter(self._made))]
        return self._made[id(plan)][1]


def front_of(state: ExplorerState) -> FrontView | None:
    """The known plans in the case of now under the limits of now; None where none can run."""
    if not state.known:
        return None
    qoe = state.question.qoe
    plans = proven_part(state.known, state.changed, qoe)
    envelope = proven_by(plans, qoe)
    if state.changed.is_none and _as_strict(qoe, state.plans.qoe):
        envelope |= covered_by(state.plans)
    return front_of_plans(plans, qoe, state.question.workload.mode, baselines=state.baselines, envelope=envelope)


def proven_part(known: Sequence[Known], what_if: WhatIf, qoe: QoE) -> tuple[Plan, ...]:
    """The plans with those certificates only that bound every plan of the case and the limits of now.

    A bound was proven for the plans that keep the limits of its own question. It holds for those that keep the limits
    of now if these are at least as strict, the latency limit apart: that of a certificate stands in it.
    """
    holds = (each.found.what_if == what_if and _as_strict(qoe, each.found.qoe) for each in known)
    return tuple(
        each.plan if still else each.plan.replace(certificate=None) for each, still in zip(known, holds, strict=True)
    )


def bound_of(state: ExplorerState, view: FrontView) -> tuple[Point, ...]:
    """What the solve under way has proven by now, as corners of a line in a plot; empty where there is nothing."""
    bound = state.progress.bound
    if not state.progress.going_on or bound is None:
        return ()
    question = state.question
    proven = proven_so_far(question.qoe, question.workload.batch, bound)
    return proven.corners(view.latency.low, view.latency.high, view.energy.high)


def _as_strict(now: QoE, then: QoE) -> bool:
    """Whether what keeps the hard limits of now kept those of then, the one on latency apart."""
    if (now.energy_accounting, now.joules_per_s) != (then.energy_accounting, then.joules_per_s):
        return False
    hard = then.hard
    if not set(hard) - {"latency"} <= set(now.hard):
        return False
    return (
        ("throughput" not in hard or (now.samples_per_s or 0.0) >= (then.samples_per_s or 0.0))
        and ("energy" not in hard or (now.energy_j or math.inf) <= (then.energy_j or math.inf))
        and ("battery" not in hard or _below(now.battery_j, then.battery_j))
        and ("headroom" not in hard or _room(now, then))
    )


def _below(now: dict[str, float], then: dict[str, float]) -> bool:
    return all(name in now and now[name] <= joules for name, joules in then.items())


def _room(now: QoE, then: QoE) -> bool:
    """Whether at least as much memory is to be kept free, counted in the same way."""
    if then.headroom_bytes is not None:
        return (now.headroom_bytes or 0.0) >= then.headroom_bytes
    return (now.headroom_fraction or 0.0) >= (then.headroom_fraction or 0.0)


def map_of(state: ExplorerState) -> MapView:
    """The plan looked at on the network of now, with the devices that are switched off."""
    question = state.question
    there = state.changed.replace(off=()).cluster(state.plans.cluster)
    return map_view(
        there,
        question.workload,
        None if state.selected < 0 else state.plan,
        accounting=state.qoe.energy_accounting,
        switched_off=state.changed.off,
    )


def table_of(state: ExplorerState) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The known plans as a table: a heading, and a row each."""
    qoe = state.question.qoe
    heading = ("", "Plan", "Latency", f"Energy, {qoe.energy_accounting}", "Devices", "Limits", "Proven")
    rows: list[tuple[str, ...]] = []
    for place, known in enumerate(state.known):
        plan = known.plan
        assert plan.prediction is not None, "known plans are predicted"
        broken = dict.fromkeys(limit.term for limit in qoe_value(plan.prediction, qoe).broken)
        rows.append(
            (
                words.plan_mark(place) + (" *" if place == state.answer else ""),
                plan.label or "plan",
                words.seconds_words(plan.prediction.makespan_s),
                words.joules_words(plan.prediction.energy_j(qoe.energy_accounting)),
                words.sentence(plan.devices),
                f"misses {words.sentence(broken)}" if broken else "kept",
                "for another case"
                if plan.certificate is None
                else f"{plan.certificate.status}, {words.gap_words(plan)}",
            )
        )
    return heading, rows

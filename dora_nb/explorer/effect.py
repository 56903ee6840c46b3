"""What a change does to the best plan, and what one unit of it is worth: two solves and their difference."""

from __future__ import annotations

from typing import NamedTuple

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE, Unit
from dora_nb.domain.rating import qoe_value
from dora_nb.domain.record import Record
from dora_nb.domain.workload import Workload
from dora_nb.explorer.whatif import WhatIf
from dora_nb.units import format_joules, format_rate, format_seconds

#: A factor is priced by the tenth.
_TENTH = 0.1


class Effect(Record):
    """The best plan as asked for first, against the best plan now.

    Attributes
    ----------
    changed
        What is other now, in words.
    latency_before_s, latency_after_s, energy_before_j, energy_after_j
        Of the two plans, predicted; the energies under the accounting that counts now.
    unit
        What the objective is counted in; None where the objective is another now, so that values do not compare.
    value_before, value_after
        Of the two plans at the objective, with what soft limits add.
    uncertainty
        By how much the true change of the value may be other than this one: the two gaps together.
    per, per_unit
        Where one number changed: what one unit of it is, in words, and the change of the value for each.
    """

    changed: tuple[str, ...]
    latency_before_s: float
    latency_after_s: float
    energy_before_j: float
    energy_after_j: float
    unit: Unit | None = None
    value_before: float = 0.0
    value_after: float = 0.0
    uncertainty: float = 0.0
    per: str = ""
    per_unit: float | None = None

    @property
    def lines(self) -> tuple[str, ...]:
        """The change in latency and energy, and its price, in words."""
        told = [
            _told("latency", self.latency_before_s, self.latency_after_s, "s"),
            _told("energy", self.energy_before_j, self.energy_after_j, "J"),
        ]
        if self.unit is not None and abs(self.value_after - self.value_before) <= self.uncertainty:
            told.append("The objective does not change by more than the two gaps together.")
        elif self.per_unit is not None and self.unit is not None:
            told.append(f"{_signed(self.per_unit, self.unit)} at the objective for each {self.per}")
        return tuple(told)


class _Step(NamedTuple):
    """How many units of something there are more, and what a unit is called."""

    units: float
    per: str


def effect(asked: tuple[Workload, Cluster, QoE], before: Plan, what_if: WhatIf, qoe: QoE, after: Plan) -> Effect | None:
    """What a change does; None where nothing has changed.

    Parameters
    ----------
    asked
        The question as it was asked first.
    before, after
        The best plans then and now, predicted and certified.
    what_if, qoe
        What is other now.
    """
    workload, cluster, asked_qoe = asked
    assert before.prediction is not None, "best plans are predicted"
    assert after.prediction is not None, "best plans are predicted"
    limits = _limit_steps(asked_qoe, qoe)
    changed = [*what_if.lines(), *(name for name, _ in limits)]
    if not changed:
        return None
    accounting = qoe.energy_accounting
    fields = {
        "changed": tuple(changed),
        "latency_before_s": before.prediction.makespan_s,
        "latency_after_s": after.prediction.makespan_s,
        "energy_before_j": before.prediction.energy_j(accounting),
        "energy_after_j": after.prediction.energy_j(accounting),
    }
    if _aim(asked_qoe) != _aim(qoe):
        return Effect(**fields)
    values = qoe_value(before.prediction, asked_qoe).value, qoe_value(after.prediction, qoe).value
    steps = [*_steps(what_if, workload, cluster), *(step for _, step in limits)]
    only = steps[0] if len(changed) == len(steps) == 1 else None
    return Effect(
        **fields,
        unit=qoe.unit,
        value_before=values[0],
        value_after=values[1],
        uncertainty=_gap(before) + _gap(after),
        per="" if only is None else only.per,
        per_unit=None if only is None or not only.units else (values[1] - values[0]) / abs(only.units),
    )


def _aim(qoe: QoE) -> tuple[object, ...]:
    return qoe.objective, qoe.joules_per_s, qoe.energy_accounting


def _gap(plan: Plan) -> float:
    proof = plan.certificate
    return 0.0 if proof is None else proof.value - proof.bound


def _steps(what_if: WhatIf, workload: Workload, cluster: Cluster) -> list[_Step]:
    """What there is more or less of; the sign is in the words."""
    steps = []
    if what_if.bandwidth != 1:
        steps.append(_factor(what_if.bandwidth, "bandwidth"))
    steps += [_factor(factor, f"speed of {name}") for name, factor in what_if.speed.items()]
    for name, factor in what_if.memory.items():
        more_gb = (factor - 1) * cluster.device(name).usable_memory_bytes / 1e9
        steps.append(_Step(more_gb, f"GB {_more(more_gb)} memory on {name}"))
    if what_if.batch is not None:
        more = what_if.batch - workload.batch
        steps.append(_Step(more, f"sample {_more(more)} in the batch"))
    if what_if.off:
        steps.append(_Step(len(what_if.off), "device less"))
    return steps


def _factor(factor: float, what: str) -> _Step:
    return _Step((factor - 1) / _TENTH, f"10 % {_more(factor - 1)} {what}")


def _limit_steps(asked: QoE, qoe: QoE) -> list[tuple[str, _Step]]:
    """The limits on latency, energy and throughput that are other now; anything else has no single number."""
    found: list[tuple[str, _Step]] = []
    says = {"latency_s": ("latency limit", "s", format_seconds), "energy_j": ("energy limit", "J", format_joules)}
    rate = {"samples_per_s": ("throughput limit", "sample/s", format_rate)}
    for field, (name, unit, say) in (says | rate).items():
        before, after = getattr(asked, field), getattr(qoe, field)
        if before == after:
            continue
        more = 0.0 if before is None or after is None else after - before
        words = f"no {name}" if after is None else f"{name} {say(after)}"
        found.append((words, _Step(more, f"{unit} {_more(more)} {name}")))
    known = {*says, *rate}
    others = (field for field in type(qoe).model_fields if field not in known)
    return found + [
        (field.replace("_", " "), _Step(0.0, "")) for field in others if getattr(asked, field) != getattr(qoe, field)
    ]


def _more(amount: float) -> str:
    return "more" if amount > 0 else "less"


def _told(what: str, before: float, after: float, unit: Unit) -> str:
    say = format_seconds if unit == "s" else format_joules
    if before == after:
        return f"{what} unchanged at {say(after)}"
    share = f" ({100 * (after - before) / before:+.3g} %)" if before else ""
    return f"{what} {say(before)} to {say(after)}{share}"


def _signed(change: float, unit: Unit) -> str:
    say = format_seconds if unit == "s" else format_joules
    return f"{'+' if change >= 0 else '-'}{say(abs(change))}"

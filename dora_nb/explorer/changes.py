"""Questions with something changed: other fields of a QoE, a relaxation applied; and what the answer is called."""

from __future__ import annotations

from typing import Any

from dora_nb.domain.explanation import Change, Relaxation
from dora_nb.domain.qoe import QoE
from dora_nb.errors import InputError
from dora_nb.explorer.whatif import WhatIf
from dora_nb.render import words
from dora_nb.units import format_joules, format_seconds

#: Limits on the whole plan, by the field of the QoE.
_FIELDS = {"latency": "latency_s", "throughput": "samples_per_s", "energy": "energy_j"}

#: Counted in the unit of the objective.
_PRICES = tuple(name for name in QoE.model_fields if name.endswith("_price"))


def qoe_with(qoe: QoE, changes: dict[str, Any]) -> QoE:
    """A QoE with some fields changed; what a second is worth goes with the objective that it belongs to.

    Raises
    ------
    InputError
        If a field cannot be so, or a price would silently be in another unit.
    """
    objective = changes.get("objective", qoe.objective)
    if objective != "price":
        changes = {"joules_per_s": None} | changes
    if (objective == "latency") != (qoe.objective == "latency"):
        for name in _PRICES:
            if getattr(qoe, name) is not None and name not in changes:
                allowed = f"a price in the unit of the objective {objective!r}, given with it"
                raise InputError(name, getattr(qoe, name), allowed)
    return qoe.replace(**changes)


def relaxed(relaxation: Relaxation, qoe: QoE, what_if: WhatIf) -> tuple[QoE, WhatIf]:
    """A question with all changes of a relaxation."""
    for change in relaxation.changes:
        qoe, what_if = _looser(change, qoe, what_if)
    return qoe, what_if


def _looser(change: Change, qoe: QoE, what_if: WhatIf) -> tuple[QoE, WhatIf]:
    device = str(change.device)
    if change.limit == "bandwidth":
        return qoe, what_if.with_changes(bandwidth=what_if.bandwidth * change.needed)
    if change.limit == "memory":
        factor = what_if.memory.get(device, 1.0) * change.needed / change.asked
        return qoe, what_if.with_changes(memory={device: factor})
    if change.limit == "battery":
        return qoe.replace(battery_j=qoe.battery_j | {device: change.needed}), what_if
    if change.limit == "headroom":
        field = "headroom_fraction" if change.unit == "share" else "headroom_bytes"
        return qoe.replace(**{field: change.needed}), what_if
    return qoe.replace(**{_FIELDS[change.limit]: change.needed}), what_if


def answer_label(qoe: QoE, what_if: WhatIf) -> str:
    """What the answer is best at, within what, and in which case."""
    aim = {"latency": "fastest", "energy": "least energy", "price": "lowest price"}[qoe.objective]
    within = [] if qoe.latency_s is None else [format_seconds(qoe.latency_s)]
    within += [] if qoe.energy_j is None else [format_joules(qoe.energy_j)]
    aim += f" within {words.sentence(within)}" if within else ""
    return ", ".join([aim, *what_if.lines()])

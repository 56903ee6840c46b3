"""A simulation as a person meets it in a notebook: what was kept, a strip chart, and what went wrong in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dora_nb.domain.controller import StepReport
from dora_nb.render import words
from dora_nb.render.html import fragment, pairs
from dora_nb.render.simulation_chart import numbered, plan_name, simulation_svg
from dora_nb.render.svg import attribute
from dora_nb.units import counted, format_bytes, format_joules, format_seconds

if TYPE_CHECKING:
    from dora_nb.simulation.record import SimulationRecord, Waiting

#: Waits and plans that are told one by one.
_MOST_LINES, _MOST_PLANS = 6, 20


def simulation_html(record: SimulationRecord) -> str:
    """A record as a fragment of HTML: the figures, the chart, and what went wrong in words."""
    parts = [
        f'<p class="dora-head">{attribute(_headline(record))}</p>',
        f'<p class="dora-faint">{"<br>".join(attribute(line) for line in _asked(record))}</p>',
        f'<div class="dora-scroll">{simulation_svg(record)}</div>',
    ]
    said = "".join(f"<li>{attribute(line)}</li>" for line in _said(record))
    return fragment([*parts, f"<ul>{said}</ul>" if said else "", _plans(record)])


def _headline(record: SimulationRecord) -> str:
    kept, count = sum(window.kept for window in record.windows), len(record.windows)
    share = f"QoE kept in {kept} of {counted(count, 'window')} ({100 * record.kept_share:.3g} %)"
    parts = [share if count else "Not one whole window"]
    if record.steps:
        parts.append(f"mean latency {format_seconds(record.mean_latency_s)}")
        parts.append(f"{format_joules(record.energy_per_step_j)} a step")
    else:
        parts.append("no step completed")
    return ", ".join(parts)


def _asked(record: SimulationRecord) -> list[str]:
    happened = [
        f"{counted(len(record.steps), 'step')} completed",
        f"{len(record.lost):,} lost",
        f"plans changed {counted(len(record.changes), 'time')}",
    ]
    return [
        f"Simulated {format_seconds(record.horizon_s)} in windows of {format_seconds(record.window_s)}: "
        f"{', '.join(happened)}",
        f"{words.qoe_words(record.qoe)}. All figures are simulated.",
    ]


def _said(record: SimulationRecord) -> list[str]:
    """What a reader must know beyond the figures."""
    waits = _in_a_row(record.waits)
    lines = [_wait_words(each) for each in waits[:_MOST_LINES]]
    if len(waits) > _MOST_LINES:
        further = waits[_MOST_LINES:]
        total_s = sum(each[-1].end_s - each[0].start_s for each in further)
        lines.append(f"Waited {counted(len(further), 'more time')}, {format_seconds(total_s)} in all.")
    if record.lost:
        causes = Counter(step.lost_to for step in record.lost).most_common()
        each = words.sentence(f"{often:,} because {name} left" for name, often in causes)
        why = f" because {causes[0][0]} left" if len(causes) == 1 else f": {each}"
        lines.append(f"{counted(len(record.lost), 'step')} lost and asked for again{why}.")
    moved_bytes = sum(change.size_bytes for change in record.changes)
    if moved_bytes:
        took_s, drew_j = (sum(getattr(each, name) for each in record.changes) for name in ("duration_s", "energy_j"))
        cost = f"{format_seconds(took_s)} and {format_joules(drew_j)}"
        lines.append(f"Changing plans moved {format_bytes(moved_bytes)} and took {cost}.")
    if record.battery_left_j:
        left = words.sentence(
            f"{name} {format_joules(left_j) if left_j else 'nothing'}" for name, left_j in record.battery_left_j.items()
        )
        lines.append(f"Left in batteries: {left}.")
    held = {name: size for name, size in record.peak_memory_bytes.items() if size}
    if held:
        needed = words.sentence(f"{name} {format_bytes(size)}" for name, size in held.items())
        lines.append(f"Most memory needed: {needed}.")
    return [words.one_line(line) for line in (*lines, *(f"{note[:1].upper()}{note[1:]}." for note in record.notes))]


def _in_a_row(waits: Iterable[Waiting]) -> list[list[Waiting]]:
    """Waits that follow one another without a step between them."""
    runs: list[list[Waiting]] = []
    for each in waits:
        if runs and runs[-1][-1].end_s == each.start_s:
            runs[-1].append(each)
        else:
            runs.append([each])
    return runs


def _wait_words(waits: Sequence[Waiting]) -> str:
    start_s, end_s = waits[0].start_s, waits[-1].end_s
    first = "at first " if len(waits) > 1 else ""
    times = f"from {format_seconds(start_s)} to {format_seconds(end_s)}"
    return f"Waited {format_seconds(end_s - start_s)}, {times}: {first}{waits[0].why}."


def _plans(record: SimulationRecord) -> str:
    """Who ran how often, by the numbers of the legend."""
    found: dict[int, list[StepReport]] = {}
    numbers = numbered(step.plan for step in record.steps)
    for step in record.steps:
        found.setdefault(numbers[id(step.plan)], []).append(step)
    rows = []
    for number, steps in sorted(found.items())[:_MOST_PLANS]:
        mean_s = float(np.mean([step.latency_s for step in steps]))
        ran = f"{counted(len(steps), 'step')}, {format_seconds(mean_s)} on average"
        rows.append(
            (plan_name(number, steps[0].plan), words.one_line(f"on {words.sentence(steps[0].plan.devices)}: {ran}"))
        )
    if len(found) > _MOST_PLANS:
        rows.append(("further", counted(len(found) - _MOST_PLANS, "plan")))
    return f"<details><summary>Plans that ran</summary>{pairs(rows)}</details>" if rows else ""

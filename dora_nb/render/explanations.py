"""Explanations and alternatives as text, as a data frame and as HTML. Every number in the words is computed here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from dora_nb.domain.explanation import Alternative, Change, Explanation, MarginalValue, Relaxation, RuledOut
from dora_nb.domain.plan import Plan
from dora_nb.domain.rating import qoe_value
from dora_nb.render import words
from dora_nb.render.html import fragment
from dora_nb.render.markup import items, table
from dora_nb.render.svg import attribute
from dora_nb.render.wrapping import WIDTH, wrapped
from dora_nb.units import counted, format_bandwidth, format_bytes, format_joules, format_rate, format_seconds

if TYPE_CHECKING:
    import pandas as pd


def _share(share: float) -> str:
    return f"{100 * share:.3g} %"


_FORMATS = {
    "s": format_seconds,
    "samples/s": format_rate,
    "J": format_joules,
    "bytes": format_bytes,
    "share": _share,
    "bytes/s": format_bandwidth,
}

#: Unit in which a person counts, and its size in the SI unit.
_COUNTED = {
    "s": ("s", 1.0),
    "samples/s": ("sample/s", 1.0),
    "J": ("J", 1.0),
    "bytes": ("GB", 1e9),
    "share": ("%", 0.01),
    "bytes/s": ("Mbit/s", 1e6 / 8),
}

#: What a verdict means, after the table.
_VERDICTS = (
    "'gain' and 'loss' are differences of two solves that are larger than the two gaps together; "
    "'none proven' is one that is not, and 'no change' is exact."
)

_HEADING = ("what", "used", "becomes", "change", "per unit", "verdict")


def explanation_text(explanation: Explanation, width: int = WIDTH) -> str:
    """An explanation as plain text of at most so many columns, or as many as its table needs at least."""

    def said(lines: Iterable[str]) -> str:
        return "\n".join(wrapped(line, width) for line in lines)

    title = f"{words.workload_words(explanation.workload)}; {explanation.cluster.name}"
    blocks = [said([title, words.qoe_words(explanation.qoe)])]
    if explanation.feasible:
        blocks.append(_best_line(explanation))
        blocks.append(_text_table([_HEADING, *map(_cells, explanation.margins)], width))
        blocks.append(said([_VERDICTS, *_end_lines(explanation)]))
    else:
        blocks.append(said([f"No plan: {explanation.message}."]))
        blocks.append(said(infeasible_lines(explanation)))
        blocks.append(said(_end_lines(explanation)))
    return "\n\n".join(blocks)


def explanation_html(explanation: Explanation) -> str:
    """An explanation as a fragment of HTML."""
    title = f"{words.workload_words(explanation.workload)}; {explanation.cluster.name}"
    parts = [f'<p class="dora-faint">{attribute(title)}<br>{attribute(words.qoe_words(explanation.qoe))}</p>']
    if explanation.feasible:
        parts.insert(0, f'<p class="dora-head">{attribute(_best_line(explanation))}</p>')
        parts.append(table(_HEADING, map(_cells, explanation.margins), left=(0, len(_HEADING) - 1)))
        parts.append(items([_VERDICTS, *_end_lines(explanation)]))
    else:
        parts.insert(0, '<p class="dora-head">No plan keeps the limits</p>')
        parts.append(f"<p>{attribute(explanation.message)}.</p>")
        parts.append(items(infeasible_lines(explanation)))
        parts.append(items(_end_lines(explanation)))
    return fragment(parts)


def explanation_frame(explanation: Explanation) -> pd.DataFrame:
    """One row a marginal value, or one row a changed limit; what has no value is NaN."""
    import pandas as pd

    if explanation.feasible:
        rows = [_margin_row(value) for value in explanation.margins]
        return pd.DataFrame(rows, columns=list(_MARGIN_COLUMNS))
    rows = [
        {"relaxation": index, **change.model_dump(), **_figures(relaxation.plan)}
        for index, relaxation in enumerate(explanation.relaxations, start=1)
        for change in relaxation.changes
    ]
    return pd.DataFrame(rows, columns=list(_CHANGE_COLUMNS))


_MARGIN_COLUMNS = (
    *("of", "device", "step", "unit", "limit", "used", "objective", "objective_unit", "before", "before_bound"),
    *("after", "after_bound", "change", "per_unit", "uncertainty", "proven"),
)
_CHANGE_COLUMNS = (
    *("relaxation", "limit", "device", "unit", "asked", "needed", "impossible"),
    *("makespan_s", "energy_participating_j", "energy_all_on_j"),
)


def _margin_row(value: MarginalValue) -> dict[str, object]:
    row = {name: getattr(value, name) for name in _MARGIN_COLUMNS}
    figures = ("limit", "used", "after", "after_bound", "change", "per_unit")
    return row | {name: math.nan for name in figures if row[name] is None}


def _figures(plan: Plan) -> dict[str, float]:
    return {
        "makespan_s": words.makespan_s(plan),
        "energy_participating_j": words.energy_of("participating")(plan),
        "energy_all_on_j": words.energy_of("all-on")(plan),
    }


# ---------------------------------------------------------------------------------------------- infeasible


def infeasible_lines(explanation: Explanation) -> list[str]:
    """What would make the question feasible, and what would not."""
    lines = [f"It becomes possible with {relaxation_words(each)}." for each in explanation.relaxations]
    if not lines:
        lines = ["No change was found that makes it possible."]
    return lines + _ruled_out_lines(explanation.ruled_out)


def relaxation_words(relaxation: Relaxation) -> str:
    """A relaxation in words: what changes, how well that is proven, and what the plan does."""
    plan = relaxation.plan
    reached = f"{format_seconds(words.makespan_s(plan))} on {words.sentence(plan.devices)}"
    return f"{changes_words(relaxation)} ({_proof_words(relaxation.changes)}): a plan of {reached}"


def changes_words(relaxation: Relaxation) -> str:
    """What a relaxation changes: ``a latency of 15.4 s instead of 14 s``."""
    return words.sentence(_change_words(change) for change in relaxation.changes)


def _change_words(change: Change) -> str:
    if change.unit == "times":
        return f"{change.needed:.3g} times the rates of the network"
    written = _FORMATS[change.unit]
    if change.limit == "memory":
        more, asked = written(change.needed - change.asked), written(change.asked)
        return f"{more} more memory on {change.device} ({written(change.needed)} usable instead of {asked})"
    if not change.needed:
        return f"no {change.limit} instead of {written(change.asked)}"
    needed = written(change.needed) + (f" on {change.device}" if change.device else "")
    return f"{_article(change.limit)} {change.limit} of {needed} instead of {written(change.asked)}"


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _proof_words(changes: Sequence[Change]) -> str:
    """How far the least proven of the changes may be from the smallest."""
    within = 0.0
    for change in changes:
        if change.impossible is None:
            return "nothing smaller was found, nor proven impossible"
        within = max(within, 100 * (change.needed - change.impossible) / (change.needed - change.asked))
    each = "each " if len(changes) > 1 else ""
    rest = " next to the others" if len(changes) > 1 else ""
    return f"{each}proven the smallest to within {_percent(within)} of the change{rest}"


def _percent(percent: float) -> str:
    return f"{max(percent, 0.01):.2g} %"


def _ruled_out_lines(ruled_out: Sequence[RuledOut]) -> list[str]:
    lines = []
    for proven in (True, False):
        alone = [each.limits[0] for each in ruled_out if each.proven == proven and len(each.limits) == 1]
        pairs = [each for each in ruled_out if each.proven == proven and len(each.limits) == 2]
        if alone:
            how = "proven" if proven else "no plan was found"
            lines.append(f"Not enough alone, however much ({how}): {'; '.join(_limit_names(alone))}.")
        if pairs:
            how = "is proven not to be enough" if proven else "did not lead to a plan"
            lines.append(f"Of the pairs of them, {len(pairs)} were tried and each {how}.")
    return lines


def _limit_names(limits: Iterable[tuple[str, str | None]]) -> list[str]:
    names: list[str] = [kind for kind, device in limits if device is None and kind != "bandwidth"]
    for part in ("battery", "memory"):
        devices = [str(device) for kind, device in limits if kind == part]
        names += [f"{part} of {' or of '.join(devices)}"] if devices else []
    return names + ["a network 1,000 times as fast" for kind, _ in limits if kind == "bandwidth"]


# ---------------------------------------------------------------------------------------------- feasible


def _best_line(explanation: Explanation) -> str:
    assert explanation.best is not None, "only of a feasible question"
    assert explanation.best.prediction is not None, "answers are predicted"
    label, qoe = explanation.best.label or "plan", explanation.qoe
    written = words.seconds_words if qoe.unit == "s" else words.joules_words
    figure = written(qoe_value(explanation.best.prediction, qoe).value)
    return f"What more or less of each is worth, to the best plan ({label}: {qoe.objective} {figure})"


def _cells(value: MarginalValue) -> tuple[str, ...]:
    written = _FORMATS[value.objective_unit]
    return (
        _step_words(value),
        _used_words(value),
        words.NOTHING if value.after is None else written(value.after),
        words.NOTHING if value.change is None else _signed(value.change, value.objective_unit),
        _per_unit_words(value),
        _verdict_words(value),
    )


def _step_words(value: MarginalValue) -> str:
    if value.of == "device":
        return f"one {value.device} {'more' if value.step > 0 else 'fewer'}"
    step = _FORMATS[value.unit](value.step)
    if value.of == "bandwidth":
        return f"{step} more for {value.device or 'all'}"
    if value.of in ("throughput", "headroom"):
        return f"{_FORMATS[value.unit](-value.step)} less {value.of} asked for"
    return f"{step} more {value.of}" + (f" on {value.device}" if value.device else " allowed")


def _used_words(value: MarginalValue) -> str:
    if value.limit is None or value.used is None:
        return words.NOTHING
    written = _FORMATS[value.unit]
    if value.of in ("throughput", "headroom"):
        return f"{written(value.used)} for {written(value.limit)}"
    return f"{written(value.used) if value.used else 'none'} of {written(value.limit)}"


def _per_unit_words(value: MarginalValue) -> str:
    if value.of == "device" or value.proven != "better" or value.change is None:
        return words.NOTHING
    unit, size = _COUNTED[value.unit]
    return f"{_signed(value.change / (abs(value.step) / size), value.objective_unit)} per {unit}"


def _verdict_words(value: MarginalValue) -> str:
    if value.proven == "impossible":
        return "no plan without it" if value.of == "device" else "no plan"
    if value.after is None:
        return "not decided"
    if value.proven == "nothing":
        if value.uncertainty <= _EXACT * value.before:
            return "no change"
        return f"none proven (gaps {_FORMATS[value.objective_unit](value.uncertainty)})"
    return "gain: it binds" if value.proven == "better" and value.limit is not None else _GAINS[value.proven]


#: Relative gaps below this are rounding.
_EXACT = 1e-9

_GAINS = {"better": "gain", "worse": "loss"}


def _signed(change: float, unit: str) -> str:
    return f"{'+' if change > 0 else ''}{_FORMATS[unit](change)}" if change else "0"


# ---------------------------------------------------------------------------------------------- alternatives


def alternative_line(alternative: Alternative) -> str:
    """One alternative in a line."""
    gone = words.sentence(alternative.without)
    if alternative.plan is None:
        return f"without {gone}: no plan; {alternative.reason}"
    figures = [format_seconds(words.makespan_s(alternative.plan))]
    if alternative.loss is not None:
        figures.append(f"{_signed(alternative.loss, alternative.objective_unit)} of {alternative.objective}")
    if alternative.plan.certificate is not None:
        figures.append(f"gap {words.gap_words(alternative.plan)}")
    reason = f" ({alternative.reason})" if alternative.reason else ""
    return f"without {gone}: {', '.join(figures)}, on {words.sentence(alternative.plan.devices)}{reason}"


def alternatives_text(alternatives: Mapping[str, Alternative]) -> str:
    """Alternatives, a line each."""
    return "\n".join(wrapped(alternative_line(each)) for each in alternatives.values())


# ---------------------------------------------------------------------------------------------- parts


def _end_lines(explanation: Explanation) -> list[str]:
    solves = f"{counted(explanation.solves, 'question')} solved in {format_seconds(explanation.wall_s)}"
    stopped = f" Stopped before everything was looked at ({explanation.stopped})." if explanation.stopped else ""
    lines = [f"{solves}; all figures are predicted.{stopped}"]
    if explanation.feasible and any(domain.kind == "links" for domain in explanation.cluster.domains):
        lines.append("Devices with links of their own have no single rate: only all rates together were looked at.")
    return lines


def _text_table(rows: Sequence[Sequence[str]], width: int) -> str:
    """A table; on a narrow screen without what can be told from the rest, or what a verdict can do without."""
    cells = [[words.one_line(cell) for cell in row] for row in rows]
    for spared in ("per unit", "used"):
        if _columns(cells) > width:
            place = cells[0].index(spared)
            cells = [[*row[:place], *row[place + 1 :]] for row in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    left = (0, len(widths) - 1)
    lines = [
        "  ".join(
            cell.ljust(room) if place in left else cell.rjust(room)
            for place, (cell, room) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join(itertools.chain(lines[:1], ["-" * _columns(cells)], lines[1:]))


def _columns(cells: Sequence[Sequence[str]]) -> int:
    """How many columns of text a table takes."""
    return sum(max(map(len, column)) + 2 for column in zip(*cells, strict=True)) - 2

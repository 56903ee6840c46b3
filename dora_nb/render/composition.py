"""A composition as a table, as text and as HTML."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dora_nb.domain.composition import Composition, ConditionFigures, Keep
from dora_nb.render import words
from dora_nb.render.accuracy import accuracy_lines
from dora_nb.render.html import fragment
from dora_nb.render.shares import shares_svg
from dora_nb.render.svg import attribute
from dora_nb.units import counted, format_joules, format_seconds

if TYPE_CHECKING:
    import pandas as pd


def composition_frame(mix: Composition) -> pd.DataFrame:
    """One row for every plan in every condition, units in the column names."""
    import pandas as pd

    rows = []
    for condition, figures in zip(mix.conditions.conditions, mix.figures, strict=True):
        for index, plan in enumerate(mix.plans):
            makespan_s, energy_j = figures.makespan_s[index], figures.energy_j[index]
            rows.append(
                {
                    "condition": condition.name,
                    "probability": condition.probability,
                    "plan": plan.label,
                    "weight": figures.weights[index],
                    "count": figures.counts[index],
                    "makespan_s": math.nan if makespan_s is None else makespan_s,
                    "energy_j": math.nan if energy_j is None else energy_j,
                    "mean_s": figures.mean_s,
                    "mean_j": figures.mean_j,
                    "missed_share": figures.missed_share,
                    "kept": figures.kept,
                }
            )
    return pd.DataFrame(rows)


def composition_text(mix: Composition) -> str:
    """What was asked, which plans are resident, how often each is used in which condition, and how good that is."""
    lines = [
        *asked_lines(mix),
        "",
        *(f"{words.plan_mark(i)}  {words.one_line(p.label)}" for i, p in enumerate(mix.plans)),
    ]
    heading = ["condition", "probability", *(words.plan_mark(i) for i in range(len(mix))), "latency", "energy", "kept"]
    rows = [_cells(mix, index) for index in range(len(mix.figures))]
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        return "  ".join([cells[0].ljust(widths[0]), *padded[1:]]).rstrip()

    lines += ["", line(heading), "-" * (sum(widths) + 2 * (len(widths) - 1)), *map(line, rows), "", *result_lines(mix)]
    return "\n".join(lines)


def composition_html(mix: Composition) -> str:
    """The same as a fragment of HTML."""
    heads = ["Condition", "Probability", *(words.plan_mark(i) for i in range(len(mix))), "Latency", "Energy", "Kept"]
    head = "".join(f'<th scope="col"{_left(place)}>{attribute(title)}</th>' for place, title in enumerate(heads))
    body = ""
    for index in range(len(mix.figures)):
        cells = "".join(f"<td{_left(place)}>{attribute(cell)}</td>" for place, cell in enumerate(_cells(mix, index)))
        body += f"<tr>{cells}</tr>"
    table = f'<table class="dora-plans"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    plans = "".join(
        f"<li>{words.plan_mark(index)}: {attribute(plan.label)}</li>" for index, plan in enumerate(mix.plans)
    )
    title, *rest = asked_lines(mix)
    return fragment(
        [
            f'<p class="dora-head">{attribute(title)}</p>',
            f'<p class="dora-faint">{"<br>".join(attribute(line) for line in rest)}</p>',
            f"<div>{composition_svg(mix)}</div>",
            f"<ul>{plans}</ul>",
            f'<div class="dora-scroll">{table}</div>',
            f"<ul>{''.join(f'<li>{attribute(line)}</li>' for line in result_lines(mix))}</ul>",
        ]
    )


def composition_svg(mix: Composition) -> str:
    """Which share of each condition's requests each plan takes, as stacked bars."""
    rows = [
        (
            f"{condition.name}, {100 * condition.probability:.3g} %",
            figures.weights,
            f"{format_seconds(figures.mean_s)}, {format_joules(figures.mean_j)}, "
            f"{'kept' if figures.kept else 'not kept'}",
        )
        for condition, figures in zip(mix.conditions.conditions, mix.figures, strict=True)
    ]
    title = f"Share of {counted(len(mix), 'plan')} in {counted(len(rows), 'condition')}"
    return shares_svg([plan.label or "plan" for plan in mix.plans], rows, title)


def _left(place: int) -> str:
    return "" if place else ' class="dora-left"'


def asked_lines(mix: Composition) -> list[str]:
    """What the composition is, and what was asked."""
    kept = "kept on the mean of every condition"
    if mix.keep == "tail":
        kept = f"kept by all but {100 * mix.missed_share:g} % of every condition's requests"
    return [
        f"{counted(len(mix), 'plan')} for {words.workload_words(mix.workload)} on {mix.cluster.name}, "
        f"{mix.conditions.name}",
        f"{words.qoe_words(mix.qoe)}; {kept}",
    ]


def _cells(mix: Composition, index: int) -> list[str]:
    condition, figures = mix.conditions.conditions[index], mix.figures[index]
    return [
        words.one_line(condition.name),
        f"{100 * condition.probability:.3g} %",
        *(f"{count}/{mix.window}" for count in figures.counts),
        format_seconds(figures.mean_s),
        format_joules(figures.mean_j),
        _kept(figures, mix.keep),
    ]


def _kept(figures: ConditionFigures, keep: Keep) -> str:
    over = f" ({100 * figures.missed_share:.3g} % over)" if keep == "tail" and figures.missed_share else ""
    return ("yes" if figures.kept else "no") + over


def result_lines(mix: Composition) -> list[str]:
    """How good it is, and what it takes."""
    proof = mix.certificate
    written = format_seconds if proof.unit == "s" else format_joules
    lines = [
        f"Expected {proof.objective} {written(proof.value)}, gap {100 * proof.gap:.2f} % to the bound "
        f"{written(proof.bound)} ({proof.status}).",
    ]
    if mix.single is not None and mix.single_value is not None:
        saved = 100 * (1 - proof.value / mix.single_value)
        lines.append(
            f"The best single plan found that keeps the limits in every condition: {written(mix.single_value)}; the "
            f"composition is {saved:.1f} % below."
        )
    else:
        lines.append("No single plan found keeps the limits in every condition.")
    if mix.workload.trains:
        shares = zip(mix.conditions.probabilities, mix.figures, strict=True)
        changing_s = sum(share * figures.switch_s for share, figures in shares)
        lines.append(
            f"Changing plans costs {format_seconds(changing_s)} in a window of {counted(mix.window, 'iteration')}."
        )
    fullest = max(mix.resident_bytes, key=lambda device: mix.resident_bytes[device] / mix.usable_bytes[device])
    lines.append(
        f"All plans resident: the fullest device is {fullest}, {mix.resident_bytes[fullest] / 1e9:.2f} of "
        f"{mix.usable_bytes[fullest] / 1e9:.2f} GB."
    )
    lines.append(f"Found in {format_seconds(mix.wall_s)} by {proof.solver}. All figures are predicted.")
    lines += accuracy_lines(mix.plans, mix.workload)
    return [words.one_line(line) for line in lines]

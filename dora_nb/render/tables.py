"""Plan sets as a data frame, as plain text and as a table for a terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from dora_nb.domain.plan import Plan
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.workload import Workload
from dora_nb.render import words
from dora_nb.render.accuracy import accuracy_lines
from dora_nb.render.wrapping import WIDTH, wrapped
from dora_nb.units import counted

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

_LONGEST_LABEL = 40


def plan_frame(plan_set: PlanSet) -> pd.DataFrame:
    """One row a plan, then the baselines, with units in the column names.

    Energies stand under both accountings. ``value``, ``bound`` and ``gap`` belong to the plan's ``objective`` and are
    in its ``unit`` (``gap`` is a fraction); they are empty for baselines, which prove nothing.
    """
    import pandas as pd

    rows = [_row(plan, "plan") for plan in plan_set.plans] + [_row(plan, "baseline") for plan in plan_set.baselines]
    return pd.DataFrame(rows, columns=list(_DTYPES)).astype(_DTYPES)


_DTYPES: dict[str, Any] = {
    "plan": "str",
    "makespan_s": "float64",
    "period_s": "float64",
    "first_token_s": "float64",
    "token_s": "float64",
    "energy_participating_j": "float64",
    "energy_all_on_j": "float64",
    "devices": "int64",
    "stages": "int64",
    "micro_batch": "int64",
    "micro_batches": "int64",
    "tied": "str",
    "objective": "str",
    "unit": "str",
    "value": "float64",
    "bound": "float64",
    "gap": "float64",
    "status": "str",
    "solver": "str",
    "kind": "str",
}


def _row(plan: Plan, kind: str) -> dict[str, object]:
    proof = plan.certificate
    return {
        "plan": plan.label,
        "makespan_s": words.makespan_s(plan),
        "period_s": math.nan if plan.prediction is None else plan.prediction.period_s,
        "first_token_s": None if plan.prediction is None else plan.prediction.first_token_s,
        "token_s": None if plan.prediction is None else plan.prediction.token_s,
        "energy_participating_j": words.energy_of("participating")(plan),
        "energy_all_on_j": words.energy_of("all-on")(plan),
        "devices": len(plan.devices),
        "stages": len(plan.stages),
        "micro_batch": plan.micro_batch,
        "micro_batches": plan.micro_batches,
        "tied": plan.tied,
        "objective": None if proof is None else proof.objective,
        "unit": None if proof is None else proof.unit,
        "value": math.nan if proof is None else proof.value,
        "bound": math.nan if proof is None else proof.bound,
        "gap": math.nan if proof is None else proof.gap,
        "status": None if proof is None else proof.status,
        "solver": None if proof is None else proof.solver,
        "kind": kind,
    }


def plan_text(plan_set: PlanSet) -> str:
    """A plan set as plain text of at most 110 columns: what was asked, the table, and what it says."""
    blocks = [
        "\n".join(wrapped(line) for line in words.asked_lines(plan_set)),
        _text_table(plan_set),
        "\n".join(wrapped(line) for line in plan_sentences(plan_set)),
    ]
    return "\n\n".join(blocks)


def plan_sentences(plan_set: PlanSet) -> list[str]:
    """What the table alone does not say: the comparison with baselines, and what the bounds rest on."""
    lines = [
        *words.pace_lines(plan_set),
        *words.comparison_lines(plan_set),
        *accuracy_lines(plan_set.plans, plan_set.workload),
        *words.solved_lines(plan_set),
        "All figures are predicted.",
    ]
    return [words.one_line(line) for line in lines]


def _text_table(plan_set: PlanSet) -> str:
    accounting = plan_set.qoe.energy_accounting
    heading = ["plan", "latency", f"energy ({accounting})", "devices", "bound", "gap", "status"]
    rows = [_cells(plan, plan_set, _LONGEST_LABEL) for plan in (*plan_set.plans, *plan_set.baselines)]
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
    left = {0, len(heading) - 1}

    def line(cells: list[str]) -> str:
        padded = (
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [line(heading), rule, *map(line, rows)]
    if plan_set.baselines:
        first_baseline = len(lines) - len(plan_set.baselines)
        lines[first_baseline:first_baseline] = [f"{words.BASELINES_HEAD}:"]
    return "\n".join(lines)


def rich_table(plan_set: PlanSet, width: int = WIDTH) -> Table:
    """A plan set as a table for a terminal; on fewer than 100 columns with the number of devices for their names."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    wide, accounting = width >= 100, plan_set.qoe.energy_accounting
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        header_style="bold",
        caption=f"Energy {words.COUNTED[accounting]} ({accounting}).",
        caption_justify="left",
    )
    for place, title in enumerate(("Plan", "Latency", "Energy", "Devices", "Bound", "Gap", "Status")):
        edge = place in (0, 6)
        names = title == "Devices" and wide  # a terminal has lines to spare for them, and they say more than a number
        justify: Literal["left", "right"] = "left" if edge or names else "right"
        wraps = names if wide else edge
        table.add_column(title, justify=justify, no_wrap=not wraps, max_width=24 if names else None)
    groups = [group for group in (plan_set.plans, plan_set.baselines) if group]
    for group in groups:
        for plan in group:
            style = "dim" if group is plan_set.baselines else "bold" if plan is plan_set.best else ""
            cells = [Text(cell) for cell in _cells(plan, plan_set, _LONGEST_LABEL)]
            if wide:
                cells[3] = Text(", ".join(words.one_line(device) for device in plan.devices))
            last = plan is group[-1] and group is not groups[-1]
            table.add_row(*cells, style=style, end_section=last)
    return table


def describe_plan(plan: Plan, workload: Workload) -> str:
    """A plan in a few lines: its micro-batches, then stage by stage which layers run where.

    Parameters
    ----------
    plan
        The plan.
    workload
        What it is for; gives the layers their names.
    """
    head = f"{plan.label or 'plan'}: {counted(len(plan.stages), 'stage')}, {words.split_words(plan)}"
    names = [layer.name for layer in workload.layers]
    return "\n".join([words.one_line(head), *(f"  {line}" for line in words.describe_stages(plan, names))])


def _cells(plan: Plan, plan_set: PlanSet, longest_label: int) -> list[str]:
    """What every table of plans shows, column by column."""
    qoe = plan_set.qoe
    return [
        words.shorten(words.one_line(plan.label or "plan"), longest_label),
        words.seconds_words(words.makespan_s(plan)),
        words.joules_words(words.energy_of(qoe.energy_accounting)(plan)),
        str(len(plan.devices)),
        words.bound_words(plan),
        words.gap_words(plan),
        words.status_words(plan, qoe),
    ]

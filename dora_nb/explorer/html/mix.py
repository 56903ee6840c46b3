"""A composition as HTML: stacked shares, and a ledger of the limits."""

from __future__ import annotations

from dora_nb.explorer.views.mix import MixCondition, MixView
from dora_nb.render import words
from dora_nb.render.html import fragment
from dora_nb.render.markup import head, items, table
from dora_nb.render.shares import shares_svg
from dora_nb.units import counted, format_joules, format_seconds


def mix_html(view: MixView) -> str:
    """A composition as a fragment of HTML."""
    kept = "The limits are kept in every condition."
    if not all(each.kept for each in view.conditions):
        kept = f"The limits are kept in conditions that {100 * view.kept_share:.3g} % of the requests meet."
    return fragment(
        [
            head(view.title, view.asked),
            f"<div>{_shares(view)}</div>",
            _ledger(view),
            _plans(view),
            items([kept, *view.lines] if any(each.ledger for each in view.conditions) else view.lines),
        ]
    )


def _shares(view: MixView) -> str:
    rows = [(_named(each), each.shares, "kept" if each.kept else "not kept") for each in view.conditions]
    if len(view.conditions) > 1:
        rows.append(("all conditions", tuple(plan.share for plan in view.plans), ""))
    conditions = counted(len(view.conditions), "condition")
    title = f"Share of {counted(len(view.plans), 'plan')} in {conditions}"
    return shares_svg([plan.label for plan in view.plans], rows, title)


def _named(condition: MixCondition) -> str:
    return f"{condition.name}, {100 * condition.probability:.3g} %"


def _ledger(view: MixView) -> str:
    """How far from each limit, condition by condition; means alone where there is no limit."""
    names = [entry.name for entry in view.conditions[0].ledger]
    titles = {"latency": "Latency, mean", "energy": "Energy, mean", "over": "Over a limit"}
    free = [name for name in ("latency", "energy") if name not in names]
    rows = []
    for each in view.conditions:
        means = {"latency": format_seconds(each.mean_s), "energy": format_joules(each.mean_j)}
        said = [entry.said for entry in each.ledger] + [means[name] for name in free]
        counts = " + ".join(map(str, each.counts))
        rows.append([_named(each), f"{counts} of {view.window}", *said, "yes" if each.kept else "no"])
    means = {"latency": format_seconds(view.mean_s), "energy": format_joules(view.mean_j), "over": words.NOTHING}
    rows.append(["all conditions", words.NOTHING, *(means[name] for name in (*names, *free)), words.NOTHING])
    heading = ["Condition", "Requests a window", *(titles[name] for name in (*names, *free)), "Kept"]
    return table(heading, rows, sentences=range(2, 2 + len(names)))


def _plans(view: MixView) -> str:
    rows = [[plan.mark, plan.label, words.sentence(plan.devices), f"{100 * plan.share:.3g} %"] for plan in view.plans]
    return table(["", "Plan", "Devices", "Share of all"], rows, left=(0, 1, 2))

"""A plan with slots for requests that want tokens, as text and as HTML."""

from __future__ import annotations

from collections.abc import Iterator

from dora_nb.domain.serving import Serving, ServingFigures, ServingGoal
from dora_nb.render import words
from dora_nb.render.html import fragment
from dora_nb.render.markup import details, head, items, table
from dora_nb.render.sharing import stages_words
from dora_nb.units import counted, format_bytes, format_joules, format_seconds

_HEADING = ("of a request", "mean", "worst", "limit")


def serving_lines(serving: Serving) -> list[str]:
    """The value and what is proven of it, what a request is predicted to see, and a line a device."""
    rows = [_HEADING, *_rows(serving)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(_HEADING))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [_headline(serving), *_proof(serving), *lines, *_place_lines(serving)]


def serving_text(serving: Serving) -> str:
    """The same as one text."""
    return "\n".join(serving_lines(serving))


def serving_html(serving: Serving) -> str:
    """The same as a fragment of HTML."""
    return fragment(
        [
            head(_headline(serving), *_proof(serving)),
            table(_HEADING, _rows(serving)),
            details("devices and media", items(_place_lines(serving))),
        ]
    )


def goal_text(goal: ServingGoal) -> str:
    """What is asked of serving, in a line."""
    aim = {"latency": "lowest latency", "energy": "least energy", "rate": "largest rate"}[goal.objective]
    rate = "" if goal.requests_per_s is None else f" at {goal.requests_per_s:.4g} requests/s"
    named = (
        ("time to first token", goal.first_token_s),
        ("time per token", goal.token_s),
        ("latency", goal.latency_s),
    )
    limits = [f"{name} at most {format_seconds(limit)}" for name, limit in named if limit is not None]
    counting = words.COUNTED[goal.energy_accounting]
    return f"Asked for: {aim}{rate}, {words.sentence(limits) or 'no limits'}; energy {counting}"


def figures_text(figures: ServingFigures) -> str:
    """What is predicted for requests, in a few lines."""
    pairs = (
        ("time to first token", figures.first_token_s, figures.worst_first_token_s),
        ("time per token", figures.token_s, figures.worst_token_s),
        ("latency", figures.latency_s, figures.worst_latency_s),
    )
    lines = [f"Predicted of {counted(figures.requests, 'request')}, {figures.requests_per_s:.4g} requests/s"]
    lines += [
        f"  {name}: {format_seconds(mean_s)} on the mean, {format_seconds(worst_s)} at worst"
        for name, mean_s, worst_s in pairs
        if mean_s is not None and worst_s is not None
    ]
    kept = "" if figures.keeps_up else ", too few: more and more wait"
    lines.append(f"  capacity: {figures.capacity_per_s:.4g} requests/s{kept}")
    lines.append(f"  a request: {format_joules(figures.energy_participating_j)}, {_carried(figures)} carried")
    return "\n".join(lines)


def _headline(serving: Serving) -> str:
    slots = f"{counted(serving.groups, 'group')} of {counted(serving.slots, 'slot')}"
    waves = f" in waves of {serving.wave}" if serving.wave > 1 else ""
    return (
        f"{serving.figures.requests_per_s:.3g} requests/s on {serving.cluster}, {slots}, {serving.batching} batching"
        f"{waves}: {stages_words(serving.plan)}"
    )


def _proof(serving: Serving) -> Iterator[str]:
    def said(value: float) -> str:
        return format_seconds(value) if serving.unit == "s" else f"{value:.4g} {serving.unit}"

    tried = counted(serving.played, "plan")
    yield (
        f"objective {serving.goal.objective}: {said(serving.value)}, bound {said(serving.bound)}, "
        f"gap {100 * serving.gap:.2f} % ({serving.status}), {tried} played, {serving.wall_s:.1f} s"
    )
    yield f"over: {serving.scope}"


def _rows(serving: Serving) -> list[tuple[str, ...]]:
    figures, goal = serving.figures, serving.goal
    rows = (
        ("time to first token", figures.first_token_s, figures.worst_first_token_s, goal.first_token_s),
        ("time per token", figures.token_s, figures.worst_token_s, goal.token_s),
        ("latency", figures.latency_s, figures.worst_latency_s, goal.latency_s),
    )
    return [
        (name, *(words.NOTHING if each is None else format_seconds(each) for each in seconds))
        for name, *seconds in rows
    ]


def _place_lines(serving: Serving) -> Iterator[str]:
    figures, accounting = serving.figures, serving.goal.energy_accounting
    yield (
        f"{format_joules(figures.energy_j(accounting))} a request ({accounting}), "
        f"{_carried(figures)} carried; capacity {figures.capacity_per_s:.3g} requests/s"
    )
    for each in figures.devices:
        if each.memory_bytes > 0:
            yield (
                f"{each.device}: computes {100 * each.load:.0f} % of the time, {format_bytes(each.memory_bytes)} of "
                f"{format_bytes(each.usable_memory_bytes)}, {each.power_w:.3g} W"
            )
    busiest = max(figures.media, key=lambda each: each.load, default=None)
    if busiest is not None:
        yield f"busiest on the network: {busiest.medium}, held {100 * busiest.load:.1f} % of the time"


def _carried(figures: ServingFigures) -> str:
    return format_bytes(figures.network_bytes) if figures.network_bytes else "nothing"

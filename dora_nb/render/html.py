"""Plan sets and plans as HTML for a notebook: no scripts, nothing fetched, readable in light and dark themes.

Text takes the colour of the page. The colours of marks come from the palette of Okabe and Ito, which people with any
kind of colour vision can tell apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dora_nb.domain.certificate import Certificate
from dora_nb.domain.plan import Plan
from dora_nb.domain.plan_set import PlanSet
from dora_nb.render import words
from dora_nb.render.accuracy import accuracy_lines
from dora_nb.render.certificates import certificate_pairs
from dora_nb.render.front import front_svg
from dora_nb.render.plans import plan_facts
from dora_nb.render.svg import attribute
from dora_nb.render.timeline import timeline_svg
from dora_nb.units import counted

__all__ = ["front_svg", "plan_html", "plan_set_html", "timeline_svg"]

_STYLE = """<style>
.dora-nb{color:var(--jp-content-font-color1,var(--vscode-foreground,inherit));
font-family:var(--jp-content-font-family,system-ui,-apple-system,"Segoe UI",Helvetica,Arial,sans-serif);
font-size:var(--jp-content-font-size1,14px);line-height:1.5;max-width:62em}
.dora-nb p{margin:.2em 0}
.dora-nb .dora-head{font-size:1.1em;font-weight:600;margin:.3em 0 0}
.dora-nb .dora-faint{opacity:.75}
.dora-nb .dora-scroll{overflow-x:auto;margin:.8em 0;container-type:inline-size}
.dora-nb table.dora-plans{border-collapse:collapse;margin:0;font-size:.93em;border:0;width:auto;table-layout:auto;
color:inherit}
.dora-nb .dora-plans th,.dora-nb .dora-plans td{padding:.3em clamp(.4em,1.2cqw,.75em);text-align:right;
white-space:nowrap;border:0;
background:transparent;color:inherit;font-variant-numeric:tabular-nums;vertical-align:baseline;max-width:none}
.dora-nb .dora-plans .dora-left{text-align:left}
.dora-nb .dora-plans td.dora-name{white-space:normal;min-width:clamp(10em,20cqw,17em);overflow-wrap:anywhere}
.dora-nb .dora-plans td.dora-words{white-space:normal;min-width:7em}
.dora-nb .dora-plans td.dora-mark{padding-right:0;opacity:.75;font-weight:400}
.dora-nb .dora-plans td.dora-group{font-size:.93em;opacity:.75;padding-top:.5em}
.dora-nb .dora-plans thead th{white-space:normal;font-weight:600;vertical-align:bottom;
border-bottom:1.5px solid var(--jp-border-color1,rgba(128,128,128,.7))}
.dora-nb .dora-plans thead small{display:block;font-weight:400;opacity:.75}
.dora-nb .dora-plans tbody tr{background:transparent}
.dora-nb .dora-plans tbody tr:hover{background:var(--jp-layout-color2,rgba(128,128,128,.12))}
.dora-nb .dora-plans tbody+tbody tr:first-child td{border-top:1px solid var(--jp-border-color1,rgba(128,128,128,.5))}
.dora-nb .dora-plans .dora-best td{font-weight:600}
.dora-nb .dora-plans .dora-base td{opacity:.75}
.dora-nb .dora-tag{font-weight:400;font-size:.85em;padding:.05em .5em;margin-left:.5em;border-radius:1em;
border:1px solid currentColor;opacity:.8;white-space:nowrap}
.dora-nb ul{margin:.5em 0;padding-left:1.3em}
.dora-nb li{margin:.15em 0}
.dora-nb details{margin:.5em 0}
.dora-nb summary{cursor:pointer}
.dora-nb .dora-who{display:grid;grid-template-columns:max-content 1fr;gap:.1em 1.2em;margin:.3em 0 .9em 1.2em}
.dora-nb .dora-who dt{opacity:.75;font-weight:400;margin:0;float:none;width:auto;white-space:nowrap}
.dora-nb .dora-who dd{margin:0;float:none;width:auto}
</style>"""


def plan_set_html(plan_set: PlanSet) -> str:
    """A plan set as a fragment of HTML: a heading, the table, the Pareto front, and what both say."""
    asked, limits = (attribute(line) for line in words.asked_lines(plan_set))
    parts = [
        f'<p class="dora-head">{attribute(_heading(plan_set))}</p>',
        f'<p class="dora-faint">{asked}<br>{limits}. All figures are predicted.</p>',
        f'<div class="dora-scroll">{_table(plan_set)}</div>',
        f"<div>{front_svg(plan_set)}</div>",
        _items(
            [
                *words.pace_lines(plan_set),
                *words.comparison_lines(plan_set),
                *accuracy_lines(plan_set.plans, plan_set.workload),
            ]
        ),
        _details("Who runs what", "".join(_who(plan, plan_set) for plan in plan_set.plans)),
        _details("What the bounds rest on", _items(words.solved_lines(plan_set))),
    ]
    return fragment(parts)


def plan_html(plan: Plan) -> str:
    """One plan as a fragment of HTML: its figures, and which layers run where."""
    parts = [
        f'<p class="dora-head">{attribute(plan.label or "plan")}: {counted(len(plan.stages), "stage")}</p>',
        f'<p class="dora-faint">{attribute("; ".join(plan_facts(plan)))}</p>',
        _described(words.describe_stages(plan, [f"layer {index}" for index in range(plan.layer_count)])),
    ]
    return fragment(parts)


def certificate_html(certificate: Certificate) -> str:
    """How good a plan is proven to be, field by field."""
    return fragment([pairs(certificate_pairs(certificate))])


def _heading(plan_set: PlanSet) -> str:
    best, qoe = plan_set.best, plan_set.qoe
    seconds = words.seconds_words(words.makespan_s(best))
    joules = words.joules_words(words.energy_of(qoe.energy_accounting)(best))
    figure = {
        "latency": f"lowest latency {seconds}",
        "energy": f"least energy {joules}",
        "price": f"lowest price: {seconds}, {joules}",
    }[qoe.objective]
    proof = "" if best.certificate is None else f", gap {words.gap_words(best)}"
    plans = counted(len(plan_set), "plan")
    return f"{plans} for {plan_set.workload.name} on {plan_set.cluster.name}: {figure}{proof}"


_HEADS = (
    ("Latency", ""),
    ("Energy", "participating"),
    ("Energy", "all-on"),
    ("Devices", ""),
    ("Bound", ""),
    ("Gap", ""),
)


def _table(plan_set: PlanSet) -> str:
    figures = "".join(
        f'<th scope="col">{title}{f"<small>{unit}</small>" if unit else ""}</th>' for title, unit in _HEADS
    )
    head = f'<th></th><th scope="col" class="dora-left">Plan</th>{figures}<th scope="col" class="dora-left">Status</th>'
    bodies = ["".join(_row(words.plan_mark(index), plan, plan_set) for index, plan in enumerate(plan_set.plans))]
    if plan_set.baselines:
        title = f'<td colspan="{len(_HEADS) + 2}" class="dora-left dora-group">{words.BASELINES_HEAD}</td>'
        rows = [_row(words.baseline_mark(index), plan, plan_set) for index, plan in enumerate(plan_set.baselines)]
        bodies.append(f"<tr><td></td>{title}</tr>{''.join(rows)}")
    body = "".join(f"<tbody>{rows}</tbody>" for rows in bodies)
    return f'<table class="dora-plans"><thead><tr>{head}</tr></thead>{body}</table>'


def _row(mark: str, plan: Plan, plan_set: PlanSet) -> str:
    best = plan is plan_set.best
    tag = f' <span class="dora-tag">best {plan_set.qoe.objective}</span>' if best else ""
    name = f'<td class="dora-left dora-name">{attribute(plan.label or "plan")}{tag}</td>'
    cells = [
        words.seconds_words(words.makespan_s(plan)),
        words.joules_words(words.energy_of("participating")(plan)),
        words.joules_words(words.energy_of("all-on")(plan)),
        str(len(plan.devices)),
        words.bound_words(plan),
        words.gap_words(plan),
    ]
    figures = "".join(f"<td>{attribute(_dash(cell))}</td>" for cell in cells)
    status = f'<td class="dora-left">{attribute(_dash(words.status_words(plan, plan_set.qoe)))}</td>'
    kind = ' class="dora-best"' if best else ' class="dora-base"' if plan in plan_set.baselines else ""
    return f'<tr{kind}><td class="dora-mark">{mark}</td>{name}{figures}{status}</tr>'


def _dash(cell: str) -> str:
    return "\u2013" if cell == words.NOTHING else cell


def _who(plan: Plan, plan_set: PlanSet) -> str:
    names = [layer.name for layer in plan_set.workload.layers]
    title = f'<p>{attribute(plan.label or "plan")} <span class="dora-faint">({words.split_words(plan)})</span></p>'
    return title + _described(words.describe_stages(plan, names))


def _described(lines: Iterable[str]) -> str:
    named = (line.split(":", 1) for line in lines)
    return pairs((term.strip(), text.strip()) for term, text in named)


def pairs(named: Iterable[tuple[str, str]]) -> str:
    """Names with a text each, side by side."""
    body = "".join(f"<dt>{attribute(term)}</dt><dd>{attribute(text)}</dd>" for term, text in named)
    return f'<dl class="dora-who">{body}</dl>'


def _items(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{attribute(line)}</li>' for line in lines)}</ul>" if lines else ""


def _details(summary: str, body: str) -> str:
    return f"<details><summary>{summary}</summary>{body}</details>" if body else ""


def page(title: str, content: str) -> str:
    """A whole document around a fragment, for a file that is opened in a browser.

    Parameters
    ----------
    title
        Plain text.
    content
        Made by one of this room's functions.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{attribute(title)}</title>\n<style>body{{margin:2em}}</style>\n</head>\n<body>\n{content}\n"
        "</body>\n</html>\n"
    )


def fragment(parts: Iterable[str]) -> str:
    """Parts with their style, as one element."""
    return f'<div class="dora-nb">{_STYLE}{"".join(parts)}</div>'

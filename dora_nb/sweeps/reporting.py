"""A report of a sweep: one page of HTML that holds all it needs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dora_nb.domain.document import write_whole
from dora_nb.errors import MissingDependencyError
from dora_nb.render.html import fragment, page
from dora_nb.render.svg import attribute
from dora_nb.sweeps.folder import read_rows
from dora_nb.sweeps.views import HeatMap, SweepView, sweep_view
from dora_nb.units import counted

#: Lines of a list of changes that a page shows; the figure shows all.
_MOST_CHANGES = 40


def load_view(folder: str | Path) -> SweepView:
    """What the tables in a sweep's folder come to.

    Raises
    ------
    DocumentError
        If one is missing or cannot be read.
    """
    return sweep_view(read_rows(folder, "results"), read_rows(folder, "timings"))


def report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write one HTML file about a sweep; it needs no network, and its plots can be zoomed and pointed at.

    Parameters
    ----------
    folder
        Of the sweep.
    out
        Where to; None: ``report.html`` in the folder.

    Returns
    -------
    Path
        Of the file.

    Raises
    ------
    DocumentError
        If a table is missing or cannot be read, or the file cannot be written.
    MissingDependencyError
        If plotly is not installed.
    """
    view = load_view(folder)
    return write_whole(Path(folder) / "report.html" if out is None else out, report_page(view))


def report_page(view: SweepView) -> str:
    """The page as text."""
    return page("dora_nb: a sweep", fragment(_parts(view)))


def _parts(view: SweepView) -> Iterable[str]:
    try:
        from dora_nb.explorer.figures import figure_html
        from dora_nb.sweeps.figures import changes_figure, effort_figure, front_figure, heat_figure, letter_rows
    except ModuleNotFoundError as error:
        raise MissingDependencyError(error.name or "plotly", "a report", "explore") from None

    drawn = 0

    def shown(figure: Any) -> str:
        nonlocal drawn
        drawn += 1
        return figure_html(figure, with_library=drawn == 1)  # plotly.js once, for all of them

    yield f'<p class="dora-head">A sweep of {counted(view.points, "point")}</p>'
    yield f'<p class="dora-faint">{summary_words(view)}</p>'
    for front in view.fronts:
        yield shown(front_figure(front))
    for heat in view.maps:
        yield shown(heat_figure(heat))
        if heat.is_grid:
            yield shown(changes_figure(heat))
            yield _letters(letter_rows(heat))
        yield _changes(heat)
    if view.efforts:
        yield shown(effort_figure(view.efforts))
    if not drawn:
        yield "<p>There is nothing to draw: rows have neither makespan_s and energy_j, nor bandwidths and limits.</p>"


def summary_words(view: SweepView) -> str:
    """What was found, in one line."""
    parts = [f"{counted(view.plans, 'plan')} found"]
    if view.without_plan:
        parts.append(f"{counted(view.without_plan, 'point')} without a plan that keeps the limits")
    if view.failed:
        parts.append(f"{counted(view.failed, 'point')} failed and not in the figures")
    return "; ".join(parts) + ". Latency and energy are predicted, planning times are measured."


def _letters(rows: list[tuple[str, str]]) -> str:
    body = "".join(f"<dt>{letter}</dt><dd>{attribute(placement)}</dd>" for letter, placement in rows)
    return (
        f'<details><summary>Layers and devices behind the letters</summary><dl class="dora-who">{body}</dl></details>'
    )


def _changes(heat: HeatMap) -> str:
    changes = heat.changes()
    if not changes:
        return "<p>The best plan is the same at every point.</p>"
    lines = [f"<li>{attribute(between)}: {attribute(change)}</li>" for between, change in changes[:_MOST_CHANGES]]
    if len(changes) > _MOST_CHANGES:
        lines.append(f"<li>and {len(changes) - _MOST_CHANGES} more, which the figure shows</li>")
    often = counted(len(changes), "time")
    return f"<details><summary>Where plans change: {often}</summary><ul>{''.join(lines)}</ul></details>"

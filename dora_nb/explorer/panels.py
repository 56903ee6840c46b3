"""What stands below the drawings: the plans as a table, two side by side, a composition, the executor, what to keep."""

from __future__ import annotations

from typing import Any, Protocol

import ipywidgets

from dora_nb.domain.composition import Composition
from dora_nb.explorer.controls import Act, button, wide
from dora_nb.explorer.drawing import Drawn, table_of
from dora_nb.explorer.html.difference import difference_html
from dora_nb.explorer.html.mix import mix_html
from dora_nb.explorer.state import ExplorerState
from dora_nb.explorer.views.mix import mix_view
from dora_nb.render import words
from dora_nb.render.comparison import comparison_html
from dora_nb.render.html import fragment
from dora_nb.render.markup import items, table

_NO_MIX = (
    "A composition says which plans run how often as conditions change: mix = dora.compose(workload, cluster, qoe, "
    "conditions), then plans.explore(mix)."
)


class Panel(Protocol):
    """One of the tabs."""

    title: str
    box: Any

    def show(self) -> None:
        """What the state says."""


_NOTHING_BESIDE = (
    "Pick another plan here, or with Shift and a click in the plot, to see what moves between the two, at what cost."
)


def _html() -> ipywidgets.HTML:
    return ipywidgets.HTML(layout=wide())


def _panel(*parts: Any) -> ipywidgets.VBox:
    box = ipywidgets.VBox(list(parts))
    box.add_class("dora-panel")
    return box


class PlansPanel:
    """The known plans as a table."""

    title = "Plans"

    def __init__(self, state: ExplorerState, drawn: Drawn) -> None:
        self._state, self._table, self._drawn = state, _html(), drawn
        self.box = _panel(self._table)

    def show(self) -> None:
        """What the state says."""
        if not self._drawn.is_new("table", self._state.known, self._state.qoe, self._state.answer):
            return
        heading, rows = table_of(self._state)
        best = "* the best for what is asked now" if self._state.answer >= 0 else ""
        self._table.value = fragment(
            [table(heading, rows, left=(0, 5, 6), sentences=(1, 4)), f'<p class="dora-faint">{best}</p>']
        )


class ComparePanel:
    """The plan looked at beside another one."""

    title = "Compare"

    def __init__(self, state: ExplorerState, act: Act, drawn: Drawn) -> None:
        self._state, self._told, self._drawn = state, _html(), drawn
        self._other = ipywidgets.Dropdown(
            description="Beside", tooltip="Which plan to hold beside the one that is looked at", layout=wide()
        )
        self._other.observe(lambda change: act(lambda: state.compare_with(change["new"])), "value")
        self.box = _panel(self._other, self._told)

    def show(self) -> None:
        """What the state says."""
        state = self._state
        if not self._drawn.is_new("compared", state.known, state.selected, state.compared):
            return
        names = [f"{words.plan_mark(place)}  {known.plan.label or 'plan'}" for place, known in enumerate(state.known)]
        options = [("no other plan", -1), *((name, place) for place, name in enumerate(names))]
        if self._drawn.is_new("options", options):
            self._other.options = options
        self._other.value = state.compared
        view = state.difference
        self._told.value = fragment([items([_NOTHING_BESIDE])]) if view is None else difference_html(view)


class MixPanel:
    """A composition."""

    title = "Composition"

    def __init__(self, mix: Composition | None) -> None:
        self.box = _panel(_html())
        self.box.children[0].value = fragment([items([_NO_MIX])]) if mix is None else mix_html(mix_view(mix))

    def show(self) -> None:
        """Nothing changes."""


class RunPanel:
    """The plan looked at sent to the executor."""

    title = "Run"

    def __init__(self, state: ExplorerState, act: Act, drawn: Drawn) -> None:
        self._state, self._drawn = state, drawn
        self._steps = ipywidgets.BoundedIntText(
            description="Steps", value=3, min=1, max=1000, tooltip="Training steps, batches or requests", layout=wide()
        )
        tip = "Run the plan that is looked at for real: on this machine, a process for each device"
        self._run = button("Run this plan", tip, lambda: act(lambda: state.run(steps=int(self._steps.value))))
        self._cancel = button("Cancel the run", "Stop it and its processes", lambda: act(state.cancel_run))
        self._source = ipywidgets.ToggleButtons(
            options=[("Prediction", False), ("This run", True)],
            tooltips=["What the plan is predicted to do on the cluster", "What the run did on this machine"],
            description="Timeline",
            disabled=True,
        )
        self._source.observe(lambda _: act(lambda: None), "value")
        self._said, self._compared = _html(), _html()
        self._shown: Any = None
        row = ipywidgets.HBox([self._run, self._steps, self._cancel])
        row.add_class("dora-row")
        self.box = _panel(row, self._said, self._source, self._compared)

    def in_timeline(self, state: ExplorerState) -> bool:
        """Whether the run is shown in the timeline: once there is something of it, until another plan is picked."""
        there = state.run_view is not None and state.run_view.predicted is not None
        shown_first, picked = self._drawn.is_new("there", there), self._drawn.is_new("picked", state.selected)
        if shown_first:
            self._source.value, self._source.disabled = there, not there
        elif picked:
            self._source.value = False
        return bool(self._source.value)

    def show(self) -> None:
        """What the state says."""
        view = self._state.run_view
        going_on = view is not None and not view.over
        self._run.disabled = going_on or self._state.selected < 0
        self._cancel.disabled = not going_on
        if view is None or view is self._shown:
            return
        self._shown = view
        said = f"{view.sentence} {f'Shown: {view.step}.' if view.step else ''}"
        self._said.value = fragment([f'<p role="status">{words.one_line(said)}</p>'])
        self._compared.value = "" if view.comparison is None else comparison_html(view.comparison)


class KeepPanel:
    """The plan as a file, the question and the plan as Python."""

    title = "Keep"

    def __init__(self, state: ExplorerState, act: Act) -> None:
        self._state, self._said = state, _html()
        self._path = ipywidgets.Text(
            description="File", value="plan.json", tooltip="Where to write the plan file", layout=wide()
        )
        save = button("Save plan file", "The plan with workload, cluster and limits", lambda: act(self._save))
        python = button("Show Python", "Code that gives what is looked at in a fresh kernel", lambda: act(self._write))
        self._code = ipywidgets.Textarea(description="Python", disabled=False, rows=9, tooltip="To copy", layout=wide())
        self._code.add_class("dora-code")
        row = ipywidgets.HBox([self._path, save, python])
        row.add_class("dora-row")
        self.box = _panel(row, self._said, self._code)

    def _save(self) -> None:
        path = self._state.save(self._path.value)
        self._said.value = fragment([items([f"Saved to {path}."])])

    def _write(self) -> None:
        self._code.value = self._state.snippet(self._path.value)

    def show(self) -> None:
        """Written when it is asked for."""

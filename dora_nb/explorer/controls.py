"""The sliders and buttons of the explorer: limits and objective, what if, and the smallest changes that help."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets

from dora_nb.explorer.drawing import Drawn
from dora_nb.explorer.state import ExplorerState
from dora_nb.render import svg, words
from dora_nb.render.explanations import changes_words, relaxation_words
from dora_nb.render.svg import attribute

#: Runs what a control does, and shows what is refused.
Act = Callable[[Callable[[], object]], None]

#: Octaves up and down that factors can be dragged over, and steps in an octave.
_OCTAVES, _STEPS = 3.0, 8

#: Steps of a slider of a limit, and how far beyond the known plans it goes.
_FINE, _BEYOND = 200, 1.25

_AIMS = (("Lowest latency", "latency"), ("Least energy", "energy"), ("Lowest price", "price"))

#: Worth of a second when the price is first asked for.
_FIRST_PRICE = 5.0


def wide(**layout: Any) -> ipywidgets.Layout:
    """As wide as there is room."""
    return ipywidgets.Layout(**({"width": "auto"} | layout))


class LimitControl:
    """A limit that can be set and dragged.

    Parameters
    ----------
    name
        What is limited.
    scaled
        Scale and unit: a number is divided by the scale to be shown in the unit, as on the plot's axis.
    field
        Of the QoE.
    values
        What the known plans reach.
    state, act, drawn
        What is asked, how, and what was shown last.
    """

    def __init__(
        self,
        name: str,
        scaled: tuple[float, str],
        field: str,
        values: Sequence[float],
        state: ExplorerState,
        act: Act,
        drawn: Drawn,
    ) -> None:
        self._field, self._state, self._drawn = field, state, drawn
        self._scale, unit = scaled
        low, high = min(values) / self._scale / _BEYOND, max(values) / self._scale * _BEYOND
        step = _round(((high - low) or 1.0) / _FINE)
        self._slider = ipywidgets.FloatSlider(
            description=f"At most ({unit})",
            min=round(max(1, math.floor(low / step)) * step, 12),
            max=round(math.ceil(high / step) * step, 12),
            step=step,
            value=round(math.ceil(max(values) / self._scale / step) * step, 12),
            readout_format=f",.{max(0, -math.floor(math.log10(step)))}f",
            tooltip=f"{'Longest' if name == 'latency' else 'Largest'} {name} allowed",
            layout=wide(),
        )
        self._on = ipywidgets.Checkbox(
            description=f"Limit the {name}", indent=False, tooltip=f"Whether the {name} is limited", layout=wide()
        )
        self.box = ipywidgets.VBox([self._on, self._slider])
        self._slider.observe(lambda change: act(lambda: self._drag(change["new"])), "value")
        self._on.observe(lambda change: act(lambda: self._ask(self._slider.value if change["new"] else None)), "value")

    def _asked(self) -> float | None:
        """The limit of now in the slider's unit; None where there is none."""
        value: float | None = getattr(self._state.qoe, self._field)
        return None if value is None else value / self._scale

    def _drag(self, value: float) -> None:
        shown = self._asked()
        if shown is not None and not is_snapped(value, shown, self._slider.min, self._slider.step):
            self._ask(value)

    def _ask(self, value: float | None) -> None:
        if value is not None:
            self._state.ask(**{self._field: value * self._scale})
        else:  # the price goes with the limit
            self._state.ask(**{self._field: None, f"{self._field[:-2]}_price": None})

    def show(self) -> None:
        """What the state says."""
        value = self._asked()
        self._drawn.put(self._on, "value", value is not None)
        self._slider.disabled = value is None
        if value is not None:
            _reach(self._slider, value)
            self._drawn.put(self._slider, "value", value)


def is_snapped(value: float, shown: float, low: float, step: float) -> bool:
    """Whether a value is what a browser makes of the one that is shown: the nearest one that its slider can have.

    Nobody moved the slider then, and nothing is asked for.
    """
    nearest = low + round((shown - low) / step) * step
    return abs(value - nearest) < step / 1000


def _reach(slider: Any, value: float) -> None:
    """Move the ends of a slider by whole steps until it holds a value."""
    slider.min -= math.ceil(max(0.0, slider.min - value) / slider.step) * slider.step
    slider.max += math.ceil(max(0.0, value - slider.max) / slider.step) * slider.step


def _round(step: float) -> float:
    """The next smaller power of ten, times 1, 2 or 5."""
    power = 10.0 ** math.floor(math.log10(step))
    return max(power * factor for factor in (1, 2, 5) if power * factor <= step * (1 + 1e-9))


class QoEControls:
    """Limits and objective, what they change, and the way back."""

    def __init__(self, state: ExplorerState, act: Act, drawn: Drawn) -> None:
        self._state, self._act, self._drawn = state, act, drawn
        figures = [known.plan.prediction for known in state.known]
        joules = [each.energy_j(state.qoe.energy_accounting) for each in figures]
        seconds = [each.makespan_s for each in figures]
        self._limits = [
            LimitControl("latency", svg.time_scale(max(seconds)), "latency_s", seconds, state, act, drawn),
            LimitControl("energy", svg.energy_scale(max(joules)), "energy_j", joules, state, act, drawn),
        ]
        self._aim = ipywidgets.Dropdown(
            description="Best is", options=_AIMS, tooltip="What the best plan minimises", layout=wide()
        )
        self._price = ipywidgets.BoundedFloatText(
            description="J a second",
            value=_FIRST_PRICE,
            min=0.0,
            max=1e9,
            tooltip="How many joules a second of latency is worth",
            layout=wide(),
        )
        self._cancel = button("Cancel", "Stop solving, with the best plan so far", lambda: act(state.cancel))
        self._again = button("As asked first", "All limits and what-ifs as they were", lambda: act(state.reset))
        self._effect = ipywidgets.HTML(layout=wide())
        self._offered = ipywidgets.VBox(layout=wide())
        room = ipywidgets.VBox([self._effect, self._offered])
        room.add_class("dora-room")
        self._offers: Any = None
        self._aim.observe(lambda change: act(lambda: self._ask(change["new"], self._price.value)), "value")
        self._price.observe(lambda change: act(lambda: self._ask("price", change["new"])), "value")
        self.box = ipywidgets.VBox(
            [
                self._aim,
                self._price,
                *(each.box for each in self._limits),
                ipywidgets.HBox([self._cancel, self._again]),
                room,
            ]
        )
        self.box.add_class("dora-controls")

    def _ask(self, aim: str, price: float) -> None:
        self._state.ask(objective=aim, **({"joules_per_s": price} if aim == "price" else {}))

    def show(self) -> None:
        """What the state says."""
        state = self._state
        for each in self._limits:
            each.show()
        self._drawn.put(self._aim, "value", state.qoe.objective)
        self._price.disabled = state.qoe.objective != "price"
        if state.qoe.joules_per_s is not None:
            self._drawn.put(self._price, "value", state.qoe.joules_per_s)
        self._cancel.disabled = not state.progress.going_on
        self._effect.value = _effect_html(state)
        if self._offers is not state.relaxations:
            self._offers, offered = state.relaxations, self._offered.children
            self._offered.children = [self._offer(place) for place in range(len(state.relaxations))]
            for each in offered:
                close(each)

    def _offer(self, place: int) -> ipywidgets.Button:
        relaxation = self._state.relaxations[place]
        said = changes_words(relaxation)
        offer = button(
            f"{said[:1].upper()}{said[1:]}",
            f"Ask with {relaxation_words(relaxation)}",
            lambda: self._act(lambda: self._state.apply(relaxation)),
        )
        offer.add_class("dora-offer")
        return offer


def _effect_html(state: ExplorerState) -> str:
    effect = state.effect
    if effect is None:
        return ""
    head = f"Against what was asked first, with {words.sentence(effect.changed)}:"
    lines = "".join(f"<li>{attribute(line)}</li>" for line in effect.lines)
    return f'<div class="dora-effect">{attribute(head)}<ul>{lines}</ul></div>'


class WhatIfControls:
    """A faster or slower network or device, more or less memory, another batch."""

    title = "What if"

    def __init__(self, state: ExplorerState, act: Act, drawn: Drawn) -> None:
        self._state, self._drawn = state, drawn
        workload, ids = state.plans.workload, state.plans.cluster.device_ids
        self._bandwidth = _factor("Bandwidth x", "What all rates of the network are multiplied by")
        self._device = ipywidgets.Dropdown(
            description="Device", options=ids, tooltip="Whose speed and memory are changed", layout=wide()
        )
        self._speed = _factor("Its speed x", "What the computing of the device is multiplied by")
        self._memory = _factor("Its memory x", "What the memory of the device is multiplied by")
        self._batch = ipywidgets.BoundedIntText(
            description="Batch",
            value=workload.batch,
            min=1,
            max=64 * workload.batch,
            tooltip="Samples per iteration or batch",
            layout=wide(),
        )
        self._now = ipywidgets.HTML(layout=wide())
        again = button("As it was", "No what-if, the limits stay", lambda: act(self._undone))
        for slider, ask in (
            (self._bandwidth, lambda factor: state.what_if(bandwidth=factor)),
            (self._speed, lambda factor: state.what_if(speed={self._device.value: factor})),
            (self._memory, lambda factor: state.what_if(memory={self._device.value: factor})),
        ):
            slider.observe(
                lambda change, ask=ask: act(lambda: self._drag(change["owner"], change["new"], ask)), "value"
            )
        self._batch.observe(lambda change: act(lambda: self._ask_batch(change["new"])), "value")
        self._device.observe(lambda _: act(lambda: None), "value")
        device = [self._device, self._speed, self._memory]
        self.box = ipywidgets.VBox(
            [
                ipywidgets.HTML("Devices are switched off and on by a click on them in the map.", layout=wide()),
                self._bandwidth,
                self._batch,
                *device,
                ipywidgets.HBox([again]),
                self._now,
            ]
        )
        self.box.add_class("dora-controls")

    def _factors(self) -> dict[Any, float]:
        """What each slider is to show."""
        changed, device = self._state.changed, self._device.value
        speed, memory = changed.speed.get(device, 1.0), changed.memory.get(device, 1.0)
        return {self._bandwidth: changed.bandwidth, self._speed: speed, self._memory: memory}

    def _drag(self, slider: Any, factor: float, ask: Callable[[float], None]) -> None:
        shown = math.log2(self._factors()[slider])
        if not is_snapped(math.log2(factor), shown, slider.min, slider.step):
            ask(factor)

    def _ask_batch(self, batch: int) -> None:
        self._state.what_if(batch=None if batch == self._state.plans.workload.batch else batch)

    def _undone(self) -> None:
        changed = self._state.changed
        one = {name: dict.fromkeys(getattr(changed, name), 1.0) for name in ("speed", "memory")}
        self._state.what_if(bandwidth=1.0, batch=None, off=(), **one)

    def show(self) -> None:
        """What the state says."""
        changed = self._state.changed
        for slider, factor in self._factors().items():
            _reach(slider, math.log2(factor))
            self._drawn.put(slider, "value", factor)
        self._drawn.put(self._batch, "value", changed.batch or self._state.plans.workload.batch)
        self._now.value = attribute(f"Now: {words.sentence(changed.lines()) or 'as it was asked for'}.")


def _factor(description: str, tooltip: str) -> ipywidgets.FloatLogSlider:
    return ipywidgets.FloatLogSlider(
        description=description,
        tooltip=tooltip,
        value=1.0,
        base=2.0,
        min=-_OCTAVES,
        max=_OCTAVES,
        step=1 / _STEPS,
        readout_format=".3g",
        layout=wide(),
    )


def button(description: str, tooltip: str, act: Callable[[], None]) -> ipywidgets.Button:
    """A button that does something."""
    made = ipywidgets.Button(description=description, tooltip=tooltip, layout=wide())
    made.on_click(lambda _: act())
    return made


def close(widget: Any) -> None:
    """Close a widget with all that belongs to it: what is inside, its layout and its style."""
    for child in getattr(widget, "children", ()):
        close(child)
    for part in (getattr(widget, "layout", None), getattr(widget, "style", None), widget):
        if isinstance(part, ipywidgets.Widget):
            part.close()

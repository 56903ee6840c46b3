"""Two plans side by side, or one plan in two situations: which layers moved, and what it costs or brings."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

from dora_nb.costs.resident import held_shares, held_units, unit_bytes
from dora_nb.costs.switching import Switch, move
from dora_nb.domain.plan import Plan, Stage
from dora_nb.domain.qoe import EnergyAccounting
from dora_nb.domain.record import Record
from dora_nb.errors import InputError
from dora_nb.explorer.views.cases import Case, Figure, figures_of, same_figures
from dora_nb.render import words
from dora_nb.units import format_bytes, format_joules, format_seconds


class Runner(Record):
    """A device that runs some layers, with the samples of every micro-batch that it takes.

    ``parts`` says what it holds of every sliced layer, and nothing where it holds whole layers.
    """

    device: str
    samples: int
    parts: str = ""


class LayerRange(Record):
    """Neighbouring layers that the same devices run.

    Attributes
    ----------
    first_layer, stop_layer
        Layers ``first_layer`` to ``stop_layer - 1``.
    layers
        By name.
    before, after
        Who runs them.
    moved_bytes
        Of parameters, in training with optimizer state, that devices need after and do not hold before.
    """

    first_layer: int
    stop_layer: int
    layers: str
    before: tuple[Runner, ...]
    after: tuple[Runner, ...]
    moved_bytes: float

    @property
    def moved(self) -> bool:
        """Whether other devices run them."""
        return {each.device for each in self.before} != {each.device for each in self.after}


class DifferenceView(Record):
    """Two plans side by side.

    Attributes
    ----------
    before, after
        What the two are called.
    lines
        What changes, in sentences.
    ranges
        Who runs which layers, first to last.
    figures
        Of the whole plan, then by device, then by domain.
    moved_bytes
        Parameters (in training with optimizer state) that devices need after and do not hold before.
    move_s, move_j
        What sending them would take, everything at once; None where no one cluster has all devices, or a plan has
        shards.
    """

    before: str
    after: str
    lines: tuple[str, ...]
    ranges: tuple[LayerRange, ...]
    figures: tuple[Figure, ...]
    moved_bytes: float
    move_s: float | None
    move_j: float | None

    def figure(self, name: str) -> Figure:
        """The figure of a name."""
        return next(each for each in self.figures if each.name == name)

    def __repr__(self) -> str:
        return "\n".join([f"{self.before} against {self.after}", *self.lines])

    __str__ = __repr__

    def _repr_html_(self) -> str:
        from dora_nb.explorer.html.difference import difference_html  # it imports this module

        return difference_html(self)


def difference_view(before: Case, after: Case, accounting: EnergyAccounting = "participating") -> DifferenceView:
    """What changes from a plan to another, or for a plan from a situation to another.

    Parameters
    ----------
    before, after
        With the same layers; batch, devices and rates may differ.
    accounting
        Whose energy counts.

    Raises
    ------
    InputError
        If the layers differ, or a plan was not evaluated.
    """
    names = [layer.name for layer in before.workload.layers]
    if names != [layer.name for layer in after.workload.layers]:
        raise InputError("after.workload", after.workload.name, f"the same layers as {before.workload.name}")
    ranges = tuple(_ranges(before, after, names))
    cost = _move(before, after, accounting)
    title = _titles(before, after)
    lines = [*_gains(before, after, accounting), *_moves(before, after, ranges), *_costs(before, after, ranges, cost)]
    return DifferenceView(
        before=title[0],
        after=title[1],
        lines=tuple(map(words.one_line, lines)),
        ranges=ranges,
        figures=tuple(figures_of(before, after, accounting)),
        moved_bytes=sum(each.moved_bytes for each in ranges),
        move_s=None if cost is None else cost.duration_s,
        move_j=None if cost is None else cost.energy_j,
    )


def _titles(before: Case, after: Case) -> tuple[str, str]:
    first, second = (words.one_line(each.name or each.plan.label or "plan") for each in (before, after))
    return (first, second) if first != second else (f"{first}, before", f"{second}, after")


# ---------------------------------------------------------------------------------------------- layers


def _runners(plan: Plan, layers: int) -> list[tuple[Runner, ...]]:
    """Who runs each layer."""

    def of(stage: Stage) -> tuple[Runner, ...]:
        return tuple(
            Runner(
                device=each.device,
                samples=each.samples,
                parts=words.part_words(stage, place) if stage.shards else "",
            )
            for place, each in enumerate(stage.replicas)
        )

    found = [of(plan.stages[-1])] * layers  # a hosted first layer is in no stage of its own
    for stage in plan.stages:
        found[stage.first_layer : stage.stop_layer] = [of(stage)] * (stage.stop_layer - stage.first_layer)
    return found


def _ranges(before: Case, after: Case, names: Sequence[str]) -> Iterator[LayerRange]:
    first, second = (_runners(case.plan, len(names)) for case in (before, after))
    to_move = _bytes_to_move(before, after)
    start = 0
    for (was, will), layers in itertools.groupby(zip(first, second, strict=True)):
        stop = start + len(list(layers))
        yield LayerRange(
            first_layer=start,
            stop_layer=stop,
            layers=words.layer_words(names[start:stop]),
            before=was,
            after=will,
            moved_bytes=sum(to_move[start:stop]),
        )
        start = stop


def _bytes_to_move(before: Case, after: Case) -> list[float]:
    """Bytes by layer that devices need after and do not hold before; shared parameters count with the last layer.

    Of a layer that was sliced and will be, a device is taken to keep what it has.
    """
    size = unit_bytes(after.workload)
    had, needed = held_shares(before.plan, before.workload), held_shares(after.plan, after.workload)
    found = [0.0] * len(after.workload.layers)
    for device, units in needed.items():
        for unit, share in units.items():
            shared = unit == len(found)
            layer = unit if not shared else len(found) - 1 if len(found) - 1 in units else 0
            found[layer] += max(share - had.get(device, {}).get(unit, 0.0), 0.0) * float(size[unit])
    return found


def _move(before: Case, after: Case, accounting: EnergyAccounting) -> Switch | None:
    """What sending the parameters would take; None where no one cluster has all devices, or parts of layers move."""
    if any(stage.shards for case in (before, after) for stage in case.plan.stages):
        return None
    taking_part = {*before.plan.devices, *after.plan.devices}
    cluster = next((each.cluster for each in (before, after) if taking_part <= set(each.cluster.device_ids)), None)
    if cluster is None:
        return None
    counted = cluster.device_ids if accounting == "all-on" else taking_part
    return move(held_units(before.plan, before.workload), after.plan, after.workload, cluster, counted)


# ---------------------------------------------------------------------------------------------- sentences


def _gains(before: Case, after: Case, accounting: EnergyAccounting) -> Iterator[str]:
    """How much faster, and how much more energy."""
    was, will = before.figures, after.figures
    time = _compared(was.makespan_s, will.makespan_s, format_seconds, "faster", "slower", "as fast")
    energy = _compared(
        was.energy_j(accounting), will.energy_j(accounting), format_joules, "less", "more", "as much energy"
    )
    yield f"{time[:1].upper()}{time[1:]}; {energy}, {words.COUNTED[accounting]}. Both are predicted."


def _compared(before: float, after: float, say: Callable[[float], str], less: str, more: str, same: str) -> str:
    """``3.1 s faster (15.4 s instead of 18.5 s)``."""
    if same_figures(before, after):
        return f"{same} ({say(after)})"
    change = f"{say(abs(after - before))} {less if after < before else more}"
    return f"{change} ({say(after)} instead of {say(before)})"


def _moves(before: Case, after: Case, ranges: Sequence[LayerRange]) -> Iterator[str]:
    """Who runs what instead, and in how many pieces."""
    moved: dict[tuple[tuple[str, ...], tuple[str, ...]], list[LayerRange]] = {}
    for each in ranges:
        if each.moved:
            moved.setdefault((_names(each.before), _names(each.after)), []).append(each)
    for (was, will), layers in moved.items():
        yield f"{words.sentence(each.layers for each in layers)} {_moved_words(was, will, layers)}."
    if not moved:
        yield "No layer moves to another device."
    pieces = [_pieces(case.plan) for case in (before, after)]
    if pieces[0] != pieces[1]:
        yield f"{pieces[1]} instead of {pieces[0]}."
    elif not moved and any(each.before != each.after for each in ranges):
        parts = any(runner.parts for each in ranges for runner in (*each.before, *each.after))
        yield f"Only the {'layers' if parts else 'samples'} are shared out differently."


def _names(runners: Sequence[Runner]) -> tuple[str, ...]:
    return tuple(each.device for each in runners)


def _moved_words(was: Sequence[str], will: Sequence[str], layers: Sequence[LayerRange]) -> str:
    several = len(layers) > 1 or layers[0].stop_layer - layers[0].first_layer > 1
    left, joined = [each for each in was if each not in will], [each for each in will if each not in was]
    if not left:
        return f"{'are' if several else 'is'} also run by {words.sentence(joined)}"
    if not joined:
        return f"{'are' if several else 'is'} no longer run by {words.sentence(left)}"
    return f"{'move' if several else 'moves'} from {words.sentence(left)} to {words.sentence(joined)}"


def _pieces(plan: Plan) -> str:
    return words.split_words(plan)


def _costs(before: Case, after: Case, ranges: Sequence[LayerRange], cost: Switch | None) -> Iterator[str]:
    """Which devices come and go, and what has to be sent."""
    joined = [each for each in after.plan.devices if each not in before.plan.devices]
    left = [each for each in before.plan.devices if each not in after.plan.devices]
    if joined:
        yield f"{words.sentence(joined)} {'join' if len(joined) > 1 else 'joins'} in."
    if left:
        yield f"{words.sentence(left)} {'are' if len(left) > 1 else 'is'} no longer used."
    size = sum(each.moved_bytes for each in ranges)
    if not size:
        return
    what = "parameters and optimizer state" if after.workload.trains else "parameters"
    sent = ""
    if cost is not None:
        sent = f": {format_seconds(cost.duration_s)} and {format_joules(cost.energy_j)} to send them all at once"
    yield f"{format_bytes(size)} of {what} have to change place{sent}."
    if not after.workload.trains:
        yield "Where both plans are resident nothing has to be sent."

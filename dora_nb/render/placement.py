"""Placements as plain text."""

from __future__ import annotations

from dora_nb.domain.placement import PlacedStage, Placement
from dora_nb.domain.problem import MeasuredProblem
from dora_nb.render import words
from dora_nb.units import counted, format_bandwidth, format_bytes, format_seconds

_MOST_NAMES = 4  # layers of a stage that are named one by one
_LONGEST_NOTE = 200  # characters of a problem's note

_OVERLAPS = {
    "none": "computing and transfers one after the other",
    "half-duplex": "computing while sending or receiving",
    "duplex": "computing, sending and receiving at once",
}


def placement_lines(answer: Placement) -> list[str]:
    """The value and what is proven of it, then a line a stage with what it takes. Predicted from the given numbers."""
    lines = [
        f"{answer.problem}: {answer.objective} {format_seconds(answer.value_s)} predicted, "
        f"bound {format_seconds(answer.bound_s)}, gap {100 * answer.gap:.2f} % ({answer.status})",
        f"{answer.scope}; {answer.method}; {answer.wall_s:.2f} s",
    ]
    for index, (stage, load) in enumerate(zip(answer.stages, answer.loads, strict=True)):
        parts = {
            "computes": load.compute_s,
            "sums gradients": load.all_reduce_s,
            "receives": load.receive_s,
            "sends": load.send_s,
            "link": load.link_s,
        } | load.media_s
        told = ", ".join(f"{name} {format_seconds(seconds)}" for name, seconds in parts.items() if seconds)
        held = format_bytes(load.memory_bytes)
        lines.append(f"{index:>3}  {_devices(stage)}: {_layers(stage)}  {told or 'takes no time'}; {held}")
    return lines


def problem_text(problem: MeasuredProblem) -> str:
    """What is to be placed on what, in a few lines; device types and media in a line each."""
    lines = [
        f"{problem.name}: {counted(len(problem.layers), 'layer')} and {counted(len(problem.tensors), 'tensor')} on "
        f"{counted(sum(device.count for device in problem.devices), 'device')}"
    ]
    lines += [words.shorten(problem.note, _LONGEST_NOTE)] if problem.note else []
    rules = problem.execution
    how = {"contiguous": "contiguous stages", "any": "any set of layers on a device"}[rules.stages]
    lines.append(f"Asked for: least {rules.objective}, {how}, {_OVERLAPS[rules.overlap]}")
    for device in problem.devices:
        memory = "" if device.memory_bytes is None else f", {format_bytes(device.memory_bytes)} each"
        rate = "" if device.bytes_per_s is None else f", {format_bandwidth(device.bytes_per_s)}"
        lines.append(f"  {device.count} x {device.type}{memory}{rate}")
    for medium in problem.media:
        rates = [f"{format_bandwidth(rate)} from and to {name}" for name, rate in medium.bytes_per_s.items()]
        lines.append(f"  {medium.name}, shared: {words.sentence(rates)}")
    return "\n".join(map(words.one_line, lines))


def placement_text(answer: Placement) -> str:
    """The same as one text."""
    return "\n".join(placement_lines(answer))


def _devices(stage: PlacedStage) -> str:
    replicas = f"{stage.replicas} x " if stage.replicas > 1 else ""
    shards = f" in {stage.shards} shards" if stage.shards > 1 else ""
    return f"{replicas}{stage.device}{shards}"


def _layers(stage: PlacedStage) -> str:
    names = list(stage.layers)
    if len(names) > _MOST_NAMES:
        names = [*names[:2], f"... ({len(names)} layers) ...", names[-1]]
    ways = ", ".join(f"{len(each)} {way}" for way, each in _by_way(stage).items())
    return " ".join(names) + (f" ({ways})" if ways else "")


def _by_way(stage: PlacedStage) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for layer, way in stage.ways.items():
        found.setdefault(way, []).append(layer)
    return found

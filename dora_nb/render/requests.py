"""Workloads and qualities of experience as text and as HTML."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.render import words
from dora_nb.render.html import fragment
from dora_nb.render.markup import head, items, table
from dora_nb.units import counted, format_bytes, format_count, format_flops, format_joules, format_rate, format_seconds

# ---------------------------------------------------------------------------------------------- workloads


def workload_text(workload: Workload) -> str:
    """A workload in a few lines."""
    return "\n".join(map(words.one_line, [words.workload_words(workload), *(f"  {each}" for each in _facts(workload))]))


def workload_html(workload: Workload) -> str:
    """A workload as a fragment of HTML: its figures, and its layers, equal neighbours in one row."""
    heading = ["Layers", "Each", "Kind", "FLOP a sample", "Parameters", "Output a sample"]
    if workload.trains:
        heading.append("Kept for backward")
    return fragment(
        [
            head(words.workload_words(workload)),
            items(_facts(workload)),
            table(heading, _layers(workload), left=(0, 2)),
        ]
    )


def _facts(workload: Workload) -> Iterator[str]:
    size = format_bytes(workload.parameters * workload.bytes_per_element)
    yield f"{counted(len(workload.layers), 'layer')}, {format_count(workload.parameters)} parameters ({size})"
    passes = f"{format_flops(workload.forward_flops)} in a forward pass of a sample"
    yield passes + (f"; {format_flops(_decode_flops(workload))} a new token" if workload.generates else "")
    if workload.tied_parameters:
        shared = format_count(workload.tied_parameters)
        yield f"{shared} of the parameters are shared by the first and the last layer"
    sent = {
        f"inputs come from {workload.source}, {format_bytes(workload.input_bytes)} a sample": workload.source,
        f"outputs are needed on {workload.sink}, {format_bytes(workload.output_bytes)} a sample": workload.sink,
    }
    yield from (text for text, device in sent.items() if device is not None)


def _decode_flops(workload: Workload) -> float:
    """Of the first token after a prompt."""
    tokens = [layer.next_token for layer in workload.layers]
    return sum(each.flops + each.context_flops * (workload.sequence or 0) for each in tokens if each is not None)


def _layers(workload: Workload) -> Iterator[list[str]]:
    for _, run in itertools.groupby(workload.layers, key=lambda layer: layer.replace(name="any")):
        alike = list(run)
        layer = alike[0]
        cells = [
            words.layer_words([each.name for each in alike]),
            str(len(alike)),
            layer.operator,
            format_flops(layer.forward_flops),
            format_count(layer.parameters),
            format_bytes(layer.output_elements * workload.bytes_per_element),
        ]
        if workload.trains:
            cells.append(format_bytes(layer.stash_elements * workload.bytes_per_element))
        yield [cell if cell.split()[0] != "0" else "0" for cell in cells]


# ---------------------------------------------------------------------------------------------- QoE


def qoe_text(qoe: QoE) -> str:
    """What is asked for, in a line."""
    return words.one_line(words.qoe_words(qoe))


def qoe_html(qoe: QoE) -> str:
    """What is asked for as a fragment of HTML: the aim, and a row a limit."""
    aim, counted = words.aim_words(qoe), words.COUNTED[qoe.energy_accounting]
    rows = list(_limits(qoe))
    limits = table(["Limit", "Side", "Value", "Beyond it"], rows, left=(0, 1, 3)) if rows else items(["No limits."])
    return fragment([head(f"Asked for: {aim}", f"energy {counted}"), limits])


def _limits(qoe: QoE) -> Iterator[list[str]]:
    if qoe.latency_s is not None:
        yield ["latency", "at most", format_seconds(qoe.latency_s), _beyond(qoe, qoe.latency_price, "s")]
    if qoe.samples_per_s is not None:
        price = _beyond(qoe, qoe.throughput_price, "(samples/s)")
        yield ["throughput", "at least", format_rate(qoe.samples_per_s), price]
    if qoe.energy_j is not None:
        yield ["energy", "at most", format_joules(qoe.energy_j), _beyond(qoe, qoe.energy_price, "J")]
    for device, joules in qoe.battery_j.items():
        yield [f"battery of {device}", "at most", format_joules(joules), _beyond(qoe, qoe.battery_price, "J")]
    free = None if qoe.headroom_bytes is None else format_bytes(qoe.headroom_bytes)
    if qoe.headroom_fraction is not None:
        free = f"{100 * qoe.headroom_fraction:.3g} % of usable memory"
    if free is not None:
        yield ["free on every device", "at least", free, _beyond(qoe, qoe.headroom_price, "GB", 1e9)]


def _beyond(qoe: QoE, price: float | None, per: str, units: float = 1.0) -> str:
    return "not allowed" if price is None else f"costs {price * units:.6g} {qoe.unit}/{per}"

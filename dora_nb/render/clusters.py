"""Clusters, devices and contention domains as text and as HTML."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from dora_nb.domain.cluster import Cluster, ContentionDomain, Device, Provenance, Status
from dora_nb.render import words
from dora_nb.render.html import fragment
from dora_nb.render.layout import arrange
from dora_nb.render.markup import details, head, items, table
from dora_nb.render.network import KIND_WORDS, Card, network_svg, wires_of
from dora_nb.render.svg import attribute
from dora_nb.render.wrapping import WIDTH
from dora_nb.units import counted, format_bytes, format_flops, format_seconds

_LONGEST_MODEL = 38  # characters of a device's model in a table

_COLUMNS, _CARD_PX = 4, 58  # of the drawing

_HEADING = ("Device", "Model", "Usable memory", "Matmul", "Bandwidth", "Idle", "Computing")

_STATUSES: tuple[Status, ...] = ("measured", "datasheet", "computed", "assumed")


# ---------------------------------------------------------------------------------------------- clusters


def cluster_text(cluster: Cluster) -> str:
    """A cluster as plain text: a line a device, then every domain with its rates."""
    rows = [[heading.lower() for heading in _HEADING], *map(_cells, cluster.devices)]
    rows = [[name, words.shorten(model, _LONGEST_MODEL), *figures] for name, model, *figures in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_title(cluster)]
    if cluster.description:
        lines.append(textwrap.fill(words.one_line(cluster.description), WIDTH))
    lines.append("")
    for row in rows:
        padded = (
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(padded).rstrip())
    lines.insert(-len(cluster.devices), "-" * (sum(widths) + 2 * (len(widths) - 1)))
    for domain in cluster.domains:
        lines += ["", *map(words.one_line, words.domain_lines(domain))]
    return "\n".join(lines)


def cluster_html(cluster: Cluster) -> str:
    """A cluster as a fragment of HTML: a drawing, its devices, its domains."""
    parts = [
        head(_title(cluster), cluster.description),
        f"<div>{cluster_svg(cluster)}</div>",
        table(_HEADING, map(_cells, cluster.devices), sentences=(1,)),
    ]
    if cluster.domains:
        parts.append(_domain_table(cluster.domains))
    sources = [*(each.sources for each in cluster.devices), *(each.sources for each in cluster.domains)]
    parts.append(items(filter(None, [_basis(sources)])))
    return fragment(parts)


def cluster_svg(cluster: Cluster) -> str:
    """Devices as cards, contention domains as bars, lines whose width and label say the rate."""
    cards = [
        Card(
            id=each.id,
            lines=(each.name or each.profile, f"{format_bytes(each.usable_memory_bytes)}, {_matmul(each)}"),
        )
        for each in cluster.devices
    ]
    bars = {each.id: (f"{each.id}: {each.kind}", 0.0) for each in cluster.domains}
    layout = arrange(cluster, _COLUMNS, _CARD_PX)
    return network_svg(cards, bars, list(wires_of(cluster)), layout, _CARD_PX, _title(cluster))


def _title(cluster: Cluster) -> str:
    devices = counted(len(cluster.devices), "device")
    return words.one_line(f"{cluster.name}: {devices}{words.network_words(cluster)}")


def _cells(device: Device) -> list[str]:
    return [
        words.one_line(device.id),
        words.one_line(device.name or device.profile),
        format_bytes(device.usable_memory_bytes),
        _matmul(device),
        f"{format_bytes(device.memory_bytes_per_s)}/s",
        _watts(device.idle_w),
        _watts(device.active_w),
    ]


def _matmul(device: Device) -> str:
    """The sustained rate of dense products, in fp32 where there is one."""
    rates = device.flops_per_s.get("matmul", {})
    rate = rates.get("fp32", max(rates.values(), default=0.0))
    return f"{format_flops(rate)}/s" if rate else words.NOTHING


def _watts(watts: float) -> str:
    return f"{watts:.3g} W"


def _basis(sources: Iterable[Mapping[str, Provenance]]) -> str:
    """How many numbers are measured, and how many assumed."""
    found = Counter(each.status for named in sources for each in named.values())
    counted = [f"{found[status]} {status}" for status in _STATUSES if found[status]]
    return f"Of the numbers, {words.sentence(counted)}; every device and domain tells its sources." if counted else ""


# ---------------------------------------------------------------------------------------------- devices


def device_text(device: Device) -> str:
    """A device in a line."""
    model = device.name or device.profile
    facts = [
        f"{format_bytes(device.usable_memory_bytes)} of {format_bytes(device.memory_bytes)} usable",
        *([f"{_matmul(device)} of matmul"] if "matmul" in device.flops_per_s else []),
        f"{format_bytes(device.memory_bytes_per_s)}/s of memory bandwidth",
        f"{_watts(device.idle_w)} idle, {_watts(device.active_w)} computing",
    ]
    return words.one_line(f"{device.id} ({model}): {', '.join(facts)}")


def device_html(device: Device) -> str:
    """A device as a fragment of HTML: every number, and where it comes from."""
    rows = [[name, value, _status(device.sources.get(field))] for field, name, value in _numbers(device)]
    return fragment(
        [
            head(words.one_line(f"{device.id}: {device.name or device.profile}"), f"profile {device.profile}"),
            table(["What", "Value", "Basis"], rows, left=(0, 2)),
            _sources(device.sources),
        ]
    )


def _numbers(device: Device) -> Iterator[tuple[str, str, str]]:
    """Path, name and value of every number."""
    yield "memory_bytes", "memory", format_bytes(device.memory_bytes)
    usable = f"{100 * device.usable_memory_fraction:.3g} % ({format_bytes(device.usable_memory_bytes)})"
    yield "usable_memory_fraction", "usable by a model", usable
    for operator, rates in device.flops_per_s.items():
        for precision, rate in rates.items():
            yield f"flops_per_s.{operator}.{precision}", f"{operator}, {precision}", f"{format_flops(rate)}/s"
    yield "memory_bytes_per_s", "memory bandwidth", f"{format_bytes(device.memory_bytes_per_s)}/s"
    yield "layer_overhead_s", "overhead of a layer", format_seconds(device.layer_overhead_s)
    yield "idle_w", "draw, idle", _watts(device.idle_w)
    yield "active_w", "draw, computing", _watts(device.active_w)


def _status(source: Provenance | None) -> str:
    return words.NOTHING if source is None else source.status


def _sources(sources: Mapping[str, Provenance]) -> str:
    """Where each number comes from, to be opened."""
    told = (
        f"<dt>{attribute(field)}</dt><dd>{attribute(each.status)}: {attribute(each.source)}"
        f"{f' ({attribute(each.note)})' if each.note else ''}</dd>"
        for field, each in sources.items()
    )
    inner = "".join(told)
    return details("Where the numbers come from", f'<dl class="dora-who">{inner}</dl>' if inner else "")


# ---------------------------------------------------------------------------------------------- domains


def domain_text(domain: ContentionDomain) -> str:
    """A contention domain: what it is, then the rate of every member."""
    return textwrap.dedent("\n".join(map(words.one_line, words.domain_lines(domain))))


def domain_html(domain: ContentionDomain) -> str:
    """A contention domain as a fragment of HTML."""
    title = words.one_line(f"{domain.id}: {KIND_WORDS[domain.kind]}")
    return fragment([head(title), _domain_table([domain]), _sources(domain.sources)])


def _domain_table(domains: Iterable[ContentionDomain]) -> str:
    rows = []
    for each in domains:
        rates = [" ".join(line.split()) for line in words.domain_lines(each)[1:]]
        energy = f"{1e9 * each.energy_j_per_byte:.3g} nJ/byte"
        rows.append([each.id, KIND_WORDS[each.kind], format_seconds(each.latency_s), energy, "; ".join(rates)])
    return table(["Domain", "Kind", "Latency", "Energy", "Rates"], rows, left=(0,), sentences=(1, 4))

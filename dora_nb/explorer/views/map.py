"""The network as a map: what each device does and holds, how long each contention domain is held, who reaches what."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Literal

from dora_nb.costs.media import held_s
from dora_nb.costs.network import Network
from dora_nb.domain.cluster import Cluster, ContentionDomain, Device
from dora_nb.domain.plan import Plan
from dora_nb.domain.prediction import Prediction
from dora_nb.domain.qoe import ROUNDING, EnergyAccounting
from dora_nb.domain.record import Record
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError, UnknownNameError
from dora_nb.render import words
from dora_nb.render.layout import Layout, arrange
from dora_nb.render.media import BUSIEST_WORDS, resource_words, rest_words
from dora_nb.render.network import KIND_WORDS, Wire, wires_of
from dora_nb.units import counted, format_bytes, format_joules, format_seconds

#: Height of a card in pixels, in the stylesheet and here.
CARD_PX = 122

#: Cards side by side in a notebook column that is wide, or narrow.
WIDE_COLUMNS, NARROW_COLUMNS = 6, 4

GaugeName = Literal["memory", "load", "energy", "airtime"]


class Gauge(Record):
    """A figure and what it is a part of, as a bar.

    Attributes
    ----------
    name
        What is counted: ``memory`` of a model in usable memory, ``load`` as seconds busy in the time of one turn,
        ``energy`` in what the whole plan takes, ``airtime`` as seconds held in the time of one turn.
    share
        Of the whole: 0 to 1, more where it does not fit.
    short
        The figure alone.
    told
        The figure with the whole, in words.
    """

    name: GaugeName
    share: float
    short: str
    told: str


class DeviceCard(Record):
    """A device.

    Attributes
    ----------
    id, name
        In the cluster, and of the device model.
    on
        Whether it takes part in planning.
    used
        Whether the plan uses it.
    work, samples
        Which layers, by name; and which stage with how many samples. What it is instead, where it has none.
    gauges
        Memory, load, energy; none without a plan that was evaluated.
    lines
        All of this in words, line by line.
    """

    id: str
    name: str
    on: bool = True
    used: bool = False
    work: str
    samples: str
    gauges: tuple[Gauge, ...] = ()
    lines: tuple[str, ...]


class DomainBar(Record):
    """A contention domain.

    Attributes
    ----------
    id
        In the cluster.
    used
        Whether the plan sends anything over it.
    airtime
        Of its busiest medium, port or link; None without a plan that was evaluated.
    held
        What is held for so long: ``airtime``, ``busiest port``, ``busiest way``, ``busiest link``.
    lines
        All of this in words, line by line.
    """

    id: str
    used: bool = False
    airtime: Gauge | None = None
    held: str
    lines: tuple[str, ...]


class MapView(Record):
    """A cluster, and what a plan does on it.

    Attributes
    ----------
    title
        What a screen reader says first.
    label, summary
        The plan's name, and its figures in a sentence.
    devices, domains, wires
        What there is, and what joins it.
    wide, narrow
        Where everything stands in a wide and in a narrow column, for cards of :data:`CARD_PX`.
    """

    title: str
    label: str = ""
    summary: str
    devices: tuple[DeviceCard, ...]
    domains: tuple[DomainBar, ...] = ()
    wires: tuple[Wire, ...] = ()
    wide: Layout
    narrow: Layout

    @property
    def switched_off(self) -> tuple[str, ...]:
        """Devices that take no part in planning."""
        return tuple(card.id for card in self.devices if not card.on)


def map_view(
    cluster: Cluster,
    workload: Workload | None = None,
    plan: Plan | None = None,
    *,
    accounting: EnergyAccounting = "participating",
    switched_off: Collection[str] = (),
) -> MapView:
    """What a map of a cluster shows.

    Parameters
    ----------
    cluster
        With every device, those switched off included.
    workload, plan
        What runs on it, with its prediction; None: nothing does.
    accounting
        Whose energy counts.
    switched_off
        Devices that take no part in planning; the plan uses none of them.

    Raises
    ------
    InputError
        If a plan comes without its workload, or names what the cluster does not have.
    """
    _check(cluster, workload, plan, switched_off)
    figures = None if plan is None else plan.prediction
    cards = [_Card(device, device.id not in switched_off, workload, plan, accounting) for device in cluster.devices]
    wires = list(wires_of(cluster))
    bars = [
        DomainBar(id=domain.id, held=BUSIEST_WORDS[domain.kind], lines=tuple(_domain_lines(domain)))
        for domain in cluster.domains
    ]
    if plan is not None and workload is not None and figures is not None:
        held, turn_s = held_s(plan, workload, cluster), _turn_s(workload, figures)
        of = Network.of(cluster).domain_of
        own = {domain.id: {name: held[name] for name in held if of[name] == domain.id} for domain in cluster.domains}
        bars = [_domain_bar(domain, own[domain.id], turn_s) for domain in cluster.domains]
        carrying = {bar.id for bar in bars if bar.used}
        crossed = {edge for edge in _crossed(cluster, list(_groups(plan, workload))) if edge[1] in carrying}
        wires = [wire.replace(used=(wire.member, wire.domain) in crossed) for wire in wires]
    return MapView(
        title=_title(cluster, plan),
        label="" if plan is None else words.one_line(plan.label or "plan"),
        summary=_summary(workload, plan, accounting),
        devices=tuple(card.card() for card in cards),
        domains=tuple(bars),
        wires=tuple(wires),
        wide=arrange(cluster, WIDE_COLUMNS, CARD_PX),
        narrow=arrange(cluster, NARROW_COLUMNS, CARD_PX),
    )


def _check(cluster: Cluster, workload: Workload | None, plan: Plan | None, switched_off: Collection[str]) -> None:
    for name in switched_off:
        if name not in cluster.device_ids:
            raise UnknownNameError("switched_off", name, cluster.device_ids)
    if plan is None:
        return
    if workload is None:
        raise InputError("workload", None, "what the plan is for")
    for name in plan.devices:
        if name not in cluster.device_ids:
            raise UnknownNameError("plan.devices", name, cluster.device_ids)


def _turn_s(workload: Workload, figures: Prediction) -> float:
    """Seconds that loads are shares of: the makespan, in a stream from one request to the next."""
    return figures.makespan_s if workload.arrival_s is None else workload.arrival_s


def _title(cluster: Cluster, plan: Plan | None) -> str:
    devices = counted(len(cluster.devices), "device")
    shown = f"{cluster.name}: {devices}{words.network_words(cluster)}"
    return words.one_line(shown if plan is None else f"{plan.label or 'plan'} on {shown}, predicted")


def _summary(workload: Workload | None, plan: Plan | None, accounting: EnergyAccounting) -> str:
    if plan is None:
        return "No plan is shown."
    figures = plan.prediction
    if workload is None or figures is None:
        return "The plan was not evaluated."
    drawn_j = sum(each.energy_j for each in figures.devices)
    sent = "; nothing is sent"
    if figures.network_bytes:
        network_j = figures.energy_participating_j - drawn_j
        taken = f", which takes {format_joules(network_j)} of it" if network_j > ROUNDING * drawn_j else ""
        sent = f"; {format_bytes(figures.network_bytes)} are sent{taken}"
    return (
        f"Predicted: {format_seconds(figures.makespan_s)}, "
        f"{format_joules(figures.energy_j(accounting))} {words.COUNTED[accounting]}{sent}."
    )


# ---------------------------------------------------------------------------------------------- devices


class _Card:
    """What is said about a device."""

    def __init__(
        self,
        device: Device,
        on: bool,
        workload: Workload | None,
        plan: Plan | None,
        accounting: EnergyAccounting,
    ) -> None:
        self.device, self.on, self.workload, self.plan, self.accounting = device, on, workload, plan, accounting
        self.used = plan is not None and device.id in plan.devices

    def card(self) -> DeviceCard:
        """The card."""
        work, samples = self._work()
        gauges = tuple(self._gauges())
        model = self.device.name or self.device.profile
        heading = f"{self.device.id}: {model}" + ("" if self.on else ", switched off")
        said = [work if self.plan is not None and self.on else "", samples, *self._ends()]
        lines = [heading, *dict.fromkeys(filter(None, said))]
        return DeviceCard(
            id=self.device.id,
            name=words.one_line(model),
            on=self.on,
            used=self.used,
            work=words.one_line(work),
            samples=words.one_line(samples),
            gauges=gauges,
            lines=tuple(map(words.one_line, [*lines, *(gauge.told for gauge in gauges), *self._idle()])),
        )

    def _work(self) -> tuple[str, str]:
        """The layers by name, and which stage with how many samples."""
        if not self.on:
            return "switched off", f"{format_bytes(self.device.usable_memory_bytes)} usable"
        if self.plan is None or self.workload is None:
            return self.device.name or self.device.profile, f"{format_bytes(self.device.usable_memory_bytes)} usable"
        if not self.used:
            return "not in this plan", next(self._ends(), f"{format_bytes(self.device.usable_memory_bytes)} usable")
        names = [layer.name for layer in self.workload.layers]
        stages = self.plan.stages
        index, stage = next((i, each) for i, each in enumerate(stages) if self.device.id in each.devices)
        layers = names[stage.first_layer : stage.stop_layer]
        if self.plan.hosts_first_layer(index):
            layers = [names[0], *layers]
        place = stage.devices.index(self.device.id)
        split = [f"stage {index}"] if len(stages) > 1 else []
        if stage.shards:
            split.append(words.part_words(stage, place))
        elif len(stage.replicas) > 1:
            split.append(f"{stage.replicas[place].samples} of {counted(self.plan.micro_batch, 'sample')}")
        split += words.ways_words(stage)
        return words.layer_words(layers), ", ".join(split) or "every sample"

    def _ends(self) -> Iterator[str]:
        """Whether inputs come from here, and outputs are needed here."""
        if self.workload is not None and self.device.id == self.workload.source:
            yield "gives the inputs"
        if self.workload is not None and self.device.id == self.workload.sink:
            yield "takes the outputs"

    def _gauges(self) -> Iterator[Gauge]:
        if self.plan is None or self.workload is None or self.plan.prediction is None or not self.on:
            return
        figures = self.plan.prediction
        here = next((each for each in figures.devices if each.device == self.device.id), None)
        if here is not None:
            turn_s = _turn_s(self.workload, figures)
            yield _gauge("memory", here.memory_bytes, here.usable_memory_bytes, "memory", format_bytes, " usable")
            busy = _gauge("load", here.busy_s, turn_s, "busy", format_seconds)
            yield busy.replace(short=_percent(here.busy_s, turn_s))
        joules = self._energy_j(figures)
        if joules is not None:
            total_j = figures.energy_j(self.accounting)
            yield _gauge("energy", joules, total_j, "energy", format_joules)

    def _energy_j(self, figures: Prediction) -> float | None:
        """What counts of its energy; None where it does not."""
        counted = {each.device: each.energy_j for each in figures.devices}
        if self.accounting == "all-on":
            counted |= {each.device: each.energy_j for each in figures.idle}
        return counted.get(self.device.id)

    def _idle(self) -> Iterator[str]:
        if not self.used:
            yield f"draws {self.device.idle_w:.3g} W idle, {self.device.active_w:.3g} W computing"


def _gauge(
    name: GaugeName, value: float, whole: float, what: str, say: Callable[[float], str], after: str = ""
) -> Gauge:
    """A figure next to its whole."""
    return Gauge(
        name=name,
        share=value / whole if whole else 0.0,
        short=say(value),
        told=f"{what} {say(value)} of {say(whole)}{after or f' ({_percent(value, whole)})'}",
    )


def _percent(part: float, whole: float) -> str:
    percent = 100 * part / whole if whole else 0.0
    return f"{percent:.0f} %" if percent >= 9.95 else f"{percent:.2g} %"


# ---------------------------------------------------------------------------------------------- domains


def _domain_lines(domain: ContentionDomain) -> Iterator[str]:
    yield words.one_line(f"{domain.id}: {KIND_WORDS[domain.kind]}, {format_seconds(domain.latency_s)} a message")


def _domain_bar(domain: ContentionDomain, held: Mapping[str, float], turn_s: float) -> DomainBar:
    """A domain whose resources are held for so many seconds of a turn."""
    ranked = sorted(held.items(), key=lambda each: (-each[1], each[0]))
    busiest, seconds = ranked[0] if ranked else (domain.id, 0.0)
    held_words = BUSIEST_WORDS[domain.kind]
    name = held_words if domain.kind == "shared" else f"{held_words}, {resource_words(busiest, domain)}:"
    airtime = _gauge("airtime", seconds, turn_s, words.one_line(name), format_seconds)
    airtime = airtime.replace(short=_percent(seconds, turn_s))
    if not seconds:
        airtime = airtime.replace(short="idle", told="nothing is sent over it")
    more = [] if domain.kind == "shared" else rest_words(domain, ranked[1:])
    return DomainBar(
        id=domain.id,
        used=seconds > 0,
        airtime=airtime,
        held=held_words,
        lines=(*_domain_lines(domain), airtime.told, *more),
    )


def _groups(plan: Plan, workload: Workload) -> Iterator[set[str]]:
    """Devices that send something to each other."""
    stages = [set(stage.devices) for stage in plan.stages]
    yield from (a | b for a, b in itertools.pairwise(stages))
    yield from (set(stage.devices) for stage in plan.stages if workload.trains)
    if workload.source is not None:
        yield {workload.source} | stages[-1 if plan.tied == "hosted" else 0]
    if workload.sink is not None:
        yield {workload.sink} | stages[-1]


def _crossed(cluster: Cluster, groups: Collection[set[str]]) -> set[tuple[str, str]]:
    """The lines between members of a group: those with some of them on either side."""
    by_id = {domain.id: domain for domain in cluster.domains}

    def below(name: str) -> set[str]:
        return set().union(*(below(member) for member in by_id[name].members)) if name in by_id else {name}

    edges = [(member, domain.id) for domain in cluster.domains for member in domain.members]
    return {edge for edge in edges if any(group & below(edge[0]) and group - below(edge[0]) for group in groups)}

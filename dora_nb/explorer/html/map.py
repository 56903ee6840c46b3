"""The map of a network as HTML: a drawing and a table of the same figures."""

from __future__ import annotations

from dora_nb.explorer.views.map import CARD_PX, DeviceCard, MapView
from dora_nb.render import words
from dora_nb.render.html import fragment
from dora_nb.render.markup import head, table
from dora_nb.render.network import Card, network_svg


def map_html(view: MapView) -> str:
    """A map as a fragment of HTML."""
    return fragment([head(view.title, view.summary), _drawing(view), _devices(view), _domains(view)])


def _drawing(view: MapView) -> str:
    bars = {}
    for each in view.domains:
        label = each.id if each.airtime is None else f"{each.id}: {each.airtime.short}"
        bars[each.id] = (label, 0.0 if each.airtime is None else each.airtime.share)
    cards = [
        Card(
            id=each.id,
            lines=(each.work, each.samples, *(f"{gauge.name} {gauge.short}" for gauge in each.gauges)),
            faint=not each.used,
            struck=not each.on,
        )
        for each in view.devices
    ]
    return f"<div>{network_svg(cards, bars, view.wires, view.wide, CARD_PX, view.title)}</div>"


def _devices(view: MapView) -> str:
    names = ("memory", "load", "energy")
    rows = [[each.id, _runs(each), *_told(each, names)] for each in view.devices]
    return table(["Device", "Runs", *map(str.capitalize, names)], rows, sentences=(1, 2, 3, 4))


def _runs(card: DeviceCard) -> str:
    return f"{card.work} ({card.samples})" if card.samples and card.used else card.work


def _told(card: DeviceCard, names: tuple[str, ...]) -> list[str]:
    """What each gauge says, without its name."""
    told: dict[str, str] = {gauge.name: gauge.told.partition(" ")[2] for gauge in card.gauges}
    return [told.get(name, words.NOTHING) for name in names]


def _domains(view: MapView) -> str:
    if not view.domains:
        return ""
    rows = []
    for each in view.domains:
        rates = words.sentence(f"{wire.member} {wire.label}" for wire in view.wires if wire.domain == each.id)
        rows.append([each.id, "; ".join(each.lines[1:]) or words.NOTHING, rates])
    return table(["Domain", "Held", "Rates"], rows, sentences=(1, 2))

"""A cluster as SVG: devices as cards, contention domains as bars, lines whose width and label say the rate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from dora_nb.domain.cluster import Cluster, ContentionDomain, DomainKind
from dora_nb.domain.record import Record
from dora_nb.render import svg, words
from dora_nb.render.layout import BAR_PX, Layout
from dora_nb.units import format_bandwidth

#: What each kind of contention domain means for transfers.
KIND_WORDS: dict[DomainKind, str] = {
    "shared": "one airtime for everybody",
    "switch": "a port per member and direction",
    "cell": "one airtime up and one down",
    "links": "a link of its own per pair",
}

#: Of what a plan uses, and of the part of a bar that stands for the time it is held.
_ACCENT = "#0a7fc2"

_CARD_PX = 150.0


class Wire(Record):
    """How a member is attached to its domain.

    Attributes
    ----------
    member, domain
        The two ends; the member may be a domain itself, through its gateway.
    label
        The rate, short.
    width_px
        Of the line: 1 at 1 Mbit/s, 5 at 10 Gbit/s, logarithmic between.
    used
        Whether a plan sends something over it.
    """

    member: str
    domain: str
    label: str
    width_px: float
    used: bool = False


class Card(Record):
    """What a drawing says about a device.

    Attributes
    ----------
    id, lines
        The heading, and the text below it.
    faint, struck
        Whether it takes no part, and whether it is switched off.
    """

    id: str
    lines: tuple[str, ...] = ()
    faint: bool = False
    struck: bool = False


def wires_of(cluster: Cluster) -> Iterator[Wire]:
    """Every line between a member and its domain."""
    for domain in cluster.domains:
        for member in domain.members:
            fastest = max(member_rates(domain, member))
            width_px = round(min(1 + math.log10(max(8e-6 * fastest, 1.0)), 5.0), 2)
            yield Wire(member=member, domain=domain.id, label=_rates_words(domain, member), width_px=width_px)


def member_rates(domain: ContentionDomain, member: str) -> tuple[float, ...]:
    """Bytes per second of a member: one rate; up and down in a cell; the slowest and the fastest of its links."""
    if domain.kind == "links":
        others = [name for name in domain.members if name != member]
        links = [domain.link_bytes_per_s(*pair) for name in others for pair in ((member, name), (name, member))]
        known = [rate for rate in links if rate is not None]
        return min(known), max(known)
    down = domain.down_rates_bytes_per_s
    return (domain.rates_bytes_per_s[member], *([down[member]] if member in down else []))


def _rates_words(domain: ContentionDomain, member: str) -> str:
    """``938 Mbit/s``; up and down ``46 / 120 Mbit/s``; from the slowest to the fastest link ``46 - 120 Mbit/s``."""
    rates, between = member_rates(domain, member), " - " if domain.kind == "links" else " / "
    said = list(dict.fromkeys(map(format_bandwidth, rates)))
    figures, units = zip(*(each.split(" ") for each in said), strict=True)
    return f"{between.join(figures)} {units[0]}" if len(set(units)) == 1 else between.join(said)


def network_svg(
    cards: Sequence[Card],
    bars: Mapping[str, tuple[str, float]],
    wires: Sequence[Wire],
    layout: Layout,
    card_px: float,
    title: str,
) -> str:
    """A drawing of a cluster.

    Parameters
    ----------
    cards
        The devices.
    bars
        By domain: its label, and the share of the time it is held (0 to 1).
    wires
        The lines between them.
    layout, card_px
        Where everything stands, and the height of a card it was made for.
    title
        What a screen reader says.
    """
    width = min(960.0, max(2.0, layout.columns) * 200.0)
    middles = {
        name: (place.x * width, place.y * layout.height_px, place.width * width)
        for name, place in layout.places.items()
    }
    body = [part for wire in wires for part in _wire(wire, middles)]
    body += [part for name, (label, share) in bars.items() for part in _bar(label, share, middles[name])]
    body += [part for card in cards for part in _card(card, middles[card.id], card_px)]
    return svg.figure(width, layout.height_px, title, body)


_Middle = tuple[float, float, float]


def _wire(wire: Wire, middles: Mapping[str, _Middle]) -> Iterator[str]:
    x, y, width = middles[wire.member]
    there_x, there_y, there_width = middles[wire.domain]
    start = _nearest(there_x, x, width)
    stop = _nearest(x, there_x, there_width)
    colour, opacity = (_ACCENT, 0.9) if wire.used else ("currentColor", 0.3)
    yield (
        f'<line x1="{svg.number(start)}" y1="{svg.number(y)}" x2="{svg.number(stop)}" y2="{svg.number(there_y)}" '
        f'stroke="{colour}" stroke-opacity="{opacity}" stroke-width="{svg.number(wire.width_px)}"/>'
    )
    if abs(there_y - y) > BAR_PX:
        toward = 1 if there_y > y else -1
        yield svg.text(stop + 6, there_y - toward * (BAR_PX / 2 + 25) + 4, wire.label, opacity=0.8)
    else:
        yield svg.text((start + stop) / 2, y - BAR_PX / 2 - 4, wire.label, anchor="middle", opacity=0.8)


def _nearest(wanted: float, middle: float, width: float) -> float:
    """The point of a bar (or a card, which has no width here) that is nearest to a place."""
    return min(max(wanted, middle - width / 2), middle + width / 2)


def _bar(label: str, share: float, place: _Middle) -> Iterator[str]:
    x, y, width = place
    left, top = svg.number(x - width / 2), svg.number(y - BAR_PX / 2)
    size = f'x="{left}" y="{top}" height="{BAR_PX}" rx="4"'
    yield f'<rect {size} width="{svg.number(width)}" style="{_PAPER}" stroke="currentColor" stroke-opacity="0.5"/>'
    if share > 0:
        yield f'<rect {size} width="{svg.number(width * min(share, 1.0))}" fill="{_ACCENT}" fill-opacity="0.3"/>'
    most = int((width - 12) / svg.CHARACTER_PX)
    yield svg.text(x, y + 4, words.shorten(words.one_line(label), max(most, 4)), anchor="middle")


def _card(card: Card, place: _Middle, card_px: float) -> Iterator[str]:
    x, y, _ = place
    left, top = x - _CARD_PX / 2, y - card_px / 2
    edge = f'stroke="{"currentColor" if card.faint else _ACCENT}" stroke-opacity="{0.4 if card.faint else 0.9}"'
    yield (
        f'<rect x="{svg.number(left)}" y="{svg.number(top)}" width="{_CARD_PX}" height="{svg.number(card_px)}" rx="5" '
        f'style="{_PAPER}" {edge}/>'
    )
    most = int((_CARD_PX - 14) / svg.CHARACTER_PX)
    faint = 0.6 if card.faint else 1.0
    struck = ' text-decoration="line-through"' if card.struck else ""
    heading = words.shorten_middle(words.one_line(card.id), most - 2)
    yield svg.text(left + 8, top + 17, heading, opacity=faint, more=f'font-weight="600"{struck}')
    for index, line in enumerate(card.lines):
        content = words.shorten(words.one_line(line), most)
        yield svg.text(left + 8, top + 33 + 15 * index, content, opacity=0.85 * faint)


#: The page's own background, so that lines pass behind.
_PAPER = "fill:var(--jp-layout-color0,var(--vscode-editor-background,Canvas))"

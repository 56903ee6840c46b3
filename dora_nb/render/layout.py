"""Where the devices and the contention domains of a cluster stand in a drawing, the same each time.

A domain is a horizontal bar with its devices in rows above and below it. Domains stand side by side in the order of
their tree, and in a further row where the drawing is too narrow. The device next to a bar stands straight above or
below it; those of the rows beyond are shifted by half a column, so that their lines pass between the others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from dora_nb.domain.cluster import Cluster, ContentionDomain
from dora_nb.domain.record import Record

#: Heights in pixels: a bar, the gap a line crosses between a card and a bar, and gaps without lines.
BAR_PX, WIRE_PX, GAP_PX = 30, 38, 16

#: How far a bar reaches beyond the middle of its outermost devices, in columns.
_BEYOND = 0.36


class Place(Record):
    """The middle of a device's card or a domain's bar.

    Attributes
    ----------
    x, y
        As shares of the drawing's width and height.
    width
        Of a bar, as a share of the drawing's width; 0 for a card.
    """

    x: float
    y: float
    width: float = 0.0


class Layout(Record):
    """Where everything stands in a drawing.

    Attributes
    ----------
    columns
        Cards that stand side by side at most.
    height_px
        Height of the drawing; its width may be any that leaves room for the columns.
    places
        By id of the device or domain.
    """

    columns: int
    height_px: int
    places: dict[str, Place]


class _Block:
    """A domain with its own devices, in columns."""

    def __init__(self, domain: ContentionDomain, devices: Sequence[str], most_columns: int) -> None:
        self.domain = domain
        self.columns = max(1, min(math.ceil(len(devices) / 2), most_columns))
        half = math.ceil(len(devices) / 2)
        self.above = self._rows(devices[:half])
        self.below = self._rows(devices[half:])

    def _rows(self, devices: Sequence[str]) -> list[Sequence[str]]:
        """One side, from the bar outwards: a row of all columns, then rows with one fewer."""
        rows, rest = [devices[: self.columns]], devices[self.columns :]
        wide = max(1, self.columns - 1)
        rows += [rest[start : start + wide] for start in range(0, len(rest), wide)]
        return [row for row in rows if row]

    def columns_of(self, row: Sequence[str], outer: bool) -> Iterator[float]:
        """Middles of a row's cards, in columns from the block's left edge."""
        if outer:
            first = (max(1, self.columns - 1) - len(row)) // 2
            yield from (float(first + index + 1) for index in range(len(row)))
        else:
            yield from (self.columns * (index + 0.5) / len(row) for index in range(len(row)))


def arrange(cluster: Cluster, most_columns: int, card_px: int) -> Layout:
    """A layout of a cluster.

    Parameters
    ----------
    most_columns
        Cards that have room side by side.
    card_px
        Height of a card in pixels.
    """
    if not cluster.domains:
        height_px = card_px + 2 * GAP_PX
        return Layout(columns=1, height_px=height_px, places={cluster.device_ids[0]: Place(x=0.5, y=0.5)})
    blocks = [_Block(domain, _devices_of(domain, cluster), most_columns) for domain in _in_order(cluster)]
    bands = list(_bands(blocks, most_columns))
    columns = max(sum(block.columns for block in band) for band in bands)
    found: dict[str, tuple[float, float, float]] = {}  # x in columns, y in pixels, width in columns
    top_px = float(GAP_PX)
    for band in bands:
        left = (columns - sum(block.columns for block in band)) / 2
        rows_above = max(len(block.above) for block in band)
        bar_px = top_px + (rows_above * (card_px + GAP_PX) - GAP_PX + WIRE_PX if rows_above else 0) + BAR_PX / 2
        for block in band:
            for side, rows in ((-1, block.above), (1, block.below)):
                for distance, row in enumerate(rows):
                    away_px = BAR_PX / 2 + WIRE_PX + card_px / 2 + distance * (card_px + GAP_PX)
                    for name, x in zip(row, block.columns_of(row, distance > 0), strict=True):
                        found[name] = (left + x, bar_px + side * away_px, 0.0)
            found[block.domain.id] = (left + block.columns / 2, bar_px, block.columns - 1 + 2 * _BEYOND)
            left += block.columns
        rows_below = max(len(block.below) for block in band)
        top_px = bar_px + BAR_PX / 2 + (rows_below * (card_px + GAP_PX) - GAP_PX + WIRE_PX if rows_below else 0)
        top_px += WIRE_PX
    height_px = math.ceil(top_px - WIRE_PX + GAP_PX)
    return Layout(
        columns=columns,
        height_px=height_px,
        places={
            name: Place(x=x / columns, y=y_px / height_px, width=width / columns)
            for name, (x, y_px, width) in found.items()
        },
    )


def _devices_of(domain: ContentionDomain, cluster: Cluster) -> list[str]:
    return [name for name in domain.members if name in cluster.device_ids]


def _in_order(cluster: Cluster) -> list[ContentionDomain]:
    """The domains from left to right: each between its members, so that neighbours in the tree are neighbours here."""
    by_id = {domain.id: domain for domain in cluster.domains}

    def walk(domain: ContentionDomain) -> list[ContentionDomain]:
        inner = [walk(by_id[name]) for name in domain.members if name in by_id]
        left, right = inner[1::2], inner[0::2]
        return [*itertools.chain(*left), domain, *itertools.chain(*right)]

    assert cluster.domain is not None, "only of a cluster with domains"
    return walk(cluster.domain)


def _bands(blocks: Sequence[_Block], most_columns: int) -> Iterator[list[_Block]]:
    """Blocks that stand side by side, as many as have room."""
    band: list[_Block] = []
    for block in blocks:
        if band and sum(each.columns for each in band) + block.columns > most_columns:
            yield band
            band = []
        band.append(block)
    yield band

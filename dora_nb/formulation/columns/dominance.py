"""Which share vectors no other matches or beats."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.table import Floats

#: Longer than any makespan.
_LONGEST_S = 1e300


#: Figures by contended resource.
AIRTIMES = ("input_air_s", "output_air_s", "sum_air_s")


#: Prefix of figures that tell share vectors apart and that columns do not carry: when a bucket is full, for example.
TELLING = "telling_"


#: Figures that depend on how samples are shared out; a vector no better in any of them is never needed. Those that
#: tell most pairs of vectors apart come first.
_SHARED_OUT = (
    *("sum_left_s", "energy_j", "receive_s", "forward_s", "send_s", "backward_s"),
    *("host_forward_s", "host_backward_s", "host_send_s", "input_s", "label_s", "output_s", "port_s", "sum_tail_s"),
    *("decode_s", "steps_s", "token_receive_s", "token_send_s"),
)


#: So many of them are compared for all pairs; few pairs are left after that.
_COMPARED_AT_ONCE = 3


def not_dominated(figures: dict[str, Floats], candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which candidate (share vector, layer range) pairs no earlier-kept vector matches or beats in every figure."""
    shape = candidates.shape
    # Figures that are the same for every share vector cannot tell two apart.
    also = (name for name in figures if name.startswith((TELLING, "battery_j ", "over_bytes ")))
    names = [name for name in (*_SHARED_OUT, *also) if figures[name].shape[0] == shape[0]]
    telling = [np.broadcast_to(figures[name], shape) for name in names]
    for air_s in (figures[name] for name in AIRTIMES if figures[name].shape[2] > 1):
        telling.extend(np.broadcast_to(each, shape) for each in np.moveaxis(air_s, 2, 0) if each.shape[0] == shape[0])
    telling.append(-figures["most_in_flight"])
    if figures["cap_s"].shape == shape:
        telling.append(-np.clip(figures["cap_s"], -_LONGEST_S, _LONGEST_S))  # infinities cannot be compared below
    kept = np.zeros(shape, dtype=bool)
    rows: list[int] = []
    # Of the rows kept so far, below one another, so that they need not be picked out again for every row.
    open_there, figures_there = np.empty(shape, dtype=bool), np.empty((_COMPARED_AT_ONCE, *shape))
    for row in range(shape[0]):
        open_ranges = candidates[row]
        if rows:
            beaten = open_there[: len(rows)] & open_ranges
            for values, there in zip(telling[:_COMPARED_AT_ONCE], figures_there, strict=False):
                beaten &= there[: len(rows)] <= values[row] + 1e-12 * np.abs(values[row])
            before, *place = np.nonzero(beaten)
            earlier = np.array(rows)[before]
            for values in telling[_COMPARED_AT_ONCE:]:
                if not len(earlier):
                    break
                own = values[(row, *place)]
                beats = values[(earlier, *place)] <= own + 1e-12 * np.abs(own)
                earlier, place = earlier[beats], [each[beats] for each in place]
            open_ranges = open_ranges.copy()
            open_ranges[tuple(place)] = False
        if open_ranges.any():
            kept[row] = open_there[len(rows)] = open_ranges
            for values, there in zip(telling[:_COMPARED_AT_ONCE], figures_there, strict=False):
                there[len(rows)] = values[row]
            rows.append(row)
    return kept

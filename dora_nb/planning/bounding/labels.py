"""Pipelines under construction, from the last stage to the first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.table import Floats
from dora_nb.formulation.fleet import Ints


@dataclass(frozen=True)
class Labels:
    """Pipelines under construction, all with the same number of stages and the same micro-batch size.

    Attributes
    ----------
    cut, code
        First layer that is placed, and devices used as a code of the fleet.
    return_s
        Rows that include the way back (training), or the largest stage row (inference).
    forward_s
        Rows that end with a stage's own sums and step.
    path_s
        One micro-batch through all stages so far, forward.
    floor_s
        Rows to which nothing is added: loads of stages and ports.
    air_s, sums_s
        Airtime of activations and gradients, and of everything else, by contended resource. Shape (labels, resources).
    decode_s
        What follows the prompt's passes, one after another, of one group.
    steps_s
        All groups' steps after the first token in the busiest stage.
    token_air_s
        Airtime of all groups' tokens on one shared medium.
    energy_j, idle_w
        Joules above idling, and the idle draw of the devices used.
    cap_s
        Longest makespan that batteries last.
    battery_j
        Joules above idling of devices with a priced battery limit. Shape (labels, such devices).
    over_bytes
        Beyond a priced memory headroom, with the least in-flight counts.
    last, column
        Columns of the last stage and of the stage in front.
    parent
        Place among the labels of one stage less that this one continues.
    """

    cut: Ints
    code: Ints
    return_s: Floats
    forward_s: Floats
    path_s: Floats
    floor_s: Floats
    air_s: Floats
    sums_s: Floats
    decode_s: Floats
    steps_s: Floats
    token_air_s: Floats
    energy_j: Floats
    idle_w: Floats
    cap_s: Floats
    battery_j: Floats
    over_bytes: Floats
    last: Ints
    column: Ints
    parent: Ints

    def __len__(self) -> int:
        return len(self.cut)

    def take(self, chosen: NDArray[np.bool_] | Ints) -> Labels:
        """The labels at some places, or where a mask is true."""
        if chosen.dtype == np.bool_:
            chosen = np.flatnonzero(chosen)
        return Labels(*(getattr(self, name).take(chosen, axis=0) for name in self.__dataclass_fields__))

    @staticmethod
    def join(parts: list[Labels]) -> Labels:
        """All of several."""
        return Labels(*(np.concatenate([getattr(p, name) for p in parts]) for name in Labels.__dataclass_fields__))

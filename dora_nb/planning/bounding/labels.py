"""Pipelines under construction, from the last stage to the first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.table import Floats
from dora_nb.formulation.fleet import Ints


@dataclass(frozen=True)
class Labels:
    """Pipelines under construction, all with the same number of stages and the same micro-batch size."""

    cut: Ints
    code: Ints
    return_s: Floats  # rows that include the way back (training), or the largest stage row (inference)
    forward_s: Floats  # rows that end with a stage's own sums and step
    path_s: Floats  # one micro-batch through all stages so far, forward
    floor_s: Floats  # rows to which nothing is added: loads of stages and ports
    air_s: Floats  # airtime of activations and gradients by contended resource, shape (labels, resources)
    sums_s: Floats  # airtime of everything else, likewise
    decode_s: Floats  # what follows the prompt's passes, one after another, of one group
    steps_s: Floats  # of all groups' steps after the first token, those of the busiest stage
    token_air_s: Floats  # airtime of all groups' tokens on one shared medium
    energy_j: Floats
    idle_w: Floats
    cap_s: Floats  # longest makespan that batteries last
    battery_j: Floats  # joules above idling of devices with a priced battery limit, shape (labels, such devices)
    over_bytes: Floats  # beyond a priced memory headroom, with the least in-flight counts
    last: Ints  # column of the last stage
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

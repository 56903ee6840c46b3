"""Plans that could be mixed with their figures in every condition, and what the mixture has to keep."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.resident import Residents
from dora_nb.costs.table import Floats
from dora_nb.domain.composition import Keep
from dora_nb.domain.qoe import ROUNDING, QoE


@dataclass(frozen=True)
class Promise:
    """What has to be kept in every condition, and what is minimised.

    Attributes
    ----------
    qoe
        Limits and objective.
    keep
        On the ``mean`` of a condition's requests, or request by request but for a share (``tail``).
    missed_share
        That share.
    """

    qoe: QoE
    keep: Keep = "mean"
    missed_share: float = 0.0

    @property
    def limits(self) -> dict[str, float]:
        """The limits there are: ``latency`` in seconds, ``energy`` in joules."""
        named = {"latency": self.qoe.latency_s, "energy": self.qoe.energy_j}
        return {name: limit for name, limit in named.items() if limit is not None}


@dataclass(frozen=True)
class Changes:
    """What changing plans costs in training; see :mod:`dora_nb.costs.switching`.

    Attributes
    ----------
    within_s, within_j
        From one plan to another inside a condition, shape (plans, plans, conditions).
    between_s, between_j
        From a plan in one condition to a plan in another, shape (plans, plans, conditions before, conditions after).
    arrivals
        How often an average window of a condition is preceded by one of another, shape (conditions before, after).
    """

    within_s: Floats
    within_j: Floats
    between_s: Floats
    between_j: Floats
    arrivals: Floats


@dataclass(frozen=True)
class Mixture:
    """Plans to mix, and what each does in every condition.

    Attributes
    ----------
    residents
        The plans, and what they hold.
    usable_bytes
        Bytes every device may hold, shape (devices,).
    probability
        Of every condition.
    makespan_s, energy_j
        Shape (plans, conditions); infinite where a plan cannot run.
    loads_s
        Seconds that one request keeps each device and medium busy, shape (plans, conditions, resources).
    requests_per_s
        Rate at which requests arrive; None: one after the other.
    changes
        None where changing plans costs nothing.
    """

    residents: Residents
    usable_bytes: Floats
    probability: Floats
    makespan_s: Floats
    energy_j: Floats
    loads_s: Floats
    requests_per_s: float | None = None
    changes: Changes | None = None

    @property
    def able(self) -> NDArray[np.bool_]:
        """Which plans can run in which condition."""
        return np.isfinite(self.makespan_s)

    def figure(self, name: str) -> Floats:
        """Makespans (``latency``) or energies, 0 where a plan cannot run."""
        return np.where(self.able, self.makespan_s if name == "latency" else self.energy_j, 0.0)

    def misses(self, promise: Promise) -> NDArray[np.bool_]:
        """Which plans exceed a limit in which condition."""
        missed = np.zeros(self.able.shape, dtype=bool)
        for name, limit in promise.limits.items():
            missed |= self.figure(name) > limit * (1 + ROUNDING)
        return missed & self.able

    def take(self, chosen: list[int]) -> Mixture:
        """The mixture of the chosen plans alone."""
        indices, changes = np.array(chosen, dtype=int), self.changes
        if changes is not None:
            pairs = np.ix_(indices, indices)
            changes = Changes(
                changes.within_s[pairs],
                changes.within_j[pairs],
                changes.between_s[pairs],
                changes.between_j[pairs],
                changes.arrivals,
            )
        kept = self.residents
        return Mixture(
            Residents(kept.workload, tuple(kept.plans[j] for j in chosen), kept.device_ids),
            self.usable_bytes,
            self.probability,
            self.makespan_s[indices],
            self.energy_j[indices],
            self.loads_s[indices],
            self.requests_per_s,
            changes,
        )

    def fits(self, chosen: Iterable[int]) -> bool:
        """Whether some plans can be resident together."""
        together = self.requests_per_s is not None
        needed = self.residents.resident_bytes(list(chosen), together)
        return bool((needed <= self.usable_bytes * (1 + ROUNDING)).all())

    def within_capacity(self, share: Floats) -> bool:
        """Whether a mix keeps every device and medium busy for at most one second of every second.

        Parameters
        ----------
        share
            Of the requests, shape (plans, conditions).
        """
        if self.requests_per_s is None:
            return True
        busy = np.einsum("jk,jkr->kr", share, self.loads_s) * self.requests_per_s
        return bool((busy <= 1 + ROUNDING).all())

    @cached_property
    def scarce(self) -> list[int]:
        """Devices that could not hold all plans at once."""
        everything = self.residents.resident_bytes(range(len(self.makespan_s)), self.requests_per_s is not None)
        return np.flatnonzero(everything > self.usable_bytes).tolist()


# ---------------------------------------------------------------------------------------------- given plans

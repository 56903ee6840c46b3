"""What plans that are not there yet would be worth in a mixture, and the bound that answers to such prices prove.

* :func:`prices_model`: the dual of the relaxation of :func:`~dora_nb.formulation.composition.program.mixing_model`;
* :func:`bound_model`: the best bound that answers to such prices prove.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.formulation.composition.mixture import Mixture, Promise
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.rows import Form, LinearProgram, Rows, over, total

#: Prices of limits are sought up to this many times what all requests cost, per limit: beyond, a limit cannot be kept.
_DEAREST = 1e3


@dataclass(frozen=True)
class Prices:
    """What the relaxed program would pay.

    Attributes
    ----------
    request
        For serving the requests of a condition, shape (conditions,).
    limit
        For one unit of each limit (``latency``: objective per second; ``energy``: per joule; with ``tail``,
        ``missed``: for a share of 1), shape (conditions,) each.
    place
        For one more resident plan.
    """

    request: Floats
    limit: dict[str, Floats]
    place: float

    def rates(self, promise: Promise, probability: Floats, k: int) -> tuple[float, float]:
        """What a second and a joule of a condition's requests cost, the objective included."""
        latency = float(self.limit["latency"][k]) if "latency" in self.limit else 0.0
        energy = float(self.limit["energy"][k]) if "energy" in self.limit else 0.0
        share = float(probability[k])
        return (latency + share, energy) if promise.qoe.objective == "latency" else (latency, energy + share)

    def paid(self, promise: Promise) -> Floats:
        """What keeping the limits exactly costs by condition: a bound has to give it back."""
        paid = np.zeros(len(self.request))
        for name, price in self.limit.items():
            paid += price * (promise.missed_share if name == "missed" else promise.limits[name])
        return paid

    def charged(self, mixture: Mixture, promise: Promise) -> Floats:
        """What every plan of a mixture costs in every condition, infinite where it cannot run."""
        charged = np.empty(mixture.able.shape)
        for k in range(len(mixture.probability)):
            per_s, per_j = self.rates(promise, mixture.probability, k)
            charged[:, k] = per_s * mixture.figure("latency")[:, k] + per_j * mixture.figure("energy")[:, k]
            if "missed" in self.limit:
                charged[:, k] += self.limit["missed"][k] * mixture.misses(promise)[:, k]
        return np.where(mixture.able, charged, np.inf)


def prices_model(mixture: Mixture, promise: Promise, *, most_plans: int) -> LinearProgram:
    """The dual of the relaxed program (weights any fraction, plans resident in part, no memory, no changes).

    Primal: minimise sum p C y; sum over j of y[j, k] = 1; mean figures within limits; y[j, k] <= use[j]; sum of use
    <= K. Dual variables: ``request`` (conditions), ``latency``, ``energy`` or ``missed`` (conditions) for the limits,
    ``place`` for K, ``worth`` (plans, conditions) for y <= use. Prices of limits are bounded, so that the program has
    an answer when the plans known so far cannot keep a limit.
    """
    plans, conditions = mixture.able.shape
    cost = mixture.probability * mixture.figure(promise.qoe.objective)
    dearest = _DEAREST * float(cost.max())
    rows = Rows()
    request = rows.variables("request", conditions, lower=-np.inf)
    worth = rows.variables("worth", (plans, conditions))
    place = rows.variables("place", upper=dearest)
    paid: dict[str, tuple[Ints, Floats]] = {}
    allowed: list[Form] = []
    for name, limit, figure in _priced(mixture, promise):
        price = rows.variables(name, conditions, upper=dearest)
        paid[name] = price, figure / limit
        allowed.append(over(price, promise.missed_share if name == "missed" else 1.0))
    for j in range(plans):
        rows.add("places", over(worth[j]) - over(place), "<=")
        for k in np.flatnonzero(mixture.able[j]):
            limits = total(over(price[k], figure[j, k]) for price, figure in paid.values())
            rows.add("plans", over(request[k]) - over(worth[j, k]) - limits, "<=", cost[j, k])
    return rows.build(over(request) - over(place, most_plans) - total(allowed), "max")


def _priced(mixture: Mixture, promise: Promise) -> list[tuple[str, float, Floats]]:
    """Name, limit and figures of every limit that has a price; the variables are prices per whole limit."""
    if promise.keep == "tail":
        return [("missed", 1.0, mixture.misses(promise).astype(float))] if promise.limits else []
    return [(name, limit, mixture.figure(name)) for name, limit in promise.limits.items()]


def prices_of(values: Mapping[str, Floats], promise: Promise) -> Prices:
    """The prices in a solution of :func:`prices_model`, none of them negative."""
    limits = {"missed": 1.0} if promise.keep == "tail" and promise.limits else promise.limits
    limit = {name: np.maximum(values[name], 0.0) / bound for name, bound in limits.items()}
    return Prices(values["request"], limit, max(float(values["place"].item()), 0.0))


def bound_model(least: Mapping[tuple[int, ...], float], conditions: int, most_plans: int) -> LinearProgram:
    """The best bound that the cheapest plans for sets of conditions prove, at given prices of the limits.

    With the limits priced, a composition costs what its plans cost: relaxing ``y <= use`` and ``sum of use <= K`` as
    well leaves, for any request prices r, ``sum r - K max over plans of sum over k of (r[k] - cost[j, k])+``, where the
    largest bracket is reached on some set of conditions. With least[S] a lower bound on what one plan costs in all
    conditions of S: maximise ``sum r - K place`` where ``sum over S of r <= least[S] + place`` for every S. Without
    the places it is the sum of the best plans for each condition alone.

    Parameters
    ----------
    least
        Objective by set of conditions, every single one among them; infinite where no plan can serve the set.
    """
    rows = Rows()
    request = rows.variables("request", conditions, lower=-np.inf)
    place = rows.variables("place")
    for members, value in least.items():
        if math.isfinite(value):
            rows.add("sets", over(request[list(members)]) - over(place), "<=", value)
    return rows.build(over(request) - over(place, most_plans), "max")


def least_place(request: Floats, least: Mapping[tuple[int, ...], float]) -> float:
    """The price of a place at which no set of conditions earns more than it costs: see :func:`bound_model`.

    With it any request prices prove a bound exactly; a solver's tolerance plays no part.
    """
    return max([0.0, *(float(request[list(members)].sum()) - value for members, value in least.items())])


def sets_of(conditions: int) -> list[tuple[int, ...]]:
    """Every set of two conditions or more."""
    return [each for size in range(2, conditions + 1) for each in itertools.combinations(range(conditions), size)]

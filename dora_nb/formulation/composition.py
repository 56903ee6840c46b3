"""The mathematics of mixing plans over conditions: which are resident, and how often each is used where.

Conditions k with probability p[k]; plans j with makespan T[j, k] and energy E[j, k] in their own transfer order. Of a
window of N requests in condition k, ``count[j, k]`` go to plan j. Four programs:

* :func:`mixing_model`: at most K of some given plans, whole counts, resident memory, capacity, changes of plans;
* :func:`joint_model`: K slots that each choose a plan of a complete space; a second way of writing the same for
  tiny cases, held against the first by the tests;
* :func:`prices_model`: the dual of the first one's relaxation, whose values price plans that are not there yet;
* :func:`bound_model`: the best bound that answers to such prices prove.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.resident import Residents
from dora_nb.costs.table import Floats
from dora_nb.domain.composition import Keep
from dora_nb.domain.qoe import QoE
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.rows import Form, Rows, over, total

if TYPE_CHECKING:
    import linopy

#: Relative excess over a limit that rounding explains.
ROUNDING = 1e-9

#: Prices of limits are sought up to this many times what all requests cost, per limit: beyond, a limit cannot be kept.
_DEAREST = 1e3


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
        """Only some of the plans."""
        some, changes = np.array(chosen, dtype=int), self.changes
        if changes is not None:
            pairs = np.ix_(some, some)
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
            self.makespan_s[some],
            self.energy_j[some],
            self.loads_s[some],
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


def mixing_model(
    mixture: Mixture, promise: Promise, *, most_plans: int, window: int, elastic: bool = False
) -> linopy.Model:
    """Choose at most ``most_plans`` of the plans and whole counts for every condition.

    Variables: ``use`` (plans) binary; ``count`` (plans, conditions) integer; in training ``turn`` (home, other,
    conditions) binary, the two plans that take turns in a window, home first and last (equal: one plan alone), and
    ``arrive`` (home before, home after, conditions before, conditions after). At most two plans take turns in training:
    our own restriction, since every further one only adds changes.

    Parameters
    ----------
    most_plans
        How many plans may be resident.
    window
        Requests over which counts are whole.
    elastic
        Minimise by how much limits are exceeded, as a share of the limit, instead of the objective; the variable
        ``over`` (conditions) says by how much in each.
    """
    plans, conditions = mixture.able.shape
    rows = Rows()
    use = rows.variables("use", plans, kind="binary")
    room = np.where(mixture.able, float(window), 0.0)
    count = rows.variables("count", (plans, conditions), upper=room, kind="integer")
    for k in range(conditions):
        rows.add("window", over(count[:, k]), "=", window)
        for j in range(plans):
            rows.add("resident", over(count[j, k]) - over(use[j], window), "<=")
    rows.add("most plans", over(use), "<=", most_plans)
    _memory(rows, mixture, use)
    _capacity(rows, mixture, count, window)
    extra = _changes(rows, mixture, count, window) if mixture.changes is not None else {}
    beyond = rows.variables("over", conditions) if elastic else None
    _limits(rows, mixture, promise, count, window, extra, beyond)
    if beyond is not None:
        return rows.build(over(beyond))
    cost = over(count, mixture.probability * mixture.figure(promise.qoe.objective) / window)
    changing = extra.get(promise.qoe.objective, [])
    return rows.build(total([cost, *(p * added for p, added in zip(mixture.probability, changing, strict=False))]))


def _limits(
    rows: Rows,
    mixture: Mixture,
    promise: Promise,
    count: Ints,
    window: int,
    extra: Mapping[str, list[Form]],
    beyond: Ints | None,
) -> None:
    """The limits of every condition, each as a share of the limit."""
    for k in range(count.shape[-1]):
        excess = total([]) if beyond is None else over(beyond[k])
        if promise.keep == "tail":
            missed = mixture.misses(promise)[:, k] / window
            rows.add("missed", over(count[:, k], missed) - excess, "<=", promise.missed_share + ROUNDING)
            continue
        for name, limit in promise.limits.items():
            mean = over(count[:, k], mixture.figure(name)[:, k] / (limit * window))
            changing = extra[name][k] / limit if extra else total([])
            rows.add(f"mean {name}", mean + changing - excess, "<=", 1.0)


def _memory(rows: Rows, mixture: Mixture, use: Ints) -> None:
    """State of every resident plan, shared layers once, and what the neediest plan needs while it runs.

    Layers that the same plans hold count as one. Only devices that could not hold all plans get rows, scaled by what
    they may hold.
    """
    residents = mixture.residents
    for device in mixture.scarce:
        usable = mixture.usable_bytes[device]
        patterns, place = np.unique(residents.held[:, device], axis=1, return_inverse=True)
        size = np.bincount(place.ravel(), weights=residents.unit_bytes, minlength=patterns.shape[1]) / usable
        need = residents.working_bytes[:, device] / usable
        holds = rows.variables(f"holds on {device}", size.shape, upper=1.0)
        for plan, part in zip(*np.nonzero(patterns), strict=True):
            rows.add("held", over(use[plan]) - over(holds[part]), "<=")
        working = over(use, need)
        if mixture.requests_per_s is None:
            most = rows.variables(f"working on {device}")
            for plan in np.flatnonzero(need):
                rows.add("at work", over(use[plan], need[plan]) - over(most), "<=")
            working = over(most)
        rows.add("memory", over(holds, size) + working, "<=", 1.0)


def _capacity(rows: Rows, mixture: Mixture, count: Ints, window: int) -> None:
    """Of every second, the requests of the mix keep each device and medium busy for at most one second."""
    if mixture.requests_per_s is None:
        return
    busy = mixture.loads_s * mixture.requests_per_s / window
    for k in range(count.shape[1]):
        for resource in range(busy.shape[2]):
            rows.add("capacity", over(count[:, k], busy[:, k, resource]), "<=", 1.0)


def _changes(rows: Rows, mixture: Mixture, count: Ints, window: int) -> dict[str, list[Form]]:
    """Seconds and joules that changes of plans add to a request, on average, by condition.

    Inside a window: from home to the other plan and back. Between conditions: from the home plan of one to that of the
    other, a transport of the homes.
    """
    changes = mixture.changes
    assert changes is not None, "only called where changing plans costs something"
    plans, conditions = count.shape
    turn = rows.variables("turn", (plans, plans, conditions), kind="binary")
    arrive = rows.variables("arrive", (plans, plans, conditions, conditions))
    for k in range(conditions):
        rows.add("one turn", over(turn[:, :, k]), "=", 1.0)
        for j in range(plans):
            home, away, used = over(turn[j, :, k]), over(turn[:, j, k]), over(count[j, k])
            rows.add("in turn", used - window * (home + away), "<=")
            rows.add("in turn", home - used, "<=")
            rows.add("in turn", away - used, "<=")
            for other in range(conditions):
                if other != k:
                    rows.add("leaves home", over(arrive[j, :, k, other]) - home, "=")
                    rows.add("arrives home", over(arrive[:, j, other, k]) - home, "=")
    extra: dict[str, list[Form]] = {}
    for name, within, between in (
        ("latency", changes.within_s, changes.between_s),
        ("energy", changes.within_j, changes.between_j),
    ):
        there_and_back = (within + within.transpose(1, 0, 2)) / window
        coming = between * changes.arrivals / window
        extra[name] = [
            over(turn[:, :, k], there_and_back[:, :, k]) + over(arrive[:, :, :, k], coming[:, :, :, k])
            for k in range(conditions)
        ]
    return extra


# ---------------------------------------------------------------------------------------------- joint form


def joint_model(mixture: Mixture, promise: Promise, *, slots: int, window: int) -> linopy.Model:
    """Slots that each choose one plan of a complete space, and weights of slots: the formal statement.

    The space of a slot is every plan of the mixture: for tiny cases all partitions, groups, shares and in-flight
    counts, each with several orders of its transfers. A slot's figures are those of the plan it chooses, so weight x
    figure is a product of a whole number of Nths and a choice; with ``part[s, j, k] <= choice[s, j]`` and ``sum over j
    of part = weight[s, k]`` it is linear and exact. Memory rows count a layer of a device once over all slots. Where
    changing plans costs nothing only, and one request after the other.

    Variables: ``choice`` (slots, plans) binary, ``weight`` (slots, conditions) integer, ``part`` (slots, plans,
    conditions).
    """
    plans, conditions = mixture.able.shape
    rows = Rows()
    choice = rows.variables("choice", (slots, plans), kind="binary")
    weight = rows.variables("weight", (slots, conditions), upper=float(window), kind="integer")
    room = np.broadcast_to(np.where(mixture.able, float(window), 0.0), (slots, plans, conditions))
    part = rows.variables("part", room.shape, upper=room)
    for k in range(conditions):
        rows.add("window", over(weight[:, k]), "=", window)
        for s in range(slots):
            rows.add("parts", over(part[s, :, k]) - over(weight[s, k]), "=")
            for j in range(plans):
                rows.add("chosen", over(part[s, j, k]) - over(choice[s, j], window), "<=")
    for s in range(slots):
        rows.add("one plan a slot", over(choice[s]), "=", 1.0)
    cost = mixture.probability * mixture.figure(promise.qoe.objective) / window
    for k in range(conditions):
        missed = mixture.misses(promise)[:, k] / window
        if promise.keep == "tail":
            rows.add("missed", over(part[:, :, k], missed), "<=", promise.missed_share + ROUNDING)
        else:
            for name, limit in promise.limits.items():
                mean = mixture.figure(name)[:, k] / (limit * window)
                rows.add(f"mean {name}", over(part[:, :, k], mean), "<=", 1.0)
    _slot_memory(rows, mixture, choice)
    return rows.build(over(part, cost))


def _slot_memory(rows: Rows, mixture: Mixture, choice: Ints) -> None:
    held, size = mixture.residents.held, mixture.residents.unit_bytes
    for device in mixture.scarce:
        usable = mixture.usable_bytes[device]
        holds = rows.variables(f"holds on {device}", size.shape, upper=1.0)
        most = rows.variables(f"working on {device}")
        for slot in choice:
            for unit in range(len(size)):
                by_plan = held[:, device, unit].astype(float)
                rows.add("held", over(slot, by_plan) - over(holds[unit]), "<=")
            need = mixture.residents.working_bytes[:, device] / usable
            rows.add("at work", over(slot, need) - over(most), "<=")
        rows.add("memory", over(holds, size / usable) + over(most), "<=", 1.0)


# ---------------------------------------------------------------------------------------------- column generation


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


def prices_model(mixture: Mixture, promise: Promise, *, most_plans: int) -> linopy.Model:
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


def bound_model(least: Mapping[tuple[int, ...], float], conditions: int, most_plans: int) -> linopy.Model:
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

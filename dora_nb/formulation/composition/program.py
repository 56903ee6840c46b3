"""The mathematics of mixing plans over conditions: which are resident, and how often each is used where.

Conditions k with probability p[k]; plans j with makespan T[j, k] and energy E[j, k] in their own transfer order. Of a
window of N requests in condition k, ``count[j, k]`` go to plan j. Two programs, the others are in ``prices``:

* :func:`mixing_model`: at most K of some given plans, whole counts, resident memory, capacity, changes of plans;
* :func:`joint_model`: K slots that each choose a plan of a complete space; a second way of writing the same for
  tiny cases, held against the first by the tests.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dora_nb.domain.qoe import ROUNDING
from dora_nb.formulation.composition.mixture import Mixture, Promise
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.rows import Form, LinearProgram, Rows, over, total


def mixing_model(
    mixture: Mixture, promise: Promise, *, most_plans: int, window: int, elastic: bool = False
) -> LinearProgram:
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


def joint_model(mixture: Mixture, promise: Promise, *, slots: int, window: int) -> LinearProgram:
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

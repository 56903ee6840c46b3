"""Columns of a cluster that some devices have left, taken from those of the whole one instead of being made again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dora_nb.formulation.columns import Choice, Columns
from dora_nb.formulation.fleet import Fleet, Group
from dora_nb.formulation.problem import Problem


def columns_left(columns: Columns, before: Problem, after: Problem) -> Columns | None:
    """The columns of the devices that are left, in the order in which they would be made.

    Parameters
    ----------
    columns
        All columns of the cluster as it was.
    before, after
        The problems: the same but for devices that are missing.

    Returns
    -------
    Columns or None
        None where what is missing changes more than which groups there are: the types of the others, the least that a
        hand-over takes, or what prices on single devices count.
    """
    kinds = _kinds(before, after)
    alike = (before.message_s, before.byte_j, before.network.contended, before.shared)
    if kinds is None or alike != (after.message_s, after.byte_j, after.network.contended, after.shared):
        return None
    if columns.battery_j.shape[1] or columns.over_bytes.shape[1] > 1:
        return None
    counts = before.fleet.used[columns.code]
    left = np.zeros(len(before.fleet.types), dtype=np.int64)
    left[kinds] = after.fleet.available
    kept = columns.take(np.flatnonzero((counts <= left).all(axis=1)))
    codes = before.fleet.used[:, kinds] @ np.array(after.fleet.radix)
    # Choices of groups that are gone would have more shares than devices.
    used, choice = np.unique(kept.choice, return_inverse=True)
    choices = tuple(_choice(columns.choices[index], kinds, after.fleet) for index in used)
    return replace(kept, code=codes[kept.code], choice=choice, choices=choices, fleet=after.fleet)


def _choice(choice: Choice, kinds: list[int], fleet: Fleet) -> Choice:
    """A choice with its group as the smaller fleet counts it."""
    counts = tuple(choice.group.counts[kind] for kind in kinds)
    devices = [member for members, count in zip(fleet.types, counts, strict=True) for member in members[:count]]
    return choice._replace(group=Group(counts, tuple(devices), int(np.dot(counts, fleet.radix))))


def _kinds(before: Problem, after: Problem) -> list[int] | None:
    """Which type each type was before; None where types were not simply thinned out, or come in another order."""
    then = [{before.cluster.devices[member].id for member in members} for members in before.fleet.types]
    now = [{after.cluster.devices[member].id for member in members} for members in after.fleet.types]
    there = set(after.cluster.device_ids)
    places = {frozenset(names & there): place for place, names in enumerate(then) if names & there}
    kinds = [places.get(frozenset(names), -1) for names in now]
    return kinds if -1 not in kinds and kinds == sorted(kinds) else None

"""A chain of layers on unlike devices, one stage a device: the dynamic programme of EdgeShard and of PipeEdge.

The state is (layers behind a cut, devices in use there, the device of the first stage behind the cut); devices are
counted by type, since equal ones can be swapped. It runs from the last stage to the first: then the number of stages
behind, and with it how many micro-batches a stage holds, is known when its memory is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.planning.baselines.ranges import Ranges


class Chain(NamedTuple):
    """Stages, each on one device.

    Attributes
    ----------
    value_s
        What was minimised.
    cuts
        Where stages begin and end.
    types
        Device type of each stage.
    """

    value_s: float
    cuts: tuple[int, ...]
    types: tuple[int, ...]


class Costs(NamedTuple):
    """What stages and transfers take, in plain arrays; infinite where a device cannot run a stage.

    Attributes
    ----------
    stage_s
        Seconds of layers [first, stop) on a device with so many stages behind it, shape
        (stages behind, types, layers, layers + 1).
    transfer_s
        Seconds across a cut from one device to another, shape (layers + 1, types, types).
    enter_s, leave_s
        Seconds of inputs to the first stage, and of what reaches or leaves the last one, shape (types,).
    available
        Devices of each type.
    start
        Where the first stage begins.
    """

    stage_s: Floats
    transfer_s: Floats
    enter_s: Floats
    leave_s: Floats
    available: tuple[int, ...]
    start: int = 0

    def up_to(self, most_s: float) -> Costs:
        """The costs without stages and transfers that take longer."""
        figures = (self.stage_s, self.transfer_s, self.enter_s, self.leave_s)
        stage_s, transfer_s, enter_s, leave_s = (np.where(each <= most_s, each, np.inf) for each in figures)
        return Costs(stage_s, transfer_s, enter_s, leave_s, self.available, self.start)

    def allow(self, chain: Chain) -> bool:
        """Whether all stages of a chain can be run."""
        behind = range(len(chain.types) - 1, -1, -1)
        return bool(np.isfinite(self.stage_s[list(behind), chain.types, chain.cuts[:-1], chain.cuts[1:]]).all())


#: A rule by which the best chain is found.
Rule = Callable[[Costs], Chain | None]


def least_pass(costs: Costs) -> Chain | None:
    """The chain through which one micro-batch passes soonest; None if there is none."""
    return _least(costs, np.add)


def least_bottleneck(costs: Costs) -> Chain | None:
    """The chain whose slowest stage or transfer takes least; None if there is none.

    Of several it is the one through which a micro-batch passes soonest (ours to say: the papers take any).
    """
    widest = _least(costs, np.maximum)
    if widest is None:
        return None
    soonest = least_pass(costs.up_to(widest.value_s))
    assert soonest is not None, "the chain with the least bottleneck is left"
    return soonest._replace(value_s=widest.value_s)


def chains(
    ranges: Ranges, size: int, transfer_s: Floats, enter_s: Floats, leave_s: Floats, rule: Rule
) -> Iterator[tuple[tuple[int, ...], list[dict[str, int]]]]:
    """Cuts and shares of the best chain for every in-flight depth; those that fit at larger depths too only once.

    Parameters
    ----------
    ranges
        The stages that may be built.
    size
        Samples per micro-batch.
    transfer_s, enter_s, leave_s
        As in :class:`Costs`.
    rule
        What is best.
    """
    problem = ranges.problem
    available = tuple(len(members) for members in problem.fleet.types)
    found: Chain | None = None
    for depth in sorted(problem.space.in_flight_depths):  # more in flight leaves fewer stages that fit
        costs = Costs(_stage_s(ranges, size, depth), transfer_s, enter_s, leave_s, available, ranges.start)
        if found is not None and costs.allow(found):
            continue
        found = rule(costs)
        if found is None:
            return
        free = [list(members) for members in problem.fleet.types]
        devices = [problem.cluster.device_ids[free[kind].pop(0)] for kind in found.types]
        yield found.cuts, [{device: size} for device in devices]


def _stage_s(ranges: Ranges, size: int, depth: int) -> Floats:
    """Seconds of both passes of a micro-batch through a stage, infinite where its memory does not suffice."""
    problem = ranges.problem
    devices = [members[0] for members in problem.fleet.types]
    pass_s = np.array([ranges.pass_s(device, size) for device in devices])
    usable_bytes = np.array([[ranges.usable_bytes(device)] for device in devices])
    micro_batches = problem.workload.batch // size
    most = min(len(problem.cluster.devices), ranges.layers)
    fits = [
        ranges.replica_bytes(size, in_flight, micro_batches) <= usable_bytes
        for in_flight in reversed(problem.space.in_flight(depth, most, micro_batches))
    ]
    return ranges.table(np.where(fits, pass_s, np.inf))


def _least(costs: Costs, combine: np.ufunc) -> Chain | None:
    """The chain with the least value, stages and transfers combined by sum or by maximum."""
    stage_s, transfer_s = costs.stage_s, costs.transfer_s
    most_behind, types, layers, _ = stage_s.shape
    sizes = np.array(costs.available) + 1
    radix = np.concatenate([[1], np.cumprod(sizes)[:-1]])  # devices in use are one number in mixed radix
    least_s = np.full((int(sizes.prod()), types, layers + 1), np.inf)
    next_stop = np.zeros(least_s.shape, dtype=np.int64)
    next_type = np.zeros(least_s.shape, dtype=np.int64)  # by where the stage stops
    for code in range(1, len(least_s)):
        used = code // radix % sizes
        behind = int(used.sum()) - 1
        for own in np.flatnonzero(used) if behind < most_behind else ():
            if behind == 0:
                least_s[code, own, :layers] = combine(stage_s[0, own, :, layers], costs.leave_s[own])
                next_stop[code, own] = layers
                continue
            onward_s = combine(transfer_s[:, own].T, least_s[code - radix[own]])
            next_type[code, own] = onward_s.argmin(axis=0)
            through_s = combine(stage_s[behind, own], onward_s.min(axis=0))
            next_stop[code, own, :layers] = through_s.argmin(axis=1)
            least_s[code, own, :layers] = through_s.min(axis=1)
    whole_s = combine(least_s[:, :, costs.start], costs.enter_s)
    code, kind = (int(place) for place in np.unravel_index(whole_s.argmin(), whole_s.shape))
    if not np.isfinite(whole_s[code, kind]):
        return None
    value_s, cuts, chosen = float(whole_s[code, kind]), [costs.start], [kind]
    while (stop := int(next_stop[code, kind, cuts[-1]])) < layers:
        cuts.append(stop)
        code, kind = code - int(radix[kind]), int(next_type[code, kind, stop])
        chosen.append(kind)
    return Chain(value_s, (*cuts, layers), tuple(chosen))

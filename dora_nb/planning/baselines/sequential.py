"""Baseline: the same decisions one after the other - partition, then schedule - instead of jointly.

Source: the usual way of pipeline planners (Narayanan et al., "PipeDream", 2019; Fan et al., "DAPPLE", 2021; Zheng et
al., "Alpa", 2022): partitions are chosen by the closed form ``fill + (M - 1) x largest load``, and how transfers share
a medium is not looked at until the partition is fixed. The closed form is neither a bound nor the makespan.

Ours to say: it may choose among all the stage columns, micro-batch sizes and placements of tied parameters that our
own plans may, the largest load is enumerated as Alpa does it, and the in-flight depth and the transfer schedule of
its partition are then chosen as well as we can. A hop's load is what either side's part of a hand-over takes both ways;
sums of gradients and steps follow the last micro-batch, stage after stage, as on a shared medium.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dora_nb.costs.table import Floats
from dora_nb.domain.plan import Plan
from dora_nb.formulation.columns import Columns, build_columns
from dora_nb.formulation.decode import decode
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.problem import Problem
from dora_nb.planning.baselines.choice import fitting
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.scheduling import predicted, settle
from dora_nb.planning.streaming import settle_stream
from dora_nb.solvers import SolverChoice

#: Relative step between the largest loads that are tried.
LOAD_STEP = 0.02


@dataclass(frozen=True)
class FormulaPlan:
    """What the closed form chooses.

    Attributes
    ----------
    formula_s
        Its value.
    plans
        The partition with every in-flight depth that fits, scheduled; each with its prediction.
    """

    formula_s: float
    plans: tuple[Plan, ...]


def sequential(problem: Problem, *, solver: SolverChoice = "auto", gap: float = 1e-4) -> FormulaPlan | None:
    """The partition of the least closed form that fits in memory, with its best schedules; None if none fits."""
    columns = build_columns(problem, problem.space.most_replicas)
    families = [columns.take(columns.micro_batch == size) for size in problem.space.micro_batch_sizes]
    found = (_least(problem, family, hosts) for family in families for hosts in (False, True))
    for formula_s, chosen, family in heapq.merge(*found, key=lambda each: each[0]):
        plans = _scheduled(problem, family, chosen, solver, gap)
        if plans:
            return FormulaPlan(formula_s, plans)
    return None


def sequentials(problem: Problem) -> list[Plan]:
    """What :func:`sequential` plans, as a list like other baselines' alternatives."""
    found = sequential(problem)
    return [] if found is None else list(found.plans)


def _scheduled(
    problem: Problem, columns: Columns, chosen: tuple[int, ...], solver: SolverChoice, gap: float
) -> tuple[Plan, ...]:
    """A partition with every in-flight depth that fits in memory, each with its best schedule."""
    counts = problem.space.in_flight_counts(len(chosen), int(columns.micro_batches[chosen[0]]))
    label = "partition, then schedule"
    partitions = (decode(columns, chosen, held, problem).replace(label=label) for held in counts)
    settled_by = settle if problem.workload.arrival_s is None else settle_stream
    plans = []
    for listed in fitting(partitions, problem):
        assert listed.prediction is not None, "a finished plan carries its prediction"
        settled = settled_by(
            listed.replace(transfer_order=(), prediction=None),
            problem,
            below_s=listed.prediction.makespan_s,
            gap=gap,
            solver=solver,
            deadline=Deadline(),
        )
        plans.append(listed if settled.plan is None else predicted(settled.plan, problem))
    return tuple(plans)


def _least(problem: Problem, c: Columns, hosts: bool) -> Iterator[tuple[float, tuple[int, ...], Columns]]:
    """Closed forms with their chains of columns, ascending: for every largest load the chain with the least fill.

    A larger load is looked at only once no chain within it could have a smaller value than those that are due.
    """
    layers, batches = len(problem.workload.layers), int(c.micro_batches[0]) if len(c) else 1
    ends = (c.stop == layers) & (c.hosts == hosts)
    usable = (c.hosts == hosts) & ends | ((c.stop < layers) & ~c.hosts & (c.first >= int(hosts)))
    directions = 2 if problem.workload.trains else 1
    moves_s = directions * (c.send_s + c.receive_s + c.host_send_s)
    fill_s = c.forward_s + c.backward_s + c.host_forward_s + c.host_backward_s + moves_s
    fill_s = fill_s + directions * problem.message_s * (c.send_s > 0)
    fill_s = fill_s + c.tail_s(problem.shared)
    load_s = c.forward_s + c.backward_s + c.host_forward_s + c.host_backward_s
    load_s = np.maximum(load_s, directions * np.maximum(c.send_s, c.receive_s))
    if not usable.any():
        return
    most_s = float(load_s[usable].max())
    # No partition has a smaller largest load than all devices at work all the time; of one batch it does not count.
    largest_s = most_s if batches == 1 else float(c.micro_batch[0] * problem.completion.load_s[0, layers])
    useful = _not_beaten(c, np.flatnonzero(usable), load_s, fill_s)
    anyhow = _least_fill(problem, c, useful, fill_s, int(hosts))
    if not anyhow:
        return
    least_fill_s = float(fill_s[list(anyhow)].sum())
    due: list[tuple[float, tuple[int, ...]]] = []
    seen: set[tuple[int, ...]] = set()
    while True:
        chain = _least_fill(problem, c, useful[load_s[useful] <= largest_s], fill_s, int(hosts))
        if chain and chain not in seen:
            seen.add(chain)
            value_s = float(fill_s[list(chain)].sum() + (batches - 1) * load_s[list(chain)].max())
            heapq.heappush(due, (value_s, chain))
        last = largest_s >= most_s
        while due and (last or due[0][0] <= least_fill_s + (batches - 1) * largest_s):
            yield (*heapq.heappop(due), c)
        if last:
            return
        largest_s = min(largest_s * (1 + LOAD_STEP), most_s)


def _not_beaten(c: Columns, ids: Ints, load_s: Floats, fill_s: Floats) -> Ints:
    """Of columns with the same layers and devices, those with a smaller fill than all with a smaller load."""
    order = ids[np.lexsort((fill_s[ids], load_s[ids], c.code[ids], c.stop[ids], c.first[ids]))]
    place = np.stack([c.first[order], c.stop[order], c.code[order]])
    starts = np.flatnonzero(np.append(True, (place[:, 1:] != place[:, :-1]).any(axis=0)))
    kept = []
    for group in np.split(order, starts[1:]):
        least_s = np.minimum.accumulate(fill_s[group])
        kept.append(group[np.append(True, least_s[1:] < least_s[:-1])])
    return np.concatenate(kept)


def _least_fill(problem: Problem, c: Columns, allowed: Ints, fill_s: Floats, start: int) -> tuple[int, ...]:
    """The chain with the least fill from a cut to the end, if any: a shortest path over (cut, devices used)."""
    layers, used, available = len(problem.workload.layers), c.fleet.used, c.fleet.available
    least = np.full((layers + 1, c.fleet.codes), np.inf)
    came_from = np.full((layers + 1, c.fleet.codes), -1)
    least[start, 0] = 0.0
    for cut in range(start, layers):
        states, ids = np.flatnonzero(np.isfinite(least[cut])), allowed[c.first[allowed] == cut]
        if not len(states) or not len(ids):
            continue
        fits = ((used[states][:, None] + used[c.code[ids]][None]) <= available).all(axis=2)
        total_s = np.where(fits, least[cut, states][:, None] + fill_s[ids][None], np.inf)
        row, column = np.nonzero(np.isfinite(total_s))
        order = np.argsort(-total_s[row, column], kind="stable")  # the least is written last
        row, column = row[order], column[order]
        stop, code = c.stop[ids[column]], states[row] + c.code[ids[column]]
        better = total_s[row, column] < least[stop, code]
        least[stop[better], code[better]] = total_s[row, column][better]
        came_from[stop[better], code[better]] = ids[column[better]]
    code = int(np.argmin(least[layers]))
    if not np.isfinite(least[layers, code]):
        return ()
    chain: list[int] = []
    cut = layers
    while cut > start:
        column_id = int(came_from[cut, code])
        chain.insert(0, column_id)
        cut, code = int(c.first[column_id]), code - int(c.code[column_id])
    return tuple(chain)

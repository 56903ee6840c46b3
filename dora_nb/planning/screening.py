"""Stages that no plan worth having can contain: left out before columns are made of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.table import Floats
from dora_nb.formulation.columns import Columns, Counts, Screen
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.problem import Problem
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.targets import Targets


def screen(problem: Problem, targets: Targets, deadline: Deadline | None = None) -> Screen:
    """Leaves out stages that no plan worth having can contain, given the incumbents; and all once time is up.

    A stage's bound holds for every plan with that stage; the bounds of stages left out are remembered like any other.
    """
    rest, batch, terms = problem.completion, problem.workload.batch, problem.terms
    layers, counts = len(problem.workload.layers), sorted(problem.space.token_groups)
    # A hosted first layer runs on the last stage's devices, so it may not be counted as work for the others.
    maybe_hosted = 1 if problem.workload.trains and problem.workload.tied_parameters else 0
    own_idle_w = problem.fleet.used @ np.array(
        [problem.cluster.devices[same[0]].idle_w for same in problem.fleet.types]
    )

    def may_matter(
        micro_batch: Counts,
        token_groups: Counts,
        code: Counts,
        first: Ints,
        stop: Ints,
        both_s: Floats,
        decode_s: Floats,
        energy_j: Floats,
    ) -> NDArray[np.bool_]:
        def around(by_code: Floats) -> tuple[Floats, Floats]:
            return _around(by_code, code, first, stop, layers, maybe_hosted)

        # One table for all numbers of groups, one below the other.
        table, codes = np.concatenate([rest.decode_s[each] for each in counts]), problem.fleet.codes
        own_code = np.searchsorted(counts, token_groups) * codes + code
        steps_s = decode_s + sum(_around(table, own_code, first, stop, layers, maybe_hosted))
        before_s, after_s = around(rest.path_s)
        load_s, others_j = batch * sum(around(rest.load_s)), batch * sum(around(rest.energy_j))
        makespan_s = np.maximum(both_s + micro_batch * after_s, batch // micro_batch * both_s) + micro_batch * before_s
        makespan_s = np.maximum(makespan_s, load_s) + steps_s
        total_j = problem.energy_j(energy_j + others_j, own_idle_w[code], makespan_s)
        loads_s = np.maximum(load_s, batch // micro_batch * both_s)
        possible = np.isfinite(makespan_s) & ~problem.overloaded(loads_s)
        value = makespan_s if terms.is_plain else problem.value(makespan_s, total_j)
        relevant = possible & (deadline is None or not deadline.passed)
        relevant[relevant] = targets.relevant(makespan_s[relevant], total_j[relevant], value[relevant])
        dropped = possible & ~relevant
        targets.set_aside(makespan_s[dropped], total_j[dropped], value[dropped])
        return relevant

    return may_matter


def screened(columns: Columns, problem: Problem, targets: Targets) -> Columns:
    """The same of columns that are there already, by their own figures."""
    c = columns
    both_s = c.forward_s + c.backward_s
    place = c.micro_batch, c.token_groups, c.code, c.first, c.stop
    kept = screen(problem, targets)(*place, both_s, c.decode_s, c.energy_j)
    return columns.take(kept)


def _around(by_code: Floats, code: Counts, first: Ints, stop: Ints, layers: int, skipped: int) -> tuple[Floats, Floats]:
    """A completion figure of the layers before and after a stage; infinite where no device is left for any.

    The first ``skipped`` layers are not counted.
    """
    with np.errstate(invalid="ignore"):
        before = by_code[code, first] - by_code[code, np.minimum(first, skipped)]
        after = by_code[code, layers] - by_code[code, stop]
    before = np.where(np.isnan(before), np.where(first > skipped, np.inf, 0.0), before)
    return before, np.where(np.isnan(after), np.where(stop < layers, np.inf, 0.0), after)

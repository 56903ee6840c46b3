"""Stages that no plan worth having can contain: left out before columns are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.table import Floats
from dora_nb.formulation.columns import Columns, Considered, Screen
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.problem import Problem
from dora_nb.planning.bounding.targets import Figures, Targets
from dora_nb.planning.deadline import Deadline


def screen(problem: Problem, targets: Targets, deadline: Deadline | None = None) -> Screen:
    """Leaves out stages that no plan worth having can contain, given the incumbents; and all once time is up.

    A stage's bound holds for every plan with that stage; the bounds of stages left out are remembered like any other.
    """
    batch, terms, codes = problem.workload.batch, problem.terms, problem.fleet.codes
    cuts, counts = len(problem.workload.layers) + 1, sorted(problem.space.token_groups)
    path, load, energy, steps = _tables(problem, counts)
    own_idle_w = problem.fleet.used @ np.array(
        [problem.cluster.devices[same[0]].idle_w for same in problem.fleet.types]
    )

    def may_matter(stages: Considered) -> NDArray[np.bool_]:
        micro_batch, token_groups, code, first, stop, both_s, decode_s, energy_j = stages
        before, after = code * cuts + first, code * cuts + stop
        load_s = batch * load.around(before, after)
        others_j = batch * energy.around(before, after)
        makespan_s = np.maximum(both_s + micro_batch * path.after.take(after), batch // micro_batch * both_s)
        makespan_s = np.maximum(makespan_s + micro_batch * path.before.take(before), load_s)
        if problem.workload.decode_steps:
            own = np.searchsorted(counts, token_groups) * codes * cuts
            makespan_s = makespan_s + (decode_s + steps.around(own + before, own + after))
        total_j = problem.energy_j(energy_j + others_j, own_idle_w[code], makespan_s)
        loads_s = np.maximum(load_s, batch // micro_batch * both_s)
        possible = np.isfinite(makespan_s) & ~problem.overloaded(loads_s)
        value = makespan_s if terms.is_plain else problem.value(makespan_s, total_j)
        bounds = Figures(makespan_s.ravel(), total_j.ravel(), value.ravel())
        if deadline is not None and deadline.passed:
            targets.set_aside(*bounds.take(possible.ravel()))
            return np.zeros_like(possible)
        return targets.sift(possible.ravel(), bounds).reshape(possible.shape)

    return may_matter


def screened(columns: Columns, problem: Problem, targets: Targets) -> Columns:
    """The same of columns that are there already, by their own figures."""
    c = columns
    both_s = c.forward_s + c.backward_s
    place = c.micro_batch, c.token_groups, c.code, c.first, c.stop
    kept = screen(problem, targets)(Considered(*place, both_s, c.decode_s, c.energy_j))
    return columns.take(kept)


class _Around(NamedTuple):
    """A completion figure of the layers before a stage and after it, at ``code x cuts + cut`` of its two ends."""

    before: Floats
    after: Floats

    def around(self, before: Ints, after: Ints) -> Floats:
        """Of all layers but the stage's own."""
        return np.asarray(self.before.take(before) + self.after.take(after))


def _tables(problem: Problem, counts: Sequence[int]) -> tuple[_Around, _Around, _Around, _Around]:
    """Path, load, energy and steps; these for all numbers of groups of tokens, one below the other."""
    # A hosted first layer runs on the last stage's devices, so it may not be counted as work for the others.
    maybe_hosted = 1 if problem.workload.trains and problem.workload.tied_parameters else 0
    rest = problem.completion
    steps_s = np.concatenate([rest.decode_s[each] for each in counts])
    path, load, energy, steps = (
        _around(each, maybe_hosted) for each in (rest.path_s, rest.load_s, rest.energy_j, steps_s)
    )
    return path, load, energy, steps


def _around(by_code: Floats, skipped: int) -> _Around:
    """Infinite where no device is left for any layer; the first ``skipped`` layers are not counted."""
    cut = np.arange(by_code.shape[1])
    with np.errstate(invalid="ignore"):
        before = by_code - by_code[:, np.minimum(cut, skipped)]
        after = by_code[:, -1:] - by_code
    before = np.where(np.isnan(before), np.where(cut > skipped, np.inf, 0.0), before)
    after = np.where(np.isnan(after), np.where(cut < cut[-1], np.inf, 0.0), after)
    return _Around(before.ravel(), after.ravel())

"""Stages that no plan worth having can contain: left out before columns are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.table import Floats
from dora_nb.formulation.columns import Columns, Considered, Screen
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.problem import Problem
from dora_nb.planning.bounding.targets import Figures, Targets
from dora_nb.planning.deadline import Deadline

#: Amounts of missing work that are told apart, of all work; and entries of a table of them by used devices.
MOST_AMOUNTS, MOST_ENTRIES = 200, 200_000

#: Rounding of an amount of work, and slack that keeps a limit apart from what is just beyond it.
_SAME, _MARGIN = 1e-9, 1e-6


def screen(
    problem: Problem, targets: Targets, deadline: Deadline | None = None, within: Within | None = None
) -> Screen:
    """Leaves out stages that no plan worth having can contain, given the incumbents; and all once time is up.

    A stage's bound holds for every plan with that stage; the bounds of stages left out are remembered like any other.

    Parameters
    ----------
    problem
        What is planned.
    targets
        The incumbents; bounds of stages left out are remembered there.
    deadline
        When everything is left out; None: never.
    within
        What is known of missing stages, if it was computed for questions with the same limits before.
    """
    batch, terms, codes = problem.workload.batch, problem.terms, problem.fleet.codes
    cuts, counts = len(problem.workload.layers) + 1, sorted(problem.space.token_groups)
    path, load, energy, steps = _tables(problem, counts)
    within = Within.of(problem, targets) if within is None else within
    own_idle_w = problem.fleet.used @ np.array(
        [problem.cluster.devices[members[0]].idle_w for members in problem.fleet.types]
    )

    def may_matter(stages: Considered) -> NDArray[np.bool_]:
        micro_batch, token_groups, code, first, stop, both_s, decode_s, energy_j = stages
        before, after = code * cuts + first, code * cuts + stop
        load_s = batch * load.around(before, after)
        others_j = batch * energy.around(before, after)
        makespan_s = np.maximum(both_s + micro_batch * path.after.take(after), batch // micro_batch * both_s)
        makespan_s = np.maximum(makespan_s + micro_batch * path.before.take(before), load_s)
        missing = within.missing(micro_batch, code, first, stop) if isinstance(micro_batch, int) else None
        if missing is not None:
            makespan_s = np.maximum(makespan_s, np.minimum(both_s + missing.path_s, within.longest_s))
        if problem.workload.decode_steps:
            own = np.searchsorted(counts, token_groups) * codes * cuts
            makespan_s = makespan_s + (decode_s + steps.around(own + before, own + after))
        lasts_s = np.maximum(makespan_s, targets.floor_s)
        total_j = problem.energy_j(energy_j + others_j, own_idle_w[code], lasts_s)
        if missing is not None:
            total_j = np.fmax(total_j, problem.energy_j(energy_j + missing.energy_j, own_idle_w[code], lasts_s))
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
    """Columns made already that plans worth having may contain, by their own figures."""
    c = columns
    both_s = c.forward_s + c.backward_s
    place = c.micro_batch, c.token_groups, c.code, c.first, c.stop
    kept = screen(problem, targets)(Considered(*place, both_s, c.decode_s, c.energy_j))
    return columns.take(kept)


class _Missing(NamedTuple):
    """What the other stages of plans worth having take: seconds of a micro-batch, and joules, idling included."""

    path_s: Floats
    energy_j: Floats


@dataclass
class Within:
    """What missing stages take in plans that are no longer than plans worth having are.

    The bounds of :mod:`~dora_nb.formulation.stages_left` and :mod:`~dora_nb.formulation.energy_left` hold for any
    stages of a pipeline, so for those before a stage and those behind it together.

    Attributes
    ----------
    problem, floor_s, longest_s
        What is planned, and how long plans worth having take at least and at most.
    work, place
        Amounts of work that may be missing, none rounded up; and which of them is at every first layer and stop layer.
    """

    problem: Problem
    floor_s: float
    longest_s: float
    work: Floats
    place: Ints
    _by_size: dict[int, _Missing] = field(default_factory=dict)

    @classmethod
    def of(cls, problem: Problem, targets: Targets) -> Within:
        """For the plans that are worth having to some questions."""
        until = problem.stages_left.work
        # A hosted first layer is work of the last stage's devices.
        before = problem.stages_left.work_until(int(problem.workload.trains_tied))
        missing = (before[:, None] + (until[-1] - until)) / until[-1]
        amounts, place = np.unique(np.round(missing, 12), return_inverse=True)
        if len(amounts) > MOST_AMOUNTS:  # few layers are alike
            amounts, place = np.unique(np.floor(missing * MOST_AMOUNTS) / MOST_AMOUNTS, return_inverse=True)
        work = np.maximum(amounts - _SAME, 0.0) * until[-1]
        return cls(problem, targets.floor_s, targets.longest_s * (1 + _MARGIN), work, place.reshape(missing.shape))

    def missing(self, micro_batch: int, code: Ints, first: Ints, stop: Ints) -> _Missing | None:
        """Of all stages but some given ones; None where nothing more is known than of plans of any length."""
        if not np.isfinite(self.longest_s) or self.problem.fleet.codes * len(self.work) > MOST_ENTRIES:
            return None
        if micro_batch not in self._by_size:
            problem, batches = self.problem, self.problem.workload.batch // micro_batch
            idle_s = problem.idle_s(self.floor_s)
            self._by_size[micro_batch] = _Missing(
                problem.stages_left.path_within_s(self.work, micro_batch, batches, self.longest_s).ravel(),
                problem.energy_left.least_j(self.work, micro_batch, batches, idle_s, self.longest_s).ravel(),
            )
        at = code * len(self.work) + self.place[first, stop]
        return _Missing(*(each.take(at) for each in self._by_size[micro_batch]))


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
    maybe_hosted = int(problem.workload.trains_tied)
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

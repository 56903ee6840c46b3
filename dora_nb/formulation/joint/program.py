"""The joint program: stage columns, start times and transfer orders in one MILP.

The formal statement of the problem, solved as it stands where it is small. One program per *skeleton* (micro-batch
size, number of stages, in-flight counts, placement of tied parameters): within a skeleton the operations and their
precedence are known, and durations are linear in the columns.

* ``place[s, c]``: column c is stage s. One column a stage; neighbours meet at a cut; no device is used twice.
* ``start[j] >= start[i] + sum over c of duration[i, c] place[c]`` where i comes before j.
* ``start[j] >= start[i] + sum over c of held[i, c] place[c] - M (1 - before[i, j])`` and the other way round, for
  transfers that may share a medium; relaxed where the chosen columns move nothing.
* ``energy = sum of joules[c] place[c] + sum over s of idle[s]`` with ``idle[s] >= watts[g] (makespan - H (1 - sum of
  place[s, c] over columns of group g))``: draw times makespan, exactly, since nothing rewards a larger value.

On a shared medium the program is exact. Elsewhere it is a relaxation: a hand-over's duration counts what each side's
own port or hop takes (its energy the least of any two devices), transfers over links of their own do not meet, and
sums of tied gradients and what moves from the source or to the sink may pass each other at the ports. Whoever solves
it must therefore schedule the partition it chooses and, where that takes longer, rule the partition out and solve
again.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dora_nb.costs.operations import Operation, OperationClass, Operations
from dora_nb.costs.table import Floats
from dora_nb.formulation.columns import Columns
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.joint.forms import ENDS, TIED, StageForms
from dora_nb.formulation.joint.skeleton import Skeleton, eligible
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.rows import Form, LinearProgram, Rows, over, total
from dora_nb.formulation.schedules.windows import followers

#: The largest makespan and energy of interest, in the program's own units: far above a solver's tolerances.
_SCALE = 100.0


@dataclass(frozen=True)
class JointModel:
    """A joint program and what its variables stand for.

    Attributes
    ----------
    model
        Minimises the makespan or the energy, in units of ``unit``.
    unit
        Seconds or joules of one unit of the objective.
    columns
        Columns that may stand at each stage.
    operations
        What the start times belong to.
    pairs
        Transfers, by index of the operation, whose order each binary ``before`` decides.
    """

    model: LinearProgram
    unit: float
    columns: tuple[Ints, ...]
    operations: Operations
    pairs: tuple[tuple[int, int], ...]

    def chosen(self, values: dict[str, Floats]) -> list[int]:
        """Columns of a solution, first stage to last."""
        return [int(ids[int(np.argmax(values[f"place{stage}"]))]) for stage, ids in enumerate(self.columns)]

    def order(self, start: Floats) -> tuple[Operation, ...]:
        """Transfers of a solution by start, those that move nothing included."""
        transfers = sorted(self.operations.transfers, key=lambda index: (round(float(start[index]), 6), index))
        return tuple(self.operations.operations[index] for index in transfers)


def joint_model(
    problem: Problem,
    columns: Columns,
    skeleton: Skeleton,
    objective: Literal["latency", "energy"],
    *,
    below_s: float = np.inf,
    energy_limit_j: float = np.inf,
    ruled_out: Sequence[Sequence[int]] = (),
) -> JointModel | None:
    """Build the joint program of one skeleton.

    Parameters
    ----------
    problem, columns
        What is planned, and the columns to choose from.
    skeleton
        Number of stages, in-flight counts and so on.
    objective
        What is minimised.
    below_s, energy_limit_j
        Plans that take longer or more are of no interest.
    ruled_out
        Columns, first stage to last, that may not be chosen together.

    Returns
    -------
    JointModel, or None where no column fits some stage
    """
    ids = [eligible(problem, columns, skeleton, stage) for stage in range(len(skeleton.in_flight))]
    if any(len(own) == 0 for own in ids):
        return None
    program = _Program(problem, columns, skeleton, ids, below_s)
    program.partition(ruled_out)
    program.precedence()
    program.orders()
    program.media()
    program.batteries()
    return program.build(objective, energy_limit_j)


class _Program:
    """Builds the rows, one family a method."""

    def __init__(self, problem: Problem, columns: Columns, skeleton: Skeleton, ids: list[Ints], below_s: float) -> None:
        self.problem, self.c, self.ids = problem, columns, ids
        self.rows = Rows()
        self.place = [self.rows.variables(f"place{stage}", len(own), kind="binary") for stage, own in enumerate(ids)]
        self.forms = StageForms(problem, columns, skeleton, ids, self.place)
        self.operations = self.forms.operations
        self.below_s = min(below_s, self.forms.horizon_s())
        self.unit_s = self.below_s / _SCALE
        self.head_s = _earliest(self.operations, {kind: self.forms.least_s(kind) for kind in self.forms.durations})
        start = self.rows.variables("start", len(self.head_s), lower=self.head_s / self.unit_s, upper=_SCALE)
        self.start = [over(variable) for variable in start]
        self.makespan = over(self.rows.variables("makespan", upper=_SCALE))

    def partition(self, ruled_out: Sequence[Sequence[int]]) -> None:
        """One column a stage, neighbours meet, no device twice, nothing that is ruled out."""
        c, fleet = self.c, self.problem.fleet
        for place in self.place:
            self.rows.add("one column", over(place), "=", 1.0)
        for stage, (ahead, behind) in enumerate(itertools.pairwise(self.ids)):
            for cut in np.union1d(c.stop[ahead], c.first[behind]).tolist():
                ends = self.forms.at_stage(stage, c.stop[ahead] == cut)
                starts = self.forms.at_stage(stage + 1, c.first[behind] == cut)
                self.rows.add("meet", ends - starts, "=")
        for kind, available in enumerate(fleet.available.tolist()):
            used = total(
                self.forms.at_stage(stage, fleet.used[c.code[ids]][:, kind]) for stage, ids in enumerate(self.ids)
            )
            self.rows.add("devices", used, "<=", available)
        for chosen in ruled_out:
            together = total(
                self.forms.at_stage(stage, self.ids[stage] == column) for stage, column in enumerate(chosen)
            )
            self.rows.add("ruled out", together, "<=", len(self.ids) - 1)

    def precedence(self) -> None:
        """What must be done before what, and the makespan after everything."""
        for index, before in enumerate(self.operations.predecessors):
            for earlier in before:
                for form in self.forms.durations[self.operations.classes[earlier]]:
                    self._after(self.start[index], self.start[earlier], form, "precedence")
        for index, after in enumerate(self.operations.successors):
            if not after:
                for form in self.forms.durations[self.operations.classes[index]]:
                    self._after(self.makespan, self.start[index], form, "makespan")

    def _after(self, later: Form, earlier: Form, lag_s: Form, family: str) -> None:
        """``later >= earlier + lag``; seconds become units of the program."""
        self.rows.add(family, later - earlier - lag_s / self.unit_s, ">=")

    def orders(self) -> None:
        """Transfers that may share a medium, one before the other."""
        after = followers(self.operations.successors)
        pairs = []
        for first, second in itertools.combinations(self.operations.transfers, 2):
            classes = self.operations.classes[first], self.operations.classes[second]
            forth, back = self._lags(*classes), self._lags(*classes[::-1])
            if not forth and not back:
                continue
            alike = classes[0] == classes[1] and classes[0].kind != "all-reduce"
            if alike or after[first] >> second & 1 or after[second] >> first & 1:
                flip = after[second] >> first & 1 or (
                    alike and self.operations.operations[first][2:] > self.operations.operations[second][2:]
                )
                earlier, later, lags = (second, first, back) if flip else (first, second, forth)
                for form in lags:
                    self._after(self.start[later], self.start[earlier], form, "order")
            else:
                pairs.append((first, second, forth, back))
        before = self.rows.variables("before", len(pairs), kind="binary")
        self.pairs = tuple((first, second) for first, second, _, _ in pairs)
        for (first, second, forth, back), binary in zip(pairs, before, strict=True):
            gates = self._gates(first, second)
            for earlier, later, lags, forward in ((first, second, forth, True), (second, first, back, False)):
                slack_s = self.below_s - float(self.head_s[later])
                # later >= earlier + lag - slack (1 if the other order is chosen) - slack for each that moves nothing
                chosen = Form(binary[None], np.array([1.0 if forward else -1.0]), -1.0 * forward)
                gated_s = slack_s * total([chosen, *gates])
                for form in lags:
                    self._after(self.start[later], self.start[earlier], form + gated_s, "order")

    def _lags(self, earlier: OperationClass, later: OperationClass) -> list[Form]:
        """Seconds between the starts of two transfers that share a medium: at least each of these."""
        if self.problem.shared:
            return self.forms.held[earlier]
        ports = self.forms.ports[earlier]
        return [ports[port] for port in self.forms.ports[later] if port in ports]

    def _gates(self, first: int, second: int) -> list[Form]:
        """For each of two transfers that may move nothing: 0 if it does move something, else -1."""
        gates = []
        for index in (first, second):
            kind = self.operations.classes[index]
            if kind.kind in (*ENDS, *TIED, "all-reduce"):
                (form,) = self.forms.held[kind]
                gates.append(Form(form.at, np.ones(len(form.at)), -1.0))
        return gates

    def media(self) -> None:
        """The medium carries everything within the makespan."""
        if not self.problem.shared:
            return
        held_s = total(
            form for index in self.operations.transfers for form in self.forms.held[self.operations.classes[index]]
        )
        self.rows.add("media", self.makespan - held_s / self.unit_s, ">=")

    def batteries(self) -> None:
        """The iteration ends before a battery of a chosen stage is over its limit."""
        for stage, ids in enumerate(self.ids):
            cap_s = np.clip(self.c.cap_s[ids], 0.0, self.below_s)
            if (cap_s < self.below_s).any():
                self.rows.add("batteries", self.makespan - self.forms.at_stage(stage, cap_s / self.unit_s), "<=")

    def build(self, objective: Literal["latency", "energy"], energy_limit_j: float) -> JointModel:
        """Energy, limits, and what is minimised."""
        if objective == "latency" and not np.isfinite(energy_limit_j):
            return self._model(self.makespan, self.unit_s)
        # Where nothing draws anything, or nothing may, any unit does.
        unit_j = (energy_limit_j if 0 < energy_limit_j < np.inf else self._most_j()) / _SCALE or 1.0
        energy = over(self.rows.variables("energy", upper=min(_SCALE, energy_limit_j / unit_j)))
        active = total(self.forms.figure("energy_j", stage) for stage in range(len(self.ids))) / unit_j
        if self.problem.idle_all_w is not None:
            idling = self.problem.idle_all_w * self.unit_s / unit_j * self.makespan
        else:
            idle = self.rows.variables("idle", len(self.ids))
            for stage in range(len(self.ids)):
                self._idle(stage, over(idle[stage]), unit_j)
            idling = over(idle)
        self.rows.add("energy", energy - active - idling, ">=")
        if objective == "latency":
            return self._model(self.makespan, self.unit_s)
        return self._model(energy, unit_j)

    def _model(self, minimised: Form, unit: float) -> JointModel:
        return JointModel(self.rows.build(minimised), unit, tuple(self.ids), self.operations, self.pairs)

    def _idle(self, stage: int, idle: Form, unit_j: float) -> None:
        codes = self.c.code[self.ids[stage]]
        for code in np.unique(codes).tolist():
            watts = float(self.c.idle_w[self.ids[stage][codes == code][0]]) * self.unit_s / unit_j
            used = self.forms.at_stage(stage, watts * _SCALE * (codes == code))
            self.rows.add("idle", idle - watts * self.makespan - used, ">=", -watts * _SCALE)

    def _most_j(self) -> float:
        """No plan within the makespan takes more."""
        most_j = sum(float((self.c.energy_j + self.c.idle_w * self.below_s)[ids].max()) for ids in self.ids)
        return most_j + (self.problem.idle_all_w or 0.0) * self.below_s


def _earliest(operations: Operations, seconds: dict[OperationClass, float]) -> Floats:
    """Earliest starts when every class takes so many seconds."""
    head_s = np.zeros(len(operations.operations))
    for index, before in enumerate(operations.predecessors):
        head_s[index] = max((head_s[each] + seconds[operations.classes[each]] for each in before), default=0.0)
    return head_s

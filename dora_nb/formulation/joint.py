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

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.buckets import MOST_BUCKETS
from dora_nb.costs.compute_times import parts_of_backward
from dora_nb.costs.network import Network
from dora_nb.costs.operations import COMPUTE_KINDS, Operation, OperationClass, Operations, Shape, travelling
from dora_nb.costs.precedence import operations_of
from dora_nb.costs.table import Floats
from dora_nb.costs.transfers import bucket_holds
from dora_nb.domain.transfer import HOSTED
from dora_nb.formulation.columns import Columns
from dora_nb.formulation.decode import stage_of
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.rows import Form, LinearProgram, Rows, over, total
from dora_nb.formulation.schedules.windows import followers

#: The largest makespan and energy of interest, in the program's own units: far above a solver's tolerances.
_SCALE = 100.0


class Skeleton(NamedTuple):
    """What decides the operations of a plan and their precedence.

    Attributes
    ----------
    micro_batch
        Samples.
    in_flight
        In-flight count of every stage, first to last.
    hosts
        Whether the last stage hosts the first layer.
    """

    micro_batch: int
    in_flight: tuple[int, ...]
    hosts: bool


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


def skeletons(problem: Problem) -> Iterator[Skeleton]:
    """Every skeleton of a problem's space, fewest stages first."""
    workload, space = problem.workload, problem.space
    most = min(len(workload.layers), len(problem.cluster.devices))
    for stages in range(1, most + 1):
        for size in space.micro_batch_sizes:
            for held in space.in_flight_counts(stages, workload.batch // size):
                yield Skeleton(size, held, False)
                if workload.trains_tied and 1 < stages < len(workload.layers):
                    yield Skeleton(size, held, True)


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
    program = _Program(problem, columns, skeleton, below_s)
    if any(len(ids) == 0 for ids in program.ids):
        return None
    program.partition(ruled_out)
    program.precedence()
    program.orders()
    program.media()
    program.batteries()
    return program.build(objective, energy_limit_j)


class _Program:
    """Builds the rows, one family a method."""

    def __init__(self, problem: Problem, columns: Columns, skeleton: Skeleton, below_s: float) -> None:
        self.problem, self.c, self.skeleton = problem, columns, skeleton
        self.trains = problem.workload.trains
        self.by_pair = any(domain.kind == "links" for domain in problem.cluster.domains)
        self.last = len(skeleton.in_flight) - 1
        self.batches = columns.batch // skeleton.micro_batch
        self.ids = [self._eligible(stage) for stage in range(self.last + 1)]
        self.rows = Rows()
        if any(len(ids) == 0 for ids in self.ids):
            return
        self.place = [
            self.rows.variables(f"place{stage}", len(ids), kind="binary") for stage, ids in enumerate(self.ids)
        ]
        self.operations = operations_of(self._shape())
        self.held = {
            kind: self._held(kind)
            for kind in dict.fromkeys(self.operations.classes[index] for index in self.operations.transfers)
        }
        self.ports = {kind: self._ports(kind) for kind in self.held}
        self.durations = {kind: self._duration(kind) for kind in dict.fromkeys(self.operations.classes)}
        self.below_s = min(below_s, self._horizon_s())
        self.unit_s = self.below_s / _SCALE
        self.head_s = _earliest(self.operations, {kind: self._least(kind) for kind in self.durations})
        start = self.rows.variables("start", len(self.head_s), lower=self.head_s / self.unit_s, upper=_SCALE)
        self.start = [over(variable) for variable in start]
        self.makespan = over(self.rows.variables("makespan", upper=_SCALE))

    def _eligible(self, stage: int) -> Ints:
        c, layers = self.c, len(self.problem.workload.layers)
        fits = (c.micro_batch == self.skeleton.micro_batch) & (
            c.holds(np.arange(len(c)), self.skeleton.in_flight[stage]) | (not self.trains)
        )
        fits &= (c.first == int(self.skeleton.hosts)) if stage == 0 else (c.first > int(self.skeleton.hosts))
        fits &= (c.stop == layers) if stage == self.last else (c.stop < layers)
        fits &= c.hosts == (self.skeleton.hosts and stage == self.last)
        return np.flatnonzero(fits)

    def _shape(self) -> Shape:
        workload, problem = self.problem.workload, self.problem
        tied = "hosted" if self.skeleton.hosts else "synchronised"
        parts = MOST_BUCKETS if problem.overlap else 1
        inputs, labels, outputs = travelling(workload)
        return Shape(
            in_flight=self.skeleton.in_flight if self.trains else (self.batches,) * (self.last + 1),
            micro_batches=self.batches,
            trains=self.trains,
            tied=tied if workload.trains_tied and self.last else None,  # type: ignore[arg-type]
            buckets=tuple(
                0 if not self.trains else 1 if self.skeleton.hosts and stage == self.last else parts
                for stage in range(self.last + 1)
            ),
            inputs=inputs,
            labels=labels,
            outputs=outputs,
            chunks=problem.space.most_chunks,
            overlap=problem.overlap,
        )

    # ------------------------------------------------------------------ linear forms

    def _over(self, stage: int, values: Floats | Ints | NDArray[np.bool_]) -> Form:
        """Sum of a figure of the column at a stage; ``values`` has one entry per column of the stage."""
        return over(self.place[stage], values)

    def _of(self, name: str, stage: int, factor: float = 1.0) -> Form:
        return self._over(stage, getattr(self.c, name)[self.ids[stage]] * factor)

    def _with_message(self, name: str, stage: int) -> Form:
        seconds = getattr(self.c, name)[self.ids[stage]]
        return self._over(stage, seconds + self.problem.message_s * (seconds > 0))

    def _duration(self, kind: OperationClass) -> list[Form]:
        """Seconds of a class: at least each of these."""
        stage = kind.stage
        if kind.kind in ("forward", "backward") and stage == HOSTED:
            return [self._of(f"host_{kind.kind}_s", self.last)]
        if kind.kind == "backward" and kind.part:
            return [self._over(stage, self._parts(stage)[:, kind.part - 1])]
        if kind.kind in COMPUTE_KINDS:
            return [self._of(f"{kind.kind}_s", stage)]
        if kind.kind == "all-reduce":
            return [self._over(stage, self._buckets(stage)[1][:, max(kind.part - 1, 0)])]
        if kind.kind in _ENDS:
            return [self._with_message(f"{kind.kind}_s", self.last if stage == HOSTED else stage)]
        if kind.kind in _TIED:
            return [self._with_message(_TIED[kind.kind], stage)]
        return [dataclasses.replace(form, constant=self.problem.message_s) for form in self.held[kind]]

    def _held(self, kind: OperationClass) -> list[Form]:
        """Seconds that a class holds the medium: at least each of these."""
        stage = kind.stage
        if kind.kind in ("activation", "gradient"):
            share = 1 / self.problem.space.most_chunks
            ahead, name = (self.last, "host_send_s") if stage == HOSTED else (stage, "send_s")
            sides = self._of(name, ahead, share), self._of("receive_s", 0 if stage == HOSTED else stage + 1, share)
        elif kind.kind == "tied-exchange":
            sides = self._of("tied_part_s", 0), self._of("tied_part_s", self.last)
        elif kind.kind == "all-reduce":
            return [self._over(stage, self._buckets(stage)[0][:, max(kind.part - 1, 0)])]
        else:
            name = _TIED.get(kind.kind, f"{kind.kind}_s")
            return [self._of(name, self.last if stage == HOSTED else stage)]
        return [sides[0] + sides[1]] if self.problem.shared else list(sides)

    def _parts(self, stage: int) -> Floats:
        """Parts of the last backward pass, shape (columns of the stage, buckets); a single replica's are one."""
        parts = np.zeros((len(self.ids[stage]), MOST_BUCKETS))
        parts[:, 0] = self.c.backward_s[self.ids[stage]]
        problem = self.problem
        for row, column in enumerate(self.ids[stage].tolist()):
            own = parts_of_backward(stage_of(self.c, column, problem), problem.workload, problem.cluster, problem.table)
            if own:
                parts[row] = [*own, *[0.0] * (MOST_BUCKETS - len(own))]
        return parts

    def _buckets(self, stage: int) -> tuple[Floats, Floats]:
        """Seconds that each bucket holds the medium, and until it is summed; shape (columns, buckets)."""
        held, lasts = np.zeros((2, len(self.ids[stage]), MOST_BUCKETS))
        problem, network = self.problem, Network.of(self.problem.cluster)
        hosts = self.skeleton.hosts and stage == self.last
        for row, column in enumerate(self.ids[stage].tolist()):
            own = stage_of(self.c, column, problem)
            for bucket, hold in enumerate(bucket_holds(own, hosts, problem.workload, network)):
                held[row, bucket] = max(hold.seconds.values(), default=0.0)
                lasts[row, bucket] = hold.duration_s
        return held, lasts

    def _horizon_s(self) -> float:
        """All operations one after the other, the slowest columns at every stage: the best schedule is shorter."""
        most_s = {
            kind: sum(form.constant + sum(form.weights_of(place).max() for place in self.place) for form in forms)
            for kind, forms in self.durations.items()
        }
        return float(sum(most_s[kind] for kind in self.operations.classes))

    def _least(self, kind: OperationClass) -> float:
        """Seconds of a class whatever columns are chosen."""
        return max(
            form.constant + float(sum(form.weights_of(place).min() for place in self.place))
            for form in self.durations[kind]
        )

    # ------------------------------------------------------------------ rows

    def partition(self, ruled_out: Sequence[Sequence[int]]) -> None:
        """One column a stage, neighbours meet, no device twice, nothing that is ruled out."""
        c, fleet = self.c, self.problem.fleet
        for place in self.place:
            self.rows.add("one column", over(place), "=", 1.0)
        for stage, (ahead, behind) in enumerate(itertools.pairwise(self.ids)):
            for cut in np.union1d(c.stop[ahead], c.first[behind]).tolist():
                ends = self._over(stage, c.stop[ahead] == cut)
                starts = self._over(stage + 1, c.first[behind] == cut)
                self.rows.add("meet", ends - starts, "=")
        for kind, available in enumerate(fleet.available.tolist()):
            used = total(self._over(stage, fleet.used[c.code[ids]][:, kind]) for stage, ids in enumerate(self.ids))
            self.rows.add("devices", used, "<=", available)
        for chosen in ruled_out:
            together = total(self._over(stage, self.ids[stage] == column) for stage, column in enumerate(chosen))
            self.rows.add("ruled out", together, "<=", self.last)

    def precedence(self) -> None:
        """What must be done before what, and the makespan after everything."""
        for index, before in enumerate(self.operations.predecessors):
            for earlier in before:
                for form in self.durations[self.operations.classes[earlier]]:
                    self._after(self.start[index], self.start[earlier], form, "precedence")
        for index, after in enumerate(self.operations.successors):
            if not after:
                for form in self.durations[self.operations.classes[index]]:
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
            return self.held[earlier]
        ports = self.ports[earlier]
        return [ports[port] for port in self.ports[later] if port in ports]

    def _ports(self, kind: OperationClass) -> dict[tuple[int, str], Form]:
        """Ports that a transfer holds, by stage and direction; or, with links of its own, only its own class does."""
        stage, share = kind.stage, 1 / self.problem.space.most_chunks
        if kind.kind in ("activation", "gradient"):
            ahead, name = (self.last, "host_send_s") if stage == HOSTED else (stage, "send_s")
            behind = 0 if stage == HOSTED else stage + 1
            out, into = ("tx", "rx") if kind.kind == "activation" else ("rx", "tx")
            if self.by_pair:
                out, into = f"{kind.kind} {stage} tx", f"{kind.kind} {stage} rx"
            return {(ahead, out): self._of(name, ahead, share), (behind, into): self._of("receive_s", behind, share)}
        if kind.kind == "all-reduce":
            held = self.held[kind][0]
            if self.by_pair:
                return {(stage, "all-reduce"): held}
            return {(stage, "tx"): held, (stage, "rx"): held}
        return {}

    def _gates(self, first: int, second: int) -> list[Form]:
        """For each of two transfers that may move nothing: 0 if it does move something, else -1."""
        gates = []
        for index in (first, second):
            kind = self.operations.classes[index]
            if kind.kind in (*_ENDS, *_TIED, "all-reduce"):
                (form,) = self.held[kind]
                gates.append(Form(form.at, np.ones(len(form.at)), -1.0))
        return gates

    def media(self) -> None:
        """The medium carries everything within the makespan."""
        if not self.problem.shared:
            return
        held_s = total(
            form for index in self.operations.transfers for form in self.held[self.operations.classes[index]]
        )
        self.rows.add("media", self.makespan - held_s / self.unit_s, ">=")

    def batteries(self) -> None:
        """The iteration ends before a battery of a chosen stage is over its limit."""
        for stage, ids in enumerate(self.ids):
            cap_s = np.clip(self.c.cap_s[ids], 0.0, self.below_s)
            if (cap_s < self.below_s).any():
                self.rows.add("batteries", self.makespan - self._over(stage, cap_s / self.unit_s), "<=")

    def build(self, objective: Literal["latency", "energy"], energy_limit_j: float) -> JointModel:
        """Energy, limits, and what is minimised."""
        if objective == "latency" and not np.isfinite(energy_limit_j):
            return self._model(self.makespan, self.unit_s)
        # Where nothing draws anything, or nothing may, any unit does.
        unit_j = (energy_limit_j if 0 < energy_limit_j < np.inf else self._most_j()) / _SCALE or 1.0
        energy = over(self.rows.variables("energy", upper=min(_SCALE, energy_limit_j / unit_j)))
        active = total(self._of("energy_j", stage) for stage in range(self.last + 1)) / unit_j
        if self.problem.idle_all_w is not None:
            idling = self.problem.idle_all_w * self.unit_s / unit_j * self.makespan
        else:
            idle = self.rows.variables("idle", self.last + 1)
            for stage in range(self.last + 1):
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
            used = self._over(stage, watts * _SCALE * (codes == code))
            self.rows.add("idle", idle - watts * self.makespan - used, ">=", -watts * _SCALE)

    def _most_j(self) -> float:
        """No plan within the makespan takes more."""
        most_j = sum(float((self.c.energy_j + self.c.idle_w * self.below_s)[ids].max()) for ids in self.ids)
        return most_j + (self.problem.idle_all_w or 0.0) * self.below_s


#: Transfers from the source and to the sink.
_ENDS = ("input", "label", "output")

#: Figures of a stage's own part in summing tied gradients.
_TIED = {"tied-reduce": "tied_gather_s", "tied-broadcast": "tied_spread_s"}


def _earliest(operations: Operations, seconds: dict[OperationClass, float]) -> Floats:
    """Earliest starts when every class takes so many seconds."""
    head_s = np.zeros(len(operations.operations))
    for index, before in enumerate(operations.predecessors):
        head_s[index] = max((head_s[each] + seconds[operations.classes[each]] for each in before), default=0.0)
    return head_s

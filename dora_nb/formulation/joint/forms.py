"""Figures of a skeleton's stages and operations, linear in the columns that may stand at each stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.buckets import MOST_BUCKETS
from dora_nb.costs.compute_times import parts_of_backward
from dora_nb.costs.network import Network
from dora_nb.costs.operations import COMPUTE_KINDS, OperationClass, Shape, travelling
from dora_nb.costs.precedence import operations_of
from dora_nb.costs.table import Floats
from dora_nb.costs.transfers import bucket_holds
from dora_nb.domain.transfer import HOSTED
from dora_nb.formulation.columns import Columns
from dora_nb.formulation.decode import stage_of
from dora_nb.formulation.fleet import Ints
from dora_nb.formulation.joint.skeleton import Skeleton
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.rows import Form, over

#: Transfers from the source and to the sink.
ENDS = ("input", "label", "output")

#: Figures of a stage's own part in summing tied gradients.
TIED = {"tied-reduce": "tied_gather_s", "tied-broadcast": "tied_spread_s"}


class StageForms:
    """Figures of a skeleton's stages and operations, as forms of the binaries ``place[s, c]``: column c is stage s.

    Parameters
    ----------
    problem, columns, skeleton
        What is planned, from which columns.
    ids, place
        For each stage, the columns that may stand there, and their binaries.

    Attributes
    ----------
    operations
        Of every plan of the skeleton.
    durations, held
        Seconds of a class of operations from start to end, and that one of transfers holds the medium: at least each
        of these.
    ports
        Ports that a class of transfers holds, by stage and direction.
    """

    def __init__(
        self, problem: Problem, columns: Columns, skeleton: Skeleton, ids: Sequence[Ints], place: Sequence[Ints]
    ) -> None:
        self.problem, self.c, self.skeleton, self.ids, self.place = problem, columns, skeleton, ids, place
        self.trains = problem.workload.trains
        self.by_pair = any(domain.kind == "links" for domain in problem.cluster.domains)
        self.last = len(skeleton.in_flight) - 1
        self.operations = operations_of(self._shape())
        transfers = (self.operations.classes[index] for index in self.operations.transfers)
        self.held = {kind: self._held(kind) for kind in dict.fromkeys(transfers)}
        self.ports = {kind: self._ports(kind) for kind in self.held}
        self.durations = {kind: self._duration(kind) for kind in self.operations.kinds}

    def at_stage(self, stage: int, values: Floats | Ints | NDArray[np.bool_]) -> Form:
        """Sum of a figure of the column at a stage; ``values`` has one entry per column of the stage."""
        return over(self.place[stage], values)

    def figure(self, name: str, stage: int, factor: float = 1.0) -> Form:
        """A figure of the column at a stage, by its name in :class:`~dora_nb.formulation.columns.Columns`."""
        return self.at_stage(stage, getattr(self.c, name)[self.ids[stage]] * factor)

    def horizon_s(self) -> float:
        """All operations one after the other, the slowest columns at every stage: the best schedule is shorter."""
        most_s = {
            kind: sum(form.constant + sum(form.weights_of(place).max() for place in self.place) for form in forms)
            for kind, forms in self.durations.items()
        }
        return float(sum(most_s[kind] for kind in self.operations.classes))

    def least_s(self, kind: OperationClass) -> float:
        """Seconds of a class whatever columns are chosen."""
        return max(
            form.constant + float(sum(form.weights_of(place).min() for place in self.place))
            for form in self.durations[kind]
        )

    def _shape(self) -> Shape:
        batches = self.c.batch // self.skeleton.micro_batch
        workload, problem = self.problem.workload, self.problem
        tied: Literal["hosted", "synchronised"] = "hosted" if self.skeleton.hosts else "synchronised"
        parts = MOST_BUCKETS if problem.overlap else 1
        inputs, labels, outputs = travelling(workload)
        return Shape(
            in_flight=self.skeleton.in_flight if self.trains else (batches,) * (self.last + 1),
            micro_batches=batches,
            trains=self.trains,
            tied=tied if workload.trains_tied and self.last else None,
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

    def _duration(self, kind: OperationClass) -> list[Form]:
        """Seconds of a class: at least each of these."""
        stage = kind.stage
        if kind.kind in ("forward", "backward") and stage == HOSTED:
            return [self.figure(f"host_{kind.kind}_s", self.last)]
        if kind.kind == "backward" and kind.part:
            return [self.at_stage(stage, self._parts(stage)[:, kind.part - 1])]
        if kind.kind in COMPUTE_KINDS:
            return [self.figure(f"{kind.kind}_s", stage)]
        if kind.kind == "all-reduce":
            return [self.at_stage(stage, self._buckets(stage)[1][:, max(kind.part - 1, 0)])]
        if kind.kind in ENDS:
            return [self._with_message(f"{kind.kind}_s", self.last if stage == HOSTED else stage)]
        if kind.kind in TIED:
            return [self._with_message(TIED[kind.kind], stage)]
        return [dataclasses.replace(form, constant=self.problem.message_s) for form in self.held[kind]]

    def _held(self, kind: OperationClass) -> list[Form]:
        """Seconds that a class holds the medium: at least each of these."""
        stage = kind.stage
        if kind.kind in ("activation", "gradient"):
            sides = tuple(form for _, form in self._sides(stage))
        elif kind.kind == "tied-exchange":
            sides = (self.figure("tied_part_s", 0), self.figure("tied_part_s", self.last))
        elif kind.kind == "all-reduce":
            return [self.at_stage(stage, self._buckets(stage)[0][:, max(kind.part - 1, 0)])]
        else:
            name = TIED.get(kind.kind, f"{kind.kind}_s")
            return [self.figure(name, self.last if stage == HOSTED else stage)]
        return [sides[0] + sides[1]] if self.problem.shared else list(sides)

    def _sides(self, stage: int) -> tuple[tuple[int, Form], tuple[int, Form]]:
        """The stages at both ends of a hand-over behind a stage, each with its seconds for a chunk."""
        share = 1 / self.problem.space.most_chunks
        ahead, name, behind = (self.last, "host_send_s", 0) if stage == HOSTED else (stage, "send_s", stage + 1)
        return (ahead, self.figure(name, ahead, share)), (behind, self.figure("receive_s", behind, share))

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

    def _with_message(self, name: str, stage: int) -> Form:
        seconds = getattr(self.c, name)[self.ids[stage]]
        return self.at_stage(stage, seconds + self.problem.message_s * (seconds > 0))

    def _ports(self, kind: OperationClass) -> dict[tuple[int, str], Form]:
        """Ports that a transfer holds, by stage and direction; or, with links of its own, only its own class does."""
        stage = kind.stage
        if kind.kind in ("activation", "gradient"):
            (ahead, sending), (behind, receiving) = self._sides(stage)
            out, into = ("tx", "rx") if kind.kind == "activation" else ("rx", "tx")
            if self.by_pair:
                out, into = f"{kind.kind} {stage} tx", f"{kind.kind} {stage} rx"
            return {(ahead, out): sending, (behind, into): receiving}
        if kind.kind == "all-reduce":
            held = self.held[kind][0]
            if self.by_pair:
                return {(stage, "all-reduce"): held}
            return {(stage, "tx"): held, (stage, "rx"): held}
        return {}

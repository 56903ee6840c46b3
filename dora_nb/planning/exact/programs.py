"""The exact programs of a question one by one, with names that people read: for any solver, and to compare solvers.

Which columns a program may choose from is screened by valid bounds against a plan in hand: a column is left out only
where no plan that contains it can be as good as that one. The optimum stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from dora_nb.costs.operations import Operation
from dora_nb.costs.table import CostTable
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.fits import check_fits
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.rating import qoe_value
from dora_nb.domain.transfer import HOSTED
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.formulation.columns import Columns, build_columns
from dora_nb.formulation.decode import stage_of
from dora_nb.formulation.joint.program import joint_model
from dora_nb.formulation.joint.skeleton import Skeleton
from dora_nb.formulation.partition import Objective, partition_model
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.schedules.transfers import transfer_model
from dora_nb.formulation.schedules.windows import Windows
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.bounding.screening import screen
from dora_nb.planning.bounding.targets import Ladder, Targets
from dora_nb.planning.exact.monolithic import MOST_SIZE
from dora_nb.planning.scheduling import finish, operations_and_timing, predicted

if TYPE_CHECKING:
    import linopy

ProgramName: TypeAlias = Literal["joint", "partition", "transfers"]

#: What is as good as the plan in hand, relatively: rounding must not shut the plan itself out.
_AS_GOOD = 1e-6


@dataclass(frozen=True)
class Program:
    """A mixed-integer linear program of a question.

    Attributes
    ----------
    name
        ``joint``: stage columns, start times and transfer orders of all plans with the given one's micro-batches,
        number of stages and in-flight counts. ``partition``: which columns make up the pipeline, of any number of
        stages, by rows that bound every schedule from below. ``transfers``: the order of the given plan's transfers.
    model
        It minimises.
    unit
        Seconds or joules of one unit of its objective.
    unit_name
        ``s`` or ``J``.
    """

    name: ProgramName
    model: linopy.Model
    unit: float
    unit_name: Literal["s", "J"]

    @property
    def words(self) -> str:
        """What the program asks, and how large it is."""
        size = f"{self.model.nvars:,} variables, {self.model.ncons:,} constraints"
        what = {
            "joint": "stages, start times and transfer orders together, in the plan's micro-batches, number of stages "
            "and in-flight counts",
            "partition": "which stages make up the pipeline; it bounds every schedule from below",
            "transfers": "the order of the plan's own transfers",
        }[self.name]
        return f"{what}: {size}; minimises {self.unit:.9g} {self.unit_name} x its objective"


def program_of(
    plan: Plan,
    workload: Workload,
    cluster: Cluster,
    qoe: QoE | None = None,
    *,
    which: ProgramName = "joint",
    table: CostTable | None = None,
    space: SearchSpace | None = None,
) -> Program:
    """One of the exact programs of the question that a plan answers.

    Parameters
    ----------
    plan
        The plan in hand: none that is worse need be found.
    workload, cluster, qoe
        What it was made for; ``qoe`` None: no limits, lowest latency.
    which
        See :class:`Program`.
    table
        Measured compute times; None: the roofline estimate.
    space
        Plans to consider; None: :meth:`~dora_nb.formulation.space.SearchSpace.default`.

    Returns
    -------
    Program
        Its variables carry names: ``place`` with layers and devices, ``start`` with the operation, ``before`` with the
        two transfers.

    Raises
    ------
    InputError
        If there is no such program, not for this question, or it would be too large; or the plan does not fit.
    """
    qoe = QoE() if qoe is None else qoe
    check_fits(plan, workload, cluster)
    if which not in get_args(ProgramName):
        raise InputError("program", which, ", ".join(get_args(ProgramName)))
    sliced = any(stage.shards for stage in plan.stages) or (space is not None and space.shards > 1)
    if sliced and which != "transfers":
        raise InputError("program", which, "'transfers' where stages have shards: what their sums hold is no variable")
    problem = Problem.of(
        workload, cluster, qoe.energy_accounting, qoe=qoe, table=table, space=space, overlap=plan.overlap
    )
    known = predicted(plan, problem) if plan.transfer_order else finish(plan, problem)
    if plan.prediction is not None and abs(_figures(problem, plan)[0] / _figures(problem, known)[0] - 1) > _AS_GOOD:
        raise InputError("table", "other times", "the compute times that the plan was made with; a plan file has none")
    makers: dict[str, Callable[[Problem, Plan], Program]] = {"joint": _joint, "partition": _partition}
    return makers.get(which, _transfers)(problem, known)


def _joint(problem: Problem, plan: Plan) -> Program:
    workload, terms = problem.workload, problem.terms
    if not terms.is_plain:
        raise InputError("program", "joint", "'partition' where limits or the objective have prices")
    if workload.mode not in ("training", "inference"):
        raise InputError("program", "joint", f"'partition' or 'transfers' in mode {workload.mode!r}")
    columns = _columns(problem, plan)
    skeleton = Skeleton(plan.micro_batch, tuple(stage.in_flight for stage in plan.stages), plan.tied == "hosted")
    operations = len(operations_and_timing(plan, problem)[0].operations)
    if len(columns) * operations > MOST_SIZE:
        raise InputError(
            "program",
            "joint",
            f"'partition' or 'transfers' for this question: its {len(columns):,} stage columns times {operations:,} "
            f"operations are more than the {MOST_SIZE:,} that one program can take",
        )
    objective: Literal["latency", "energy"] = "latency" if terms.qoe.objective == "latency" else "energy"
    makespan_s, energy_j, _ = _figures(problem, plan)
    below_s, below_j = terms.makespan_limit_s, terms.energy_limit_j
    if objective == "latency":
        below_s = min(below_s, makespan_s * (1 + _AS_GOOD))
    else:
        below_j = min(below_j, energy_j * (1 + _AS_GOOD))
    built = joint_model(problem, columns, skeleton, objective, below_s=below_s, energy_limit_j=below_j)
    if built is None:
        raise InputError("plan", plan.label, "a plan of the search space, so that each of its stages is a column")
    model = built.model.linopy()
    for stage, ids in enumerate(built.columns):
        _name(model, f"place{stage}", [_column_name(columns, int(column), problem) for column in ids])
    names = [_operation_name(each) for each in built.operations.operations]
    _name(model, "start", names)
    _name(model, "before", [f"{names[first]}.{names[second]}" for first, second in built.pairs])
    return Program("joint", model, built.unit, "s" if objective == "latency" else "J")


def _partition(problem: Problem, plan: Plan) -> Program:
    terms = problem.terms
    objective: Objective = "value"
    if terms.is_plain:
        objective = "latency" if terms.qoe.objective == "latency" else "energy"
    columns = _columns(problem, plan)
    built = partition_model(
        problem,
        columns,
        objective,
        latency_limit_s=terms.makespan_limit_s,
        energy_limit_j=terms.energy_limit_j,
    )
    model = built.model.linopy()
    places = zip(built.column.tolist(), built.position.tolist(), strict=True)
    _name(model, "place", [f"{_column_name(columns, column, problem)}.p{at}" for column, at in places])
    return Program("partition", model, 1.0, terms.qoe.unit)


def _transfers(problem: Problem, plan: Plan) -> Program:
    if problem.workload.mode == "stream":
        raise InputError("program", "transfers", "'partition' in mode 'stream', whose transfers repeat every period")
    operations, timing = operations_and_timing(plan, problem)
    windows = Windows(operations, timing)
    makespan_s = _figures(problem, plan)[0]
    if not windows.decide(makespan_s * (1 + _AS_GOOD)):
        raise InputError("plan", plan.label, "a plan whose own schedule is as long as it says")
    built = transfer_model(windows, makespan_s * (1 + _AS_GOOD))
    model = built.model.linopy()
    names = [_operation_name(each) for each in operations.operations]
    _name(model, "start", names)
    _name(model, "before", [f"{names[first]}.{names[second]}" for first, second in windows.undecided()])
    return Program("transfers", model, built.unit_s, "s")


def _figures(problem: Problem, plan: Plan) -> tuple[float, float, float]:
    """Makespan, energy and value of a predicted plan."""
    prediction = plan.prediction
    assert prediction is not None, "a predicted plan carries its prediction"
    energy_j = prediction.energy_j(problem.terms.qoe.energy_accounting)
    return prediction.makespan_s, energy_j, qoe_value(prediction, problem.terms.qoe).value


def _columns(problem: Problem, plan: Plan) -> Columns:
    """The columns of plans that may be as good as the one in hand and keep the hard limits."""
    terms = problem.terms
    asked = "value" if not terms.is_plain else terms.qoe.objective
    limits_s = np.array([terms.makespan_limit_s])
    targets = Targets(
        limits_s if asked == "energy" else np.zeros(0),
        energy_limit_j=terms.energy_limit_j,
        makespan_limit_s=terms.makespan_limit_s,
        seek_latency=asked == "latency",
        further=(Ladder("value", "makespan_s", limits_s),) if asked == "value" else (),
    )
    makespan_s, energy_j, value = _figures(problem, plan)
    targets.offer(makespan_s * (1 + _AS_GOOD), energy_j * (1 + _AS_GOOD), plan, value * (1 + _AS_GOOD))
    return build_columns(problem, problem.space.most_devices, screen(problem, targets))


# ------------------------------------------------------------------ names


def _name(model: linopy.Model, variable: str, names: Sequence[str]) -> None:
    """Give the entries of a block of variables names, in place of their numbers."""
    if variable not in model.variables:  # a block without entries is left out
        return
    block = model.variables[variable]
    model.variables.data[variable] = block.assign_coords({block.dims[0]: list(names)})


def _plain(words: Iterable[str]) -> str:
    """Words as one name of letters, digits, points and underscores, as LP and MPS files can hold."""
    return ".".join(re.sub(r"\W", "_", word, flags=re.ASCII) for word in words)


def _column_name(columns: Columns, column: int, problem: Problem) -> str:
    """Layers and devices of a stage, each device with its samples."""
    stage = stage_of(columns, column, problem)
    layers = f"l{stage.first_layer}_{stage.stop_layer - 1}" + "_and_0" * bool(columns.hosts[column])
    layers += "_again" * stage.recomputes
    size = f"m{int(columns.micro_batch[column])}"
    return _plain([size, layers, *(f"{replica.device}_{replica.samples}" for replica in stage.replicas)])


def _operation_name(operation: Operation) -> str:
    kind, stage, micro_batch, part = operation
    where = "host" if stage == HOSTED else f"s{stage}"
    return _plain([kind, where, f"b{micro_batch}", *([f"p{part}"] if part else [])])

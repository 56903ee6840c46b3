"""Finishing a plan: the order of its transfers, and what it is predicted to do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from dora_nb import solvers
from dora_nb.costs.evaluate import evaluate
from dora_nb.costs.operations import Operations, Shape, Timing
from dora_nb.costs.precedence import operations_of
from dora_nb.costs.timing import timing_of
from dora_nb.domain.fits import check_fits
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import ROUNDING
from dora_nb.domain.transfer import Transfer
from dora_nb.errors import InfeasibleError, ObjectiveMismatchError
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.schedules.list_schedule import ListSchedule, list_schedule
from dora_nb.formulation.schedules.serial_schedule import by_head, improved
from dora_nb.formulation.schedules.stream_schedule import greedy_stream
from dora_nb.formulation.schedules.transfers import transfer_model
from dora_nb.formulation.schedules.windows import Windows
from dora_nb.planning.deadline import Deadline
from dora_nb.solvers import SolverChoice

#: Rounds of improvement for every plan; and from how many seeds, and how many more, before the program is asked.
ROUNDS, SEEDS, PATIENT_ROUNDS = 24, 3, 150

#: Looks for a schedule: enough seconds, and whether to stop.
Heuristic = Callable[[Operations, Timing, float, Callable[[], bool]], ListSchedule]

#: Open pairs of transfers up to which the program is worth its time, and transfers up to which looking for them is.
MOST_PAIRS, MOST_TRANSFERS = 4_000, 600

#: Open pairs up to which it is where planning has no deadline, and nothing would end the root node of a large program.
#: Measured: with some 2,400 and 3,300 pairs (vit-b-16's training in the smart home, partitioned in sequence) the root
#: took HiGHS 40 and 20 s, and in 2,000 nodes (80 and 60 s) neither program found a schedule.
MOST_PAIRS_UNTIMED = 2_000

#: Seconds a single transfer program gets.
PROGRAM_S = 20.0

#: Nodes it gets instead where planning has no deadline, so that the answer does not depend on how busy the machine is.
#: Measured: the 60 points of ``tests/benchmarks/test_sweep.py`` and 30 of the notebook's example need no program, lists
#: and bounds settle them. Of the programs that some 50 random contended pipelines needed two ended after 14 and 315
#: nodes and one after 6,072 (25 s); those of a training step on the traffic cameras' devices, at a quarter of their
#: rates, found nothing in 100 nodes and nothing more in 2,000, at 5 ms each. So a limit within which easy programs end
#: many times over, and hard ones take about half of ``PROGRAM_S``.
PROGRAM_NODES = 2_000

#: Relative disagreement that a solver's tolerances explain.
AGREEMENT = 1e-5


@dataclass(frozen=True)
class Settled:
    """What is known about the best transfer schedule of a plan.

    Attributes
    ----------
    bound_s
        No schedule of the plan is shorter, or none is shorter than the makespan that was to be beaten.
    makespan_s
        Of ``plan``; infinity without one.
    plan
        With the best transfer order found, if that beats the makespan to be beaten.
    solver
        Which solver proved the bound; empty if none had to.
    """

    bound_s: float
    makespan_s: float
    plan: Plan | None
    solver: str = ""


def finish(plan: Plan, problem: Problem) -> Plan:
    """The plan with its transfers scheduled and its figures predicted.

    Raises
    ------
    InputError
        If the plan does not fit the problem's workload or cluster.
    InfeasibleError
        If no schedule of the plan was found that keeps up with a stream.
    """
    check_fits(plan, problem.workload, problem.cluster)
    plan = plan.replace(overlap=problem.overlap)
    makespan_s, order = quick_schedule(plan, problem)
    if math.isinf(makespan_s):
        raise InfeasibleError("no schedule of this plan was found that repeats with every request of the stream")
    return predicted(plan.replace(transfer_order=order), problem)


def quick_schedule(plan: Plan, problem: Problem) -> tuple[float, tuple[Transfer, ...]]:
    """A plan's transfers scheduled by list, or greedily within a stream's period.

    Returns
    -------
    makespan_s
        A request's latency in a stream; infinity if no schedule was found that repeats.
    order
        As a plan carries it.
    """
    operations, timing = operations_and_timing(plan, problem)
    if problem.workload.arrival_s is None:
        schedule = list_schedule(operations, timing)
        return schedule.makespan_s, schedule.transfers()
    repeating = greedy_stream(operations, timing, problem.workload.arrival_s)
    return (math.inf, ()) if repeating is None else (repeating.latency_s, repeating.transfers(operations))


def finish_all(plans: Iterable[Plan], problem: Problem) -> list[Plan]:
    """The plans finished, without those that cannot keep up with a stream."""
    finished = []
    for plan in plans:
        with suppress(InfeasibleError):
            finished.append(finish(plan, problem))
    return finished


def predicted(plan: Plan, problem: Problem) -> Plan:
    """The plan, transfer order and all, with its figures predicted."""
    evaluation = evaluate(plan, problem.workload, problem.cluster, problem.table)
    return plan.replace(prediction=evaluation.prediction)


def scheduled(plan: Plan, problem: Problem) -> Plan:
    """The plan with its figures predicted, the times of all transfers included."""
    return evaluate(plan, problem.workload, problem.cluster, problem.table).scheduled


def fits_memory(plan: Plan) -> bool:
    """Whether every device of a predicted plan can hold what it must."""
    assert plan.prediction is not None, "predict the plan first"
    return all(device.memory_bytes <= device.usable_memory_bytes for device in plan.prediction.devices)


def settle(
    plan: Plan, problem: Problem, *, below_s: float, gap: float, solver: SolverChoice, deadline: Deadline
) -> Settled:
    """The best transfer schedule of a plan that beats a makespan, or the proof that none does.

    First the bound of every medium and the windows that a shorter schedule would leave, then schedules by list and by
    serial scheduling in one, two and four chunks. If the windows that a still shorter one would leave do not refute it,
    schedules from more beginnings, then the transfer program for what is still open.

    Parameters
    ----------
    plan
        Without a transfer order.
    below_s
        Only shorter schedules are of interest.
    gap
        Relative gap at which the schedule is good enough.
    solver
        For the program.
    deadline
        When to stop with what there is.
    """
    finest = plan.replace(chunks=problem.space.most_chunks)
    bound_s = Windows(*operations_and_timing(finest.replace(chunks=1), problem)).medium_bound_s()
    best = Settled(bound_s, below_s, None)
    if bound_s >= below_s:
        return best
    windows = Windows(*operations_and_timing(finest, problem))
    if not windows.decide(below_s):
        return _bounded(best, below_s)
    enough_s = min(bound_s * (1 + gap), below_s * (1 - ROUNDING))
    for chunks in problem.space.chunk_counts:
        best = _better(best, plan.replace(chunks=chunks), problem, _quick, enough_s=enough_s, deadline=deadline)
        if best.makespan_s <= enough_s or deadline.passed:
            return best
    if not windows.decide(_worth_s(best, gap)):
        return _bounded(best, _worth_s(best, gap))
    whole = plan.replace(chunks=min(problem.space.chunk_counts))
    best = _better(best, whole, problem, _patient, enough_s=enough_s, deadline=deadline)
    if best.makespan_s <= enough_s or deadline.passed:
        return best
    return _by_program(best, finest, windows, problem, gap, solver, deadline)


def _worth_s(best: Settled, gap: float) -> float:
    """What a schedule has to beat: the best by the gap, or, without one, what anything shorter may beat."""
    return best.makespan_s if best.plan is None else best.makespan_s * (1 - gap)


def operations_and_timing(plan: Plan, problem: Problem) -> tuple[Operations, Timing]:
    """A plan's operations with their precedence, and how long they take."""
    timing = timing_of(plan, problem.workload, problem.cluster, problem.table)
    return operations_of(Shape.of(plan, problem.workload)), timing


def _better(
    best: Settled, plan: Plan, problem: Problem, heuristic: Heuristic, *, enough_s: float, deadline: Deadline
) -> Settled:
    """What is known after looking for a shorter schedule of a plan with its chunks."""
    schedule = heuristic(*operations_and_timing(plan, problem), enough_s, lambda: deadline.passed)
    if schedule.makespan_s >= best.makespan_s:
        return best
    return Settled(best.bound_s, schedule.makespan_s, plan.replace(transfer_order=schedule.transfers()))


def _quick(operations: Operations, timing: Timing, enough_s: float, stop: Callable[[], bool]) -> ListSchedule:
    schedule = list_schedule(operations, timing)
    if schedule.makespan_s <= enough_s:
        return schedule
    return improved(schedule, operations, timing, enough_s=enough_s, rounds=ROUNDS, stop=stop)


def _patient(operations: Operations, timing: Timing, enough_s: float, stop: Callable[[], bool]) -> ListSchedule:
    """From another beginning, more often: it takes a hundredth of a program's time, and may find what that would."""
    begin = best = by_head(operations, timing)
    for seed in range(SEEDS):
        if best.makespan_s > enough_s:
            found = improved(begin, operations, timing, enough_s=enough_s, rounds=PATIENT_ROUNDS, stop=stop, seed=seed)
            best = min(best, found, key=lambda each: each.makespan_s)
    return best


def _by_program(
    best: Settled,
    plan: Plan,
    windows: Windows,
    problem: Problem,
    gap: float,
    solver: SolverChoice,
    deadline: Deadline,
) -> Settled:
    """The transfer program over the finest chunks, of which every coarser schedule is a special case."""
    if len(windows.operations.transfers) > MOST_TRANSFERS:
        return best
    below_s = _worth_s(best, gap)
    if not windows.decide(below_s):
        return _bounded(best, below_s)
    most_pairs = MOST_PAIRS_UNTIMED if deadline.remaining_s is None else MOST_PAIRS
    if len(windows.undecided()) > most_pairs:
        return best
    program = transfer_model(windows, below_s)
    options = program_options(gap, deadline)
    outcome = solvers.solve(program.model, options, solver=solver, cancel=deadline.cancel)
    if outcome.status is solvers.Status.INFEASIBLE:
        return _bounded(best, below_s, outcome.solver)
    if outcome.bound is not None:
        best = _bounded(best, min(outcome.bound * program.unit_s, below_s), outcome.solver)
    if not outcome.status.has_incumbent:
        return best
    found = ListSchedule(0.0, program.order(outcome.values["start"])).transfers()
    exact = predicted(plan.replace(transfer_order=found), problem)
    assert exact.prediction is not None, "a predicted plan carries its prediction"
    assert outcome.objective is not None, "an incumbent has an objective"
    makespan_s = exact.prediction.makespan_s
    if makespan_s > outcome.objective * program.unit_s * (1 + AGREEMENT):
        raise ObjectiveMismatchError(
            f"the transfer program says {outcome.objective * program.unit_s:.9g} s, its order takes {makespan_s:.9g} s"
        )
    return Settled(best.bound_s, makespan_s, exact.replace(prediction=None), outcome.solver)


def program_options(gap: float, deadline: Deadline) -> solvers.Options:
    """Until when a transfer program is solved: seconds where planning has a deadline, nodes where it has none."""
    left_s = deadline.remaining_s
    if left_s is None:
        return solvers.Options(node_limit=PROGRAM_NODES, mip_gap=gap)
    return solvers.Options(time_limit_s=min(left_s, PROGRAM_S), mip_gap=gap)


def _bounded(best: Settled, bound_s: float, solver: str = "") -> Settled:
    return Settled(max(best.bound_s, min(bound_s, best.makespan_s)), best.makespan_s, best.plan, solver)

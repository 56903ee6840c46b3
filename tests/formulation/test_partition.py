"""The partition program against every chain of columns, rated by the same rows written out in plain loops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from builders import (
    Dice,
    best_makespan,
    cluster,
    default_space,
    device,
    examples,
    layer,
    pipeline,
    questions,
    random_question,
    seeded,
    shape_and_timing,
    workload,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dora_nb import solvers
from dora_nb.costs import evaluate
from dora_nb.costs.operations import Shape
from dora_nb.costs.precedence import operations_of
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.formulation.columns import Columns, build_columns
from dora_nb.formulation.decode import decode
from dora_nb.formulation.partition import PartitionModel, partition_model
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.schedules.list_schedule import list_schedule
from dora_nb.solvers import Options, Outcome, Status

Question = tuple[Workload, Cluster]
GUROBI = next(each.usable for each in solvers.available() if each.name == "Gurobi")
EXACT = Options(mip_gap=1e-9, time_limit_s=60)
QUICK = {"suppress_health_check": list(HealthCheck)}


class Chain:
    """One pipeline of columns and the rows that bound it."""

    def __init__(self, problem: Problem, columns: Columns, chosen: Sequence[int]) -> None:
        self.problem, self.columns, self.chosen = problem, columns, list(chosen)
        self.batches = problem.workload.batch // int(columns.micro_batch[chosen[0]])
        self.message_s = problem.message_s
        self.host = self.chosen[-1] if columns.hosts[self.chosen[-1]] else None
        self.runner = self.chosen[0] if self.host is None else self.host  # runs the first layer
        self.makespan_s = max(self.rows())
        self.period_s = self.period()
        self.dynamic_j = sum(self.of("energy_j", each) for each in self.chosen)
        idle_w = problem.idle_all_w
        self.idle_w = sum(self.of("idle_w", each) for each in self.chosen) if idle_w is None else idle_w
        self.energy_j = self.dynamic_j + self.idle_w * self.makespan_s

    def of(self, name: str, column: int) -> float:
        return float(getattr(self.columns, name)[column])

    def both(self, column: int) -> float:
        return self.of("forward_s", column) + self.of("backward_s", column)

    def hold(self, sending: float, receiving: float) -> float:
        return sending + receiving if self.problem.shared else max(sending, receiving)

    def holds(self) -> list[float]:
        """The hand-overs of a micro-batch between stages, first to last."""
        pairs = zip(self.chosen, self.chosen[1:], strict=False)
        return [self.hold(self.of("send_s", a), self.of("receive_s", b)) for a, b in pairs]

    def host_hold(self) -> float:
        if self.host is None:
            return 0.0
        return self.hold(self.of("host_send_s", self.host), self.of("receive_s", self.chosen[0]))

    def tail(self, column: int) -> float:
        tied = sum(self.of(name, column) for name in ("tied_gather_s", "tied_part_s", "tied_spread_s"))
        after = self.of("sum_left_s", column) + tied if self.problem.shared else tied
        return max(self.of("sum_tail_s", column), after) + self.of("step_s", column)

    def air(self) -> float:
        directions = 2 if self.problem.workload.trains else 1
        return directions * self.batches * (sum(self.holds()) + self.host_hold())

    def ends(self) -> float:
        last = self.chosen[-1]
        return self.batches * (self.of("input_s", self.runner) + self.of("label_s", last) + self.of("output_s", last))

    def rows(self) -> Iterator[float]:
        chosen, batches, last = self.chosen, self.batches, self.chosen[-1]
        moves = [seconds + self.message_s for seconds in self.holds()]
        host_move = self.host_hold() + self.message_s if self.host is not None else 0.0
        host_forward = self.of("host_forward_s", last)
        host_backward = self.of("host_backward_s", last)
        begin = self.of("input_trip_s", self.runner)
        for index, column in enumerate(chosen):
            upstream, between = chosen[:index], sum(moves[:index])
            if self.problem.workload.trains:
                finish = self.tail(self.runner)
                if self.problem.shared and last != self.runner:
                    finish += self.of("tied_part_s", last)
                there_and_back = sum(map(self.both, upstream)) + 2 * between + batches * self.both(column)
                yield begin + host_forward + 2 * host_move + there_and_back + host_backward + finish
                own = batches * (self.both(column) + self.of("host_backward_s", column)) + self.tail(column)
                there = sum(self.of("forward_s", each) for each in upstream) + between
                yield begin + host_forward + host_move + there + own
            else:
                others = sum(self.of("forward_s", each) for each in chosen if each != column)
                out = self.of("output_trip_s", last)
                yield begin + others + batches * self.of("forward_s", column) + sum(moves) + out
            hosted = self.of("host_forward_s", column) + self.of("host_backward_s", column)
            yield batches * (self.both(column) + hosted) + self.tail(column)
            yield self.of("port_s", column)
        if self.problem.shared:
            names = ("sum_hold_s", "tied_gather_s", "tied_part_s", "tied_spread_s")
            yield self.air() + self.ends() + sum(self.of(name, each) for name in names for each in chosen)
            if self.problem.workload.trains:
                first = host_forward + host_backward if self.host is not None else self.both(chosen[0])
                yield begin + first + self.air() + finish

    def period(self) -> float:
        hosted = self.of("host_forward_s", self.chosen[-1]) + self.of("host_backward_s", self.chosen[-1])
        loads = [self.both(column) for column in self.chosen]
        loads[-1] += hosted
        if self.problem.shared:
            loads.append((self.air() + self.ends()) / self.batches)
        return max(loads)


def every_chain(problem: Problem, columns: Columns) -> list[Chain]:
    """All pipelines of columns whose memory suffices for the least in-flight counts."""
    layers, fleet, depth = len(problem.workload.layers), columns.fleet, min(problem.space.in_flight_depths)
    found: list[Chain] = []

    def fits(column: int, behind: int) -> bool:
        batches = problem.workload.batch // int(columns.micro_batch[column])
        needed = min(batches, 1 + depth * behind) if problem.workload.trains else 1
        return int(columns.most_in_flight[column]) >= needed

    def grow(chain: list[int], used: np.ndarray) -> None:
        start = 1 if columns.hosts[chain[-1]] else 0
        cut = columns.first[chain[0]]
        if cut == start:
            found.append(Chain(problem, columns, chain))
            return
        for column in range(len(columns)):
            taken = used + fleet.used[columns.code[column]]
            if (
                columns.stop[column] == cut
                and not columns.hosts[column]
                and columns.first[column] >= start
                and columns.micro_batch[column] == columns.micro_batch[chain[0]]
                and (taken <= fleet.available).all()
                and fits(column, len(chain))
            ):
                grow([column, *chain], taken)

    for column in range(len(columns)):
        if columns.stop[column] == layers and fits(column, 0):
            grow([column], fleet.used[columns.code[column]])
    return found


def solved(model: PartitionModel, solver: str = "highs") -> Outcome:
    return solvers.solve(model.model, EXACT, solver=solver)


def small(question: Question, accounting: str = "participating") -> tuple[Problem, Columns, list[Chain]]:
    problem = Problem.of(*question, accounting, space=default_space(*question))
    columns = build_columns(problem, problem.space.most_replicas)
    return problem, columns, every_chain(problem, columns)


SMALL = {"layers": (3, 4), "batches": (2, 3, 4), "device_count": (2, 3)}
NETWORKS = ("links", "cell", "mixed")
FEW = {"layers": (3, 5), "batches": (2, 3), "device_count": (2, 2)}


def check_optimum(question: Question, accounting: str, objective: str, share: float | None) -> None:
    problem, columns, chains = small(question, accounting)
    latency_s = energy_j = np.inf
    if share is not None:
        fastest = min(chains, key=lambda chain: chain.makespan_s)
        thriftiest = min(chains, key=lambda chain: chain.energy_j)
        latency_s = fastest.makespan_s + share * (thriftiest.makespan_s - fastest.makespan_s) + 1e-4
        if objective != "energy":
            latency_s = np.inf
            energy_j = thriftiest.energy_j + share * (fastest.energy_j - thriftiest.energy_j) + 1e-4
    allowed = [chain for chain in chains if chain.makespan_s <= latency_s and chain.energy_j <= energy_j]
    figure = {"latency": "makespan_s", "energy": "energy_j", "period": "period_s"}[objective]
    expected = min(getattr(chain, figure) for chain in allowed)
    model = partition_model(problem, columns, objective, latency_limit_s=latency_s, energy_limit_j=energy_j)
    for solver in ("highs", "gurobi") if GUROBI and model.model.nvars < 2_000 else ("highs",):
        outcome = solved(model, solver)
        assert outcome.status is Status.OPTIMAL
        assert outcome.objective == pytest.approx(expected, rel=1e-5)
        chosen = Chain(problem, columns, model.chosen(outcome.values["place"]))
        assert getattr(chosen, figure) == pytest.approx(expected, rel=1e-5)
        assert sorted(chosen.chosen) in [sorted(chain.chosen) for chain in allowed]


ACCOUNTINGS = st.sampled_from(("participating", "all-on"))
OBJECTIVES = st.sampled_from(("latency", "energy", "period"))


@settings(max_examples=examples(12), **QUICK)
@given(questions(**SMALL), ACCOUNTINGS, OBJECTIVES, st.sampled_from((None, 0.0, 0.5)))
def test_the_optimum_is_that_of_every_chain(
    question: Question, accounting: str, objective: str, share: float | None
) -> None:
    check_optimum(question, accounting, objective, share)


@settings(max_examples=examples(12), **QUICK)
@given(questions(**FEW, tied=True, modes=("training",)), ACCOUNTINGS, OBJECTIVES, st.sampled_from((None, 0.0, 0.5)))
def test_the_optimum_with_tied_parameters(
    question: Question, accounting: str, objective: str, share: float | None
) -> None:
    check_optimum(question, accounting, objective, share)


def _short_of_memory(dice: Dice) -> Question:
    """Stages that hold one micro-batch at a time where they would have to hold two, behind others."""
    work, place = random_question(dice, layers=(3, 3), batches=(2, 4), modes=("training",), device_count=(2, 3))
    layers = tuple(each.replace(stash_elements=dice.number(10**5, 10**6)) for each in work.layers)
    kept = sum(each.stash_elements for each in layers) * 4 * work.batch
    devices = [each.replace(memory_bytes=4e6 + kept * dice.pick((0.2, 0.4, 0.8))) for each in place.devices]
    return work.replace(layers=layers), place.replace(devices=tuple(devices))


@settings(max_examples=examples(12), **QUICK)
@given(seeded(_short_of_memory), ACCOUNTINGS, OBJECTIVES)
def test_the_optimum_where_memory_is_scarce(question: Question, accounting: str, objective: str) -> None:
    problem, columns, chains = small(question, accounting)
    if chains:
        check_optimum(question, accounting, objective, None)
    elif len(columns):
        assert solved(partition_model(problem, columns, objective)).status is Status.INFEASIBLE


@settings(max_examples=examples(6), **QUICK)
@given(questions(**FEW), st.sampled_from(("latency", "energy")))
def test_limits_below_every_chain_are_infeasible(question: Question, objective: str) -> None:
    problem, columns, chains = small(question)
    too_fast = min(chain.makespan_s for chain in chains) * 0.999
    too_thrifty = min(chain.energy_j for chain in chains) * 0.999
    for limits in ({"latency_limit_s": too_fast}, {"energy_limit_j": too_thrifty}):
        assert solved(partition_model(problem, columns, objective, **limits)).status is Status.INFEASIBLE


@settings(max_examples=examples(8), **QUICK)
@given(questions(**SMALL, kinds=NETWORKS), ACCOUNTINGS, OBJECTIVES, st.sampled_from((None, 0.5)))
def test_the_optimum_where_hand_overs_depend_on_both_ends(
    question: Question, accounting: str, objective: str, share: float | None
) -> None:
    check_optimum(question, accounting, objective, share)


@settings(max_examples=examples(15), **QUICK)
@given(questions(layers=(2, 3), batches=(1, 2, 3), device_count=(2, 2), kinds=("shared", "switch", *NETWORKS)))
def test_no_schedule_of_any_chain_is_below_its_rows(question: Question) -> None:
    problem, columns, chains = small(question)
    for chain in chains:
        held = (chain.batches,) * len(chain.chosen)  # as many as there are: the least waiting
        plan = decode(columns, chain.chosen, held, problem)
        operations, timing = shape_and_timing(plan, problem)
        assert best_makespan(operations, timing, most_nodes=300) >= chain.makespan_s * (1 - 1e-9)


@settings(max_examples=examples(12), **QUICK)
@given(questions(**FEW, modes=("stream",), kinds=("shared", "switch")))
def test_of_a_stream_only_chains_that_keep_up(question: Question) -> None:
    """At a rate that the fastest chain just does not keep up with: stages, ports and the medium."""
    work, place = question
    problem, _, chains = small((work.replace(requests_per_s=1e-9), place))

    def busiest_s(chain: Chain) -> float:
        loads = [chain.batches * chain.of("forward_s", each) for each in chain.chosen]
        loads += [chain.of("port_s", each) for each in chain.chosen]
        return max([*loads, chain.air() + chain.ends() if problem.shared else 0.0])

    arrival_s = 0.999 * busiest_s(min(chains, key=lambda chain: chain.makespan_s))
    hurried = Problem.of(work.replace(requests_per_s=1 / arrival_s), place, "participating", space=problem.space)
    outcome = solved(partition_model(hurried, build_columns(hurried, hurried.space.most_replicas), "latency"))
    slower_s = [chain.makespan_s for chain in chains if busiest_s(chain) <= arrival_s]
    if slower_s:
        assert outcome.objective == pytest.approx(min(slower_s), rel=1e-5)
    else:
        assert outcome.status is Status.INFEASIBLE


# ------------------------------------------------------------------------------------------ the textbook formula


def test_the_textbook_formula_is_not_a_bound_and_not_ours() -> None:
    """Fill + (M - 1) x max load exceeds a real makespan when the first stage is the bottleneck.

    Stage 0: F = 1, B = 2. Stage 1: F = 0.5, B = 1. M = 4, a free network. The formula: 4.5 there and back + 3 x 3 =
    13.5. With four in flight on stage 0 it runs F0 F1 F2 F3 until 4 s, by which time the first gradient is back (at
    2.5 s), then B0 to B3: 12 s, which is stage 0's own work and cannot be beaten.
    """
    place = cluster([device("a", 1e9), device("b", 2e9)], 1e12)
    work = workload(2, batch=4)
    plan = pipeline((0, 1, {"a": 1}), (1, 2, {"b": 1}), micro_batches=4, in_flight=(4, 1))
    problem = Problem.of(work, place, "participating", space=default_space(work, place, (1, 2, 3)))
    operations, timing = shape_and_timing(plan, problem)
    order = list_schedule(operations, timing).transfers()
    makespan_s = evaluate(plan.replace(transfer_order=order), work, place).prediction.makespan_s
    assert makespan_s == pytest.approx(12)
    fill_s, load_s = 1 + 2 + 0.5 + 1, 3
    assert fill_s + 3 * load_s > makespan_s * 1.1
    # The program that may choose only these two columns bounds it from below.
    columns = build_columns(problem, 1)
    wanted = [
        index
        for index in range(len(columns))
        if columns.key(index)[:3] in ((1, 0, 1), (1, 1, 2))
        and columns.choices[columns.choice[index]][0].devices == ((0,) if columns.first[index] == 0 else (1,))
    ]
    model = partition_model(problem, columns.take(np.array(wanted)), "latency")
    outcome = solved(model)
    assert outcome.objective == pytest.approx(12)
    # Even plain 1F1B (two in flight) stays below the formula, and a bound of it must as well.
    plain = operations_of(Shape.of(pipeline((0, 1, {"a": 1}), (1, 2, {"b": 1}), micro_batches=4), work))
    assert float(plain.longest_path(timing.duration_s)) == pytest.approx(12.5)


def test_the_formula_also_fails_with_transfers_that_take_as_long_as_computing() -> None:
    """The same with transfers of 1 s on a medium that is never the bottleneck."""
    place = cluster([device("a", 1e9), device("b", 2e9)], 2e6)
    work = workload([layer("a"), layer("b")], batch=4)
    plan = pipeline((0, 1, {"a": 1}), (1, 2, {"b": 1}), micro_batches=4, in_flight=(4, 1))
    problem = Problem.of(work, place, "participating")
    operations, timing = shape_and_timing(plan, problem)
    makespan_s = best_makespan(operations, timing)
    assert makespan_s < (1 + 2 + 0.5 + 1 + 2 * 1) + 3 * 3
    chains = small((work, place))[2]
    assert min(chain.makespan_s for chain in chains) <= makespan_s


# ------------------------------------------------------------------------------------------ the terms of a QoE


@settings(max_examples=examples(12), **QUICK)
@given(questions(**FEW), ACCOUNTINGS, st.sampled_from(("latency", "energy", "price")), st.sampled_from((0.8, 1.1)))
def test_the_value_and_the_batteries_are_those_of_every_chain(
    question: Question, accounting: str, objective: str, scale: float
) -> None:
    """A hard battery limit on one program, a priced one with a priced latency on another, both near what is drawn."""
    work, place = question
    name, index = place.devices[0].id, 0
    limit_j = scale * 3.0 * float(len(work.layers) * work.batch)
    price = 3.0 if objective == "price" else None
    asked = {"objective": objective, "joules_per_s": price, "energy_accounting": accounting}
    for soft in (False, True):
        qoe = QoE(**asked, battery_j={name: limit_j})
        if soft:
            qoe = qoe.replace(battery_price=2.0, latency_s=5 * scale, latency_price=0.5)
        problem = Problem.of(work, place, accounting, qoe=qoe, space=default_space(work, place))  # type: ignore[arg-type]
        columns = build_columns(problem, problem.space.most_replicas)
        limit_s = problem.terms.makespan_limit_s
        values = []
        for chain in every_chain(problem, columns):
            drawn_j = float(columns.battery_j[chain.chosen].sum()) if soft else 0.0
            used = any(index in columns.choices[columns.choice[each]].group.devices for each in chain.chosen)
            if used or accounting == "all-on":
                drawn_j += place.devices[0].idle_w * chain.makespan_s
            value = {
                "latency": chain.makespan_s,
                "energy": chain.energy_j,
                "price": chain.energy_j + 3.0 * chain.makespan_s,
            }[objective]
            if soft:
                value += 2.0 * max(0.0, drawn_j - limit_j) + 0.5 * max(0.0, chain.makespan_s - 5 * scale)
            elif chain.makespan_s > min(limit_s, float(columns.cap_s[chain.chosen].min())):
                continue
            values.append(value)
        outcome = solved(partition_model(problem, columns, "value", latency_limit_s=limit_s))
        if not values:
            assert outcome.status is Status.INFEASIBLE
        else:
            assert outcome.objective == pytest.approx(min(values), rel=1e-5)

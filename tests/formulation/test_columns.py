"""A column's figures are those of the plan it stands for; the filters lose nothing that is better."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from builders import (
    Dice,
    cluster,
    compositions,
    default_space,
    device,
    every_plan,
    examples,
    layer,
    questions,
    random_question,
    seeded,
    sliceable_question,
    workload,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dora_nb.costs.evaluate import evaluate
from dora_nb.costs.network import Hold
from dora_nb.costs.operations import OperationClass, Shape, Timing
from dora_nb.costs.precedence import operations_of
from dora_nb.costs.timing import timing_of
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.transfer import HOSTED
from dora_nb.domain.workload import Workload
from dora_nb.formulation.columns import Columns, build_columns, building
from dora_nb.formulation.columns.held import share_vectors
from dora_nb.formulation.decode import decode
from dora_nb.formulation.hand_overs import beyond_columns_j
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.schedules.list_schedule import list_schedule
from dora_nb.planning.exact.certify import check_energy

Question = tuple[Workload, Cluster]
ACCOUNTINGS = st.sampled_from(("participating", "all-on"))
QUICK = {"suppress_health_check": list(HealthCheck)}

#: Figures that decide how good a column is; smaller is better, but for the last.
FIGURES = (
    "forward_s", "backward_s", "step_s", "receive_s", "send_s", "host_forward_s", "host_backward_s", "host_send_s",
    "input_s", "label_s", "output_s", "sum_hold_s", "sum_left_s", "sum_tail_s", "tied_gather_s", "tied_part_s",
    "tied_spread_s", "port_s", "energy_j", "idle_w",
)  # fmt: skip


def problem_of(question: Question, accounting: str = "participating") -> Problem:
    return Problem.of(*question, accounting, space=default_space(*question))


def chains(columns: Columns, problem: Problem, dice: Dice, count: int) -> Iterator[list[int]]:
    """Random complete pipelines of columns, grown from the last stage."""
    layers, fleet = len(problem.workload.layers), columns.fleet
    for _ in range(count):
        ends = [i for i in range(len(columns)) if columns.stop[i] == layers]
        if not ends:
            return
        chain = [dice.pick(ends)]
        while True:
            front = chain[0]
            start = 1 if columns.hosts[chain[-1]] else 0
            if columns.first[front] == start:
                yield chain
                break
            used = sum(fleet.used[columns.code[each]] for each in chain)
            fits = [
                i
                for i in range(len(columns))
                if columns.stop[i] == columns.first[front]
                and columns.micro_batch[i] == columns.micro_batch[front]
                and not columns.hosts[i]
                and columns.first[i] >= start
                and ((used + fleet.used[columns.code[i]]) <= fleet.available).all()
            ]
            if not fits:
                break
            chain.insert(0, dice.pick(fits))


def longest(hold: Hold | None) -> float:
    return 0.0 if hold is None else max(hold.seconds.values(), default=0.0)


def ways(hold: Hold) -> tuple[float, float]:
    """Seconds of the busiest transmit and of the busiest receive port."""
    return (
        max(seconds for name, seconds in hold.seconds.items() if name.endswith("/tx")),
        max(seconds for name, seconds in hold.seconds.items() if name.endswith("/rx")),
    )


def check_sums(figure: dict[str, float], plan: Plan, stage: int, timing: Timing) -> None:
    """Buckets are summed one after the other, none before the last backward pass has filled it."""
    all_reduce = plan.stages[stage].all_reduce
    buckets = 0 if all_reduce is None else all_reduce.buckets
    filled_s = held_until_s = over_s = 0.0
    for number in range(1, buckets + 1):
        part = number if buckets > 1 else 0
        filled_s += timing.duration_s[OperationClass("backward", stage, part)]
        hold = timing.holds[OperationClass("all-reduce", stage, part)]
        held_until_s = max(held_until_s, filled_s) + longest(hold)
        over_s = max(over_s, held_until_s - longest(hold) + hold.duration_s)
    backward_s = timing.duration_s[OperationClass("backward", stage)]
    total_s = sum(longest(hold) for kind, hold in timing.holds.items() if kind[:2] == ("all-reduce", stage))
    assert figure["sum_hold_s"] == pytest.approx(total_s)
    assert figure["sum_left_s"] == pytest.approx(max(0.0, held_until_s - backward_s), abs=1e-9)
    assert figure["sum_tail_s"] == pytest.approx(max(0.0, over_s - backward_s), abs=1e-9)


def check_chain(columns: Columns, chain: list[int], problem: Problem) -> None:
    work, place = problem.workload, problem.cluster
    batches = int(columns.micro_batches[chain[0]])
    held = problem.space.in_flight(1, len(chain), batches)
    plan = decode(columns, chain, held, problem)
    timing = timing_of(plan, work, place, problem.table)
    seconds, holds = timing.duration_s, timing.holds
    last = len(chain) - 1

    def hold(kind: str, stage: int) -> Hold | None:
        return holds.get(OperationClass(kind, stage))

    for stage, column in enumerate(chain):
        figure = {name: float(getattr(columns, name)[column]) for name in FIGURES}
        assert (int(columns.first[column]), int(columns.stop[column])) == (
            plan.stages[stage].first_layer,
            plan.stages[stage].stop_layer,
        )
        assert figure["forward_s"] == pytest.approx(seconds[OperationClass("forward", stage)])
        if work.trains:
            assert figure["backward_s"] == pytest.approx(seconds[OperationClass("backward", stage)])
            assert figure["step_s"] == pytest.approx(seconds[OperationClass("step", stage)])
            check_sums(figure, plan, stage, timing)
            if plan.tied == "synchronised":
                assert figure["tied_gather_s"] == pytest.approx(longest(hold("tied-reduce", stage)))
                assert figure["tied_spread_s"] == pytest.approx(longest(hold("tied-broadcast", stage)))
        else:
            assert not any(figure[name] for name in ("backward_s", "step_s", "sum_tail_s", "sum_hold_s"))
        if stage < last:
            following = float(columns.receive_s[chain[stage + 1]])
            for kind in ("activation", "gradient")[: 2 if work.trains else 1]:
                moved = holds[OperationClass(kind, stage)]
                if problem.shared:
                    assert figure["send_s"] + following == pytest.approx(longest(moved))
                else:
                    ports = (figure["send_s"], following)
                    assert (ports if kind == "activation" else ports[::-1]) == pytest.approx(ways(moved))
        own_ports: dict[str, float] = {}
        for index in operations_of(Shape.of(plan, work)).transfers:
            kind = operations_of(Shape.of(plan, work)).classes[index]
            for name, held_s in holds[kind].seconds.items():
                if name.count("/") and name.split("/")[1] in plan.stages[stage].devices:
                    own_ports[name] = own_ports.get(name, 0.0) + held_s
        assert figure["port_s"] <= max(own_ports.values(), default=0.0) * (1 + 1e-9) + 1e-12
    first_run = HOSTED if plan.tied == "hosted" else 0
    runner = chain[-1] if plan.tied == "hosted" else chain[0]
    assert float(columns.input_s[runner]) == pytest.approx(longest(hold("input", first_run)))
    assert float(columns.label_s[chain[-1]]) == pytest.approx(longest(hold("label", last)))
    assert float(columns.output_s[chain[-1]]) == pytest.approx(longest(hold("output", last)))
    if plan.tied == "hosted":
        assert float(columns.host_forward_s[chain[-1]]) == pytest.approx(seconds[OperationClass("forward", HOSTED)])
        assert float(columns.host_backward_s[chain[-1]]) == pytest.approx(seconds[OperationClass("backward", HOSTED)])
        parts = (float(columns.host_send_s[chain[-1]]), float(columns.receive_s[chain[0]]))
        moved = holds[OperationClass("activation", HOSTED)]
        if problem.shared:
            assert sum(parts) == pytest.approx(longest(moved))
        else:
            assert parts == pytest.approx(ways(moved))
    if plan.tied == "synchronised":
        ends = [float(columns.tied_part_s[chain[0]]), float(columns.tied_part_s[chain[-1]])]
        exchanged = holds[OperationClass("tied-exchange", last)]
        assert longest(exchanged) == pytest.approx(sum(ends) if problem.shared else max(ends))
    check_totals(columns, chain, plan, problem)


def check_totals(columns: Columns, chain: list[int], plan: Plan, problem: Problem) -> None:
    work, place = problem.workload, problem.cluster
    timing = timing_of(plan, work, place, problem.table)
    transfers = list_schedule(operations_of(Shape.of(plan, work)), timing).transfers()
    figures = evaluate(plan.replace(transfer_order=transfers), work, place, problem.table).prediction
    idle_w = float(columns.idle_w[chain].sum()) if problem.idle_all_w is None else problem.idle_all_w
    energy_j = float(columns.energy_j[chain].sum()) + idle_w * figures.makespan_s
    assert energy_j == pytest.approx(
        figures.energy_j("participating" if problem.idle_all_w is None else "all-on"), rel=1e-9
    )
    batches = int(columns.micro_batches[chain[0]])
    for stage, column in enumerate(chain):
        most = int(columns.most_in_flight[column])
        assert 1 <= most <= batches
        assert fits_with(plan, stage, most, problem)
        if most < batches and work.trains:
            assert not fits_with(plan, stage, most + 1, problem)


def fits_with(plan: Plan, stage: int, held: int, problem: Problem) -> bool:
    """Whether a stage's replicas fit in memory with so many micro-batches in flight, as evaluate sees it."""
    held_all = [max(held, each.in_flight) for each in plan.stages[:stage]] + [held]
    held_all += [min(held, each.in_flight) for each in plan.stages[stage + 1 :]]
    stages = tuple(each.replace(in_flight=count) for each, count in zip(plan.stages, held_all, strict=True))
    changed = plan.replace(stages=stages)
    work, place = problem.workload, problem.cluster
    timing = timing_of(changed, work, place, problem.table)
    transfers = list_schedule(operations_of(Shape.of(changed, work)), timing).transfers()
    figures = evaluate(changed.replace(transfer_order=transfers), work, place, problem.table).prediction
    members = plan.stages[stage].devices
    return all(
        each.memory_bytes <= each.usable_memory_bytes * (1 + 1e-9) for each in figures.devices if each.device in members
    )


@settings(max_examples=examples(30), **QUICK)
@given(questions(layers=(2, 4)), ACCOUNTINGS, st.integers(0, 10**6))
def test_every_figure_is_that_of_the_plan(question: Question, accounting: str, seed: int) -> None:
    problem = problem_of(question, accounting)
    columns = build_columns(problem, problem.space.most_replicas)
    for chain in chains(columns, problem, Dice(seed), 3):
        check_chain(columns, chain, problem)


def scarce(dice: Dice) -> Question:
    work, place = random_question(dice, layers=(2, 3), batches=(2, 3, 4), modes=("training",))
    whole = work.parameters * 16 + sum(each.stash_elements for each in work.layers) * 4 * work.batch + 4e6
    devices = [each.replace(memory_bytes=whole * dice.pick((0.3, 0.6, 1.2))) for each in place.devices]
    return work, place.replace(devices=tuple(devices))


@settings(max_examples=examples(20), **QUICK)
@given(
    seeded(lambda dice: sliceable_question(dice, modes=("inference", "generate", "training"))), st.integers(0, 10**6)
)
def test_every_figure_is_that_of_the_plan_where_stages_have_shards(question: Question, seed: int) -> None:
    work, place = question
    problem = Problem.of(*question, "participating", space=default_space(*question, shards=3))
    columns = build_columns(problem, problem.space.most_devices)
    for chain in chains(columns, problem, Dice(seed), 5):
        plan = decode(columns, chain, [1] * len(chain), problem)
        timing = timing_of(plan, work, place, problem.table)
        seconds = timing.duration_s
        for stage, column in enumerate(chain):
            own = {name: float(getattr(columns, f"{name}_s")[column]) for name in ("forward", "decode", "receive")}
            sums_s = seconds.get(OperationClass("shard-sum", stage), 0.0)
            assert own["forward"] == pytest.approx(seconds[OperationClass("forward", stage)] + sums_s)
            if work.trains:
                sums_s = seconds.get(OperationClass("shard-gradient-sum", stage), 0.0)
                backward_s = seconds[OperationClass("backward", stage)] + sums_s
                assert float(columns.backward_s[column]) == pytest.approx(backward_s)
                assert float(columns.step_s[column]) == pytest.approx(seconds[OperationClass("step", stage)])
            if work.decode_steps and stage < len(chain) - 1:  # of the last one the outputs' way counts as well
                sums_s = seconds.get(OperationClass("shard-token-sum", stage), 0.0)
                assert own["decode"] == pytest.approx(seconds[OperationClass("decode", stage)] + sums_s)
            if stage and problem.network.single is not None and not problem.shared and not work.trains:
                activation = timing.holds[OperationClass("activation", stage - 1)]
                assert own["receive"] == pytest.approx(ways(activation)[1])
        order = list_schedule(operations_of(Shape.of(plan, work)), timing).transfers()
        prediction = evaluate(plan.replace(transfer_order=order), work, place, problem.table).prediction
        check_energy(
            plan.replace(prediction=prediction),
            problem,
            float(columns.energy_j[chain].sum()) + beyond_columns_j(plan, timing, problem),
            float(columns.idle_w[chain].sum()),
        )
        assert all(each.memory_bytes <= each.usable_memory_bytes * (1 + 1e-9) for each in prediction.devices)


@settings(max_examples=examples(20), **QUICK)
@given(seeded(scarce), st.booleans(), st.integers(0, 10**6))
def test_every_figure_is_that_of_the_plan_where_memory_is_scarce(
    question: Question, recomputation: bool, seed: int
) -> None:
    space = default_space(*question, recomputation=recomputation)
    problem = Problem.of(*question, "participating", space=space)
    columns = build_columns(problem, problem.space.most_replicas)
    for chain in chains(columns, problem, Dice(seed), 3):
        check_chain(columns, chain, problem)


@settings(max_examples=examples(20), **QUICK)
@given(seeded(scarce), st.sampled_from((None, 0.0, 5.0)))
def test_a_column_recomputes_exactly_where_more_fit_in_flight_than_without(
    question: Question, headroom_price: float | None
) -> None:
    """Columns without recomputation are as before; one with is of use from the first count on that they lack."""
    limits = {"headroom_fraction": 0.2, "headroom_price": headroom_price} if headroom_price is not None else {}
    qoe = QoE(**limits)
    asked, plain = (
        build_columns(
            Problem.of(*question, "participating", qoe=qoe, space=default_space(*question, recomputation=again)),
            3,
            beaten=True,
        )
        for again in (True, False)
    )
    keys = {asked.key(index): index for index in range(len(asked))}
    assert {key for key in keys if not key[-3]} == {plain.key(index) for index in range(len(plain))}
    for key, index in keys.items():
        assert 1 <= asked.least_in_flight[index] <= asked.most_in_flight[index]
        if not key[-3]:
            assert asked.least_in_flight[index] == 1
            continue
        without = keys.get((*key[:-3], False, *key[-2:]))
        if without is None:  # does not fit without at all
            assert asked.least_in_flight[index] == 1
        elif headroom_price is None:
            assert asked.least_in_flight[index] == asked.most_in_flight[without] + 1
        else:  # up to so many nothing is paid without
            held = int(asked.least_in_flight[index]) - 1
            assert held <= asked.most_in_flight[without]
            assert held == 0 or asked.over_bytes_at(np.array([without]), held)[0] == 0


def test_where_memory_is_ample_no_column_recomputes() -> None:
    question = random_question(Dice(3), layers=(3, 3), batches=(4, 4), modes=("training",))
    ample = question[1].replace(devices=tuple(each.replace(memory_bytes=1e15) for each in question[1].devices))
    problem = Problem.of(question[0], ample, "participating")
    assert problem.space.recomputation
    assert not any(choice.recomputes for choice in build_columns(problem, 3).choices)


# ------------------------------------------------------------------------------------------ which columns there are


@settings(max_examples=examples(15), **QUICK)
@given(questions(layers=(2, 3)), st.floats(0.0, 1.0))
def test_a_column_is_left_out_exactly_where_a_battery_ends_before_the_stage_has_computed(
    question: Question, share: float
) -> None:
    most_j = float(build_columns(problem_of(question), 2).energy_j.max())
    qoe = QoE(battery_j={device.id: share * most_j for device in question[1].devices[:2]})
    problem = Problem.of(*question, "participating", qoe=qoe)
    kept = build_columns(problem, 2, beaten=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building._Builder, "_lasts", lambda self, held, figures: np.ones((1, 1), dtype=bool))
        everything = build_columns(problem, 2, beaten=True)
    passes_s = everything.micro_batches * (everything.forward_s + everything.backward_s)
    lasts = everything.cap_s >= (passes_s + everything.step_s + everything.steps_s) * (1 - 1e-9)
    if question[0].mode == "stream":
        lasts[:] = True
    expected = {everything.key(index) for index in np.flatnonzero(lasts)}
    assert {kept.key(index) for index in range(len(kept))} == expected


@settings(max_examples=examples(15), **QUICK)
@given(questions(layers=(2, 3)))
def test_every_stage_of_every_plan_has_a_column_as_good(question: Question) -> None:
    problem = problem_of(question)
    kept = build_columns(problem, problem.space.most_replicas)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "not_dominated", lambda figures, candidates: candidates)
        everything = build_columns(problem, problem.space.most_replicas)
    by_place: dict[tuple[object, ...], list[int]] = {}
    for index in range(len(kept)):
        by_place.setdefault(kept.key(index)[:5], []).append(index)
    keys = {everything.key(index) for index in range(len(everything))}
    assert len(keys) == len(everything)
    assert {kept.key(index) for index in range(len(kept))} <= keys
    for index in range(len(everything)):
        better = by_place.get(everything.key(index)[:5], [])
        assert any(
            all(getattr(kept, name)[each] <= getattr(everything, name)[index] * (1 + 1e-9) + 1e-15 for name in FIGURES)
            and kept.most_in_flight[each] >= everything.most_in_flight[index]
            for each in better
        ), everything.key(index)
    # Without the filter there is a column for every stage of every plan, up to which of equal devices is named.
    types = {place.id: kind for kind, same in enumerate(problem.fleet.types) for place in take(problem, same)}
    expected = set()
    for plan in every_plan(problem):
        for index, stage in enumerate(plan.stages):
            hosts = plan.tied == "hosted" and index == len(plan.stages) - 1
            shares = sorted((types[replica.device], -replica.samples) for replica in stage.replicas)
            place = (plan.micro_batch, stage.first_layer, stage.stop_layer, hosts)
            expected.add((*place, tuple((kind, -count) for kind, count in shares)))
    found = set()
    for index in range(len(everything)):
        group, shares, *_ = everything.choices[everything.choice[index]]
        kinds = [kind for kind, count in enumerate(group.counts) for _ in range(count)]
        found.add((*everything.key(index)[:4], tuple(zip(kinds, shares, strict=True))))
    assert expected <= found


def take(problem: Problem, members: tuple[int, ...]) -> list[object]:
    return [problem.cluster.devices[index] for index in members]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_share_vectors_of_unlike_devices_are_all_compositions(size: int, replicas: int) -> None:
    if replicas > size:
        return
    work = workload(1, batch=size)
    place = cluster([device(name, 1e9 * (index + 1)) for index, name in enumerate("abc")])
    problem = Problem.of(work, place, "participating")
    group = next(each for each in problem.fleet.groups(3) if len(each.devices) == replicas)
    vectors = [tuple(row) for row in share_vectors(group, size).tolist()]
    assert sorted(vectors) == sorted(compositions(size, replicas))


def test_share_vectors_of_equal_devices_are_counted_once() -> None:
    problem = Problem.of(workload(1, batch=6), cluster(3), "participating")
    group = next(each for each in problem.fleet.groups(3) if len(each.devices) == 3)
    vectors = [tuple(row) for row in share_vectors(group, 6).tolist()]
    assert sorted(vectors) == [(2, 2, 2), (3, 2, 1), (4, 1, 1)]


def test_a_share_vector_that_is_worse_in_every_figure_is_left_out() -> None:
    """Two devices, one of half the speed, four samples: 3 + 1 and 2 + 2 trade time; 1 + 3 is worse in everything."""
    place = cluster([device("a", 1e9), device("b", 5e8)], [2e6, 1e6])
    problem = Problem.of(workload(1, batch=4, mode="inference"), place, "participating")
    columns = build_columns(problem, 2)
    shares = {
        columns.key(index)[5]
        for index in range(len(columns))
        if columns.key(index)[0] == 4 and columns.key(index)[4] == 3
    }
    assert (3, 1) in shares
    assert (1, 3) not in shares


# ------------------------------------------------------------------------------------------ devices by type


def test_equal_devices_are_one_type_and_groups_are_counted() -> None:
    place = cluster([device("a"), device("b", 2e9), device("c"), device("d")])
    problem = Problem.of(workload(2), place, "participating")
    assert problem.fleet.types == ((0, 2, 3), (1,))
    groups = list(problem.fleet.groups(4))
    assert len(groups) == 4 * 2 - 1
    assert len({group.code for group in groups}) == len(groups)
    assert {group.counts for group in groups} == set(itertools.product(range(4), range(2))) - {(0, 0)}
    assert len(list(problem.fleet.groups(2))) == 4  # one or two of the first, the other, one of each
    for a, b in itertools.combinations(groups, 2):
        together = np.add(a.counts, b.counts)
        if (together <= problem.fleet.available).all():
            assert tuple(problem.fleet.used[a.code + b.code]) == tuple(together)


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        ({"memory_bytes": 9e11}, (1e6, 1e6)),
        ({"idle_w": 0.5}, (1e6, 1e6)),
        ({"active_w": 4.0}, (1e6, 1e6)),
        ({"memory_bytes_per_s": 1e6}, (1e6, 1e6)),
        ({"layer_overhead_s": 0.1}, (1e6, 1e6)),
        ({}, (1e6, 2e6)),
    ],
)
def test_whatever_the_costs_see_tells_devices_apart(changes: dict[str, float], rates: tuple[float, float]) -> None:
    work = workload([layer("a", parameters=100)], batch=2)
    alike = cluster([device("a"), device("b")])
    assert len(Problem.of(work, alike, "participating").fleet.types) == 1
    unlike = cluster([device("a"), device("b", **changes)], rates)
    assert len(Problem.of(work, unlike, "participating").fleet.types) == 2


def test_a_source_or_a_sink_is_a_type_of_its_own() -> None:
    for end in ("source", "sink"):
        work = workload(1, mode="inference", **{end: "b"}, input_bytes=1, output_bytes=1)
        assert Problem.of(work, cluster(3), "participating").fleet.types == ((0, 2), (1,))


def test_joined_columns_keep_each_once() -> None:
    problem = problem_of((workload(3), cluster([device("a"), device("b", 2e9)])))
    columns = build_columns(problem, 2)
    parts = [columns.take(np.arange(0, len(columns), 2)), columns.take(np.arange(len(columns)))]
    joined = Columns.join(parts)
    assert sorted(joined.key(i) for i in range(len(joined))) == sorted(columns.key(i) for i in range(len(columns)))
    by_key = {columns.key(i): i for i in range(len(columns))}
    for index in range(len(joined)):
        for name in FIGURES:
            assert getattr(joined, name)[index] == getattr(columns, name)[by_key[joined.key(index)]]

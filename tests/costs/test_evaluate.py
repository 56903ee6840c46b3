"""What a plan is predicted to do: closed forms by hand, and random plans checked resource by resource."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import pytest
from builders import Dice, best_makespan, cluster, device, examples, layer, pipeline, questions, random_plan, workload
from hypothesis import given, settings
from hypothesis import strategies as st

from dora_nb.costs import Evaluation, evaluate
from dora_nb.costs.memory import MemoryModel
from dora_nb.costs.operations import COMPUTE_KINDS, Operation, OperationClass, Shape
from dora_nb.costs.precedence import operations_of
from dora_nb.costs.table import cost_table
from dora_nb.costs.timing import timing_of
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.transfer import HOSTED, Transfer
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError, UnknownNameError
from dora_nb.formulation.schedules.list_schedule import ListSchedule, list_schedule

FAST = 1e18  # bytes per second: a network that costs nothing


def scheduled(plan: Plan, work: Workload, place: Cluster) -> tuple[Plan, ListSchedule]:
    timing = timing_of(plan, work, place, cost_table(work, place))
    schedule = list_schedule(operations_of(Shape.of(plan, work)), timing)
    return plan.replace(transfer_order=schedule.transfers()), schedule


def evaluated(plan: Plan, work: Workload, place: Cluster) -> Evaluation:
    return evaluate(scheduled(plan, work, place)[0], work, place)


def uniform(stages: int) -> list[tuple[int, int, dict[str, int]]]:
    return [(stage, stage + 1, {"abcdefgh"[stage]: 1}) for stage in range(stages)]


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("batches", [1, 2, 3, 4, 7])
def test_a_uniform_pipeline_trains_in_the_textbook_time(stages: int, batches: int) -> None:
    """Makespan (M + S - 1)(F + B) for S equal stages with S - s micro-batches in flight and a free network.

    At least that long: the last stage cannot start before (S - 1) F, works M (F + B), and its last gradient then
    passes S - 1 backward passes. Reached, because with S - s in flight the last stage never waits. F = 1, B = 2.
    """
    work = workload(stages, batch=batches)
    result = evaluated(pipeline(*uniform(stages), micro_batches=batches), work, cluster(stages, FAST))
    assert result.prediction.makespan_s == pytest.approx((batches + stages - 1) * 3, rel=1e-9)
    if batches >= stages:  # with fewer, each stage may hold fewer than its round trip needs
        assert result.prediction.period_s == pytest.approx(3, rel=1e-9)


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("batches", [1, 2, 5])
def test_a_uniform_pipeline_infers_in_the_textbook_time(stages: int, batches: int) -> None:
    """Makespan (S + M - 1) F: the first micro-batch passes S stages, each further one is F behind."""
    work = workload(stages, batch=batches, mode="inference")
    result = evaluated(pipeline(*uniform(stages), micro_batches=batches), work, cluster(stages, FAST))
    assert result.prediction.makespan_s == pytest.approx(stages + batches - 1, rel=1e-9)
    assert result.prediction.period_s == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("rate", [0.4e6, 2e6, 10e6])
def test_two_stages_and_a_shared_medium(rate: float) -> None:
    """Makespan F + M X + F or F + X + M F, whichever of transfer X and computing F is the bottleneck."""
    transfer_s = 2 * 1e6 / rate  # 1 MB, two hops
    work = workload(2, batch=5, mode="inference")
    result = evaluated(pipeline(*uniform(2), micro_batches=5), work, cluster(2, rate, latency_s=0.125))
    slowest_s = max(transfer_s, 1.0)
    expected = 1 + transfer_s + 0.125 + 1 + 4 * slowest_s
    assert result.prediction.makespan_s == pytest.approx(expected)
    assert result.prediction.airtime_s == pytest.approx(5 * transfer_s)
    assert result.prediction.period_s == pytest.approx(slowest_s)
    assert result.prediction.network_bytes == pytest.approx(5e6)


def test_plain_1f1b_round_trips_limit_the_period() -> None:
    """In flight 1 on the first stage: F, X, F + B, X, B in turn, nothing overlaps."""
    work = workload(2, batch=3)
    plan = pipeline(*uniform(2), micro_batches=3, in_flight=(1, 1))
    result = evaluated(plan, work, cluster(2, 2e6))
    assert result.prediction.makespan_s == pytest.approx(3 * (3 + 2 * 1 + 3))
    assert result.prediction.period_s == pytest.approx(8)


def test_a_single_device_adds_up() -> None:
    deep = [layer("a", flops=1e9, parameters=10), layer("b", flops=3e9, parameters=30)]
    work, place = workload(deep, batch=6), cluster([device("a", 2e9, memory_bytes_per_s=1e3, layer_overhead_s=0.5)])
    result = evaluate(pipeline((0, 2, {"a": 3}), micro_batches=2), work, place)
    one_way_s = 0.5 + 3 * 1 / 2 + 0.5 + 3 * 3 / 2
    back_s = one_way_s * 2 - 1  # one overhead a layer, not two
    step_s = 40 * (3 * 4 + 2 * 8) / 1e3
    assert result.prediction.makespan_s == pytest.approx(2 * (one_way_s + back_s) + step_s)
    assert result.prediction.devices[0].busy_s == pytest.approx(result.prediction.makespan_s)
    assert result.prediction.network_bytes == 0
    assert result.prediction.airtime_s == 0
    expected = MemoryModel(work).replica_bytes(0, 2, samples=3.0, in_flight=1, micro_batches=2, replicated=False)
    assert result.prediction.devices[0].memory_bytes == expected


def test_layers_that_are_run_again_take_a_forward_pass_more() -> None:
    """All but the network's last layer: each right before its own backward pass."""
    deep = [layer("a", flops=1e9, stash_elements=5), layer("b", flops=3e9), layer("c", flops=2e9)]
    work, place = workload(deep, batch=6), cluster([device("a", 2e9, active_w=3, idle_w=1)])
    plain = pipeline((0, 3, {"a": 3}), micro_batches=2)
    again = plain.replace(stages=(plain.stages[0].replace(recomputes=True),))
    before, after = (evaluate(each, work, place).prediction for each in (plain, again))
    more_s = 6 * (1 + 3) / 2
    assert after.makespan_s == pytest.approx(before.makespan_s + more_s)
    assert after.energy_participating_j == pytest.approx(before.energy_participating_j + 3 * more_s)
    assert after.devices[0].busy_s == pytest.approx(after.makespan_s)
    with pytest.raises(InputError, match="without training"):
        evaluate(again, workload(deep, batch=6, mode="inference"), place)


def test_replicas_wait_for_the_slowest_and_for_their_sum() -> None:
    deep = [layer("a", parameters=250_000)]  # 1 MB of gradients
    place = cluster([device("a", 2e9, memory_bytes_per_s=1e12), device("b", 1e9, memory_bytes_per_s=1e12)], 1e6)
    result = evaluated(pipeline((0, 1, {"a": 2, "b": 2})), workload(deep, batch=4), place)
    assert result.prediction.makespan_s == pytest.approx(2 * (1 + 2) + 2 * 2, rel=1e-4)  # 2 MB over two hops each way
    assert [each.busy_s for each in result.prediction.devices] == pytest.approx([3, 6], rel=1e-4)
    assert result.prediction.network_bytes == 2e6


def test_energy_of_both_accountings_by_hand() -> None:
    members = [device("a", idle_w=1, active_w=5), device("b", idle_w=2, active_w=4), device("c", idle_w=7, active_w=9)]
    work = workload(2, batch=2, mode="inference")
    place = cluster(members, 1e6, energy_j_per_byte=1e-6)
    result = evaluated(pipeline((0, 1, {"a": 1}), (1, 2, {"b": 1}), micro_batches=2), work, place).prediction
    makespan_s = 1 + 2 + 2 + 1  # compute, two transfers of 2 s, compute
    assert result.makespan_s == pytest.approx(makespan_s)
    assert [each.energy_j for each in result.devices] == pytest.approx([6 * 1 + 2 * 4, 6 * 2 + 2 * 2])
    assert result.energy_participating_j == pytest.approx(14 + 16 + 2)  # 2 MB at a joule a megabyte
    assert result.energy_all_on_j == pytest.approx(14 + 16 + 2 + 7 * 6)
    assert result.energy_j("participating") == result.energy_participating_j
    assert result.energy_j("all-on") == result.energy_all_on_j


def test_source_and_sink_count_where_the_data_travels() -> None:
    work = workload(1, batch=2, mode="inference", source="a", sink="b", input_bytes=1e6, output_bytes=3e6)
    here = evaluated(pipeline((0, 1, {"a": 2})), work, cluster(2, 1e6)).prediction
    assert here.makespan_s == pytest.approx(2 + 2 * 6)  # the input is there, two outputs of 3 MB travel over two hops
    there = evaluated(pipeline((0, 1, {"b": 2})), work, cluster(2, 1e6)).prediction
    assert there.makespan_s == pytest.approx(2 * 2 + 2)
    split = evaluated(pipeline((0, 1, {"a": 1, "b": 1})), work, cluster(2, 1e6)).prediction
    assert split.makespan_s == pytest.approx(2 + 1 + 6)
    assert split.network_bytes == 4e6


def tied_chain(**fields: object) -> Workload:
    first = layer("e", parameters=500_000, tied_parameters=500_000)
    last = layer("h", parameters=500_000, tied_parameters=500_000)
    return workload([first, layer("m"), last], batch=1, **fields)


def test_synchronised_ties_exchange_gradients_before_the_steps() -> None:
    """2 MB both ways over two hops of 1 MB/s, after F and B of three layers and four cut transfers of 2 s."""
    plan = pipeline((0, 1, {"a": 1}), (1, 2, {"b": 1}), (2, 3, {"c": 1}), tied="synchronised")
    result = evaluated(plan, tied_chain(), cluster(3, 1e6)).prediction
    assert result.makespan_s == pytest.approx(9 + 4 * 2 + 2 * 4, rel=1e-4)
    assert result.network_bytes == pytest.approx(4e6 + 4e6)


def test_a_host_runs_the_first_layer_for_the_first_stage() -> None:
    """Layer e and h on b, m on a: two cuts there and back, no exchange."""
    plan = pipeline((1, 2, {"a": 1}), (2, 3, {"b": 1}), tied="hosted")
    result = evaluated(plan, tied_chain(), cluster(2, 1e6)).prediction
    assert result.makespan_s == pytest.approx(9 + 4 * 2, rel=1e-4)
    assert result.network_bytes == pytest.approx(4e6)
    assert [each.busy_s for each in result.devices] == pytest.approx([3, 6], rel=1e-4)


def test_tied_parameters_are_stepped_once_where_they_are_held_once() -> None:
    slow = cluster([device(name, memory_bytes_per_s=28e6) for name in "ab"], FAST)  # a second a million parameters
    work = tied_chain()
    one = evaluated(pipeline((0, 3, {"a": 1}), tied="one-stage"), work, slow).prediction
    both = evaluated(pipeline((0, 1, {"a": 1}), (1, 3, {"b": 1}), tied="synchronised"), work, slow).prediction
    hosted = evaluated(pipeline((1, 2, {"a": 1}), (2, 3, {"b": 1}), tied="hosted"), work, slow).prediction
    steps = [one.devices[0].busy_s - 9, both.devices[0].busy_s - 3, both.devices[1].busy_s - 6]
    assert [*steps, hosted.devices[1].busy_s - 6] == pytest.approx([0.5] * 4, abs=1e-6)


# ------------------------------------------------------------------------------------------ what is refused


@pytest.fixture
def two_stages() -> tuple[Plan, Workload, Cluster]:
    work, place = workload(2, batch=2), cluster(2)
    return scheduled(pipeline(*uniform(2), micro_batches=2), work, place)[0], work, place


def reordered(plan: Plan, *order: Transfer) -> Plan:
    return plan.replace(transfer_order=order)


def test_an_order_that_misses_a_transfer(two_stages: tuple[Plan, Workload, Cluster]) -> None:
    plan, work, place = two_stages
    for index in range(4):
        with pytest.raises(InputError, match=r"transfer_order.*missing"):
            evaluate(reordered(plan, *plan.transfer_order[:index], *plan.transfer_order[index + 1 :]), work, place)


def test_an_order_that_repeats_a_transfer(two_stages: tuple[Plan, Workload, Cluster]) -> None:
    plan, work, place = two_stages
    with pytest.raises(InputError, match=r"transfer_order.*once"):
        evaluate(reordered(plan, *plan.transfer_order, plan.transfer_order[0]), work, place)


@pytest.mark.parametrize("kind", ["output", "all-reduce", "activation"])
def test_an_order_with_a_transfer_of_another_plan(two_stages: tuple[Plan, Workload, Cluster], kind: str) -> None:
    plan, work, place = two_stages
    with pytest.raises(InputError, match="transfer_order"):
        evaluate(reordered(plan, *plan.transfer_order, Transfer(kind=kind, stage=1, micro_batch=0)), work, place)


def test_an_order_that_contradicts_the_precedence(two_stages: tuple[Plan, Workload, Cluster]) -> None:
    plan, work, place = two_stages
    with pytest.raises(InputError, match=r"transfer_order.*behind"):
        evaluate(reordered(plan, *plan.transfer_order[::-1]), work, place)


def test_a_computation_is_not_a_transfer(two_stages: tuple[Plan, Workload, Cluster]) -> None:
    plan, work, place = two_stages
    with pytest.raises(InputError, match="transfer_order"):
        evaluate(
            reordered(plan, *plan.transfer_order, Transfer(kind="tied-exchange", stage=HOSTED, micro_batch=0)),
            work,
            place,
        )


def test_plans_that_do_not_fit_are_refused() -> None:
    work, place = workload(2, batch=4), cluster(2)
    with pytest.raises(UnknownNameError, match="device"):
        evaluate(pipeline((0, 2, {"z": 4})), work, place)
    with pytest.raises(InputError, match="stop_layer"):
        evaluate(pipeline((0, 1, {"a": 4})), work, place)
    with pytest.raises(InputError, match="micro_batches"):
        evaluate(pipeline((0, 2, {"a": 2})), work, place)
    with pytest.raises(InputError, match="tied"):
        evaluate(pipeline((0, 2, {"a": 4}), tied="one-stage"), work, place)


def test_replicas_that_train_need_a_way_to_sum_gradients() -> None:
    plan = pipeline((0, 2, {"a": 2, "b": 2}))
    plan = plan.replace(stages=(plan.stages[0].replace(all_reduce=None),))
    with pytest.raises(InputError, match="all_reduce"):
        evaluate(plan, workload(2, batch=4), cluster(2))


@pytest.mark.parametrize("end", ["source", "sink"])
def test_an_unknown_source_or_sink_is_refused(end: str) -> None:
    work = workload(2, batch=4, mode="inference", input_bytes=1, output_bytes=1, **{end: "nobody"})
    with pytest.raises(InputError, match="nobody"):
        evaluate(pipeline((0, 2, {"a": 4})), work, cluster(2))


# ------------------------------------------------------------------------------------------ random plans

PLANS = questions(layers=(2, 5), batches=(1, 2, 3, 4, 6), device_count=(2, 4))


@settings(max_examples=examples(100))
@given(PLANS, st.integers(0, 2**32 - 1))
def test_every_timeline_keeps_resources_and_precedence(question: tuple[Workload, Cluster], seed: int) -> None:
    work, place = question
    plan, schedule = scheduled(random_plan(Dice(seed), work, place), work, place)
    result = evaluate(plan, work, place)
    timing = timing_of(plan, work, place, cost_table(work, place))
    operations = operations_of(Shape.of(plan, work))
    named = {Operation(entry.kind, entry.stage, entry.micro_batch, entry.part): entry for entry in result.timeline}
    start, end = ({name: getattr(entry, side) for name, entry in named.items()} for side in ("start_s", "end_s"))
    assert len(start) == len(result.timeline) == len(operations.operations)
    slack = 1e-9 * (1 + result.prediction.makespan_s)
    for operation, before in zip(operations.operations, operations.predecessors, strict=True):
        assert all(end[operations.operations[each]] <= start[operation] + slack for each in before)
    held: dict[str, list[tuple[float, float]]] = defaultdict(list)
    sending: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for entry in result.timeline:
        if entry.kind in COMPUTE_KINDS:
            members = plan.stages[entry.stage].devices
            assert entry.places == members
            for name in members:
                held[name].append((entry.start_s, entry.end_s))
        else:
            hold = timing.holds[Operation(entry.kind, entry.stage, entry.micro_batch, entry.part).cls]
            if not plan.overlap and entry.kind in ("activation", "gradient", "output"):
                sender = entry.stage + (entry.kind == "gradient")
                for name in plan.stages[sender].devices:
                    sending[name].append((entry.start_s, entry.end_s))
            assert entry.end_s - entry.start_s == pytest.approx(hold.duration_s, abs=slack)
            for name, seconds in hold.seconds.items():
                held[name].append((entry.start_s, entry.start_s + seconds))
    for spans in held.values():
        for (_, until), (since, _) in itertools.pairwise(sorted(spans)):
            assert until <= since + slack
    for name, spans in sending.items():  # without overlap nobody computes while it sends
        for since, until in spans:
            assert all(end <= since + slack or until <= begin + slack for begin, end in held[name])
    makespan_s = result.prediction.makespan_s
    assert makespan_s == pytest.approx(max(end.values()))
    assert min(start.values()) == 0
    assert makespan_s >= float(operations.longest_path(timing.duration_s)) * (1 - 1e-9)
    assert makespan_s >= max(timing.duration_s.values())
    assert result.prediction.airtime_s <= makespan_s + slack
    assert schedule.makespan_s == pytest.approx(makespan_s, rel=1e-9)


@settings(max_examples=examples(50))
@given(PLANS, st.integers(0, 2**32 - 1))
def test_buckets_and_chunks_are_parts_of_a_whole(question: tuple[Workload, Cluster], seed: int) -> None:
    work, place = question
    plan, table = random_plan(Dice(seed), work, place), cost_table(work, place)
    split = timing_of(plan, work, place, table)
    stages = tuple(
        stage if stage.all_reduce is None else stage.replace(all_reduce=stage.all_reduce.replace(buckets=1))
        for stage in plan.stages
    )
    whole = timing_of(plan.replace(stages=stages, chunks=1), work, place, table)
    for index, stage in enumerate(plan.stages):
        buckets = 0 if stage.all_reduce is None else stage.all_reduce.buckets
        if buckets > 1:
            parts = [OperationClass("backward", index, part) for part in range(1, buckets + 1)]
            assert sum(split.duration_s[part] for part in parts) == pytest.approx(
                whole.duration_s[OperationClass("backward", index)]
            )
            sums = [split.holds[OperationClass("all-reduce", index, part)] for part in range(1, buckets + 1)]
            assert sum(each.size_bytes for each in sums) == pytest.approx(
                whole.holds[OperationClass("all-reduce", index)].size_bytes
            )
    for kind, hold in whole.holds.items():
        if kind.kind in ("activation", "gradient"):
            assert split.holds[kind].size_bytes * plan.chunks == pytest.approx(hold.size_bytes)


@settings(max_examples=examples(50))
@given(PLANS, st.integers(0, 2**32 - 1))
def test_figures_of_random_plans_add_up(question: tuple[Workload, Cluster], seed: int) -> None:
    work, place = question
    plan, _ = scheduled(random_plan(Dice(seed), work, place), work, place)
    result = evaluate(plan, work, place)
    figures, table = result.prediction, cost_table(work, place)
    carried = 0.0
    timing = timing_of(plan, work, place, table)
    for transfer in plan.transfer_order:
        operation = Operation(transfer.kind, transfer.stage, transfer.micro_batch, transfer.part)
        carried += timing.holds[operation.cls].size_bytes
    assert figures.network_bytes == pytest.approx(carried)
    energy_j = carried * place.domains[0].energy_j_per_byte
    last = len(plan.stages) - 1
    for index, stage in enumerate(plan.stages):
        for replica in stage.replicas:
            column = place.device_ids.index(replica.device)
            runs = list(range(stage.first_layer, stage.stop_layer))
            if plan.tied == "hosted" and index == last:
                runs.append(0)
            busy_s = plan.micro_batches * sum(
                table.forward_s[k, column, replica.samples] + table.backward_s[k, column, replica.samples] for k in runs
            )
            if stage.recomputes:
                again = range(stage.first_layer, min(stage.stop_layer, len(work.layers) - 1))
                busy_s += plan.micro_batches * sum(table.forward_s[k, column, replica.samples] for k in again)
            if work.trains:
                per_parameter_s = (3 * 4 + 2 * 8) / place.devices[column].memory_bytes_per_s
                parameters = sum(work.layers[k].parameters for k in runs)
                if plan.tied in ("one-stage", "hosted") and {0, len(work.layers) - 1} <= set(runs):
                    parameters -= work.tied_parameters
                busy_s += parameters * per_parameter_s
            said = next(each for each in figures.devices if each.device == replica.device)
            assert said.busy_s == pytest.approx(busy_s)
            assert said.busy_s <= figures.makespan_s * (1 + 1e-9)
            member = place.devices[column]
            own_j = member.idle_w * figures.makespan_s + (member.active_w - member.idle_w) * busy_s
            assert said.energy_j == pytest.approx(own_j)
            assert said.usable_memory_bytes == member.usable_memory_bytes
            energy_j += own_j
    assert figures.energy_participating_j == pytest.approx(energy_j)
    idle_w = sum(each.idle_w for each in place.devices if each.id not in plan.devices)
    assert figures.energy_all_on_j == pytest.approx(energy_j + idle_w * figures.makespan_s)
    assert [each.device for each in figures.devices] == list(plan.devices)


@settings(max_examples=examples(20))
@given(questions(layers=(2, 3), batches=(1, 2, 3), device_count=(2, 3)), st.integers(0, 2**32 - 1))
def test_no_order_beats_the_exhaustive_search(question: tuple[Workload, Cluster], seed: int) -> None:
    """The search that other tests rely on: never above the list schedule, never below the longest path."""
    work, place = question
    plan, _ = scheduled(random_plan(Dice(seed), work, place), work, place)
    operations = operations_of(Shape.of(plan, work))
    timing = timing_of(plan, work, place, cost_table(work, place))
    best_s = best_makespan(operations, timing, most_nodes=5_000)
    assert best_s <= evaluate(plan, work, place).prediction.makespan_s * (1 + 1e-9) or math.isinf(best_s)
    assert best_s >= float(operations.longest_path(timing.duration_s)) * (1 - 1e-9)
    if len(plan.transfer_order) <= 5:
        possible = []
        for order in itertools.permutations(plan.transfer_order):
            try:
                possible.append(evaluate(reordered(plan, *order), work, place).prediction.makespan_s)
            except InputError:
                continue
        assert min(possible) == pytest.approx(best_s)

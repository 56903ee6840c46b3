"""Streams that share a cluster: against all paths and all timetables of tiny cases, a simulation, and one stream."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest
from builders import Dice, cluster, device, examples, layer, random_cluster, random_workload, seeded, workload
from hypothesis import given, settings

import dora_nb as dora
from dora_nb.costs.sharing import Camera, Tasks, memory_bytes
from dora_nb.costs.table import cost_table
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan, Replica, Stage
from dora_nb.domain.qoe import EnergyAccounting
from dora_nb.domain.sharing import Sharing
from dora_nb.domain.stream import Stream, common_round
from dora_nb.errors import InfeasibleError, InputError, UnknownNameError
from dora_nb.formulation.sharing.paths import Step
from dora_nb.formulation.sharing.timetable import order_of
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.sharing import search
from dora_nb.planning.sharing.search import Objective
from dora_nb.planning.sharing.share import share
from dora_nb.simulation.shared import play


class Case(NamedTuple):
    """Streams on a cluster."""

    streams: tuple[Stream, ...]
    place: Cluster


def shared_case(dice: Dice) -> Case:
    """Two or three cameras of two tiny models on two devices, with phases, deadlines and memory that may bind."""
    place = random_cluster(dice, devices=(2, 2), kinds=("shared", "switch", "cell", "links"))
    count = dice.pick((1, 1, 2))
    same = dice.pick((True, False, False))
    works = [random_workload(dice, layers=(1, 2), batches=(1, 2), modes=("stream",), tied=False) for _ in range(2)]
    if same:
        works[1] = works[0]
    if dice.pick((True, False)):
        most = max(sum(each.parameters for each in work.layers) for work in works)
        small = place.devices[0].replace(memory_bytes=float(4 * most + 2e6), usable_memory_fraction=1.0)
        place = place.replace(devices=(small, *place.devices[1:]))
    # Of the order of what the devices can do, as a power of two, so that rates have a common round.
    alone_s = [float(cost_table(each, place).forward_s[:, :, each.batch].sum(axis=0).min()) for each in works]
    share_of_all = dice.pick((0.4, 0.8, 1.2)) / (count * alone_s[0] + alone_s[1])
    rate = 2.0 ** max(math.floor(math.log2(share_of_all)), -9)
    streams = []
    for index, work in enumerate(works):
        own = rate * (dice.pick((1, 1, 2)) if index else 1)
        number = count if not index else 1
        phases = tuple(dice.number(0, 3) / 4 / own for _ in range(number))
        late = dice.pick((None, 1.5, 3.0, 8.0))
        deadline = None if late is None else late * alone_s[index]
        streams.append(
            Stream(
                name="xy"[index],
                workload=work.replace(requests_per_s=own),
                count=number,
                deadline_s=deadline,
                phases_s=phases,
            )
        )
    return Case(tuple(streams), place)


def every_plan(work: dora.Workload, place: Cluster) -> Iterator[Plan]:
    """Contiguous stages on a device each, requests whole."""
    layers = len(work.layers)
    for stages in range(1, min(layers, len(place.devices)) + 1):
        for inner in itertools.combinations(range(1, layers), stages - 1):
            for devices in itertools.permutations(place.device_ids, stages):
                yield Plan(
                    micro_batch=work.batch,
                    micro_batches=1,
                    stages=tuple(
                        Stage(
                            first_layer=first,
                            stop_layer=stop,
                            replicas=(Replica(device=name, samples=work.batch),),
                            in_flight=1,
                        )
                        for (first, stop), name in zip(itertools.pairwise((0, *inner, layers)), devices, strict=True)
                    ),
                )


def best_mean_latency(
    tasks: Tasks,
    phases: Sequence[float],
    deadlines: Sequence[float],
    below_s: float,
    first: bool,
    most_nodes: int = 1_000,
) -> tuple[float, bool]:
    """The least mean latency of all timetables that keep the deadlines, if below a limit; and whether all were seen.

    With ``first`` that of the first one found.
    """
    count, unit = len(tasks), tasks.round_s
    slack = 1e-9 * unit
    total = sum(camera.requests for camera in tasks.cameras)
    arrive = [phases[c] + tasks.arrival_s[task] for task, (c, _, _) in enumerate(tasks.names)]
    base = [(each, task, tasks.duration_s[each]) for task in range(count) for each in tasks.predecessors[task]]
    if any(seconds > unit + slack for held in tasks.held for seconds in held.values()):
        return below_s, True
    best, nodes = below_s, 0

    def earliest(waits: list[tuple[int, int, float]]) -> list[float] | None:
        at = list(arrive)
        for _ in range(count + 1):
            moved = False
            for one, other, wait_s in waits:
                if at[one] + wait_s > at[other] + slack / 10:
                    at[other], moved = at[one] + wait_s, True
            if not moved:
                return at
        return None

    def mean_s(at: list[float]) -> float:
        own = tasks.latencies_s(at, phases)
        if any(max(each) > limit * (1 + 1e-9) for each, limit in zip(own, deadlines, strict=True)):
            return math.inf
        return sum(map(sum, own)) / total

    def meeting(at: list[float]) -> tuple[int, int, float, float] | None:
        for one, other in itertools.combinations(range(count), 2):
            for thing in tasks.held[one].keys() & tasks.held[other].keys():
                apart = (at[other] - at[one]) % unit
                if min(apart, unit - apart) < slack:
                    apart = 0.0
                if apart < tasks.held[one][thing] - slack or apart > unit - tasks.held[other][thing] + slack:
                    return one, other, tasks.held[one][thing], tasks.held[other][thing]
        return None

    def descend(waits: list[tuple[int, int, float]]) -> None:
        nonlocal best, nodes
        nodes += 1
        at = earliest(waits)
        if nodes > most_nodes or at is None or mean_s(at) >= best - slack or (first and best < below_s):
            return
        met = meeting(at)
        if met is None:
            best = mean_s(at)
            return
        one, other, first_s, second_s = met
        near = round((at[other] - at[one]) / unit)
        for lag in sorted(range(-4, 5), key=lambda lag: abs(lag - near)):
            descend([*waits, (one, other, first_s + lag * unit), (other, one, second_s - (lag + 1) * unit)])

    descend(base)
    return best, nodes <= most_nodes


def best_of_all(case: Case, objective: str, accounting: EnergyAccounting) -> tuple[float, bool]:
    """The best value over all plans of all cameras and all timetables; infinity: none. And whether all were seen."""
    round_s, requests = common_round(case.streams)
    cameras = [(stream, requests[i], n) for i, stream in enumerate(case.streams) for n in range(stream.count)]
    phases = [stream.phases_s[n] for stream, _, n in cameras if stream.phases_s is not None]
    deadlines = [math.inf if stream.deadline_s is None else stream.deadline_s for stream, _, _ in cameras]
    choices = []
    for plans in itertools.product(*(every_plan(stream.workload, case.place) for stream, _, _ in cameras)):
        works = [stream.workload for stream, _, _ in cameras]
        needed = memory_bytes(zip(works, plans, strict=True))
        if any(needed.get(d.id, 0.0) > d.usable_memory_bytes for d in case.place.devices):
            continue
        own = [
            Camera(work, cost_table(work, case.place), plan, count)
            for work, plan, (_, count, _) in zip(works, plans, cameras, strict=True)
        ]
        tasks = Tasks(own, case.place, float(round_s))
        figures = tasks.figures([[1.0]])
        if all(share.load <= 1 + 1e-9 for share in (*figures.devices, *figures.media)):
            choices.append((figures.power_w(accounting), tasks))
    best, seen = math.inf, True
    for power_w, tasks in sorted(choices, key=lambda each: each[0]):
        below_s = best if objective == "latency" else math.inf
        mean_s, exact = best_mean_latency(tasks, phases, deadlines, below_s, objective == "energy")
        seen &= exact
        if objective == "energy" and mean_s < math.inf:
            return power_w, seen
        best = min(best, mean_s)
    return best, seen


def check(case: Case, objective: Objective, accounting: EnergyAccounting = "participating") -> None:
    expected, seen = best_of_all(case, objective, accounting)
    try:
        found = share(case.streams, case.place, objective=objective, energy_accounting=accounting)
    except InfeasibleError:
        found = None
    if found is None:
        assert not seen or expected == math.inf
        return
    assert found.bound <= expected * (1 + 1e-6)
    if seen:
        assert found.value >= expected * (1 - 1e-6)
    assert found.value <= expected * (1 + 1e-3)
    if found.status == "optimal":
        assert found.gap <= 1e-4
    played = play(found, case.streams, case.place, rounds=8)
    assert played.completed
    assert not played.late
    for camera, own_s in zip(found.cameras, played.latencies_s, strict=True):
        requests = len(camera.latencies_s)
        assert own_s[5 * requests : 6 * requests] == pytest.approx(camera.latencies_s, rel=1e-9)
        for place, seconds in enumerate(own_s):  # from an empty cluster on none takes longer
            assert seconds <= camera.latencies_s[place % requests] * (1 + 1e-9)


@pytest.mark.parametrize("objective", ["energy", "latency"])
@settings(max_examples=examples(4))
@given(case=seeded(shared_case))
def test_the_best_of_all_plans_and_timetables(objective: Objective, case: Case) -> None:
    check(case, objective)


@pytest.mark.parametrize(
    ("objective", "accounting", "seed"),
    [
        ("latency", "participating", 1),  # the best choice has no timetable
        ("energy", "all-on", 2),  # nor has the thriftiest one
        ("latency", "participating", 13),  # not even requests that never wait are in time
        ("energy", "participating", 60),  # no choice has a timetable
        ("energy", "all-on", 190),  # found where loads are kept low
        ("energy", "participating", 456),  # a second look at every camera's place pays
    ],
)
def test_cases_that_few_draws_meet(objective: Objective, accounting: EnergyAccounting, seed: int) -> None:
    check(shared_case(Dice(seed)), objective, accounting)


def test_timetables_too_large_for_a_program_leave_a_true_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MOST_PAIRS", 0)
    case = shared_case(Dice(1))
    expected, seen = best_of_all(case, "latency", "participating")
    assert seen
    found = share(case.streams, case.place, objective="latency")
    assert found.bound <= expected * (1 + 1e-6)
    assert found.value >= expected * (1 - 1e-6)


@settings(max_examples=examples(3))
@given(case=seeded(shared_case))
def test_free_phases_are_no_worse_than_any_given_ones(case: Case) -> None:
    try:
        given_ = share(case.streams, case.place, objective="latency")
    except InfeasibleError:
        return
    free = tuple(stream.replace(phases_s=None) for stream in case.streams)
    found = share(free, case.place, objective="latency")
    assert found.bound <= given_.value * (1 + 1e-6)
    assert found.value <= given_.value * (1 + 1e-3) or found.gap > 1e-4


def two_halves() -> tuple[dora.Workload, Cluster]:
    """A model of two equal layers, and two equal devices on a switch."""
    place = cluster([device("a"), device("b")], 1e7, "switch")
    return workload([layer("l0", 4e8), layer("l1", 4e8)], mode="stream", batch=1, requests_per_s=0.5), place


def test_equal_cameras_evenly_spaced_are_one_stream_of_their_joint_rate() -> None:
    """The timetable of the joint stream, repeated, is one of the cameras: same figures, request for request."""
    work, place = two_halves()
    count = 3
    joint = Stream(name="joint", workload=work.replace(requests_per_s=count * 0.5), phases_s=(0.0,))
    one = share([joint], place, objective="latency")
    plan, period_s = one.cameras[0].plan, one.round_s
    table = cost_table(work, place)
    tasks = Tasks([Camera(work, table, plan, 1)] * count, place, count * period_s)
    phases = [camera * period_s for camera in range(count)]
    alone = {(turn.kind, turn.stage): turn.start_s for turn in one.turns}
    start_s = [alone[name.kind, name.stage] + phases[camera] for camera, _, name in tasks.names]
    earliest_s = tasks.start_times(order_of(tasks, start_s), phases)
    assert earliest_s is not None
    latencies_s = tasks.latencies_s(earliest_s, phases)
    assert [each for own in latencies_s for each in own] == pytest.approx([*one.cameras[0].latencies_s] * count)
    figures = tasks.figures(latencies_s)
    assert figures.power_participating_w == pytest.approx(one.figures.power_participating_w)
    assert [each.load for each in figures.devices] == pytest.approx([each.load for each in one.figures.devices])
    assert figures.devices[0].memory_bytes >= one.figures.devices[0].memory_bytes

    # Cameras may also go to a device each, so sharing is no worse, and here better: no stage waits for a hand-over.
    apart = share([Stream(name="apart", workload=work, count=count)], place, objective="latency")
    assert apart.value <= one.value * (1 + 1e-9)


def test_one_stream_is_planned_as_by_plan() -> None:
    work, place = two_halves()
    alone = dora.plan(work, place, space=dora.SearchSpace((1,), 1, (1,), 1)).best
    assert alone.prediction is not None
    found = share([Stream(name="only", workload=work)], place, objective="latency")
    assert found.value == pytest.approx(alone.prediction.makespan_s)
    thrifty = dora.plan(work, place, dora.QoE(objective="energy"), space=dora.SearchSpace((1,), 1, (1,), 1)).best
    assert thrifty.prediction is not None
    energy = share([Stream(name="only", workload=work)], place)
    assert energy.value == pytest.approx(0.5 * thrifty.prediction.energy_participating_j)


def test_synchronised_cameras_queue_and_free_ones_do_not() -> None:
    place = cluster([device("a")], 1e7)
    work = workload([layer("l0", 2e8)], mode="stream", batch=1, requests_per_s=1.0)
    together = share([Stream(name="x", workload=work, count=3, phases_s=(0, 0, 0))], place, objective="latency")
    assert together.value == pytest.approx((0.2 + 0.4 + 0.6) / 3)
    assert together.gap <= 1e-4
    spread = share([Stream(name="x", workload=work, count=3)], place, objective="latency")
    assert spread.value == pytest.approx(0.2)


def test_one_model_is_held_once_on_a_device() -> None:
    work = workload([layer("l0", 1e8, parameters=1_000_000)], mode="stream", batch=1, requests_per_s=1.0)
    other = workload([layer("m0", 1e8, parameters=1_000_000)], mode="stream", batch=1, requests_per_s=1.0)
    place = cluster([device("a", memory_bytes=5e6), device("b", 1e9, memory_bytes=5e6, active_w=9.0)], 1e7)
    same = share([Stream(name="x", workload=work, count=2)], place)
    assert [camera.plan.devices for camera in same.cameras] == [("a",), ("a",)]
    unlike = share([Stream(name="x", workload=work), Stream(name="y", workload=other)], place)
    assert sorted(camera.plan.devices for camera in unlike.cameras) == [("a",), ("b",)]
    assert max(each.memory_bytes for each in unlike.figures.devices) < 5e6
    with pytest.raises(InfeasibleError, match="do not fit the devices' memory"):
        share(
            [Stream(name=each.layers[0].name, workload=each) for each in (work, other)],
            place.replace(devices=place.devices[:1], domains=()),
        )


def many(name: str, count: int, rate: float, **fields: object) -> Stream:
    work = workload([layer(f"{name}0", 1e8), layer(f"{name}1", 1e8)], mode="stream", batch=1, requests_per_s=rate)
    return Stream(name=name, workload=work, count=count, **fields)


def test_many_cameras_are_summed_and_the_gap_is_true() -> None:
    place = cluster([device("a"), device("b", 5e8), device("c", 2e9, active_w=11.0)], 1e8, "switch")
    streams = [many("x", 6, 1.0, deadline_s=0.5), many("y", 4, 0.5, deadline_s=0.6)]
    thrifty = share(streams, place)
    assert thrifty.status == "optimal"
    assert len(thrifty.cameras) == 10
    assert not play(thrifty, streams, place).late
    quick = share(streams, place, objective="latency", time_limit_s=10)
    assert quick.bound <= quick.value <= thrifty.figures.latency_s * (1 + 1e-9)
    assert quick.figures.power_participating_w >= thrifty.value * (1 - 1e-6)
    assert all(each.load <= 1 for each in quick.figures.devices)


def test_what_cannot_be_asked_is_refused() -> None:
    work, place = two_halves()
    with pytest.raises(InputError, match=r"rates that meet sooner.*multiples of each other"):
        share([many("x", 1, 29.97), many("y", 1, 30.0)], place)
    with pytest.raises(InputError, match="denominator of at most"):
        share([many("x", 1, math.pi)], place)
    with pytest.raises(InputError, match="every stream under a name of its own"):
        share([many("x", 1, 1.0)] * 2, place)
    with pytest.raises(InputError, match=r"streams\[0\].workload.source"):
        share([Stream(name="x", workload=work.replace(source="nobody"))], place)
    with pytest.raises(InputError, match="objective"):
        share([many("x", 1, 1.0)], place, objective="price")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one for each of the 2 cameras"):
        many("x", 2, 1.0, phases_s=(0.0,))
    with pytest.raises(InputError, match="less than the period"):
        many("x", 1, 1.0, phases_s=(1.0,))
    with pytest.raises(InputError, match="mode"):
        Stream(name="x", workload=work.replace(mode="inference", requests_per_s=None))


def test_paths_that_cannot_be_taken_have_no_timetable() -> None:
    """A path that comes back to a device, and paths whose models do not fit together."""
    work, place = two_halves()
    heavy = workload([layer("h0", 1e8, parameters=1_500_000_000)], mode="stream", batch=1, requests_per_s=0.5)
    streams = (Stream(name="x", workload=work), Stream(name="y", workload=heavy))
    seats = search.SharingSearch(
        streams, place, "latency", "participating", 1e-3, "highs", Deadline(), None, None
    ).seats
    there, light = Step(0, 1, 0), Step(0, 2, 1)
    fits = seats.along([(light,), (there,)])
    assert fits is not None
    assert [placed.total_s for placed in fits.placed] == pytest.approx([0.8, 0.1])
    assert seats.along([(Step(0, 1, 1), Step(1, 2, 1)), (there,)]) is None
    crowded = place.replace(devices=tuple(each.replace(memory_bytes=5e9) for each in place.devices))
    full = search.SharingSearch(
        streams, crowded, "latency", "participating", 1e-3, "highs", Deadline(), None, None
    ).seats
    assert full.along([(light,), (there,)]) is None


def test_tables_of_streams_there_are_not_are_refused() -> None:
    work, place = two_halves()
    with pytest.raises(UnknownNameError, match="tables"):
        share([Stream(name="x", workload=work)], place, tables={"y": cost_table(work, place)})
    measured = share([Stream(name="x", workload=work)], place, tables={"x": cost_table(work, place)})
    assert measured.value == share([Stream(name="x", workload=work)], place).value


def test_what_is_impossible_is_said_with_a_figure() -> None:
    work, place = two_halves()
    with pytest.raises(InfeasibleError, match=r"a deadline of 100 ms is impossible: .* takes 800 ms"):
        share([Stream(name="x", workload=work, deadline_s=0.1)], place)
    with pytest.raises(InfeasibleError, match=r"needed 200 % of the time.*at most 50 % of these rates"):
        share([many("x", 20, 1.0)], place)


def test_the_time_limit_and_the_same_question_twice() -> None:
    place = cluster([device("a"), device("b", 5e8)], 1e8)
    streams = [many("x", 3, 1.0, phases_s=(0, 0, 0)), many("y", 3, 1.0, phases_s=(0, 0, 0))]
    short = share(streams, place, objective="latency", time_limit_s=0.01)
    assert short.status in ("time limit", "optimal")
    assert short.bound <= short.value

    def plain(found: Sharing) -> dict[str, object]:
        return found.model_dump(exclude={"wall_s"})

    assert plain(share(streams, place)) == plain(share(streams, place))

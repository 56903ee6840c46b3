"""One step, event by event: against the exact recurrence, closed forms, and what changes must do to it."""

from __future__ import annotations

import pytest
from builders import Dice, cluster, device, examples, layer, pipeline, seeded, workload
from hypothesis import HealthCheck, given, settings
from worlds import Case, changing, random_case, scheduled

from dora_nb.costs.evaluate import evaluate
from dora_nb.costs.table import cost_table
from dora_nb.errors import InputError
from dora_nb.simulation import Trace, World, run_step, simulate
from dora_nb.simulation.clock import StepResult
from dora_nb.simulation.engine import _Fair, _FairMedium
from dora_nb.simulation.steps import StepModel

QUICK = {"suppress_health_check": list(HealthCheck)}

#: Relative difference that the order of the same additions explains.
EXACT = 1e-9


def model(case: Case) -> StepModel:
    work, place, plan = case
    return StepModel(plan, work, place, cost_table(work, place))


def two_stages(size_bytes: float = 1e6, rate: float = 1e6, latency_s: float = 0.0, batches: int = 1) -> Case:
    """Two layers of 1 s on a device each; between them so many bytes at a rate both ways: size / rate x 2 seconds."""
    work = workload([layer("l0", output_elements=int(size_bytes / 4)), layer("l1")], mode="inference", batch=batches)
    place = cluster(2, rate, latency_s=latency_s)
    return work, place, scheduled(work, place, pipeline((0, 1, {"a": 1}), (1, 2, {"b": 1}), micro_batches=batches))


# ------------------------------------------------------------------ when nothing changes


@settings(max_examples=examples(50), deadline=None, **QUICK)
@given(seeded(random_case))
def test_a_step_is_the_plans_own_schedule(case: Case) -> None:
    work, place, plan = case
    result = run_step(model(case), World(place), timeline=True)
    expected = evaluate(plan, work, place)
    assert result.end_s == pytest.approx(expected.prediction.makespan_s, rel=EXACT)
    # Of a single group the evaluation tells tokens one by one; all else is the same operation at the same time.
    apart = ("decode", "token") if plan.token_groups == 1 else ()
    told = {(e.kind, e.stage, e.micro_batch, e.part): e for e in expected.timeline if e.kind not in apart}
    found = {(e.kind, e.stage, e.micro_batch, e.part): e for e in result.entries if e.kind not in apart}
    assert told.keys() == found.keys()
    for key, entry in told.items():
        assert found[key].start_s == pytest.approx(entry.start_s, rel=EXACT, abs=EXACT)
        assert found[key].end_s == pytest.approx(entry.end_s, rel=EXACT, abs=EXACT)
        assert set(found[key].places) == set(entry.places)


@settings(max_examples=examples(25), deadline=None, **QUICK)
@given(seeded(random_case))
def test_busy_times_and_joules_are_those_predicted(case: Case) -> None:
    work, place, plan = case
    prediction = evaluate(plan, work, place).prediction
    result = run_step(model(case), World(place))
    busy_s = dict(zip(place.device_ids, result.busy_s, strict=True))
    for each in prediction.devices:
        assert busy_s[each.device] == pytest.approx(each.busy_s, rel=1e-6)
    dynamic_j = sum((d.active_w - d.idle_w) * busy_s[d.id] for d in place.devices) + result.network_j
    idle_j = sum(place.device(name).idle_w for name in plan.devices) * result.duration_s
    assert dynamic_j + idle_j == pytest.approx(prediction.energy_participating_j, rel=1e-6)


@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize("batches", [1, 3, 8])
def test_a_uniform_pipeline_takes_the_closed_form(stages: int, batches: int) -> None:
    """S equal stages of 1 s and M micro-batches that travel in no time take S + M - 1 seconds."""
    work = workload(stages, mode="inference", batch=batches)
    place = cluster(stages, 1e30)
    cuts = [(index, index + 1, {"abcd"[index]: 1}) for index in range(stages)]
    plan = scheduled(work, place, pipeline(*cuts, micro_batches=batches))
    for sharing in ("ordered", "fair"):
        result = run_step(model((work, place, plan)), World(place), sharing=sharing)
        assert result.end_s == pytest.approx(stages + batches - 1, rel=EXACT)


def test_a_medium_slower_than_the_stages_sets_the_pace() -> None:
    """1 s, then M transfers of 3 s one after the other, then 1 s for the last: 2 + 3 M."""
    result = run_step(model(two_stages(size_bytes=1.5e6, batches=4)), World(two_stages()[1]))
    assert result.end_s == pytest.approx(2 + 3 * 4, rel=EXACT)


# ------------------------------------------------------------------ fair sharing


def test_two_that_share_take_twice_as_long() -> None:
    """Both hand-overs of 2 s are ready at 1 s; fairly shared, both arrive at 5 s instead of at 3 and 5."""
    work = workload([layer("l0"), layer("l1", flops=0)], mode="inference", batch=2)
    place = cluster(4, 1e6)
    plan = scheduled(work, place, pipeline((0, 1, {"a": 1, "b": 1}), (1, 2, {"c": 1, "d": 1})))
    split = scheduled(work, place, plan.replace(chunks=2, transfer_order=(), prediction=None))
    fair = run_step(model((work, place, split)), World(place), sharing="fair", timeline=True)
    arrivals = [entry.end_s for entry in fair.entries if entry.kind == "activation"]
    assert arrivals == pytest.approx([5.0, 5.0])
    ordered = run_step(model((work, place, split)), World(place), timeline=True)
    assert [entry.end_s for entry in ordered.entries if entry.kind == "activation"] == pytest.approx([3.0, 5.0])


@settings(max_examples=examples(25), deadline=None, **QUICK)
@given(seeded(lambda dice: (random_case(dice), dice.number(0, 99))))
def test_the_queue_of_one_medium_is_progressive_filling(drawn: tuple[Case, int]) -> None:
    case, seed = drawn
    if len(model(case).resources) != 1:
        return
    world = changing(Dice(seed), case[1])
    results = [engine(model(case), world, 0.0, 1e6, timeline=False).run() for engine in (_Fair, _FairMedium)]
    assert results[0].end_s == pytest.approx(results[1].end_s, rel=1e-6)
    assert results[0].took_s == pytest.approx(results[1].took_s, rel=1e-6)


@settings(max_examples=examples(20), deadline=None, **QUICK)
@given(seeded(random_case))
def test_fairly_shared_media_carry_no_more_than_they_can(case: Case) -> None:
    """No step is shorter than its longest path, nor than what any one medium has to carry."""
    bare, place = model(case), case[1]
    result = run_step(bare, World(place), sharing="fair")
    parts = bare.parts((1.0,) * len(place.devices))
    for resource in range(len(bare.resources)):
        held_s = sum(w for w, r in zip(parts.work_s, parts.resource, strict=True) if r == resource)
        assert result.end_s >= held_s * (1 - EXACT)
    timing = dict.fromkeys(bare.operations.classes, 0.0)
    for index, kind in enumerate(bare.operations.classes):
        own = [parts.work_s[part] for part in parts.of[index]]
        timing[kind] = max(own, default=0.0) + parts.latency_s[index]
    assert result.end_s >= float(bare.operations.longest_path(timing)) * (1 - EXACT)


# ------------------------------------------------------------------ changes


@settings(max_examples=examples(30), deadline=None, **QUICK)
@given(seeded(lambda dice: (random_case(dice), dice.pick((0.25, 0.5, 3.0)), dice.pick(("ordered", "fair")))))
def test_everything_at_another_speed_takes_as_much_longer(drawn: tuple[Case, float, str]) -> None:
    (work, place, plan), factor, sharing = drawn
    place = place.replace(domains=tuple(domain.replace(latency_s=0.0) for domain in place.domains))
    world = World(place)
    for name in place.device_ids:
        world = world.having("device speed", name, Trace.constant(factor))
    for domain in place.domains:
        world = world.having("domain rate", domain.id, Trace.constant(factor))
    usual = run_step(model((work, place, plan)), World(place), sharing=sharing)  # type: ignore[arg-type]
    result = run_step(model((work, place, plan)), world, sharing=sharing)  # type: ignore[arg-type]
    assert result.end_s * factor == pytest.approx(usual.end_s, rel=1e-6)


@settings(max_examples=examples(30), deadline=None, **QUICK)
@given(seeded(lambda dice: (random_case(dice), dice.number(0, 10**6), dice.pick(("ordered", "fair")))))
def test_nothing_is_lost_or_done_twice_while_speeds_change(drawn: tuple[Case, int, str]) -> None:
    """All work of every channel is worked off, and a step is between what the least and the greatest speeds allow."""
    case, seed, sharing = drawn
    place = case[1]
    world = changing(Dice(seed), place)
    result = run_step(model(case), world, sharing=sharing)  # type: ignore[arg-type]
    usual = run_step(model(case), World(place), sharing=sharing)  # type: ignore[arg-type]
    assert result.completed
    devices = len(place.devices)
    assert result.work_s[:devices] == pytest.approx(usual.work_s[:devices], rel=1e-6, abs=1e-9)
    assert result.network_j == pytest.approx(usual.network_j)
    if sharing == "ordered":  # unfairly shared, a faster medium may well make a step longer (Graham's anomalies)
        assert usual.end_s / (2 * 2) * (1 - 1e-6) <= result.end_s <= usual.end_s / (0.2 * 0.2) * (1 + 1e-6)


def test_half_way_through_a_transfer_the_medium_slows_down() -> None:
    """1 s of work; 2 s of transfer, half of it at full and half at a quarter of the rate: 1 + 1 + 4; then 1 s."""
    case = two_stages()
    world = World(case[1]).having("domain rate", "net", Trace.steps([(0, 1.0), (2, 0.25)]))
    for sharing in ("ordered", "fair"):
        assert run_step(model(case), world, sharing=sharing).end_s == pytest.approx(7.0)


def test_one_device_moves_away_from_the_access_point() -> None:
    """At 2 s half of the transfer is left; b's hop then takes four times as long: 0.5 + 4 x 0.5 seconds are left."""
    case = two_stages()
    world = World(case[1]).having("device rate", "b", Trace.steps([(0, 1.0), (2, 0.25)]))
    assert run_step(model(case), world).end_s == pytest.approx(2 + 2.5 + 1)


def test_a_device_gets_hot() -> None:
    """b's second of work begins at 3 s; a quarter of it is done when it slows down to a tenth: 3.25 + 7.5."""
    case = two_stages()
    world = World(case[1]).having("device speed", "b", Trace.steps([(0, 1.0), (3.25, 0.1)]))
    assert run_step(model(case), world).end_s == pytest.approx(10.75)


def test_latency_passes_at_its_own_pace() -> None:
    case = two_stages(latency_s=0.5)
    world = World(case[1]).having("domain rate", "net", Trace.constant(0.5))
    assert run_step(model(case), world).end_s == pytest.approx(1 + 4 + 0.5 + 1)


def test_a_minute_without_any_bandwidth_costs_a_minute() -> None:
    case = two_stages()
    world = World(case[1]).having("domain rate", "net", Trace.steps([(0, 1.0), (1.5, 0.0), (61.5, 1.0)]))
    for sharing in ("ordered", "fair"):
        assert run_step(model(case), world, sharing=sharing).end_s == pytest.approx(64.0)


def test_a_medium_that_never_moves_again_ends_the_step() -> None:
    case = two_stages()
    world = World(case[1]).having("domain rate", "net", Trace.steps([(0, 1.0), (2, 0.0)]))
    for sharing in ("ordered", "fair"):
        result = run_step(model(case), world, sharing=sharing)
        assert not result.completed
        assert result.lost_to == ""
        assert result.end_s == pytest.approx(2.0)


def test_a_step_that_loses_a_device_ends_there_and_then() -> None:
    case = two_stages()
    world = World(case[1]).having("presence", "a", Trace.steps([(0, 1.0), (3.5, 0.0), (9, 1.0)]))
    result = run_step(model(case), world)
    assert (result.lost_to, result.end_s) == ("a", 3.5)
    assert result.busy_s == pytest.approx((1.0, 0.5))
    gone: StepResult = run_step(model(case), world, 4.0)
    assert (gone.lost_to, gone.end_s, gone.busy_s) == ("a", 4.0, (0.0, 0.0))
    assert run_step(model(case), world, 9.0).end_s == pytest.approx(13.0)


def test_a_step_is_given_up_in_time() -> None:
    case = two_stages()
    for sharing in ("ordered", "fair"):
        result = run_step(model(case), World(case[1]), sharing=sharing, until_s=2.5)
        assert (result.lost_to, result.end_s) == ("", 2.5)


# ------------------------------------------------------------------ refusals


def test_what_cannot_be_simulated_is_refused() -> None:
    work, place, plan = two_stages()
    with pytest.raises(InputError, match="ordered or fair"):
        run_step(model((work, place, plan)), World(place), sharing="by luck")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is missing"):
        run_step(model((work, place, plan.replace(transfer_order=()))), World(place))
    twice = plan.transfer_order + plan.transfer_order
    with pytest.raises(InputError, match="and no other"):
        run_step(model((work, place, plan.replace(transfer_order=twice))), World(place))
    streaming = work.replace(mode="stream", requests_per_s=0.1)
    with pytest.raises(InputError, match="play_stream"):
        simulate(streaming, World(place), plan, horizon_s=1, window_s=1)


def test_an_order_that_locks_itself_up_is_no_endless_wait() -> None:
    """The second activation may not go first: its micro-batch comes later, and the first waits behind it."""
    work = workload([layer("l0"), layer("l1")], mode="training", batch=2)
    place = cluster([device("a"), device("b")], 1e6)
    plan = scheduled(work, place, pipeline((0, 1, {"a": 1}), (1, 2, {"b": 1}), micro_batches=2, in_flight=(1, 1)))
    backwards = tuple(reversed(plan.transfer_order))
    result = run_step(model((work, place, plan.replace(transfer_order=backwards))), World(place))
    assert not result.completed
    assert result.lost_to == ""

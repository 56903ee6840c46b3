"""Streams and generation: the answers against every plan there is, and what a person gets to see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders import (
    Dice,
    Rated,
    best_stream_latency,
    cluster,
    default_space,
    device,
    every_plan,
    examples,
    layer,
    questions,
    random_question,
    rated_plans,
    seeded,
    shape_and_timing,
    sliceable_question,
    workload,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dora_nb.catalog import load_cluster, load_workload
from dora_nb.costs import evaluate
from dora_nb.costs.operations import Operations, Timing
from dora_nb.costs.table import cost_table
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.layer import NextToken
from dora_nb.domain.plan import Plan
from dora_nb.domain.plan_file import load_plan, save_plan
from dora_nb.domain.qoe import EnergyAccounting, QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InfeasibleError, InputError
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.pace import fastest_stream
from dora_nb.planning.plan import plan
from dora_nb.render.html import plan_html
from dora_nb.render.tables import describe_plan, plan_text
from dora_nb.simulation import World, run_step
from dora_nb.simulation.steps import StepModel

Question = tuple[Workload, Cluster]
ACCOUNTINGS = st.sampled_from(("participating", "all-on"))
OBJECTIVES = st.sampled_from(("latency", "energy"))
QUICK = {"suppress_health_check": list(HealthCheck), "deadline": None}
SMALL = {"layers": (2, 3), "batches": (1, 2, 3)}


# ---------------------------------------------------------------------------------------------- generation


@settings(max_examples=examples(10), **QUICK)
@given(questions(modes=("generate",), **SMALL), ACCOUNTINGS, OBJECTIVES, st.booleans())
def test_no_plan_generates_better_than_a_bound(
    question: Question, accounting: EnergyAccounting, objective: str, hurried: bool
) -> None:
    work, place = question
    problem = Problem.of(work, place, accounting, space=default_space(work, place))
    plans = rated_plans(problem)
    latency_s = min(rated.makespan_s for rated in plans) * 1.3 if hurried else None
    qoe = QoE(objective=objective, energy_accounting=accounting, latency_s=latency_s)
    allowed = [rated for rated in plans if latency_s is None or rated.makespan_s <= latency_s]
    for each in plan(work, place, qoe, most_plans=2, gap=1e-6, space=problem.space).plans:
        certificate = each.certificate
        assert certificate is not None
        limit_s = certificate.latency_limit_s or np.inf
        below = certificate.bound * (1 - 1e-9)
        if certificate.objective == "latency":
            best = min(rated.makespan_s for rated in allowed)
            assert not any(rated.reaches_latency(below) for rated in plans)
        else:
            best = min(rated.energy_j for rated in allowed if rated.makespan_s <= limit_s)
            assert not any(rated.reaches_energy(below, limit_s) for rated in plans)
        if certificate.gap <= 1e-6:
            assert certificate.value == pytest.approx(best, rel=2e-6)


def test_memory_for_the_cache_rules_a_device_out() -> None:
    """Qwen3-0.6B in fp32, 20 x 3,000 tokens of context: 28 blocks x 2,048 elements x 4 bytes a token are 13.8 GB."""
    work = load_workload("qwen3-0.6b", mode="generate", new_tokens=3_000 - 128, batch=20)
    place = load_cluster("smart-home")
    cache_bytes = 28 * 2_048 * 4 * 60_000
    room = {device.id: device.usable_memory_bytes for device in place.devices}
    assert max(room.values()) < cache_bytes < sum(room.values())
    for each in plan(work, place, most_plans=2).plans:
        assert sum(room[name] for name in each.devices) > cache_bytes
        assert each.prediction is not None
        assert sum(device.memory_bytes for device in each.prediction.devices) > cache_bytes


def test_a_smart_home_generates_with_a_proven_plan() -> None:
    work = load_workload("qwen3-0.6b", mode="generate", new_tokens=64, batch=4, precision="fp16")
    plans = plan(work, load_cluster("smart-home"))
    figures = plans.best.prediction
    assert figures is not None
    assert figures.first_token_s is not None
    assert figures.token_s is not None
    assert figures.makespan_s == pytest.approx(figures.first_token_s + 63 * figures.token_s)
    assert plans.best.certificate is not None
    assert plans.best.certificate.status == "optimal"
    assert "first token after" in plan_text(plans)
    assert "64 new tokens" in plan_text(plans)
    assert "first token after" in plans.best._repr_html_()
    frame = plans.to_frame()
    assert frame["token_s"].notna().all()


# ---------------------------------------------------------------------------------------------- streams


def loads_s(operations: Operations, timing: Timing) -> float:
    """The busiest stage's or medium's seconds of one request."""
    loads: dict[object, float] = {}
    for operation, kind in zip(operations.operations, operations.classes, strict=True):
        if operation.kind in ("forward", "shard-sum"):  # a stage waits for the sums behind its passes
            loads[operation.stage] = loads.get(operation.stage, 0.0) + timing.duration_s[kind]
        if operation.kind != "forward":
            for medium, seconds in timing.holds[kind].seconds.items():
                loads[medium] = loads.get(medium, 0.0) + seconds
    return max(loads.values())


def fitting(problem: Problem) -> list[Plan]:
    """Every plan of the space that fits in memory."""
    return [rated.plan for rated in (Rated(each, problem) for each in every_plan(problem)) if rated.fits]


def hurried(dice: Dice) -> Question:
    """A question with a rate that few plans keep up with."""
    return in_a_hurry(dice, *random_question(dice, modes=("stream",), **SMALL))


def hurried_slices(dice: Dice) -> Question:
    """The same with layers that can be sliced."""
    work, place = sliceable_question(dice, modes=("inference",))
    return in_a_hurry(dice, work.replace(mode="stream", requests_per_s=1.0), place, shards=3)


def in_a_hurry(dice: Dice, work: Workload, place: Cluster, shards: int = 1) -> Question:
    """The question with such a rate."""
    alone = work.replace(mode="inference", requests_per_s=None)
    problem = Problem.of(alone, place, "participating", space=default_space(alone, place, shards=shards))
    loads = sorted(loads_s(*shape_and_timing(each, problem)) for each in every_plan(problem))
    load_s = dice.pick(loads[: max(1, len(loads) // 4)])
    return work.replace(requests_per_s=1 / (load_s * dice.pick((0.99, 1.0, 1.02, 1.1, 1.4)))), place


@settings(max_examples=examples(10), **QUICK)
@given(seeded(hurried), ACCOUNTINGS, OBJECTIVES)
def test_no_plan_keeps_up_better_than_a_bound(question: Question, accounting: EnergyAccounting, objective: str) -> None:
    check_streams(question, accounting, objective)


@settings(max_examples=examples(15), **QUICK)
@given(seeded(hurried_slices), ACCOUNTINGS, OBJECTIVES)
def test_no_plan_keeps_up_better_where_stages_may_have_shards(
    question: Question, accounting: EnergyAccounting, objective: str
) -> None:
    check_streams(question, accounting, objective, shards=3)


def check_streams(question: Question, accounting: EnergyAccounting, objective: str, shards: int = 1) -> None:
    """The planner's answer and bound against every plan of the space, each in its best schedule."""
    work, place = question
    period_s = work.arrival_s
    assert period_s is not None
    problem = Problem.of(work, place, accounting, space=default_space(work, place, shards=shards))
    alone = Problem.of(work.replace(mode="inference", requests_per_s=None), place, accounting, space=problem.space)
    reached: list[tuple[float, float]] = []  # latency and energy of every plan that keeps up
    for each in fitting(alone):
        operations, timing = shape_and_timing(each, problem)
        most_s = sum(timing.duration_s[kind] for kind in operations.classes) + 4 * period_s
        latency_s = best_stream_latency(operations, timing, period_s, most_s)
        if latency_s < most_s:
            rated = Rated(each, alone)
            reached.append((latency_s, rated.dynamic_j + rated.idle_w * period_s))
    qoe = QoE(objective=objective, energy_accounting=accounting)
    try:
        answers = plan(work, place, qoe, most_plans=2, gap=1e-6, space=problem.space)
    except InfeasibleError:
        assert not reached
        return
    for each in answers.plans:
        assert evaluate(each, work, place).scheduled.prediction == each.prediction
    certificate = answers.best.certificate
    assert certificate is not None
    best = min((latency_s if objective == "latency" else energy_j for latency_s, energy_j in reached), default=np.inf)
    assert certificate.bound <= best * (1 + 1e-6)
    if certificate.gap <= 1e-6 and reached:
        assert certificate.value <= best * (1 + 1e-5)


@settings(max_examples=examples(10), **QUICK)
@given(questions(modes=("stream",), **SMALL) | seeded(hurried_slices))
def test_no_plan_keeps_up_with_a_shorter_period_than_the_fastest_stream(question: Question) -> None:
    work, place = question
    shards = 3 if any(each.parts > 1 for each in work.layers) else 1
    space, alone = default_space(work, place, shards=shards), work.replace(mode="inference", requests_per_s=None)
    problem = Problem.of(alone, place, "participating", space=space)
    plans = fitting(problem)
    if not plans:
        with pytest.raises(InfeasibleError):
            fastest_stream(work, place, space=space)
        return
    pace = fastest_stream(work, place, gap=0.001, space=space)
    least_s = min(loads_s(*shape_and_timing(each, problem)) for each in plans)
    assert pace.bound_s <= least_s * (1 + 1e-6)
    assert pace.period_s >= least_s * (1 - 1e-6)
    kept = work.replace(requests_per_s=pace.requests_per_s)
    assert evaluate(pace.plan, kept, place).prediction.period_s <= pace.period_s * (1 + 1e-9)
    if place.domain is not None and place.domain.kind == "shared":  # there every load below the period can be kept
        assert pace.period_s <= least_s * (1 + 2e-3)


def test_a_slow_stream_is_answered_like_a_batch() -> None:
    batch = load_workload("vit-b-16", batch=4)
    slow = load_workload("vit-b-16", mode="stream", batch=4, requests_per_s="1 /h")
    place = load_cluster("traffic-analytics")
    answers = [plan(work, place, most_plans=2).plans[0] for work in (batch, slow)]
    assert answers[0].prediction is not None
    assert answers[1].prediction is not None
    assert answers[1].prediction.makespan_s == pytest.approx(answers[0].prediction.makespan_s, rel=1e-4)


def test_a_faster_stream_takes_a_pipeline_and_says_so() -> None:
    place = load_cluster("traffic-analytics")
    devices = []
    for rate in ("10 /s", "60 /s"):
        plans = plan(load_workload("vit-b-16", mode="stream", requests_per_s=rate), place, most_plans=2)
        assert plans.best.certificate is not None
        assert plans.best.certificate.gap <= 1e-4
        assert "would keep up with a request every" in plan_text(plans)
        devices.append(len(plans.best.devices))
    assert devices[0] < devices[1]


def test_a_stream_that_nothing_keeps_up_with() -> None:
    work = load_workload("vit-b-16", mode="stream", requests_per_s="1000 /s")
    with pytest.raises(InfeasibleError, match="keeps up with a request every 1 ms"):
        plan(work, load_cluster("traffic-analytics"))


def test_the_fastest_stream_of_equal_devices_shares_the_work_evenly() -> None:
    """Four layers of a second on two devices and a fast network: 2 s a request, and no plan does better."""
    pace = fastest_stream(workload(4, mode="stream", batch=1, requests_per_s=1), cluster(2, 1e12), gap=1e-4)
    assert pace.period_s == pytest.approx(2, rel=1e-3)
    assert pace.gap <= 1e-4
    assert "gap 0.0 %" in repr(pace)


@pytest.mark.parametrize(("change", "field"), [({"gap": 0}, "gap"), ({"time_limit_s": 0}, "time_limit_s")])
def test_a_fastest_stream_that_cannot_be_sought(change: dict[str, float], field: str) -> None:
    with pytest.raises(InputError, match=field):
        fastest_stream(workload(2, mode="stream", requests_per_s=1), cluster(2), **change)  # type: ignore[arg-type]


def test_only_a_stream_has_a_rate_to_seek() -> None:
    with pytest.raises(InputError, match="mode"):
        fastest_stream(workload(2, mode="inference"), cluster(2))


def test_no_device_holds_the_network() -> None:
    huge = workload([layer("a", parameters=10**12)], mode="stream", requests_per_s=1)
    with pytest.raises(InfeasibleError, match="memory"):
        fastest_stream(huge, cluster(2))


def test_the_planner_splits_the_batch_where_stages_would_wait_for_each_other(tmp_path: Path) -> None:
    """Four equal layers whose tokens take long to compute and little to hand over; devices too small for all layers."""
    token = NextToken(flops=1e8, read_parameters=0, output_elements=1_000)
    chain = [layer(f"l{index}", parameters=100_000_000, next_token=token) for index in range(4)]
    work = workload(chain, mode="generate", sequence=8, new_tokens=17, batch=4)
    place = cluster([device(name, memory_bytes=1e9) for name in "ab"], 1e7)
    makespan_s = {}
    for groups in ((1,), (1, 2, 4)):
        space = SearchSpace((1, 2), 1, (1,), token_groups=groups)
        plans = plan(work, place, space=space, gap=1e-6)
        best = plans.best
        assert best.prediction is not None
        assert best.certificate is not None
        makespan_s[groups] = best.prediction.makespan_s
        assert best.certificate.gap <= 1e-6
        assert best.token_groups == max(groups)
    assert makespan_s[1, 2, 4] < 0.7 * makespan_s[1,]
    assert "1, 2, 4 groups behind each other" in best.certificate.scope
    for shown in (describe_plan(best, work), plan_html(best)):
        assert "tokens in 4 groups" in shown
    kept = load_plan(save_plan(tmp_path / "plan.json", best, work, place))
    assert kept.plan == best
    again = evaluate(kept.plan, work, place).prediction
    assert again.makespan_s == best.prediction.makespan_s
    played = run_step(StepModel(best, work, place, cost_table(work, place)), World(place))
    assert played.end_s == pytest.approx(best.prediction.makespan_s)
    with pytest.raises(InputError, match="monolithic"):
        plan(work, place, space=space, algorithm="monolithic")
    # A plan without the field, as files of one group are, travels as one unit.
    assert "token_groups" not in best.replace(token_groups=1, prediction=None, certificate=None).model_dump()


@pytest.mark.parametrize(
    ("groups", "mode", "allowed"),
    [
        ((), "generate", "at least one"),
        ((0,), "generate", "at least one"),
        ((3,), "generate", "divides"),
        ((2,), "inference", r"\(1,\) in mode"),
    ],
)
def test_groups_that_there_cannot_be(groups: tuple[int, ...], mode: str, allowed: str) -> None:
    token = NextToken(flops=1e8, read_parameters=0, output_elements=1_000)
    fields = {"sequence": 8, "new_tokens": 2} if mode == "generate" else {}
    work = workload([layer("a", next_token=token if fields else None)], mode=mode, batch=4, **fields)
    with pytest.raises(InputError, match=allowed):
        plan(work, cluster(1), space=SearchSpace((1, 2), 1, (1,), token_groups=groups))

"""What a plot of plans shows: every figure of every plan, and nothing proven that some plan refutes."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import pytest
from builders import Dice, cluster, default_space, device, examples, layer, seeded, workload
from explorer_cases import small_plans
from hypothesis import HealthCheck, given, settings
from limits import predictions, random_case, random_qoe, value

from dora_nb.domain.certificate import Certificate, SecondSolve
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.coverage import Coverage
from dora_nb.domain.plan import Plan
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InfeasibleError, InputError
from dora_nb.explorer.views.front import FrontView, front_of_plans, front_view
from dora_nb.formulation.problem import Problem
from dora_nb.planning.plan import plan
from dora_nb.render import words
from dora_nb.render.envelope import Envelope, Floor, bounds_hold, covered_by, proven_by, proven_so_far

ROUNDING = 1e-9


@pytest.fixture(scope="module")
def plans() -> PlanSet:
    return small_plans()


def certified(of: Plan, **fields: object) -> Plan:
    proof = {
        "objective": "energy",
        "unit": "J",
        "value": 10.0,
        "bound": 10.0,
        "gap": 0.0,
        "status": "optimal",
        "scope": "all",
        "solver": "test",
        "solver_reason": "test",
    }
    return of.replace(certificate=Certificate(**(proof | fields)))


def at(of: Plan, makespan_s: float, energy_j: float) -> Plan:
    assert of.prediction is not None
    figures = {"makespan_s": makespan_s, "energy_participating_j": energy_j, "energy_all_on_j": energy_j}
    return of.replace(prediction=of.prediction.replace(**figures))


def set_of(
    like: PlanSet, figures: list[tuple[float, float]], qoe: QoE | None = None, delta: float | None = None
) -> PlanSet:
    made = tuple(at(like.plans[0], *each).replace(certificate=None) for each in figures)
    covers = None if delta is None else Coverage(delta, len(made))
    return PlanSet(like.workload, like.cluster, qoe or QoE(), made, (), 0.0, covers)


# ---------------------------------------------------------------------------------------------- points


def test_every_plan_is_there_with_its_figures(plans: PlanSet) -> None:
    view = front_view(plans)
    assert len(view.points) == len(plans) > 1
    for index, (point, each) in enumerate(zip(view.points, plans.plans, strict=True)):
        assert each.prediction is not None
        assert each.certificate is not None
        assert (point.latency_s, point.energy_j) == (each.prediction.makespan_s, each.prediction.energy_participating_j)
        assert (point.mark, point.label, point.gap) == (words.plan_mark(index), each.label, each.certificate.gap)
        assert point.keeps
        assert point.period_s is None
        assert "(predicted)" in point.lines[1]


def test_baselines_are_there_or_named(plans: PlanSet) -> None:
    view = front_view(plans)
    assert {each.mark for each in view.baselines} <= {
        words.baseline_mark(index) for index in range(len(plans.baselines))
    }
    assert len(view.baselines) + len(view.notes) == len(plans.baselines) > 0
    far = at(plans.plans[0], 1e6, 1e6).replace(label="slow\none")
    near = at(plans.plans[0], plans[0].prediction.makespan_s, 1e-3).replace(label="beside")  # type: ignore[union-attr]
    beside = front_view(plans, baselines=[far, near, near.decisions()])
    assert [(each.mark, each.label) for each in beside.baselines] == [("B2", "beside")]
    assert "(baseline)" in beside.baselines[0].lines[0]
    assert len(beside.notes) == 1
    assert "slow one" in beside.notes[0]


def test_limits_that_are_missed_are_named(plans: PlanSet) -> None:
    fastest, slowest = (each.prediction for each in (plans.plans[0], plans.plans[-1]))
    assert fastest is not None
    assert slowest is not None
    most_s = (fastest.makespan_s + slowest.makespan_s) / 2
    view = front_view(plans, QoE(latency_s=most_s, energy_j=1e-3, energy_price=2.0, battery_j={"thrifty": 1e-6}))
    assert view.points[-1].missed[:2] == ("latency", "energy")
    assert "latency" not in view.points[0].missed
    assert "battery of thrifty" in view.points[-1].missed
    assert not view.points[-1].keeps
    assert view.points[-1].lines[-1] == f"misses {words.sentence(view.points[-1].missed)}"
    assert (view.latency_limit_words, view.energy_limit_words) == ("latency limit", "soft energy limit")
    assert (view.latency_limit_s, view.energy_limit_j) == (most_s, 1e-3)


def test_a_stream_shows_how_close_together_requests_may_be() -> None:
    work = workload([layer(f"l{index}", flops=1e8) for index in range(2)], mode="stream", batch=1, requests_per_s=1)
    found = plan(work, cluster([device("a", 1e9), device("b", 2e9)]), most_plans=1)
    (point,) = front_view(found, baselines=()).points
    assert found.best.prediction is not None
    assert point.period_s == found.best.prediction.period_s
    assert any("request" in line for line in point.lines)


def test_what_cannot_be_drawn_is_refused(plans: PlanSet) -> None:
    with pytest.raises(InputError, match=r"plans\[1\]\.prediction"):
        front_of_plans([plans.plans[0], plans.plans[1].decisions()], QoE(), "training")
    with pytest.raises(InputError, match="at least one plan"):
        front_of_plans([], QoE(), "training")
    with pytest.raises(InputError, match="colour"):
        FrontView(**front_view(plans).model_dump(), colour="red")


def test_the_view_survives_json(plans: PlanSet) -> None:
    view = front_view(plans)
    assert FrontView(**view.model_dump(mode="json")) == view


# ---------------------------------------------------------------------------------------------- axes


def test_axes_hold_everything_and_have_units(plans: PlanSet) -> None:
    view = front_view(plans)
    for axis, numbers in ((view.latency, [each.latency_s for each in (*view.points, *view.baselines)]),
                          (view.energy, [each.energy_j for each in (*view.points, *view.baselines)])):  # fmt: skip
        assert axis.low < min(numbers)
        assert max(numbers) < axis.high
        assert axis.title.endswith(f"({axis.unit})")
        assert 2 <= len(axis.ticks) <= 8
        assert all(axis.low - 1e-9 <= tick.value <= axis.high * (1 + 1e-9) for tick in axis.ticks)
        assert 0 < axis.step < (axis.high - axis.low) / 20


def test_a_limit_on_the_plot_never_moves_the_axes(plans: PlanSet) -> None:
    free = front_view(plans)
    axis = free.latency
    for share in (0.01, 0.3, 0.6, 0.99):
        limit_s = axis.low + share * (axis.high - axis.low)
        assert front_view(plans, QoE(latency_s=limit_s)).latency == axis


def test_axes_follow_a_limit_outside_in_steps_and_leave_one_far_off(plans: PlanSet) -> None:
    free = front_view(plans).latency
    slowest_s = max(each.latency_s for each in front_view(plans).points)
    outside_s = [free.high * (1.01 + 0.001 * index) for index in range(10)]
    assert all(each <= 2 * slowest_s for each in outside_s)
    axes = [front_view(plans, QoE(latency_s=each)).latency for each in outside_s]
    assert all(axis.high > limit_s for axis, limit_s in zip(axes, outside_s, strict=True))
    assert len({axis.high for axis in axes}) <= 2
    assert front_view(plans, QoE(latency_s=100 * slowest_s)).latency == free
    assert front_view(plans, QoE(latency_s=slowest_s / 50)).latency.low <= slowest_s / 50


def test_one_plan_alone_has_axes(plans: PlanSet) -> None:
    for figures in ((3.0, 5.0), (0.0, 0.0), (2e-5, 3e-4), (5e4, 3e5)):
        view = front_view(set_of(plans, [figures]))
        assert view.latency.low <= figures[0] < view.latency.high
        assert view.energy.low <= figures[1] < view.energy.high
        assert view.proven == ()
        assert view.proven_words == ""


# ---------------------------------------------------------------------------------------------- dominated


def test_what_is_dominated_is_a_staircase_over_the_best_plans(plans: PlanSet) -> None:
    view = front_view(set_of(plans, [(3.0, 4.0), (1.0, 9.0), (2.0, 9.5), (5.0, 1.0)]))
    assert view.dominated == ((1.0, 9.0), (3.0, 9.0), (3.0, 4.0), (5.0, 4.0), (5.0, 1.0))


# ---------------------------------------------------------------------------------------------- proven


def check_line(view: FrontView) -> None:
    """The line is drawn on the plot, and only falls."""
    for (x, y), (later, lower) in pairwise(view.proven):
        assert x <= later
        assert lower <= y
    for x, y in view.proven:
        assert view.latency.low <= x <= view.latency.high
        assert y <= view.energy.high


def check_corners(envelope: Envelope, left_s: float, right_s: float, top_j: float) -> None:
    """Between two corners the line is as high as the envelope, whatever its shape."""
    for (x, y), (later, lower) in pairwise(envelope.corners(left_s, right_s, top_j)):
        for share in (0.001, 0.25, 0.5, 0.75, 0.999):
            between_s = x + share * (later - x)
            if later > x * (1 + 1e-9):  # not between two ends that differ by rounding
                expected_j = min(envelope.floor_j(between_s), top_j)
                assert y + share * (lower - y) == pytest.approx(expected_j, rel=1e-9, abs=1e-9)


def contrasting(dice: Dice) -> tuple[Workload, Cluster, Dice]:
    """Fast devices that take much and slow ones that take little: most questions have several answers."""
    devices = [
        device("fast", 4e9, active_w=40.0, idle_w=dice.pick((0.0, 2.0)), memory_bytes=1e9),
        device("middle", dice.pick((1e9, 2e9)), active_w=6.0, idle_w=1.0, memory_bytes=1e9),
        device("thrifty", 1e9, active_w=1.5, idle_w=0.2, memory_bytes=1e9),
    ]
    layers = [layer(f"l{index}", flops=dice.pick((1e9, 4e9)), parameters=1000) for index in range(dice.number(2, 3))]
    work = workload(layers, batch=dice.number(2, 4), mode=dice.pick(("training", "inference")))
    return work, cluster(devices, rates=[dice.pick((1e6, 4e6))] * 3), dice


@settings(max_examples=examples(10), deadline=None, suppress_health_check=list(HealthCheck))
@given(seeded(lambda dice: contrasting(dice) if dice.number(0, 2) else random_case(dice, layers=(2, 3))))
def test_no_plan_there_is_lies_below_what_is_proven(case: tuple[Workload, Cluster, Dice]) -> None:
    """Against every plan of the space that keeps the limits of single devices, rated in plain loops."""
    work, place, dice = case
    space = default_space(work, place)
    known = predictions(Problem.of(work, place, "participating", space=space))
    if not known:
        return
    qoe = random_qoe(dice, work, place, known)
    try:
        found = plan(work, place, qoe, space=space, gap=1e-6, most_plans=dice.pick((1, 3, 5)))
    except InfeasibleError:
        return
    envelope = proven_by(found.plans, qoe) | covered_by(found)
    proof = found.best.certificate
    assert proof is not None
    envelope |= proven_so_far(qoe, work.batch, proof.bound)
    own = {"battery_j": qoe.battery_j} if "battery" in qoe.hard else {}
    if "headroom" in qoe.hard:
        own |= {"headroom_fraction": qoe.headroom_fraction, "headroom_bytes": qoe.headroom_bytes}
    devices = QoE(energy_accounting=qoe.energy_accounting, **own)
    for each in known:
        if math.isfinite(value(each, work, place, devices)):
            floor_j = envelope.floor_j(each.makespan_s * (1 + ROUNDING))
            assert each.energy_j(qoe.energy_accounting) >= floor_j * (1 - ROUNDING)
    view = front_view(found, baselines=())
    check_line(view)
    check_corners(envelope, view.latency.low, view.latency.high, view.energy.high)


def test_no_plan_shown_lies_below_the_line(plans: PlanSet) -> None:
    view = front_view(plans)
    envelope = proven_by(plans.plans, plans.qoe) | covered_by(plans)
    for each in (*view.points, *view.baselines):
        assert each.energy_j >= envelope.floor_j(each.latency_s * (1 + ROUNDING)) * (1 - ROUNDING)
    check_line(view)
    check_corners(envelope, view.latency.low, view.latency.high, view.energy.high)
    assert view.proven[0][1] == view.energy.high, "it comes down from the top where no plan is faster"
    scope = plans.best.certificate.scope  # type: ignore[union-attr]
    assert view.proven_words == f"Proven: no plan considered lies below this line ({scope})."


def test_a_certificate_for_latency_is_an_upright_line(plans: PlanSet) -> None:
    one = certified(plans.plans[0], objective="latency", unit="s", value=3.0, bound=2.0)
    envelope = proven_by([one], QoE())
    assert envelope == Envelope((Floor(2.0, math.inf),))
    assert envelope.least_s == 2.0
    assert envelope.corners(0.0, 5.0, 7.0) == ((2.0, 7.0), (2.0, 0.0))
    assert envelope.corners(2.0, 5.0, 7.0) == envelope.corners(0.0, 1.0, 7.0) == (), "it is not in this part"
    assert [envelope.floor_j(each) for each in (1.9, 2.0)] == [math.inf, 0.0]


def test_within_an_energy_limit_faster_plans_may_be_above_it(plans: PlanSet) -> None:
    one = certified(plans.plans[0], objective="latency", unit="s", value=3.0, bound=2.0, energy_limit_j=50.0)
    envelope = proven_by([one], QoE(energy_j=50.0))
    assert [envelope.floor_j(each) for each in (1.9, 2.0)] == [50.0, 0.0]
    assert envelope.corners(1.0, 5.0, 70.0) == ((1.0, 50.0), (2.0, 50.0))
    assert envelope.corners(1.0, 5.0, 40.0) == ((1.0, 40.0), (2.0, 40.0))


def test_a_certificate_for_energy_holds_within_its_latency_limit(plans: PlanSet) -> None:
    within = certified(plans.plans[0], latency_limit_s=4.0, value=12.0, bound=10.0)
    free = certified(plans.plans[0], value=6.0, bound=5.0)
    envelope = proven_by([within, free, plans.plans[0].decisions()], QoE())
    assert [envelope.floor_j(each) for each in (0.0, 3.9, 4.0, 99.0)] == [10.0, 10.0, 5.0, 5.0]
    assert envelope.corners(1.0, 8.0, 20.0) == ((1.0, 10.0), (4.0, 10.0), (4.0, 5.0), (8.0, 5.0))


def test_tie_breaks_prove_a_step_each(plans: PlanSet) -> None:
    after_latency = SecondSolve(objective="energy", unit="J", value=9.0, bound=8.0, gap=0.1)
    one = certified(plans.plans[0], objective="latency", unit="s", value=3.0, bound=2.9, then=after_latency)
    assert proven_by([one], QoE()).floors == (Floor(2.9, math.inf), Floor(3.0, 8.0))
    after_energy = SecondSolve(objective="latency", unit="s", value=7.0, bound=6.0, gap=0.1)
    other = certified(plans.plans[0], value=10.0, bound=9.0, then=after_energy)
    assert proven_by([other], QoE()).floors == (Floor(math.inf, 9.0), Floor(6.0, 10.0))


def test_a_price_is_a_falling_line(plans: PlanSet) -> None:
    qoe = QoE(objective="price", joules_per_s=2.0)
    priced = certified(
        plans.plans[0], objective="price", value=21.0, bound=20.0, latency_limit_s=9.0, energy_limit_j=14.0
    )
    flat = certified(plans.plans[0], value=6.0, bound=6.0)
    envelope = proven_by([priced, flat], qoe)
    assert [envelope.floor_j(each) for each in (1.0, 4.0, 7.0, 8.0, 9.0)] == [14.0, 12.0, 6.0, 6.0, 6.0]
    assert envelope.corners(1.0, 10.0, 20.0) == (
        (1.0, 14.0), (3.0, 14.0), (7.0, 6.0), (9.0, 6.0), (10.0, 6.0),
    )  # fmt: skip
    check_corners(envelope, 1.0, 10.0, 20.0)
    steep = Envelope((Floor(math.inf, 20.0, 2.0), Floor(8.0, 30.0, 5.0), Floor(6.0, 11.0)))
    check_corners(steep, 0.0, 12.0, 25.0)
    check_corners(steep, 0.0, 12.0, 250.0)


def test_prices_on_soft_limits_prove_nothing_here(plans: PlanSet) -> None:
    soft = certified(plans.plans[0], with_prices=True)
    assert proven_by([soft], QoE(latency_s=3.0, latency_price=1.0)) == Envelope()


def test_what_a_solve_has_proven_so_far_is_what_its_certificate_will_say(plans: PlanSet) -> None:
    assert proven_so_far(QoE(), 4, 2.0).floors == (Floor(2.0, math.inf),)
    assert proven_so_far(QoE(energy_j=50.0), 4, 2.0).floors == (Floor(2.0, 50.0),)
    energy = QoE(objective="energy", latency_s=9.0)
    assert proven_so_far(energy, 4, 10.0).floors == (Floor(9.0, 10.0),)
    assert proven_so_far(energy.replace(samples_per_s=1.0), 4, 10.0).floors == (Floor(4.0, 10.0),)
    priced = QoE(objective="price", joules_per_s=2.0, energy_j=14.0)
    assert proven_so_far(priced, 4, 20.0).floors == (Floor(math.inf, 20.0, 2.0, 14.0),)
    assert proven_so_far(energy.replace(latency_price=1.0), 4, 10.0) == Envelope(), "a sum that is not drawn"


def test_coverage_proves_the_plans_own_staircase_moved_inwards(plans: PlanSet) -> None:
    covered = set_of(plans, [(2.0, 20.0), (4.0, 10.0)], delta=1.0)
    envelope = covered_by(covered)
    assert [envelope.floor_j(each) for each in (0.9, 1.0, 1.9, 2.0, 50.0)] == [math.inf, 10.0, 10.0, 5.0, 5.0]
    limited = covered_by(set_of(plans, [(2.0, 20.0), (4.0, 10.0)], QoE(latency_s=5.0, energy_j=8.0), delta=1.0))
    assert [limited.floor_j(each) for each in (0.9, 1.0, 2.0, 4.9, 5.0)] == [8.0, 8.0, 5.0, 5.0, 0.0]
    assert covered_by(set_of(plans, [(2.0, 20.0)])) == Envelope()
    assert covered_by(dataclasses.replace(covered, coverage=Coverage(None, 2))) == Envelope()


def test_bounds_hold_for_other_limits_on_the_plan_but_not_on_devices(plans: PlanSet) -> None:
    asked = QoE(latency_s=3.0, objective="energy")
    assert bounds_hold(asked, QoE(latency_s=9.0, energy_j=4.0, battery_j={"fast": 1.0}))
    assert not bounds_hold(asked, QoE(latency_s=3.0, energy_accounting="all-on"))
    kept = QoE(battery_j={"fast": 9.0}, headroom_fraction=0.1)
    assert bounds_hold(kept, kept.replace(latency_s=2.0))
    assert not bounds_hold(kept, kept.replace(headroom_fraction=0.2))
    assert not bounds_hold(kept, QoE())
    assert bounds_hold(QoE(battery_j={"fast": 9.0}, battery_price=1.0), QoE())
    assert front_view(plans, QoE(energy_accounting="all-on")).proven == ()


def test_the_words_name_limits_of_devices(plans: PlanSet) -> None:
    qoe = QoE(battery_j={"fast": 1e9}, headroom_fraction=0.01)
    found = PlanSet(plans.workload, plans.cluster, qoe, plans.plans, (), 0.0, plans.coverage)
    said = front_view(found).proven_words
    assert said.startswith("Proven: no plan considered that keeps the limits on batteries and memory lies below")

"""Plans under conditions, what plans hold together, and what a change of plans moves."""

from __future__ import annotations

import numpy as np
import pytest
from builders import (
    Dice,
    cluster,
    device,
    examples,
    layer,
    pipeline,
    random_plan,
    random_question,
    seeded,
    shape_and_timing,
    workload,
)
from hypothesis import HealthCheck, given, settings

from dora_nb.costs.conditions import Surroundings, loads_s, mean_of, slowness, under
from dora_nb.costs.evaluate import evaluate
from dora_nb.costs.resident import Residents
from dora_nb.costs.switching import switch
from dora_nb.costs.table import cost_table
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.conditions import Condition
from dora_nb.domain.plan import Plan
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.schedules.list_schedule import list_schedule

QUICK = {"suppress_health_check": list(HealthCheck)}


def ordered(plan: Plan, work: Workload, place: Cluster) -> Plan:
    problem = Problem.of(work, place, "participating")
    return plan.replace(transfer_order=list_schedule(*shape_and_timing(plan, problem)).transfers())


def test_factors_and_absence_do_what_they_say() -> None:
    """Two stages of 1 s and 0.5 s, 1 MB between them that takes 1 s + 0.5 s on the medium."""
    work = workload(2, mode="inference", batch=1)
    place = cluster([device("a"), device("b", 2e9)], [1e6, 2e6])
    table = cost_table(work, place)
    plan = ordered(pipeline((0, 1, {"a": 1}), (1, 2, {"b": 1})), work, place)
    calm = Condition(name="calm", probability=1)
    makespans = {
        3.0: calm,
        6.0: calm.replace(domain_rate_factors={"net": 1 / 3}),
        4.0: calm.replace(device_rate_factors={"a": 0.5}),
        3.5: calm.replace(device_speed_factors={"b": 0.5}),
    }
    for makespan_s, condition in makespans.items():
        figures = under(place, table, condition).retimed(plan, work)
        assert figures is not None
        assert figures.makespan_s == pytest.approx(makespan_s)
    away = under(place, table, calm.replace(absent_devices=("b",)))
    assert away.retimed(plan, work) is None
    assert away.cluster.device_ids == ("a",)
    around = under(place, table, calm)
    figures = around.retimed(plan, work)
    assert figures is not None
    assert loads_s(plan, work, around, figures) == pytest.approx({"a": 1.0, "b": 0.5, "net": 1.5})


def some_conditions(dice: Dice, place: Cluster) -> list[Condition]:
    def factors() -> dict[str, float]:
        return {name: dice.pick((0.1, 0.5, 0.9, 1.5)) for name in place.device_ids}

    return [
        Condition(name=f"c{k}", probability=1, device_rate_factors=factors(), device_speed_factors=factors())
        for k in range(dice.number(2, 3))
    ]


@settings(max_examples=examples(20), deadline=None, **QUICK)
@given(seeded(lambda dice: (dice, *random_question(dice))))
def test_on_the_mean_of_conditions_no_plan_is_slower_than_on_average(question: tuple[Dice, Workload, Cluster]) -> None:
    """What the bounds for several conditions at once rest on: Jensen's inequality, and that makespans scale."""
    dice, work, place = question
    table, states = cost_table(work, place), some_conditions(dice, place)
    plan = ordered(random_plan(dice, work, place), work, place)
    shares = np.array([dice.number(1, 5) for _ in states], dtype=float)
    others = np.array([dice.number(1, 5) for _ in states], dtype=float)
    figures = [under(place, table, each).retimed(plan, work) for each in states]
    mean, other = mean_of(place, table, states, shares), mean_of(place, table, states, others)
    on_mean, on_other = mean.retimed(plan, work), other.retimed(plan, work)
    assert on_mean is not None
    assert on_other is not None
    for accounting in ("participating", "all-on"):
        expected_j = sum(share * each.energy_j(accounting) for share, each in zip(shares, figures, strict=True))
        assert on_mean.energy_j(accounting) <= expected_j / shares.sum() * (1 + 1e-9)
    expected_s = sum(share * each.makespan_s for share, each in zip(shares, figures, strict=True)) / shares.sum()
    assert on_mean.makespan_s <= expected_s * (1 + 1e-9)
    factor = slowness(mean, other)
    assert 0 < factor <= 1
    assert on_mean.makespan_s >= factor * on_other.makespan_s * (1 - 1e-9)
    assert slowness(mean, mean) == 1.0


def test_the_mean_of_one_condition_is_that_condition() -> None:
    work, place = workload(2), cluster(2)
    table = cost_table(work, place)
    plan = ordered(pipeline((0, 1, {"a": 4}), (1, 2, {"b": 4})), work, place)
    calm = Condition(name="calm", probability=1)
    figures = under(place, table, calm).retimed(plan, work)
    assert figures == evaluate(plan, work, place).prediction == Surroundings(place, table).retimed(plan, work)


def residents(work: Workload, place: Cluster, *plans: Plan) -> Residents:
    done = [ordered(plan, work, place) for plan in plans]
    predicted = (plan.replace(prediction=evaluate(plan, work, place).prediction) for plan in done)
    return Residents(work, tuple(predicted), place.device_ids)


def tied_chain(mode: str) -> Workload:
    """Three layers of 10, 20 and 40 bytes of own parameters, the ends sharing 100 more (fp32)."""
    return workload(
        [
            layer("first", parameters=int(10e6) + int(100e6), tied_parameters=int(100e6)),
            layer("middle", parameters=int(20e6)),
            layer("last", parameters=int(40e6) + int(100e6), tied_parameters=int(100e6)),
        ],
        mode=mode,
        batch=1,
    )


def test_layers_that_plans_share_are_held_once_and_tied_parameters_too() -> None:
    work, place = tied_chain("inference"), cluster(2)
    one = pipeline((0, 1, {"a": 1}), (1, 3, {"b": 1}))
    two = pipeline((0, 2, {"a": 1}), (2, 3, {"b": 1}))
    whole = pipeline((0, 3, {"a": 1}))
    several = residents(work, place, one, two, whole)
    alone = np.array([several.resident_bytes([j]) for j in range(3)])
    for j, plan in enumerate(several.plans):
        assert plan.prediction is not None
        for each in plan.prediction.devices:
            assert alone[j, place.device_ids.index(each.device)] == pytest.approx(each.memory_bytes)
    both = several.resident_bytes([0, 1, 2])
    working = several.working_bytes.max(axis=0)
    assert both - working == pytest.approx([170e6 * 4, 160e6 * 4])
    together = several.resident_bytes([0, 1, 2], together=True)
    assert together - both == pytest.approx(several.working_bytes.sum(axis=0) - working)


def test_a_change_in_training_moves_parameters_and_optimizer_state_that_changed_place() -> None:
    work = tied_chain("training")
    place = cluster(2, [1e6, 2e6], energy_j_per_byte=1e-6)
    one = pipeline((0, 1, {"a": 1}), (1, 3, {"b": 1}), tied="synchronised")
    two = pipeline((0, 2, {"a": 1}), (2, 3, {"b": 1}), tied="synchronised")
    whole = pipeline((0, 3, {"a": 1}), tied="one-stage")
    moved = switch(one, two, work, place, "participating")
    assert moved.size_bytes == 20e6 * 12  # the middle layer goes to a; b still has what it keeps
    assert moved.duration_s == pytest.approx(20e6 * 12 * (1 / 1e6 + 1 / 2e6))
    assert moved.energy_j == pytest.approx(20e6 * 12 * 1e-6 + 2.0 * moved.duration_s)
    assert switch(two, one, work, place, "participating").size_bytes == 20e6 * 12
    assert switch(whole, one, work, place, "all-on").size_bytes == (20e6 + 40e6 + 100e6) * 12
    assert switch(one, one, work, place, "all-on").energy_j == 0
    assert switch(one, two, tied_chain("inference"), place, "all-on").size_bytes == 0


def test_of_no_plans_nothing_is_resident_and_of_an_unevaluated_one_nobody_knows() -> None:
    work, place = workload(2, mode="inference", batch=1), cluster(2)
    plan = pipeline((0, 1, {"a": 1}), (1, 2, {"b": 1}))
    assert residents(work, place, plan).resident_bytes([]).tolist() == [0.0, 0.0]
    with pytest.raises(InputError, match=r"plan\.prediction: got None"):
        Residents(work, (plan,), place.device_ids).resident_bytes([0])

"""Other cases: clusters that are scaled, questions under a what-if, and what a change is worth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from builders import cluster, device, layer, workload
from explorer_cases import small_cluster, small_plans, small_workload

import dora_nb
from dora_nb.costs import cost_table, evaluate
from dora_nb.domain.cluster import ContentionDomain, Provenance
from dora_nb.domain.explanation import Change, Relaxation
from dora_nb.domain.plan_set import PlanSet
from dora_nb.domain.qoe import QoE
from dora_nb.errors import InputError, UnknownNameError
from dora_nb.explorer.changes import answer_label, qoe_with, relaxed
from dora_nb.explorer.effect import effect
from dora_nb.explorer.known import Found, Known, Library
from dora_nb.explorer.whatif import WhatIf, check, question_under
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.explanation.alternatives import question_of
from dora_nb.planning.nearest import nearest
from dora_nb.planning.plan import plan
from dora_nb.planning.question import Question

# ---------------------------------------------------------------------------------------------- clusters


def test_a_scaled_cluster_computes_and_sends_as_much_faster() -> None:
    work, place = small_workload(), small_cluster()
    faster = place.scaled(rates=4.0, speeds={"fast": 2.0}, memory={"thrifty": 3.0})
    before, after = cost_table(work, place), cost_table(work, faster)
    column = place.device_ids.index("fast")
    assert after.forward_s[:, column] == pytest.approx(before.forward_s[:, column] / 2)
    assert after.step_s[:, column] == pytest.approx(before.step_s[:, column] / 2)
    others = [index for index in range(3) if index != column]
    assert np.array_equal(after.forward_s[:, others], before.forward_s[:, others])
    assert faster.device("thrifty").usable_memory_bytes == 3 * place.device("thrifty").usable_memory_bytes
    assert faster.domains[0].rates_bytes_per_s == {"fast": 8e6, "middle": 8e6, "thrifty": 8e6}
    assert faster.device("fast").active_w == place.device("fast").active_w
    assert place.scaled() == place


def test_every_kind_of_domain_is_scaled() -> None:
    members = [device("a"), device("b")]
    cell = ContentionDomain(
        id="cell", kind="cell", rates_bytes_per_s={"a": 1.0, "b": 2.0}, down_rates_bytes_per_s={"a": 3.0, "b": 4.0}
    )
    links = ContentionDomain(id="links", kind="links", links_bytes_per_s={"a": {"b": 5.0}, "b": {"a": 6.0}})
    for domain in (cell, links):
        scaled = cluster(members).replace(domains=(domain,)).scaled(rates=2.0).domains[0]
        for name in ("rates_bytes_per_s", "down_rates_bytes_per_s"):
            assert getattr(scaled, name) == {key: 2 * rate for key, rate in getattr(domain, name).items()}
        assert scaled.link_bytes_per_s("a", "b") == (None if domain is cell else 10.0)


def test_a_scaled_number_does_not_claim_the_source_of_the_number_before() -> None:
    source = Provenance(status="measured", source="a lab")
    place = cluster([device("a", sources={"flops_per_s.matmul.fp32": source, "idle_w": source})])
    sources = place.scaled(speeds={"a": 0.5}).device("a").sources
    assert sources["flops_per_s.matmul.fp32"].status == "assumed"
    assert "0.5 times" in sources["flops_per_s.matmul.fp32"].source
    assert "a lab" in sources["flops_per_s.matmul.fp32"].source
    assert sources["idle_w"] == source


@pytest.mark.parametrize("factor", [0.0, -1.0, math.inf, math.nan])
def test_impossible_factors_are_refused(factor: float) -> None:
    place = small_cluster()
    for given in ({"rates": factor}, {"speeds": {"fast": factor}}, {"memory": {"fast": factor}}):
        with pytest.raises(InputError, match="above 0"):
            place.scaled(**given)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="nobody"):
        place.scaled(speeds={"nobody": 2.0})


def test_catalogue_clusters_can_be_scaled_and_saved(tmp_path: object) -> None:
    for name in ("smart-home", "edge-cluster", "traffic-analytics"):
        place = dora_nb.load_cluster(name).scaled(rates=2.0, speeds={dora_nb.load_cluster(name).device_ids[0]: 0.5})
        path = f"{tmp_path}/{name}.json"
        dora_nb.save_cluster(path, place)
        assert dora_nb.load_cluster(path) == place


# ---------------------------------------------------------------------------------------------- questions


def question() -> Question:
    return Question.of(small_workload(), small_cluster(), QoE(), None, None, True, "auto")


def test_without_a_change_the_question_is_the_same() -> None:
    base = question()
    assert question_under(base, WhatIf()) is base
    assert WhatIf().with_changes(bandwidth=2.0).with_changes(bandwidth=1.0).is_none


def test_factors_of_other_devices_stay() -> None:
    changed = WhatIf().with_changes(speed={"fast": 2.0}).with_changes(speed={"middle": 0.5}, memory={"fast": 3.0})
    assert changed.speed == {"fast": 2.0, "middle": 0.5}
    assert changed.with_changes(speed={"fast": 1.0}).speed == {"middle": 0.5}
    assert changed.lines() == ["speed of fast x 2", "speed of middle x 0.5", "memory of fast x 3"]


def test_factors_of_a_device_that_is_off_wait_until_it_is_on() -> None:
    changed = WhatIf().with_changes(speed={"fast": 2.0}, off=["fast"])
    assert question_under(question(), changed).cluster.device_ids == ("middle", "thrifty")
    back = question_under(question(), changed.with_changes(off=()))
    assert back.cluster == small_cluster().scaled(speeds={"fast": 2.0})


def test_measured_times_are_scaled_with_their_devices() -> None:
    table = replace(cost_table(small_workload(), small_cluster()), status="measured")
    base = replace(question(), table=table)
    changed = WhatIf().with_changes(speed={"thrifty": 4.0}, off=["fast"], batch=2)
    check(base, changed)
    there = question_under(base, changed).table
    assert there is not None
    assert there.forward_s.shape == (3, 2, 3)
    assert there.forward_s[:, 1] == pytest.approx(table.forward_s[:, 2, :3] / 4)
    assert there.forward_s[:, 0] == pytest.approx(table.forward_s[:, 1, :3])
    with pytest.raises(InputError, match="at most 4"):
        check(base, WhatIf(batch=8))


def test_the_plans_to_consider_follow_the_batch() -> None:
    base = question()
    assert question_under(base, WhatIf(batch=6)).space.micro_batch_sizes == (1, 2, 3, 6)
    own = replace(base, space=SearchSpace((2, 4), 2, (1,), 1))
    assert question_under(own, WhatIf(batch=6)).space == SearchSpace((2,), 2, (1,), 1)
    with pytest.raises(InputError, match="multiple"):
        check(own, WhatIf(batch=5))


def test_source_and_sink_cannot_be_switched_off() -> None:
    base = replace(question(), workload=workload(3, batch=4, source="fast", sink="thrifty"))
    for name, role in (("fast", "source"), ("thrifty", "sink")):
        with pytest.raises(InputError, match=role):
            check(base, WhatIf(off=(name,)))


def test_changes_of_a_relaxation_are_made() -> None:
    qoe = QoE(latency_s=3.0, energy_j=5.0, samples_per_s=9.0, battery_j={"fast": 1.0}, headroom_fraction=0.5)
    changes = [
        Change(limit="latency", unit="s", asked=3.0, needed=4.0),
        Change(limit="energy", unit="J", asked=5.0, needed=6.0),
        Change(limit="throughput", unit="samples/s", asked=9.0, needed=8.0),
        Change(limit="battery", device="fast", unit="J", asked=1.0, needed=2.0),
        Change(limit="headroom", unit="share", asked=0.5, needed=0.25),
        Change(limit="memory", device="fast", unit="bytes", asked=10.0, needed=15.0),
        Change(limit="bandwidth", unit="times", asked=1.0, needed=3.0),
    ]
    now, changed = relaxed(
        Relaxation(changes=tuple(changes), plan=small_plans().best), qoe, WhatIf(bandwidth=2.0, memory={"fast": 2.0})
    )
    assert (now.latency_s, now.energy_j, now.samples_per_s) == (4.0, 6.0, 8.0)
    assert (now.battery_j, now.headroom_fraction) == ({"fast": 2.0}, 0.25)
    assert (changed.bandwidth, changed.memory) == (6.0, {"fast": 3.0})
    assert answer_label(now, changed) == "fastest within 4 s and 6 J, bandwidth x 6, memory of fast x 3"


def test_an_objective_takes_its_price_along() -> None:
    priced = QoE(objective="price", joules_per_s=4.0)
    assert qoe_with(priced, {"objective": "energy"}).joules_per_s is None
    assert qoe_with(priced, {"latency_s": 3.0}).joules_per_s == 4.0


# ---------------------------------------------------------------------------------------------- known plans


@pytest.fixture(scope="module")
def plans() -> PlanSet:
    return small_plans()


def test_a_plan_found_for_a_case_goes_before_the_same_plan_of_another(plans: PlanSet) -> None:
    base, _ = question_of(plans)
    library, case = Library(plans, base, 4), WhatIf(bandwidth=2.0)
    there = question_under(base, case)
    better = evaluate(plans[0].replace(prediction=None), there.workload, there.cluster).scheduled
    library.add([Found(better.replace(label="found there"), case, plans.qoe, "answer")])
    assert library.known(case)[0].plan.label == "found there"
    assert len(library.known(case)) == len(plans)
    assert library.known(WhatIf())[0].plan is plans[0]


def test_a_plan_that_no_longer_fits_in_memory_is_not_known() -> None:
    heavy = workload([layer("l", parameters=1000)], batch=2)
    made = plan(heavy, cluster(1).replace(domains=()), QoE(), most_plans=1)
    (holder,) = made.best.prediction.devices  # type: ignore[union-attr]
    library = Library(made, question_of(made)[0], 1)
    enough = holder.memory_bytes / holder.usable_memory_bytes
    assert library.known(WhatIf(memory={"a": 1.01 * enough}))
    assert library.known(WhatIf(memory={"a": 0.99 * enough})) == ()


def test_the_nearest_breaks_limits_by_the_smallest_share(plans: PlanSet) -> None:
    known = [Known(plan, Found(plan, WhatIf(), plans.qoe, "asked")) for plan in plans]
    assert nearest([], plans.qoe) == -1
    for qoe in (QoE(latency_s=20, energy_j=300), QoE(latency_s=1, energy_j=280), QoE(samples_per_s=100.0)):
        chosen = known[nearest([each.plan for each in known], qoe)].plan

        def excess(plan: object, qoe: QoE = qoe) -> float:
            figures = plan.prediction  # type: ignore[attr-defined]
            over = [figures.makespan_s / qoe.latency_s - 1] if qoe.latency_s else []
            over += [figures.energy_participating_j / qoe.energy_j - 1] if qoe.energy_j else []
            over += [qoe.samples_per_s / figures.samples_per_s - 1] if qoe.samples_per_s else []
            return max(0.0, *over)

        assert excess(chosen) == pytest.approx(min(excess(plan) for plan in plans))


# ---------------------------------------------------------------------------------------------- effects


def test_an_effect_has_a_price_where_one_number_changed(plans: PlanSet) -> None:
    first = (plans.workload, plans.cluster, plans.qoe)
    before, after = plans.best, plans[0]
    assert effect(first, before, WhatIf(), plans.qoe, after) is None
    difference = after.prediction.energy_participating_j - before.prediction.energy_participating_j  # type: ignore[union-attr]
    for changed, per, units in (
        (WhatIf(bandwidth=1.5), "10 % more bandwidth", 5.0),
        (WhatIf(speed={"fast": 0.7}), "10 % less speed of fast", 3.0),
        (WhatIf(memory={"fast": 2.0}), "GB more memory on fast", 1000.0),
        (WhatIf(batch=6), "sample more in the batch", 2.0),
        (WhatIf(off=("middle",)), "device less", 1.0),
    ):
        told = effect(first, before, changed, plans.qoe, after)
        assert told is not None
        assert told.per == per
        assert told.per_unit == pytest.approx(difference / units)
        assert told.per in told.lines[-1]
    told = effect(first, before, WhatIf(bandwidth=2.0, batch=2), plans.qoe, after)
    assert told is not None
    assert told.per_unit is None
    limited = (plans.workload, plans.cluster, QoE(objective="energy", latency_s=100.0))
    told = effect(limited, before, WhatIf(), QoE(objective="energy", latency_s=80.0), after)
    assert told is not None
    assert (told.changed, told.per) == (("latency limit 80 s",), "s less latency limit")
    assert told.per_unit == pytest.approx(difference / 20)


def test_values_of_two_objectives_are_not_compared(plans: PlanSet) -> None:
    first = (plans.workload, plans.cluster, plans.qoe)
    told = effect(first, plans.best, WhatIf(), QoE(objective="latency"), plans[0])
    assert told is not None
    assert told.unit is None
    assert len(told.lines) == 2


def test_what_is_within_the_gaps_is_said_to_be_nothing(plans: PlanSet) -> None:
    first = (plans.workload, plans.cluster, plans.qoe)
    told = effect(first, plans.best, WhatIf(bandwidth=2.0), plans.qoe, plans.best)
    assert told is not None
    assert "does not change by more than the two gaps" in told.lines[-1]

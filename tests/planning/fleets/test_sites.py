"""Several sites: bounds against every plan that keeps within them, chains against every chain, answers end to end."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from builders import (
    Dice,
    best_stream_latency,
    cluster,
    default_space,
    device,
    examples,
    layer,
    random_question,
    rated_plans,
    seeded,
    shape_and_timing,
    tails,
    workload,
)
from hypothesis import HealthCheck, assume, given, settings

from dora_nb.costs.evaluate import evaluate
from dora_nb.costs.table import cost_table
from dora_nb.domain.cluster import Cluster, ContentionDomain
from dora_nb.domain.plan import Plan
from dora_nb.domain.plan_file import load_plan, save_plan
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.errors import InfeasibleError, InputError
from dora_nb.formulation.fleets.site_chain import Leg, SiteChain
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.deadline import Deadline
from dora_nb.planning.fleets import large
from dora_nb.planning.fleets.sites import SitesHunt, sites_of
from dora_nb.planning.plan import plan
from dora_nb.simulation import play_stream

ROUNDING = 1e-9


def two_sites(up: float = 1e5) -> Cluster:
    """Three unlike devices on a switch, three on a medium of their own, and a slow line between the two."""
    devices = [device(name, speed) for name, speed in zip("abcdef", (1e9, 2e9, 3e9, 1.5e9, 2.5e9, 3.5e9), strict=True)]
    left = ContentionDomain(id="left", kind="switch", rates_bytes_per_s=dict.fromkeys("abc", 1e8))
    right = ContentionDomain(id="right", kind="shared", rates_bytes_per_s=dict.fromkeys("def", 1e8))
    line = ContentionDomain(id="line", kind="switch", rates_bytes_per_s={"left": up, "right": up}, latency_s=0.01)
    return Cluster(name="two", devices=devices, domains=[line, left, right])


def test_a_site_is_what_hangs_at_the_top_of_the_tree() -> None:
    place = two_sites()
    assert [site.device_ids for site in sites_of(place)] == [("a", "b", "c"), ("d", "e", "f")]
    assert [[domain.id for domain in site.domains] for site in sites_of(place)] == [["left"], ["right"]]
    *domains, left, right = place.domains
    nested = ContentionDomain(id="nested", kind="shared", rates_bytes_per_s=dict.fromkeys("ab", 1e6))
    left = left.replace(rates_bytes_per_s={"nested": 1e8, "c": 1e8})
    deeper = place.replace(domains=(nested, right, left, *domains))
    assert [site.device_ids for site in sites_of(deeper)] == [("a", "b", "c"), ("d", "e", "f")]
    assert {domain.id for domain in sites_of(deeper)[0].domains} == {"left", "nested"}
    assert sites_of(cluster(3)) == (cluster(3),)
    alone = right.replace(rates_bytes_per_s={"left": 1e8} | dict.fromkeys("def", 1e8))
    assert [site.device_ids for site in sites_of(place.replace(domains=(left, alone, nested)))] == [
        ("a", "b", "c"), ("d",), ("e",), ("f",),
    ]  # fmt: skip


def _sites_question(dice: Dice) -> tuple[Workload, Cluster]:
    work, place = random_question(
        dice, layers=(2, 4), batches=(1, 2, 4), modes=("inference",), device_count=(3, 4), kinds=("mixed",)
    )
    if dice.number(0, 1):
        room = [each.replace(memory_bytes=dice.pick((3e6, 6e6, 8e9))) for each in place.devices]
        place = place.replace(devices=tuple(room))
    return work, place


@settings(max_examples=examples(15), suppress_health_check=list(HealthCheck))
@given(seeded(_sites_question))
def test_no_plan_within_sites_refutes_the_bound(question: tuple[Workload, Cluster]) -> None:
    """Neither before a site is planned nor after; the answer is one of these plans, within its gap of the best."""
    work, place = question
    assume(len(sites_of(place)) > 1)
    problem = Problem.of(work, place, "participating", space=default_space(work, place))
    plans = [rated for rated in rated_plans(problem) if keeps_within(rated.plan, sites_of(place))]
    sites = SitesHunt(problem, 1e-3, Deadline())
    counted_s = min(chain.best(np.inf, 1e-6).bound_s for chain in sites.chains.values())
    sites.run()
    assert counted_s <= sites.bound_s * (1 + ROUNDING)
    for rated in plans:
        assert rated.best_s(sites.bound_s) >= sites.bound_s * (1 - ROUNDING)
    if sites.best is None:
        assert not plans or sites.bound_s <= min(rated.makespan_s for rated in plans)
        return
    assert keeps_within(sites.best, sites_of(place))
    assert plans
    again = evaluate(sites.best, work, place).prediction
    assert again.makespan_s == pytest.approx(sites.best_s)
    assert all(each.memory_bytes <= each.usable_memory_bytes for each in again.devices)


def _stream_question(dice: Dice) -> tuple[Workload, Cluster]:
    """Requests that the first device alone would be done with in time, or long after."""
    work, place = _sites_question(dice)
    alone_s = float(cost_table(work, place).forward_s[:, 0, work.batch].sum())
    return work.replace(mode="stream", requests_per_s=dice.pick((0.2, 1.0, 2.0, 4.0)) / alone_s), place


@settings(max_examples=examples(8), suppress_health_check=list(HealthCheck))
@given(seeded(_stream_question))
def test_no_plan_within_sites_keeps_up_with_a_stream_below_the_bound(question: tuple[Workload, Cluster]) -> None:
    work, place = question
    period_s = work.arrival_s
    assert period_s is not None
    assume(len(sites_of(place)) > 1)
    problem = Problem.of(work, place, "participating", space=default_space(work, place))
    alone = Problem.of(work.replace(mode="inference", requests_per_s=None), place, "participating", space=problem.space)
    sites = SitesHunt(problem, 1e-3, Deadline())
    sites.run()
    for rated in rated_plans(alone):
        if keeps_within(rated.plan, sites_of(place)):
            operations, timing = shape_and_timing(rated.plan, problem)
            below_s = sites.bound_s * (1 - 1e-6) if np.isfinite(sites.bound_s) else 1e3 * period_s
            if max(tails(operations, timing)) < below_s:
                assert best_stream_latency(operations, timing, period_s, below_s, most_nodes=2_000) >= below_s
    if sites.best is not None:
        assert keeps_within(sites.best, sites_of(place))
        played = play_stream(sites.best, work, place, requests=60)
        assert played.latencies_s[-1] == pytest.approx(sites.best_s, rel=1e-6)


def keeps_within(some: Plan, sites: tuple[Cluster, ...]) -> bool:
    """Whether every stage is on one site, and no site is entered twice."""
    where = [{site.name for site in sites if set(stage.devices) & set(site.device_ids)} for stage in some.stages]
    if any(len(each) > 1 for each in where):
        return False
    entered = [name for name, _ in itertools.groupby(next(iter(each)) for each in where)]
    return len(entered) == len(set(entered))


def _random_chain(dice: Dice) -> SiteChain:
    sites, cuts = dice.number(1, 3), dice.number(2, 4)

    def times(*shape: int) -> np.ndarray:
        return np.array([dice.number(0, 9) for _ in range(int(np.prod(shape)))], dtype=float).reshape(shape)

    one_s = times(sites, cuts, cuts)
    all_s = one_s + times(sites, cuts, cuts)
    if dice.number(0, 1):
        all_s[dice.number(0, sites - 1), 0, dice.number(1, cuts - 1)] = np.inf
    return SiteChain(all_s, one_s, times(2, sites), times(2, sites), times(2, sites, sites, cuts))


@settings(max_examples=examples(60), suppress_health_check=list(HealthCheck))
@given(seeded(_random_chain))
def test_the_least_chain_is_the_least_of_all(chain: SiteChain) -> None:
    cuts = chain.all_s.shape[1]
    found = {
        legs: bound_of(chain, legs)
        for count in range(1, len(chain.all_s) + 1)
        for order in itertools.permutations(range(len(chain.all_s)), count)
        for inner in itertools.combinations(range(1, cuts - 1), count - 1)
        for legs in [tuple(itertools.starmap(Leg, zip(order, (0, *inner), (*inner, cuts - 1), strict=True)))]
    }
    least_s = min(found.values())
    best = chain.best(np.inf, 1e-9)
    assert best.bound_s == pytest.approx(least_s)
    if np.isfinite(least_s):
        assert found[best.legs] == pytest.approx(least_s)
        assert chain.best(least_s / 2, 1e-9).bound_s == least_s / 2  # nothing below it
    rough = chain.best(np.inf, 0.3)
    assert rough.bound_s <= least_s * (1 + ROUNDING)


def bound_of(chain: SiteChain, legs: tuple[Leg, ...]) -> float:
    """The sum of ways and hand-overs, and the largest of what comes on top."""
    ways = [chain.enter_s[:, legs[0].site], chain.leave_s[:, legs[-1].site]]
    ways += [chain.hop_s[:, before.site, after.site, after.first] for before, after in itertools.pairwise(legs)]
    most_s = max(0.0, *(chain.all_s[leg] - chain.one_s[leg] for leg in legs), *(held_s for _, held_s in ways))
    return float(sum(chain.one_s[leg] for leg in legs) + sum(way_s for way_s, _ in ways) + most_s)


def test_a_fleet_of_sites_is_planned_site_by_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "MOST_CODES", 20)  # six unlike devices are 64 sets, three are 8
    deep = [layer(f"l{index}", flops=1e9, parameters=10**6, output_elements=1000) for index in range(6)]
    work, place = workload(deep, batch=8, mode="inference", source="a", sink="a"), two_sites()
    heard: list[str] = []
    asked = plan(work, place, on_progress=heard.append, gap=0.05)
    best = asked.best
    assert keeps_within(best, sites_of(place))
    assert {name[0] for stage in best.stages for name in stage.devices} & set("def")  # both sites take part
    assert best.certificate is not None
    assert best.certificate.gap <= 0.05
    assert "each site entered once" in best.certificate.scope
    assert heard[0] == "2 sites: 3, 3 devices"
    save_plan(tmp_path / "plan.json", best, work, place)
    kept = load_plan(tmp_path / "plan.json").plan
    assert evaluate(kept, work, place).prediction.makespan_s == pytest.approx(best.certificate.value)
    with pytest.raises(InfeasibleError, match="is impossible"):
        plan(work, place, QoE(latency_s=best.certificate.bound / 2))


def test_sites_keep_up_with_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six layers of 1 s at 1 GFLOP/s: in 1 / 1.4 s one site computes three of them, the other four."""
    monkeypatch.setattr(large, "MOST_CODES", 20)
    deep = [layer(f"l{index}", flops=1e9, parameters=10**6, output_elements=1000) for index in range(6)]
    calm, place = workload(deep, batch=1, mode="stream", requests_per_s=0.1), two_sites(1e6)
    busy = calm.replace(requests_per_s=1.4)
    alone, both = (plan(each, place, gap=0.05, space=SearchSpace.of(each, place)).best for each in (calm, busy))
    assert alone.certificate is not None
    assert both.certificate is not None
    assert both.certificate.gap <= 0.3
    assert both.certificate.value >= alone.certificate.bound
    assert keeps_within(both, sites_of(place))
    assert {name for stage in both.stages for name in stage.devices} & set("abc")  # the other site is too slow for all
    played = play_stream(both, busy, place, requests=40)
    assert played.latencies_s[-1] == pytest.approx(both.certificate.value)
    with pytest.raises(
        InfeasibleError, match="there is no plan that fits the devices' memory and keeps up with 50 requests per second"
    ):
        plan(calm.replace(requests_per_s=50.0), place)


@pytest.mark.parametrize(
    ("work", "qoe", "named"),
    [
        (workload(3, batch=2), QoE(), "mode: got 'training'"),
        (workload(3, batch=2, mode="inference"), QoE(objective="energy"), "objective: got 'energy'"),
        (workload(3, batch=2, mode="inference"), QoE(energy_j=5), "energy_j"),
    ],
)
def test_what_sites_do_not_answer_is_refused(
    work: Workload, qoe: QoE, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large, "MOST_CODES", 20)
    with pytest.raises(InputError, match=named):
        plan(work, two_sites(), qoe)

"""A composition in the simulator does what it was composed to do, condition by condition."""

from __future__ import annotations

import pytest
from worlds import two_ways

from dora_nb.catalog import load_cluster, load_conditions, load_workload
from dora_nb.domain.composition import Composition
from dora_nb.domain.conditions import Condition
from dora_nb.domain.qoe import QoE
from dora_nb.errors import InputError
from dora_nb.planning.composition.compose import compose
from dora_nb.simulation import World, simulate


@pytest.fixture(scope="module")
def mix() -> Composition:
    work, place = load_workload("bert-base", batch=8), load_cluster("smart-home")
    qoe = QoE(objective="energy", latency_s=0.75)
    return compose(work, place, qoe, load_conditions("smart-home-evening"), solver="highs", gap=1e-2)


def test_means_of_every_condition_are_those_composed(mix: Composition) -> None:
    """A whole number of windows of requests in each condition alone: latency and energy to the last digit."""
    assert len(mix.plans) > 1
    assert any(0 < weight < 1 for each in mix.figures for weight in each.weights)
    for condition, figures in zip(mix.conditions.conditions, mix.figures, strict=True):
        world = World.of_conditions(mix.cluster, [(0.0, condition)])
        window_s = figures.mean_s * mix.window
        record = simulate(mix.workload, world, mix, horizon_s=3.5 * window_s, window_s=window_s)
        steps = record.steps[: 3 * mix.window]
        assert len(steps) == 3 * mix.window
        assert sum(step.latency_s for step in steps) / len(steps) == pytest.approx(figures.mean_s, rel=1e-9)
        assert sum(step.energy_j for step in steps) / len(steps) == pytest.approx(figures.mean_j, rel=1e-9)
        assert all(change.size_bytes == 0 for change in record.changes), "all plans are resident"
        assert record.qoe == mix.qoe


def test_each_condition_goes_on_with_its_own_order(mix: Composition) -> None:
    calm, busy, _ = mix.conditions.conditions
    at_s = 3.3 * mix.in_condition(calm.name).mean_s
    world = World.of_conditions(mix.cluster, [(0.0, calm), (at_s, busy)])
    record = simulate(mix.workload, world, mix, horizon_s=8 * at_s, window_s=at_s)
    for condition, start_s, end_s in ((calm, 0.0, at_s), (busy, at_s, 8 * at_s)):
        order = mix.in_condition(condition.name).order
        ran = [mix.plans.index(step.plan) for step in record.steps if start_s <= step.start_s < end_s]
        assert ran == [order[turn % len(order)] for turn in range(len(ran))]
        assert len(ran) >= 3


def test_other_states_need_an_adapter(mix: Composition) -> None:
    other = Condition(name="other", probability=1.0, domain_rate_factors={"wifi": 0.7})
    world = World.of_conditions(mix.cluster, [(0.0, mix.conditions.conditions[0]), (5.0, other)])
    with pytest.raises(InputError, match=r"another state at 5 s.*Adapter"):
        simulate(mix.workload, world, mix, horizon_s=10.0, window_s=5.0)


def test_a_composition_for_another_workload_is_refused(mix: Composition) -> None:
    work, place, _ = two_ways()
    with pytest.raises(InputError):
        simulate(work, World(place), mix, horizon_s=10.0, window_s=5.0)

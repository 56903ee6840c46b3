"""The world around a plan: what holds when, and what cannot be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from builders import cluster

from dora_nb.domain.conditions import Condition
from dora_nb.errors import InputError
from dora_nb.simulation import Influence, Trace, World


def test_a_world_without_influences_never_changes() -> None:
    world = World(cluster(2))
    assert world.times_s.tolist() == [0.0]
    (state,) = world.states
    assert (state.domain_rates, state.device_speeds, state.present) == ((1.0,), (1.0, 1.0), (True, True))
    assert world.index_at(1e9) == 0
    assert math.isinf(world.known_until_s)


def test_influences_on_one_quantity_are_multiplied() -> None:
    world = (
        World(cluster(2))
        .having("domain rate", "net", Trace.steps([(0, 1.0), (2, 0.5)], end_s=9))
        .with_traffic("net", Trace.steps([(0, 0.0), (1, 0.2)]))
        .having("presence", "b", Trace.steps([(0, 1), (3, 0), (4, 1)]))
    )
    assert world.times_s.tolist() == [0, 1, 2, 3, 4]
    assert [state.domain_rates[0] for state in world.states] == pytest.approx([1, 0.8, 0.4, 0.4, 0.4])
    assert [state.present[1] for state in world.states] == [True, True, True, False, True]
    assert [world.index_at(at) for at in (0, 0.5, 1, 3.9, 4, 100)] == [0, 0, 1, 3, 4, 4]
    assert world.known_until_s == 9


def test_a_bandwidth_trace_is_relative_to_a_nominal_one() -> None:
    trace = Trace.steps([(0, 2e6), (1, 1e6)])
    world = World(cluster(2))
    assert [s.domain_rates[0] for s in world.with_bandwidth("net", trace).states] == [1.0, 0.5]
    assert [s.domain_rates[0] for s in world.with_bandwidth("net", trace, 4e6).states] == [0.5, 0.25]
    with pytest.raises(InputError, match="nominal"):
        world.with_bandwidth("net", Trace.constant(0.0))


def test_conditions_follow_one_another() -> None:
    calm = Condition(name="calm", probability=0.5)
    busy = Condition(
        name="busy",
        probability=0.5,
        domain_rate_factors={"net": 0.4},
        device_rate_factors={"a": 0.5},
        device_speed_factors={"b": 0.3},
        absent_devices=("c",),
    )
    world = World.of_conditions(cluster(3), [(0, calm), (10, busy), (20, calm)])
    first, second, third = world.states
    assert first == third
    assert (second.domain_rates, second.device_rates) == ((0.4,), (0.5, 1, 1))
    assert (second.device_speeds, second.present) == ((1, 0.3, 1), (True, True, False))


@pytest.mark.parametrize(
    ("quantity", "name", "trace", "words"),
    [
        ("domain rate", "nett", Trace.constant(1.0), "did you mean 'net'"),
        ("device speed", "net", Trace.constant(1.0), "a, b"),
        ("weather", "net", Trace.constant(1.0), "presence"),
        ("presence", "a", Trace.constant(0.5), "1 \\(there\\) and 0 \\(away\\)"),
        ("device rate", "a", Trace.constant(0.0), "presence is 0"),
    ],
)
def test_influences_that_cannot_be(quantity: str, name: str, trace: Trace, words: str) -> None:
    with pytest.raises(InputError, match=words) as refused:
        World(cluster(2), (Influence(quantity, name, trace),))  # type: ignore[arg-type]
    assert refused.value.field.startswith("influences[0]")


def test_more_traffic_than_airtime_is_refused() -> None:
    with pytest.raises(InputError, match="0 to 1"):
        World(cluster(2)).with_traffic("net", Trace(np.array([0.0, 1.0]), np.array([0.5, 1.5])))

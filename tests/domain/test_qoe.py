"""Limits, prices and what a plan's predicted figures are worth."""

from __future__ import annotations

import pytest

from dora_nb.domain.coverage import Front
from dora_nb.domain.prediction import Prediction
from dora_nb.domain.qoe import QoE
from dora_nb.domain.rating import qoe_value
from dora_nb.errors import InputError


def figures(**changes: object) -> Prediction:
    """10 s, 4 samples, 100 J (130 J with idle devices); the phone draws 60 J and fills 8 of 10 bytes."""
    fields: dict[str, object] = {
        "makespan_s": 10.0,
        "period_s": 5.0,
        "samples_per_s": 0.4,
        "energy_participating_j": 100.0,
        "energy_all_on_j": 130.0,
        "network_bytes": 0.0,
        "airtime_s": 0.0,
        "devices": (
            {"device": "phone", "busy_s": 3.0, "memory_bytes": 8.0, "usable_memory_bytes": 10.0, "energy_j": 60.0},
        ),
        "idle": ({"device": "hub", "energy_j": 30.0},),
    }
    return Prediction(**(fields | changes))


def test_quantities_are_read_with_their_units() -> None:
    qoe = QoE(
        objective="price",
        joules_per_s="5 J/s",
        latency_s="80 ms",
        latency_price="2 kJ/min",
        samples_per_s="30 samples/min",
        throughput_price="3 J/(samples/s)",
        energy_j="1 Wh",
        energy_price="2 J/J",
        battery_j={"phone": "0.3 kJ"},
        battery_price=4,
        headroom_fraction="10%",
        headroom_price="3 J/GB",
    )
    assert (qoe.joules_per_s, qoe.latency_s, qoe.samples_per_s, qoe.energy_j) == (5.0, 0.08, 0.5, 3600.0)
    assert qoe.latency_price == pytest.approx(2000 / 60)
    assert (qoe.throughput_price, qoe.energy_price, qoe.battery_price) == (3.0, 2.0, 4.0)
    assert qoe.headroom_price == pytest.approx(3e-9)
    assert qoe.battery_j == {"phone": 300.0}
    assert qoe.headroom_fraction == 0.1
    assert QoE(latency_s=1, latency_price="2 ms/s").latency_price == pytest.approx(0.002)


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"latency_s": 1, "latency_price": "5 J/s"}, "latency_price", "unit 'J' is not a unit of time"),
        ({"objective": "energy", "latency_s": 1, "latency_price": "5 s/s"}, "latency_price", "not a unit of energy"),
        ({"energy_j": 1, "energy_price": "5 s/s"}, "energy_price", "unit 's' is not a unit of energy"),
        ({"latency_s": 1, "latency_price": "much"}, "latency_price", "a number in s/s"),
        ({"latency_s": 1, "latency_price": -1}, "latency_price", "0 or more"),
        ({"latency_s": 1, "latency_price": True}, "latency_price", "a number"),
        ({"latency_price": 1}, "latency_price", "next to the limit"),
        ({"battery_price": 1}, "battery_price", "next to the limit"),
        ({"headroom_price": 1}, "headroom_price", "next to the limit"),
        ({"samples_per_s": "5 J"}, "samples_per_s", "samples/s"),
        ({"samples_per_s": 0}, "samples_per_s", "greater than 0"),
        ({"battery_j": {"phone": "5 s"}}, "battery_j.phone", "not a unit of energy"),
        ({"headroom_fraction": 2}, "headroom_fraction", "less than or equal to 1"),
        ({"headroom_fraction": 0.1, "headroom_bytes": 5}, "headroom_bytes", "not both"),
        ({"objective": "price"}, "joules_per_s", "exactly when"),
        ({"joules_per_s": 2}, "joules_per_s", "exactly when"),
        ({"objective": "speed"}, "objective", "latency"),
    ],
)
def test_what_cannot_be_used_is_named(fields: dict[str, object], field: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        QoE(**fields)
    assert caught.value.field == field
    assert words in str(caught.value)


def test_the_value_by_hand() -> None:
    assert qoe_value(figures(), QoE()).value == 10
    assert qoe_value(figures(), QoE(objective="energy")).value == 100
    assert qoe_value(figures(), QoE(objective="energy", energy_accounting="all-on")).value == 130
    assert qoe_value(figures(), QoE(objective="price", joules_per_s=3)).value == 100 + 3 * 10


@pytest.mark.parametrize(
    ("fields", "cost"),
    [
        ({"latency_s": 8, "latency_price": 3}, 2 * 3),
        ({"latency_s": 12, "latency_price": 3}, 0),
        ({"samples_per_s": 0.5, "throughput_price": 7}, 0.1 * 7),
        ({"samples_per_s": 0.3, "throughput_price": 7}, 0),
        ({"energy_j": 90, "energy_price": 2}, 10 * 2),
        ({"battery_j": {"phone": 50, "hub": 20}, "battery_price": 2}, 10 * 2),
        ({"battery_j": {"phone": 50, "hub": 20}, "battery_price": 2, "energy_accounting": "all-on"}, 10 * 2 + 10 * 2),
        ({"headroom_fraction": 0.5, "headroom_price": 4}, 3 * 4),
        ({"headroom_bytes": 4, "headroom_price": 4}, 2 * 4),
        ({"headroom_bytes": 1, "headroom_price": 4}, 0),
    ],
)
def test_what_going_beyond_a_soft_limit_costs(fields: dict[str, object], cost: float) -> None:
    rating = qoe_value(figures(), QoE(**fields))
    assert rating.value == pytest.approx(10 + cost)
    assert rating.keeps_hard
    assert bool(rating.broken) == (cost > 0)
    hard = qoe_value(figures(), QoE(**{name: each for name, each in fields.items() if not name.endswith("_price")}))
    assert hard.value == 10
    assert hard.keeps_hard == (cost == 0)


def test_a_limit_equal_to_what_is_reached_is_kept() -> None:
    everything = {"latency_s": 10, "samples_per_s": 0.4, "energy_j": 100, "battery_j": {"phone": 60}}
    rating = qoe_value(figures(), QoE(**everything, headroom_bytes=2))
    assert rating.keeps_hard
    assert [limit.term for limit in rating.limits] == ["latency", "throughput", "energy", "battery", "headroom"]


# ------------------------------------------------------------------------------------------ coverage

#: No plan faster than 10 s; up to 12 s none below 100 J, up to 20 s none below 60 J, slower ones none below 50 J.
STEPS = Front((10.0, 12.0, 20.0, float("inf")), (100.0, 60.0, 50.0))


def test_what_plans_cover_by_hand() -> None:
    assert STEPS.delta([(10.0, 100.0), (12.0, 60.0), (20.0, 50.0)]) == 0
    # The step up to 20 s: 12 s against 60 J is best covered by the plan of 66 J.
    assert STEPS.delta([(10.0, 100.0), (12.0, 66.0), (20.0, 50.0)]) == pytest.approx(0.1)
    # Alone, the slowest plan takes twice the time of the fastest there may be.
    assert STEPS.delta([(20.0, 50.0)]) == pytest.approx(1.0)
    assert STEPS.delta([]) == float("inf")


def test_steps_without_plans_need_no_cover() -> None:
    assert Front((5.0, 9.0, float("inf")), (float("inf"), 10.0)).delta([(9.0, 10.0)]) == 0


def test_the_plans_chosen_cover_the_most() -> None:
    plans = [(10.0, 100.0), (11.0, 90.0), (13.0, 70.0), (20.0, 50.0)]
    assert STEPS.choose(plans, [0], 2) == [0, 2]
    assert STEPS.choose(plans, [0, 3], 3) == [0, 3, 2]
    assert STEPS.choose(plans, [1], 1) == [1]
    best = min(STEPS.delta([plans[i], plans[j]]) for i in range(len(plans)) for j in range(len(plans)))
    assert STEPS.delta([plans[i] for i in STEPS.choose(plans, [], 2)]) == pytest.approx(best)

"""What measurements say about the present: robust against outliers, quick to notice a change."""

from __future__ import annotations

import random

import pytest
from builders import cluster, pipeline

from dora_nb.adaptation.estimate import Channel, Estimator
from dora_nb.domain.controller import StepReport


def report(end_s: float, **slowness: float) -> StepReport:
    """A step in which channels took so many times what was expected."""
    return StepReport(
        pipeline((0, 1, {"a": 1})),
        0,
        0,
        end_s,
        None,
        0,
        dict.fromkeys(slowness, 2.0),
        {n: 2 * s for n, s in slowness.items()},
    )


def test_an_outlier_changes_nothing() -> None:
    channel = Channel()
    said = [channel.measure(value, at) for at, value in enumerate([1, 1.02, 0.98, 9, 1, 1, 0.2, 1])]
    assert not any(said)
    assert channel.slowness == pytest.approx(1.0, abs=0.02)


def test_outliers_on_both_sides_are_no_change() -> None:
    channel = Channel()
    assert not any(channel.measure(value, at) for at, value in enumerate([1, 3, 0.3, 3, 0.3, 3]))
    assert channel.slowness == 1


def test_two_in_a_row_are_a_change() -> None:
    channel = Channel()
    assert [channel.measure(value, at) for at, value in enumerate([1, 1, 2, 2.1, 2, 2])] == [False] * 3 + [True] + [
        False
    ] * 2
    assert channel.slowness == pytest.approx(2.0, rel=0.03)
    assert [channel.measure(value, 9) for value in (1, 1)] == [False, True]
    assert channel.slowness == 1


def test_noise_is_averaged_out() -> None:
    dice, channel = random.Random(3), Channel()
    for at in range(100):
        channel.measure(1.5 * dice.uniform(0.95, 1.05), at)
    assert channel.slowness == pytest.approx(1.5, rel=0.03)


def test_what_was_not_measured_for_long_is_forgotten() -> None:
    estimator = Estimator(cluster(2), forget_s=10)
    for at in (1, 2):
        estimator.observe(report(at, b=3.0, net=1.0))
    assert estimator.forget(12) == []
    assert estimator.forget(12.1) == ["b"]
    assert estimator.slowness() == {}


def test_estimates_become_a_condition() -> None:
    estimator = Estimator(cluster(3))
    assert estimator.observe(report(1, a=2.0, net=4.0)) == []
    assert estimator.observe(report(2, a=2.0, net=4.0)) == ["a", "net"]
    found = estimator.condition(["c"])
    assert found.absent_devices == ("c",)
    assert found.device_speed_factors["a"] == pytest.approx(0.5, rel=0.03)
    assert found.domain_rate_factors["net"] == pytest.approx(0.25, rel=0.03)
    assert "a" not in estimator.condition(["a"]).device_speed_factors


def test_small_differences_make_no_new_condition() -> None:
    found = []
    for slowness in (1.98, 2.0, 2.02):
        estimator = Estimator(cluster(2))
        for at in (1, 2):
            estimator.observe(report(at, a=slowness))
        found.append(estimator.condition())
    assert found[0] == found[1] == found[2]

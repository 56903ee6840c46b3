"""What one question proves for others."""

from __future__ import annotations

import math

import pytest

from dora_nb.planning.proven import Proven


def test_nothing_is_known_at_first() -> None:
    assert Proven().least_makespan_s(5.0) == 0
    assert Proven().least_energy_j(5.0) == 0


def test_a_bound_holds_for_every_tighter_limit() -> None:
    known = Proven()
    known.no_faster(10.0)
    known.no_faster(12.0, energy_limit_j=100.0)
    assert known.least_makespan_s() == 10
    assert known.least_makespan_s(101.0) == 10
    assert known.least_makespan_s(100.0) == 12
    assert known.least_makespan_s(50.0) == 12


def test_a_bound_on_one_figure_is_one_on_the_other() -> None:
    known = Proven()
    known.no_faster(12.0, energy_limit_j=100.0)
    assert known.least_energy_j(11.9) == 100
    assert known.least_energy_j(12.0) == 0  # a plan that takes 12 s may take less
    known.no_thriftier(80.0, makespan_limit_s=20.0)
    assert known.least_energy_j(20.0 * (1 - 1e-6)) == pytest.approx(80)
    assert known.least_makespan_s(79.0) == 20
    assert known.least_makespan_s(81.0) == 12


def test_a_limit_that_nothing_keeps() -> None:
    known = Proven()
    known.no_faster(math.inf, energy_limit_j=50.0)
    assert known.least_makespan_s(50.0) == math.inf
    assert known.least_energy_j() == 50


def test_corners_within_others_are_forgotten() -> None:
    known = Proven()
    for makespan_s in (5.0, 7.0, 6.0):
        known.no_faster(makespan_s, 100.0)
    known.no_faster(6.0, 90.0)
    assert known.corners == [(7.0, 100.0)]


def test_what_holds_where_everything_takes_half_as_long() -> None:
    known = Proven()
    known.no_faster(10.0, 100.0)
    there = Proven()
    there.include(known.scaled(0.5))
    assert there.least_makespan_s(50.0) == 5
    assert there.least_makespan_s(51.0) == 0

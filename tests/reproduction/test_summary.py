"""Gains by hand: which baselines compare, which is strongest, and what the ranges come to."""

from __future__ import annotations

from typing import Any

import pytest
from cells import cell

from dora_nb.reproduction import OURS, Cell, gain, ranges, rivals, strongest
from dora_nb.reproduction.summary import NOTHING, headlines


def energy(planner: str = OURS, value: float | None = 1.0, kept: float = 1.0, **changes: Any) -> Cell:
    """The same about energy."""
    return cell(planner, value, kept, objective="energy", **changes)


def test_a_gain_in_speed_is_a_ratio_and_one_in_energy_a_share() -> None:
    assert gain(cell(value=2.0), cell("a", 3.0)) == 1.5
    assert gain(cell(value=2.0), cell("a", 1.0)) == 0.5
    assert gain(energy(value=3.0), energy("a", 4.0)) == 0.25
    assert gain(energy(value=5.0), energy("a", 4.0)) == -0.25


@pytest.mark.parametrize("make", [cell, energy])
def test_where_somebody_has_no_figure_there_is_no_gain(make: Any) -> None:
    assert gain(make(), None) is None
    assert gain(make(), make("a", None, 0.0)) is None
    assert gain(make(value=None), make("a")) is None
    assert not make("a", None).comparable(make())


def test_less_energy_counts_only_with_as_much_qoe_and_speed_always() -> None:
    assert not energy("a", 0.1, 0.4).comparable(energy(kept=0.5))
    assert energy("a", 0.1, 0.5).comparable(energy(kept=0.5))
    assert energy("a", 0.1, 0.9).comparable(energy(kept=0.5))
    assert energy("a", 0.1, 0.5 - 1e-12).comparable(energy(kept=0.5)), "rounding is no difference"
    assert cell("a", 0.1, 0.0).comparable(cell(kept=0.5))
    assert gain(energy(kept=0.5), energy("a", 0.1, 0.4)) is None


def test_the_strongest_is_the_best_of_those_that_compare() -> None:
    slow, fast, absent = cell("slow", 3.0), cell("fast", 2.0, 0.0), cell("absent", None, 0.0)
    assert strongest(cell(), [slow, absent, fast]) is fast
    hungry, broken, kept = energy("hungry", 9.0), energy("broken", 1.0, 0.2), energy("kept", 4.0, 0.8)
    assert strongest(energy(kept=0.8), [hungry, broken, kept]) is hungry, "more QoE goes before less energy"
    assert strongest(energy(kept=0.8), [broken, kept, energy("more", 5.0, 0.8)]) is kept
    assert strongest(energy(kept=1.0), [broken, kept]) is None
    assert strongest(energy(), []) is None


def test_not_worse_puts_qoe_before_energy_and_allows_what_a_gap_explains() -> None:
    assert cell(value=1.001).not_worse(cell("a", 1.0), 1e-3)
    assert not cell(value=1.01).not_worse(cell("a", 1.0), 1e-3)
    assert energy(value=9.0, kept=0.9).not_worse(energy("a", 1.0, 0.8), 0.0)
    assert not energy(value=1.0, kept=0.8).not_worse(energy("a", 9.0, 0.9), 0.0)
    assert not energy(value=2.0).not_worse(energy("a", 1.0), 0.1)
    assert cell(value=2.0, kept=0.0).not_worse(cell("a", 2.0, 1.0), 0.0), "about speed the QoE is not asked for"
    assert cell().not_worse(cell("a", None, 0.0), 0.0)
    assert cell(value=None).not_worse(cell("a", None), 0.0)
    assert not cell(value=None).not_worse(cell("a", 1.0), 0.0)


def test_rivals_answer_the_same_question() -> None:
    ours, theirs = cell(), cell("a", 2.0)
    fair = cell("a", 2.5, transfers="fair-shared")
    elsewhere = [
        cell("a", 2.0, deployment="shop"),
        cell("a", 2.0, model="other"),
        cell("a", 2.0, mode="inference"),
        cell("a", 2.0, dynamic=True),
        energy("a", 2.0),
        cell("a", 2.0, energy_accounting="all-on"),
    ]
    assert rivals([theirs, ours, *elsewhere, fair]) == [(ours, [theirs, fair])]
    assert theirs.by == "a, list-scheduled"


def test_ranges_by_hand() -> None:
    """Over ``a``: 2, 1 and 0.5 times as fast; over the strongest: 1.5, 1 and 0.5; ``b`` lacks the third."""
    cells = [
        *(cell(value=2.0, model="x"), cell("a", 4.0, 0.5, model="x"), cell("b", 3.0, 0.9, model="x")),
        *(cell(value=2.0, model="y"), cell("a", 2.0, model="y"), cell("b", 6.0, model="y")),
        *(cell(value=2.0, model="z", kept=0.7), cell("a", 1.0, model="z"), cell("b", None, 0.0, model="z")),
    ]
    (found,) = ranges(cells)
    assert (found.objective, found.dynamic, found.energy_accounting) == ("latency", False, "participating")
    assert (found.strongest.lowest, found.strongest.median, found.strongest.highest) == (0.5, 1.0, 1.5)
    counts = ("cells", "nothing", "worse", "unmatched")
    assert tuple(getattr(found.strongest, name) for name in counts) == (3, 1, 1, 0)
    a, b = found.each
    assert (a.over, a.lowest, a.median, a.highest) == ("a, list-scheduled", 0.5, 1.0, 2.0)
    assert (b.over, b.lowest, b.median, b.highest) == ("b, list-scheduled", 1.5, 2.25, 3.0)
    assert tuple(getattr(b, name) for name in counts) == (2, 0, 0, 1)
    assert found.qoe_kept == pytest.approx(0.9)
    assert found.qoe_kept_strongest == pytest.approx((0.9 + 1.0 + 1.0) / 3)


def test_ranges_tell_kinds_apart_and_have_no_figures_without_cells() -> None:
    cells = [energy(kept=0.9), energy("a", 2.0, 0.1), energy(dynamic=True), energy("a", 2.0, dynamic=True)]
    still, moving = ranges(cells)
    assert (still.dynamic, moving.dynamic) == (False, True)
    assert (still.strongest.lowest, still.strongest.median, still.strongest.highest) == (None, None, None)
    assert (still.strongest.cells, still.strongest.unmatched) == (0, 1)
    assert moving.strongest.median == 0.5


def test_headlines_put_our_answer_beside_the_baselines() -> None:
    ours = energy(value=3.0, kept=0.8)
    (row,) = headlines([ours, energy("a", 4.0, 0.9), energy("b", 2.0, 0.5), energy("c", None, 0.0)])
    assert row.setting == ("home", "net", "training")
    assert (row.dynamic, row.objective, row.energy_accounting) == (False, "energy", "participating")
    assert (row.value, row.qoe_kept, row.verdict, row.most_kept, row.keeps_less) == (3.0, 0.8, "worse", 0.9, True)
    assert row.strongest is not None
    assert (row.strongest.planner, row.strongest.value, row.strongest.qoe_kept) == ("a", 4.0, 0.9)
    assert row.gain is row.strongest.gain is None, "a gain in energy for less QoE is none"
    assert [each.gain for each in row.others] == [None, None, None]
    assert [each.apparent for each in row.others] == [0.25, -0.5, None]


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        (cell(value=1.0), cell("a", 1.0 + 2 * NOTHING), "gain"),
        (cell(value=1.0), cell("a", 1.0 + NOTHING / 2), "nothing"),
        (cell(value=1.0), cell("a", 1.0 - NOTHING / 2), "nothing"),
        (cell(value=1.0), cell("a", 0.9), "worse"),
        (energy(value=1.0), energy("a", 2.0), "gain"),
        (energy(value=1.0), energy("a", 1.0), "nothing"),
        (energy(value=2.0), energy("a", 1.0), "worse"),
        (energy(value=1.0), energy("a", 2.0, 0.9), "unmatched"),
        (energy(value=1.0), energy("a", None, 0.0), "unmatched"),
        (cell(value=None, kept=0.0), cell("a", 1.0), "missing"),
    ],
)
def test_verdicts(ours: Cell, theirs: Cell, verdict: str) -> None:
    (row,) = headlines([ours, theirs])
    assert row.verdict == verdict

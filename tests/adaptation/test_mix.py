"""The small program by basic solutions, against the same program on HiGHS."""

from __future__ import annotations

import linopy
import numpy as np
import pytest
from builders import Dice, examples, seeded
from hypothesis import given, settings

from dora_nb.adaptation.mix import cheapest_mix
from dora_nb.solvers import Options, solve

Case = tuple[np.ndarray, list[np.ndarray], list[float]]


def random_case(dice: Dice) -> Case:
    plans, limits = dice.number(1, 6), dice.number(0, 2)
    figures = [np.array([float(dice.number(1, 20)) for _ in range(plans)]) for _ in range(limits)]
    bounds = [float(dice.number(1, 22)) if dice.number(0, 5) else np.inf for _ in range(limits)]
    return np.array([float(dice.number(0, 20)) for _ in range(plans)]), figures, bounds


def by_solver(case: Case) -> tuple[float, float]:
    """The least relative excess over the limits, and the least cost with it."""
    cost, figures, limits = case
    bounded = [(each / limit) for each, limit in zip(figures, limits, strict=True) if np.isfinite(limit)]

    def model(most: float | None) -> linopy.Model:
        program = linopy.Model()
        share = program.add_variables(lower=0, coords=[range(len(cost))], name="share")
        over = program.add_variables(lower=0, name="over")
        program.add_constraints(share.sum() == 1)
        for each in bounded:
            program.add_constraints((each * share).sum() - over <= 1)
        if most is not None:
            program.add_constraints(over <= most)
        program.add_objective(over if most is None else (cost * share).sum() + 0 * over)
        return program

    over = solve(model(None), Options(), solver="highs").objective
    assert over is not None
    best = solve(model(over + 1e-9), Options(), solver="highs").objective
    assert best is not None
    return over, best


@settings(max_examples=examples(12), deadline=None)
@given(seeded(random_case))
def test_the_mix_is_the_optimum_of_the_linear_program(case: Case) -> None:
    cost, figures, limits = case
    shares = cheapest_mix(cost, figures, limits)
    assert shares.sum() == pytest.approx(1)
    assert (shares >= 0).all()
    excess = [float(shares @ each) / limit - 1 for each, limit in zip(figures, limits, strict=True)]
    over, best = by_solver(case)
    assert max([*excess, 0.0]) == pytest.approx(over, abs=1e-6)
    assert float(cost @ shares) == pytest.approx(best, abs=1e-5)


def test_by_hand() -> None:
    """Fast takes 2 s and 10 J, slow 6 s and 2 J: within 4 s half and half; within 1 s only fast comes near."""
    cost, latency_s = np.array([10.0, 2.0]), np.array([2.0, 6.0])
    assert cheapest_mix(cost, [latency_s], [4.0]) == pytest.approx([0.5, 0.5])
    assert cheapest_mix(cost, [latency_s], [np.inf]) == pytest.approx([0, 1])
    assert cheapest_mix(cost, [latency_s], [1.0]) == pytest.approx([1, 0])
    assert cheapest_mix(latency_s, [cost], [6.0]) == pytest.approx([0.5, 0.5])

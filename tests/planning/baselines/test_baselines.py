"""What holds for every baseline: its plans fit, are what the cost model says, and no better than our own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from builders import Dice, default_space, random_question

from dora_nb.costs import evaluate
from dora_nb.domain.fits import check_fits
from dora_nb.domain.plan import Plan
from dora_nb.domain.qoe import QoE
from dora_nb.errors import InfeasibleError
from dora_nb.formulation.problem import Problem
from dora_nb.planning.baselines import BASELINES, best_of
from dora_nb.planning.plan import plan
from dora_nb.planning.scheduling import fits_memory

KINDS = ("shared", "switch", "cell", "links", "mixed")

each_baseline = pytest.mark.parametrize("baseline", BASELINES.values(), ids=BASELINES)


@each_baseline
@pytest.mark.parametrize("mode", ["training", "inference", "stream", "generate"])
def test_every_plan_fits_and_is_evaluated(mode: str, baseline: Callable[[Problem], list[Plan]]) -> None:
    """On all kinds of networks; sometimes memory is scarce, and stages may not compute while they send."""
    made = 0
    for seed in range(8):
        dice = Dice(seed)
        work, place = random_question(
            dice, layers=(2, 5), batches=(1, 2, 4, 6), device_count=(2, 4), kinds=KINDS, modes=(mode,)
        )
        if seed % 2:
            scarce = (each.replace(memory_bytes=float(dice.pick((1e7, 3e7, 1e8)))) for each in place.devices)
            place = place.replace(devices=tuple(scarce))
        problem = Problem.of(work, place, "participating", overlap=mode == "stream" or seed % 4 > 0)
        plans = baseline(problem)
        made += len(plans)
        assert len({each.decisions() for each in plans}) == len(plans) or baseline is BASELINES["in sequence"]
        for each in plans:
            assert each.label
            check_fits(each, work, place)
            assert fits_memory(each)
            assert evaluate(each, work, place).prediction == each.prediction
    assert made or mode == "stream"


@pytest.mark.parametrize("seed", range(12))
def test_our_own_plans_are_no_worse(seed: int) -> None:
    """In a space that holds all of theirs, apart from chunks, in which they do not travel."""
    work, place = random_question(Dice(seed), layers=(2, 4), batches=(2, 4), device_count=(2, 3))
    space = default_space(work, place, depths=(1, 2))
    problem = Problem.of(work, place, "participating", space=space)
    try:
        best = plan(work, place, QoE(), space=space, most_plans=1, gap=1e-4, solver="highs").best
    except InfeasibleError:
        assert not any(baseline(problem) for baseline in BASELINES.values())
        return
    assert best.prediction is not None
    for name, baseline in BASELINES.items():
        theirs = best_of(baseline(problem), QoE())
        if theirs is not None:
            assert theirs.prediction is not None
            assert best.prediction.makespan_s <= theirs.prediction.makespan_s * (1 + 1e-4), name


def test_names_are_labels() -> None:
    """The plans of a baseline carry its name, apart from those that say how they were made."""
    work, place = random_question(Dice(3), layers=(4, 4), batches=(4,), device_count=(3, 3), modes=("training",))
    problem = Problem.of(work, place, "participating")
    for name, baseline in BASELINES.items():
        labels = {each.label for each in baseline(problem)}
        assert labels == {"partition, then schedule" if name == "in sequence" else name}

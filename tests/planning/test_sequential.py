"""The baseline that decides in sequence: its closed form by hand, and never better than deciding jointly."""

from __future__ import annotations

import pytest
from builders import Dice, cluster, default_space, device, layer, random_question, workload

from dora_nb.domain.qoe import QoE
from dora_nb.errors import InfeasibleError
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.baselines.sequential import sequential
from dora_nb.planning.plan import plan


def test_the_closed_form_by_hand() -> None:
    """Two equal devices, two equal layers, four micro-batches, transfers of 0.25 MB at 1 TB/s: no time to speak of."""
    work, place = workload(2, batch=4), cluster(2, 1e12)
    found = sequential(Problem.of(work, place, "participating", space=SearchSpace((1,), 1, (1,))))
    assert found is not None
    # A micro-batch takes 1 s forward and 2 s backward a layer: fill 6 s, then three times the largest load of 3 s.
    assert found.formula_s == pytest.approx(15.0, rel=1e-4)
    assert [len(each.stages) for each in found.plans] == [2]
    assert found.plans[0].prediction.makespan_s == pytest.approx(15.0, rel=1e-4)


def test_nothing_that_fits_in_memory_is_no_plan() -> None:
    tiny = cluster([device(name, memory_bytes=10.0) for name in "ab"])
    assert sequential(Problem.of(workload([layer("a", parameters=100)]), tiny, "participating")) is None


@pytest.mark.parametrize("seed", range(25))
def test_deciding_jointly_is_never_worse(seed: int) -> None:
    question = random_question(Dice(seed), layers=(2, 4), batches=(2, 4), device_count=(2, 3))
    space = default_space(*question)
    found = sequential(Problem.of(*question, "participating", space=space), solver="highs")
    try:
        best = plan(*question, QoE(), space=space, most_plans=1, gap=1e-4, solver="highs").best
    except InfeasibleError:
        assert found is None
        return
    if found is not None:
        values_s = [each.prediction.makespan_s for each in found.plans]
        assert best.prediction.makespan_s <= min(values_s) * (1 + 1e-4)

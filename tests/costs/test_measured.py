"""Tables of compute times from profiles: between, below and beyond the numbers of samples that were measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builders import cluster, device, workload
from runs import made_up_run

from dora_nb.costs.measured import measured_table, run_table
from dora_nb.costs.table import cost_table
from dora_nb.domain.profile import LayerProfile, Profile
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError


def profile(work: Workload, forward_s: dict[int, float]) -> Profile:
    backward_s = {samples: 2 * seconds for samples, seconds in forward_s.items()} if work.trains else {}
    layer = LayerProfile(forward_s=forward_s, backward_s=backward_s, step_s=0.25 if work.trains else 0.0)
    return Profile(workload=work, layers=(layer,) * len(work.layers))


def test_times_between_below_and_beyond_by_hand() -> None:
    """Measured at 2 and 4 samples: 3 is half way, 1 half of 2, 6 is 6/4 of 4."""
    work, place = workload(2, batch=6), cluster(2)
    profiles = {"a": profile(work, {2: 1.0, 4: 1.6}), "b": profile(work, {6: 3.0})}
    table = measured_table(work, place, profiles)
    assert table.status == "measured"
    assert table.forward_s[0, 0] == pytest.approx([0.0, 0.5, 1.0, 1.3, 1.6, 2.0, 2.4])
    assert table.forward_s[1, 1] == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
    assert table.backward_s == pytest.approx(2 * table.forward_s)
    assert (table.step_s == 0.25).all()


def test_without_training_nothing_goes_back() -> None:
    work, place = workload(2, mode="inference", batch=2), cluster([device("a")])
    table = measured_table(work, place, {"a": profile(work, {1: 1.0})})
    assert table.forward_s[0, 0] == pytest.approx([0.0, 1.0, 2.0])
    assert not table.backward_s.any()
    assert not table.step_s.any()


@pytest.mark.parametrize(
    ("names", "fields", "words"),
    [
        ("abz", {}, "profiles: got 'z'; allowed: a, b"),
        ("a", {}, r"profiles: got \['a'\]; allowed: one for every device; none is given for b"),
        ("ab", {"mode": "inference"}, "profiles.a: got 'tiny'; allowed: a profile of the same layers in the same mode"),
        ("ab", {"layers": 3}, "profiles.a: got 'tiny'; allowed: a profile of the same layers in the same mode"),
    ],
)
def test_profiles_of_something_else_are_refused(names: str, fields: dict[str, Any], words: str) -> None:
    known = profile(workload(2), {1: 1.0})
    with pytest.raises(InputError, match=words):
        measured_table(workload(**({"layers": 2} | fields)), cluster(2), dict.fromkeys(names, known))


def test_a_run_says_nothing_of_weights_that_it_did_not_hold_and_of_other_sizes() -> None:
    run = made_up_run(dict.fromkeys("abc", 1.0))
    stages = (run.plan.stages[0].replace(weights="int8"), *run.plan.stages[1:])
    with pytest.raises(InputError, match=r"record.plan.stages.weights: got 'int8'"):
        run_table(run.model_copy(update={"plan": run.plan.model_copy(update={"stages": stages})}))
    smaller = cost_table(run.workload.replace(batch=4), run.cluster)
    with pytest.raises(InputError, match=r"base: got \(4, 3, 5\); allowed: layers, devices and samples .*\(4, 3, 9\)"):
        run_table(run, base=smaller)
    assert np.isfinite(run_table(run).forward_s).all()

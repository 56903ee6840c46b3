"""The dynamic programme over unlike devices against every chain there is."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from builders import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from dora_nb.planning.baselines.chain import Chain, Costs, least_bottleneck, least_pass


def random_costs(seed: int) -> Costs:
    """Up to four layers on up to four devices of up to three types; some stages do not fit."""
    dice = np.random.default_rng(seed)
    layers, available = int(dice.integers(1, 5)), tuple(dice.integers(1, 3, int(dice.integers(1, 4))).tolist())
    available, types = available[:2] + tuple(min(each, 1) for each in available[2:]), len(available)
    stage_s = dice.integers(1, 9, (min(layers, sum(available)), types, layers, layers + 1)).astype(float)
    stage_s[dice.random(stage_s.shape) < 0.2] = np.inf
    stage_s[..., np.tril(np.ones((layers, layers + 1), dtype=bool))] = np.inf
    transfer_s = dice.integers(0, 9, (layers + 1, types, types)).astype(float)
    enter_s, leave_s = dice.integers(0, 9, (2, types)).astype(float)
    return Costs(stage_s, transfer_s, enter_s, leave_s, available, int(dice.integers(0, min(layers, 2))))


def every_chain(costs: Costs) -> Iterator[tuple[Chain, list[float]]]:
    """All chains, each with what its stages and transfers take one by one."""
    layers = costs.stage_s.shape[2]
    devices = [kind for kind, count in enumerate(costs.available) for _ in range(count)]
    for count in range(1, len(costs.stage_s) + 1):
        for inner in itertools.combinations(range(costs.start + 1, layers), count - 1):
            cuts = (costs.start, *inner, layers)
            for types in set(itertools.permutations(devices, count)):
                parts = [float(costs.enter_s[types[0]]), float(costs.leave_s[types[-1]])]
                for place, kind in enumerate(types):
                    parts.append(float(costs.stage_s[count - 1 - place, kind, cuts[place], cuts[place + 1]]))
                    if place + 1 < count:
                        parts.append(float(costs.transfer_s[cuts[place + 1], kind, types[place + 1]]))
                yield Chain(0.0, cuts, types), parts


@settings(max_examples=examples(25))
@given(st.integers(0, 2**32 - 1), st.sampled_from([(least_pass, sum), (least_bottleneck, max)]))
def test_no_chain_is_better(seed: int, rule: tuple[Callable, Callable]) -> None:
    costs, (best_chain, value) = random_costs(seed), rule
    found, every = best_chain(costs), list(every_chain(costs))
    least = min((value(parts) for _, parts in every), default=np.inf)
    if not np.isfinite(least):
        assert found is None
        return
    assert found is not None
    assert found.value_s == pytest.approx(least)
    (own,) = [parts for chain, parts in every if chain == found._replace(value_s=0.0)]
    assert value(own) == pytest.approx(least)
    assert sum(own) == pytest.approx(min(sum(parts) for _, parts in every if value(parts) == least))
    assert costs.allow(found)


def test_what_a_device_cannot_run_is_not_allowed() -> None:
    stage_s = np.ones((2, 1, 2, 3))
    stage_s[1, 0, 0, 1] = np.inf
    costs = Costs(stage_s, np.zeros((3, 1, 1)), np.zeros(1), np.zeros(1), (2,))
    assert costs.allow(Chain(0.0, (0, 2), (0,)))
    assert not costs.allow(Chain(0.0, (0, 1, 2), (0, 0)))

"""The arrays that baselines plan on equal the cost model, looked at one stage at a time."""

from __future__ import annotations

import numpy as np
import pytest
from builders import Dice, cluster, device, layer, random_question, workload

from dora_nb.costs.memory import MemoryModel
from dora_nb.formulation.problem import Problem
from dora_nb.planning.baselines.ranges import Links, Ranges, fastest_first


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("seed", range(6))
def test_figures_of_every_stage(seed: int, start: int) -> None:
    work, place = random_question(Dice(seed), layers=(3, 5), batches=(4,), modes=("training",), tied=True)
    problem = Problem.of(work, place, "participating")
    ranges, table, memory = Ranges(problem, start), problem.table, MemoryModel(work)
    layers = len(work.layers)
    usable = [(i, j) for i in range(start, layers) for j in range(i + 1, layers + 1)]
    if start == 1:
        usable.remove((1, layers))  # nothing would be left between the hosted layer and the rest
    assert sorted(zip(ranges.first, ranges.stop, strict=True)) == usable
    for at, (first, stop) in enumerate(zip(ranges.first.tolist(), ranges.stop.tolist(), strict=True)):
        assert ranges.place(first, stop) == at
        hosts = start == 1 and stop == layers
        run = [*range(first, stop), *([0] if hosts else [])]
        assert ranges.forward_s(1, 3)[at] == pytest.approx(sum(table.forward_s[each, 1, 3] for each in run))
        assert ranges.backward_s(1, 3)[at] == pytest.approx(sum(table.backward_s[each, 1, 3] for each in run))
        held = memory.replica_bytes(
            first, stop, samples=2, in_flight=2, micro_batches=2, replicated=True, hosts_first_layer=hosts
        )
        assert ranges.replica_bytes(2, 2, 2, replicated=True)[at] == pytest.approx(float(held))
        summed = memory.gradient_parameters(first, stop, hosts) * work.bytes_per_element
        assert ranges.gradient_bytes[at] == pytest.approx(float(summed))
        assert ranges.table(ranges.forward_s(0, 1))[first, stop] == ranges.forward_s(0, 1)[at]
    assert np.isinf(ranges.table(ranges.forward_s(0, 1))).sum() == layers * (layers + 1) - len(usable)


@pytest.mark.parametrize("seed", range(6))
def test_most_samples_fit_and_one_more_does_not(seed: int) -> None:
    dice = Dice(seed)
    work, place = random_question(dice, layers=(2, 4), batches=(8,), tied=False)
    rooms = [each.replace(memory_bytes=float(dice.number(1, 30)) * 1e6) for each in place.devices]
    ranges = Ranges(Problem.of(work, place.replace(devices=tuple(rooms)), "participating"))
    for each in range(len(rooms)):
        most = ranges.most_samples(each, 4, 2, replicated=True)
        for at, count in enumerate(most.tolist()):
            held = [ranges.replica_bytes(samples, 2, 2, replicated=True)[at] for samples in (count, count + 1)]
            assert count == 0 or held[0] <= ranges.usable_bytes(each)
            assert count == 4 or held[1] > ranges.usable_bytes(each)


def test_links_by_hand() -> None:
    """On one medium a byte makes both hops one after the other; through a switch at the same time."""
    for kind, seconds in (("shared", 1 / 2e6 + 1 / 1e6), ("switch", 1 / 1e6)):
        links = Links.of(Problem.of(workload(2), cluster(2, [2e6, 1e6], kind, latency_s=0.01), "participating"))
        assert links.byte_s.tolist() == [[0, pytest.approx(seconds)], [pytest.approx(seconds), 0]]
        assert links.seconds(3e6, (0, 1)) == pytest.approx(3e6 * seconds + 0.01)
        assert links.seconds(3e6, (0, 0)) == 0
        assert links.seconds(0.0, (0, 1)) == 0


def test_the_fastest_device_depends_on_the_layers() -> None:
    """a does dense layers four times as fast as b, and convolutions at half its speed."""
    members = [
        device("a", {"matmul": {"fp32": 4e9}, "conv": {"fp32": 1e9}}),
        device("b", {"matmul": {"fp32": 1e9}, "conv": {"fp32": 2e9}}),
    ]
    for dense, order in ((1, [1, 0]), (3, [0, 1])):
        chain = [layer(f"d{index}") for index in range(dense)]
        chain += [layer(f"c{index}", operator="conv") for index in range(2)]
        assert fastest_first(Problem.of(workload(chain), cluster(members), "participating"), 2) == order

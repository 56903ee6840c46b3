"""Programs carried out by threads of one process, so that parts can be left out and measured."""

from __future__ import annotations

import contextlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dora_nb.executor.device.instructions import AllReduce, TiedSum, compile_plan
from dora_nb.executor.device.replica import Replica
from dora_nb.executor.device.sums import all_reduce, tied_sum
from dora_nb.executor.reference import reference_run
from dora_nb.executor.tasks.assemble import random_task
from dora_nb.executor.tasks.scale import scale_down


def at_any_time(transfer):
    return contextlib.nullcontext()


@settings(deadline=None)
@given(st.integers(2, 5), st.integers(1, 12), st.sampled_from(["ring", "star"]), st.integers(0, 4))
def test_all_reduce_gives_everyone_the_sum(lab, count, size, algorithm, leader):
    members = tuple(f"d{index}" for index in range(count))
    instruction = AllReduce(0, members, algorithm, members[leader % count])
    vectors = {member: torch.arange(size, dtype=torch.float64) * 10**index for index, member in enumerate(members)}
    expected = sum(vectors.values())
    office = lab.in_threads(members, lambda me, to: all_reduce(vectors[me], me, instruction, to, at_any_time))
    assert all(torch.equal(each, vectors["d0"]) for each in vectors.values())  # to the bit
    torch.testing.assert_close(vectors["d0"], expected)
    assert office.left_over == 0


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2), st.integers(0, 2))
def test_tied_sum_gives_both_stages_the_same_bits(lab, first, last, first_leader, last_leader):
    stages = [tuple(f"a{index}" for index in range(first)), tuple(f"z{index}" for index in range(last))]
    leaders = [stages[0][first_leader % first], stages[1][last_leader % last]]
    instructions = {
        member: TiedSum(index, stages[index], leaders[index], leaders[1 - index], first=index == 0, last=1)
        for index in (0, 1)
        for member in stages[index]
    }
    generator = torch.Generator().manual_seed(first * 10 + last)
    vectors = {member: torch.randn(7, generator=generator, dtype=torch.float64) for member in instructions}
    expected = sum(vectors.values())
    office = lab.in_threads(
        list(instructions), lambda me, to: tied_sum(vectors[me], me, instructions[me], to, at_any_time)
    )
    assert all(torch.equal(each, vectors["a0"]) for each in vectors.values())
    torch.testing.assert_close(vectors["a0"], expected)
    assert office.left_over == 0


STAGES = [(0, 3, [(0, 3), (1, 1)], 2, ("ring", 0)), (3, 6, [(2, 1), (3, 3)], 1, ("star", 3))]


def largest_gradient_difference(lab, left_out: type) -> float:
    workload, plan = scale_down(
        lab.plan(STAGES, 2, "synchronised"), lab.workload(lab.architectures["tied"], "training", 8)
    )
    programs = compile_plan(plan, trains=True)
    task = random_task(workload, 5)
    replicas = {device: Replica(device, plan, task) for device in plan.devices}

    def work(device, transport):
        program = [each for each in programs[device] if not isinstance(each, left_out)]
        lab.interpreter(replicas[device], transport).run(program, replicas[device].batch(0))

    lab.in_threads(plan.devices, work)
    expected = reference_run(task, plan, 1).gradients
    return max(
        float((parameter.grad - expected[name]).abs().max())
        for replica in replicas.values()
        for name, parameter in replica.named_parameters()
    )


class Nothing:
    pass


def test_gradients_equal_those_of_one_process(lab):
    assert largest_gradient_difference(lab, Nothing) < 1e-14


@pytest.mark.parametrize("left_out", [AllReduce, TiedSum])
def test_a_missing_sum_shows(lab, left_out):
    assert largest_gradient_difference(lab, left_out) > 1e-4


def test_targets_stretch_computing_and_lateness_is_counted(lab):
    workload, plan = scale_down(
        lab.plan([(0, 6, [(0, 2)], 1, None)], 2), lab.workload(lab.architectures["untied"], "training", 4)
    )
    program = compile_plan(plan, trains=True)["d0"]
    targets = {("forward", 0, 0): 0.05, ("backward", 0, 0): 0.0}
    done = []

    def work(device, transport):
        replica = Replica(device, plan, random_task(workload, 0))
        replica.warm_up()
        done.append(lab.interpreter(replica, transport, targets).run(program, replica.batch(0)))

    lab.in_threads(["d0"], work)
    events = done[0].events
    assert len(events) == len(program)
    first, second = (event for event in events if event.kind == "forward")
    assert first.end_s - done[0].start_s >= 0.05  # the first one counts from the common start
    assert second.end_s - second.start_s >= 0.05
    assert done[0].late <= 2  # only the backward passes were given no time

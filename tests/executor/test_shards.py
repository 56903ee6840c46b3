"""Plans whose stages slice layers over devices equal one process in float64, whatever stands beside such a stage."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

import pytest
import torch
from builders import sliced
from own_models import live
from torch import nn
from worlds import scheduled

from dora_nb.costs.comparison import compare
from dora_nb.errors import InputError
from dora_nb.executor import execute, profile
from dora_nb.executor.compare import differences
from dora_nb.executor.course import Outputs
from dora_nb.executor.device.saved import read_whole, save
from dora_nb.executor.networks.huggingface import sequential
from dora_nb.executor.reference import reference_run
from dora_nb.executor.tasks.assemble import random_task, task_of
from dora_nb.executor.tasks.scale import executable

STEPS = 5
FORWARD, TRAINED = 1e-12, 1e-10


def drawn(dice: random.Random, lab, name: str, mode: str):
    """A random plan: stages of whole layers, replicated or not, and at least one with shards."""
    spec = lab.architectures[name]
    parts = spec.kv_heads if hasattr(spec, "kv_heads") else spec.heads
    while True:
        cuts = sorted(dice.sample(range(1, 6), dice.randint(0, 2)))
        bounds = [0, *cuts, 6]
        micro_batch, micro_batches = dice.randint(2, 4), dice.randint(1, 3)
        stages, shards, device = [], {}, 0
        in_flight = sorted((dice.randint(1, 3) for _ in bounds[1:]), reverse=True)
        for index, (first, stop) in enumerate(itertools.pairwise(bounds)):
            kind = dice.choice(["one", "replicas", "shards"])
            sliceable = max(first, 1) < min(stop, 5)
            count = 1 if kind == "one" else dice.randint(2, 3 if parts > 2 else 2)
            members = list(range(device, device + count))
            dice.shuffle(members)
            device += count
            choice, samples = None, [micro_batch]
            if kind == "shards" and sliceable:
                borders = [0, *sorted(dice.sample(range(1, parts), count - 1)), parts]
                shares = tuple(b - a for a, b in itertools.pairwise(borders))
                shards[index] = (shares, dice.choice(["ring", "star"]))
                samples = [1] * (count - 1) + [micro_batch - count + 1]
            elif count > 1:
                samples = [1] * (count - 1) + [micro_batch - count + 1]
                choice = (dice.choice(["ring", "star"]), members[0]) if mode == "training" else None
            if min(samples) < 1:
                break
            stages.append((first, stop, list(zip(members, samples, strict=True)), in_flight[index], choice))
        if len(stages) == len(bounds) - 1 and shards and device <= 5:
            plan = lab.plan(stages, micro_batches)
            for index, (shares, algorithm) in shards.items():
                plan = sliced(plan, index, dict(zip(plan.stages[index].devices, shares, strict=True)), algorithm)
            return plan


@dataclass(frozen=True)
class Case:
    network: str
    mode: str
    seed: int
    fields: dict = field(default_factory=dict)


CASES = [
    *(Case("untied", "training", seed) for seed in range(4)),
    *(Case(name, "training", 10) for name in ("norms", "four", "vit")),
    *(Case(name, "inference", 20) for name in ("four", "encoder", "vit")),
    *(Case("four", "generate", seed, {"new_tokens": 5}) for seed in range(30, 33)),
    Case("encoder", "stream", 40, {"requests_per_s": 1.0}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_random_plans_with_shards_equal_one_process(case, lab, tmp_path, architectures):
    plan = executable(drawn(random.Random(case.seed), lab, case.network, case.mode))
    print(plan.stages)
    workload = lab.workload(
        lab.architectures[case.network], case.mode, plan.micro_batch * plan.micro_batches, **case.fields
    )
    check(lab, plan, random_task(workload, 3, requests=2 if workload.mode == "stream" else 1), tmp_path)


def check(lab, plan, task, tmp_path) -> None:
    steps = STEPS if task.trains else 0
    ran = lab.run(task, plan, steps)
    paths = {device: tmp_path / device for device in plan.devices}
    for device, path in paths.items():
        save(ran.replicas[device], "parameters", None, path)
    reference = reference_run(task, plan, steps)
    parameters = read_whole(paths, plan)
    found = differences(reference, [Outputs(plan, ran.results, None)], parameters, ran.losses)
    print(found)
    assert found.outputs <= FORWARD
    assert not found.tokens
    if steps:
        assert found.losses <= FORWARD
        assert found.parameters <= TRAINED
        assert found.gradients <= TRAINED


@pytest.mark.parametrize("name", ["qwen3", "bert"])
def test_a_hugging_face_model_sliced_as_its_profile_allows(lab, tmp_path, name):
    model, tokens = live(name), torch.randint(40, (8, 9))
    found = profile(sequential(model), tokens, mode="inference", batch=8, repetitions=1)
    parts = 2 if name == "qwen3" else 4
    assert [layer.parts for layer in found.workload.layers] == [1, parts, parts, parts, 1]
    plan = lab.plan([(0, 2, [(0, 4)], 1, None), (2, 5, [(1, 4)], 1, None)], 2)
    plan = sliced(plan, 1, {"d1": parts - 1, "d2": 1})
    task, plan, *_ = task_of(
        sequential(model), plan, found.workload, data=(tokens, tokens.roll(1, 1)), directory=tmp_path, dtype="float64"
    )
    check(lab, plan, task, tmp_path)


def test_on_workers(lab, pool, architectures):
    """Between a replicated stage and one of a single device, in proportions that what runs has to keep."""
    plan = lab.plan([(0, 2, [(0, 3), (1, 1)], 3, ("ring", 0)), (2, 4, [(3, 4)], 2, None), (4, 6, [(4, 4)], 1, None)], 2)
    plan = sliced(plan, 1, {"d3": 3, "d2": 1}, "star")
    workload = lab.workload(lab.architectures["four"], "training", 8)
    run = execute(plan, workload, lab.cluster([1e12] * 5), steps=STEPS, emulate="nothing", workers=pool).wait()
    print(run.differences)
    assert run.plan.stages[1].shards == (3, 1)
    assert max(run.differences.outputs, run.differences.losses) <= FORWARD
    assert max(run.differences.parameters, run.differences.gradients) <= TRAINED
    sums = [each for each in run.events if each.kind.startswith("shard")]
    assert {each.device for each in sums} == {"d2", "d3"}
    assert {each.kind for each in sums} == {"shard-sum", "shard-gradient-sum"}


def test_what_cannot_be_run_is_refused_before_anything_starts(lab, architectures):
    workload = lab.workload(lab.architectures["four"], "inference", 4)
    plan = sliced(lab.plan([(0, 6, [(0, 4)], 1, None)], 1), 0, {"d0": 2, "d1": 2})
    cluster = lab.cluster([1e12] * 2)
    alone = lab.plan([(0, 6, [(0, 4)], 1, None)], 1)
    for first, other in ((plan, alone), (alone, plan)):
        with pytest.raises(InputError, match="do not change place"):
            execute(first, workload, cluster, plans=[other])


def test_in_the_plans_order_on_an_imitated_network(lab, pool):
    """Transfers behind the sums of a pass wait for them, and what these take stands beside what was predicted."""
    workload, cluster = lab.workload(lab.architectures["vit"], "training", 8), lab.cluster([1e12] * 4)
    plan = lab.plan([(0, 1, [(0, 4)], 2, None), (1, 5, [(1, 4)], 2, None), (5, 6, [(3, 4)], 1, None)], 2)
    plan = scheduled(workload, cluster, sliced(plan, 1, {"d1": 1, "d2": 3}, "star"))
    run = execute(plan, workload, cluster, steps=2, seed=7, in_order=True, workers=pool).wait()
    assert run.differences.largest <= TRAINED
    assert run.ordering.in_order
    transfers = {(each.kind, each.stage): each for each in compare(plan, run).transfers}
    for kind in ("shard-sum", "shard-gradient-sum"):
        found = transfers[kind, 1]
        assert found.count == found.waited == 4
        assert min(found.measured_s, found.predicted_s) > 0


def test_a_model_that_cannot_be_sliced_as_planned_is_refused(lab, tmp_path):
    workload = lab.workload(lab.architectures["untied"], "inference", 4)
    plan = sliced(lab.plan([(0, 6, [(0, 4)], 1, None)], 1), 0, {"d0": 1, "d1": 1})
    with pytest.raises(InputError, match="can be sliced into: 1"):
        task_of(nn.Sequential(*(nn.Linear(4, 4) for _ in range(6))), plan, workload, directory=tmp_path)


@pytest.fixture(scope="module")
def architectures(lab):
    """More networks than others need: with norms of queries and keys, and with four parts."""
    own = {
        "norms": lab.architectures["tied"].replace(tied_embeddings=False),
        "four": lab.architectures["untied"].replace(heads=8, kv_heads=4),
    }
    lab.architectures |= own
    yield
    for name in own:
        del lab.architectures[name]

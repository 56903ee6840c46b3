"""A person's own models, data and losses, split over devices, equal themselves in one piece."""

from __future__ import annotations

import pathlib

import pytest
import torch
from own_models import PERSONS_FILE, STEPS, assert_equals_one_process, split, workload_for
from torch import nn

from dora_nb.errors import InputError
from dora_nb.executor import execute
from dora_nb.executor.compare import differences
from dora_nb.executor.course import Outputs
from dora_nb.executor.device.replica import Replica
from dora_nb.executor.measuring.profiler import profile
from dora_nb.executor.networks.chain import built_layers
from dora_nb.executor.reference import reference_run
from dora_nb.executor.tasks.assemble import task_of
from dora_nb.executor.tasks.loss import cross_entropy, part_of_loss
from dora_nb.executor.tasks.task import Optimizer, Source, Task


@pytest.fixture(scope="module")
def persons(tmp_path_factory):
    """A file of a person's own."""
    place = tmp_path_factory.mktemp("persons")
    (place / "persons_models.py").write_text(PERSONS_FILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(place))
        import persons_models

        yield persons_models


@pytest.mark.parametrize("mode", ["training", "inference"])
def test_a_sequence_with_a_persons_own_layers(lab, persons, tmp_path, mode):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), persons.Gate(8), nn.GELU("tanh"), nn.Linear(8, 3)).double()
    data = (torch.randn(24, 6, dtype=torch.float64), torch.randint(3, (24,)))
    plan, workload = split(lab, 4), workload_for(4, 8, mode)
    task, plan, *_ = task_of(model, plan, workload, data=data, directory=tmp_path, steps=STEPS)
    again = Task.model_validate_json(task.model_dump_json())
    assert again == task
    reference, _ = assert_equals_one_process(lab, again, plan)
    with torch.no_grad():
        expected = model.eval()(data[0][:8])
    assert torch.equal(torch.cat(reference.outputs), expected) or mode == "training"
    torch.testing.assert_close(torch.cat(reference.outputs), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("tied", ["synchronised", "hosted"])
def test_a_tied_sequence(lab, tmp_path, tied):
    torch.manual_seed(2)
    embedding, head = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
    head.weight = embedding.weight
    model = nn.Sequential(embedding, nn.Linear(8, 8), nn.Tanh(), head).double()
    tokens = torch.randint(20, (16, 5))
    plan, workload, task = split(lab, 4, tied=tied), workload_for(4, 8, tied=160), None
    task, plan, *_ = task_of(model, plan, workload, data=(tokens, tokens.roll(1, 1)), directory=tmp_path, steps=STEPS)
    assert task.network.build().tied == ("weight", "weight")
    assert_equals_one_process(lab, task, plan)


def test_a_persons_own_network_data_and_loss(lab, persons, tmp_path):
    plan, workload = split(lab, 4), workload_for(4, 8)
    given = {"data": "persons_models:Waves", "loss": persons.error, "directory": tmp_path, "seed": 5}
    task, plan, *_ = task_of(Source(factory="persons_models:Chain", arguments={"width": 6}), plan, workload, **given)
    assert task.import_paths == (str(pathlib.Path(persons.__file__).parent),)
    a, b = (built_layers(task.network.build(), dtype=torch.float64, seed=seed) for seed in (5, 6))
    assert not torch.equal(a[0].inner.weight, b[0].inner.weight)
    assert not torch.equal(a[0].inner.weight, a[1].inner.weight)
    assert_equals_one_process(lab, task, plan)


def test_it_is_what_a_plain_loop_in_torch_computes(lab, tmp_path):
    """Nothing of the executor: the whole batch at once, the loss's mean, AdamW with the same settings."""
    torch.manual_seed(10)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 3)).double()
    model[2].bias.requires_grad_(False)
    data = (torch.randn(24, 6, dtype=torch.float64), torch.randint(3, (24,)))
    settings = Optimizer(learning_rate=0.02, betas=(0.8, 0.9), weight_decay=0.3)
    options = {"data": data, "directory": tmp_path, "steps": STEPS, "optimizer": settings}
    task, plan, *_ = task_of(model, split(lab, 4), workload_for(4, 8), **options)
    ran = lab.run(task, plan, STEPS)
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.02, betas=(0.8, 0.9), weight_decay=0.3)
    for inputs, labels, loss in zip(data[0].split(8), data[1].split(8), ran.losses, strict=True):
        expected = nn.functional.cross_entropy(model(inputs), labels)
        assert loss == pytest.approx(expected.item(), rel=1e-12)
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
    own = dict(model.named_parameters())
    for replica in ran.replicas.values():
        for name, parameter in replica.named_parameters():
            torch.testing.assert_close(parameter, own[name], rtol=0, atol=1e-10)


class Pairs:
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return torch.full((3, 8, 8), float(index)) + torch.arange(8), index % 4


def test_convolutions_and_statistics_of_batches(lab, tmp_path):
    """Batch normalisation equals one process where a stage has one replica, its statistics included."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 6, 3, padding="same", padding_mode="circular"), nn.BatchNorm2d(6), nn.ReLU6()),
        nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.BatchNorm2d(6), nn.Hardswish()),
        nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()),
        nn.Linear(24, 4),
    )
    plan = lab.plan([(0, 1, [(0, 4)], 2, None), (1, 4, [(1, 4)], 1, None)], 2)
    options = {"data": Pairs(), "directory": tmp_path, "steps": STEPS, "dtype": "float64"}
    task, plan, *_ = task_of(model, plan, workload_for(4, 8), **options)
    reference, ran = assert_equals_one_process(lab, task, plan)
    states = {index: each.state(index) for each in ran.replicas.values() for index in each.layers}
    for name, expected in reference.buffers.items():
        index, _, rest = name.partition(".")
        torch.testing.assert_close(states[int(index)][f"buffer/{rest}"], expected, rtol=1e-12, atol=0)
    assert not torch.equal(model[0][1].running_mean, reference.buffers["0.1.running_mean"].float())


def test_own_data_come_round_again(tmp_path):
    from dora_nb.executor.tasks.datasets import store_data

    inputs = torch.arange(5)
    data = store_data((inputs, inputs * 10), 4, 9, tmp_path, needs_labels=True).build()
    assert data.micro_batch(0, 0, 2).inputs.tolist() == [0, 1]
    assert data.micro_batch(0, 1, 2).labels.tolist() == [20, 30]
    assert data.micro_batch(1, 0, 2).inputs.tolist() == [4, 0]
    assert data.micro_batch(2, 0, 4).inputs.tolist() == [3, 4, 0, 1]
    assert data.micro_batch(-1, 0, 4).inputs.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"model": nn.Sequential(nn.Linear(4, 2))}, "model"),
        ({"model": nn.Linear(4, 2)}, "model"),
        ({"model": 3}, "model"),
        ({"model": "no_such_module:make"}, "name"),
        ({"model": None}, "model"),
        ({"data": None}, "data"),
        ({"data": 5}, "data"),
        ({"data": torch.zeros(8, 4)}, "data"),
        ({"data": (torch.zeros(8, 4), torch.zeros(7))}, "data"),
        ({"loss": lambda outputs, labels: outputs.sum()}, "loss"),
        ({"loss": 5}, "loss"),
        ({"loss": "no_such_module:loss"}, "name"),
        ({"torch_devices": {"d0": "abacus"}}, "torch_devices.d0"),
        ({"torch_devices": {"elsewhere": "cpu"}}, "torch_devices"),
        ({"workload": workload_for(4, 8, tied=3)}, "model"),
        ({"dtype": "float31"}, "dtype"),
    ],
)
def test_what_does_not_fit_is_refused(lab, tmp_path, options, named):
    given = {
        "model": nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.ReLU(), nn.Linear(4, 2)),
        "workload": workload_for(4, 8),
        "data": (torch.zeros(8, 4), torch.zeros(8, dtype=torch.int64)),
    } | options
    with pytest.raises(InputError) as refused:
        task_of(given.pop("model"), split(lab, 4), given.pop("workload"), directory=tmp_path, **given)
    assert refused.value.field == named


def test_a_profile_plans_and_runs_the_same_model(lab, tmp_path):
    """A person's way: profile, plan with the workload that gives, run."""
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3)).double()
    data = (torch.randn(16, 6, dtype=torch.float64), torch.randint(3, (16,)))
    found = profile(model, data[0][:1], mode="training", batch=8, repetitions=1).workload
    task, plan, *_ = task_of(model, split(lab, 4), found, data=data, directory=tmp_path, steps=2)
    assert [cut.shape for cut in task.cuts] == [(8,), (8,), (8,)]
    assert_equals_one_process(lab, task, plan, steps=2)


@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-4), ("bfloat16", 0.2)])
def test_other_dtypes_differ_a_little(lab, tmp_path, dtype, most):
    torch.manual_seed(9)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 3))
    data = (torch.randn(16, 6), torch.randint(3, (16,)))
    options = {"data": data, "directory": tmp_path, "dtype": dtype}
    task, plan, *_ = task_of(model, split(lab, 4), workload_for(4, 8), **options)
    assert {cut.dtype for cut in task.cuts} == {dtype}
    ran, reference = lab.run(task, plan, 2), reference_run(task, plan, 2)
    assert 0 < differences(reference, [Outputs(plan, ran.results)], ran.results, ran.losses).largest < most


def test_dropout_depends_on_task_step_and_device_alone(lab, tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Dropout(), nn.Linear(4, 2))
    data = (torch.randn(8, 4), torch.randint(2, (8,)))
    task, plan, *_ = task_of(model, split(lab, 4), workload_for(4, 8), data=data, directory=tmp_path)

    def drawn(device: str, step: int, seed: int = 0) -> float:
        Replica(device, plan, task.replace(seed=seed)).seed(step)
        return torch.rand(1).item()

    first = drawn("d0", 0)
    assert drawn("d0", 0) == first
    assert len({first, drawn("d1", 0), drawn("d0", 1), drawn("d0", 0, seed=1)}) == 4


def test_workers_find_a_persons_own_file(lab, pool, persons):
    """Processes of their own, with another search path, build what the coordinator was given."""
    torch.manual_seed(8)
    model = nn.Sequential(nn.Linear(6, 8), persons.Gate(8), persons.Gate(8), nn.Linear(8, 6)).double()
    plan, workload = split(lab, 4), workload_for(4, 8)
    options = {"data": "persons_models:Waves", "loss": "persons_models:error", "emulate": "nothing", "workers": pool}
    record = execute(plan, workload, lab.cluster([1e12] * 3), model, **options).wait()
    assert record.max_abs_diff <= 1e-10
    assert len(set(record.losses)) == 3


def test_a_loss_that_cannot_be_computed_says_what_it_was_given():
    outputs, labels = torch.randn(2, 5, 7), torch.zeros(2, 7, dtype=torch.int64)  # classes in the middle
    with pytest.raises(InputError, match=r"outputs \(2, 5, 7\), labels \(2, 7\) \(torch.int64\)") as caught:
        part_of_loss(cross_entropy, outputs, labels, batch=2)
    assert caught.value.field == "loss"

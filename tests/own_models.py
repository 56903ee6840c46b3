"""A person's own models: a file of theirs, plans for chains of layers, and the check that splitting changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dora_nb.domain.layer import Layer
from dora_nb.domain.plan import Plan
from dora_nb.domain.workload import Workload
from dora_nb.executor.compare import differences
from dora_nb.executor.course import Outputs
from dora_nb.executor.reference import Reference, reference_run
from dora_nb.executor.tasks.task import Task

STEPS = 3

PERSONS_FILE = """
import torch
from torch import nn
from dora_nb.executor.tasks.task import MicroBatch


class Gate(nn.Module):
    def __init__(self, width, act=torch.tanh):
        super().__init__()
        self.act, self.shape = act, (width, [1, 2.5, None], {"a": "b"})
        self.inner = nn.Linear(width, width)
        self.again = self.inner
        self.scale = nn.Parameter(torch.full((width,), 0.7))
        self.register_buffer("shift", torch.linspace(0, 1, width), persistent=False)

    def forward(self, x):
        return x + self.scale * self.act(self.again(self.inner(x))) + self.shift


class Chain:
    def __init__(self, width):
        self.width = width

    def __len__(self):
        return 4

    def layer(self, index):
        return Gate(self.width, torch.relu)


class Waves:
    def micro_batch(self, step, index, samples):
        x = torch.arange(samples * 6, dtype=torch.float64).reshape(samples, 6) + step + 10 * index
        return MicroBatch(x.sin(), x.cos())


def error(outputs, labels):
    return (outputs - labels).abs().mean()
"""


#: Of Hugging Face, small.
CONFIGS = {
    "qwen3": {
        "model_type": "qwen3", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 24, "tie_word_embeddings": True,
    },
    "llama": {
        "model_type": "llama", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 4, "intermediate_size": 24, "tie_word_embeddings": False, "attention_bias": True,
    },
    "bert": {
        "model_type": "bert", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 24, "max_position_embeddings": 12, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
}  # fmt: skip


def workload_for(layers: int, batch: int, mode: str = "training", tied: int = 0, **fields: Any) -> Workload:
    """A chain of so many layers; its figures do not matter."""
    ends = (0, layers - 1)
    return Workload(
        name="own",
        mode=mode,
        batch=batch,
        precision="fp64",
        layers=[
            Layer(
                name=f"{index}", operator="matmul", forward_flops=1, parameters=max(tied, 1), output_elements=1,
                stash_elements=1, traffic_elements=1, tied_parameters=tied if index in ends else 0,
            )
            for index in range(layers)
        ],
        **fields,
    )  # fmt: skip


def split(lab: Any, layers: int, *, tied: str = "none") -> Plan:
    """Two uneven replicas, then one device: 2 micro-batches of 4 samples."""
    first = 1 if tied == "hosted" else 0
    return lab.plan([(first, 2, [(0, 3), (1, 1)], 2, ("ring", 0)), (2, layers, [(2, 4)], 1, None)], 2, tied)


def assert_equals_one_process(lab: Any, task: Task, plan: Plan, steps: int = STEPS) -> tuple[Reference, Any]:
    steps = steps if task.trains else 0
    reference = reference_run(task, plan, steps)
    ran = lab.run(task, plan, steps)
    apart = differences(reference, [Outputs(plan, ran.results)], ran.results, ran.losses)
    assert apart.outputs <= 1e-12
    if task.trains:
        assert apart.losses <= 1e-12 * abs(reference.losses[0])
        assert apart.parameters <= 1e-10
        assert apart.gradients <= 1e-12
        assert len(set(reference.losses)) == steps, "something is learnt"
    return reference, ran


def reads_of(module: Any, patch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tensors that a module reads from safetensors files from now on."""
    read: list[str] = []
    plain = module.safe_open

    class Opened:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.file = plain(*arguments, **options)

        def __enter__(self) -> Opened:
            self.opened = self.file.__enter__()
            return self

        def __exit__(self, *problem: object) -> Any:
            return self.file.__exit__(*problem)

        def keys(self) -> Any:
            return self.opened.keys()

        def get_tensor(self, name: str) -> Any:
            read.append(name)
            return self.opened.get_tensor(name)

        def get_slice(self, name: str) -> Any:
            read.append(name)
            return self.opened.get_slice(name)

    patch.setattr(module, "safe_open", Opened)
    return read


def live(name: str, **changes: Any) -> Any:
    """A model with random weights, none of them 0."""
    transformers = pytest.importorskip("transformers")
    config = {"Qwen3": transformers.Qwen3Config, "Llama": transformers.LlamaConfig, "Bert": transformers.BertConfig}
    kinds = {"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM", "bert": "BertForMaskedLM"}
    torch.manual_seed(4)
    model = getattr(transformers, kinds[name])(config[name.capitalize()](**CONFIGS[name] | changes)).double()
    with torch.no_grad():
        for each in model.parameters():
            each.add_(torch.randn_like(each) * 0.05)
    return model.eval()

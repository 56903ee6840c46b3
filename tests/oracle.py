"""A plan without replicas as ``torch.distributed.pipelining`` runs it: processes of their own, to compare with.

Started as a script, this is one of them: ``python oracle.py RANK DIRECTORY``. It builds the layers of its stage, then
carries out one training step for every number that it reads, and answers with a line of JSON. That library sends
pickled shapes from stage to stage, which is why nothing of it is in the package.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from dora_nb.domain.plan import Plan
from dora_nb.executor.tasks.task import Task

STOP = "stop"


class Stepped(NamedTuple):
    """One training step: seconds from the first start to the last end, and the loss."""

    seconds: float
    loss: float


class Oracle:
    """One process a stage, under Schedule1F1B or a schedule of our own; ended with the context.

    Parameters
    ----------
    task, plan
        What is trained; the plan without replicas and without tied parameters.
    directory
        For what the processes read and write.
    schedule
        CSV of that library's actions; None: Schedule1F1B.
    """

    def __init__(self, task: Task, plan: Plan, directory: Path, schedule: str | None = None) -> None:
        assert all(len(stage.replicas) == 1 for stage in plan.stages)
        self._directory, self._count = directory, len(plan.stages)
        (directory / "task.json").write_text(task.model_dump_json())
        (directory / "plan.json").write_text(plan.model_dump_json())
        if schedule is not None:
            (directory / "schedule.csv").write_text(schedule)

    def __enter__(self) -> Self:
        self._complaints = [(self._directory / f"{rank}.log").open("w+") for rank in range(self._count)]
        self._processes = [
            subprocess.Popen(
                [sys.executable, __file__, str(rank), str(self._directory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._complaints[rank],
                text=True,
                env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
            )
            for rank in range(self._count)
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process, complaints in zip(self._processes, self._complaints, strict=True):
            process.kill()
            with process:
                pass
            complaints.close()

    def step(self, number: int) -> Stepped:
        """Carry out one step; numbers count from 0."""
        answers = self._ask(str(number))
        seconds = max(each["end_s"] for each in answers) - min(each["start_s"] for each in answers)
        return Stepped(seconds, answers[-1]["loss"])

    def tensors(self) -> dict[str, Any]:
        """``parameter/layer.name`` and ``gradient/layer.name`` after the last step."""
        from safetensors.torch import load_file

        self._ask(STOP)
        return {
            name: tensor
            for rank in range(self._count)
            for name, tensor in load_file(self._directory / f"{rank}.safetensors").items()
        }

    def _ask(self, line: str) -> list[dict[str, Any]]:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(line + "\n")
            process.stdin.flush()
        return [self._answer(rank) for rank in range(self._count)]

    def _answer(self, rank: int) -> dict[str, Any]:
        stdout = self._processes[rank].stdout
        assert stdout is not None
        line = stdout.readline()
        if not line:
            self._complaints[rank].seek(0)
            raise AssertionError(f"stage {rank} ended: {self._complaints[rank].read()[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _serve(rank: int, directory: Path) -> None:
    """Be one stage."""
    import torch
    import torch.distributed as dist
    from safetensors.torch import save_file
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B
    from torch.distributed.pipelining.schedules import _PipelineScheduleRuntime

    from dora_nb.executor.networks.chain import built_layers
    from dora_nb.executor.tasks.data import micro_batch
    from dora_nb.executor.tasks.loss import part_of_loss

    torch.set_num_threads(1)
    task = Task.model_validate_json((directory / "task.json").read_text())
    plan = Plan.model_validate_json((directory / "plan.json").read_text())
    count, own = len(plan.stages), plan.stages[rank]
    whole = built_layers(task.network.build(), dtype=task.torch_dtype, seed=task.seed)
    module = whole[own.first_layer : own.stop_layer].train()
    data, loss = task.data.build(), task.loss.function()
    dist.init_process_group("gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=count)
    stage = PipelineStage(module, rank, count, torch.device("cpu"))
    own_order = (directory / "schedule.csv").exists()
    schedule = (_PipelineScheduleRuntime if own_order else Schedule1F1B)(
        [stage] if own_order else stage,
        plan.micro_batches,
        lambda outputs, labels: part_of_loss(loss, outputs, labels, task.batch),
        scale_grads=False,
    )
    if own_order:
        schedule._load_csv(str(directory / "schedule.csv"), format="compute_comms")
    chosen = task.optimizer
    options = {"betas": chosen.betas, "eps": chosen.eps, "weight_decay": chosen.weight_decay}
    optimizer = torch.optim.AdamW(module.parameters(), lr=chosen.learning_rate, **options)
    parameters = dict(module.named_parameters())  # a slice keeps the numbers of its layers
    for line in sys.stdin:
        if line.strip() == STOP:
            tensors = {f"parameter/{name}": each.detach() for name, each in parameters.items()}
            tensors |= {f"gradient/{name}": each.grad for name, each in parameters.items() if each.grad is not None}
            save_file(tensors, directory / f"{rank}.safetensors")
            _tell({})
            continue
        batches = [
            micro_batch(data, int(line), index, plan.micro_batch, task.torch_dtype)
            for index in range(plan.micro_batches)
        ]
        inputs = [torch.cat([each.inputs for each in batches])] if rank == 0 else []
        labels = torch.cat([each.labels for each in batches]) if rank == count - 1 else None
        losses: list[torch.Tensor] = []
        optimizer.zero_grad(set_to_none=True)
        dist.barrier()
        start_s = time.perf_counter()
        schedule.step(*inputs, target=labels, losses=losses, return_outputs=False)
        optimizer.step()
        _tell({"start_s": start_s, "end_s": time.perf_counter(), "loss": sum(each.item() for each in losses)})


def _tell(answer: dict[str, object]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), Path(sys.argv[2]))

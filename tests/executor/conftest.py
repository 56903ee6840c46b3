from __future__ import annotations

import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from dora_nb.domain.architecture import (
    Architecture,
    DecoderArchitecture,
    EncoderArchitecture,
    MobileNetArchitecture,
    ResNetArchitecture,
    VisionTransformerArchitecture,
)
from dora_nb.domain.cluster import Cluster, ContentionDomain, Device
from dora_nb.domain.plan import AllReduce, Plan, Stage
from dora_nb.domain.plan import Replica as PlannedReplica
from dora_nb.domain.run_timeline import INFERENCE
from dora_nb.domain.workload import Workload
from dora_nb.executor import WorkerPool
from dora_nb.executor.device.courier import AsReady
from dora_nb.executor.device.instructions import compile_plan
from dora_nb.executor.device.interpreter import Interpreter
from dora_nb.executor.device.replica import Replica
from dora_nb.executor.device.streams import over_requests
from dora_nb.executor.tasks.task import Task

ARCHITECTURES: dict[str, Architecture] = {
    "tied": DecoderArchitecture(
        hidden=32, blocks=4, heads=4, kv_heads=2, head_dim=8, ffn=48, vocabulary=64, tied_embeddings=True, qk_norm=True
    ),
    "untied": DecoderArchitecture(
        hidden=24,
        blocks=4,
        heads=6,
        kv_heads=2,
        head_dim=4,
        ffn=40,
        vocabulary=48,
        tied_embeddings=False,
        qkv_bias=True,
    ),
    "encoder": EncoderArchitecture(
        hidden=32, blocks=4, heads=4, ffn=64, vocabulary=64, positions=16, segments=2, tied_embeddings=True
    ),
    "vit": VisionTransformerArchitecture(hidden=32, blocks=4, heads=4, ffn=64, patch_px=4, image_px=16, classes=10),
    "resnet": ResNetArchitecture(depths=(2, 2), widths=(8, 16), stem_width=6, image_px=18, classes=10),
    "mobilenet": MobileNetArchitecture(
        stem_width=6, stages=((1, 4, 1, 1), (2, 6, 2, 2), (3, 8, 1, 2)), head_width=12, image_px=18, classes=10
    ),
}

# first layer, one behind the last, (device, samples) of the replicas, in-flight count, (algorithm, leader) or
# (algorithm, leader, buckets)
StageData = tuple[int, int, list[tuple[int, int]], int, tuple[str, int] | tuple[str, int, int] | None]


def make_workload(architecture: Architecture, mode: str, batch: int, sequence: int = 8, **fields: object) -> Workload:
    tokens = sequence if isinstance(architecture, DecoderArchitecture | EncoderArchitecture) else None
    chain = architecture.chain(mode=mode, sequence=tokens, image_px=None, bytes_per_element=4)
    return Workload(
        name="small",
        mode=mode,
        batch=batch,
        sequence=tokens,
        layers=chain.layers,
        input_bytes=chain.input_bytes,
        label_bytes=chain.label_bytes,
        output_bytes=chain.output_bytes,
        architecture=architecture,
        **fields,
    )


def make_cluster(rates: Sequence[float]) -> Cluster:
    devices = [
        Device(
            id=f"d{index}",
            profile="any",
            memory_bytes=8e9,
            flops_per_s={"matmul": {"fp32": rate}},
            memory_bytes_per_s=1e10,
            idle_w=1,
            active_w=2,
        )
        for index, rate in enumerate(rates)
    ]
    medium = ContentionDomain(id="wifi", kind="shared", rates_bytes_per_s={each.id: 1e7 for each in devices})
    return Cluster(name="cluster", devices=devices, domains=[medium])


def make_plan(stages: Sequence[StageData], micro_batches: int, tied: str = "none") -> Plan:
    return Plan(
        micro_batch=sum(samples for _, samples in stages[0][2]),
        micro_batches=micro_batches,
        tied=tied,
        stages=[
            Stage(
                first_layer=first,
                stop_layer=stop,
                replicas=[PlannedReplica(device=f"d{device}", samples=samples) for device, samples in replicas],
                in_flight=in_flight,
                all_reduce=None if choice is None else make_all_reduce(*choice),
            )
            for first, stop, replicas, in_flight, choice in stages
        ],
    )


def make_all_reduce(algorithm: str, leader: int, buckets: int = 1) -> AllReduce:
    return AllReduce(algorithm=algorithm, leader=f"d{leader}", buckets=buckets)


class LocalTransport:
    """Transport between threads of one process."""

    def __init__(self, device: str, office: Office) -> None:
        self.device, self.office = device, office

    def send(self, tensor: Tensor, peer: str, tag: int, channel: str, *, in_turn: bool = False) -> None:
        self.office.box(self.device, peer, tag, channel).put(tensor.clone())

    def receive(self, into: Tensor, peer: str, tag: int, channel: str) -> LocalPending:
        return LocalPending(into, self.office.box(peer, self.device, tag, channel))

    def flush(self, channel: str | None = None) -> None:
        pass

    def close(self) -> None:
        pass

    def barrier(self) -> None:
        self.office.gate.wait(timeout=20)

    def common_start(self) -> float:
        self.office.moments.append(time.perf_counter())
        self.barrier()
        return max(self.office.moments)


class LocalPending:
    def __init__(self, into: Tensor, box: queue.Queue[Tensor]) -> None:
        self.into, self.box = into, box

    def wait(self) -> None:
        self.into.copy_(self.box.get(timeout=20))


class Office:
    """Every message that passes between the threads."""

    def __init__(self, devices: Sequence[str]) -> None:
        self.gate = threading.Barrier(len(devices))
        self.moments: list[float] = []
        self._boxes: dict[tuple[str, str, int, str], queue.Queue[Tensor]] = {}
        self._lock = threading.Lock()

    def box(self, sender: str, receiver: str, tag: int, channel: str) -> queue.Queue[Tensor]:
        with self._lock:
            return self._boxes.setdefault((sender, receiver, tag, channel), queue.Queue())

    @property
    def left_over(self) -> int:
        return sum(box.qsize() for box in self._boxes.values())


def in_threads(devices: Sequence[str], work: Callable[[str, LocalTransport], None]) -> Office:
    """Do the work of every device in a thread of its own; what one raises is raised."""
    office = Office(devices)
    problems: list[BaseException] = []

    def guarded(device: str) -> None:
        try:
            work(device, LocalTransport(device, office))
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=guarded, args=(device,)) for device in devices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    return office


def make_interpreter(replica: Replica, transport: LocalTransport, targets: Mapping | None = None) -> Interpreter:
    """Everything leaves as soon as it is there."""
    courier_of = functools.partial(
        AsReady, interval=replica.interval, empty=replica.receive_buffer, transport=transport
    )
    return Interpreter(transport.device, replica, transport, courier_of, targets or {})


def run_in_threads(
    task: Task, plan: Plan, steps: int, replicas: Mapping[str, Replica] | None = None, first: int = INFERENCE
) -> Ran:
    """The inference batch and some training steps, or those from one on; every device is a thread of this process."""
    replicas = replicas or {device: Replica(device, plan, task) for device in plan.devices}
    results: dict[str, dict[str, Tensor]] = {device: {} for device in plan.devices}
    parts: dict[str, list[float]] = {device: [] for device in plan.devices}

    def work(device: str, transport: LocalTransport) -> None:
        replica, interpreter = replicas[device], make_interpreter(replicas[device], transport)
        for step in range(first, steps):
            whole = over_requests(plan, task.requests)
            program = compile_plan(whole, trains=step > INFERENCE, decode_steps=task.decode_steps)[device]
            iteration = interpreter.run(program, replica.batch(step))
            if step > INFERENCE:
                parts[device].append(iteration.loss)
            else:
                results[device] |= {f"output/{index}": each for index, each in replica.outputs.items()}
                results[device] |= {f"token/{index}": each for index, each in replica.tokens.items()}
        for name, parameter in replica.named_parameters():
            results[device][f"parameter/{name}"] = parameter.detach()
            if parameter.grad is not None:
                results[device][f"gradient/{name}"] = parameter.grad

    assert in_threads(plan.devices, work).left_over == 0
    return Ran(replicas, results, [sum(each) for each in zip(*parts.values(), strict=True)])


class Ran(NamedTuple):
    replicas: Mapping[str, Replica]
    results: Mapping[str, Mapping[str, Tensor]]
    losses: list[float]


class Lab:
    """What tests build from."""

    architectures = ARCHITECTURES
    workload = staticmethod(make_workload)
    cluster = staticmethod(make_cluster)
    plan = staticmethod(make_plan)
    in_threads = staticmethod(in_threads)
    interpreter = staticmethod(make_interpreter)
    run = staticmethod(run_in_threads)


@pytest.fixture(scope="session")
def lab() -> Lab:
    return Lab()


@pytest.fixture(scope="session")
def pool() -> Iterator[WorkerPool]:
    """Workers that all plans of the session run on."""
    with WorkerPool(5) as workers:
        yield workers


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)

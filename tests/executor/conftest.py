from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from dora_nb.domain.architecture import (
    Architecture,
    DecoderArchitecture,
    EncoderArchitecture,
    VisionTransformerArchitecture,
)
from dora_nb.domain.cluster import Cluster, ContentionDomain, Device
from dora_nb.domain.plan import AllReduce, Plan, Replica, Stage
from dora_nb.domain.workload import Workload
from dora_nb.executor import WorkerPool

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
}

# first layer, one behind the last, (device, samples) of the replicas, in-flight count, (algorithm, leader)
StageData = tuple[int, int, list[tuple[int, int]], int, tuple[str, int] | None]


def make_workload(architecture: Architecture, mode: str, batch: int, sequence: int = 8) -> Workload:
    vision = isinstance(architecture, VisionTransformerArchitecture)
    tokens = None if vision else sequence
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
                replicas=[Replica(device=f"d{device}", samples=samples) for device, samples in replicas],
                in_flight=in_flight,
                all_reduce=None if choice is None else AllReduce(algorithm=choice[0], leader=f"d{choice[1]}"),
            )
            for first, stop, replicas, in_flight, choice in stages
        ],
    )


class LocalTransport:
    """Transport between threads of one process."""

    def __init__(self, device: str, office: Office) -> None:
        self.device, self.office = device, office

    def send(self, tensor: Tensor, peer: str, tag: int, channel: str) -> None:
        self.office.box(self.device, peer, tag, channel).put(tensor.clone())

    def receive(self, into: Tensor, peer: str, tag: int, channel: str) -> LocalPending:
        return LocalPending(into, self.office.box(peer, self.device, tag, channel))

    def flush(self) -> None:
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


class Lab:
    """What tests build from."""

    architectures = ARCHITECTURES
    workload = staticmethod(make_workload)
    cluster = staticmethod(make_cluster)
    plan = staticmethod(make_plan)
    in_threads = staticmethod(in_threads)


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

"""Coordinates runs over workers in other network namespaces: ``python namespace_run.py HOST:PORT DIRECTORY COUNT``.

The network is known through the probe alone, the layers' times through the profile. Prints one JSON object: what the
probe found, and of each plan the predicted and the measured seconds of a step.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from dora_nb.domain.architecture import DecoderArchitecture
from dora_nb.domain.cluster import Cluster, ContentionDomain, Device
from dora_nb.domain.plan import Plan, Replica, Stage
from dora_nb.domain.workload import Workload
from dora_nb.executor.control.tls import Tls
from dora_nb.executor.launch import execute
from dora_nb.executor.measuring.survey import probe_network, workers_at

#: Large enough for transfers of some 100 kB, small enough that a step takes a second on a slow network.
ARCHITECTURE = DecoderArchitecture(
    hidden=128, blocks=6, heads=4, kv_heads=2, head_dim=32, ffn=384, vocabulary=512, tied_embeddings=False
)
BATCH, SEQUENCE, STEPS = 16, 64, 7


def workload() -> Workload:
    """Training in fp64, as it is."""
    chain = ARCHITECTURE.chain(mode="training", sequence=SEQUENCE, image_px=None, bytes_per_element=8)
    return Workload(
        name="small",
        mode="training",
        precision="fp64",
        batch=BATCH,
        sequence=SEQUENCE,
        layers=chain.layers,
        input_bytes=chain.input_bytes,
        label_bytes=chain.label_bytes,
        output_bytes=chain.output_bytes,
        architecture=ARCHITECTURE,
    )


def unmeasured(count: int) -> Cluster:
    """Alike devices on a network of which nothing is known yet."""
    devices = [
        Device(
            id=f"d{index}",
            profile="any",
            memory_bytes=8e9,
            flops_per_s={"matmul": {"fp64": 1e10}},
            memory_bytes_per_s=1e10,
            idle_w=1,
            active_w=2,
        )
        for index in range(count)
    ]
    domain = ContentionDomain(id="network", kind="switch", rates_bytes_per_s={each.id: 1e9 for each in devices})
    return Cluster(name="namespaces", devices=devices, domains=[domain])


def plans(count: int) -> list[Plan]:
    """Pipelines over two devices and over all, in few and in many micro-batches."""
    layers = len(workload().layers)
    return [
        Plan(
            label=f"{stages} stages, {BATCH // samples} micro-batches of {samples}",
            micro_batch=samples,
            micro_batches=BATCH // samples,
            stages=[
                Stage(
                    first_layer=layers * index // stages,
                    stop_layer=layers * (index + 1) // stages,
                    replicas=[Replica(device=f"d{index}", samples=samples)],
                    in_flight=stages - index,
                )
                for index in range(stages)
            ],
        )
        for stages in range(2, count + 1)
        for samples in (2, 4)
    ]


def main(address: str, directory: Path, count: int) -> None:
    """Wait for the workers, probe, run every plan."""
    tls = Tls(cert=directory / "coordinator.crt", key=directory / "coordinator.key", ca=directory / "ca.crt")
    names = [f"d{index}" for index in range(count)]
    pool = workers_at(address, names, token_file=directory / "token", tls=tls, on_progress=_tell)
    with pool as workers:
        network = probe_network(unmeasured(count), workers=workers, on_progress=_tell)
        domain = network.cluster.domain
        found: dict[str, Any] = {
            "kind": network.kind,
            "latency_s": domain.latency_s,
            "rates_bytes_per_s": dict(domain.rates_bytes_per_s),
            "misfit": network.misfit,
            "runs": [],
        }
        for emulate in ("devices", "nothing"):
            for plan in plans(count):
                run = execute(plan, workload(), network.cluster, steps=STEPS, emulate=emulate, workers=workers)  # type: ignore[arg-type]
                record = run.wait()
                found["runs"].append((emulate, plan.label, record.predicted_s, record.measured_s, record.max_abs_diff))
    print(json.dumps(found), flush=True)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))

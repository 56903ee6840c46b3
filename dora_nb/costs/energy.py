"""Joules of a run from the model, for hosts without a meter: always estimated, never measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dora_nb.costs.network import Network
from dora_nb.costs.operations import Shape
from dora_nb.costs.precedence import operations_of
from dora_nb.costs.transfers import carried, transfer_holds
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import Plan
from dora_nb.domain.run_record import EnergyFigure
from dora_nb.domain.run_timeline import RunEvent
from dora_nb.domain.workload import Workload

#: Events during which a device draws what it draws while computing.
BUSY_KINDS = ("forward", "backward", "decode", "step")

_MODEL = "model: watts of the cluster's devices"


def busy_seconds(events: Iterable[RunEvent]) -> dict[str, float]:
    """Measured seconds of computing, by device."""
    busy_s: dict[str, float] = {}
    for event in events:
        if event.kind in BUSY_KINDS:
            busy_s[event.device] = busy_s.get(event.device, 0.0) + event.end_s - event.start_s
    return busy_s


def estimated_energy(
    plan: Plan,
    workload: Workload,
    cluster: Cluster,
    busy_s: Mapping[str, float],
    *,
    seconds: float,
    iterations: int,
    emulated: bool,
) -> tuple[EnergyFigure, ...]:
    """Joules of the participating devices and of the network.

    A device draws its active watts while it computes (measured) and its idle watts for the rest of the time; what is
    carried costs the joules per byte of the cluster's network. The watts are the cluster's, so of an emulated device
    they are those of the device that was planned with, not of the machine that imitated it.

    Parameters
    ----------
    plan, workload
        What ran.
    cluster
        As planned: its watts, and its joules per byte.
    busy_s
        Measured seconds of computing, by device, of all iterations.
    seconds
        Length of all iterations.
    iterations
        How many iterations, or batches, that is.
    emulated
        Whether other devices than the cluster's computed in their place.
    """
    whose = "of the device planned with, which another machine stood in for" if emulated else "of the cluster's device"
    figures = []
    for name in plan.devices:
        device, computing_s = cluster.device(name), busy_s.get(name, 0.0)
        busy = f"{device.active_w:g} W for {computing_s:.3g} s of computing, as measured"
        figures.append(
            EnergyFigure(
                joules=device.active_w * computing_s + device.idle_w * max(0.0, seconds - computing_s),
                status="estimated",
                meter=_MODEL,
                scope=f"device {name}",
                seconds=seconds,
                note=f"{busy}, and {device.idle_w:g} W for the rest; the watts are {whose}",
            )
        )
    holds = dict(transfer_holds(plan, workload, Network.of(cluster)))
    transfers = carried(plan, operations_of(Shape.of(plan, workload)), holds)
    if transfers:
        size_bytes = iterations * sum(hold.size_bytes for hold in transfers)
        figures.append(
            EnergyFigure(
                joules=iterations * sum(hold.energy_j for hold in transfers),
                status="estimated",
                meter=_MODEL,
                scope="network",
                seconds=seconds,
                note=f"{size_bytes:,.0f} bytes at the joules per byte of the planned network",
            )
        )
    return tuple(figures)

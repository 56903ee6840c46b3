"""What a plan with slots is predicted to do for requests that arrive at a rate."""

from __future__ import annotations

import numpy as np

from dora_nb.costs.evaluate import memory_of
from dora_nb.costs.memory import MemoryModel
from dora_nb.costs.serving.rounds import Played, evenly_spaced, play_rounds
from dora_nb.costs.serving.service import Floats, Service
from dora_nb.domain.serving import AT_ONCE, Joining, ServingFigures
from dora_nb.domain.sharing import DeviceShare, MediumShare

#: Requests that are played unless told otherwise.
REQUESTS = 120


def serving_figures(
    service: Service,
    requests_per_s: float,
    *,
    requests: int = REQUESTS,
    joining: Joining = AT_ONCE,
) -> ServingFigures:
    """Play the first requests of those that arrive evenly spaced, the first one at an empty cluster.

    Parameters
    ----------
    service
        What a plan takes.
    requests_per_s
        How often one arrives.
    requests
        How many are looked at.
    joining
        Who takes a slot when.

    Returns
    -------
    ServingFigures
    """
    played = play_rounds(service, evenly_spaced(requests_per_s, requests), joining)
    first_s, latency_s = played.first_token_s - played.arrival_s, played.end_s - played.arrival_s
    each_s = (played.last_token_s - played.first_token_s) / max(service.tokens - 1, 1)
    before, after = _waiting(played)
    over_s = max(requests / requests_per_s, float(played.end_s.max()))
    used = [service.cluster.device(name) for name in service.devices]
    participating_j = service.carried_j + sum(
        device.idle_w / requests_per_s + (device.active_w - device.idle_w) * busy_s / requests
        for device, busy_s in zip(used, played.busy_s, strict=True)
    )
    unused_w = sum(each.idle_w for each in service.cluster.devices if each.id not in service.devices)
    several = service.tokens > 1
    return ServingFigures(
        requests=requests,
        requests_per_s=requests_per_s,
        first_token_s=float(first_s.mean()),
        worst_first_token_s=float(first_s.max()),
        token_s=float(each_s.mean()) if several else None,
        worst_token_s=float(each_s.max()) if several else None,
        latency_s=float(latency_s.mean()),
        worst_latency_s=float(latency_s.max()),
        waiting=after,
        together=played.together,
        keeps_up=after <= before + 1,
        capacity_per_s=service.capacity_per_s,
        energy_participating_j=participating_j,
        energy_all_on_j=participating_j + unused_w / requests_per_s,
        network_bytes=service.carried_bytes,
        devices=_devices(service, np.array(played.busy_s) / over_s),
        media=tuple(MediumShare(medium=name, load=seconds / over_s) for name, seconds in sorted(played.held_s.items())),
    )


def needed_bytes(service: Service) -> list[float]:
    """Bytes that each stage's device needs: every slot of every group has its key-value cache at its longest.

    As many prompts as there are slots may be on their way at once, each with its activations.
    """
    memory = MemoryModel(service.workload)
    return [memory_of(memory, service.plan, index, 0) for index in range(len(service.devices))]


def _waiting(played: Played) -> tuple[float, float]:
    """Requests that wait for a slot when another one arrives, on the mean over the second and over the last third."""
    arrived = np.arange(len(played.arrival_s))
    waiting = np.maximum(arrived - np.searchsorted(played.joined_s, played.arrival_s, side="right"), 0)
    third = max(len(arrived) // 3, 1)
    return float(waiting[-2 * third : -third].mean()) if len(arrived) > third else 0.0, float(waiting[-third:].mean())


def _devices(service: Service, loads: Floats) -> tuple[DeviceShare, ...]:
    needed, by_device = needed_bytes(service), {name: place for place, name in enumerate(service.devices)}
    shares = []
    for device in service.cluster.devices:
        place = by_device.get(device.id)
        load = 0.0 if place is None else float(loads[place])
        shares.append(
            DeviceShare(
                device=device.id,
                load=load,
                memory_bytes=0.0 if place is None else needed[place],
                usable_memory_bytes=device.usable_memory_bytes,
                power_w=0.0 if place is None else device.idle_w + (device.active_w - device.idle_w) * load,
            )
        )
    return tuple(shares)

"""A cluster and its compute times under a condition, and what a fixed plan then does.

A plan keeps all its decisions when the condition changes, the order of its transfers included; only durations change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dora_nb.costs.evaluate import evaluate
from dora_nb.costs.media import held_s
from dora_nb.costs.table import CostTable, Floats
from dora_nb.domain.cluster import Cluster, ContentionDomain
from dora_nb.domain.conditions import Condition
from dora_nb.domain.plan import Plan
from dora_nb.domain.prediction import Prediction
from dora_nb.domain.workload import Workload


@dataclass(frozen=True)
class Surroundings:
    """What a plan meets: devices, media and compute times.

    Attributes
    ----------
    cluster, table
        The devices that are there, with the rates and the seconds of the condition.
    """

    cluster: Cluster
    table: CostTable

    def retimed(self, plan: Plan, workload: Workload) -> Prediction | None:
        """What the plan does here in its own transfer order; None where one of its devices is absent."""
        if not set(plan.devices) <= set(self.cluster.device_ids):
            return None
        return evaluate(plan, workload, self.cluster, self.table).prediction


def under(cluster: Cluster, table: CostTable, condition: Condition) -> Surroundings:
    """A cluster under a condition.

    Parameters
    ----------
    cluster, table
        As they are without any condition.
    condition
        Rates and speeds are multiplied by its factors, absent devices are left out.
    """
    return mean_of(cluster, table, [condition], np.ones(1))


def mean_of(cluster: Cluster, table: CostTable, conditions: Sequence[Condition], weights: Floats) -> Surroundings:
    """A cluster on which everything takes its weighted mean time over some conditions.

    Seconds per sample and seconds per byte are averaged; a device is there if it is in all conditions. The makespan of
    a plan is a maximum of sums of durations, hence convex in them: its makespan here is at most its mean makespan
    (Jensen's inequality), for every order of transfers. A lower bound for this cluster is therefore one for the mean.

    Parameters
    ----------
    weights
        Of the conditions, not negative and not all zero.
    """
    weights = weights / weights.sum()
    there = [
        index
        for index, device in enumerate(cluster.device_ids)
        if not any(device in each.absent_devices for each in conditions)
    ]
    devices = tuple(cluster.devices[index] for index in there)

    def mean_inverse(factors: Sequence[float]) -> float:
        return float(np.sum(weights / np.array(factors)))

    slower = np.array([mean_inverse([each.speed_factor(device.id) for each in conditions]) for device in devices])
    gone = {name for name in cluster.device_ids if name not in [device.id for device in devices]}

    def scaled(domain: ContentionDomain, rates: dict[str, float]) -> dict[str, float]:
        factors = {name: mean_inverse([each.rate_factor(domain.id, name) for each in conditions]) for name in rates}
        return {name: rate / factors[name] for name, rate in rates.items() if name not in gone}

    domains = []
    for domain in reversed(_from_the_top(cluster)):  # a domain without members is no member of another either
        links = {
            sender: {
                receiver: rate / mean_inverse([each.link_factor(domain.id, sender, receiver) for each in conditions])
                for receiver, rate in others.items()
                if receiver not in gone
            }
            for sender, others in domain.links_bytes_per_s.items()
            if sender not in gone
        }
        rates, down = scaled(domain, domain.rates_bytes_per_s), scaled(domain, domain.down_rates_bytes_per_s)
        if rates or any(links.values()):
            changes = {"rates_bytes_per_s": rates, "down_rates_bytes_per_s": down, "links_bytes_per_s": links}
            domains.append(domain.replace(**changes))
        else:
            gone.add(domain.id)
    order = [domain.id for domain in cluster.domains]
    domains.sort(key=lambda domain: order.index(domain.id))
    return Surroundings(
        cluster.replace(devices=devices, domains=tuple(domains)), table.of_devices(np.array(there)).slower(slower)
    )


def _from_the_top(cluster: Cluster) -> list[ContentionDomain]:
    """The domains, each before those that are its members."""
    inside = {name: domain.id for domain in cluster.domains for name in domain.members}

    def depth(domain: ContentionDomain) -> int:
        name, levels = domain.id, 0
        while name in inside:
            name, levels = inside[name], levels + 1
        return levels

    return sorted(cluster.domains, key=depth)


def slowness(here: Surroundings, there: Surroundings) -> float:
    """The largest factor, 1 at most, by which every duration there can be multiplied without exceeding the one here.

    Makespans are maxima of sums of durations: here they are at least this factor times what they are there.
    """
    factors = [np.ones(1)]
    times = [
        (here.table.forward_s, there.table.forward_s),
        (here.table.backward_s, there.table.backward_s),
        (here.table.step_s, there.table.step_s),
    ]
    both = here.table.narrower.keys() & there.table.narrower.keys()
    times += [(here.table.narrower[each].forward_s, there.table.narrower[each].forward_s) for each in both]
    for ours, theirs in times:
        factors.append((ours[theirs > 0] / theirs[theirs > 0]).ravel())
    for domain, other in zip(here.cluster.domains, there.cluster.domains, strict=True):
        pairs = [(domain.rates_bytes_per_s, other.rates_bytes_per_s)]
        pairs.append((domain.down_rates_bytes_per_s, other.down_rates_bytes_per_s))
        pairs.extend((rates, other.links_bytes_per_s[name]) for name, rates in domain.links_bytes_per_s.items())
        for rates, others in pairs:
            factors.append(np.array([others[name] / rate for name, rate in rates.items()]))
    return float(min(each.min(initial=1.0) for each in factors))


def loads_s(plan: Plan, workload: Workload, surroundings: Surroundings, prediction: Prediction) -> dict[str, float]:
    """Seconds that one request keeps every device and every medium (or port of a switch) busy, by name."""
    busy = {each.device: each.busy_s for each in prediction.devices}
    return busy | held_s(plan, workload, surroundings.cluster)

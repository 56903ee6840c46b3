"""Why no plan keeps the limits, in words: what was asked, what can be reached, and what is proven impossible."""

from __future__ import annotations

import numpy as np

from dora_nb.domain.qoe import ROUNDING
from dora_nb.planning.hunt import Hunt
from dora_nb.units import format_joules, format_rate, format_seconds


def why_infeasible(hunt: Hunt) -> str:
    """What was asked, what can be reached, and what is proven impossible."""
    targets, parts = hunt.targets, []
    if targets.latency_plan is not None:
        within = f" within {format_joules(hunt.energy_limit_j)}" if np.isfinite(hunt.energy_limit_j) else ""
        proven = "impossible" if targets.latency_bound_s > hunt.latency_limit_s else "not found"
        parts.append(
            f"{_asked_latency(hunt)}{within} is {proven}: the best plan takes "
            f"{format_seconds(targets.best_latency_s)}, and none can take less than "
            f"{format_seconds(targets.latency_bound_s)}"
        )
    elif _own_limits(hunt):
        kept = {name: getattr(hunt.qoe, name) for name in ("latency_s", "samples_per_s", "energy_j")}
        freed = _freed(hunt, **kept)
        if freed.targets.latency_plan is None:
            return why_infeasible(freed)  # the limits on the whole plan alone are out of reach
        best_s = freed.targets.best_latency_s
        proven = "not found" if hunt.stopped else "impossible"
        parts.append(
            f"a plan that keeps {' and '.join(_own_limits(hunt))} is {proven}; without that the best plan takes "
            f"{format_seconds(best_s)}"
        )
    elif np.isfinite(hunt.energy_limit_j):
        freed = _freed(hunt, latency_s=hunt.qoe.latency_s, samples_per_s=hunt.qoe.samples_per_s)
        if freed.targets.best_latency_s > hunt.latency_limit_s * (1 + ROUNDING):
            return why_infeasible(freed)  # the latency alone is out of reach
        least_j, bound_j = freed.targets.best_energy_j[0], freed.targets.energy_bounds_j[0]
        if np.isfinite(least_j):
            within = f" within {format_seconds(hunt.latency_limit_s)}" if np.isfinite(hunt.latency_limit_s) else ""
            proven = "impossible" if bound_j > hunt.energy_limit_j else "not found"
            parts.append(
                f"an energy of {format_joules(hunt.energy_limit_j)}{within} is {proven}: the thriftiest plan takes "
                f"{format_joules(least_j)}, and none can take less than {format_joules(bound_j)}"
            )
    if not parts and hunt.stopped:
        parts.append(f"no plan was found before planning was stopped ({hunt.stopped})")
    arrival_s = hunt.problem.workload.arrival_s
    if not parts and arrival_s is not None:
        least_s = hunt.problem.workload.batch * float(hunt.problem.completion.load_s[0, -1])
        parts.append(
            f"no plan was found that fits the devices' memory and keeps up with a request every "
            f"{format_seconds(arrival_s)}; none can keep up with one every {format_seconds(least_s)} or less, and "
            "dora_nb.fastest_stream finds the largest rate"
        )
    if not parts:
        parts.append(
            "the network does not fit the devices' memory in any partition that was tried; "
            "use a smaller batch, a lower precision, or more devices"
        )
    return f"{hunt.problem.workload.name} on {hunt.problem.cluster.name}: {'; '.join(parts)}"


def _freed(hunt: Hunt, **limits: float | None) -> Hunt:
    """A hunt with no hard limits but these, its plans found."""
    question = hunt.question.with_qoe(hunt.qoe.without_limits.replace(**limits))
    freed = Hunt(question, hunt.gap, hunt.deadline, hunt.say)
    freed.find_fast_plans()
    freed.prove()
    freed.settle_schedules()
    return freed


def _asked_latency(hunt: Hunt) -> str:
    """Which limit the makespan is held to, in words."""
    qoe, limit = hunt.qoe, format_seconds(hunt.latency_limit_s)
    if qoe.latency_s == hunt.latency_limit_s:
        return f"a latency of {limit}"
    rate = qoe.samples_per_s
    if rate is not None and hunt.problem.workload.batch / rate == hunt.latency_limit_s:
        return f"a throughput of {format_rate(rate)} (a latency of {limit})"
    return f"a latency of {limit}, after which the battery of an idle device is over its limit,"


def _own_limits(hunt: Hunt) -> list[str]:
    """Hard limits of single devices, in words."""
    qoe, words = hunt.qoe, []
    if qoe.battery_j and qoe.battery_price is None:
        limits = ", ".join(f"{name} {format_joules(joules)}" for name, joules in qoe.battery_j.items())
        words.append(f"the battery limits ({limits})")
    if (qoe.headroom_fraction or qoe.headroom_bytes) and qoe.headroom_price is None:
        words.append("the memory headroom")
    return words

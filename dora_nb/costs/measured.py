"""A table of compute times from what devices were measured to take."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dora_nb.costs.table import CostTable, Floats
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.profile import BySamples, Profile
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError, UnknownNameError


def measured_table(workload: Workload, cluster: Cluster, profiles: Mapping[str, Profile]) -> CostTable:
    """Compute times of a workload on a cluster, as profiled.

    Between two numbers of samples that were measured times are interpolated; beyond the largest, and below the
    smallest, they are in proportion to the samples (our own choice).

    Parameters
    ----------
    workload
        With as many layers as were profiled, in the same mode.
    cluster
        Every device needs a profile.
    profiles
        By device id; devices that are alike may share one.

    Raises
    ------
    InputError
        If a device has no profile, or one is of another network or mode.
    """
    for name in profiles:
        if name not in cluster.device_ids:
            raise UnknownNameError("profiles", name, cluster.device_ids)
    missing = [name for name in cluster.device_ids if name not in profiles]
    if missing:
        raise InputError("profiles", sorted(profiles), f"one for every device; {', '.join(missing)} has none")
    for name, profile in profiles.items():
        found = (profile.workload.mode, [layer.name for layer in profile.workload.layers])
        if found != (workload.mode, [layer.name for layer in workload.layers]):
            raise InputError(f"profiles.{name}", profile.workload.name, "a profile of the same layers in the same mode")
    if workload.generates:
        raise InputError("workload.mode", workload.mode, "training, inference or stream: tokens are not profiled yet")
    shape = (len(workload.layers), len(cluster.devices), workload.batch + 1)
    forward, backward, step = np.zeros(shape), np.zeros(shape), np.zeros(shape[:2])
    for d, name in enumerate(cluster.device_ids):
        for index, layer in enumerate(profiles[name].layers):
            forward[index, d] = _by_samples(layer.forward_s, workload.batch)
            if workload.trains:
                backward[index, d] = _by_samples(layer.backward_s, workload.batch)
                step[index, d] = layer.step_s
    return CostTable(forward, backward, step, "measured")


def _by_samples(measured: BySamples, most: int) -> Floats:
    """Seconds of 0 to ``most`` samples."""
    counts = np.array(sorted(measured), dtype=float)
    seconds = np.array([measured[int(count)] for count in counts])
    wanted = np.arange(most + 1, dtype=float)
    found = np.interp(wanted, np.append(0.0, counts), np.append(0.0, seconds))
    beyond = wanted > counts[-1]
    found[beyond] = seconds[-1] * wanted[beyond] / counts[-1]
    return np.asarray(found)

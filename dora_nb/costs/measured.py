"""A table of compute times from what devices were measured to take: in profiles, or in a run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from dora_nb.costs.comparison import seconds_of
from dora_nb.costs.evaluate import step_seconds
from dora_nb.costs.table import CostTable, Floats
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.plan import HOSTED
from dora_nb.domain.profile import BySamples, LayerProfile, Profile
from dora_nb.domain.run_record import RunRecord
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
        # A stream's requests are batches of inference.
        found = (profile.workload.trains, [layer.name for layer in profile.workload.layers])
        if found != (workload.trains, [layer.name for layer in workload.layers]):
            raise InputError(f"profiles.{name}", profile.workload.name, "a profile of the same layers in the same mode")
    if workload.generates:
        raise InputError("workload.mode", workload.mode, "training, inference or stream: tokens are not profiled yet")
    return _table(workload, [profiles[name].layers for name in cluster.device_ids])


def run_table(record: RunRecord, cluster: Cluster | None = None, base: CostTable | None = None) -> CostTable:
    """Compute times of what ran, as measured while it ran.

    A run measures stages, not layers, and one number of samples. So the profile that the prediction was made from is
    kept in proportion: on every device all of its forward seconds are multiplied by measured over profiled seconds of
    the device's stage (medians over micro-batches and steps), its backward, step and token seconds likewise. That
    spreads what was measured over the layers of the stage, and carries it over to other layers and numbers of samples
    (our own choice). A hosted first layer was measured by itself and has a factor of its own.

    Parameters
    ----------
    record
        A run; its ``workload`` is what the table is of.
    cluster
        Whose devices the table has, in this order; None: ``record.cluster``, the devices that took part.
    base
        A table of the same workload and cluster for devices that did not take part; None: there may be none.

    Raises
    ------
    InputError
        If a device did not take part and there is no base.
    """
    cluster = record.cluster if cluster is None else cluster
    absent = [name for name in cluster.device_ids if name not in record.profile]
    if absent and base is None:
        raise InputError("cluster", absent, f"devices that took part ({', '.join(record.profile)}), or a base table")
    layers = [_as_run(record, name) if name in record.profile else () for name in cluster.device_ids]
    table = _table(record.workload, layers)
    if base is None or not absent:
        return table
    if base.forward_s.shape != table.forward_s.shape:
        raise InputError(
            "base", base.forward_s.shape, f"layers, devices and samples as in the run: {table.forward_s.shape}"
        )
    columns = [cluster.device_ids.index(name) for name in absent]
    for name in ("forward_s", "backward_s", "step_s", "token_s"):
        ours, theirs = getattr(table, name), getattr(base, name)
        if ours is not None and theirs is not None:
            ours[:, columns] = theirs[:, columns]
    return replace(table, status=base.status)


def _as_run(record: RunRecord, device: str) -> tuple[LayerProfile, ...]:
    """The profile of a device, times what its stage was measured to take over what it was profiled to take."""
    plan, layers = record.plan, record.profile[device]
    index = next(index for index, stage in enumerate(plan.stages) if device in stage.devices)
    stage = plan.stages[index]
    samples = stage.replicas[stage.devices.index(device)].samples
    own = layers[stage.first_layer : stage.stop_layer]

    def factor(kind: str, of: int, profiled_s: float) -> float:
        measured = seconds_of(record.compared_events, kind, of, device)
        return statistics.median(measured) / profiled_s if measured and profiled_s > 0 else 1.0

    def passes(of: int, profiled: Sequence[LayerProfile]) -> dict[str, float]:
        return {
            "forward": factor("forward", of, sum(each.forward_s[samples] for each in profiled)),
            "backward": factor("backward", of, sum(each.backward_s.get(samples, 0.0) for each in profiled)),
        }

    hosts = plan.hosts_first_layer(index)
    profiled = _table(record.workload, [layers])
    step_s = step_seconds(profiled, record.workload, 0, stage.first_layer, stage.stop_layer, hosts_first_layer=hosts)
    # The whole batch gets a token at a time.
    token_s = sum(each.token_s.get(plan.micro_batches * samples, 0.0) for each in own)
    factors = {"step": factor("step", index, step_s), "token": factor("decode", index, token_s)}
    scaled = [_scaled(each, factors | passes(index, own)) for each in layers]
    if hosts:
        scaled[0] = _scaled(layers[0], factors | passes(HOSTED, layers[:1]))
    return tuple(scaled)


def _scaled(layer: LayerProfile, factors: Mapping[str, float]) -> LayerProfile:
    def times(factor: float, by_samples: BySamples) -> BySamples:
        return {samples: factor * seconds for samples, seconds in by_samples.items()}

    return LayerProfile(
        forward_s=times(factors["forward"], layer.forward_s),
        backward_s=times(factors["backward"], layer.backward_s),
        step_s=factors["step"] * layer.step_s,
        token_s=times(factors["token"], layer.token_s),
    )


def _table(workload: Workload, by_device: Sequence[Sequence[LayerProfile]]) -> CostTable:
    """The layers of every device, where there are any, as a table."""
    shape = (len(workload.layers), len(by_device), workload.batch + 1)
    forward, backward, step = np.zeros(shape), np.zeros(shape), np.zeros(shape[:2])
    token = np.zeros(shape) if workload.generates else None
    for d, layers in enumerate(by_device):
        for index, layer in enumerate(layers):
            if token is not None and layer.token_s:
                token[index, d] = _by_samples(layer.token_s, workload.batch)
            forward[index, d] = _by_samples(layer.forward_s, workload.batch)
            if workload.trains:
                backward[index, d] = _by_samples(layer.backward_s, workload.batch)
                step[index, d] = layer.step_s
    return CostTable(forward, backward, step, "measured", token)


def _by_samples(measured: BySamples, most: int) -> Floats:
    """Seconds of 0 to ``most`` samples."""
    counts = np.array(sorted(measured), dtype=float)
    seconds = np.array([measured[int(count)] for count in counts])
    wanted = np.arange(most + 1, dtype=float)
    found = np.interp(wanted, np.append(0.0, counts), np.append(0.0, seconds))
    beyond = wanted > counts[-1]
    found[beyond] = seconds[-1] * wanted[beyond] / counts[-1]
    return np.asarray(found)

"""A table of compute times from what devices were measured to take: in profiles, or in a run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from dora_nb.costs.comparison import seconds_of
from dora_nb.costs.compute_times import step_seconds
from dora_nb.costs.shards import held_share
from dora_nb.costs.table import CostTable, Floats
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.profile import BySamples, LayerProfile, Profile
from dora_nb.domain.run_record import RunRecord
from dora_nb.domain.transfer import HOSTED
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError, UnknownNameError


def measured_table(workload: Workload, cluster: Cluster, profiles: Mapping[str, Profile]) -> CostTable:
    """Compute times of a workload on a cluster, as profiled.

    Between two numbers of samples that were measured times are interpolated; beyond the largest, and below the
    smallest, they are in proportion to the samples (our own choice). With weights in fewer bits the table has the times
    that all profiles have.

    Parameters
    ----------
    workload
        With as many layers as were profiled, in the same mode.
    cluster
        Every device needs a profile.
    profiles
        By device id; devices that are alike may share one.

    Returns
    -------
    CostTable

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
        raise InputError("profiles", sorted(profiles), f"one for every device; none is given for {', '.join(missing)}")
    for name, profile in profiles.items():
        # A stream's requests are batches of inference.
        found = (profile.workload.trains, [layer.name for layer in profile.workload.layers])
        if found != (workload.trains, [layer.name for layer in workload.layers]):
            raise InputError(f"profiles.{name}", profile.workload.name, "a profile of the same layers in the same mode")
    if workload.generates:
        raise InputError("workload.mode", workload.mode, "training, inference or stream: tokens are not profiled yet")
    layers = [profiles[name].layers for name in cluster.device_ids]
    timed = [set(layer.narrower_s) for each in layers for layer in each]
    narrower = {
        weights: _table(
            workload,
            [[layer.replace(forward_s=layer.narrower_s[weights]) for layer in each] for each in layers],
        )
        for weights in set.intersection(*timed)
    }
    return replace(_table(workload, layers), narrower=narrower)


def run_table(record: RunRecord, cluster: Cluster | None = None, base: CostTable | None = None) -> CostTable:
    """Compute times of what ran, as measured while it ran.

    A run measures stages, not layers, and one number of samples. So what was known before is kept in proportion: on
    every device all of its forward seconds are multiplied by measured over known seconds of the device's stage (medians
    over micro-batches and steps), its backward, step and token seconds likewise. That spreads what was measured over
    the layers of the stage, and carries it over to other layers and numbers of samples (our own choice). A hosted first
    layer was measured by itself and has a factor of its own. What was known is the base, or else the profile that the
    prediction was made from, which is of one number of samples.

    Where devices were imitated, a second of the plan took longer here (:attr:`RunRecord.dilation`). The table of a
    cluster that is given is in seconds of its devices, so that it can be planned with on its own network and beside a
    base; without one it is in seconds as they passed here, as the network of ``record.cluster`` is.

    Parameters
    ----------
    record
        A run; its ``workload`` is what the table is of.
    cluster
        Whose devices the table has, in this order: those planned for; None: ``record.cluster``, the devices that took
        part.
    base
        A table of the same workload and cluster: the times of devices that did not take part, and how those of the
        others grow with the samples; None: there may be none that did not take part.

    Raises
    ------
    InputError
        If a device did not take part and there is no base, or a stage held its weights in fewer bits.
    """
    held = next((stage.weights for stage in record.plan.stages if stage.weights), None)
    if held is not None:
        raise InputError(
            "record.plan.stages.weights", held, "None: a run with weights in fewer bits says nothing of others"
        )
    cluster = record.cluster if cluster is None else cluster
    dilation = 1.0 if cluster == record.cluster else record.dilation
    absent = [name for name in cluster.device_ids if name not in record.profile]
    if base is None:
        if absent:
            raise InputError(
                "cluster", absent, f"devices that took part ({', '.join(record.profile)}), or a base table"
            )
        profiled = _table(record.workload, [record.profile[name] for name in cluster.device_ids])
        table = _times(profiled, 1 / dilation)
    else:
        wanted = (len(record.workload.layers), len(cluster.devices), record.workload.batch + 1)
        if base.forward_s.shape != wanted:
            raise InputError("base", base.forward_s.shape, f"layers, devices and samples as in the run: {wanted}")
        table = _times(base, 1.0)
    for place, name in enumerate(cluster.device_ids):
        if name not in absent:
            _correct(table, place, record, name, dilation)
    return replace(table, status="measured" if base is None or not absent else base.status)


def _correct(table: CostTable, place: int, record: RunRecord, device: str, dilation: float) -> None:
    """Multiply a device's times by what its stage was measured to take over what they say.

    ``dilation`` measured seconds are one of the table's.
    """
    plan, workload = record.plan, record.workload
    index = next(index for index, stage in enumerate(plan.stages) if device in stage.devices)
    stage = plan.stages[index]
    at, own = stage.devices.index(device), slice(stage.first_layer, stage.stop_layer)
    samples, share = stage.replicas[at].samples, held_share(stage, at, workload)

    def factor(kind: str, of: int, known_s: float, again_s: float = 0.0) -> float:
        """Measured over known seconds; ``again_s`` of what was measured is forward passes run again."""
        measured = seconds_of(record.compared_events, kind, of, device)
        if not measured or known_s <= 0:
            return 1.0
        return max(statistics.median(measured) / dilation - again_s, 0.0) / known_s

    hosts = plan.hosts_first_layer(index)
    step_s = step_seconds(
        table, workload, place, stage.first_layer, stage.stop_layer, hosts_first_layer=hosts, share=share
    )
    table.step_s[:, place] *= factor("step", index, step_s)
    for kind, seconds in (("forward", table.forward_s), ("backward", table.backward_s)):
        hosted = factor(kind, HOSTED, float(seconds[0, place, samples])) if hosts else 1.0
        first_s = hosted * seconds[0, place]
        again_s = 0.0
        if kind == "backward":  # forward seconds are corrected by now
            again = stage.layers_again(len(workload.layers))
            again_s = float(table.forward_s[again.start : again.stop, place, samples].sum())
        seconds[:, place] *= factor(kind, index, float((share * seconds[own, place, samples]).sum()), again_s)
        if hosts:
            seconds[0, place] = first_s
    if table.token_s is not None:  # a group gets a token at a time
        tokens_s = table.token_s[own, place, plan.micro_batches // plan.token_groups * samples]
        known_s = float((share * tokens_s).sum())
        table.token_s[:, place] *= factor("decode", index, known_s)


def _times(table: CostTable, factor: float) -> CostTable:
    """A copy with all seconds multiplied."""
    token_s = None if table.token_s is None else factor * table.token_s
    return replace(
        table,
        forward_s=factor * table.forward_s,
        backward_s=factor * table.backward_s,
        step_s=factor * table.step_s,
        token_s=token_s,
        narrower={},
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

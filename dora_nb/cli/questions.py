"""What the options of planning commands ask: a workload on a cluster, a QoE, measured times."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dora_nb.errors import InputError
from dora_nb.units import counted, format_count

if TYPE_CHECKING:
    from dora_nb.costs.table import CostTable
    from dora_nb.domain.cluster import Cluster
    from dora_nb.domain.profile import Profile
    from dora_nb.domain.qoe import QoE
    from dora_nb.domain.workload import Workload
    from dora_nb.formulation.space import SearchSpace


#: Options that say how a network is used.
_USES = ("mode", "batch", "sequence", "image_px", "precision", "new_tokens")


def question(options: Mapping[str, Any]) -> tuple[Workload, Cluster, QoE]:
    """What the options of ``plan`` and ``explain`` ask.

    Raises
    ------
    DoraError
        If a name is not known, a file cannot be read, or an option cannot be used.
    """
    from dora_nb import catalog
    from dora_nb.domain.qoe import QoE

    profiled = options["workload"] is None and options["profile"]
    for name in ("cluster", "workload"):
        if options[name] is None and not (profiled and name == "workload"):
            raise InputError(f"--{name}", None, f"a name in the catalogue or a file; say which {name} to plan for")
    cluster = catalog.load_cluster(options["cluster"])
    if profiled:
        workload = _profiled(options)
    else:
        chosen = {name: options[name] for name in (*_USES, "source", "sink")}
        workload = catalog.load_workload(options["workload"], requests_per_s=options["rate"], **chosen)
    qoe = QoE(
        objective=options["objective"],
        joules_per_s=options["joules_per_second"],
        latency_s=options["latency"],
        latency_price=options["latency_price"],
        samples_per_s=options["throughput"],
        throughput_price=options["throughput_price"],
        energy_j=options["energy"],
        energy_price=options["energy_price"],
        battery_j=_batteries(options["battery"] or []),
        battery_price=options["battery_price"],
        **_headroom(options["headroom"]),
        headroom_price=options["headroom_price"],
        energy_accounting=options["accounting"],
    )
    return workload, cluster, qoe


def _profiled(options: Mapping[str, Any]) -> Workload:
    """The workload that was profiled: a network of one's own is in no catalogue."""
    from dora_nb.cli.planning import plan

    found: Workload = next(iter(_profiles(options["profile"]).values())).workload
    for name in (*_USES, "rate"):
        by_itself = inspect.signature(plan).parameters[name].default
        if options[name] not in (by_itself, getattr(found, name, by_itself)):
            raise InputError(
                name, options[name], "nothing without --workload: the profiles say how the network is used"
            )
    return found.replace(source=options["source"], sink=options["sink"])


def _batteries(written: list[str]) -> dict[str, str]:
    """Battery limits by device."""
    limits: dict[str, str] = {}
    for each in written:
        device, found, limit = each.rpartition("=")
        if not found or not device or device in limits:
            raise InputError("battery", each, "device=energy, e.g. 'phone=300 J', once for each device")
        limits[device] = limit
    return limits


def _headroom(written: str | None) -> dict[str, float]:
    """Headroom as a share, where it is written as one, or in bytes."""
    from dora_nb.units import parse, parse_field

    if written is None:
        return {}
    try:
        return {"headroom_fraction": parse(written, "fraction")}
    except ValueError:
        return {"headroom_bytes": parse_field("headroom", written, "size")}


def measured_times(written: list[str], workload: Workload, cluster: Cluster) -> CostTable | None:
    """Compute times from profile files, where there are any.

    Raises
    ------
    DoraError
        If it is not one usable profile for each device.
    """
    from dora_nb.costs.measured import measured_table

    return measured_table(workload, cluster, _profiles(written)) if written else None


def _profiles(written: list[str]) -> dict[str, Profile]:
    """Profiles by device."""
    from dora_nb.domain.profile_file import load_profile

    profiles = {}
    for each in written:
        device, found, path = each.partition("=")
        if not found or not device or device in profiles:
            raise InputError("profile", each, "device=FILE, e.g. 'phone=phone.json', once for each device")
        profiles[device] = load_profile(path)
    return profiles


def search_space(workload: Workload, cluster: Cluster, weights: list[str] | None, shards: int) -> SearchSpace | None:
    """The plans to search where more is allowed than a search has by itself, else None.

    Raises
    ------
    InputError
        If the weights are not known, or the layers cannot be sliced.
    """
    from dora_nb.formulation.space import SearchSpace

    if not weights and shards == 1:
        return None
    return SearchSpace.of(workload, cluster, weights=tuple(weights or ()), shards=shards)


def setting_lines(workload: Workload, cluster: Cluster, qoe: QoE) -> list[str]:
    """The workload, the cluster and the QoE in a line each."""
    from dora_nb.render.words import demand_words, qoe_words

    size = ""
    if workload.sequence or workload.image_px:  # a network of one's own has neither
        size = f" x {counted(workload.sequence, 'token') if workload.sequence else f'{workload.image_px} px images'}"
    size += "".join(f", {part}" for part in demand_words(workload))
    return [
        f"  workload  {workload.name}, {workload.mode}, batch {workload.batch}{size}, {workload.precision}: "
        f"{counted(len(workload.layers), 'layer')}, {format_count(workload.parameters)} parameters",
        f"  cluster   {cluster.name}: {', '.join(cluster.device_ids)}",
        f"  QoE       {qoe_words(qoe).removeprefix('Asked for: ')}",
    ]

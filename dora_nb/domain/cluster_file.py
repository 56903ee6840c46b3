"""Cluster files: a cluster as JSON in the form of the catalogue's deployments, every number with its source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dora_nb.domain.cluster import Cluster, ContentionDomain, Device, Provenance
from dora_nb.domain.document import write_json
from dora_nb.units import UNITS

#: Dimension of every number of a device and of a contention domain, by field.
DEVICE_DIMENSIONS = {
    "memory_bytes": "size",
    "usable_memory_fraction": "fraction",
    "flops_per_s": "compute",
    "memory_bytes_per_s": "rate",
    "layer_overhead_s": "time",
    "idle_w": "power",
    "active_w": "power",
}
DOMAIN_DIMENSIONS = {
    "rates_bytes_per_s": "rate",
    "down_rates_bytes_per_s": "rate",
    "links_bytes_per_s": "rate",
    "latency_s": "time",
    "energy_j_per_byte": "energy per byte",
}

_NO_SOURCE = Provenance(status="assumed", source="given without a source")


def save_cluster(path: str | Path, cluster: Cluster) -> Path:
    """Write a cluster to a file that :func:`dora_nb.load_cluster` reads.

    Numbers are in SI units, to the last bit. One without a source is written as assumed, given without a source.

    Parameters
    ----------
    path
        Where to; an existing file is replaced once the new one is complete.
    cluster
        What to write.

    Returns
    -------
    Path
        Where it is now.

    Raises
    ------
    DocumentError
        If the file cannot be written.
    """
    document = {
        "name": cluster.name,
        "description": cluster.description,
        "devices": [_entry(device, DEVICE_DIMENSIONS) for device in cluster.devices],
        "domains": [_entry(domain, DOMAIN_DIMENSIONS) for domain in cluster.domains],
    }
    return write_json(path, document, indent=2)


def _entry(record: Device | ContentionDomain, dimensions: dict[str, str]) -> dict[str, Any]:
    """A device or a domain, its numbers as quantities; what is as it would be without a word is left out."""
    entry: dict[str, Any] = {}
    for name, field in type(record).model_fields.items():
        value = getattr(record, name)
        sourced = any(path == name or path.startswith(f"{name}.") for path in record.sources)
        if name == "sources" or (value == field.get_default(call_default_factory=True) and not sourced):
            continue
        entry[name] = _quantities(value, dimensions[name], name, record.sources) if name in dimensions else value
    return entry


def _quantities(value: Any, dimension: str, path: str, sources: dict[str, Provenance]) -> Any:
    """A number, or numbers under names, each with unit, status and source."""
    if isinstance(value, dict):
        return {name: _quantities(each, dimension, f"{path}.{name}", sources) for name, each in value.items()}
    provenance = sources.get(path, _NO_SOURCE).model_dump(exclude_defaults=True)
    return {"value": value, "unit": next(iter(UNITS[dimension]))} | provenance

"""Devices, models, deployments, streams, conditions and dynamics that come with dora_nb, and files of the same form.

Every number in those files is a quantity: an object with ``value``, ``unit``, ``status`` and ``source`` (``note`` if
there is more to say). Reading turns it into the SI number of its field and keeps the rest as
:class:`~dora_nb.domain.cluster.Provenance`.
"""

from dora_nb.catalog.folder import Kind, data_dir, names
from dora_nb.catalog.loading import (
    DEFAULT_SEQUENCE,
    load_cluster,
    load_conditions,
    load_device,
    load_dynamics,
    load_streams,
    load_workload,
)

__all__ = [
    "DEFAULT_SEQUENCE",
    "Kind",
    "data_dir",
    "load_cluster",
    "load_conditions",
    "load_device",
    "load_dynamics",
    "load_streams",
    "load_workload",
    "names",
]

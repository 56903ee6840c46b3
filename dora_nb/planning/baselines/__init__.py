"""Planners to compare with: our own re-implementations, on the same cost model as our plans."""

from collections.abc import Callable

from dora_nb.domain.plan import Plan
from dora_nb.formulation.problem import Problem
from dora_nb.planning.baselines.asteroid import asteroids
from dora_nb.planning.baselines.choice import best_of
from dora_nb.planning.baselines.data_parallel import data_parallels
from dora_nb.planning.baselines.edgeshard import edgeshards
from dora_nb.planning.baselines.even_split import even_split, even_splits
from dora_nb.planning.baselines.memory_proportional import memory_proportionals
from dora_nb.planning.baselines.pipeedge import pipeedges
from dora_nb.planning.baselines.sequential import sequential, sequentials
from dora_nb.planning.baselines.single_device import single_device, single_devices
from dora_nb.planning.baselines.uniform_pipeline import uniform_pipelines

#: Every baseline by its name: all its alternatives that fit in memory, finished. :func:`best_of` takes one of them.
BASELINES: dict[str, Callable[[Problem], list[Plan]]] = {
    "best single device": single_devices,
    "even split": even_splits,
    "memory-proportional": memory_proportionals,
    "data parallel": data_parallels,
    "EdgeShard": edgeshards,
    "Asteroid": asteroids,
    "PipeEdge": pipeedges,
    "PipeDream/Alpa": uniform_pipelines,
    "in sequence": sequentials,
}

__all__ = [
    "BASELINES",
    "asteroids",
    "best_of",
    "data_parallels",
    "edgeshards",
    "even_split",
    "even_splits",
    "memory_proportionals",
    "pipeedges",
    "sequential",
    "sequentials",
    "single_device",
    "single_devices",
    "uniform_pipelines",
]

"""Planners to compare with: our own re-implementations, on the same cost model as our plans."""

from dora_nb.planning.baselines.choice import best_of
from dora_nb.planning.baselines.even_split import even_split, even_splits
from dora_nb.planning.baselines.single_device import single_device, single_devices

__all__ = ["best_of", "even_split", "even_splits", "single_device", "single_devices"]

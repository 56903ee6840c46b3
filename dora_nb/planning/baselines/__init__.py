"""Planners to compare with: our own re-implementations, on the same cost model as our plans."""

from dora_nb.planning.baselines.even_split import even_split
from dora_nb.planning.baselines.single_device import single_device

__all__ = ["even_split", "single_device"]

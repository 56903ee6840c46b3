"""The runtime adapter: keeps a QoE with a few resident plans while networks and devices change."""

from dora_nb.adaptation.adapter import Adapter
from dora_nb.adaptation.clairvoyant import Clairvoyant
from dora_nb.adaptation.log import AdapterEvent
from dora_nb.adaptation.replanning import Background, Delayed, planner_for

__all__ = ["Adapter", "AdapterEvent", "Background", "Clairvoyant", "Delayed", "planner_for"]

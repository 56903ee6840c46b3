"""What is compared: three deployments, four models, training and inference, and what changes around them.

All of it is our own composition, fixed before any figure was known; the paper's own deployments are not at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dora_nb.catalog import load_cluster, load_conditions, load_workload
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.conditions import Conditions
from dora_nb.domain.workload import Workload

#: Deployments of the catalogue, each with what it goes through.
CONDITIONS = {
    "smart-home": "smart-home-evening",
    "traffic-analytics": "traffic-rush-hour",
    "edge-cluster": "edge-cluster-day",
}

MODELS = ("bert-base", "vit-b-16", "qwen3-0.6b", "qwen3-1.7b")

#: Samples of an iteration, and of a batch.
BATCH = {"training": 16, "inference": 8}

#: The latency limit of a setting, as a multiple of the makespan of the fastest baseline.
SLACK = 1.5

#: Of a dynamic cell: requests at the limit that make a window of the ledger, and windows of a trace.
WINDOW_REQUESTS, WINDOWS = 20, 40


@dataclass(frozen=True)
class Setting:
    """One workload on one deployment.

    Attributes
    ----------
    deployment, model, mode
        Names in the catalogue, and ``training`` or ``inference``.
    """

    deployment: str
    model: str
    mode: Literal["training", "inference"]

    @property
    def cluster(self) -> Cluster:
        """The deployment when nothing influences it."""
        return load_cluster(self.deployment)

    @property
    def workload(self) -> Workload:
        """The model in single precision, at the catalogue's sequence length or image size."""
        return load_workload(self.model, mode=self.mode, batch=BATCH[self.mode])

    @property
    def conditions(self) -> Conditions:
        """What the deployment goes through under dynamics."""
        return load_conditions(CONDITIONS[self.deployment])

    def __str__(self) -> str:
        return f"{self.deployment}, {self.model}, {self.mode}"


def _settings(models: tuple[str, ...]) -> tuple[Setting, ...]:
    modes: tuple[Literal["training", "inference"], ...] = ("training", "inference")
    return tuple(Setting(place, model, mode) for place in CONDITIONS for model in models for mode in modes)


FULL = _settings(MODELS)

#: The part of it that a minute is enough for: every deployment once, both modes.
QUICK = (
    Setting("smart-home", "vit-b-16", "training"),
    Setting("traffic-analytics", "vit-b-16", "inference"),
    Setting("edge-cluster", "vit-b-16", "inference"),
)

#: Seeds of the traces of a dynamic cell.
SEEDS = (0, 1, 2)

"""What devices hold when several plans are resident at once: parameters that plans share are held once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.shards import held_share
from dora_nb.costs.table import ADAMW_STATE_BYTES, Floats
from dora_nb.domain.plan import Plan
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError


def state_bytes_per_parameter(workload: Workload) -> int:
    """Bytes that stay from one request or iteration to the next: the parameter and, in training, AdamW's moments."""
    return workload.bytes_per_element + (ADAMW_STATE_BYTES if workload.trains else 0)


def unit_bytes(workload: Workload) -> Floats:
    """State bytes of every unit of parameters, shape (layers + 1,).

    A unit is what a device holds as a whole: one layer's own parameters, and last the parameters that the first and
    the last layer share.
    """
    shared = workload.tied_parameters
    own = [layer.parameters - (layer.tied_parameters if shared else 0) for layer in workload.layers]
    return np.array([*own, shared], dtype=float) * state_bytes_per_parameter(workload)


def held_units(plan: Plan, workload: Workload) -> dict[str, frozenset[int]]:
    """Units of parameters that each device of a plan holds; see :func:`unit_bytes`.

    Raises
    ------
    InputError
        If a stage has shards: a device then holds parts of units.
    """
    for index, stage in enumerate(plan.stages):
        if stage.shards:
            allowed = "() in a plan that is switched to or kept beside others: what moves or is shared is whole layers"
            raise InputError(f"plan.stages[{index}].shards", stage.shards, allowed)
    return {device: frozenset(units) for device, units in held_shares(plan, workload).items()}


def held_shares(plan: Plan, workload: Workload) -> dict[str, dict[int, float]]:
    """The share of every unit of parameters that each device of a plan holds any of; 1 but for sliced layers."""
    layers = len(workload.layers)
    held: dict[str, dict[int, float]] = {}
    for index, stage in enumerate(plan.stages):
        units = dict.fromkeys(range(stage.first_layer, stage.stop_layer), 1.0)
        if plan.tied == "hosted" and index == len(plan.stages) - 1:
            units[0] = 1.0
        if workload.tied_parameters and units.keys() & {0, layers - 1}:
            units[layers] = 1.0
        for place, device in enumerate(stage.devices):
            shares = held_share(stage, place, workload).tolist()
            held[device] = units | dict(zip(range(stage.first_layer, stage.stop_layer), shares, strict=True))
    return held


@dataclass(frozen=True)
class Residents:
    """Plans that are to be resident together, and what they need on every device.

    Attributes
    ----------
    workload
        What they run.
    plans
        With their predictions.
    device_ids
        The devices of the cluster.
    """

    workload: Workload
    plans: tuple[Plan, ...]
    device_ids: tuple[str, ...]

    @cached_property
    def held(self) -> NDArray[np.bool_]:
        """Whether a plan holds a unit on a device, shape (plans, devices, units)."""
        held = np.zeros((len(self.plans), len(self.device_ids), len(self.workload.layers) + 1), dtype=bool)
        for j, plan in enumerate(self.plans):
            for device, units in held_units(plan, self.workload).items():
                held[j, self.device_ids.index(device), list(units)] = True
        return held

    @cached_property
    def unit_bytes(self) -> Floats:
        """Bytes of every unit."""
        return unit_bytes(self.workload)

    @cached_property
    def working_bytes(self) -> Floats:
        """What a plan needs on a device while it runs, beyond the state that stays; shape (plans, devices)."""
        working = np.zeros(self.held.shape[:2])
        for j, plan in enumerate(self.plans):
            if plan.prediction is None:
                raise InputError("plan.prediction", None, "a plan that was evaluated")
            for device in plan.prediction.devices:
                d = self.device_ids.index(device.device)
                working[j, d] = max(device.memory_bytes - self.unit_bytes[self.held[j, d]].sum(), 0.0)
        return working

    def resident_bytes(self, chosen: Sequence[int], together: bool = False) -> Floats:
        """Bytes on every device when some of the plans are resident, shape (devices,).

        Parameters
        ----------
        chosen
            Indices of the plans.
        together
            Whether requests of several plans may be under way at once, so that what they need while they run adds up;
            else the neediest of them counts.
        """
        indices = list(chosen)
        if not indices:
            return np.zeros(len(self.device_ids))
        working = self.working_bytes[indices]
        at_work = working.sum(axis=0) if together else working.max(axis=0)
        return np.asarray(self.held[indices].any(axis=0) @ self.unit_bytes + at_work)

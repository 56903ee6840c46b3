"""What if: a faster network, a slower phone, more memory, a larger batch, a device less."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from dora_nb.domain.cluster import Cluster
from dora_nb.domain.conditions import Factor
from dora_nb.domain.record import Record
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError, UnknownNameError
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.space import SearchSpace
from dora_nb.planning.question import Question
from dora_nb.render import words


class WhatIf(Record):
    """What is other than it was when the plans were asked for.

    Attributes
    ----------
    bandwidth
        What all rates of the network are multiplied by.
    speed, memory
        By device: what its computing, or its memory, is multiplied by.
    batch
        Samples per iteration or batch; None: as asked.
    off
        Devices that are switched off.
    """

    bandwidth: Factor = 1.0
    speed: dict[str, Factor] = Field(default_factory=dict)
    memory: dict[str, Factor] = Field(default_factory=dict)
    batch: Annotated[int, Field(ge=1)] | None = None
    off: tuple[str, ...] = ()

    def with_changes(self, **changes: Any) -> WhatIf:
        """A checked copy with some fields changed; of ``speed`` and ``memory`` those of the devices that are named."""
        merged = dict(changes)
        for field in ("speed", "memory"):
            given = changes.get(field)
            if isinstance(given, Mapping):
                merged[field] = getattr(self, field) | dict(given)
        if isinstance(changes.get("off"), str):
            raise InputError("off", changes["off"], "a list of devices")
        new = self.replace(**merged)
        return new.replace(speed=_unlike_1(new.speed), memory=_unlike_1(new.memory), off=tuple(sorted(set(new.off))))

    @property
    def is_none(self) -> bool:
        """Whether everything is as it was."""
        return self == WhatIf()

    def cluster(self, cluster: Cluster) -> Cluster:
        """The cluster as it is then."""
        left = cluster.without(self.off)
        there = set(left.device_ids)
        speeds = {name: factor for name, factor in self.speed.items() if name in there}
        memory = {name: factor for name, factor in self.memory.items() if name in there}
        return left.scaled(rates=self.bandwidth, speeds=speeds, memory=memory)

    def workload(self, workload: Workload) -> Workload:
        """The workload as it is then."""
        return workload if self.batch is None else workload.replace(batch=self.batch)

    def lines(self) -> list[str]:
        """What is other, in words."""
        said = [f"bandwidth x {self.bandwidth:.3g}"] if self.bandwidth != 1 else []
        said += [f"speed of {name} x {factor:.3g}" for name, factor in self.speed.items()]
        said += [f"memory of {name} x {factor:.3g}" for name, factor in self.memory.items()]
        said += [] if self.batch is None else [f"batch {self.batch}"]
        return said + ([f"without {words.sentence(self.off)}"] if self.off else [])


def _unlike_1(factors: Mapping[str, float]) -> dict[str, float]:
    return {name: factor for name, factor in factors.items() if factor != 1}


def check(asked: Question, what_if: WhatIf) -> None:
    """Refuse what cannot be.

    Raises
    ------
    InputError
        Naming the field, the value and what is allowed.
    """
    ids, workload = asked.cluster.device_ids, asked.workload
    for field in ("speed", "memory", "off"):
        for name in getattr(what_if, field):
            if name not in ids:
                raise UnknownNameError(field, name, ids)
    for role in ("source", "sink"):
        if getattr(workload, role) in what_if.off:
            raise InputError("off", what_if.off, f"devices other than {getattr(workload, role)}, which is the {role}")
    if set(what_if.off) >= set(ids):
        raise InputError("off", what_if.off, "at least one device left")
    batch = workload.batch if what_if.batch is None else what_if.batch
    if asked.table is not None and batch > asked.table.forward_s.shape[2] - 1:
        most = asked.table.forward_s.shape[2] - 1
        raise InputError("batch", batch, f"at most {most}, the most samples that the measured times are of")
    _space(asked, what_if.workload(workload))


def question_under(asked: Question, what_if: WhatIf) -> Question:
    """The question as it was asked, on the cluster and for the workload as they are then.

    Parameters
    ----------
    asked
        The question without any what-if.
    what_if
        Checked by :func:`check`.
    """
    if what_if.is_none:
        return asked
    there = [index for index, name in enumerate(asked.cluster.device_ids) if name not in what_if.off]
    battery_j = {name: joules for name, joules in asked.qoe.battery_j.items() if name not in what_if.off}
    qoe = asked.qoe.replace(battery_j=battery_j, battery_price=asked.qoe.battery_price if battery_j else None)
    workload, cluster = what_if.workload(asked.workload), what_if.cluster(asked.cluster)
    table = asked.table
    if table is not None:
        ids = asked.cluster.device_ids
        slower = np.array([1 / what_if.speed.get(ids[index], 1.0) for index in there])
        table = table.of_devices(np.array(there)).up_to(workload.batch).slower(slower)
    changed = replace(asked, workload=workload, cluster=cluster, qoe=qoe, table=table, space=_space(asked, workload))
    if asked.space != _default_space(asked):
        return changed
    return replace(changed, space=_default_space(changed))


def _space(asked: Question, workload: Workload) -> SearchSpace:
    """The plans to consider, with the micro-batches that divide another batch."""
    if workload.batch == asked.workload.batch or asked.space == _default_space(asked):
        return asked.space
    sizes = tuple(size for size in asked.space.micro_batch_sizes if workload.batch % size == 0)
    if not sizes:
        allowed = f"a multiple of one of the micro-batches to consider ({asked.space.micro_batch_sizes})"
        raise InputError("batch", workload.batch, allowed)
    return replace(asked.space, micro_batch_sizes=sizes)


def _default_space(question: Question) -> SearchSpace:
    return Problem.of(
        question.workload,
        question.cluster,
        question.qoe.energy_accounting,
        qoe=question.qoe,
        table=question.table,
        overlap=question.overlap,
    ).space

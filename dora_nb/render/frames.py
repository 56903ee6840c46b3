"""A plan's stages and its schedule as data frames, with units in the column names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dora_nb.domain.plan import Plan

if TYPE_CHECKING:
    import pandas as pd

_STAGE_DTYPES: dict[str, Any] = {
    "stage": "int64",
    "first_layer": "int64",
    "stop_layer": "int64",
    "device": "str",
    "samples": "int64",
    "parts": "Int64",
    "in_flight": "int64",
    "hosts_first_layer": "bool",
    "recomputes": "bool",
    "all_reduce": "str",
    "busy_s": "float64",
    "memory_bytes": "float64",
    "usable_memory_bytes": "float64",
    "energy_j": "float64",
}

_SCHEDULE_DTYPES: dict[str, Any] = {
    "kind": "str",
    "stage": "int64",
    "micro_batch": "int64",
    "part": "int64",
    "senders": "str",
    "receivers": "str",
    "media": "str",
    "start_s": "float64",
    "end_s": "float64",
}


def stage_frame(plan: Plan) -> pd.DataFrame:
    """One row for every device of every stage, first stage first; what is predicted is empty without a prediction.

    ``parts`` is what a device holds of every sliced layer, and empty where it holds whole layers.
    """
    import pandas as pd

    figures = {} if plan.prediction is None else {each.device: each for each in plan.prediction.devices}
    rows = [
        {
            "stage": index,
            "first_layer": stage.first_layer,
            "stop_layer": stage.stop_layer,
            "device": replica.device,
            "samples": replica.samples,
            "parts": stage.shards[place] if stage.shards else None,
            "in_flight": stage.in_flight,
            "hosts_first_layer": plan.hosts_first_layer(index),
            "recomputes": stage.recomputes,
            "all_reduce": None if stage.all_reduce is None else stage.all_reduce.algorithm,
            **{
                name: getattr(figures.get(replica.device), name, None)
                for name in ("busy_s", "memory_bytes", "usable_memory_bytes", "energy_j")
            },
        }
        for index, stage in enumerate(plan.stages)
        for place, replica in enumerate(stage.replicas)
    ]
    return pd.DataFrame(rows, columns=list(_STAGE_DTYPES)).astype(_STAGE_DTYPES)


def schedule_frame(plan: Plan) -> pd.DataFrame:
    """One row for every transfer of the predicted schedule, by start; without rows where there is none."""
    import pandas as pd

    schedule = () if plan.prediction is None else plan.prediction.schedule
    rows = [
        each.model_dump() | {name: " ".join(getattr(each, name)) for name in ("senders", "receivers", "media")}
        for each in schedule
    ]
    return pd.DataFrame(rows, columns=list(_SCHEDULE_DTYPES)).astype(_SCHEDULE_DTYPES)

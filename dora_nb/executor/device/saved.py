"""What a device writes of its layers to a file, and what several files come to where devices hold shards.

A file of a device with shards says in its metadata how its tensors are sliced, so that whoever reads those of all
devices of a stage can put whole tensors together.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Literal

from safetensors import safe_open
from torch import Tensor

from dora_nb.domain.plan import Plan
from dora_nb.executor.device.replica import Replica
from dora_nb.executor.device.shard_stages import shard_stages
from dora_nb.executor.networks.shards import Slice
from dora_nb.executor.networks.tensor_file import write_tensors

#: What is written: outputs of the last batch, parameters and gradients as they are, or all that training goes on from.
Saved = Literal["outputs", "parameters", "states"]

_SLICES = "slices"


def save(replica: Replica, what: Saved, layers: Iterable[int] | None, path: pathlib.Path) -> None:
    """Write tensors of a device.

    Parameters
    ----------
    replica
        The device's.
    what
        Which tensors.
    layers
        Of which layers, of ``states``; None: of all.
    path
        Where to.
    """
    tensors: dict[str, Tensor] = {}
    slices: dict[str, Slice] = {}
    match what:
        case "outputs":
            tensors = {f"output/{index}": each for index, each in replica.outputs.items()}
            tensors |= {f"token/{index}": each for index, each in replica.tokens.items()}
        case "parameters":
            for name, parameter in replica.named_parameters():
                tensors[f"parameter/{name}"] = parameter.detach()
                if parameter.grad is not None:
                    tensors[f"gradient/{name}"] = parameter.grad
            for layer in replica.layers:
                for name, how in replica.slices(layer).items():
                    slices |= dict.fromkeys((f"parameter/{layer}.{name}", f"gradient/{layer}.{name}"), how)
        case "states":
            for layer in replica.layers if layers is None else layers:
                tensors |= {f"{layer}/{name}": each for name, each in replica.state(layer).items()}
                for name, how in replica.slices(layer).items():
                    kinds = ("parameter", "exp_avg", "exp_avg_sq")
                    slices |= dict.fromkeys((f"{layer}/{kind}/{name}" for kind in kinds), how)
            if not replica.speaks:  # what is whole here, the leader writes
                tensors = {name: each for name, each in tensors.items() if name in slices}
    write_tensors(tensors, path, {_SLICES: json.dumps(slices)} if slices else None)


def read_whole(paths: Mapping[str, pathlib.Path], plan: Plan) -> dict[str, dict[str, Tensor]]:
    """What the devices of a plan wrote, sliced tensors put together under the leader of their stage.

    Parameters
    ----------
    paths
        Of the files, by device: all those of a stage that has shards, or none.
    plan
        That ran.

    Returns
    -------
    tensors by name, by device
    """
    read: dict[str, dict[str, Tensor]] = {}
    slices: dict[str, dict[str, Slice]] = {}
    for device, path in paths.items():
        with safe_open(path, framework="pt") as file:
            read[device] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            described = json.loads((file.metadata() or {}).get(_SLICES, "{}"))
            slices[device] = {name: Slice(*how) for name, how in described.items()}
    for stage in shard_stages(plan):
        if stage.leader in read:
            own = [read[device] for device in stage.devices]
            for name, how in slices[stage.leader].items():
                if name in own[0]:
                    own[0][name] = how.whole([tensors.pop(name) for tensors in own])
    return read

"""Training written down so that it can go on later: layers with their optimizer state, one file a device.

A checkpoint is a directory ``step-000012`` with safetensors files of keys ``layer/name`` and, written last,
``checkpoint.json``: a directory without it is not a checkpoint. Every layer is written once, whoever else has a copy.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError

from dora_nb.domain.plan import Plan
from dora_nb.domain.record import Record
from dora_nb.errors import DocumentError, ExecutionError, InputError
from dora_nb.executor.faults.moves import holders_of
from dora_nb.units import counted

if TYPE_CHECKING:  # what a checkpoint says of itself needs no torch
    from torch import Tensor

    from dora_nb.executor.session import Session

MANIFEST, VERSION = "checkpoint.json", 1


class Checkpoint(Record):
    """What a checkpoint says of itself.

    Attributes
    ----------
    version
        Of this format.
    completed
        Training steps behind it.
    files
        The file of each layer.
    losses
        Of the steps so far.
    """

    version: int = VERSION
    completed: int = Field(ge=0)
    files: dict[int, str]
    losses: tuple[float, ...] = ()


def directory_of(root: pathlib.Path, completed: int) -> pathlib.Path:
    """Where the checkpoint behind so many steps lies."""
    return root / f"step-{completed:06d}"


def finish(directory: pathlib.Path, checkpoint: Checkpoint) -> None:
    """Make written files a checkpoint, and remove older ones beside it."""
    unfinished = directory / f".{MANIFEST}.part"
    unfinished.write_text(checkpoint.model_dump_json(indent=1), encoding="utf-8")
    os.replace(unfinished, directory / MANIFEST)
    for other in directory.parent.glob("step-*"):
        if other != directory and (other / MANIFEST).is_file() and other.name < directory.name:
            shutil.rmtree(other)


def latest(root: pathlib.Path) -> pathlib.Path | None:
    """The checkpoint with the most steps in a directory."""
    return max((each.parent for each in root.glob(f"step-*/{MANIFEST}")), default=None)


def read_checkpoint(directory: pathlib.Path) -> Checkpoint:
    """What a checkpoint says of itself.

    Raises
    ------
    InputError
        If the directory is not a checkpoint of this format.
    """
    try:
        content = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        checkpoint = Checkpoint.model_validate(content)
    except (OSError, ValueError, ValidationError) as error:
        raise InputError("checkpoint", str(directory), f"a directory with a {MANIFEST} of a run; {error}") from error
    if checkpoint.version != VERSION:
        raise InputError("checkpoint.version", checkpoint.version, f"version {VERSION}")
    return checkpoint


def check_room(root: pathlib.Path, steps: int, *, resume: bool, trains: bool) -> None:
    """Refuse a directory in which a run could not write its checkpoints, or not find the one it is to go on from.

    Raises
    ------
    InputError
        If nothing is trained, checkpoints of another run would lie beside this one's, or there is none to resume from,
        or one that has all the steps asked for already.
    """
    found = latest(root)
    if not resume:
        if found is not None and trains:
            allowed = f"a directory without those of another run, or to resume from its {found.name}"
            raise InputError("checkpoints", str(root), allowed)
        return
    if not trains:
        raise InputError("resume", resume, "training: a batch of inference has nothing to go on from")
    if found is None:
        raise InputError("resume", str(root), "a directory with a checkpoint that a run wrote there")
    completed = read_checkpoint(found).completed
    if completed >= steps:
        raise InputError("steps", steps, f"more than {completed}, those before {found}: they count from the first on")


def read_layers(directory: pathlib.Path, layers: Collection[int]) -> dict[int, Mapping[str, Tensor]]:
    """States of some layers; nothing else is read.

    Raises
    ------
    ExecutionError
        If a layer is not there.
    """
    from safetensors import safe_open

    checkpoint = read_checkpoint(directory)
    if missing := sorted(set(layers) - checkpoint.files.keys()):
        raise ExecutionError(f"{directory} has no layers {missing}")
    states: dict[int, Mapping[str, Tensor]] = {}
    for name in {checkpoint.files[layer] for layer in layers}:
        with safe_open(directory / name, framework="pt") as file:
            for layer in (each for each in layers if checkpoint.files[each] == name):
                own = [key for key in file.keys() if key.startswith(f"{layer}/")]  # noqa: SIM118 - not a dict
                states[layer] = {key.partition("/")[2]: file.get_tensor(key) for key in own}
    return states


def write_checkpoint(session: Session, root: pathlib.Path, losses: Sequence[float]) -> None:
    """Write down a session's training as it is, with the losses so far."""
    plan = session.plan
    assert plan is not None, "something ran"
    directory = directory_of(root, session.completed)
    try:
        _write(session, plan, directory, losses)
    except OSError as error:
        raise DocumentError(directory, f"a checkpoint cannot be written: {error.strerror or error}") from error


def _write(session: Session, plan: Plan, directory: pathlib.Path, losses: Sequence[float]) -> None:
    # Workers on other hosts reach the private directory alone; nothing counts before the manifest is written.
    staging = session.pool.directory / "checkpoint"
    staging.mkdir(exist_ok=True)
    directory.mkdir(parents=True, exist_ok=True)
    written = session.save("states", staging)
    for stage in plan.stages:
        own = {device: written[device] for device in stage.devices}
        if stage.shards:
            _put_together(own, plan, directory / own[stage.leader].name)
        else:
            for path in own.values():
                shutil.move(path, directory / path.name)
    holders = holders_of(plan)
    files = {layer: written[devices[0]].name for layer, devices in holders.items()}
    finish(directory, Checkpoint(completed=session.completed, files=files, losses=tuple(losses)))


def _put_together(paths: Mapping[str, pathlib.Path], plan: Plan, path: pathlib.Path) -> None:
    """Write the whole layers of a stage's shards, so that any plan can go on from them."""
    from dora_nb.executor.device.saved import read_whole
    from dora_nb.executor.networks.tensor_file import write_tensors

    write_tensors({name: each for own in read_whole(paths, plan).values() for name, each in own.items()}, path)
    for each in paths.values():
        each.unlink()


def checkpoint_to_resume(session: Session, root: pathlib.Path | None) -> tuple[pathlib.Path, Checkpoint]:
    """The latest checkpoint in a directory, where a session's workers can read it.

    Raises
    ------
    InputError
        If there is none, or it is of another network.
    """
    found = latest(root) if root is not None else None
    if found is None:
        raise InputError("resume", str(root), "a directory with a checkpoint that a run wrote there")
    checkpoint = read_checkpoint(found)
    layers = session.task.layer_count
    if set(checkpoint.files) != set(range(layers)):
        raise InputError("resume", str(found), f"a checkpoint of this network, which has {counted(layers, 'layer')}")
    if session.pool.connected:  # they reach the private directory alone
        found = pathlib.Path(shutil.copytree(found, session.pool.directory / found.name))
    return found, checkpoint

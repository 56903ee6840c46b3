"""After a fault: how far the living devices got together, and what plan they can go on with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dora_nb.domain.plan import Plan
from dora_nb.errors import ExecutionError
from dora_nb.executor.control.replies import Stock
from dora_nb.executor.course import Course, StoppedError
from dora_nb.executor.device.shard_stages import shard_stage_of, shard_stages, shards_stay
from dora_nb.executor.faults.checkpoint import latest, read_checkpoint
from dora_nb.executor.faults.fallback import first_without, without
from dora_nb.executor.faults.moves import holders_of
from dora_nb.executor.session import DeviceLostError
from dora_nb.units import counted

#: By device, and by number of training steps behind their state: layers.
Layers = Mapping[str, Mapping[int, Sequence[int]]]


class Restart(NamedTuple):
    """Where and how to go on.

    Attributes
    ----------
    plan
        With devices that are there, in the form that is run.
    completed
        Training steps behind the states that all devices have in common.
    holders
        Who has which layer then.
    fresh
        Whether what nobody has starts as the network's source has it: nothing was trained yet.
    loss
        Of a step that all devices completed, though not all of them lived to say so; None if they go on from one that
        was over.
    """

    plan: Plan
    completed: int
    holders: Mapping[int, Sequence[str]]
    fresh: bool
    loss: float | None


def restart_of(
    fault: ExecutionError,
    plan: Plan,
    completed: int,
    present: frozenset[str],
    stock: Mapping[str, Stock],
    course: Course,
) -> Restart:
    """Where and how to go on after a fault.

    Parameters
    ----------
    fault
        What happened.
    plan
        That ran, in the form that is run.
    completed
        Training steps that were over.
    present
        Devices that are there.
    stock
        What they have.
    course
        Its fallbacks come first, best first; where none will do, the plan is changed as little as possible.

    Raises
    ------
    StoppedError
        If it cannot go on: no device is left, or a layer's only state is gone, or shards would have to change place.
    """
    layers = sorted(holders_of(plan))
    there = whole_layers(plan, {device: own.layers for device, own in stock.items()})
    loss = _unheard_loss(plan, completed + 1, stock)
    found = latest_complete(there, layers, completed + (loss is not None))
    fresh = not completed
    if fresh:
        found = 0, {layer: [device for device, own in there.items() if layer in own.get(0, ())] for layer in layers}
    if found is None:
        raise _stopped(fault, plan, completed, there, course)
    new = _plan_for(present, plan, course)
    if new is None:
        raise StoppedError(f"no device is left to go on with after {counted(found[0], 'step')}: {fault}") from fault
    if not shards_stay(plan, new):
        if not fresh:
            raise _stopped(fault, plan, completed, there, course, "shards of layers cannot change place")
        found = 0, {layer: [] for layer in layers}  # from where the network comes from
    return Restart(new, *found, fresh, loss if found[0] > completed else None)


def whole_layers(plan: Plan, stock: Layers) -> Layers:
    """What devices have without the shards that do not make up whole layers, because some of them are gone.

    Parameters
    ----------
    plan
        That ran.
    stock
        By device and number of steps: layers, of which those that hold shards have their part.
    """
    left = {device: dict(own) for device, own in stock.items()}
    for stage in shard_stages(plan):
        for device in stage.devices:
            for completed, layers in left.get(device, {}).items():
                if not all(set(layers) <= set(stock.get(each, {}).get(completed, ())) for each in stage.devices):
                    left[device][completed] = ()
    return left


def latest_complete(
    stock: Mapping[str, Mapping[int, Sequence[int]]], layers: Sequence[int], most: int | None = None
) -> tuple[int, dict[int, list[str]]] | None:
    """The most steps after which the living devices together have every layer, and who has which.

    Parameters
    ----------
    stock
        By device and number of steps: layers.
    layers
        Those of the network.
    most
        Of steps that count; None: all.

    Returns
    -------
    completed, holders by layer; None if there is no such number of steps
    """
    for completed in sorted({each for own in stock.values() for each in own}, reverse=True):
        if most is not None and completed > most:
            continue
        holders = {
            layer: [device for device, own in sorted(stock.items()) if layer in own.get(completed, ())]
            for layer in layers
        }
        if all(holders.values()):
            return completed, holders
    return None


def _unheard_loss(plan: Plan, completed: int, stock: Mapping[str, Stock]) -> float | None:
    """The loss of a step that was reported by some devices or none; None if a part of it is gone or not there yet.

    A step whose loss nobody knows does not count as completed, whatever states there are.
    """
    last = plan.stages[-1].devices  # where the loss is computed
    parts = [own.losses[completed] for device in last if (own := stock.get(device)) and completed in own.losses]
    return sum(parts) if len(parts) == len(last) else None


def _plan_for(present: frozenset[str], plan: Plan, course: Course) -> Plan | None:
    if present.issuperset(plan.devices):
        return plan
    found = first_without((course.in_run_form(each) for each in course.fallbacks), present)
    if found is not None:
        return found
    left: Plan | None = plan
    for device in plan.devices:
        if left is not None and device not in present:
            left = without(left, device)
    return left


def _stopped(
    fault: ExecutionError,
    plan: Plan,
    completed: int,
    stock: Layers,
    course: Course,
    held: str = "no common state is left",
) -> StoppedError:
    """A clean end that says what is lost and what is not."""
    there = {layer for own in stock.values() for layers in own.values() for layer in layers}
    gone = sorted(set(holders_of(plan)) - there)
    if isinstance(fault, DeviceLostError) and gone:
        what = "shards of layers" if shard_stage_of(plan, fault.device) else "layers"
        held = f"{fault.device} alone held {what} {gone}"
    last = latest(course.checkpoints) if course.checkpoints is not None else None
    if last is None:
        hope = "there is no checkpoint: all steps are lost; give 'checkpoints', or copies='neighbours'"
    else:
        kept = read_checkpoint(last).completed
        hope = (
            f"the last checkpoint is {last}, after {counted(kept, 'step')}; what it lacks, "
            f"{counted(completed - kept, 'step')}, is lost; "
            f"go on with resume=True"
        )
    return StoppedError(f"stopped after {counted(completed, 'step')}: {held}; {hope}. {fault}")

"""A planning problem in own numbers: measured times of every layer, tensors between layers, devices by type.

Where :class:`~dora_nb.domain.workload.Workload` and :class:`~dora_nb.domain.cluster.Cluster` let the cost model
predict, this says what things take, and by which rules they add up (:class:`Execution`). Any directed acyclic graph of
layers will do.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Literal, Self

from pydantic import Field, model_validator

from dora_nb.domain.record import Record
from dora_nb.errors import InputError, UnknownNameError
from dora_nb.units import Bytes, BytesPerS, Seconds


class Way(Record):
    """One way to run a layer.

    Attributes
    ----------
    way
        Its name among the ways of the layer, e.g. ``recompute``.
    shards
        Devices that the layer is cut over; all layers of a stage have the same.
    time_s
        Measured seconds of one sample or micro-batch by device type, on each of the shards; forward and backward
        together where both run on one device. A type without an entry cannot run the layer.
    memory_bytes
        What a device holds for it once.
    in_flight_bytes
        What a device holds for it for every micro-batch in flight.
    parameter_bytes
        Gradients that replicas sum.
    more_bytes
        What running it this way adds to the bytes of a hand-over from or to another layer, by that layer's name.
    """

    way: str = Field(default="plain", min_length=1)
    shards: int = Field(default=1, ge=1)
    time_s: dict[str, Seconds]
    memory_bytes: Bytes = 0.0
    in_flight_bytes: Bytes = 0.0
    parameter_bytes: Bytes = 0.0
    more_bytes: dict[str, Bytes] = Field(default_factory=dict)


class MeasuredLayer(Way):
    """A layer, and the way it runs unless another is chosen.

    Attributes
    ----------
    name
        Unique in its problem.
    group
        Layers of one group share a device. None: the layer is free.
    backward
        Whether it is a backward pass: bound by its group only, not by the order of stages.
    alternatives
        Other ways to run it.
    """

    name: str = Field(min_length=1)
    group: str | None = None
    backward: bool = False
    alternatives: tuple[Way, ...] = ()

    @property
    def ways(self) -> tuple[Way, ...]:
        """Every way to run it."""
        return (self, *self.alternatives)

    @model_validator(mode="after")
    def _check(self) -> Self:
        seen: set[tuple[str, int]] = set()
        for index, alternative in enumerate(self.ways):
            if (alternative.way, alternative.shards) in seen:
                field = f"alternatives[{index - 1}].way"
                raise InputError(
                    field, alternative.way, f"a name that no other way with {alternative.shards} shards has"
                )
            seen.add((alternative.way, alternative.shards))
        return self


class Tensor(Record):
    """What one layer hands to others. It crosses a boundary once, however many layers behind it use it.

    Attributes
    ----------
    producer
        The layer it comes from; None: an input of the network, which is where it is needed and only fills buffers.
    consumers
        The layers that use it; none: an output of the network, which only fills buffers.
    bytes
        Of one sample or micro-batch.
    transfer_s
        Measured seconds that sending or receiving it takes a device, whatever its type; on top of the bytes over the
        device's rate, so give one of the two.
    """

    producer: str | None = None
    consumers: tuple[str, ...] = ()
    bytes: Bytes = 0.0
    transfer_s: Seconds = 0.0


class DeviceType(Record):
    """Devices that cannot be told apart.

    Attributes
    ----------
    type
        Name of the type.
    count
        How many there are. Some may be left idle.
    memory_bytes
        What a model may fill on each; None: no limit.
    bytes_per_s
        Rate at which each sends and receives; None: hand-overs take its devices no time.
    """

    type: str = Field(min_length=1)
    count: int = Field(default=1, ge=1)
    memory_bytes: Bytes | None = None
    bytes_per_s: BytesPerS | None = None


class Medium(Record):
    """A medium that hand-overs share, such as one Wi-Fi channel.

    Attributes
    ----------
    name
        Unique in its problem.
    bytes_per_s
        Rate by device type: sending or receiving n bytes holds the medium for n over the rate. What other types send
        and receive does not touch it.
    """

    name: str = Field(default="medium", min_length=1)
    bytes_per_s: dict[str, BytesPerS] = Field(min_length=1)


class Execution(Record):
    """By which rules measured numbers add up.

    Attributes
    ----------
    objective
        ``period``: seconds from one sample to the next in a full pipeline. ``latency``: of one sample, first to last.
    stages
        ``contiguous``: stages follow one another, no tensor goes back to an earlier one. ``any``: a device may run any
        set of layers.
    transfers
        Whose time a tensor takes: ``both-ends``, ``sender``, ``receiver``, or ``link``: a link of its own between a
        stage and the next, at the smaller of the two rates, over which everything travels that is needed behind it.
    overlap
        ``none``: transfers add to a stage's computing. ``half-duplex``: a stage computes while it sends or receives.
        ``duplex``: it computes, sends and receives at once. Links are always beside computing.
    first_stage_sends
        Whether sending takes the first stage time.
    crossings
        How often a tensor crosses: 1, or 2 where its gradient comes back.
    most_replicas
        Devices on one stage that take turns; None: as many as there are of its type.
    micro_batches
        Micro-batches of an iteration, after which replicas sum gradients: the replicas of a stage divide them, and
        there are no more replicas in all. None: a stream without iterations, replicas sum after one sample each.
    all_reduce_passes
        How often ``(replicas - 1) / replicas`` of the parameter bytes pass a replica's port when gradients are summed:
        2, or 4 where sending and receiving take turns. Summing adds to computing.
    in_flight
        Micro-batches a stage holds: ``one``, or ``pipeline``: replicas from it to the end over its own, rounded up.
    input_copies, receive_copies, output_copies
        Buffers a stage has for each tensor it uses from outside, for each of these that is received from a device (on
        top), and for each it hands over.
    """

    objective: Literal["period", "latency"] = "period"
    stages: Literal["contiguous", "any"] = "contiguous"
    transfers: Literal["both-ends", "sender", "receiver", "link"] = "both-ends"
    overlap: Literal["none", "half-duplex", "duplex"] = "none"
    first_stage_sends: bool = True
    crossings: Literal[1, 2] = 1
    most_replicas: int | None = Field(default=1, ge=1)
    micro_batches: int | None = Field(default=None, ge=1)
    all_reduce_passes: Literal[2, 4] = 2
    in_flight: Literal["one", "pipeline"] = "one"
    input_copies: int = Field(default=0, ge=0)
    receive_copies: int = Field(default=0, ge=0)
    output_copies: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.most_replicas != 1 and self.objective == "latency":
            raise InputError(
                "most_replicas", self.most_replicas, "1 with objective 'latency': one sample is on one device"
            )
        if self.most_replicas != 1 and self.transfers == "link":
            raise InputError("most_replicas", self.most_replicas, "1 with transfers 'link'")
        if self.stages == "any":
            for field, wanted in _ANY.items():
                if getattr(self, field) != wanted:
                    raise InputError(field, getattr(self, field), f"{wanted!r} with stages 'any', which have no order")
        return self


#: What sets of layers without an order of stages cannot say.
_ANY: dict[str, object] = {
    "objective": "period",
    "first_stage_sends": True,
    "most_replicas": 1,
    "in_flight": "one",
    "input_copies": 0,
    "receive_copies": 0,
    "output_copies": 0,
}


class MeasuredProblem(Record):
    """What to place, on what, and by which rules.

    Attributes
    ----------
    name, note
        For people: what it is, and where its numbers come from.
    layers
        Every layer under a name of its own, in any order.
    tensors
        What layers hand to each other.
    devices
        Device types.
    media
        What hand-overs share, if anything. Each is held for at most the period.
    execution
        How numbers add up.
    """

    name: str = Field(min_length=1)
    note: str = ""
    layers: tuple[MeasuredLayer, ...] = Field(min_length=1)
    tensors: tuple[Tensor, ...] = ()
    devices: tuple[DeviceType, ...] = Field(min_length=1)
    media: tuple[Medium, ...] = ()
    execution: Execution = Field(default_factory=Execution)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _once("layers", "name", [layer.name for layer in self.layers])
        _once("devices", "type", [device.type for device in self.devices])
        types = [device.type for device in self.devices]
        for index, layer in enumerate(self.layers):
            for place, way in enumerate(layer.ways):
                where = f"layers[{index}]" + (f".alternatives[{place - 1}]" if place else "")
                _known(f"{where}.time_s", way.time_s, types)
                _known(f"{where}.more_bytes", way.more_bytes, self.layer_index)
            if not any(way.time_s for way in layer.ways):
                raise InputError(f"layers[{index}].time_s", {}, f"a time on at least one of {', '.join(types)}")
        for index, tensor in enumerate(self.tensors):
            ends = [tensor.producer] if tensor.producer is not None else []
            _known(f"tensors[{index}].producer", ends, self.layer_index)
            _known(f"tensors[{index}].consumers", tensor.consumers, self.layer_index)
            if tensor.producer in tensor.consumers:
                raise InputError(
                    f"tensors[{index}].consumers", list(tensor.consumers), "layers other than its producer"
                )
            if not ends and not tensor.consumers:
                raise InputError(f"tensors[{index}]", None, "a producer, consumers, or both")
        _once("media", "name", [medium.name for medium in self.media])
        for index, medium in enumerate(self.media):
            _known(f"media[{index}].bytes_per_s", medium.bytes_per_s, types)
        self._check_execution()
        self._check_acyclic()
        return self

    def _check_execution(self) -> None:
        if self.execution.transfers == "link":
            for index, device in enumerate(self.devices):
                if device.bytes_per_s is None:
                    raise InputError(f"devices[{index}].bytes_per_s", None, "a rate with transfers 'link'")
            for index, tensor in enumerate(self.tensors):
                if tensor.transfer_s:
                    raise InputError(
                        f"tensors[{index}].transfer_s", tensor.transfer_s, "0 with transfers 'link': give bytes"
                    )
        if self.execution.stages == "any" or self.media:
            what = "media" if self.media else "stages 'any'"
            for index, layer in enumerate(self.layers):
                if layer.alternatives or layer.shards > 1:
                    raise InputError(
                        f"layers[{index}].alternatives",
                        [way.way for way in layer.ways],
                        f"one way, unsharded, with {what}",
                    )
        if self.execution.stages == "any" and self.media:
            raise InputError("media", [medium.name for medium in self.media], "none with stages 'any'")
        if self.execution.stages == "any" and self.execution.transfers == "link":
            raise InputError("execution.transfers", "link", "another one with stages 'any', which have no next stage")

    def _check_acyclic(self) -> None:
        """Layers can be worked off one after the other, forward and backward ones."""
        waits = {layer.name: 0 for layer in self.layers}
        after: dict[str, list[str]] = {layer.name: [] for layer in self.layers}
        for tensor in self.tensors:
            if tensor.producer is not None:
                after[tensor.producer].extend(tensor.consumers)
                for name in tensor.consumers:
                    waits[name] += 1
        ready = [name for name, count in waits.items() if not count]
        while ready:
            for name in after[ready.pop()]:
                waits[name] -= 1
                if not waits[name]:
                    ready.append(name)
        circle = [name for name, count in waits.items() if count > 0]
        if circle:
            raise InputError("tensors", circle[:10], "no circle: these layers wait for each other")

    @cached_property
    def layer_index(self) -> dict[str, int]:
        """Position of every layer by name."""
        return {layer.name: index for index, layer in enumerate(self.layers)}

    def __repr__(self) -> str:
        from dora_nb.render.placement import problem_text  # a method that looks up a room: imported when called

        return problem_text(self)

    __str__ = __repr__


def _once(field: str, key: str, names: list[str]) -> None:
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if name in first:
            raise InputError(f"{field}[{index}].{key}", name, f"a name of its own; {field}[{first[name]}] has it too")
        first[name] = index


def _known(field: str, names: Iterable[str], known: Iterable[str]) -> None:
    every = set(known)
    for name in names:
        if name not in every:
            raise UnknownNameError(field, name, every)

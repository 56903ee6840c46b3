"""What a placement takes, from the problem's numbers in plain loops: the second computation of every answer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dora_nb.domain.placement import Evaluation, PlacedStage, StageLoad
from dora_nb.domain.problem import DeviceType, MeasuredProblem, Tensor, Way
from dora_nb.errors import InputError


def evaluate_placement(problem: MeasuredProblem, stages: Sequence[PlacedStage]) -> Evaluation:
    """What a placement takes and whether it is one.

    Parameters
    ----------
    problem
        Times, tensors, devices and rules.
    stages
        First to last, where the problem's stages follow one another.

    Raises
    ------
    InputError
        If a stage names a layer, a device or a way that there is not, so that nothing can be computed.
    """
    return _Sums(problem, stages).evaluation()


class _Sums:
    def __init__(self, problem: MeasuredProblem, stages: Sequence[PlacedStage]) -> None:
        self.problem, self.stages, self.rules = problem, stages, problem.execution
        self.home: dict[str, int] = {}
        self.broken: list[str] = []
        for index, stage in enumerate(stages):
            for name in stage.layers:
                if name not in problem.layer_index:
                    raise InputError(f"stages[{index}].layers", name, "layers of the problem")
                if name in self.home:
                    self.broken.append(f"layer {name} is in two stages")
                self.home[name] = index
        missing = [layer.name for layer in problem.layers if layer.name not in self.home]
        if missing:
            raise InputError("stages", missing[:10], "a stage for every layer; these have none")
        self.devices = [self._device(index) for index in range(len(stages))]
        self.ways = {name: self._way(name, stage) for stage in stages for name in stage.layers}

    def _device(self, index: int) -> DeviceType:
        for device in self.problem.devices:
            if device.type == self.stages[index].device:
                return device
        known = ", ".join(device.type for device in self.problem.devices)
        raise InputError(f"stages[{index}].device", self.stages[index].device, known)

    def _way(self, name: str, stage: PlacedStage) -> Way:
        layer = self.problem.layers[self.problem.layer_index[name]]
        wanted = stage.ways.get(name, layer.way)
        for way in layer.ways:
            if way.way == wanted and way.shards == stage.shards and stage.device in way.time_s:
                return way
        known = [f"{way.way} x {way.shards} on {', '.join(way.time_s)}" for way in layer.ways]
        raise InputError(f"ways of layer {name}", f"{wanted} x {stage.shards} on {stage.device}", "; ".join(known))

    def evaluation(self) -> Evaluation:
        """Everything, stage by stage."""
        loads = tuple(self._load(index) for index in range(len(self.stages)))
        self._check_groups()
        self._check_counts()
        if self.rules.stages == "contiguous":
            self._check_order()
        parts = [load.stage_s for load in loads] + [load.link_s for load in loads]
        if self.rules.objective == "latency":
            serial = [load.compute_s + load.receive_s + load.send_s + load.link_s for load in loads]
            value_s = math.fsum(serial)
        else:
            shared = [math.fsum(load.media_s[medium.name] for load in loads) for medium in self.problem.media]
            value_s = max([*parts, *shared])
        return Evaluation(value_s=value_s, loads=loads, broken=tuple(self.broken))

    def _load(self, index: int) -> StageLoad:
        stage, device, rules = self.stages[index], self.devices[index], self.rules
        ways = [self.ways[name] for name in stage.layers]
        received = [tensor for tensor in self.problem.tensors if self._enters(tensor, index)]
        sent = [tensor for tensor in self.problem.tensors if self._leaves(tensor, index)]
        compute_s = sum(way.time_s[stage.device] for way in ways) / stage.replicas
        receive_s = sum(self._seconds(tensor, index) for tensor in received) * rules.crossings / stage.replicas
        send_s = sum(self._seconds(tensor, index) for tensor in sent) * rules.crossings / stage.replicas
        if rules.transfers in ("sender", "link"):
            receive_s = 0.0
        if rules.transfers in ("receiver", "link") or (index == 0 and not rules.first_stage_sends):
            send_s = 0.0
        all_reduce_s = self._all_reduce_s(stage, device, ways)
        memory_bytes = self._memory_bytes(index, ways, received, sent)
        if device.memory_bytes is not None and memory_bytes > device.memory_bytes:
            self.broken.append(
                f"stage {index} needs {memory_bytes:.17g} bytes, {stage.device} has {device.memory_bytes:.17g}"
            )
        busy_s = compute_s + all_reduce_s
        stage_s = {
            "none": busy_s + receive_s + send_s,
            "half-duplex": max(busy_s, receive_s + send_s),
            "duplex": max(busy_s, receive_s, send_s),
        }[rules.overlap]
        return StageLoad(
            compute_s=compute_s,
            all_reduce_s=all_reduce_s,
            receive_s=receive_s,
            send_s=send_s,
            link_s=self._link_s(index),
            media_s=self._media_s(index, received, sent),
            stage_s=stage_s,
            memory_bytes=memory_bytes,
        )

    def _enters(self, tensor: Tensor, index: int) -> bool:
        if tensor.producer is None or self.home[tensor.producer] == index:
            return False
        return any(self.home[name] == index for name in tensor.consumers)

    def _leaves(self, tensor: Tensor, index: int) -> bool:
        if tensor.producer is None or self.home[tensor.producer] != index:
            return False
        return any(self.home[name] != index for name in tensor.consumers)

    def _bytes(self, tensor: Tensor, index: int) -> float:
        """Bytes at this stage's end of a tensor that enters or leaves it, with what the ways of its layers add."""
        assert tensor.producer is not None, "inputs do not travel"
        if self.home[tensor.producer] == index:
            more = self.ways[tensor.producer].more_bytes
            return tensor.bytes + sum(more.get(name, 0.0) for name in tensor.consumers if self.home[name] != index)
        users = [self.ways[name] for name in tensor.consumers if self.home[name] == index]
        return tensor.bytes + sum(way.more_bytes.get(tensor.producer, 0.0) for way in users)

    def _seconds(self, tensor: Tensor, index: int) -> float:
        rate = self.devices[index].bytes_per_s
        return 0.0 if rate is None else tensor.transfer_s + self._bytes(tensor, index) / rate

    def _all_reduce_s(self, stage: PlacedStage, device: DeviceType, ways: list[Way]) -> float:
        if stage.replicas == 1 or device.bytes_per_s is None:
            return 0.0
        share = (stage.replicas - 1) / stage.replicas
        moved = self.rules.all_reduce_passes * share * sum(way.parameter_bytes for way in ways)
        return moved / device.bytes_per_s / (self.rules.micro_batches or stage.replicas)

    def _memory_bytes(self, index: int, ways: list[Way], received: list[Tensor], sent: list[Tensor]) -> float:
        rules, stage = self.rules, self.stages[index]
        in_flight = 1
        if rules.in_flight == "pipeline":
            in_flight = -(-sum(each.replicas for each in self.stages[index:]) // stage.replicas)
        inputs = [tensor for tensor in self.problem.tensors if tensor.producer is None and self._uses(tensor, index)]
        outputs = [
            tensor
            for tensor in self.problem.tensors
            if tensor.producer is not None and self.home[tensor.producer] == index and not tensor.consumers
        ]
        buffers = rules.input_copies * sum(tensor.bytes for tensor in received + inputs)
        buffers += rules.receive_copies * sum(tensor.bytes for tensor in received)
        buffers += rules.output_copies * sum(tensor.bytes for tensor in sent + outputs)
        return sum(way.memory_bytes for way in ways) + in_flight * sum(way.in_flight_bytes for way in ways) + buffers

    def _uses(self, tensor: Tensor, index: int) -> bool:
        return any(self.home[name] == index for name in tensor.consumers)

    def _link_s(self, index: int) -> float:
        """Everything that is needed behind a stage and made before or in it, at the smaller rate of the two."""
        if self.rules.transfers != "link" or index == len(self.stages) - 1:
            return 0.0
        live = [
            tensor.bytes
            for tensor in self.problem.tensors
            if tensor.producer is not None
            and self.home[tensor.producer] <= index
            and any(self.home[name] > index for name in tensor.consumers)
        ]
        rates = [self.devices[place].bytes_per_s for place in (index, index + 1)]
        return self.rules.crossings * sum(live) / min(rate for rate in rates if rate is not None)

    def _media_s(self, index: int, received: list[Tensor], sent: list[Tensor]) -> dict[str, float]:
        moved = self.rules.crossings * sum(tensor.bytes for tensor in received + sent)
        rates = {medium.name: medium.bytes_per_s.get(self.stages[index].device) for medium in self.problem.media}
        return {name: 0.0 if rate is None else moved / rate for name, rate in rates.items()}

    def _check_groups(self) -> None:
        homes: dict[str, int] = {}
        for layer in self.problem.layers:
            if (
                layer.group is not None
                and homes.setdefault(layer.group, self.home[layer.name]) != self.home[layer.name]
            ):
                self.broken.append(f"group {layer.group} is in two stages")

    def _check_counts(self) -> None:
        for device in self.problem.devices:
            used = sum(each.replicas * each.shards for each in self.stages if each.device == device.type)
            if used > device.count:
                self.broken.append(f"{used} devices of type {device.type}, there are {device.count}")
        for index, stage in enumerate(self.stages):
            most = self.rules.most_replicas
            if most is not None and stage.replicas > most:
                self.broken.append(f"stage {index} has {stage.replicas} replicas, at most {most} may be")
        if self.rules.micro_batches is not None:
            for index, stage in enumerate(self.stages):
                if self.rules.micro_batches % stage.replicas:
                    self.broken.append(f"{stage.replicas} replicas of stage {index} do not divide the micro-batches")
            if sum(stage.replicas for stage in self.stages) > self.rules.micro_batches:
                self.broken.append("more replicas than micro-batches")

    def _check_order(self) -> None:
        """No forward tensor goes back to an earlier stage."""
        backward = {layer.name for layer in self.problem.layers if layer.backward}
        for tensor in self.problem.tensors:
            if tensor.producer is None or tensor.producer in backward:
                continue
            for name in tensor.consumers:
                if name not in backward and self.home[name] < self.home[tensor.producer]:
                    self.broken.append(f"a tensor goes back from {tensor.producer} to {name}")

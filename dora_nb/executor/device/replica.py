"""What one device computes: its copy or shard of a stage, and the first layer where it hosts it.

A device that generates keeps the keys and values of its own layers, of its own samples; see
:mod:`~dora_nb.executor.device.generation`.

Layers that mix the samples of a pass (batch normalisation) see the part of the micro-batch that this device takes, and
each replica keeps statistics of its own; dropout draws from each worker's own random numbers. A layer that is run again
before its backward pass draws the same numbers as before and leaves its statistics alone. What a plan computes
equals one process to rounding where layers treat every sample alone and draw nothing at random, or, as to statistics,
where a stage has a single replica.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from dora_nb.costs.buckets import bucket_layers
from dora_nb.domain.plan import Plan
from dora_nb.domain.run_timeline import INFERENCE
from dora_nb.domain.transfer import HOSTED
from dora_nb.executor.device.adamw import AdamW
from dora_nb.executor.device.again import run_again
from dora_nb.executor.device.generation import Generation
from dora_nb.executor.device.gradients import full_in, gradients_of
from dora_nb.executor.device.instructions import HandOver
from dora_nb.executor.device.layer_state import load_state, state_of
from dora_nb.executor.device.passes import Pass
from dora_nb.executor.device.serving import SlotStage
from dora_nb.executor.device.shard import HeldShard, refuse_dropout, summands_of
from dora_nb.executor.device.shard_stages import shard_stage_of
from dora_nb.executor.networks.chain import built_layer, parameters_once, tie, tied_names
from dora_nb.executor.networks.shards import Slice, slices_of
from dora_nb.executor.networks.weights import held_in
from dora_nb.executor.tasks.data import micro_batch
from dora_nb.executor.tasks.loss import part_of_loss
from dora_nb.executor.tasks.task import Data, Loss, MicroBatch, Network, Task, torch_dtype

#: Tensors of a layer by name; see :func:`~dora_nb.executor.device.layer_state.state_of`.
LayerState = Mapping[str, Tensor]


class Replica:
    """A device's layers, the passes under way, and the optimizer.

    Parameters
    ----------
    device
        Its id in the plan.
    plan
        Whose layers are those of the task's network.
    task
        What is computed.
    states
        Layers that are not to start as the network's source has them, by index.
    kept
        This device's replica under another plan: layers that both hold go on as they are, without being copied, and
        the other replica must not be used any more. If either plan gives the device a shard, both give it the same one.
    """

    def __init__(
        self,
        device: str,
        plan: Plan,
        task: Task,
        *,
        states: Mapping[int, LayerState] | None = None,
        kept: Replica | None = None,
    ) -> None:
        task.make_importable()
        network: Network = task.network.build()
        self.task = task
        self._data: Data = task.data.build()
        self._device_id = device
        self.device = torch.device(task.torch_devices.get(device, "cpu"))
        self.stage = next(index for index, stage in enumerate(plan.stages) if device in stage.devices)
        stage = plan.stages[self.stage]
        self.interval = stage.intervals[stage.devices.index(device)]
        self._loss: Loss = task.loss.function()
        self._plan = plan
        self._in_flight = min(stage.in_flight, plan.micro_batches)
        self._again = stage.layers_again(plan.layer_count)
        self._bucket_cuts = bucket_layers(stage, np.array(task.summed_parameters)) if stage.buckets > 1 else []
        self._layers_of = {self.stage: range(stage.first_layer, stage.stop_layer)}
        if plan.hosts_first_layer(self.stage):
            self._layers_of[HOSTED] = range(1)
        self.layers = tuple(sorted({index for layers in self._layers_of.values() for index in layers}))
        given = states or {}
        held: dict[int, nn.Module] = {}
        if kept is not None:
            held = {index: each for index, each in kept._modules.items() if index not in given}
        shards = shard_stage_of(plan, device)
        self.shard: HeldShard | None = None
        if shards is not None:
            self.shard = HeldShard(shards, device) if kept is None else kept.shard
        self.speaks = shards is None or shards.leader == device
        self._modules: dict[int, nn.Module] = {
            index: held[index] if index in held else self._built(network, index, with_values=index not in given)
            for index in self.layers
        }
        if self.shard is not None and kept is None:
            self.shard.connect(self._modules)
            if task.trains:
                refuse_dropout(self._modules.values())
        self._generation = self._new_generation() if task.generates else None
        names = tied_names(network)
        tie(names, len(network), self._modules)
        tied_here = self._tied_here(names, len(network)) if plan.tied == "synchronised" else []
        self._shared_elsewhere = [self._modules[index].get_parameter(name) for index, name in tied_here]
        self._optimizer = AdamW(self._trained(), task.optimizer) if task.trains and self._trained() else None
        if kept is not None:
            self._remember(kept)
        for index in set(given) & set(self.layers):
            self.load_state(index, given[index])
        tied = () if names is None else (0, len(network) - 1)
        self._modules = {k: held_in(each, stage.weights, tied=k in tied) for k, each in self._modules.items()}
        self._trains = False
        self._passes: dict[tuple[int, int], Pass] = {}
        self.loss = 0.0  # the part that this device tells: of those with shards, one tells all
        self.completed = 0  # optimizer steps behind the parameters; whoever gives states says how many
        self.outputs: dict[int, Tensor] = {}

    @property
    def slot_stage(self) -> SlotStage:
        """These layers with their caches, to serve requests with; see :mod:`~dora_nb.executor.device.serving`."""
        assert self._generation is not None, "only a task that generates has caches"
        return SlotStage(self._modules, self._generation.caches, self.task)

    def prompts(self, count: int) -> list[Tensor]:
        """The first inputs, one a request."""
        dtype = self.task.torch_dtype
        return [micro_batch(self._data, INFERENCE, index, 1, dtype).inputs[0] for index in range(count)]

    def parameters(self) -> list[nn.Parameter]:
        """Every parameter once, in the order of layers."""
        return parameters_once(self._modules.values())

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters as ``layer.name``; a tied one that both layers of this device use appears under both."""
        for index, module in self._modules.items():
            for name, parameter in module.named_parameters(remove_duplicate=False):
                yield f"{index}.{name}", parameter

    def slices(self, layer: int) -> dict[str, Slice]:
        """How parameters of a layer are sliced, by name; none where this device holds whole layers."""
        return {} if self.shard is None else slices_of(self._modules[layer])

    def state(self, layer: int) -> dict[str, Tensor]:
        """Copies of everything another device needs to go on with a layer, or with its shard; between steps only."""
        return state_of(self._modules[layer], self._optimizer)

    def load_state(self, layer: int, state: LayerState) -> None:
        """Go on with a layer as another device left it; the reverse of :meth:`state`, a shard taking its part.

        Raises
        ------
        InputError
            If the tensors are not those of the layer.
        """
        module = self._modules[layer]
        load_state(module, state if self.shard is None else self.shard.narrowed(module, state), self._optimizer)

    def batch(self, step: int, first_request: int = 0) -> tuple[MicroBatch, ...]:
        """Inputs and labels of every micro-batch of a step, or of all requests of a stream.

        Empty ones where this device holds neither end, and of the requests before the first.
        """
        count, before = self._plan.micro_batches * self.task.requests, self._plan.micro_batches * first_request
        nothing = MicroBatch(torch.empty(0), torch.empty(0))
        if not {0, self.task.layer_count - 1} & set(self.layers):
            return (nothing,) * count
        samples, dtype = self._plan.micro_batch, self.task.torch_dtype
        rest = (micro_batch(self._data, step, index, samples, dtype) for index in range(before, count))
        return (*(nothing,) * before, *rest)

    def seed(self, step: int) -> None:
        """Make what layers draw at random (dropout) depend on the task, the device and the step alone.

        A run that was switched to another plan or resumed then draws anew what it would have drawn, as far as the same
        devices run the same layers. The process's own random numbers are set.
        """
        leads = self._device_id if self.shard is None else self.shard.stage.leader  # shards draw alike
        place = self._plan.devices.index(leads)
        torch.manual_seed((self.task.seed * 10_007 + step - INFERENCE) * 1_009 + place)

    def begin(self, *, trains: bool) -> None:
        """Forget the iteration before."""
        self._trains = trains
        self._passes.clear()
        self.outputs = {}
        self.loss = 0.0
        if self._generation is not None:
            self._generation.begin()
        for module in self._modules.values():
            module.train(trains)
        for parameter in self.parameters():
            parameter.grad = None

    def receive_buffer(self, hand_over: HandOver) -> Tensor:
        """An empty tensor on the processor for what a hand-over brings of this device's samples."""
        return self._tokens_behind(hand_over.stage) if hand_over.kind == "token" else self._boundary(hand_over.stage)

    def warm_up(self) -> None:
        """Run as many passes as the stage may hold and forget them.

        The first call of an operator, and the first use of memory, take longer than any other. Layers, and random
        numbers, stay as they were.
        """
        data, *_ = self.batch(INFERENCE)
        if self.shard is not None:
            self.shard.sum_in_pass = None
        buffers = [each.clone() for module in self._modules.values() for each in module.buffers()]
        with torch.random.fork_rng(devices=()):
            self.begin(trains=self.task.trains)
            for stage, layers in self._layers_of.items():
                leaving = None
                for index in range(self._in_flight):
                    entering = None if layers.start == 0 else torch.zeros_like(self._boundary(stage - 1))
                    leaving = self.forward(stage, index, entering, data)
                if self.task.decode_steps:
                    self.decode(stage, 0, torch.zeros_like(self._tokens_behind((stage - 1) % len(self._plan.stages))))
                for index in range(self._in_flight if self._trains else 0):
                    while (stage, index) in self._passes:
                        self.backward(stage, index, None if leaving is None else torch.ones_like(leaving))
            self.begin(trains=False)
        own = (each for module in self._modules.values() for each in module.buffers())
        for buffer, before in zip(own, buffers, strict=True):
            buffer.copy_(before)
        if self._optimizer is not None:
            spare = nn.Parameter(torch.zeros(1, dtype=self.task.torch_dtype))
            spare.grad = torch.zeros_like(spare)
            AdamW([spare]).step()

    def forward(self, stage: int, micro_batch: int, entering: Tensor | None, data: MicroBatch) -> Tensor | None:
        """Run a micro-batch forward.

        Parameters
        ----------
        stage
            This device's, or :data:`~dora_nb.domain.transfer.HOSTED`.
        micro_batch
            Its index.
        entering
            What the stage before handed over; None where the inputs are.
        data
            The whole micro-batch's inputs and labels.

        Returns
        -------
        what the next stage gets, on the processor; None behind the last layer
        """
        low, high = self.interval
        layers = self._layers_of[stage]
        fills_buckets = self._trains and stage == self.stage and micro_batch == self._plan.micro_batches - 1
        cuts = self._bucket_cuts[1:-1] if fills_buckets else []
        self._face(backward=False)
        with torch.set_grad_enabled(self._trains):
            if entering is None:
                x = data.inputs[low:high].to(self.device)
            else:
                x = entering.to(self.device)
                x = x.requires_grad_(self._trains and x.is_floating_point())
            under_way = Pass(x)
            for index in layers:
                for _ in range(cuts.count(index)):  # several where a bucket is without layers
                    x = under_way.cut(x)
                if self._trains and stage == self.stage and index in self._again:
                    x = run_again(self._modules[index], x)
                else:
                    x = self._passed(index, x, micro_batch)
            is_last = layers.stop == self.task.layer_count
            if is_last and self._trains:
                x = part_of_loss(self._loss, x, data.labels[low:high].to(self.device), self.task.batch)
                self.loss += x.item() if self.speaks else 0.0
        if is_last and not self._trains:
            self._put_out(x, micro_batch)
        if self._trains:
            under_way.end(x)
            self._passes[stage, micro_batch] = under_way
        return None if is_last else x.detach().cpu()

    def decode(self, stage: int, number: int, entering: Tensor | None) -> Tensor | None:
        """Run the next token of every sample of a group through a stage.

        Parameters
        ----------
        stage
            This device's.
        number
            Of the round, in which groups take turns.
        entering
            What the stage before handed over, (samples of a micro-batch, micro-batches, ...): ids from the last stage,
            else (..., 1, hidden). None: the tokens chosen here.

        Returns
        -------
        what the next stage gets; None behind the last layer, see :attr:`chosen`
        """
        assert self._generation is not None, "only a task that generates has tokens"
        layers, group = self._layers_of[stage], number % self._plan.token_groups
        self._face(backward=False)
        with torch.no_grad():
            x = self._generation.next_tokens(self.chosen(number) if entering is None else entering).to(self.device)
            for index in layers:
                x = self._passed(index, x, None, group)
        if layers.stop < self.task.layer_count:
            return self._generation.handed_over(x).cpu()
        self._put_out(x, None, group)
        return None

    def take_outputs(self, micro_batches: Iterable[int]) -> dict[int, Tensor]:
        """What the last layer gave of some micro-batches, which is not kept here any longer."""
        return {index: self.outputs.pop(index) for index in micro_batches}

    def chosen(self, number: int) -> Tensor:
        """The tokens that a round begins with, behind the last layer: ids (samples of a micro-batch, micro-batches)."""
        assert self._generation is not None, "only a task that generates chooses tokens"
        return self._generation.chosen(number % self._plan.token_groups)

    @property
    def tokens(self) -> Mapping[int, Tensor]:
        """All tokens chosen since the batch began, (samples, tokens), by micro-batch."""
        return {} if self._generation is None else self._generation.tokens

    def backward(self, stage: int, micro_batch: int, gradient: Tensor | None) -> Tensor | None:
        """Run a micro-batch backward; the last one of a stage that sums in buckets as far as the next of them is full.

        Parameters
        ----------
        stage, micro_batch
            As for :meth:`forward`.
        gradient
            Of what the stage handed over; None behind the loss, and of no use behind the first part.

        Returns
        -------
        the gradient of what the stage got, on the processor, zeros if it has none; None where the inputs are, and where
        another part follows
        """
        under_way = self._passes[stage, micro_batch]
        self._face(backward=True)
        returned = under_way.backward(None if gradient is None else gradient.to(self.device))
        if not under_way.over:
            return None
        del self._passes[stage, micro_batch]
        return None if self._layers_of[stage].start == 0 else returned.cpu()

    def own_gradients(self, bucket: int = 0) -> list[Tensor]:
        """Gradients that this stage's devices sum among themselves, all of them or those of a bucket, from 1.

        Of shards, those of what is used head by head.
        """
        if self.shard is not None:
            return gradients_of(summands_of(self._modules.values()))
        left_out = {id(parameter) for parameter in self._shared_elsewhere}
        if not bucket:
            return gradients_of(each for each in self._trained() if id(each) not in left_out)
        own = full_in(bucket, self._bucket_cuts, self._modules)
        return gradients_of(each for each in own if each.requires_grad and id(each) not in left_out)

    def shared_gradients(self) -> list[Tensor]:
        """Gradients of parameters that another stage holds a copy of."""
        return gradients_of(self._shared_elsewhere)

    def step(self) -> None:
        """One optimizer step."""
        if self._optimizer is not None:
            gradients_of(self._trained())
            self._optimizer.step()
        self.completed += 1

    def _passed(self, index: int, x: Tensor, micro_batch: int | None, group: int = 0) -> Tensor:
        """What a layer gives."""
        module = self._modules[index]
        if self._generation is not None:
            return self._generation.passed(module, index, x, micro_batch, group)
        left: Tensor = module(x)
        return left

    def _put_out(self, x: Tensor, micro_batch: int | None, group: int = 0) -> None:
        """Keep what the last layer gives, by micro-batch; of tokens, the last one's."""
        if self._generation is not None:
            self.outputs |= self._generation.choose(x.cpu(), micro_batch, group)
        elif micro_batch is not None:
            self.outputs[micro_batch] = x.cpu()

    def _built(self, network: Network, index: int, *, with_values: bool) -> nn.Module:
        dtype, seed = self.task.torch_dtype, self.task.seed
        shard = None if self.shard is None else self.shard.shard
        return built_layer(network, index, dtype=dtype, seed=seed, with_values=with_values, shard=shard).to(self.device)

    def _new_generation(self) -> Generation:
        return Generation(
            self.layers,
            self.task.layer_count,
            samples=self.interval[1] - self.interval[0],
            micro_batches=self._plan.micro_batches,
            groups=self._plan.token_groups,
            tokens=self.task.most_tokens,
        )

    def _face(self, *, backward: bool) -> None:
        """Which way the next pass goes."""
        if self.shard is not None:
            self.shard.is_backward = backward

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def _tied_here(self, names: tuple[str, str] | None, count: int) -> list[tuple[int, str]]:
        """Layers of this device with a tied parameter, and its name there."""
        if names is None:
            return []
        return [each for each in ((0, names[0]), (count - 1, names[1])) if each[0] in self.layers]

    def _boundary(self, stage: int) -> Tensor:
        """An empty tensor for what crosses the cut behind a stage, forward or backward."""
        layer = 0 if stage == HOSTED else self._plan.stages[stage].stop_layer - 1
        cut = self.task.cuts[layer]
        return torch.empty((self.interval[1] - self.interval[0], *cut.shape), dtype=torch_dtype(cut.dtype))

    def _tokens_behind(self, stage: int) -> Tensor:
        """An empty tensor for what a stage hands over of a group's token: ids behind the last layer."""
        rows = (self.interval[1] - self.interval[0], self._plan.micro_batches // self._plan.token_groups)
        layer = self._plan.stages[stage].stop_layer - 1
        if layer == self.task.layer_count - 1:
            return torch.empty(rows, dtype=torch.int64)
        cut = self.task.cuts[layer]
        return torch.empty((*rows, 1, *cut.shape[1:]), dtype=torch_dtype(cut.dtype))

    def _remember(self, kept: Replica) -> None:
        """Take over what the other replica's optimizer knows of the layers that stay."""
        if self._optimizer is None or kept._optimizer is None:
            return
        for parameter in self._trained():
            if parameter in kept._optimizer.state:
                self._optimizer.state[parameter] = kept._optimizer.state[parameter]

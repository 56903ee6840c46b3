"""What one device computes: its copy of a stage, and of the first layer where it hosts it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from dora_nb.domain.plan import HOSTED, Plan
from dora_nb.domain.workload import Workload
from dora_nb.executor.data import MicroBatch, label_count, loss_of
from dora_nb.executor.models import build_layer, tie, tied_parameter
from dora_nb.executor.scale import TransformerArchitecture

LEARNING_RATE = 1e-3


def optimizer_of(parameters: Iterable[nn.Parameter]) -> torch.optim.AdamW:
    """The optimizer that every process uses."""
    return torch.optim.AdamW(parameters, lr=LEARNING_RATE, foreach=False, fused=False)


class Replica:
    """A device's layers, the passes under way, and the optimizer.

    Parameters
    ----------
    device
        Its id in the plan.
    plan, workload
        Scaled down.
    seed
        Of the weights.
    dtype
        Of parameters and activations.
    """

    def __init__(self, device: str, plan: Plan, workload: Workload, seed: int, dtype: torch.dtype) -> None:
        architecture = workload.architecture
        assert architecture is not None, "a scaled-down workload has an architecture"
        self.stage = next(index for index, stage in enumerate(plan.stages) if device in stage.devices)
        stage = plan.stages[self.stage]
        self.interval = stage.intervals[stage.devices.index(device)]
        self.dtype = dtype
        self._workload = workload
        self._in_flight = min(stage.in_flight, plan.micro_batches)
        self._layer_count = len(workload.layers)
        self._layers_of = {self.stage: range(stage.first_layer, stage.stop_layer)}
        if plan.tied == "hosted" and self.stage == len(plan.stages) - 1:
            self._layers_of[HOSTED] = range(1)
        held = sorted({index for layers in self._layers_of.values() for index in layers})
        self._modules = {index: build_layer(architecture, index, dtype, seed, workload.image_px) for index in held}
        tie(architecture, self._modules)
        self._shared_elsewhere = [
            parameter
            for index in held
            if plan.tied == "synchronised"
            and (parameter := tied_parameter(architecture, index, self._modules[index])) is not None
        ]
        # Only where it is used: building one loads much of torch.
        self._optimizer = optimizer_of(self.parameters()) if workload.trains else None
        self._trains = False
        self._passes: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self.loss = 0.0
        self.outputs: dict[int, Tensor] = {}

    def parameters(self) -> list[nn.Parameter]:
        """Every parameter once, in the order of layers."""
        seen: dict[int, nn.Parameter] = {}
        for module in self._modules.values():
            for parameter in module.parameters():
                seen.setdefault(id(parameter), parameter)
        return list(seen.values())

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters as ``layer.name``; a tied one that both layers of this device use appears under both."""
        for index, module in self._modules.items():
            for name, parameter in module.named_parameters(remove_duplicate=False):
                yield f"{index}.{name}", parameter

    def begin(self, *, trains: bool) -> None:
        """Forget the iteration before."""
        self._trains = trains
        self._passes.clear()
        self.outputs = {}
        self.loss = 0.0
        for parameter in self.parameters():
            parameter.grad = None

    @property
    def boundary_shape(self) -> tuple[int, ...]:
        """Shape of what crosses a cut, for this device's samples."""
        spec = self._workload.architecture
        assert isinstance(spec, TransformerArchitecture), "a scaled-down workload is a transformer"
        tokens = self._workload.layers[0].output_elements // spec.hidden
        return (self.interval[1] - self.interval[0], tokens, spec.hidden)

    def warm_up(self, data: MicroBatch) -> None:
        """Run as many passes as the stage may hold and forget them.

        The first call of an operator, and the first use of memory, take longer than any other.
        """
        self.begin(trains=self._workload.trains)
        for stage, layers in self._layers_of.items():
            leaving = None
            for index in range(self._in_flight):
                entering = None if layers.start == 0 else torch.zeros(self.boundary_shape, dtype=self.dtype)
                leaving = self.forward(stage, index, entering, data)
            for index in range(self._in_flight if self._trains else 0):
                self.backward(stage, index, None if leaving is None else torch.ones_like(leaving))
        self.begin(trains=False)
        if self._workload.trains:
            spare = nn.Parameter(torch.zeros(1, dtype=self.dtype))
            spare.grad = torch.zeros_like(spare)
            optimizer_of([spare]).step()

    def forward(self, stage: int, micro_batch: int, entering: Tensor | None, data: MicroBatch) -> Tensor | None:
        """Run a micro-batch forward.

        Parameters
        ----------
        stage
            This device's, or :data:`~dora_nb.domain.plan.HOSTED`.
        micro_batch
            Its index.
        entering
            What the stage before handed over; None where the inputs are.
        data
            The whole micro-batch's inputs and labels.

        Returns
        -------
        what the next stage gets; None behind the last layer
        """
        low, high = self.interval
        layers = self._layers_of[stage]
        with torch.set_grad_enabled(self._trains):
            x = data.inputs[low:high] if entering is None else entering.requires_grad_(self._trains)
            first = x
            for index in layers:
                x = self._modules[index](x)
            is_last = layers.stop == self._layer_count
            if is_last and self._trains:
                x = loss_of(x, data.labels[low:high], label_count(self._workload))
                self.loss += x.item()
        if is_last and not self._trains:
            self.outputs[micro_batch] = x
        if self._trains:
            self._passes[stage, micro_batch] = (first, x)
        return None if is_last else x.detach()

    def backward(self, stage: int, micro_batch: int, gradient: Tensor | None) -> Tensor | None:
        """Run a micro-batch backward.

        Parameters
        ----------
        stage, micro_batch
            As for :meth:`forward`.
        gradient
            Of what the stage handed over; None behind the loss.

        Returns
        -------
        the gradient of what the stage got; None where the inputs are
        """
        entering, leaving = self._passes.pop((stage, micro_batch))
        torch.autograd.backward(leaving, gradient)
        return entering.grad

    def own_gradients(self) -> list[Tensor]:
        """Gradients that this stage's replicas sum among themselves."""
        elsewhere = {id(parameter) for parameter in self._shared_elsewhere}
        return _gradients(parameter for parameter in self.parameters() if id(parameter) not in elsewhere)

    def shared_gradients(self) -> list[Tensor]:
        """Gradients of parameters that another stage holds a copy of."""
        return _gradients(self._shared_elsewhere)

    def step(self) -> None:
        """One optimizer step."""
        assert self._optimizer is not None, "only a workload that trains has steps"
        self._optimizer.step()


def flattened(tensors: Sequence[Tensor]) -> Tensor:
    """All elements in one vector."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def scatter_back(vector: Tensor, tensors: Sequence[Tensor]) -> None:
    """The reverse of :func:`flattened`, into the tensors."""
    for tensor, part in zip(tensors, torch.split(vector, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def _gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    gradients = []
    for parameter in parameters:
        assert parameter.grad is not None, "every parameter takes part in every pass"
        gradients.append(parameter.grad)
    return gradients

"""The optimizer that every process uses."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dora_nb.executor.tasks.task import Optimizer

#: What it keeps of a parameter, by the names that torch has for them.
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019, algorithm 2), to the bit as torch's own.

    That one loads torch's compiler when it is made, which no process here uses: a second of a core and 60 MB in each.
    One tensor is stepped at a time, so that all processes sum in the same order.

    Parameters
    ----------
    parameters
        To be trained; those without a gradient stay as they are.
    settings
        None: the defaults.

    Attributes
    ----------
    state
        :data:`MOMENTS` of each parameter that was stepped.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], settings: Optimizer | None = None) -> None:
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}
        self._parameters, self._settings = list(parameters), settings or Optimizer()

    @torch.no_grad()
    def step(self) -> None:
        """Change every parameter along its gradient."""
        for parameter in self._parameters:
            if parameter.grad is not None:
                self._change(parameter, parameter.grad)

    def _change(self, parameter: nn.Parameter, gradient: Tensor) -> None:
        settings, (beta, beta_sq) = self._settings, self._settings.betas
        if parameter not in self.state:
            zeros = (torch.zeros_like(parameter, memory_format=torch.preserve_format) for _ in range(2))
            self.state[parameter] = dict(zip(MOMENTS, (*zeros, torch.tensor(0.0)), strict=True))
        mean, mean_sq, count = (self.state[parameter][moment] for moment in MOMENTS)
        count += 1
        steps = count.item()
        parameter.mul_(1 - settings.learning_rate * settings.weight_decay)
        mean.lerp_(gradient, 1 - beta)
        mean_sq.mul_(beta_sq).addcmul_(gradient, gradient, value=1 - beta_sq)
        divisor = (mean_sq.sqrt() / (1 - beta_sq**steps) ** 0.5).add_(settings.eps)
        parameter.addcdiv_(mean, divisor, value=-settings.learning_rate / (1 - beta**steps))

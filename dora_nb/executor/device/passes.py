"""A micro-batch on its way through a stage: what is kept of its forward pass for its backward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from dora_nb.executor.device.backward import run_backward


class Pass:
    """One micro-batch's forward pass, to be run backward in as many parts as it was cut into.

    A cut changes nothing of what is computed: what crosses it is taken over as it is, and its gradient handed back.

    Parameters
    ----------
    entering
        What the stage is given; its gradient is kept where it takes one.
    """

    def __init__(self, entering: Tensor) -> None:
        self._entering = entering
        self._parts: list[tuple[Tensor, Tensor]] = []  # what entered each and what left it, those not yet run back
        self._returned: Tensor | None = None

    def cut(self, leaving: Tensor) -> Tensor:
        """End a part; gives what the layers behind the cut are to be called with."""
        self.end(leaving)
        self._entering = leaving.detach().requires_grad_(leaving.requires_grad)
        return self._entering

    def end(self, leaving: Tensor) -> None:
        """End the last part."""
        self._parts.append((self._entering, leaving))

    @property
    def over(self) -> bool:
        """Whether all parts were run backward."""
        return not self._parts

    def backward(self, gradient: Tensor | None) -> Tensor:
        """Run the last part that is left backward.

        Parameters
        ----------
        gradient
            Of what left the whole pass; None behind the loss. Parts before the last one have theirs from the one behind
            them.

        Returns
        -------
        the gradient of what entered the part, zeros if it has none
        """
        entering, leaving = self._parts.pop()
        if leaving.requires_grad:
            run_backward(leaving, gradient if self._returned is None else self._returned)
        self._returned = torch.zeros_like(entering) if entering.grad is None else entering.grad
        return self._returned

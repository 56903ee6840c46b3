"""Generating tokens on one device: the caches of its layers, and the tokens chosen where the last layer is.

The prompt comes in micro-batches. Then every sample gets a token at a time, all of them together. The samples of all
micro-batches are kept place by place: the first of every micro-batch, the second of every one, and so on. Then what a
device hands over of the whole batch is cut by place, as a micro-batch is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from dora_nb.executor.cache import CachePart, KeyValueCache


class Generation:
    """The state of one device.

    Parameters
    ----------
    layers
        Indices of its layers.
    layer_count
        Layers of the network.
    samples, micro_batches
        Samples of a micro-batch that it takes, and how many micro-batches there are.
    tokens
        Of a sample at most, the prompt's and the generated ones.
    """

    def __init__(self, layers: Iterable[int], layer_count: int, samples: int, micro_batches: int, tokens: int) -> None:
        self._last_layer = layer_count - 1
        self._samples, self._micro_batches = samples, micro_batches
        self.caches = {layer: KeyValueCache(samples * micro_batches, tokens) for layer in layers}
        self._prompts_ids: dict[int, Tensor] = {}
        self._ids: list[Tensor] = []

    def begin(self) -> None:
        """Forget the batch before."""
        for cache in self.caches.values():
            cache.clear()
        self._prompts_ids.clear()
        self._ids.clear()

    def passed(self, module: nn.Module, layer: int, x: Tensor, micro_batch: int | None) -> Tensor:
        """What a layer gives.

        Parameters
        ----------
        module, layer
            The layer, and its index.
        x
            What enters it: a micro-batch of prompts, or a token of every sample. Only the last token matters to the
            last layer, and only that one is given to it.
        micro_batch
            Its index; None: a token of every sample.
        """
        left: Tensor = module(x[:, -1:] if layer == self._last_layer else x, self._part(layer, micro_batch))
        return left

    def choose(self, logits: Tensor, micro_batch: int | None) -> dict[int, Tensor]:
        """Choose the likeliest token of every sample.

        Parameters
        ----------
        logits
            (samples, 1, vocabulary), behind the last layer.
        micro_batch
            As for :meth:`passed`.

        Returns
        -------
        the logits, (samples, vocabulary), by micro-batch
        """
        chosen = logits[:, -1].argmax(-1)
        if micro_batch is not None:
            self._prompts_ids[micro_batch] = chosen
            if len(self._prompts_ids) == self._micro_batches:
                self._ids.append(torch.stack([ids for _, ids in sorted(self._prompts_ids.items())], dim=1))
            return {micro_batch: logits[:, -1]}
        self._ids.append(chosen.view(self._samples, self._micro_batches))
        return dict(enumerate(self.handed_over(logits[:, -1]).unbind(1)))

    @property
    def chosen(self) -> Tensor:
        """The tokens chosen last, (samples of a micro-batch, micro-batches)."""
        assert self._ids, "the prompts were passed on before a token is asked for"
        return self._ids[-1]

    @property
    def tokens(self) -> Mapping[int, Tensor]:
        """All tokens chosen, (samples, tokens), by micro-batch; nothing where the last layer is not."""
        if not self._ids:
            return {}
        return dict(enumerate(torch.stack(self._ids, dim=-1).unbind(1)))

    def next_tokens(self, entering: Tensor) -> Tensor:
        """What a stage handed over of every sample, as one batch: ids or activations, one token each."""
        x = entering.flatten(0, 1)
        return x[:, None] if x.dim() == 1 else x

    def handed_over(self, x: Tensor) -> Tensor:
        """The reverse, for the next stage."""
        return x.reshape(self._samples, self._micro_batches, *x.shape[1:])

    def _part(self, layer: int, micro_batch: int | None) -> CachePart:
        return self.caches[layer].part(
            slice(None) if micro_batch is None else slice(micro_batch, None, self._micro_batches)
        )

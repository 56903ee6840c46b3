"""Generating tokens on one device: the caches of its layers, and the tokens chosen where the last layer is.

The prompt comes in micro-batches. Then every sample gets a token at a time, all of a group together; of G groups, each
has every G-th micro-batch. The samples of all micro-batches are kept place by place: the first of every micro-batch,
the second of every one, and so on. Then what a device hands over of a group is cut by place, as a micro-batch is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from dora_nb.executor.device.cache import CachePart, KeyValueCache


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
    groups
        In how many groups they get their tokens.
    tokens
        Of a sample at most, the prompt's and the generated ones.
    """

    def __init__(
        self, layers: Iterable[int], layer_count: int, samples: int, micro_batches: int, groups: int, tokens: int
    ) -> None:
        self._last_layer = layer_count - 1
        self._samples, self._micro_batches, self._groups = samples, micro_batches, groups
        self.caches = {layer: KeyValueCache(samples * micro_batches, tokens) for layer in layers}
        self._prompts_ids: dict[int, Tensor] = {}
        self._ids: list[list[Tensor]] = [[] for _ in range(groups)]

    def begin(self) -> None:
        """Forget the batch before."""
        for cache in self.caches.values():
            cache.clear()
        self._prompts_ids.clear()
        for ids in self._ids:
            ids.clear()

    def passed(self, module: nn.Module, layer: int, x: Tensor, micro_batch: int | None, group: int = 0) -> Tensor:
        """What a layer gives.

        Parameters
        ----------
        module, layer
            The layer, and its index.
        x
            What enters it: a micro-batch of prompts, or a token of every sample of a group. Only the last token matters
            to the last layer, and only that one is given to it.
        micro_batch, group
            Its index; None: a token of every sample of this group.
        """
        part = self._part(layer, micro_batch, group)
        left: Tensor = module(x[:, -1:] if layer == self._last_layer else x, part)
        return left

    def choose(self, logits: Tensor, micro_batch: int | None, group: int = 0) -> dict[int, Tensor]:
        """Choose the likeliest token of every sample.

        Parameters
        ----------
        logits
            (samples, 1, vocabulary), behind the last layer.
        micro_batch, group
            As for :meth:`passed`.

        Returns
        -------
        the logits, (samples, vocabulary), by micro-batch
        """
        chosen = logits[:, -1].argmax(-1)
        if micro_batch is not None:
            self._prompts_ids[micro_batch] = chosen
            if len(self._prompts_ids) == self._micro_batches:
                for each, ids in enumerate(self._ids):
                    ids.append(torch.stack([self._prompts_ids[index] for index in self._members(each)], dim=1))
            return {micro_batch: logits[:, -1]}
        self._ids[group].append(self.handed_over(chosen))
        return dict(zip(self._members(group), self.handed_over(logits[:, -1]).unbind(1), strict=True))

    def chosen(self, group: int) -> Tensor:
        """The tokens chosen last for a group, (samples of a micro-batch, micro-batches)."""
        assert self._ids[group], "the prompts were passed on before a token is asked for"
        return self._ids[group][-1]

    @property
    def tokens(self) -> Mapping[int, Tensor]:
        """All tokens chosen, (samples, tokens), by micro-batch; nothing where the last layer is not."""
        found: dict[int, Tensor] = {}
        for group, ids in enumerate(self._ids):
            if ids:
                found |= zip(self._members(group), torch.stack(ids, dim=-1).unbind(1), strict=True)
        return dict(sorted(found.items()))

    def next_tokens(self, entering: Tensor) -> Tensor:
        """What a stage handed over of a group, as one batch: ids or activations, one token each."""
        x = entering.flatten(0, 1)
        return x[:, None] if x.dim() == 1 else x

    def handed_over(self, x: Tensor) -> Tensor:
        """The reverse, for the next stage."""
        return x.reshape(self._samples, self._micro_batches // self._groups, *x.shape[1:])

    def _members(self, group: int) -> range:
        """The micro-batches of a group."""
        return range(group, self._micro_batches, self._groups)

    def _part(self, layer: int, micro_batch: int | None, group: int) -> CachePart:
        if micro_batch is None:
            return self.caches[layer].part(slice(group, None, self._groups))
        return self.caches[layer].part(slice(micro_batch, None, self._micro_batches))

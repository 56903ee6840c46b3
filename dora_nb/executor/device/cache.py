"""What attention keeps of the tokens it has seen, so that a network that generates computes each of them once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dora_nb.errors import InputError


class KeyValueCache:
    """Room for the keys and values of one layer; taken when the first ones come.

    Parameters
    ----------
    samples, tokens
        How many samples, and how many tokens of each at most.
    """

    def __init__(self, samples: int, tokens: int) -> None:
        self.tokens = tokens
        self.lengths = [0] * samples
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of the room; 0 where no attention has used it."""
        return sum(each.numel() * each.element_size() for each in (self.keys, self.values) if each is not None)

    def clear(self) -> None:
        """Forget all tokens; the room stays."""
        self.lengths = [0] * len(self.lengths)

    def rows(self, rows: Sequence[int]) -> CacheRows:
        """The room of some samples that may have seen unequally many tokens, by their places."""
        return CacheRows(self, rows)

    def part(self, samples: slice = slice(None)) -> CachePart:
        """The room of some samples."""
        return CachePart(self, samples)


class CachePart:
    """The keys and values of some samples, which have seen equally many tokens.

    Parameters
    ----------
    cache
        Of the layer.
    samples
        Which of the cache's.
    """

    def __init__(self, cache: KeyValueCache, samples: slice) -> None:
        self._cache, self._samples = cache, samples

    @property
    def length(self) -> int:
        """Tokens seen: the position of the next one."""
        return self._cache.lengths[self._samples][0]

    def positions(self, tokens: int) -> Tensor:
        """Positions of so many further tokens: (samples, tokens), or (1, tokens) where they are the same for all."""
        return torch.arange(self.length, self.length + tokens)[None]

    def mask(self, tokens: int) -> Tensor | None:
        """What each of so many further tokens looks at of what :meth:`extend` will give.

        Returns
        -------
        (samples, 1, 1, tokens seen at most), True where it looks; None: the whole prompt looks at what is before each
        token, and a token by itself at all
        """
        del tokens  # all have seen equally many
        return None

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add further tokens.

        Parameters
        ----------
        keys, values
            Theirs, (samples, heads, tokens, elements); either the whole prompt, or one token.

        Returns
        -------
        keys and values of all tokens seen, these included; not to be written to
        """
        cache, start = self._cache, self.length
        stop = start + keys.shape[2]
        cache.keys, cache.values = self._rooms(keys, values)
        own_keys, own_values = cache.keys[self._samples], cache.values[self._samples]
        own_keys[:, :, start:stop] = keys
        own_values[:, :, start:stop] = values
        cache.lengths[self._samples] = [stop] * len(keys)
        return own_keys[:, :, :stop], own_values[:, :, :stop]

    def _rooms(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All of the room, which is taken now if it was not."""
        if self._cache.keys is None or self._cache.values is None:
            return self._room(keys), self._room(values)
        return self._cache.keys, self._cache.values

    def _room(self, like: Tensor) -> Tensor:
        _, heads, _, elements = like.shape
        return like.new_zeros((len(self._cache.lengths), heads, self._cache.tokens, elements))


class CacheRows(CachePart):
    """The keys and values of some samples, which may have seen unequally many tokens.

    Parameters
    ----------
    cache
        Of the layer.
    rows
        Places of the samples in it.
    """

    def __init__(self, cache: KeyValueCache, rows: Sequence[int]) -> None:
        super().__init__(cache, slice(None))
        self._rows = list(rows)

    @property
    def lengths(self) -> list[int]:
        """Tokens that each has seen."""
        return [self._cache.lengths[row] for row in self._rows]

    @property
    def length(self) -> int:
        """Tokens that all have seen.

        Raises
        ------
        InputError
            If they have seen unequally many.
        """
        first, *others = set(self.lengths)
        if others:
            allowed = "layers that ask their cache for positions and mask, to serve requests of unequal age together"
            raise InputError("model", sorted(self.lengths), allowed)
        return first

    def positions(self, tokens: int) -> Tensor:
        """See :meth:`CachePart.positions`."""
        return torch.tensor(self.lengths)[:, None] + torch.arange(tokens)

    def mask(self, tokens: int) -> Tensor | None:
        """See :meth:`CachePart.mask`."""
        if tokens > 1 or len(set(self.lengths)) == 1:
            return None
        seen = torch.tensor(self.lengths)[:, None]
        return (torch.arange(max(self.lengths) + 1) <= seen)[:, None, None]

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`CachePart.extend`; behind those who have seen fewer tokens is what :meth:`mask` hides."""
        cache, tokens = self._cache, keys.shape[2]
        cache.keys, cache.values = self._rooms(keys, values)
        for place, row in enumerate(self._rows):
            start = cache.lengths[row]
            cache.keys[row, :, start : start + tokens] = keys[place]
            cache.values[row, :, start : start + tokens] = values[place]
            cache.lengths[row] = start + tokens
        longest = max(self.lengths)
        return cache.keys[self._rows, :, :longest], cache.values[self._rows, :, :longest]

    def forget(self) -> None:
        """Begin anew: other samples take these places."""
        for row in self._rows:
            self._cache.lengths[row] = 0

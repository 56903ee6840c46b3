"""What attention keeps of the tokens it has seen, so that a network that generates computes each of them once."""

from __future__ import annotations

from torch import Tensor


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
        if cache.keys is None or cache.values is None:
            cache.keys, cache.values = (self._room(each) for each in (keys, values))
        own_keys, own_values = cache.keys[self._samples], cache.values[self._samples]
        own_keys[:, :, start:stop] = keys
        own_values[:, :, start:stop] = values
        cache.lengths[self._samples] = [stop] * len(keys)
        return own_keys[:, :, :stop], own_values[:, :, :stop]

    def _room(self, like: Tensor) -> Tensor:
        _, heads, _, elements = like.shape
        return like.new_zeros((len(self._cache.lengths), heads, self._cache.tokens, elements))

"""Building the layers of any network: one by one, the same in every process, tied where they are to be."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from dora_nb.domain.plan import Weights
from dora_nb.errors import InputError
from dora_nb.executor.networks.shards import Shard, narrow
from dora_nb.executor.networks.weights import held_in
from dora_nb.executor.tasks.task import Cut, Network, dtype_name


def built_layer(
    network: Network,
    index: int,
    *,
    dtype: torch.dtype,
    seed: int,
    with_values: bool = True,
    shard: Shard | None = None,
) -> nn.Module:
    """One layer, its floating-point tensors converted.

    Random numbers that the layer draws from torch's global generator depend on seed and index alone; the generator
    itself, which belongs to the person, is left as it was.

    Parameters
    ----------
    network
        Where it comes from.
    index
        Position in the chain.
    dtype
        Of its parameters and buffers.
    seed
        Of random numbers.
    with_values
        Whether its weights are needed; if not, only their shapes are right.
    shard
        Which parts of it, if it can be sliced; None: all of it.

    Raises
    ------
    InputError
        If the network gives something else than a module, or the layer cannot be sliced into so many parts.
    """
    reads_shards = with_values and shard is not None and getattr(network, "reads_shards", False)
    make: Callable[..., object] = network.layer if with_values else getattr(network, "skeleton", network.layer)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed * 1_000_003 + index)
        layer = make(index, shard) if reads_shards else make(index)
    if not isinstance(layer, nn.Module):
        raise InputError(f"network.layer({index})", type(layer).__name__, "a torch.nn.Module")
    if shard is not None and not reads_shards:
        narrow(layer, shard)
    return layer.to(dtype)


def built_layers(
    network: Network, *, dtype: torch.dtype, seed: int, weights_by_layer: Sequence[Weights | None] = ()
) -> nn.Sequential:
    """The whole network in this process, with tied parameters as one tensor.

    Where some layers hold their weights in fewer bits nothing is trained, and equal tensors do what one would.

    Parameters
    ----------
    network
        What to build.
    dtype, seed
        Of the parameters, and of random ones.
    weights_by_layer
        In what each layer's weights are held; empty: all in their own precision.
    """
    layers = {index: built_layer(network, index, dtype=dtype, seed=seed) for index in range(len(network))}
    names = tied_names(network)
    if not any(weights_by_layer):
        tie(names, len(network), layers)
        return nn.Sequential(*layers.values())
    tied = () if names is None else (0, len(network) - 1)
    return nn.Sequential(
        *(held_in(layers[index], weights, tied=index in tied) for index, weights in enumerate(weights_by_layer))
    )


def tied_names(network: Network) -> tuple[str, str] | None:
    """Names of the parameter that the first and the last layer share, if any."""
    names: tuple[str, str] | None = getattr(network, "tied", None)
    return names if len(network) > 1 else None


def kind_of(network: Network, index: int) -> Hashable:
    """Layers of one kind have equal shapes and take equally long."""
    kind = getattr(network, "kind", None)
    return index if kind is None else kind(index)


def tie(names: tuple[str, str] | None, count: int, layers: Mapping[int, nn.Module]) -> None:
    """Make a tied parameter one tensor where one process holds both layers.

    Parameters
    ----------
    names
        Of the parameter in the first and in the last layer; None: nothing is tied.
    count
        Layers of the network.
    layers
        Those at hand, by index.
    """
    if names is None or 0 not in layers or count - 1 not in layers:
        return
    module, _, name = names[1].rpartition(".")
    layers[count - 1].get_submodule(module).register_parameter(name, layers[0].get_parameter(names[0]))


def cuts_of(network: Network, inputs: Tensor, *, dtype: torch.dtype, seed: int) -> tuple[Cut, ...]:
    """What crosses the cut behind each layer but the last, found by running one sample, a layer in memory at a time.

    Parameters
    ----------
    network
        Any.
    inputs
        At least one sample.
    dtype, seed
        As for :func:`built_layer`.

    Raises
    ------
    InputError
        If a layer gives anything else than one tensor with the samples first.
    """
    x, known = inputs[:1], dict[tuple[Hashable, Cut], Cut]()
    cuts = []
    for index in range(len(network) - 1):
        key = (kind_of(network, index), _cut(x))
        if key not in known:
            layer = built_layer(network, index, dtype=dtype, seed=seed).eval()
            with torch.no_grad():
                x = layer(x)
            if not isinstance(x, Tensor) or x.dim() < 1 or len(x) != 1:
                raise InputError(
                    f"network.layer({index})", type(x).__name__, "a layer that gives one tensor, samples first"
                )
            known[key] = _cut(x)
        else:
            cut = known[key]
            x = torch.zeros((1, *cut.shape), dtype=x.dtype)
        cuts.append(known[key])
    return tuple(cuts)


def parameters_once(layers: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Every parameter of some layers once, in their order."""
    return list({id(each): each for layer in layers for each in layer.parameters()}.values())


def _cut(tensor: Tensor) -> Cut:
    return Cut(shape=tuple(tensor.shape[1:]), dtype=dtype_name(tensor.dtype))

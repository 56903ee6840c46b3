"""What is computed, written down so that any process can build its part of it: network, data and loss by name.

Importing this loads no torch. Nothing is pickled: a source names an importable function and its arguments as JSON.
"""

from __future__ import annotations

import functools
import importlib
import pathlib
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from pydantic import Field, JsonValue

from dora_nb.domain.layer import Precision
from dora_nb.domain.record import Record
from dora_nb.domain.workload import Mode
from dora_nb.errors import InputError

if TYPE_CHECKING:  # torch is loaded by those who compute
    import torch
    from torch import Tensor, nn

#: Keys under which JSON arguments name something to import.
IMPORTED_KEYS = ("factory", "class", "function")


class MicroBatch(NamedTuple):
    """Samples of one micro-batch.

    Attributes
    ----------
    inputs
        What the first layer takes, for example token ids (samples, tokens) or images (samples, 3, px, px).
    labels
        What the loss takes, for example a token id per token, or a class per sample.
    """

    inputs: Tensor
    labels: Tensor


class Network(Protocol):
    """A chain of layers that can be built one by one: what a person's own adapter provides.

    These are optional:

    - ``tied``, a pair of names, or None: the parameter of the first layer and the same one of the last layer. Both
      layers are built with equal values; a process that holds both makes them one tensor.
    - ``kind(index)``, something hashable: layers of one kind have equal shapes and are timed once. Without it every
      layer is of its own kind.
    - ``skeleton(index)``, a layer whose values do not matter, because others will be copied into it.
    - ``reads_shards``, True where ``layer(index, shard)`` gives a :class:`~dora_nb.executor.networks.shards.Shard` of a
      layer without reading the rest of it. What layers need so that they can be sliced at all, is said there.
    - ``caches``, True in a decoder that can generate. Every layer is then called as ``layer(x, cache)`` too, first
      with all tokens of the prompt, then with one token at a time. Its attention adds their keys and values to the
      :class:`~dora_nb.executor.device.cache.CachePart` and looks at all that are there; ``cache.length`` is the
      position of the first token given. Where requests of unequal age are served together,
      ``cache.positions(tokens)`` and ``cache.mask(tokens)`` say where each is and what it looks at. The last layer,
      which gives logits, is given the last token only.
    """

    def __len__(self) -> int:
        """Number of layers."""

    def layer(self, index: int) -> nn.Module:
        """One layer with its weights, without the others in memory.

        It takes one tensor and gives one, the samples first.
        """


class Data(Protocol):
    """Inputs and labels, the same in every process."""

    def micro_batch(self, step: int, index: int, samples: int) -> MicroBatch:
        """All samples of a micro-batch of a step (:data:`~dora_nb.domain.run_timeline.INFERENCE`: before the first)."""


#: Mean over the samples it gets, from outputs and labels.
Loss = Callable[["Tensor", "Tensor"], "Tensor"]


class Source(Record):
    """Something that a worker makes by calling an importable function.

    Attributes
    ----------
    factory
        ``module:function``; the function may be nested in a class.
    arguments
        By name, as JSON.
    """

    factory: str = Field(min_length=1)
    arguments: dict[str, JsonValue] = Field(default_factory=dict)

    def build(self, allowed_modules: Collection[str] | None = None) -> Any:
        """Call the function.

        Parameters
        ----------
        allowed_modules
            Modules, or packages with all inside, from which anything may be imported besides dora_nb and torch; None:
            any, since whoever sent this is known.

        Raises
        ------
        InputError
            If something named cannot be imported or may not be.
        """
        return self.function(allowed_modules)()

    def function(self, allowed_modules: Collection[str] | None = None) -> Callable[..., Any]:
        """The function with the arguments bound; see :meth:`build`."""
        if allowed_modules is not None:
            open_to = {"dora_nb", "torch", *allowed_modules}
            for module in sorted(self.modules):
                if not any(module == each or module.startswith(f"{each}.") for each in open_to):
                    raise InputError(
                        "task", module, f"modules of {', '.join(sorted(open_to))}: what this worker imports"
                    )
        found = imported(self.factory)
        if not callable(found):
            raise InputError("factory", self.factory, "module:function of something that can be called")
        return functools.partial(found, **self.arguments)

    @property
    def modules(self) -> set[str]:
        """Modules that this names."""
        return {name.partition(":")[0] for name in _named({"factory": self.factory, "arguments": self.arguments})}


def imported(name: str) -> Any:
    """What ``module:qualified.name`` names.

    Raises
    ------
    InputError
        If there is no such module or nothing of this name in it.
    """
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise InputError("name", name, "module:name, for example my_models:make")
    try:
        return functools.reduce(getattr, path.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise InputError("name", name, f"the name of something that can be imported here; {error}") from error


def _named(value: JsonValue) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            if key in IMPORTED_KEYS and isinstance(each, str) and ":" in each:
                yield each
            yield from _named(each)
    elif isinstance(value, list):
        for each in value:
            yield from _named(each)


class Optimizer(Record):
    """Settings of AdamW.

    Attributes
    ----------
    learning_rate, betas, eps, weight_decay
        As in ``torch.optim.AdamW``, with its defaults.
    """

    learning_rate: float = Field(default=1e-3, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, ge=0)
    weight_decay: float = Field(default=1e-2, ge=0)


class Cut(Record):
    """What one sample hands over from a layer to the next.

    Attributes
    ----------
    shape
        Without the dimension of samples.
    dtype
        Name in torch, ``float32`` for example.
    """

    shape: tuple[int, ...]
    dtype: str


class Task(Record):
    """A network, its data and its loss, and how they are used.

    Attributes
    ----------
    network
        Gives a :class:`Network`.
    data
        Gives :class:`Data`.
    loss
        Its function, with its arguments bound, is a :data:`Loss`. A device weighs it by its share of the batch's
        samples, so that all of them add up to the mean over the batch.
    mode
        Of the workload.
    batch
        Samples per iteration or batch.
    new_tokens
        Tokens that each sample gets, where the mode is ``generate``.
    requests
        Of a stream, how many batches are run one behind the other; 1 in every other mode.
    dtype
        Of parameters and activations: every floating-point tensor of a layer is converted to it.
    seed
        Of what layers draw from torch's own random numbers: weights that a network gives no values, and dropout.
    cuts
        Behind each layer but the last.
    summed_parameters
        Of the workload, before each layer and in all (:func:`~dora_nb.costs.buckets.summed_parameters`): they say
        where a stage is cut into buckets of gradients.
    optimizer
        See :class:`Optimizer`.
    torch_devices
        On what each device of the plan computes, ``cpu``, ``cuda:0`` or ``mps`` for example; one that is not named,
        on the processor.
    import_paths
        Directories in which a worker on this machine finds the person's own modules.
    """

    network: Source
    data: Source
    loss: Source = Source(factory="dora_nb.executor.tasks.loss:cross_entropy")
    mode: Mode
    batch: int = Field(ge=1)
    new_tokens: int = Field(default=0, ge=0)
    requests: int = Field(default=1, ge=1)
    dtype: Literal["float64", "float32", "float16", "bfloat16"] = "float64"
    seed: int = 0
    cuts: tuple[Cut, ...]
    summed_parameters: tuple[float, ...]
    optimizer: Optimizer = Optimizer()
    torch_devices: dict[str, str] = Field(default_factory=dict)
    import_paths: tuple[str, ...] = ()

    @property
    def trains(self) -> bool:
        """Whether gradients are computed."""
        return self.mode == "training"

    @property
    def generates(self) -> bool:
        """Whether tokens are generated one at a time."""
        return self.mode == "generate"

    @property
    def decode_steps(self) -> int:
        """Tokens behind the first one, which the prompt's own pass gives."""
        return max(self.new_tokens - 1, 0)

    @property
    def streams(self) -> bool:
        """Whether requests arrive at a rate."""
        return self.mode == "stream"

    @property
    def most_tokens(self) -> int:
        """Of a sample, its prompt's and the generated ones: what there is room for in a cache."""
        return self.cuts[0].shape[0] + self.new_tokens

    @property
    def layer_count(self) -> int:
        """Layers of the network."""
        return len(self.cuts) + 1

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of parameters and activations."""
        return torch_dtype(self.dtype)

    def make_importable(self) -> None:
        """Let this process find the person's own modules; what it finds already keeps its place."""
        sys.path.extend(path for path in self.import_paths if path not in sys.path and pathlib.Path(path).is_dir())


#: Names of torch's dtypes.
DTYPES: dict[Precision, str] = {"fp64": "float64", "fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of a name, ``float32`` for example."""
    import torch

    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise InputError("dtype", name, "the name of a dtype of torch")
    return found


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype, without torch's own."""
    return str(dtype).removeprefix("torch.")


def import_paths(sources: Iterable[Source]) -> tuple[str, ...]:
    """Directories of the top-level modules that sources name, installed ones and Python's own apart."""
    tops = {module.partition(".")[0] for source in sources for module in source.modules} - {"dora_nb"}
    found = set()
    for name in tops - sys.stdlib_module_names:
        top = importlib.import_module(name)
        # A package without __init__.py has no file, but directories.
        for place in [top.__file__] if getattr(top, "__file__", None) else top.__path__:
            path = pathlib.Path(str(place)).resolve()
            root = path.parents[1] if path.name == "__init__.py" else path.parent
            if not {"site-packages", "dist-packages"} & set(root.parts):
                found.add(str(root))
    return tuple(sorted(found))

"""One layer of a network, in numbers."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from dora_nb.domain.record import Record, is_one
from dora_nb.errors import InputError

Precision = Literal["fp64", "fp32", "fp16", "bf16"]
BYTES_PER_ELEMENT: dict[Precision, int] = {"fp64": 8, "fp32": 4, "fp16": 2, "bf16": 2}

#: Kinds of work with a sustained rate of their own: dense products, convolutions, blocks built around a depthwise
#: convolution (the rate is over all their operations, 1x1 convolutions included), and table look-ups, which only move
#: memory.
OperatorClass = Literal["matmul", "conv", "depthwise", "lookup"]


#: Sums of a sliced layer's output in a forward pass, and as many in a backward pass: one behind attention, one behind
#: the feed-forward part.
SHARD_SUMS = 2


class NextToken(Record):
    """What a layer does for one further token of a sample that it has a key-value cache for.

    Attributes
    ----------
    flops
        Floating-point operations, apart from those that grow with the context.
    context_flops
        Floating-point operations per token of context.
    read_parameters
        Parameters read from memory, however many samples there are.
    output_elements
        Elements of the output: what crosses the cut behind this layer.
    traffic_elements
        Activation elements read and written; the cache (``kv_elements`` per token of context) comes on top.
    """

    flops: float = Field(ge=0)
    context_flops: float = Field(default=0.0, ge=0)
    read_parameters: int = Field(ge=0)
    output_elements: int = Field(ge=1)
    traffic_elements: int = Field(default=0, ge=0)


class Layer(Record):
    """One layer of the chain. A cut never falls inside it.

    Attributes
    ----------
    name
        Unique in its workload, e.g. ``block.3``.
    operator
        Kind of work that dominates it; devices have a sustained rate for each.
    forward_flops
        Floating-point operations of one sample's forward pass, 2 per multiply-add.
    parameters
        Parameters it uses, tied ones included.
    read_parameters
        Parameters read from memory in one forward pass; None: all of them (a look-up reads only a few rows).
    output_elements
        Elements of one sample's output: what crosses the cut behind this layer.
    stash_elements
        Elements of one sample kept from forward to backward.
    traffic_elements
        Activation elements of one sample read and written by the forward pass.
    kv_elements
        Elements of key-value cache per sample and token.
    tied_parameters
        How many of ``parameters`` are shared with the layer at the other end of the network.
    parts
        Into how many equal parts the layer can be sliced, each with whole attention heads and the same part of the
        feed-forward width; 1, and left out of files: it cannot be. Queries, keys, values and the feed-forward input
        are sliced by columns, the two outputs by rows, and each output is summed over the devices
        (:data:`SHARD_SUMS`; Shoeybi et al., "Megatron-LM", 2019, section 3). That embeddings, heads and convolutions
        are not sliced is our own simplification.
    next_token
        What one further token takes, in a network that generates; None otherwise.
    """

    name: str = Field(min_length=1)
    operator: OperatorClass = "matmul"
    forward_flops: float = Field(ge=0)
    parameters: int = Field(ge=0)
    read_parameters: int | None = Field(default=None, ge=0)
    output_elements: int = Field(ge=1)
    stash_elements: int = Field(default=0, ge=0)
    traffic_elements: int = Field(default=0, ge=0)
    kv_elements: int = Field(default=0, ge=0)
    tied_parameters: int = Field(default=0, ge=0)
    parts: int = Field(default=1, ge=1, exclude_if=is_one)
    next_token: NextToken | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.tied_parameters > self.parameters:
            raise InputError("tied_parameters", self.tied_parameters, f"at most parameters ({self.parameters})")
        return self

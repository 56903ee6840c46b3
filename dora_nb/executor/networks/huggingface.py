"""Hugging Face language models as a sequence: embedding, layers, norm and head.

Qwen3, Qwen2 and Llama decoders, and BERT with its masked-language-model head. Every decoder layer computes its rotary
positions itself, from the length of what enters it; samples are of one length, without padding. Attention is causal in
decoders and full in BERT, by torch's fused kernel or, where a live model asks for it, Hugging Face's eager one; these
are the only two whose masks are known here. Norms compute in 32 bits whatever the dtype: Hugging Face does so.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dora_nb.domain.architecture.chain import sliceable
from dora_nb.errors import InputError, MissingDependencyError
from dora_nb.executor.device.cache import CachePart
from dora_nb.executor.networks.shards import Branch, Slicing

#: Attention implementations whose masks are known.
ATTENTION = ("sdpa", "eager")


class Family(NamedTuple):
    """Where a family keeps its classes."""

    module: str
    prefix: str
    full_model: str
    is_decoder: bool


FAMILIES = {
    "qwen3": Family("transformers.models.qwen3.modeling_qwen3", "Qwen3", "Qwen3ForCausalLM", True),
    "qwen2": Family("transformers.models.qwen2.modeling_qwen2", "Qwen2", "Qwen2ForCausalLM", True),
    "llama": Family("transformers.models.llama.modeling_llama", "Llama", "LlamaForCausalLM", True),
    "bert": Family("transformers.models.bert.modeling_bert", "Bert", "BertForMaskedLM", False),
}


class Embedding(nn.Module):
    """Token table of a decoder."""

    def __init__(self, embed_tokens: nn.Module) -> None:
        super().__init__()
        self.embed_tokens = embed_tokens

    def forward(self, tokens: Tensor, cache: CachePart | None = None) -> Tensor:
        """(samples, tokens) ids to (samples, tokens, hidden)."""
        del cache  # every token by itself
        embedded: Tensor = self.embed_tokens(tokens)
        return embedded


class DecoderLayer(nn.Module):
    """One decoder layer, with its rotary positions and its causal mask."""

    slicing = Slicing(
        branches=(
            Branch(
                columns=("block.self_attn.q_proj", "block.self_attn.k_proj", "block.self_attn.v_proj"),
                rows="block.self_attn.o_proj",
                norm="block.input_layernorm",
            ),
            Branch(
                columns=("block.mlp.gate_proj", "block.mlp.up_proj"),
                rows="block.mlp.down_proj",
                norm="block.post_attention_layernorm",
            ),
        ),
        shared_by_heads=("block.self_attn.q_norm.weight", "block.self_attn.k_norm.weight"),
    )

    def __init__(self, block: nn.Module, rotary: nn.Module, attention: str) -> None:
        super().__init__()
        self.block, self.rotary, self.attention = block, rotary, attention

    @property
    def parts(self) -> int:
        """See :mod:`~dora_nb.executor.networks.shards`."""
        block: Any = self.block
        config = block.self_attn.config
        return sliceable(config.num_key_value_heads, config.intermediate_size)

    def forward(self, x: Tensor, cache: CachePart | None = None) -> Tensor:
        """(samples, tokens, hidden) to the same; with a cache, of tokens behind those that it has seen."""
        tokens = x.shape[1]
        positions = (torch.arange(tokens)[None] if cache is None else cache.positions(tokens)).to(x.device)
        mask = None  # the fused kernel knows that the layer is causal, and that a token by itself looks at all
        seen = None if cache is None else cache.mask(tokens)
        if seen is not None:
            mask = torch.zeros(seen.shape, dtype=x.dtype).masked_fill(~seen, torch.finfo(x.dtype).min).to(x.device)
        elif self.attention == "eager" and tokens > 1:
            ahead = torch.full((x.shape[1], x.shape[1]), torch.finfo(x.dtype).min, dtype=x.dtype, device=x.device)
            mask = ahead.triu(1)[None, None]
        passed: Tensor = self.block(
            x,
            attention_mask=mask,
            position_ids=positions,
            position_embeddings=self.rotary(x, positions),
            cache=None if cache is None else _KeyValues(cache),
        )
        return passed


class _KeyValues:
    """A layer's cache as its attention in transformers uses one."""

    def __init__(self, cache: CachePart) -> None:
        self._cache = cache

    def update(self, keys: Tensor, values: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        return self._cache.extend(keys, values)


class DecoderHead(nn.Module):
    """Final norm and vocabulary projection."""

    def __init__(self, norm: nn.Module, lm_head: nn.Module) -> None:
        super().__init__()
        self.norm, self.lm_head = norm, lm_head

    def forward(self, x: Tensor, cache: CachePart | None = None) -> Tensor:
        """(samples, tokens, hidden) to logits (samples, tokens, vocabulary)."""
        del cache  # every token by itself
        logits: Tensor = self.lm_head(self.norm(x))
        return logits


class EncoderEmbedding(nn.Module):
    """Token, position and segment tables, and norm; every token is of the first segment."""

    def __init__(self, embeddings: nn.Module) -> None:
        super().__init__()
        self.embeddings = embeddings

    def forward(self, tokens: Tensor) -> Tensor:
        """(samples, tokens) ids to (samples, tokens, hidden)."""
        embedded: Tensor = self.embeddings(tokens)
        return embedded


class EncoderLayer(nn.Module):
    """One encoder layer."""

    slicing = Slicing(
        branches=(
            Branch(
                columns=("block.attention.self.query", "block.attention.self.key", "block.attention.self.value"),
                rows="block.attention.output.dense",
                entrance="block.attention.self",
            ),
            Branch(
                columns=("block.intermediate.dense",), rows="block.output.dense", entrance="block.intermediate.dense"
            ),
        )
    )

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    @property
    def parts(self) -> int:
        """See :mod:`~dora_nb.executor.networks.shards`."""
        block: Any = self.block
        config = block.attention.self.config
        return sliceable(config.num_attention_heads, config.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        """(samples, tokens, hidden) to the same."""
        passed: Tensor = self.block(x)
        return passed


class EncoderHead(nn.Module):
    """Masked-language-model head."""

    def __init__(self, predictions: nn.Module) -> None:
        super().__init__()
        self.predictions = predictions

    def forward(self, x: Tensor) -> Tensor:
        """(samples, tokens, hidden) to logits (samples, tokens, vocabulary)."""
        logits: Tensor = self.predictions(x)
        return logits


class HuggingFaceSequence(nn.Sequential):
    """A live model as a sequence of its own layers; ``whole`` holds the model."""

    whole: tuple[Any]


def sequential(model: Any) -> HuggingFaceSequence:
    """A live model as a sequence that computes the same logits.

    Parameters
    ----------
    model
        ``Qwen3ForCausalLM``, ``Qwen2ForCausalLM``, ``LlamaForCausalLM`` or ``BertForMaskedLM``; its modules are used,
        not copied.

    Raises
    ------
    InputError
        If it is of another class, or uses attention that is not known here.
    """
    family = family_of(model.config)
    if type(model).__name__ != family.full_model:
        raise InputError("model", type(model).__name__, ", ".join(each.full_model for each in FAMILIES.values()))
    attention = model.config._attn_implementation
    if attention not in ATTENTION:
        raise InputError("attn_implementation", attention, " or ".join(ATTENTION))
    if family.is_decoder:
        inner = model.model
        layers = [
            Embedding(inner.embed_tokens),
            *(DecoderLayer(each, inner.rotary_emb, attention) for each in inner.layers),
            DecoderHead(inner.norm, model.lm_head),
        ]
    else:
        inner = model.bert
        blocks = (EncoderLayer(each) for each in inner.encoder.layer)
        layers = [EncoderEmbedding(inner.embeddings), *blocks, EncoderHead(model.cls.predictions)]
    sequence = HuggingFaceSequence(*layers)
    sequence.whole = (model,)  # in a tuple, so that it is not registered as a layer
    return sequence


def required_transformers() -> Any:
    """The package.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise MissingDependencyError("transformers", "A Hugging Face model", "exec,hf") from error


def family_of(config: Any) -> Family:
    """The family of a configuration.

    Raises
    ------
    InputError
        If the model is of another family, or of a kind of this one that is not run here.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise InputError("model.config.model_type", config.model_type, ", ".join(FAMILIES))
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise InputError("model.config.layer_types", "sliding_attention", "full attention in every layer")
    if getattr(config, "is_decoder", False) and not family.is_decoder:
        raise InputError("model.config.is_decoder", True, "False: an encoder")
    return family


def tied_names_of(family: Family) -> tuple[str, str]:
    """Names of the token table in embedding and head."""
    if family.is_decoder:
        return ("embed_tokens.weight", "lm_head.weight")
    return ("embeddings.word_embeddings.weight", "predictions.decoder.weight")

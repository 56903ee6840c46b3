"""Small transformers in torch, layer by layer as the domain counts them.

Every layer draws its weights from a seed of its own, so a worker that builds only its layers gets the same ones as a
process that builds them all. Parameter counts equal those of :meth:`chain` of the architecture.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from dora_nb.domain.architecture import (
    Architecture,
    DecoderArchitecture,
    EncoderArchitecture,
    VisionTransformerArchitecture,
)
from dora_nb.errors import InputError

#: Base of the rotary frequencies.
ROTARY_BASE = 10_000.0

#: Spread of random matrices and biases, and of norms around 1: wide enough that no part hides in rounding.
MATRIX_STD, BIAS_STD, NORM_STD = 0.06, 0.02, 0.1


class DecoderEmbedding(nn.Module):
    """Token table."""

    def __init__(self, spec: DecoderArchitecture) -> None:
        super().__init__()
        self.tokens = nn.Embedding(spec.vocabulary, spec.hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        """(samples, tokens) ids to (samples, tokens, hidden)."""
        embedded: Tensor = self.tokens(tokens)
        return embedded


class DecoderBlock(nn.Module):
    """Pre-norm block: grouped-query attention with rotary positions, then SwiGLU."""

    def __init__(self, spec: DecoderArchitecture) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = spec.heads, spec.kv_heads, spec.head_dim
        self.attention_norm = nn.RMSNorm(spec.hidden, eps=1e-6)
        self.query = nn.Linear(spec.hidden, spec.heads * spec.head_dim, bias=spec.qkv_bias)
        self.key = nn.Linear(spec.hidden, spec.kv_heads * spec.head_dim, bias=spec.qkv_bias)
        self.value = nn.Linear(spec.hidden, spec.kv_heads * spec.head_dim, bias=spec.qkv_bias)
        self.query_norm = nn.RMSNorm(spec.head_dim, eps=1e-6) if spec.qk_norm else nn.Identity()
        self.key_norm = nn.RMSNorm(spec.head_dim, eps=1e-6) if spec.qk_norm else nn.Identity()
        self.output = nn.Linear(spec.heads * spec.head_dim, spec.hidden, bias=False)
        self.ffn_norm = nn.RMSNorm(spec.hidden, eps=1e-6)
        self.gate = nn.Linear(spec.hidden, spec.ffn, bias=False)
        self.up = nn.Linear(spec.hidden, spec.ffn, bias=False)
        self.down = nn.Linear(spec.ffn, spec.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(samples, tokens, hidden) to the same."""
        x = x + self._attention(self.attention_norm(x))
        normed = self.ffn_norm(x)
        fed: Tensor = x + self.down(functional.silu(self.gate(normed)) * self.up(normed))
        return fed

    def _attention(self, x: Tensor) -> Tensor:
        samples, tokens, _ = x.shape
        query = self.query_norm(self.query(x).view(samples, tokens, self.heads, self.head_dim))
        key = self.key_norm(self.key(x).view(samples, tokens, self.kv_heads, self.head_dim))
        value = self.value(x).view(samples, tokens, self.kv_heads, self.head_dim)
        shared = self.heads // self.kv_heads
        attended = functional.scaled_dot_product_attention(
            _rotated(query.transpose(1, 2)),
            _rotated(key.transpose(1, 2)).repeat_interleave(shared, dim=1),
            value.transpose(1, 2).repeat_interleave(shared, dim=1),
            is_causal=True,
        )
        merged: Tensor = self.output(attended.transpose(1, 2).reshape(samples, tokens, -1))
        return merged


def _rotated(x: Tensor) -> Tensor:
    """Rotary position embedding of (samples, heads, tokens, head_dim): pairs (i, i + half) turn by position."""
    half = x.shape[-1] // 2
    frequency = ROTARY_BASE ** (-torch.arange(half, dtype=x.dtype) / half)
    angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * frequency
    cos, sin = angle.cos(), angle.sin()
    left, right = x[..., :half], x[..., half : 2 * half]
    # An odd head has one element without a partner, which stays as it is.
    return torch.cat((left * cos - right * sin, right * cos + left * sin, x[..., 2 * half :]), dim=-1)


class DecoderHead(nn.Module):
    """Final norm and vocabulary projection."""

    def __init__(self, spec: DecoderArchitecture) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(spec.hidden, eps=1e-6)
        self.projection = nn.Linear(spec.hidden, spec.vocabulary, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(samples, tokens, hidden) to logits (samples, tokens, vocabulary)."""
        logits: Tensor = self.projection(self.norm(x))
        return logits


class EncoderEmbedding(nn.Module):
    """Token, position and segment tables, and norm; a sample is two segments of equal length."""

    def __init__(self, spec: EncoderArchitecture) -> None:
        super().__init__()
        self.tokens = nn.Embedding(spec.vocabulary, spec.hidden)
        self.positions = nn.Embedding(spec.positions, spec.hidden)
        self.segments = nn.Embedding(spec.segments, spec.hidden)
        self.norm = nn.LayerNorm(spec.hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        """(samples, tokens) ids to (samples, tokens, hidden)."""
        position = torch.arange(tokens.shape[1])
        segment = (2 * position // tokens.shape[1]).clamp(max=self.segments.num_embeddings - 1)
        embedded: Tensor = self.norm(self.tokens(tokens) + self.positions(position) + self.segments(segment))
        return embedded


class EncoderHead(nn.Module):
    """Masked-language-model head: dense, GELU, norm, vocabulary projection."""

    def __init__(self, spec: EncoderArchitecture) -> None:
        super().__init__()
        self.dense = nn.Linear(spec.hidden, spec.hidden)
        self.norm = nn.LayerNorm(spec.hidden)
        self.projection = nn.Linear(spec.hidden, spec.vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        """(samples, tokens, hidden) to logits (samples, tokens, vocabulary)."""
        logits: Tensor = self.projection(self.norm(functional.gelu(self.dense(x))))
        return logits


class FullAttentionBlock(nn.Module):
    """Full attention and a GELU feed-forward part, with norms after each (encoder) or before each (vision)."""

    def __init__(self, hidden: int, heads: int, ffn: int, *, norm_first: bool) -> None:
        super().__init__()
        self.heads, self.norm_first = heads, norm_first
        self.attention_norm = nn.LayerNorm(hidden)
        self.query_key_value = nn.Linear(hidden, 3 * hidden)
        self.output = nn.Linear(hidden, hidden)
        self.ffn_norm = nn.LayerNorm(hidden)
        self.up = nn.Linear(hidden, ffn)
        self.down = nn.Linear(ffn, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(samples, tokens, hidden) to the same."""
        if self.norm_first:
            x = x + self._attention(self.attention_norm(x))
            return x + self._feed_forward(self.ffn_norm(x))
        attended: Tensor = self.attention_norm(x + self._attention(x))
        fed: Tensor = self.ffn_norm(attended + self._feed_forward(attended))
        return fed

    def _attention(self, x: Tensor) -> Tensor:
        samples, tokens, hidden = x.shape
        split = self.query_key_value(x).view(samples, tokens, 3, self.heads, hidden // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value)
        merged: Tensor = self.output(attended.transpose(1, 2).reshape(samples, tokens, hidden))
        return merged

    def _feed_forward(self, x: Tensor) -> Tensor:
        fed: Tensor = self.down(functional.gelu(self.up(x)))
        return fed


class VisionEmbedding(nn.Module):
    """Patches, class token and positions."""

    def __init__(self, spec: VisionTransformerArchitecture, image_px: int) -> None:
        super().__init__()
        tokens = (image_px // spec.patch_px) ** 2 + 1
        self.patches = nn.Conv2d(3, spec.hidden, kernel_size=spec.patch_px, stride=spec.patch_px)
        self.class_token = nn.Parameter(torch.empty(1, 1, spec.hidden))
        self.positions = nn.Parameter(torch.empty(1, tokens, spec.hidden))

    def forward(self, images: Tensor) -> Tensor:
        """(samples, 3, px, px) to (samples, patches + 1, hidden)."""
        patches = self.patches(images).flatten(2).transpose(1, 2)
        embedded: Tensor = torch.cat((self.class_token.expand(len(images), -1, -1), patches), dim=1) + self.positions
        return embedded


class VisionHead(nn.Module):
    """Final norm, and classifier on the class token."""

    def __init__(self, spec: VisionTransformerArchitecture) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(spec.hidden)
        self.classifier = nn.Linear(spec.hidden, spec.classes)

    def forward(self, x: Tensor) -> Tensor:
        """(samples, tokens, hidden) to logits (samples, classes)."""
        logits: Tensor = self.classifier(self.norm(x)[:, 0])
        return logits


def build_layers(
    architecture: Architecture, dtype: torch.dtype, seed: int, image_px: int | None = None
) -> list[nn.Module]:
    """All layers, aligned one to one with those of the architecture's chain; tied parameters are one tensor.

    Raises
    ------
    InputError
        If the family is not a transformer.
    """
    count = _block_count(architecture) + 2
    layers = {index: build_layer(architecture, index, dtype, seed, image_px) for index in range(count)}
    tie(architecture, layers)
    return list(layers.values())


def build_layer(
    architecture: Architecture, index: int, dtype: torch.dtype, seed: int, image_px: int | None = None
) -> nn.Module:
    """One layer with the weights it has in the whole network.

    Parameters
    ----------
    architecture
        Of a transformer family.
    index
        Position in the chain: 0 is the embedding, the last the head.
    dtype
        Of the parameters.
    seed
        Of the network's weights.
    image_px
        Side of the image of a vision model; None: the architecture's own.

    Raises
    ------
    InputError
        If the family is not a transformer.
    """
    blocks = _block_count(architecture)
    # Building draws from torch's global generator, which belongs to the person: left as it was.
    with torch.random.fork_rng(devices=()):
        layer = _bare_layer(architecture, index, blocks, image_px).to(dtype)
    _fill(layer, torch.Generator().manual_seed(seed * 1_000_003 + index))
    table = tied_parameter(architecture, index, layer)
    if table is not None and index > 0:  # the head's copy starts as the embedding's, which is drawn first
        embedding = build_layer(architecture, 0, dtype, seed, image_px)
        source = tied_parameter(architecture, 0, embedding)
        assert source is not None, "a tied head has a tied embedding"
        with torch.no_grad():
            table.copy_(source)
    return layer


def tied_parameter(architecture: Architecture, index: int, layer: nn.Module) -> nn.Parameter | None:
    """The parameter a layer shares with the one at the other end of the network, if any."""
    if not isinstance(architecture, DecoderArchitecture | EncoderArchitecture) or not architecture.tied_embeddings:
        return None
    if index == 0:
        return layer.get_parameter("tokens.weight")
    return layer.get_parameter("projection.weight") if index == architecture.blocks + 1 else None


def tie(architecture: Architecture, layers: Mapping[int, nn.Module]) -> None:
    """Make the tied parameter one tensor where one process holds both layers (keys are positions in the chain)."""
    head = _block_count(architecture) + 1
    if 0 not in layers or head not in layers:
        return
    table = tied_parameter(architecture, 0, layers[0])
    if table is not None:
        layers[head].get_submodule("projection").register_parameter("weight", table)


def _block_count(architecture: Architecture) -> int:
    if isinstance(architecture, DecoderArchitecture | EncoderArchitecture | VisionTransformerArchitecture):
        return architecture.blocks
    raise InputError(
        "architecture.family",
        architecture.family,
        "decoder, encoder or vit: the executor runs transformer families for now",
    )


def _bare_layer(architecture: Architecture, index: int, blocks: int, image_px: int | None) -> nn.Module:
    if isinstance(architecture, DecoderArchitecture):
        if index == 0:
            return DecoderEmbedding(architecture)
        return DecoderBlock(architecture) if index <= blocks else DecoderHead(architecture)
    if isinstance(architecture, EncoderArchitecture):
        if index == 0:
            return EncoderEmbedding(architecture)
        if index > blocks:
            return EncoderHead(architecture)
        return FullAttentionBlock(architecture.hidden, architecture.heads, architecture.ffn, norm_first=False)
    assert isinstance(architecture, VisionTransformerArchitecture), "families were checked"
    if index == 0:
        return VisionEmbedding(architecture, image_px or architecture.image_px)
    if index > blocks:
        return VisionHead(architecture)
    return FullAttentionBlock(architecture.hidden, architecture.heads, architecture.ffn, norm_first=True)


def _fill(layer: nn.Module, generator: torch.Generator) -> None:
    """Random values: matrices and biases around 0, scales of norms around 1."""
    norms = {id(module.weight) for module in layer.modules() if isinstance(module, nn.RMSNorm | nn.LayerNorm)}
    with torch.no_grad():
        for parameter in layer.parameters():
            spread = NORM_STD if id(parameter) in norms else BIAS_STD if parameter.ndim == 1 else MATRIX_STD
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * spread
            parameter.copy_(drawn + (id(parameter) in norms))

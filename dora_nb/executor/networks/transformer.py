"""Small transformers in torch, layer by layer as the domain counts them: decoders, encoders, vision transformers."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from dora_nb.domain.architecture import DecoderArchitecture, EncoderArchitecture, VisionTransformerArchitecture
from dora_nb.domain.architecture.chain import sliceable
from dora_nb.executor.device.cache import CachePart
from dora_nb.executor.networks.shards import Branch, Slicing

TransformerArchitecture = DecoderArchitecture | EncoderArchitecture | VisionTransformerArchitecture

#: Base of the rotary frequencies.
ROTARY_BASE = 10_000.0


def transformer_layer(spec: TransformerArchitecture, index: int, image_px: int | None) -> nn.Module:
    """The embedding (index 0), a block, or the head (behind the blocks), with torch's own first values."""
    if index == 0:
        if isinstance(spec, VisionTransformerArchitecture):
            return VisionEmbedding(spec, image_px or spec.image_px)
        return DecoderEmbedding(spec) if isinstance(spec, DecoderArchitecture) else EncoderEmbedding(spec)
    is_head = index > spec.blocks
    if isinstance(spec, DecoderArchitecture):
        return DecoderHead(spec) if is_head else DecoderBlock(spec)
    if isinstance(spec, EncoderArchitecture):
        return EncoderHead(spec) if is_head else FullAttentionBlock(spec.hidden, spec.heads, spec.ffn, norm_first=False)
    return VisionHead(spec) if is_head else FullAttentionBlock(spec.hidden, spec.heads, spec.ffn, norm_first=True)


class DecoderEmbedding(nn.Module):
    """Token table."""

    def __init__(self, spec: DecoderArchitecture) -> None:
        super().__init__()
        self.tokens = nn.Embedding(spec.vocabulary, spec.hidden)

    def forward(self, tokens: Tensor, cache: CachePart | None = None) -> Tensor:
        """(samples, tokens) ids to (samples, tokens, hidden)."""
        del cache  # every token by itself
        embedded: Tensor = self.tokens(tokens)
        return embedded


class DecoderBlock(nn.Module):
    """Pre-norm block: grouped-query attention with rotary positions, then SwiGLU."""

    slicing = Slicing(
        branches=(
            Branch(columns=("query", "key", "value"), rows="output", norm="attention_norm"),
            Branch(columns=("gate", "up"), rows="down", norm="ffn_norm"),
        ),
        shared_by_heads=("query_norm.weight", "key_norm.weight"),
    )

    def __init__(self, spec: DecoderArchitecture) -> None:
        super().__init__()
        self.head_dim = spec.head_dim
        self.parts = sliceable(spec.kv_heads, spec.ffn)
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

    def forward(self, x: Tensor, cache: CachePart | None = None) -> Tensor:
        """(samples, tokens, hidden) to the same; with a cache, of tokens behind those that it has seen."""
        x = x + self._attention(self.attention_norm(x), cache)
        normed = self.ffn_norm(x)
        fed: Tensor = x + self.down(functional.silu(self.gate(normed)) * self.up(normed))
        return fed

    def _attention(self, x: Tensor, cache: CachePart | None) -> Tensor:
        samples, tokens, _ = x.shape
        positions = torch.arange(tokens)[None] if cache is None else cache.positions(tokens)
        mask = None if cache is None else cache.mask(tokens)
        query = self.query_norm(self.query(x).view(samples, tokens, -1, self.head_dim))
        key = self.key_norm(self.key(x).view(samples, tokens, -1, self.head_dim))
        value = self.value(x).view(samples, tokens, -1, self.head_dim)
        keys, values = _rotated(key.transpose(1, 2), positions), value.transpose(1, 2)
        if cache is not None:
            keys, values = cache.extend(keys, values)
        shared = query.shape[2] // key.shape[2]
        attended = functional.scaled_dot_product_attention(
            _rotated(query.transpose(1, 2), positions),
            keys.repeat_interleave(shared, dim=1),
            values.repeat_interleave(shared, dim=1),
            attn_mask=None if mask is None else mask.to(x.device),
            is_causal=tokens > 1,  # a token that comes by itself looks at all before it
        )
        merged: Tensor = self.output(attended.transpose(1, 2).reshape(samples, tokens, -1))
        return merged


def _rotated(x: Tensor, positions: Tensor) -> Tensor:
    """(samples, heads, tokens, head_dim) at positions, (samples, tokens): pairs (i, i + half) turn by them."""
    half = x.shape[-1] // 2
    precise = torch.promote_types(x.dtype, torch.float32)  # large angles in FP16 would be far off
    frequency = ROTARY_BASE ** (-torch.arange(half, dtype=precise) / half)
    angle = positions.to(precise)[:, None, :, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    left, right = x[..., :half], x[..., half : 2 * half]
    # An odd head has one element without a partner, which stays as it is.
    return torch.cat((left * cos - right * sin, right * cos + left * sin, x[..., 2 * half :]), dim=-1)


class DecoderHead(nn.Module):
    """Final norm and vocabulary projection."""

    def __init__(self, spec: DecoderArchitecture) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(spec.hidden, eps=1e-6)
        self.projection = nn.Linear(spec.hidden, spec.vocabulary, bias=False)

    def forward(self, x: Tensor, cache: CachePart | None = None) -> Tensor:
        """(samples, tokens, hidden) to logits (samples, tokens, vocabulary)."""
        del cache  # every token by itself
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

    slicing = Slicing(
        branches=(
            Branch(columns=("query_key_value",), rows="output", entrance="query_key_value", blocks=3),
            Branch(columns=("up",), rows="down", entrance="up"),
        )
    )

    def __init__(self, hidden: int, heads: int, ffn: int, *, norm_first: bool) -> None:
        super().__init__()
        self.head_dim, self.norm_first = hidden // heads, norm_first
        self.parts = sliceable(heads, ffn)
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
        samples, tokens, _ = x.shape
        split = self.query_key_value(x).view(samples, tokens, 3, -1, self.head_dim)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value)
        merged: Tensor = self.output(attended.transpose(1, 2).reshape(samples, tokens, -1))
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

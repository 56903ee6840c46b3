"""Decoder-only language models."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from dora_nb.domain.architecture.chain import (
    INTEGER_BYTES,
    Chain,
    check_multiple,
    loss_elements,
    sliceable,
    token_count,
)
from dora_nb.domain.layer import Layer, NextToken
from dora_nb.domain.record import Record


class DecoderArchitecture(Record):
    """Decoder-only language model: embedding, pre-norm blocks with rotary grouped-query attention and SwiGLU, head.

    Layers: ``embedding``, ``block.0`` ..., ``head`` (final norm and vocabulary projection).

    Attributes
    ----------
    hidden, ffn
        Width of the blocks, and inside their feed-forward part.
    blocks
        Transformer blocks.
    heads, kv_heads, head_dim
        Heads of queries, heads of keys and values, and the width of each.
    vocabulary
        Tokens that there are.
    tied_embeddings
        Whether the head uses the table of embeddings.
    qkv_bias, qk_norm
        Whether queries, keys and values have biases, and queries and keys a norm.
    """

    family: Literal["decoder"] = "decoder"
    hidden: int = Field(ge=1)
    blocks: int = Field(ge=1)
    heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)
    ffn: int = Field(ge=1)
    vocabulary: int = Field(ge=2)
    tied_embeddings: bool
    qkv_bias: bool = False
    qk_norm: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_multiple("heads", self.heads, self.kv_heads, "kv_heads")
        return self

    def chain(self, *, mode: str, sequence: int | None, image_px: int | None, bytes_per_element: int) -> Chain:
        """The layers, with the head computing logits of every token; to generate, of the prompt's last token only.

        Parameters
        ----------
        mode
            ``training``, ``inference``, ``stream`` or ``generate`` (then the figures are those of the prompt, and each
            layer has those of a further token as well).
        sequence
            Tokens per sample.
        image_px
            Must be None.
        bytes_per_element
            Bytes of one activation element.

        Returns
        -------
        Chain
            Its output is the logits of the last token; in ``generate`` mode one token id, for every token generated.

        Raises
        ------
        InputError
            If ``sequence`` is missing or ``image_px`` is given.
        """
        tokens = token_count(sequence, image_px)
        table = self.vocabulary * self.hidden
        tied = table if self.tied_embeddings else 0
        generates = mode == "generate"
        scored = 1 if generates else tokens
        logits = scored * self.vocabulary
        loss = loss_elements(mode, logits)
        embedding = Layer(
            name="embedding",
            operator="lookup",
            forward_flops=0.0,
            parameters=table,
            read_parameters=min(tokens, self.vocabulary) * self.hidden,
            output_elements=tokens * self.hidden,
            stash_elements=tokens * INTEGER_BYTES // bytes_per_element,  # the ids say which rows get a gradient
            traffic_elements=tokens * self.hidden,  # written; the rows read count as parameters
            tied_parameters=tied,
            next_token=NextToken(
                flops=0.0,
                read_parameters=0,  # a row per sample, which counts as traffic
                output_elements=self.hidden,
                traffic_elements=2 * self.hidden,
            )
            if generates
            else None,
        )
        head = Layer(
            name="head",
            operator="matmul",
            forward_flops=2.0 * scored * table,
            parameters=self.hidden + table,
            output_elements=logits,
            stash_elements=2 * scored * self.hidden + logits + loss,  # norm input and output, logits, probabilities
            traffic_elements=3 * scored * self.hidden + logits + 2 * loss,
            tied_parameters=tied,
            next_token=NextToken(
                flops=2.0 * table,
                read_parameters=self.hidden + table,
                output_elements=self.vocabulary,
                traffic_elements=3 * self.hidden + self.vocabulary,
            )
            if generates
            else None,
        )
        return Chain(
            layers=(
                embedding,
                *(self._block(f"block.{index}", tokens, generates) for index in range(self.blocks)),
                head,
            ),
            input_bytes=float(tokens * INTEGER_BYTES),
            label_bytes=float(tokens * INTEGER_BYTES) if mode == "training" else 0.0,
            output_bytes={"training": 0.0, "generate": float(INTEGER_BYTES)}.get(
                mode, float(self.vocabulary * bytes_per_element)
            ),
        )

    def _block(self, name: str, tokens: int, generates: bool) -> Layer:
        """One block.

        Stash per token: block input, its norm, the sum after attention, its norm (4 x hidden); rotated queries and
        keys, values, attention output, and with ``qk_norm`` also queries and keys before their norm; gate, its SiLU,
        up and their product (4 x ffn).
        """
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        products = self.hidden * (2 * query + 2 * key) + 3 * self.hidden * self.ffn
        biases = query + 2 * key if self.qkv_bias else 0
        norms = 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        rotated = query + key
        normed = rotated if self.qk_norm else 0
        # Read + written. hidden: norm 2, qkv 3, projection 1, residual 3, norm 2, gate and up 2, down 1, residual 3.
        # Attention: qkv written, norms and rotation read and written, attention reads qkv and writes, projection reads.
        # ffn: gate and up 2, SiLU 2, product 3, down 1.
        attention = 2 * (query + 2 * key) + 2 * (rotated + normed) + 2 * query
        traffic = 17 * self.hidden + attention + 8 * self.ffn
        parameters = products + biases + norms
        return Layer(
            name=name,
            operator="matmul",
            forward_flops=2.0 * tokens * products + 4.0 * tokens * tokens * query,
            parameters=parameters,
            output_elements=tokens * self.hidden,
            stash_elements=tokens * (4 * self.hidden + 2 * query + 2 * key + normed + 4 * self.ffn),
            traffic_elements=tokens * traffic,
            kv_elements=2 * key,
            parts=sliceable(self.kv_heads, self.ffn),
            next_token=NextToken(
                flops=2.0 * products,
                context_flops=4.0 * query,
                read_parameters=parameters,
                output_elements=self.hidden,
                traffic_elements=traffic,
            )
            if generates
            else None,
        )

"""Transformers of full attention: BERT-like encoders and ViT classifiers."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from dora_nb.domain.architecture.chain import (
    INTEGER_BYTES,
    Chain,
    cannot_generate,
    check_multiple,
    classifier_chain,
    image_side,
    loss_elements,
    sliceable,
    token_count,
)
from dora_nb.domain.layer import Layer
from dora_nb.domain.record import Record
from dora_nb.errors import InputError


class EncoderArchitecture(Record):
    """BERT-like encoder with a masked-language-model head.

    Layers: ``embedding`` (token, position and segment tables, norm), ``block.0`` ..., ``head`` (dense, norm,
    vocabulary projection tied to the token table, bias).

    Attributes
    ----------
    hidden, ffn
        Width of the blocks, and inside their feed-forward part.
    blocks, heads
        Transformer blocks, and attention heads of each.
    vocabulary, positions, segments
        Rows of the three tables.
    tied_embeddings
        Whether the head uses the table of tokens.
    """

    family: Literal["encoder"] = "encoder"
    hidden: int = Field(ge=1)
    blocks: int = Field(ge=1)
    heads: int = Field(ge=1)
    ffn: int = Field(ge=1)
    vocabulary: int = Field(ge=2)
    positions: int = Field(ge=1)
    segments: int = Field(ge=1)
    tied_embeddings: bool

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_multiple("hidden", self.hidden, self.heads, "heads")
        return self

    def chain(self, *, mode: str, sequence: int | None, image_px: int | None, bytes_per_element: int) -> Chain:
        """The layers, with the head computing logits of every token.

        Parameters
        ----------
        mode
            ``training``, ``inference`` or ``stream``.
        sequence
            Tokens per sample, at most ``positions``.
        image_px
            Must be None.
        bytes_per_element
            Bytes of one activation element.

        Returns
        -------
        Chain
            Its output is the logits of one token per sample, the masked one that was asked for.

        Raises
        ------
        InputError
            If ``sequence`` is missing or too long, ``image_px`` is given, or ``mode`` is ``generate``.
        """
        cannot_generate(mode)
        tokens = token_count(sequence, image_px)
        if tokens > self.positions:
            raise InputError("sequence", sequence, f"at most {self.positions} tokens, the positions of this encoder")
        table = self.vocabulary * self.hidden
        tied = table if self.tied_embeddings else 0
        width = tokens * self.hidden
        logits = tokens * self.vocabulary
        loss = loss_elements(mode, logits)
        embedding = Layer(
            name="embedding",
            operator="lookup",
            forward_flops=0.0,
            parameters=table + (self.positions + self.segments + 2) * self.hidden,
            # A row of the token table and of the position table per token, the segment table, the norm.
            read_parameters=(min(tokens, self.vocabulary) + tokens + self.segments + 2) * self.hidden,
            output_elements=width,
            stash_elements=tokens * INTEGER_BYTES // bytes_per_element + width,  # ids, norm input
            traffic_elements=11 * width,  # three rows written (3), added in two steps (6), norm (2)
            tied_parameters=tied,
        )
        head = Layer(
            name="head",
            operator="matmul",
            forward_flops=2.0 * tokens * (self.hidden * self.hidden + table),
            parameters=self.hidden * self.hidden + 3 * self.hidden + table + self.vocabulary,
            output_elements=logits,
            # Inputs of dense, GELU, norm and projection; logits and probabilities.
            stash_elements=4 * width + logits + loss,
            traffic_elements=7 * width + logits + 2 * loss,
            tied_parameters=tied,
        )
        blocks = (_block(f"block.{index}", self.hidden, self.ffn, self.heads, tokens) for index in range(self.blocks))
        return Chain(
            layers=(embedding, *blocks, head),
            input_bytes=float(tokens * INTEGER_BYTES),
            label_bytes=float(tokens * INTEGER_BYTES) if mode == "training" else 0.0,
            output_bytes=0.0 if mode == "training" else float(self.vocabulary * bytes_per_element),
        )


class VisionTransformerArchitecture(Record):
    """ViT classifier. Layers: ``embedding`` (patches, class token, positions), ``block.0`` ..., ``head``.

    The position table has one row per token of the image size in use, as if the network were made for that size.

    Attributes
    ----------
    hidden, ffn
        Width of the blocks, and inside their feed-forward part.
    blocks, heads
        Transformer blocks, and attention heads of each.
    patch_px, image_px
        Sides of a patch, and of the square image the model was published for.
    classes
        Of images.
    """

    family: Literal["vit"] = "vit"
    hidden: int = Field(ge=1)
    blocks: int = Field(ge=1)
    heads: int = Field(ge=1)
    ffn: int = Field(ge=1)
    patch_px: int = Field(ge=1)
    image_px: int = Field(ge=1)
    classes: int = Field(ge=2)

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_multiple("hidden", self.hidden, self.heads, "heads")
        check_multiple("image_px", self.image_px, self.patch_px, "patch_px")
        return self

    def chain(self, *, mode: str, sequence: int | None, image_px: int | None, bytes_per_element: int) -> Chain:
        """The layers.

        Parameters
        ----------
        mode
            ``training``, ``inference`` or ``stream``.
        sequence
            Must be None.
        image_px
            Side of the square image, a multiple of ``patch_px``; None: the architecture's own.
        bytes_per_element
            Bytes of one activation element.

        Returns
        -------
        Chain
            Its output is the logits of the classes.

        Raises
        ------
        InputError
            If ``sequence`` is given, ``image_px`` has a part patch, or ``mode`` is ``generate``.
        """
        px = image_side(mode, sequence, image_px, self.image_px)
        check_multiple("image_px", px, self.patch_px, "patch_px")
        patches = (px // self.patch_px) ** 2
        tokens = patches + 1
        width = tokens * self.hidden
        image = 3 * px * px
        weights = 3 * self.patch_px**2 * self.hidden
        embedding = Layer(
            name="embedding",
            operator="matmul",  # patches do not overlap, so their convolution is one dense product
            forward_flops=2.0 * patches * weights,
            parameters=weights + 2 * self.hidden + width,  # projection and bias, class token, positions
            output_elements=width,
            stash_elements=image,
            traffic_elements=image
            + 5 * width,  # patches written (1), joined with the class token (2), positions added (2)
        )
        loss = loss_elements(mode, self.classes)
        head = Layer(
            name="head",
            operator="matmul",
            forward_flops=2.0 * self.hidden * self.classes,
            parameters=2 * self.hidden + self.hidden * self.classes + self.classes,
            output_elements=self.classes,
            stash_elements=width + self.hidden + self.classes + loss,  # norm input, class token, logits, probabilities
            traffic_elements=2 * width + self.hidden + self.classes + 2 * loss,
        )
        blocks = (_block(f"block.{index}", self.hidden, self.ffn, self.heads, tokens) for index in range(self.blocks))
        return classifier_chain(mode, (embedding, *blocks, head), image, self.classes, bytes_per_element)


def _block(name: str, hidden: int, ffn: int, heads: int, tokens: int) -> Layer:
    """A block of full attention and a two-matrix feed-forward part, norms before (ViT) or after (BERT): equal counts.

    Stash per token: block input, queries, keys, values, attention output, the two sums or norms of each half (8 x
    hidden in all), and the feed-forward activation before and after GELU.
    """
    products = 4 * hidden * hidden + 2 * hidden * ffn
    biases_and_norms = 4 * hidden + ffn + hidden + 4 * hidden
    # Read + written, in units of hidden: qkv 6, attention 4, projection 2, residual 3, norm 2, up 1, down 1,
    # residual 3, norm 2; in units of ffn: up 1, GELU 2, down 1.
    return Layer(
        name=name,
        operator="matmul",
        forward_flops=2.0 * tokens * products + 4.0 * tokens * tokens * hidden,
        parameters=products + biases_and_norms,
        output_elements=tokens * hidden,
        stash_elements=tokens * (8 * hidden + 2 * ffn),
        traffic_elements=tokens * (24 * hidden + 4 * ffn),
        parts=sliceable(heads, ffn),
    )

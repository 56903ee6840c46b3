"""Network architectures, and the chain of layers each one is.

Everything a planner needs of a layer (operations, parameters, activation elements) follows from a handful of
architecture numbers. The counting rules are our own; parameter totals are tested against the published ones.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dora_nb.domain.record import Record


class DecoderArchitecture(Record):
    """Decoder-only language model: embedding, pre-norm blocks with rotary grouped-query attention and SwiGLU, head.

    Layers: ``embedding``, ``block.0`` ..., ``head`` (final norm and vocabulary projection).
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


class EncoderArchitecture(Record):
    """BERT-like encoder with a masked-language-model head.

    Layers: ``embedding`` (token, position and segment tables, norm), ``block.0`` ..., ``head`` (dense, norm,
    vocabulary projection tied to the token table, bias).
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


class VisionTransformerArchitecture(Record):
    """ViT classifier. Layers: ``embedding`` (patches, class token, positions), ``block.0`` ..., ``head``."""

    family: Literal["vit"] = "vit"
    hidden: int = Field(ge=1)
    blocks: int = Field(ge=1)
    heads: int = Field(ge=1)
    ffn: int = Field(ge=1)
    patch_px: int = Field(ge=1)
    image_px: int = Field(ge=1)
    classes: int = Field(ge=2)


class ResNetArchitecture(Record):
    """Bottleneck ResNet classifier. Layers: ``stem``, ``stage1.block0`` ..., ``head`` (pooling and classifier)."""

    family: Literal["resnet"] = "resnet"
    depths: tuple[int, ...] = Field(min_length=1)
    widths: tuple[int, ...] = Field(min_length=1)
    stem_width: int = Field(ge=1)
    image_px: int = Field(ge=1)
    classes: int = Field(ge=2)


class MobileNetArchitecture(Record):
    """MobileNetV2 classifier. Layers: ``stem``, ``block.0`` ... (inverted residuals), ``head``.

    ``stages`` holds (expansion, output width, repeats, stride) as in Table 2 of the MobileNetV2 paper.
    """

    family: Literal["mobilenet"] = "mobilenet"
    stem_width: int = Field(ge=1)
    stages: tuple[tuple[int, int, int, int], ...] = Field(min_length=1)
    head_width: int = Field(ge=1)
    image_px: int = Field(ge=1)
    classes: int = Field(ge=2)


Architecture = Annotated[
    DecoderArchitecture | EncoderArchitecture | VisionTransformerArchitecture | ResNetArchitecture | MobileNetArchitecture,
    Field(discriminator="family"),
]

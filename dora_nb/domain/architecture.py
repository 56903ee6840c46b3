"""Network architectures, and the chain of layers each one is.

Everything a planner needs of a layer (operations, parameters, activation elements) follows from a handful of
architecture numbers. The counting rules are our own; parameter totals and operations are tested against published
ones.

Counting rules, all per sample:

- Operations are the 2 FLOPs per multiply-add of matrix products and convolutions, attention scores and weighted
  values included (causal attention counted in full). Element-wise work counts as memory traffic only.
- The stash holds what a plain reverse-mode differentiation keeps: the input of every product and normalisation, the
  tensors that enter attention and its output, and what the activation functions need. Attention is fused: its
  sequence x sequence matrix is never stored. Left out, all below one percent: statistics of normalisations and of the
  fused attention. Dropout is off. The output of a layer is counted once, as the input of the next.
- Traffic counts every operator apart, reading its inputs and writing its outputs, as eager execution does; the fused
  attention reads queries, keys and values once.
- In training the last layer also holds the loss: logits and probabilities are both stashed.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from dora_nb.domain.layer import Layer, NextToken
from dora_nb.domain.record import Record
from dora_nb.errors import InputError

#: Token ids and class labels travel as 64-bit integers.
INTEGER_BYTES = 8


class Chain(NamedTuple):
    """A network as layers, and what one sample brings in and takes out.

    Attributes
    ----------
    layers
        First to last; figures per sample.
    input_bytes
        Bytes of one sample's input: token ids, or an RGB image in the workload's precision.
    label_bytes
        Bytes of one sample's label in training (0 in other modes): an id per token, or one class.
    output_bytes
        Bytes of one sample's result as it travels to the sink; 0 in training, whose result is the parameters.
    """

    layers: tuple[Layer, ...]
    input_bytes: float
    label_bytes: float
    output_bytes: float


def _tokens(sequence: int | None, image_px: int | None) -> int:
    """Tokens per sample of a language model, which has no image."""
    if image_px is not None:
        raise InputError("image_px", image_px, "nothing for a language model, which reads tokens: give sequence")
    if sequence is None or sequence < 1:
        raise InputError("sequence", sequence, "at least 1 token for a language model")
    return sequence


def _pixels(mode: str, sequence: int | None, image_px: int | None, default: int) -> int:
    """Side of the image of a vision model, which has no tokens to be given and generates none."""
    _cannot_generate(mode)
    if sequence is not None:
        raise InputError("sequence", sequence, "nothing for a vision model, which reads images: give image_px")
    if image_px is None:
        return default
    if image_px < 1:
        raise InputError("image_px", image_px, "at least 1 pixel for a vision model")
    return image_px


def _cannot_generate(mode: str) -> None:
    if mode == "generate":
        raise InputError("mode", mode, "training, inference or stream: only a decoder generates tokens")


def _multiple(field: str, value: int, of: int, what: str) -> None:
    if value % of:
        raise InputError(field, value, f"a multiple of {what} ({of})")


def _loss_elements(mode: str, logits: int) -> int:
    """Elements the loss reads (logits), and as many it writes and keeps (probabilities); 0 without a loss."""
    return logits if mode == "training" else 0


def _block(name: str, hidden: int, ffn: int, tokens: int) -> Layer:
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
    )


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

    @model_validator(mode="after")
    def _check(self) -> Self:
        _multiple("heads", self.heads, self.kv_heads, "kv_heads")
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
        tokens = _tokens(sequence, image_px)
        table = self.vocabulary * self.hidden
        tied = table if self.tied_embeddings else 0
        generates = mode == "generate"
        scored = 1 if generates else tokens
        logits = scored * self.vocabulary
        loss = _loss_elements(mode, logits)
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

    @model_validator(mode="after")
    def _check(self) -> Self:
        _multiple("hidden", self.hidden, self.heads, "heads")
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
        _cannot_generate(mode)
        tokens = _tokens(sequence, image_px)
        if tokens > self.positions:
            raise InputError("sequence", sequence, f"at most {self.positions} tokens, the positions of this encoder")
        table = self.vocabulary * self.hidden
        tied = table if self.tied_embeddings else 0
        width = tokens * self.hidden
        logits = tokens * self.vocabulary
        loss = _loss_elements(mode, logits)
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
        blocks = (_block(f"block.{index}", self.hidden, self.ffn, tokens) for index in range(self.blocks))
        return Chain(
            layers=(embedding, *blocks, head),
            input_bytes=float(tokens * INTEGER_BYTES),
            label_bytes=float(tokens * INTEGER_BYTES) if mode == "training" else 0.0,
            output_bytes=0.0 if mode == "training" else float(self.vocabulary * bytes_per_element),
        )


class VisionTransformerArchitecture(Record):
    """ViT classifier. Layers: ``embedding`` (patches, class token, positions), ``block.0`` ..., ``head``.

    The position table has one row per token of the image size in use, as if the network were made for that size.
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
        _multiple("hidden", self.hidden, self.heads, "heads")
        _multiple("image_px", self.image_px, self.patch_px, "patch_px")
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
        px = _pixels(mode, sequence, image_px, self.image_px)
        _multiple("image_px", px, self.patch_px, "patch_px")
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
        loss = _loss_elements(mode, self.classes)
        head = Layer(
            name="head",
            operator="matmul",
            forward_flops=2.0 * self.hidden * self.classes,
            parameters=2 * self.hidden + self.hidden * self.classes + self.classes,
            output_elements=self.classes,
            stash_elements=width + self.hidden + self.classes + loss,  # norm input, class token, logits, probabilities
            traffic_elements=2 * width + self.hidden + self.classes + 2 * loss,
        )
        blocks = (_block(f"block.{index}", self.hidden, self.ffn, tokens) for index in range(self.blocks))
        return _classifier(mode, (embedding, *blocks, head), image, self.classes, bytes_per_element)


class _Convolution(NamedTuple):
    """A convolution, its batch normalisation and, if ``activated``, an activation function computed in place.

    Padding keeps the image size, divided by the stride and rounded up.
    """

    in_channels: int
    out_channels: int
    kernel: int
    in_px: int
    stride: int = 1
    depthwise: bool = False
    activated: bool = True

    @property
    def out_px(self) -> int:
        return -(-self.in_px // self.stride)

    @property
    def weights(self) -> int:
        return self.kernel**2 * self.out_channels * (1 if self.depthwise else self.in_channels)

    @property
    def parameters(self) -> int:
        """Weights, and scale and shift of the normalisation (running statistics are no parameters)."""
        return self.weights + 2 * self.out_channels

    @property
    def flops(self) -> float:
        return 2.0 * self.weights * self.out_px**2

    @property
    def elements(self) -> int:
        return self.out_channels * self.out_px**2

    @property
    def stash(self) -> int:
        """The normalisation's input, and the activation's output; the convolution's own input is counted before."""
        return self.elements * (2 if self.activated else 1)

    @property
    def traffic(self) -> int:
        """Convolution, normalisation and activation, each reading and writing."""
        return self.in_channels * self.in_px**2 + self.elements * (5 if self.activated else 3)


def _classifier(mode: str, layers: tuple[Layer, ...], image: int, classes: int, bytes_per_element: int) -> Chain:
    """The chain of an image classifier: an image in, one label, logits out."""
    training = mode == "training"
    return Chain(
        layers=layers,
        input_bytes=float(image * bytes_per_element),
        label_bytes=float(INTEGER_BYTES) if training else 0.0,
        output_bytes=0.0 if training else float(classes * bytes_per_element),
    )


class ResNetArchitecture(Record):
    """Bottleneck ResNet classifier. Layers: ``stem``, ``stage1.block0`` ..., ``head`` (pooling and classifier).

    ``widths`` are the output widths of the stages; a bottleneck is a quarter as wide inside. The first block of every
    stage but the first halves the image in its 3 x 3 convolution.
    """

    family: Literal["resnet"] = "resnet"
    depths: tuple[int, ...] = Field(min_length=1)
    widths: tuple[int, ...] = Field(min_length=1)
    stem_width: int = Field(ge=1)
    image_px: int = Field(ge=1)
    classes: int = Field(ge=2)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.depths) != len(self.widths) or min(self.depths) < 1:
            raise InputError("depths", self.depths, f"at least 1 block for each of the {len(self.widths)} widths")
        for index, width in enumerate(self.widths):
            if width < 4 or width % 4:
                raise InputError(f"widths[{index}]", width, "a positive multiple of 4")
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
            Side of the square image; None: the architecture's own.
        bytes_per_element
            Bytes of one activation element.

        Returns
        -------
        Chain
            Its output is the logits of the classes.

        Raises
        ------
        InputError
            If ``sequence`` is given or ``mode`` is ``generate``.
        """
        px = _pixels(mode, sequence, image_px, self.image_px)
        image = 3 * px * px
        convolution = _Convolution(3, self.stem_width, 7, px, stride=2)
        pooled_px = -(-convolution.out_px // 2)
        pooled = self.stem_width * pooled_px**2
        layers = [
            Layer(
                name="stem",
                operator="conv",
                forward_flops=convolution.flops,
                parameters=convolution.parameters,
                output_elements=pooled,
                # The image, the convolution's tensors, and the integer position of every maximum.
                stash_elements=image + convolution.stash + pooled * INTEGER_BYTES // bytes_per_element,
                traffic_elements=convolution.traffic + convolution.elements + pooled,
            )
        ]
        channels, side = self.stem_width, pooled_px
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), start=1):
            for index in range(depth):
                stride = 2 if stage > 1 and index == 0 else 1
                layers.append(_bottleneck(f"stage{stage}.block{index}", channels, width, side, stride))
                channels, side = width, -(-side // stride)
        loss = _loss_elements(mode, self.classes)
        features = channels * side**2
        layers.append(
            Layer(
                name="head",
                operator="matmul",
                forward_flops=2.0 * channels * self.classes,
                parameters=channels * self.classes + self.classes,
                output_elements=self.classes,
                stash_elements=features + channels + self.classes + loss,  # input, pooled, logits, probabilities
                traffic_elements=features + 2 * channels + self.classes + 2 * loss,
            )
        )
        return _classifier(mode, tuple(layers), image, self.classes, bytes_per_element)


def _bottleneck(name: str, channels: int, width: int, side: int, stride: int) -> Layer:
    """1 x 1, 3 x 3 and 1 x 1 convolutions around a shortcut, which has a 1 x 1 convolution where shapes change."""
    inner = width // 4
    convolutions = [
        _Convolution(channels, inner, 1, side),
        _Convolution(inner, inner, 3, side, stride=stride),
        _Convolution(inner, width, 1, -(-side // stride), activated=False),
    ]
    output = convolutions[-1].elements
    if stride != 1 or channels != width:
        convolutions.append(_Convolution(channels, width, 1, side, stride=stride, activated=False))
    return Layer(
        name=name,
        operator="conv",
        forward_flops=sum(convolution.flops for convolution in convolutions),
        parameters=sum(convolution.parameters for convolution in convolutions),
        output_elements=output,
        stash_elements=channels * side**2 + sum(convolution.stash for convolution in convolutions),
        # The shortcut is added (three operands) and the sum activated (two).
        traffic_elements=sum(convolution.traffic for convolution in convolutions) + 5 * output,
    )


class MobileNetArchitecture(Record):
    """MobileNetV2 classifier. Layers: ``stem``, ``block.0`` ... (inverted residuals), ``head``.

    ``stages`` holds (expansion, output width, repeats, stride) as in Table 2 of the MobileNetV2 paper.

    An inverted residual is of class ``depthwise``: its depthwise convolution has a small part of the operations, but
    it and the wide tensors around it decide the time. A device's ``depthwise`` rate is therefore one over all
    operations of such blocks, their 1 x 1 convolutions included.
    """

    family: Literal["mobilenet"] = "mobilenet"
    stem_width: int = Field(ge=1)
    stages: tuple[tuple[int, int, int, int], ...] = Field(min_length=1)
    head_width: int = Field(ge=1)
    image_px: int = Field(ge=1)
    classes: int = Field(ge=2)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for index, stage in enumerate(self.stages):
            if min(stage) < 1:
                raise InputError(f"stages[{index}]", stage, "expansion, width, repeats and stride, each at least 1")
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
            Side of the square image; None: the architecture's own.
        bytes_per_element
            Bytes of one activation element.

        Returns
        -------
        Chain
            Its output is the logits of the classes.

        Raises
        ------
        InputError
            If ``sequence`` is given or ``mode`` is ``generate``.
        """
        px = _pixels(mode, sequence, image_px, self.image_px)
        image = 3 * px * px
        stem = _Convolution(3, self.stem_width, 3, px, stride=2)
        layers = [
            Layer(
                name="stem",
                operator="conv",
                forward_flops=stem.flops,
                parameters=stem.parameters,
                output_elements=stem.elements,
                stash_elements=image + stem.elements,  # the activation's output is the next layer's input
                traffic_elements=stem.traffic,
            )
        ]
        channels, side = self.stem_width, stem.out_px
        for expansion, width, repeats, first_stride in self.stages:
            for index in range(repeats):
                stride = first_stride if index == 0 else 1
                layers.append(_inverted_residual(f"block.{len(layers) - 1}", channels, width, expansion, side, stride))
                channels, side = width, -(-side // stride)
        last = _Convolution(channels, self.head_width, 1, side)
        loss = _loss_elements(mode, self.classes)
        layers.append(
            Layer(
                name="head",
                operator="conv",
                forward_flops=last.flops + 2.0 * self.head_width * self.classes,
                parameters=last.parameters + self.head_width * self.classes + self.classes,
                output_elements=self.classes,
                # Input, the convolution's tensors, pooled features, logits, probabilities.
                stash_elements=channels * side**2 + last.stash + self.head_width + self.classes + loss,
                traffic_elements=last.traffic + last.elements + 2 * self.head_width + self.classes + 2 * loss,
            )
        )
        return _classifier(mode, tuple(layers), image, self.classes, bytes_per_element)


def _inverted_residual(name: str, channels: int, width: int, expansion: int, side: int, stride: int) -> Layer:
    """1 x 1 expansion (unless the factor is 1), 3 x 3 depthwise and 1 x 1 linear convolution; a shortcut if it fits."""
    inner = channels * expansion
    convolutions = [
        _Convolution(inner, inner, 3, side, stride=stride, depthwise=True),
        _Convolution(inner, width, 1, -(-side // stride), activated=False),
    ]
    if expansion != 1:
        convolutions.insert(0, _Convolution(channels, inner, 1, side))
    output = width * (-(-side // stride)) ** 2
    shortcut = 3 * output if stride == 1 and channels == width else 0
    return Layer(
        name=name,
        operator="depthwise",
        forward_flops=sum(convolution.flops for convolution in convolutions),
        parameters=sum(convolution.parameters for convolution in convolutions),
        output_elements=output,
        stash_elements=channels * side**2 + sum(convolution.stash for convolution in convolutions),
        traffic_elements=sum(convolution.traffic for convolution in convolutions) + shortcut,
    )


Architecture = Annotated[
    DecoderArchitecture
    | EncoderArchitecture
    | VisionTransformerArchitecture
    | ResNetArchitecture
    | MobileNetArchitecture,
    Field(discriminator="family"),
]

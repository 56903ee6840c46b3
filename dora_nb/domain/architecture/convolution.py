"""Convolutional classifiers: bottleneck ResNets and MobileNetV2."""

from __future__ import annotations

from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator

from dora_nb.domain.architecture.chain import INTEGER_BYTES, Chain, classifier_chain, image_side, loss_elements
from dora_nb.domain.layer import Layer
from dora_nb.domain.record import Record
from dora_nb.errors import InputError


class ResNetArchitecture(Record):
    """Bottleneck ResNet classifier. Layers: ``stem``, ``stage1.block0`` ..., ``head`` (pooling and classifier).

    The first block of every stage but the first halves the image in its 3 x 3 convolution.

    Attributes
    ----------
    depths, widths
        Blocks, and output width, of every stage; a bottleneck is a quarter as wide inside.
    stem_width
        Channels behind the first convolution.
    image_px
        Side of the square image the model was published for.
    classes
        Of images.
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
        px = image_side(mode, sequence, image_px, self.image_px)
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
        loss = loss_elements(mode, self.classes)
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
        return classifier_chain(mode, tuple(layers), image, self.classes, bytes_per_element)


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

    An inverted residual is of class ``depthwise``: its depthwise convolution has a small part of the operations, but
    it and the wide tensors around it decide the time. A device's ``depthwise`` rate is therefore one over all
    operations of such blocks, their 1 x 1 convolutions included.

    Attributes
    ----------
    stem_width, head_width
        Channels behind the first convolution, and in front of the classifier.
    stages
        (Expansion, output width, repeats, stride) of each, as in Table 2 of the MobileNetV2 paper.
    image_px
        Side of the square image the model was published for.
    classes
        Of images.
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
        px = image_side(mode, sequence, image_px, self.image_px)
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
        loss = loss_elements(mode, self.classes)
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
        return classifier_chain(mode, tuple(layers), image, self.classes, bytes_per_element)


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

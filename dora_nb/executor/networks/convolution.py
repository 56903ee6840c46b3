"""Small convolutional classifiers in torch, layer by layer as the domain counts them: ResNet and MobileNetV2.

Normalisation is over each sample (one group of all channels) where the originals normalise over the batch: with as
many parameters and the same work, but a sample's result does not depend on which replica takes the others, so that a
run equals one process whatever the plan.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor, nn

from dora_nb.domain.architecture import MobileNetArchitecture, ResNetArchitecture

ConvolutionalArchitecture = ResNetArchitecture | MobileNetArchitecture


class Part(NamedTuple):
    """What a layer is; equal parts have equal shapes.

    Attributes
    ----------
    kind
        ``stem``, ``bottleneck``, ``inverted`` or ``head``.
    channels, width
        In and out.
    stride, expansion
        Of the 3 x 3 convolution, and of the channels inside.
    side_px
        Of what enters.
    """

    kind: str
    channels: int
    width: int
    stride: int
    expansion: int
    side_px: int


def parts_of(spec: ConvolutionalArchitecture, image_px: int | None) -> list[Part]:
    """The layers of a network, in the order of the architecture's chain."""
    image_px = image_px or spec.image_px
    parts = [Part("stem", 3, spec.stem_width, 2, 1, image_px)]
    if isinstance(spec, ResNetArchitecture):
        side = math.ceil(image_px / 4)  # the stem pools too
        blocks = [
            ("bottleneck", width, 2 if stage and not index else 1, 1)
            for stage, (depth, width) in enumerate(zip(spec.depths, spec.widths, strict=True))
            for index in range(depth)
        ]
    else:
        side = math.ceil(image_px / 2)
        blocks = [
            ("inverted", width, stride if not index else 1, expansion)
            for expansion, width, repeats, stride in spec.stages
            for index in range(repeats)
        ]
    channels = spec.stem_width
    for kind, width, stride, expansion in blocks:
        parts.append(Part(kind, channels, width, stride, expansion, side))
        channels, side = width, math.ceil(side / stride)
    features = channels if isinstance(spec, ResNetArchitecture) else spec.head_width
    return [*parts, Part("head", channels, features, 1, 1, side)]


def convolutional_layer(spec: ConvolutionalArchitecture, part: Part) -> nn.Module:
    """A layer with torch's own first values.

    It takes (samples, channels, px, px) and gives the same, or, the head, logits (samples, classes).
    """
    is_resnet = isinstance(spec, ResNetArchitecture)
    if part.kind == "stem":
        stem = _convolution(3, part.width, 7 if is_resnet else 3, stride=2, activation=_activation(spec))
        return nn.Sequential(stem, nn.MaxPool2d(3, stride=2, padding=1)) if is_resnet else stem
    if part.kind == "head":
        pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(part.width, spec.classes)]
        if is_resnet:
            return nn.Sequential(*pooled)
        return nn.Sequential(_convolution(part.channels, part.width, 1, activation=_activation(spec)), *pooled)
    return Bottleneck(part) if is_resnet else InvertedResidual(part)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions around a shortcut, which has a 1 x 1 convolution where shapes change."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        inner = part.width // 4
        self.inside = nn.Sequential(
            _convolution(part.channels, inner, 1, activation=nn.ReLU()),
            _convolution(inner, inner, 3, stride=part.stride, activation=nn.ReLU()),
            _convolution(inner, part.width, 1),
        )
        changes = part.stride != 1 or part.channels != part.width
        self.shortcut = _convolution(part.channels, part.width, 1, stride=part.stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(samples, channels, px, px) to (samples, width, px / stride, px / stride)."""
        passed: Tensor = (self.inside(x) + self.shortcut(x)).relu()
        return passed


class InvertedResidual(nn.Module):
    """1 x 1 expansion (unless the factor is 1), 3 x 3 depthwise and 1 x 1 linear convolution; a shortcut if it fits."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        inner = part.channels * part.expansion
        widened = [_convolution(part.channels, inner, 1, activation=nn.ReLU6())] if part.expansion != 1 else []
        self.inside = nn.Sequential(
            *widened,
            _convolution(inner, inner, 3, stride=part.stride, groups=inner, activation=nn.ReLU6()),
            _convolution(inner, part.width, 1),
        )
        self.has_shortcut = part.stride == 1 and part.channels == part.width

    def forward(self, x: Tensor) -> Tensor:
        """(samples, channels, px, px) to (samples, width, px / stride, px / stride)."""
        passed: Tensor = self.inside(x)
        return x + passed if self.has_shortcut else passed


def _activation(spec: ConvolutionalArchitecture) -> nn.Module:
    return nn.ReLU() if isinstance(spec, ResNetArchitecture) else nn.ReLU6()


def _convolution(
    channels: int, width: int, kernel: int, *, stride: int = 1, groups: int = 1, activation: nn.Module | None = None
) -> nn.Sequential:
    """A convolution whose padding keeps the size, divided by the stride and rounded up; normalised, activated."""
    convolution = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(1, width), *([] if activation is None else [activation]))

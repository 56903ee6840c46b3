"""What every architecture is turned into, and the checks they share."""

from __future__ import annotations

from typing import NamedTuple

from dora_nb.domain.layer import Layer
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


def token_count(sequence: int | None, image_px: int | None) -> int:
    """Tokens per sample of a language model, which has no image."""
    if image_px is not None:
        raise InputError("image_px", image_px, "nothing for a language model, which reads tokens: give sequence")
    if sequence is None or sequence < 1:
        raise InputError("sequence", sequence, "at least 1 token for a language model")
    return sequence


def image_side(mode: str, sequence: int | None, image_px: int | None, default: int) -> int:
    """Side of the image of a vision model, which has no tokens to be given and generates none."""
    cannot_generate(mode)
    if sequence is not None:
        raise InputError("sequence", sequence, "nothing for a vision model, which reads images: give image_px")
    if image_px is None:
        return default
    if image_px < 1:
        raise InputError("image_px", image_px, "at least 1 pixel for a vision model")
    return image_px


def cannot_generate(mode: str) -> None:
    """Refuse to generate with a network that is no decoder."""
    if mode == "generate":
        raise InputError("mode", mode, "training, inference or stream: only a decoder generates tokens")


def check_multiple(field: str, value: int, of: int, what: str) -> None:
    """Refuse a value that is no multiple of another."""
    if value % of:
        raise InputError(field, value, f"a multiple of {what} ({of})")


def sliceable(heads: int, ffn: int) -> int:
    """Equal parts that a block can be sliced into: its key-value heads, if they divide the feed-forward width."""
    return heads if ffn % heads == 0 else 1


def loss_elements(mode: str, logits: int) -> int:
    """Elements the loss reads (logits), and as many it writes and keeps (probabilities); 0 without a loss."""
    return logits if mode == "training" else 0


def classifier_chain(mode: str, layers: tuple[Layer, ...], image: int, classes: int, bytes_per_element: int) -> Chain:
    """The chain of an image classifier: an image in, one label, logits out."""
    training = mode == "training"
    return Chain(
        layers=layers,
        input_bytes=float(image * bytes_per_element),
        label_bytes=float(INTEGER_BYTES) if training else 0.0,
        output_bytes=0.0 if training else float(classes * bytes_per_element),
    )

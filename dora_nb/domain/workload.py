"""What has to be computed: the layers of a network, and how they are used."""

from __future__ import annotations

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from dora_nb.domain.architecture import Architecture
from dora_nb.domain.layer import BYTES_PER_ELEMENT, Layer, Precision
from dora_nb.domain.plan import Weights
from dora_nb.domain.record import Record
from dora_nb.errors import InputError
from dora_nb.units import Bytes, PerS

Mode = Literal["training", "inference", "stream", "generate"]
MODES: tuple[str, ...] = get_args(Mode)


class Workload(Record):
    """A neural network as a chain of layers, with the way it is used.

    Attributes
    ----------
    name
        Name in the catalogue, e.g. ``qwen3-0.6b``.
    mode
        ``training``: one iteration (forward, backward, optimizer step) over the batch. ``inference``: one forward
        pass over the batch. ``stream``: requests of ``batch`` samples arriving at a rate. ``generate``: prefill of
        ``sequence`` tokens, then ``new_tokens`` one at a time.
    batch
        Samples per iteration, batch or request.
    precision
        Number format of parameters and activations.
    sequence
        Tokens per sample (language models), or None.
    image_px
        Side of the square input image (vision models), or None.
    new_tokens
        Tokens to generate per sample; at least 1 in ``generate`` mode and 0 in every other.
    requests_per_s
        Rate at which requests arrive, evenly spaced, in ``stream`` mode, and None in every other. Text such as
        ``"5 /s"`` is accepted.
    source, sink
        Device that holds the inputs (and the labels, in training), and device that needs the outputs. None: inputs
        are already where the first stage runs, outputs may stay where the last stage runs, and no transfer counts.
    layers
        The chain, first to last. Figures are per sample; see :class:`~dora_nb.domain.layer.Layer`.
    input_bytes, label_bytes, output_bytes
        Bytes of one sample's input, label and output as they travel from the source and to the sink; in ``generate``
        mode the output of every new token.
    architecture
        The architecture the layers follow from, or None for a chain given layer by layer.
    """

    name: str = Field(min_length=1)
    mode: Mode
    batch: int = Field(ge=1)
    precision: Precision = "fp32"
    sequence: int | None = Field(default=None, ge=1)
    image_px: int | None = Field(default=None, ge=1)
    new_tokens: int = Field(default=0, ge=0)
    requests_per_s: PerS | None = None
    source: str | None = None
    sink: str | None = None
    layers: tuple[Layer, ...] = Field(min_length=1)
    input_bytes: Bytes = 0.0
    label_bytes: Bytes = 0.0
    output_bytes: Bytes = 0.0
    architecture: Architecture | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [layer.name for layer in self.layers]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise InputError("layers", repeated, "every layer once, under a name of its own")
        if (self.mode == "generate") != (self.new_tokens > 0):
            raise InputError("new_tokens", self.new_tokens, "at least 1 in mode 'generate', 0 in every other mode")
        if (self.mode == "stream") != (self.requests_per_s is not None):
            raise InputError("requests_per_s", self.requests_per_s, "a rate in mode 'stream', none in every other mode")
        if self.generates:
            self._check_generates()
        tied = [index for index, layer in enumerate(self.layers) if layer.tied_parameters]
        if tied and (
            tied != [0, len(self.layers) - 1] or self.layers[0].tied_parameters != self.layers[-1].tied_parameters
        ):
            raise InputError(
                "layers",
                [self.layers[index].name for index in tied],
                "parameters tied between the first and the last layer, the same number in both, or none at all",
            )
        return self

    def _check_generates(self) -> None:
        if self.sequence is None:
            raise InputError("sequence", None, "the tokens of the prompt, in mode 'generate'")
        for index, layer in enumerate(self.layers):
            if layer.next_token is None:
                raise InputError(
                    f"layers[{index}].next_token", None, "what one further token takes, in mode 'generate'"
                )

    @property
    def trains(self) -> bool:
        """Whether gradients are computed."""
        return self.mode == "training"

    @property
    def generates(self) -> bool:
        """Whether tokens are generated one at a time."""
        return self.mode == "generate"

    @property
    def decode_steps(self) -> int:
        """Tokens generated after the first one, which the prompt's own pass gives."""
        return max(self.new_tokens - 1, 0)

    @property
    def arrival_s(self) -> float | None:
        """Seconds between requests of a stream."""
        return None if self.requests_per_s is None else 1.0 / self.requests_per_s

    @property
    def bytes_per_element(self) -> int:
        """Bytes of one parameter or activation in the workload's precision."""
        return BYTES_PER_ELEMENT[self.precision]

    @property
    def tied_parameters(self) -> int:
        """Parameters the first and the last layer share (0: none)."""
        return self.layers[0].tied_parameters if len(self.layers) > 1 else 0

    @property
    def trains_tied(self) -> bool:
        """Whether two layers share parameters that are trained, so that their gradients have to meet."""
        return self.trains and self.tied_parameters > 0

    @property
    def parameters(self) -> int:
        """Parameters of the whole network, tied ones counted once."""
        return sum(layer.parameters for layer in self.layers) - self.tied_parameters

    def bytes_inside(self, weights: Weights | None) -> int:
        """Bytes of one activation within a stage that holds its weights so, and of one parameter but for 8 bits."""
        own = self.bytes_per_element
        return own if weights is None or weights == "int8" else min(BYTES_PER_ELEMENT[weights], own)

    @property
    def int8_parameters(self) -> tuple[int, ...]:
        """Parameters by layer that 8 bits can hold: those of dense products that are not tied to another layer.

        A block's biases and normalisations, and the scale of every row, are counted like its matrices: they are less
        than a hundredth of its bytes.
        """
        dense = (each.operator == "matmul" and not each.tied_parameters for each in self.layers)
        return tuple(each.parameters if is_dense else 0 for each, is_dense in zip(self.layers, dense, strict=True))

    @property
    def forward_flops(self) -> float:
        """Floating-point operations of one sample's forward pass (2 per multiply-add)."""
        return sum(layer.forward_flops for layer in self.layers)

    def cut_bytes(self, cut: int) -> float:
        """Bytes of one sample that cross a cut.

        Parameters
        ----------
        cut
            Number of layers before the cut, 1 to ``len(layers) - 1``.
        """
        return float(self.layers[cut - 1].output_elements * self.bytes_per_element)

    def token_bytes(self, cut: int) -> float:
        """Bytes of one sample's next token that cross a cut.

        Parameters
        ----------
        cut
            Number of layers before the cut, 1 to ``len(layers) - 1``.
        """
        token = self.layers[cut - 1].next_token
        assert token is not None, "every layer of a workload that generates has its figures of a further token"
        return float(token.output_elements * self.bytes_per_element)

    def __repr__(self) -> str:
        from dora_nb.render.requests import workload_text  # a method that looks up a room: imported when called

        return workload_text(self)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        from dora_nb.render.requests import workload_html

        return workload_html(self)

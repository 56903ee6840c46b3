"""What one device was measured to take for every layer of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from dora_nb.domain.plan import Weights
from dora_nb.domain.record import Record
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

#: Seconds by number of samples.
BySamples = dict[Annotated[int, Field(ge=1)], Annotated[float, Field(ge=0)]]


class LayerProfile(Record):
    """One layer. Measured.

    Attributes
    ----------
    forward_s, backward_s
        Median seconds by number of samples; no backward passes without training.
    step_s
        Of the optimizer on the layer's parameters; 0 without training.
    token_s
        Median seconds of one further token, by number of samples; nothing where none are generated.
    narrower_s
        Median seconds of a forward pass with weights in fewer bits, by what they are held in
        (:attr:`~dora_nb.domain.plan.Stage.weights`) and number of samples; nothing where that was not timed.
    spread
        Largest interquartile range of a forward or backward pass, over its median: how much the figures vary.
    """

    forward_s: BySamples = Field(min_length=1)
    backward_s: BySamples = Field(default_factory=dict)
    step_s: float = Field(default=0.0, ge=0)
    token_s: BySamples = Field(default_factory=dict)
    narrower_s: dict[Weights, BySamples] = Field(default_factory=dict)
    spread: float = Field(default=0.0, ge=0)


class Profile(Record):
    """A network as measured on one device.

    Attributes
    ----------
    workload
        The network: layers with parameters, operations, elements that cross each cut and that are stashed.
    layers
        One for each of the workload's.
    machine
        What it was measured on, in words.
    """

    workload: Workload
    layers: tuple[LayerProfile, ...]
    machine: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.layers) != len(self.workload.layers):
            raise InputError("layers", len(self.layers), f"as many as the workload has ({len(self.workload.layers)})")
        for index, layer in enumerate(self.layers):
            if self.workload.trains and set(layer.backward_s) != set(layer.forward_s):
                raise InputError(
                    f"layers[{index}].backward_s", sorted(layer.backward_s), "as many samples as forward_s"
                )
        return self

    def __repr__(self) -> str:
        from dora_nb.render.profiles import profile_lines  # a method that looks up a room: imported when called

        return "\n".join(profile_lines(self))

    __str__ = __repr__

    def to_frame(self) -> pd.DataFrame:
        """One row a layer and number of samples, units in the column names."""
        import pandas as pd

        rows = [
            {
                "layer": layer.name,
                "samples": samples,
                "forward_s": seconds,
                "backward_s": measured.backward_s.get(samples, 0.0),
                "step_s": measured.step_s,
                "spread": measured.spread,
                "parameters": layer.parameters,
                "cut_bytes": layer.output_elements * self.workload.bytes_per_element * samples,
                "stash_bytes": layer.stash_elements * self.workload.bytes_per_element * samples,
            }
            for layer, measured in zip(self.workload.layers, self.layers, strict=True)
            for samples, seconds in measured.forward_s.items()
        ]
        return pd.DataFrame(rows)

"""Profiles networks of the catalogue at their real size, a layer at a time: a device need not hold all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dora_nb.domain.architecture import Architecture, DecoderArchitecture, EncoderArchitecture
from dora_nb.domain.plan import Weights
from dora_nb.domain.profile import Profile
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.executor.measuring.profiler import REPETITIONS, profile
from dora_nb.executor.networks.convolution import ConvolutionalArchitecture, convolutional_layer, parts_of
from dora_nb.executor.networks.transformer import transformer_layer
from dora_nb.executor.tasks.models import RandomNetwork
from dora_nb.executor.tasks.task import DTYPES
from dora_nb.units import counted, format_bytes

#: Copies of a layer's parameters that timing it takes in training: the layer and its gradients, then the same again
#: with both moments of AdamW for the optimizer's step.
TRAINING_COPIES = 6


Progress = Callable[[str], None]


def profile_workload(
    workload: Workload,
    *,
    samples: Iterable[int] | None = None,
    repetitions: int = REPETITIONS,
    weights: Sequence[Weights] = (),
    available_bytes: float | None = None,
    on_progress: Progress | None = None,
) -> Profile:
    """Measure every layer of a network of the catalogue on this device, at its real size, with weights of no meaning.

    Parameters
    ----------
    workload
        Of the catalogue, in mode ``training`` or ``inference``; the loss and the choice of tokens are not timed.
    samples
        Numbers of samples that are timed; None: powers of two up to the batch, and the batch.
    repetitions
        Passes that are timed, after two that are not.
    weights
        In what layers are timed as well; see :func:`~dora_nb.executor.measuring.profiler.profile`.
    available_bytes
        Memory that timing may take; None: what the system says is available. Numbers of samples with which a layer
        would need more are left out.
    on_progress
        Called with a line of text.

    Returns
    -------
    Profile
        Of the workload as it is: its layers are the catalogue's.

    Raises
    ------
    InputError
        If the workload is not one of the catalogue or generates or streams, or a layer does not fit at all.
    """
    architecture, tell = workload.architecture, on_progress or (lambda _: None)
    if architecture is None:
        raise InputError("workload.architecture", None, "a network of the catalogue; profile your own with its model")
    if workload.mode not in ("training", "inference"):
        raise InputError(
            "workload.mode", workload.mode, "training or inference; a profile of inference serves streams as well"
        )
    batch = workload.batch
    wanted = sorted({1 << n for n in range(batch.bit_length())} | {batch}) if samples is None else sorted(set(samples))
    if not wanted or wanted[0] < 1:
        raise InputError("samples", wanted, "one number or more, each 1 or more")
    available = available_memory_bytes() if available_bytes is None else available_bytes
    copies = 2 if weights else 1  # a layer with fewer bits is made of a copy
    fitting = [count for count in wanted if available is None or copies * needed_bytes(workload, count) <= available]
    if len(fitting) < len(wanted):
        assert available is not None, "everything fits where nothing is known of the memory"
        largest = max(range(len(workload.layers)), key=lambda index: _layer_bytes(workload, index, wanted[0]))
        if not fitting:
            raise InputError(
                "workload",
                f"{workload.layers[largest].name}, {wanted[0]} at once",
                f"layers that this device can time: this one needs {format_bytes(needed_bytes(workload, wanted[0]))}, "
                f"{format_bytes(available)} are available. Free some memory, or take a lower precision",
            )
        left_out = _samples([count for count in wanted if count not in fitting])
        tell(f"{format_bytes(available)} are available: not timed with {left_out} at once")
    tell(f"timing {counted(len(workload.layers), 'layer')} of {workload.name} with {_samples(fitting)}")
    found = profile(
        RealSize(architecture, DTYPES[workload.precision], workload.image_px),
        _sample(workload, architecture),
        mode="training" if workload.trains else "inference",
        batch=batch,
        samples=fitting,
        repetitions=repetitions,
        dtype=DTYPES[workload.precision],
        weights=weights,
    )
    return Profile(workload=workload, layers=found.layers, machine=found.machine)


class RealSize(RandomNetwork):
    """A network of an architecture whose weights have no meaning, so that its largest layer is made in little memory.

    Parameters
    ----------
    architecture, dtype, image_px
        As for :class:`~dora_nb.executor.tasks.models.RandomNetwork`.
    """

    def __init__(self, architecture: Architecture, dtype: str, image_px: int | None) -> None:
        super().__init__(architecture, dtype, 0, image_px)
        self._spec, self._px, self._name = architecture, image_px, dtype

    def layer(self, index: int) -> nn.Module:
        """One layer; its values are ordinary numbers, since computing with the smallest ones takes longer."""
        dtype: torch.dtype = getattr(torch, self._name)
        with torch.device("meta"):
            if isinstance(self._spec, ConvolutionalArchitecture):
                layer = convolutional_layer(self._spec, parts_of(self._spec, self._px)[index])
            else:
                layer = transformer_layer(self._spec, index, self._px)
        layer = layer.to(dtype).to_empty(device="cpu")
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.normal_(std=0.02)
            for buffer in layer.buffers():
                buffer.fill_(1)
        return layer


def available_memory_bytes() -> float | None:
    """Memory that new work can have without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return None


def needed_bytes(workload: Workload, samples: int) -> float:
    """Bytes that timing the largest layer takes, estimated."""
    return max(_layer_bytes(workload, index, samples) for index in range(len(workload.layers)))


def _layer_bytes(workload: Workload, index: int, samples: int) -> float:
    """Parameters, and what enters, leaves and is kept; in training gradients of what enters and leaves as well."""
    layer = workload.layers[index]
    entering = (
        workload.layers[index - 1].output_elements if index else workload.input_bytes / workload.bytes_per_element
    )
    passing = (entering + layer.output_elements) * (2 if workload.trains else 1) + layer.stash_elements
    copies = TRAINING_COPIES if workload.trains else 1
    return float(workload.bytes_per_element * (copies * layer.parameters + samples * passing))


def _samples(counts: Sequence[int]) -> str:
    """Numbers of samples in words: ``1, 2 and 4 samples``."""
    *first, last = counts
    return f"{', '.join(map(str, first))} and {last} samples" if first else counted(last, "sample")


def _sample(workload: Workload, architecture: Architecture) -> Tensor:
    """One input: tokens, or an image."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(architecture, DecoderArchitecture | EncoderArchitecture):
        return torch.randint(architecture.vocabulary, (1, workload.sequence or 1), generator=generator)
    px = workload.image_px or architecture.image_px
    return torch.randn(1, 3, px, px, generator=generator)

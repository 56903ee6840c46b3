"""Hugging Face models layer by layer: random weights from a configuration, or a checkpoint's.

Only what a layer consists of is built and read. A random layer draws from a seed of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from pydantic import JsonValue
from safetensors import safe_open
from torch import nn

from dora_nb.errors import DocumentError, InputError
from dora_nb.executor.networks.huggingface import (
    ATTENTION,
    FAMILIES,
    DecoderHead,
    DecoderLayer,
    Embedding,
    EncoderEmbedding,
    EncoderHead,
    EncoderLayer,
    family_of,
    required_transformers,
    sequential,
    tied_names_of,
)
from dora_nb.executor.networks.shards import Shard, narrow, slices_of
from dora_nb.executor.tasks.task import Source

WEIGHTS, WEIGHTS_INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"


class HuggingFaceNetwork:
    """A model built layer by layer; see :class:`~dora_nb.executor.tasks.task.Network`.

    Parameters
    ----------
    config
        As in ``config.json``; ``model_type`` says the family.
    directory
        A checkpoint in safetensors, in one file or several with an index, of which a layer reads its own tensors
        only. None: random weights, spread as the configuration says.
    seed
        Of random weights.
    """

    reads_shards = True

    def __init__(self, config: Mapping[str, Any], directory: str | None = None, seed: int = 0) -> None:
        transformers = required_transformers()
        model_type = config.get("model_type")
        if model_type not in FAMILIES:
            raise InputError("config.model_type", model_type, ", ".join(FAMILIES))
        self._config = getattr(transformers, f"{FAMILIES[model_type].prefix}Config").from_dict(dict(config))
        self._config._attn_implementation = ATTENTION[0]
        self._family = family_of(self._config)
        self._seed = seed
        self._checkpoint = None if directory is None else _Checkpoint(pathlib.Path(directory))
        self.vocabulary: int = self._config.vocab_size
        self.objective = "next" if self._family.is_decoder else "masked"
        self.tied = tied_names_of(self._family) if self._config.tie_word_embeddings else None
        self.caches = self._family.is_decoder

    def __len__(self) -> int:
        return int(self._config.num_hidden_layers) + 2

    def kind(self, index: int) -> str:
        """All layers between embedding and head are alike."""
        return {0: "embedding", len(self) - 1: "head"}.get(index, "layer")

    def skeleton(self, index: int) -> nn.Module:
        """A layer without values, buffers apart."""
        make = self._decoder_part if self._family.is_decoder else self._encoder_part
        return make(index, importlib.import_module(self._family.module))

    def layer(self, index: int, shard: Shard | None = None) -> nn.Module:
        """One layer with its weights, or a shard of it, of which nothing else is read from a checkpoint."""
        layer = self.skeleton(index)
        if self._checkpoint is None:
            self._draw(layer, index)
            if self.tied is not None and index == len(self) - 1:  # the head's copy starts as the embedding's
                first = self.skeleton(0)
                self._draw(first, 0)
                with torch.no_grad():
                    layer.get_parameter(self.tied[1]).copy_(first.get_parameter(self.tied[0]))
            return layer if shard is None else narrow(layer, shard)
        with self._checkpoint.opened() as stored:

            def checked(name: str) -> Any:
                found = stored(self._stored_names(index, name))
                shape, configured = tuple(found.get_shape()), tuple(whole[name].shape)
                if shape != configured:
                    raise InputError(f"model.{name}", shape, f"{configured}, as configured")
                return found

            whole = dict(layer.named_parameters())
            slices = {} if shard is None else slices_of(layer)
            if shard is not None:
                narrow(layer, shard, lambda name, how: how.read(checked(name), shard))
            for name, parameter in layer.named_parameters():
                if name not in slices:
                    parameter.data = checked(name)[...]  # as it is stored: what is built holds 32 bits
        return layer

    def _decoder_part(self, index: int, module: Any) -> nn.Module:
        config, prefix = self._config, self._family.prefix
        norm = getattr(module, f"{prefix}RMSNorm")
        if index == 0:
            return Embedding(_unfilled(lambda: nn.Embedding(config.vocab_size, config.hidden_size)))
        if index == len(self) - 1:
            return DecoderHead(
                _unfilled(lambda: norm(config.hidden_size, eps=config.rms_norm_eps)),
                _unfilled(lambda: nn.Linear(config.hidden_size, config.vocab_size, bias=False)),
            )
        block = _unfilled(lambda: getattr(module, f"{prefix}DecoderLayer")(config, index - 1))
        return DecoderLayer(block, getattr(module, f"{prefix}RotaryEmbedding")(config=config), ATTENTION[0])

    def _encoder_part(self, index: int, module: Any) -> nn.Module:
        if index == 0:  # its buffers hold positions, so it is built with values
            return EncoderEmbedding(module.BertEmbeddings(self._config))
        if index < len(self) - 1:
            return EncoderLayer(_unfilled(lambda: module.BertLayer(self._config, layer_idx=index - 1)))
        predictions: Any = _unfilled(lambda: module.BertLMPredictionHead(self._config))
        if self.tied is not None:
            predictions.bias = predictions.decoder.bias
        return EncoderHead(predictions)

    def _draw(self, layer: nn.Module, index: int) -> None:
        """Matrices of normally distributed numbers, scales of norms 1, biases 0."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + index)
        with torch.no_grad():
            for name, parameter in layer.named_parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=self._config.initializer_range, generator=generator)
                else:
                    parameter.fill_(0.0 if name.endswith("bias") else 1.0)

    def _stored_names(self, index: int, name: str) -> list[str]:
        """Names under which a checkpoint may hold a parameter, the likeliest first."""
        part, _, rest = name.partition(".")
        places = {
            "embed_tokens": "model.embed_tokens",
            "norm": "model.norm",
            "lm_head": "lm_head",
            "embeddings": "bert.embeddings",
            "predictions": "cls.predictions",
            "block": f"model.layers.{index - 1}" if self._family.is_decoder else f"bert.encoder.layer.{index - 1}",
        }
        names = [f"{places[part]}.{rest}"]
        if self.tied is not None and index == len(self) - 1 and name == self.tied[1]:
            names.insert(0, self._stored_names(0, self.tied[0])[0])
        if names[-1] == "cls.predictions.decoder.bias":  # the same as this one, which is always there
            names.append("cls.predictions.bias")
        for new, old in (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")):
            names += [each.replace(new, old) for each in names if new in each]  # as old checkpoints of BERT say it
        return names


class _Checkpoint:
    """Safetensors files of a checkpoint; tensors are read one by one."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        index = directory / WEIGHTS_INDEX
        if index.is_file():
            self._file_of: dict[str, str] = _json(index)["weight_map"]
        elif (directory / WEIGHTS).is_file():
            with safe_open(directory / WEIGHTS, framework="pt") as file:
                self._file_of = dict.fromkeys(file.keys(), WEIGHTS)
        else:
            raise InputError("model", str(directory), f"a directory with {WEIGHTS} or {WEIGHTS_INDEX}")

    @contextlib.contextmanager
    def opened(self) -> Iterator[Any]:
        """A function that finds the first tensor there is of some names, to be read; files are opened once."""
        with contextlib.ExitStack() as stack:
            files: dict[str, Any] = {}

            def stored(names: list[str]) -> Any:
                name = next((each for each in names if each in self._file_of), None)
                if name is None:
                    raise DocumentError(self._directory, f"the checkpoint holds none of {', '.join(names)}")
                file = self._file_of[name]
                if file not in files:
                    files[file] = stack.enter_context(safe_open(self._directory / file, framework="pt"))
                return files[file].get_slice(name)

            yield stored


def random_source(config: Mapping[str, JsonValue], seed: int = 0) -> Source:
    """A model of random weights, from what a ``config.json`` says."""
    return Source(factory=_FACTORY, arguments={"config": dict(config), "seed": seed})


def checkpoint_source(directory: pathlib.Path) -> Source:
    """A checkpoint on disk: ``config.json`` and weights in safetensors.

    Raises
    ------
    DocumentError
        If there is no readable ``config.json``.
    """
    config: JsonValue = _json(directory / CONFIG)
    return Source(factory=_FACTORY, arguments={"config": config, "directory": str(directory.resolve())})


def write_checkpoint(model: Any, directory: pathlib.Path) -> pathlib.Path:
    """Write a live model down, so that each worker reads its own layers.

    Returns
    -------
    where it is, inside ``directory``
    """
    sequential(model)  # refuses what cannot be run
    path = directory / "model"
    model.save_pretrained(path)
    return path


def _unfilled(make: Any) -> nn.Module:
    """A module without buffers whose values are not drawn, because others will be put in."""
    with torch.device("meta"):
        module: nn.Module = make()
    assert not list(module.buffers()), "buffers would be lost"
    return module.to_empty(device="cpu")


def _json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DocumentError(path, f"cannot be read: {error}") from error


_FACTORY = f"{HuggingFaceNetwork.__module__}:{HuggingFaceNetwork.__qualname__}"

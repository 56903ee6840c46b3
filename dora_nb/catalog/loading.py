"""What the files of the catalogue describe, and files of the same form."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from dora_nb.catalog.folder import load_document, names, naming_file
from dora_nb.catalog.quantities import join, numbers, objects, under
from dora_nb.domain.architecture import (
    Architecture,
    DecoderArchitecture,
    EncoderArchitecture,
)
from dora_nb.domain.cluster import Cluster, ContentionDomain, Device
from dora_nb.domain.cluster_file import DEVICE_DIMENSIONS, DOMAIN_DIMENSIONS
from dora_nb.domain.conditions import Condition, Conditions
from dora_nb.domain.dynamics import MarkovChain, MarkovState
from dora_nb.domain.layer import BYTES_PER_ELEMENT, Precision
from dora_nb.domain.record import Record
from dora_nb.domain.stream import Stream
from dora_nb.domain.workload import MODES, Mode, Workload
from dora_nb.errors import InputError, UnknownNameError

#: Tokens per sample of a language model when none are given.
DEFAULT_SEQUENCE = 128


_CONDITION_DIMENSIONS = {
    "probability": "fraction",
    "domain_rate_factors": "fraction",
    "device_rate_factors": "fraction",
    "device_speed_factors": "fraction",
}


_STATE_DIMENSIONS = {"level": "fraction", "to": "fraction"}


_STREAM_DIMENSIONS = {"count": "count", "batch": "count", "requests_per_s": "frequency", "deadline_s": "time"}


#: Fields of a stream that say something about its workload.
_OF_WORKLOADS = ("batch", "precision", "sequence", "image_px", "requests_per_s", "source", "sink")


_ARCHITECTURES: dict[str, Any] = {
    cls.model_fields["family"].default: cls for cls in get_args(get_args(Architecture)[0])
}


def load_device(name_or_path: str | Path, id: str | None = None) -> Device:
    """A device of the catalogue, or of a file of the same form.

    Parameters
    ----------
    name_or_path
        Name in the catalogue, e.g. ``rpi5-8g``, or path of a JSON or YAML file.
    id
        Name in its cluster; None: the file's own, else its profile.

    Returns
    -------
    Device

    Raises
    ------
    UnknownNameError
        If the catalogue has no such name.
    DocumentError
        If the file cannot be read.
    InputError
        If a field of it cannot be used.
    """
    with naming_file(name_or_path):
        return _device(load_document("devices", name_or_path), id, "")


def load_cluster(name_or_path: str | Path) -> Cluster:
    """A deployment of the catalogue, or of a file of the same form.

    A device of it is given as ``{"id", "profile"}``, the profile being in the catalogue, or with all its fields.

    Parameters
    ----------
    name_or_path
        Name in the catalogue, e.g. ``smart-home``, or path of a JSON or YAML file.

    Returns
    -------
    Cluster

    Raises
    ------
    UnknownNameError
        If the catalogue has no such name, or not a profile that is referred to.
    DocumentError
        If the file cannot be read.
    InputError
        If a field of it cannot be used.
    """
    with naming_file(name_or_path):
        document = load_document("deployments", name_or_path)
        document.pop("status", None)  # of the composition as such: for the reader of the file
        document.pop("source", None)
        document["devices"] = tuple(
            _cluster_device(entry, f"devices[{index}]") for index, entry in enumerate(objects(document, "devices"))
        )
        document["domains"] = _records(document, "domains", ContentionDomain, DOMAIN_DIMENSIONS)
        return Cluster(**document)


def load_workload(
    name_or_path: str | Path,
    *,
    mode: Mode = "inference",
    batch: int = 1,
    sequence: int | None = None,
    image_px: int | None = None,
    precision: Precision = "fp32",
    new_tokens: int = 0,
    requests_per_s: float | str | None = None,
    source: str | None = None,
    sink: str | None = None,
) -> Workload:
    """A model of the catalogue, or of a file of the same form, with the way it is used.

    Parameters
    ----------
    name_or_path
        Name in the catalogue, e.g. ``qwen3-0.6b``, or path of a JSON or YAML file.
    mode
        ``training``, ``inference``, ``stream`` or ``generate``.
    batch
        Samples per iteration, batch or request.
    sequence
        Tokens per sample of a language model; None: 128. A vision model takes none.
    image_px
        Side of the square image of a vision model; None: the size the model was published for. A language model
        takes none.
    precision
        ``fp32``, ``fp16``, ``bf16`` or ``fp64``.
    new_tokens
        Tokens to generate per sample, in mode ``generate``, which only decoders (the Qwen models) have.
    requests_per_s
        Rate at which requests of ``batch`` samples arrive, in mode ``stream``: a number, or text such as ``"5 /s"``.
    source, sink
        Device that holds the inputs and labels, device that needs the outputs.

    Returns
    -------
    Workload

    Raises
    ------
    UnknownNameError
        If the catalogue has no such name.
    DocumentError
        If the file cannot be read.
    InputError
        If a value, or a field of the file, cannot be used.
    """
    # Checked here because the chain of layers is built before the record that checks everything else.
    if mode not in MODES:
        raise UnknownNameError("mode", str(mode), MODES)
    if precision not in BYTES_PER_ELEMENT:
        raise UnknownNameError("precision", str(precision), BYTES_PER_ELEMENT)
    document = load_document("models", name_or_path)
    with naming_file(name_or_path):
        architecture = _architecture(document.get("architecture"))
    if isinstance(architecture, DecoderArchitecture | EncoderArchitecture):
        if sequence is None:
            sequence = DEFAULT_SEQUENCE
    elif image_px is None:
        image_px = architecture.image_px
    chain = architecture.chain(
        mode=mode, sequence=sequence, image_px=image_px, bytes_per_element=BYTES_PER_ELEMENT[precision]
    )
    return Workload(
        name=document.get("name"),
        mode=mode,
        batch=batch,
        precision=precision,
        sequence=sequence,
        image_px=image_px,
        new_tokens=new_tokens,
        requests_per_s=requests_per_s,
        source=source,
        sink=sink,
        architecture=architecture,
        **chain._asdict(),
    )


def load_conditions(name_or_path: str | Path) -> Conditions:
    """Conditions of the catalogue, or of a file of the same form.

    Parameters
    ----------
    name_or_path
        Name in the catalogue, e.g. ``smart-home-evening``, or path of a JSON or YAML file.

    Returns
    -------
    Conditions

    Raises
    ------
    UnknownNameError
        If the catalogue has no such name.
    DocumentError
        If the file cannot be read.
    InputError
        If a field of it cannot be used.
    """
    with naming_file(name_or_path):
        document = _without_origin(load_document("conditions", name_or_path))
        entries = _records(document, "conditions", Condition, _CONDITION_DIMENSIONS)
        return Conditions(**numbers(document | {"conditions": entries}, {"windows_per_change": "count"}, ""))


def load_dynamics(name_or_path: str | Path) -> MarkovChain:
    """How a quantity changes over time, from the catalogue or a file of the same form.

    Parameters
    ----------
    name_or_path
        Name in the catalogue, e.g. ``wifi-neighbours``, or path of a JSON or YAML file.

    Returns
    -------
    MarkovChain

    Raises
    ------
    UnknownNameError
        If the catalogue has no such name.
    DocumentError
        If the file cannot be read.
    InputError
        If a field of it cannot be used.
    """
    with naming_file(name_or_path):
        document = _without_origin(load_document("dynamics", name_or_path))
        states = _records(document, "states", MarkovState, _STATE_DIMENSIONS)
        return MarkovChain(**numbers(document | {"states": states}, {"step_s": "time"}, ""))


def load_streams(name_or_path: str | Path) -> tuple[Stream, ...]:
    """Streams that share a cluster, from the catalogue or a file of the same form.

    Parameters
    ----------
    name_or_path
        Name in the catalogue, e.g. ``traffic-cameras``, or path of a JSON or YAML file.

    Returns
    -------
    tuple of Stream
        In the order of the file.

    Raises
    ------
    UnknownNameError
        If the catalogue has no such name, or no such model.
    DocumentError
        If the file cannot be read.
    InputError
        If a field of it cannot be used.
    """
    with naming_file(name_or_path):
        document = _without_origin(load_document("streams", name_or_path))
        entries = objects(document, "streams")
        if not entries:
            raise InputError("streams", document.get("streams"), "a list of one stream or more")
        return tuple(_stream(entry, f"streams[{index}]") for index, entry in enumerate(entries))


def _stream(entry: dict[str, Any], where: str) -> Stream:
    fields = numbers(entry, _STREAM_DIMENSIONS, where)
    del fields["sources"]
    work = {name: fields.pop(name) for name in _OF_WORKLOADS if name in fields}
    model = fields.pop("model", None)
    if not isinstance(model, str):
        raise InputError(f"{where}.model", model, "a model of the catalogue, or the path of a file")
    try:
        workload = load_workload(model, mode="stream", **work)
    except InputError as error:
        raise InputError(join(where, error.field), error.value, error.allowed) from None
    stream: Stream = under(where, Stream, fields | {"workload": workload})
    return stream


def _without_origin(document: dict[str, Any]) -> dict[str, Any]:
    """Without where a document as such comes from, which is for the reader of the file."""
    return {name: value for name, value in document.items() if name not in ("status", "source")}


def _records(document: dict[str, Any], field: str, kind: type[Record], dimensions: dict[str, str]) -> tuple[Any, ...]:
    """What a list of objects in a document describes."""
    return tuple(
        under(f"{field}[{index}]", kind, numbers(entry, dimensions, f"{field}[{index}]"))
        for index, entry in enumerate(objects(document, field))
    )


def _cluster_device(entry: dict[str, Any], where: str) -> Device:
    if set(entry) != {"id", "profile"}:
        missing = [name for name, field in Device.model_fields.items() if field.is_required() and name not in entry]
        if set(missing) - {"id", "profile"}:
            allowed = f"'id' and 'profile' alone, or all fields of a device: {', '.join(missing)} missing"
            raise InputError(where, sorted(entry), allowed)
        return _device(entry, None, where)
    known = names("devices")
    if entry["profile"] not in known:
        raise UnknownNameError(f"{where}.profile", str(entry["profile"]), known)
    return _device(load_document("devices", entry["profile"]), entry["id"], where)


def _device(document: dict[str, Any], id: str | None, where: str) -> Device:
    fields = numbers(document, DEVICE_DIMENSIONS, where)
    fields["id"] = id if id is not None else fields.get("id", fields.get("profile"))
    fields.setdefault("profile", fields["id"])  # a device given in a deployment is a profile of its own
    device: Device = under(where, Device, fields)
    return device


def _architecture(fields: Any) -> Architecture:
    if not isinstance(fields, dict):
        raise InputError("architecture", fields, "an object")
    family = fields.get("family")
    if not isinstance(family, str) or family not in _ARCHITECTURES:
        raise UnknownNameError("architecture.family", str(family), _ARCHITECTURES)
    architecture: Architecture = under("architecture", _ARCHITECTURES[family], fields)
    return architecture

"""Devices, models, deployments, streams, conditions and dynamics that come with dora_nb, and files of the same form.

Every number in those files is a quantity: an object with ``value``, ``unit``, ``status`` and ``source`` (``note`` if
there is more to say). Reading turns it into the SI number of its field and keeps the rest as
:class:`~dora_nb.domain.cluster.Provenance`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

from dora_nb.domain.architecture import (
    Architecture,
    DecoderArchitecture,
    EncoderArchitecture,
)
from dora_nb.domain.cluster import Cluster, ContentionDomain, Device, Provenance
from dora_nb.domain.cluster_file import DEVICE_DIMENSIONS, DOMAIN_DIMENSIONS
from dora_nb.domain.conditions import Condition, Conditions
from dora_nb.domain.dynamics import MarkovChain, MarkovState
from dora_nb.domain.layer import BYTES_PER_ELEMENT, Precision
from dora_nb.domain.stream import Stream
from dora_nb.domain.workload import MODES, Mode, Workload
from dora_nb.errors import DocumentError, InputError, UnknownNameError
from dora_nb.units import parse, units_of

Kind = Literal["devices", "models", "deployments", "streams", "conditions", "dynamics"]

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
#: Levels of names above the quantities of a field that holds more than one.
_LEVELS = {
    "flops_per_s": 2,
    "rates_bytes_per_s": 1,
    "down_rates_bytes_per_s": 1,
    "links_bytes_per_s": 2,
    "domain_rate_factors": 1,
    "device_rate_factors": 1,
    "device_speed_factors": 1,
    "to": 1,
}
#: Fields of a stream that say something about its workload.
_OF_WORKLOADS = ("batch", "precision", "sequence", "image_px", "requests_per_s", "source", "sink")
_ARCHITECTURES: dict[str, Any] = {
    cls.model_fields["family"].default: cls for cls in get_args(get_args(Architecture)[0])
}


def data_dir() -> Path:
    """The folder of the catalogue: inside an installed package, beside it in a clone.

    Raises
    ------
    DocumentError
        If neither exists, as in a damaged installation.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "data", package.parent / "data"):
        if (folder / "devices").is_dir():
            return folder
    raise DocumentError(package / "data", "the catalogue is missing; install dora-nb again")


def names(kind: Kind) -> tuple[str, ...]:
    """Names in the catalogue, sorted.

    Parameters
    ----------
    kind
        ``devices``, ``models``, ``deployments``, ``streams``, ``conditions`` or ``dynamics``.

    Raises
    ------
    UnknownNameError
        If there is no such kind.
    """
    if kind not in get_args(Kind):
        raise UnknownNameError("kind", kind, get_args(Kind))
    return tuple(sorted(path.stem for path in (data_dir() / kind).glob("*.json")))


def load_device(name_or_path: str | Path, id: str | None = None) -> Device:
    """A device of the catalogue, or of a file of the same form.

    Parameters
    ----------
    name_or_path
        Name in the catalogue, e.g. ``rpi5-8g``, or path of a JSON file.
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
    return _device(_load("devices", name_or_path), id, "")


def load_cluster(name_or_path: str | Path) -> Cluster:
    """A deployment of the catalogue, or of a file of the same form.

    A device of it is given as ``{"id", "profile"}``, the profile being in the catalogue, or with all its fields.

    Parameters
    ----------
    name_or_path
        Name in the catalogue, e.g. ``smart-home``, or path of a JSON file.

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
    document = _load("deployments", name_or_path)
    document.pop("status", None)  # of the composition as such: for the reader of the file
    document.pop("source", None)
    document["devices"] = tuple(
        _cluster_device(entry, f"devices[{index}]") for index, entry in enumerate(_objects(document, "devices"))
    )
    document["domains"] = tuple(
        _under(f"domains[{index}]", ContentionDomain, _numbers(entry, DOMAIN_DIMENSIONS, f"domains[{index}]"))
        for index, entry in enumerate(_objects(document, "domains"))
    )
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
        Name in the catalogue, e.g. ``qwen3-0.6b``, or path of a JSON file.
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
        ``fp32``, ``fp16`` or ``fp64``.
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
    document = _load("models", name_or_path)
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
        Name in the catalogue, e.g. ``smart-home-evening``, or path of a JSON file.

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
    document = _without_origin(_load("conditions", name_or_path))
    entries = tuple(
        _under(f"conditions[{index}]", Condition, _numbers(entry, _CONDITION_DIMENSIONS, f"conditions[{index}]"))
        for index, entry in enumerate(_objects(document, "conditions"))
    )
    return Conditions(**_numbers(document | {"conditions": entries}, {"windows_per_change": "count"}, ""))


def load_dynamics(name_or_path: str | Path) -> MarkovChain:
    """How a quantity changes over time, from the catalogue or a file of the same form.

    Parameters
    ----------
    name_or_path
        Name in the catalogue, e.g. ``wifi-neighbours``, or path of a JSON file.

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
    document = _without_origin(_load("dynamics", name_or_path))
    states = tuple(
        _under(f"states[{index}]", MarkovState, _numbers(entry, _STATE_DIMENSIONS, f"states[{index}]"))
        for index, entry in enumerate(_objects(document, "states"))
    )
    return MarkovChain(**_numbers(document | {"states": states}, {"step_s": "time"}, ""))


def load_streams(name_or_path: str | Path) -> tuple[Stream, ...]:
    """Streams that share a cluster, from the catalogue or a file of the same form.

    Parameters
    ----------
    name_or_path
        Name in the catalogue, e.g. ``traffic-cameras``, or path of a JSON file.

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
    document = _without_origin(_load("streams", name_or_path))
    entries = _objects(document, "streams")
    if not entries:
        raise InputError("streams", document.get("streams"), "a list of one stream or more")
    return tuple(_stream(entry, f"streams[{index}]") for index, entry in enumerate(entries))


def _stream(entry: dict[str, Any], where: str) -> Stream:
    fields = _numbers(entry, _STREAM_DIMENSIONS, where)
    del fields["sources"]
    work = {name: fields.pop(name) for name in _OF_WORKLOADS if name in fields}
    model = fields.pop("model", None)
    if not isinstance(model, str):
        raise InputError(f"{where}.model", model, "a model of the catalogue, or the path of a file")
    try:
        workload = load_workload(model, mode="stream", **work)
    except InputError as error:
        raise InputError(_join(where, error.field), error.value, error.allowed) from None
    stream: Stream = _under(where, Stream, fields | {"workload": workload})
    return stream


def _without_origin(document: dict[str, Any]) -> dict[str, Any]:
    """Without where a document as such comes from, which is for the reader of the file."""
    return {name: value for name, value in document.items() if name not in ("status", "source")}


def _load(kind: Kind, name_or_path: str | Path) -> dict[str, Any]:
    """The object in a catalogue file, or in a file the person points to."""
    known = names(kind)
    text = str(name_or_path)
    if isinstance(name_or_path, str) and text in known:
        path = data_dir() / kind / f"{text}.json"
    elif isinstance(name_or_path, Path) or text.endswith(".json") or "/" in text or "\\" in text:
        path = Path(name_or_path)
    else:
        raise UnknownNameError(
            kind if kind in ("conditions", "dynamics", "streams") else kind.removesuffix("s"), text, known
        )
    return _read(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_repeats)
    except OSError as error:
        raise DocumentError(path, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DocumentError(path, f"is not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise DocumentError(path, f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except _RepeatedKeyError as error:
        raise DocumentError(path, f"has the key {error.args[0]!r} twice in one object") from None
    if not isinstance(document, dict):
        raise DocumentError(path, f"holds a JSON {type(document).__name__}, not an object, at line 1, column 1")
    return document


class _RepeatedKeyError(Exception):
    """A key stands twice in one JSON object, where Python would silently keep the last."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise _RepeatedKeyError(key)
    return dict(pairs)


def _objects(document: dict[str, Any], field: str) -> list[dict[str, Any]]:
    """A list of objects; empty where the field is absent, which the record then judges."""
    entries = document.get(field, [])
    if not isinstance(entries, list):
        raise InputError(field, entries, "a list of objects")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise InputError(f"{field}[{index}]", entry, "an object")
    return entries


def _cluster_device(entry: dict[str, Any], where: str) -> Device:
    if set(entry) != {"id", "profile"}:
        return _device(entry, None, where)
    known = names("devices")
    if entry["profile"] not in known:
        raise UnknownNameError(f"{where}.profile", str(entry["profile"]), known)
    return _device(_load("devices", entry["profile"]), entry["id"], where)


def _device(document: dict[str, Any], id: str | None, where: str) -> Device:
    fields = _numbers(document, DEVICE_DIMENSIONS, where)
    fields["id"] = id if id is not None else fields.get("id", fields.get("profile"))
    fields.setdefault("profile", fields["id"])  # a device given in a deployment is a profile of its own
    device: Device = _under(where, Device, fields)
    return device


def _architecture(fields: Any) -> Architecture:
    if not isinstance(fields, dict):
        raise InputError("architecture", fields, "an object")
    family = fields.get("family")
    if not isinstance(family, str) or family not in _ARCHITECTURES:
        raise UnknownNameError("architecture.family", str(family), _ARCHITECTURES)
    architecture: Architecture = _under("architecture", _ARCHITECTURES[family], fields)
    return architecture


def _under(where: str, record: Any, fields: dict[str, Any]) -> Any:
    """Build a record, its errors naming the field from the top of the document."""
    try:
        return record(**fields)
    except InputError as error:
        raise InputError(_join(where, error.field), error.value, error.allowed) from None


def _numbers(document: dict[str, Any], dimensions: dict[str, str], where: str) -> dict[str, Any]:
    """The fields with quantities turned into numbers, and ``sources`` saying where each number is from."""
    sources: dict[str, Provenance] = {}

    def convert(value: Any, dimension: str, path: str, levels: int) -> Any:
        if levels:
            if not isinstance(value, dict):
                raise InputError(_join(where, path), value, "an object with one entry per name")
            return {key: convert(inner, dimension, f"{path}.{key}", levels - 1) for key, inner in value.items()}
        number, sources[path] = _quantity(value, dimension, _join(where, path))
        return number

    fields = {
        name: convert(value, dimensions[name], name, _LEVELS.get(name, 0)) if name in dimensions else value
        for name, value in document.items()
    }
    return fields | {"sources": sources}


def _quantity(quantity: Any, dimension: str, where: str) -> tuple[float, Provenance]:
    """The SI number of a quantity, and its provenance."""
    if not isinstance(quantity, dict):
        raise InputError(where, quantity, "an object with value, unit, status and source")
    value, unit = quantity.get("value"), quantity.get("unit")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{where}.value", value, "a number")
    if not isinstance(unit, str) or not unit.strip():  # a bare number would pass for the SI unit
        raise InputError(f"{where}.unit", unit, f"one of the units {units_of(dimension)}")
    try:
        number = parse(f"{value!r} {unit}", dimension)
    except ValueError as error:
        raise InputError(where, f"{value!r} {unit}", str(error)) from None
    if number < 0:
        raise InputError(f"{where}.value", value, "a number that is not negative")
    rest = {key: inner for key, inner in quantity.items() if key not in ("value", "unit")}
    provenance: Provenance = _under(where, Provenance, rest)
    return number, provenance


def _join(where: str, field: str) -> str:
    return f"{where}.{field}" if where and field else where or field

"""What a file says, as numbers in SI units with where each is from; errors name the place in the file."""

from __future__ import annotations

from typing import Any

from dora_nb.domain.cluster import Provenance
from dora_nb.errors import InputError
from dora_nb.units import parse, units_of

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


def numbers(document: dict[str, Any], dimensions: dict[str, str], where: str) -> dict[str, Any]:
    """The fields with quantities turned into numbers, and ``sources`` saying where each number is from."""
    sources: dict[str, Provenance] = {}

    def convert(value: Any, dimension: str, path: str, levels: int) -> Any:
        if levels:
            if not isinstance(value, dict):
                raise InputError(join(where, path), value, "an object with one entry per name")
            return {key: convert(inner, dimension, f"{path}.{key}", levels - 1) for key, inner in value.items()}
        number, sources[path] = _quantity(value, dimension, join(where, path))
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
    provenance: Provenance = under(where, Provenance, rest)
    return number, provenance


def objects(document: dict[str, Any], field: str) -> list[dict[str, Any]]:
    """A list of objects; empty where the field is absent, which the record then judges."""
    entries = document.get(field, [])
    if not isinstance(entries, list):
        raise InputError(field, entries, "a list of objects")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise InputError(f"{field}[{index}]", entry, "an object")
    return entries


def under(where: str, record: Any, fields: dict[str, Any]) -> Any:
    """Build a record, its errors naming the field from the top of the document."""
    try:
        return record(**fields)
    except InputError as error:
        raise InputError(join(where, error.field), error.value, error.allowed) from None


def join(where: str, field: str) -> str:
    """A field's name from the top of the document."""
    return f"{where}.{field}" if where and field else where or field

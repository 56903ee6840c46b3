"""Meters of energy that a host has: processor counters, graphics cards, Jetson rails, a battery that runs down.

Each is found by looking where Linux shows it, and covers the whole host or one part of it, other programs included.
Counters count by themselves; powers are read several times a second and summed over time.

Sources: ``Documentation/power/powercap/powercap.rst`` and ``Documentation/ABI/testing/sysfs-class-power`` of Linux,
``Documentation/hwmon/ina3221.rst``, and NVIDIA's NVML reference (``nvmlDeviceGetTotalEnergyConsumption``).
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

#: Where Linux shows devices.
SYSFS = Path("/sys")

_MICRO, _MILLI = 1e-6, 1e-3


class Meter(Protocol):
    """Counts joules between two moments."""

    @property
    def name(self) -> str:
        """Which meter."""

    @property
    def scope(self) -> str:
        """Whose energy it counts."""

    def start(self) -> None:
        """Begin to count."""

    def read(self) -> None:
        """Take notice of how things are now; called now and then while it counts."""

    def stop(self) -> float:
        """End counting.

        Returns
        -------
        joules since :meth:`start`
        """


@dataclass
class CounterMeter:
    """A counter of energy that starts again from 0 at its end.

    Attributes
    ----------
    name, scope
        See :class:`Meter`.
    counter_j
        Reads it, in joules.
    range_j
        Where it starts again; None: never.
    """

    name: str
    scope: str
    counter_j: Callable[[], float]
    range_j: float | None = None
    _last_j: float = field(default=0.0, init=False)
    _sum_j: float = field(default=0.0, init=False)

    def start(self) -> None:
        """See :class:`Meter`."""
        self._last_j, self._sum_j = self.counter_j(), 0.0

    def read(self) -> None:
        """See :class:`Meter`; at least once within every turn of the counter."""
        now_j = self.counter_j()
        passed_j = now_j - self._last_j
        if passed_j < 0:
            # Without a known end, a counter that fell was set back: what came before is not known.
            passed_j = passed_j + self.range_j if self.range_j is not None else now_j
        self._sum_j += passed_j
        self._last_j = now_j

    def stop(self) -> float:
        """See :class:`Meter`."""
        self.read()
        return self._sum_j


@dataclass
class PowerMeter:
    """A power that is read again and again; between two readings it is taken to change evenly.

    Attributes
    ----------
    name, scope
        See :class:`Meter`.
    power_w
        Reads it, in watts.
    clock_s
        Seconds that pass.
    """

    name: str
    scope: str
    power_w: Callable[[], float]
    clock_s: Callable[[], float] = time.monotonic
    _last: tuple[float, float] = field(default=(0.0, 0.0), init=False)
    _sum_j: float = field(default=0.0, init=False)

    def start(self) -> None:
        """See :class:`Meter`."""
        self._last, self._sum_j = (self.clock_s(), self.power_w()), 0.0

    def read(self) -> None:
        """See :class:`Meter`."""
        now_s, power_w = self.clock_s(), self.power_w()
        last_s, last_w = self._last
        self._sum_j += (now_s - last_s) * (last_w + power_w) / 2
        self._last = now_s, power_w

    def stop(self) -> float:
        """See :class:`Meter`."""
        self.read()
        return self._sum_j


@dataclass(frozen=True)
class Meters:
    """What a host can be measured with.

    Attributes
    ----------
    found
        Meters that can be read.
    missing
        Why others cannot, in words, so that an estimate can say why it is one.
    """

    found: tuple[Meter, ...]
    missing: tuple[str, ...]


def find_meters(sysfs: Path = SYSFS, nvml: Any = None) -> Meters:
    """The meters of this host.

    Parameters
    ----------
    sysfs
        Where Linux shows devices.
    nvml
        The module ``pynvml`` (package ``nvidia-ml-py``); None: imported if it is installed.
    """
    looked = [*_processors(sysfs), *_jetson(sysfs), *_batteries(sysfs), *_graphics(nvml)]
    return Meters(
        found=tuple(each for each in looked if not isinstance(each, str)),
        missing=tuple(each for each in looked if isinstance(each, str)),
    )


def _processors(sysfs: Path) -> Iterator[Meter | str]:
    """RAPL: a counter for every processor package; its parts are in it and are not counted again."""
    zones = sorted((sysfs / "class/powercap").glob("intel-rapl:*"))
    packages = [zone for zone in zones if zone.name.count(":") == 1 and _text(zone / "name").startswith("package")]
    if not packages:
        yield "RAPL: this host shows no processor package under class/powercap"
    for zone in packages:
        counter = zone / "energy_uj"
        problem = _unreadable(counter)
        if problem:
            yield f"RAPL {_text(zone / 'name')}: {problem}; many systems let only root read it"
            continue
        name = f"RAPL {_text(zone / 'name')}"
        range_j = _number(zone / "max_energy_range_uj") * _MICRO
        yield CounterMeter(name, "host, processor package", _reader(counter, _MICRO), range_j)


def _jetson(sysfs: Path) -> Iterator[Meter | str]:
    """INA3221: the input rail of a Jetson, which carries all the others; without one, every rail."""
    rails: list[tuple[str, Path, int]] = []
    for monitor in sorted((sysfs / "class/hwmon").glob("hwmon*")):
        if _text(monitor / "name") == "ina3221":
            for channel in (1, 2, 3):
                label = _text(monitor / f"in{channel}_label")
                if label and (monitor / f"curr{channel}_input").exists():
                    rails.append((label, monitor, channel))
    if not rails:
        yield "INA3221: this host shows no such monitor under class/hwmon"
    whole = [rail for rail in rails if rail[0] in ("VDD_IN", "POM_5V_IN")]
    for label, monitor, channel in whole or rails:
        paths = (monitor / f"in{channel}_input", monitor / f"curr{channel}_input")
        problem = next(filter(None, map(_unreadable, paths)), "")
        if problem:
            yield f"INA3221 {label}: {problem}"
            continue
        scope = "host, board input" if whole else f"host, rail {label}"
        yield PowerMeter(f"INA3221 {label}", scope, _product(paths[0], _MILLI, paths[1], _MILLI))


def _batteries(sysfs: Path) -> Iterator[Meter | str]:
    """What a battery gives, which is what the host draws while nothing else feeds it."""
    supplies = sorted((sysfs / "class/power_supply").glob("*"))
    batteries = [supply for supply in supplies if _text(supply / "type") == "Battery"]
    if not batteries:
        yield "battery: this host shows none under class/power_supply"
    for battery in batteries:
        name = f"battery {battery.name}"
        status = _text(battery / "status")
        power, current, voltage = (battery / each for each in ("power_now", "current_now", "voltage_now"))
        paths = (power,) if power.exists() else (current, voltage)
        problem = next(filter(None, map(_unreadable, paths)), "")
        if status != "Discharging":
            yield f"{name}: its status is {status or 'unknown'}; only one that runs down shows what the host draws"
        elif problem:
            yield f"{name}: {problem}"
        elif power.exists():
            yield PowerMeter(name, "host, all it draws", _reader(power, _MICRO))
        else:
            yield PowerMeter(name, "host, all it draws", _product(current, _MICRO, voltage, _MICRO))


def _graphics(nvml: Any) -> Iterator[Meter | str]:
    """NVML: a counter for every graphics card, where the card has one, else its power."""
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            yield "NVML: nvidia-ml-py is not installed; pip install 'dora-nb[meters]'"
            return
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        yield f"NVML: {error}"
        return
    for index in range(nvml.nvmlDeviceGetCount()):
        card = nvml.nvmlDeviceGetHandleByIndex(index)
        name, scope = f"NVML {index}", "host, graphics card"
        counted = _of_card(nvml.nvmlDeviceGetTotalEnergyConsumption, card)
        power = _of_card(nvml.nvmlDeviceGetPowerUsage, card)
        if _works(counted, nvml.NVMLError):
            yield CounterMeter(name, scope, counted)
        elif _works(power, nvml.NVMLError):
            yield PowerMeter(name, scope, power)
        else:
            yield f"{name}: the card tells neither energy nor power"


def _of_card(query: Callable[[Any], float], card: Any) -> Callable[[], float]:
    return lambda: _MILLI * query(card)  # NVML counts in mJ and mW


def _works(read: Callable[[], float], error: type[Exception]) -> bool:
    try:
        read()
    except error:
        return False
    return True


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> float:
    return float(path.read_text(encoding="ascii"))


def _reader(path: Path, unit: float) -> Callable[[], float]:
    # A battery's current is negative on some drivers while it runs down.
    return lambda: unit * abs(_number(path))


def _product(first: Path, first_unit: float, second: Path, second_unit: float) -> Callable[[], float]:
    one, other = _reader(first, first_unit), _reader(second, second_unit)
    return lambda: one() * other()


def _unreadable(path: Path) -> str:
    """Why a number cannot be read; empty where it can."""
    try:
        _number(path)
    except PermissionError:
        return f"no permission to read {path}"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror or error}"
    except ValueError:
        return f"{path} holds no number"
    return ""

"""Meters on a made-up host, and the model where there is none."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from runs import made_up_run

from dora_nb.costs.energy import busy_seconds, estimated_energy
from dora_nb.domain.run_timeline import INFERENCE
from dora_nb.executor.measuring import meters as meters_room
from dora_nb.executor.measuring.energy import metered
from dora_nb.executor.measuring.meters import CounterMeter, Meters, PowerMeter, find_meters


class NVMLError(Exception):
    pass


NO_CARDS = SimpleNamespace(NVMLError=NVMLError, nvmlInit=lambda: None, nvmlDeviceGetCount=lambda: 0)


def write(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def test_processor_packages_count_and_turn_over(tmp_path: Path) -> None:
    package = "class/powercap/intel-rapl:0"
    host = write(
        tmp_path,
        {
            f"{package}/name": "package-0",
            f"{package}/energy_uj": 9_000_000,
            f"{package}/max_energy_range_uj": 10_000_000,
            f"{package}:0/name": "core",  # part of the package: not counted again
            f"{package}:0/energy_uj": 1,
            "class/powercap/intel-rapl:1/name": "psys",
            "class/powercap/intel-rapl:1/energy_uj": 1,
        },
    )
    (meter,) = find_meters(host, NO_CARDS).found
    assert (meter.name, meter.scope) == ("RAPL package-0", "host, processor package")
    meter.start()
    for counted in (9_500_000, 500_000, 3_000_000):  # it turned over once
        write(host, {f"{package}/energy_uj": counted})
        meter.read()
    assert meter.stop() == pytest.approx(0.5 + 1.0 + 2.5)


def test_what_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = "class/powercap/intel-rapl:0"
    host = write(tmp_path, {f"{package}/name": "package-0", f"{package}/energy_uj": 1})
    read = Path.read_text

    def refuse(path: Path, *args: object, **options: object) -> str:
        if path.name == "energy_uj":  # file modes do not stop root, who may run the tests
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", refuse)
    meters = find_meters(host, NO_CARDS)
    assert meters.found == ()
    assert "RAPL package-0: no permission to read" in meters.missing[0]
    assert "only root" in meters.missing[0]


def test_a_host_without_meters_says_what_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(meters_room.importlib, "import_module", absent)
    meters = find_meters(tmp_path)
    assert meters.found == ()
    assert [each.split(":")[0] for each in meters.missing] == ["RAPL", "INA3221", "battery", "NVML"]
    assert "dora-nb[meters]" in meters.missing[-1]
    with metered(meters) as counted:
        pass
    assert counted.figures == ()
    assert counted.missing == meters.missing


def test_the_input_rail_of_a_jetson(tmp_path: Path) -> None:
    rails = {"VDD_IN": (5000, 2000), "VDD_CPU_GPU_CV": (5000, 800), "VDD_SOC": (5000, 600)}
    files: dict[str, object] = {"name": "ina3221"}
    for channel, (label, (volts, amperes)) in enumerate(rails.items(), start=1):
        files |= {f"in{channel}_label": label, f"in{channel}_input": volts, f"curr{channel}_input": amperes}
    host = write(tmp_path, {f"class/hwmon/hwmon3/{name}": content for name, content in files.items()})
    write(host, {"class/hwmon/hwmon0/name": "cpu_thermal"})
    (meter,) = find_meters(host, NO_CARDS).found
    assert (meter.name, meter.scope) == ("INA3221 VDD_IN", "host, board input")
    assert isinstance(meter, PowerMeter)
    assert meter.power_w() == pytest.approx(10.0)
    (host / "class/hwmon/hwmon3/in1_label").write_text("VDD_OTHER\n")
    scopes = [each.scope for each in find_meters(host, NO_CARDS).found]
    assert scopes == ["host, rail VDD_OTHER", "host, rail VDD_CPU_GPU_CV", "host, rail VDD_SOC"]


@pytest.mark.parametrize(
    "readings",
    [{"power_now": 7_500_000}, {"current_now": -1_500_000, "voltage_now": 5_000_000}],
    ids=lambda readings: next(iter(readings)),
)
def test_a_battery_counts_while_it_runs_down(tmp_path: Path, readings: dict[str, int]) -> None:
    battery = "class/power_supply/BAT0"
    files = {"type": "Battery", "status": "Discharging"} | readings
    host = write(tmp_path, {f"{battery}/{name}": content for name, content in files.items()})
    write(host, {"class/power_supply/AC/type": "Mains"})
    (meter,) = find_meters(host, NO_CARDS).found
    assert isinstance(meter, PowerMeter)
    assert meter.power_w() == pytest.approx(7.5)
    write(host, {f"{battery}/status": "Charging"})
    meters = find_meters(host, NO_CARDS)
    assert meters.found == ()
    assert any("battery BAT0: its status is Charging" in each for each in meters.missing)


def test_graphics_cards_count_or_tell_their_power_or_nothing() -> None:
    def energy(card: int) -> int:
        if card:
            raise NVMLError("Not Supported")
        return 7_000

    def power(card: int) -> int:
        if card == 2:
            raise NVMLError("Not Supported")
        return 45_000

    cards = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 3,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetTotalEnergyConsumption=energy,
        nvmlDeviceGetPowerUsage=power,
    )
    meters = find_meters(Path("/nowhere"), cards)
    counter, watts = meters.found
    assert isinstance(counter, CounterMeter)
    assert isinstance(watts, PowerMeter)
    assert (counter.counter_j(), watts.power_w()) == (7.0, 45.0)
    assert any("NVML 2: the card tells neither" in each for each in meters.missing)


def test_power_is_summed_over_time() -> None:
    """From 2 W evenly to 4 W within 3 s, then 4 W for 1 s."""
    powers, clock = iter([2.0, 4.0, 4.0]), iter([10.0, 13.0, 14.0])
    meter = PowerMeter("m", "host", lambda: next(powers), lambda: next(clock))
    meter.start()
    meter.read()
    assert meter.stop() == pytest.approx(9 + 4)


def test_a_block_is_metered_and_a_meter_that_goes_away_is_named() -> None:
    class Steady:
        name, scope = "steady", "host"
        reads = 0

        def start(self) -> None:
            self.reads = 0

        def read(self) -> None:
            self.reads += 1

        def stop(self) -> float:
            return 3.0

    class Gone(Steady):
        name = "gone"

        def read(self) -> None:
            raise OSError(19, os.strerror(19))

    steady, gone = Steady(), Gone()
    with metered(Meters((steady, gone), ("none of a third kind",)), host="laptop", every_s=0.001) as counted:
        deadline_s = time.monotonic() + 10
        while steady.reads < 2 and time.monotonic() < deadline_s:
            time.sleep(0.001)
    (figure,) = counted.figures
    assert (figure.joules, figure.status, figure.meter, figure.scope) == (3.0, "measured", "steady", "laptop: host")
    assert counted.missing == ("none of a third kind", "gone: No such device while it was read")
    assert not [thread for thread in threading.enumerate() if "_keep_reading" in thread.name]


def test_the_model_says_that_it_is_one() -> None:
    """1 W idle, 3 W active; 10 nJ a byte; two steps in which 8 MB pass five times and the sum once."""
    record = made_up_run({"a": 1.0, "b": 1.0, "c": 1.0})
    (medium,) = record.cluster.domains
    place = record.cluster.replace(domains=(medium.replace(energy_j_per_byte=1e-8),))
    busy_s = busy_seconds(event for event in record.events if event.step != INFERENCE)
    assert busy_s["a"] == pytest.approx(2 * 2 * (8 + 2 * 16), rel=1e-6)
    figures = estimated_energy(record.plan, record.workload, place, busy_s, seconds=200.0, iterations=2, emulated=True)
    by_scope = {each.scope: each for each in figures}
    assert set(by_scope) == {"device a", "device b", "device c", "network"}
    assert {each.status for each in figures} == {"estimated"}
    assert {each.seconds for each in figures} == {200.0}
    assert by_scope["device a"].joules == pytest.approx(3 * 160 + 1 * 40, rel=1e-6)
    assert "another machine stood in for" in by_scope["device a"].note
    carried_bytes = 2 * (4 * 8e6 + 2 * 5000 * 8)
    assert by_scope["network"].joules == pytest.approx(1e-8 * carried_bytes)

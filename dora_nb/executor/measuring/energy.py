"""The energy of a run: counted by the meters of its host where there are any, and estimated by the model."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dora_nb.costs.energy import busy_seconds, estimated_energy
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.run_record import EnergyFigure, RunRecord
from dora_nb.executor.measuring.meters import Meter, Meters, find_meters

#: Seconds between two readings: a counter of processor energy may turn over within a minute, a power changes faster.
READ_EVERY_S = 0.1


@dataclass
class Metered:
    """What was counted while a block ran.

    Attributes
    ----------
    missing
        Why what could not be counted could not.
    figures
        One for each meter; empty until the block is over.
    """

    missing: tuple[str, ...]
    figures: tuple[EnergyFigure, ...] = ()


@contextlib.contextmanager
def metered(meters: Meters | None = None, *, host: str = "", every_s: float = READ_EVERY_S) -> Iterator[Metered]:
    """Count the joules of this host while a block runs, with every meter it has.

    Parameters
    ----------
    meters
        What to count with; None: all that this host has.
    host
        Named in the figures; empty where there is only one host.
    every_s
        Seconds between two readings.
    """
    meters = find_meters() if meters is None else meters
    counted = Metered(meters.missing)
    began_s = time.monotonic()
    for meter in meters.found:
        meter.start()
    over = threading.Event()
    problems: list[tuple[Meter, OSError]] = []
    reader = threading.Thread(target=_keep_reading, args=(meters.found, over, every_s, problems), daemon=True)
    reader.start()
    try:
        yield counted
    finally:
        over.set()
        reader.join()
        counted.figures, gone = _figures(meters.found, problems, time.monotonic() - began_s, host)
        counted.missing += gone


def with_energy(record: RunRecord, cluster: Cluster, counted: Metered, *, emulated: bool) -> RunRecord:
    """A record with what the meters counted, and beside it what the model says of the steps under the run's plan.

    The model's figures are there whenever there was such a step: a meter sees this host, and the devices planned with
    may be others.

    Parameters
    ----------
    record
        Without energy.
    cluster
        As planned: the watts of its devices, and the joules per byte of its network.
    counted
        While it ran.
    emulated
        Whether this host stood in for the devices.
    """
    steps = record.compared_steps
    if not steps:
        return record.replace(energy=counted.figures, not_metered=counted.missing)
    estimated = estimated_energy(
        record.plan,
        record.workload,
        cluster,
        busy_seconds(record.compared_events),
        seconds=sum(steps.values()),
        iterations=len(steps) * record.requests,
        emulated=emulated,
    )
    return record.replace(energy=(*counted.figures, *estimated), not_metered=counted.missing)


def _keep_reading(
    meters: Sequence[Meter], over: threading.Event, every_s: float, problems: list[tuple[Meter, OSError]]
) -> None:
    reading = list(meters)
    while reading and not over.wait(every_s):
        for meter in tuple(reading):
            try:
                meter.read()
            except OSError as error:  # a battery was taken out, a driver went away
                problems.append((meter, error))
                reading.remove(meter)


def _figures(
    meters: Sequence[Meter], problems: Sequence[tuple[Meter, OSError]], seconds: float, host: str
) -> tuple[tuple[EnergyFigure, ...], tuple[str, ...]]:
    """What each meter counted, and why some counted nothing."""
    figures: list[EnergyFigure] = []
    gone = {id(meter): error for meter, error in problems}
    missing: list[str] = []
    for meter in meters:
        error = gone.get(id(meter))
        if error is None:
            try:
                joules = meter.stop()
            except OSError as caught:
                error = caught
        if error is not None:
            missing.append(f"{meter.name}: {error.strerror or error} while it was read")
            continue
        scope = f"{host}: {meter.scope}" if host else meter.scope
        note = "everything that ran there counts, other programs included"
        figures.append(
            EnergyFigure(joules=joules, status="measured", meter=meter.name, scope=scope, seconds=seconds, note=note)
        )
    return tuple(figures), tuple(missing)

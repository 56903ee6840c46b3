"""Limits of every kind, hard and priced: random ones, and plans rated under them in plain loops."""

from __future__ import annotations

import math
from typing import Any

from builders import Dice, every_plan, random_question, shape_and_timing

from dora_nb.costs.evaluate import evaluate
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.prediction import Prediction
from dora_nb.domain.qoe import QoE
from dora_nb.domain.workload import Workload
from dora_nb.formulation.problem import Problem
from dora_nb.formulation.schedules.list_schedule import list_schedule

ROUNDING = 1e-9


def predictions(problem: Problem) -> list[Prediction]:
    """Of every plan of a problem's space that fits in memory, list-scheduled."""
    found = []
    for each in every_plan(problem):
        order = list_schedule(*shape_and_timing(each, problem)).transfers()
        figures = evaluate(each.replace(transfer_order=order), problem.workload, problem.cluster).prediction
        if all(device.memory_bytes <= device.usable_memory_bytes for device in figures.devices):
            found.append(figures)
    return found


def drawn_j(figures: Prediction, name: str, place: Cluster, accounting: str) -> float:
    """What a device takes from its battery."""
    for device in figures.devices:
        if device.device == name:
            return device.energy_j
    return place.device(name).idle_w * figures.makespan_s if accounting == "all-on" else 0.0


def value(figures: Prediction, work: Workload, place: Cluster, qoe: QoE) -> float:
    """The objective with prices; infinite where a hard limit is broken."""
    energy_j = figures.energy_j(qoe.energy_accounting)
    total = {
        "latency": figures.makespan_s,
        "energy": energy_j,
        "price": energy_j + (qoe.joules_per_s or 0) * figures.makespan_s,
    }[qoe.objective]
    excess: list[tuple[float, float, float | None]] = []  # (beyond, of what, price)
    if qoe.latency_s is not None:
        excess.append((figures.makespan_s - qoe.latency_s, qoe.latency_s, qoe.latency_price))
    if qoe.samples_per_s is not None:
        reached = work.batch / figures.makespan_s
        excess.append((qoe.samples_per_s - reached, qoe.samples_per_s, qoe.throughput_price))
    if qoe.energy_j is not None:
        excess.append((energy_j - qoe.energy_j, qoe.energy_j, qoe.energy_price))
    for name, limit_j in qoe.battery_j.items():
        beyond_j = drawn_j(figures, name, place, qoe.energy_accounting) - limit_j
        excess.append((beyond_j, limit_j, qoe.battery_price))
    for device in figures.devices:
        usable = device.usable_memory_bytes
        keep = qoe.headroom_bytes if qoe.headroom_bytes is not None else (qoe.headroom_fraction or 0) * usable
        if keep:
            excess.append((device.memory_bytes + keep - usable, usable, qoe.headroom_price))
    for beyond, size, price in excess:
        if price is None and beyond > 1e-9 * size:
            return math.inf
        total += (price or 0.0) * max(0.0, beyond)
    return total


def random_qoe(dice: Dice, work: Workload, place: Cluster, known: list[Prediction]) -> QoE:
    """Some terms, hard or priced, near what some plan reaches."""
    objective = dice.pick(("latency", "energy", "price"))
    accounting = dice.pick(("participating", "all-on"))
    unit = 1.0 if objective == "latency" else 5.0
    fields: dict[str, object] = {"objective": objective, "energy_accounting": accounting}
    if objective == "price":
        fields["joules_per_s"] = dice.pick((0.3, 3.0, 30.0))

    def near(figure: float) -> float:
        return figure * dice.pick((0.7, 0.95, 1.0001, 1.2, 1.7))

    def priced(name: str, per: float) -> None:
        if dice.pick((True, False)):
            fields[name] = unit * dice.pick((0.1, 1.0, 8.0)) / per

    terms = [name for name in ("latency", "throughput", "energy", "battery", "headroom") if dice.number(0, 2) == 0]
    like = dice.pick(known)
    if "latency" in terms:
        fields["latency_s"] = near(like.makespan_s)
        priced("latency_price", 1.0)
    if "throughput" in terms:
        fields["samples_per_s"] = near(like.samples_per_s)
        priced("throughput_price", 1.0)
    if "energy" in terms:
        fields["energy_j"] = near(like.energy_j(accounting))
        priced("energy_price", 5.0)
    if "battery" in terms:
        names = dice.shuffled(place.device_ids)[: dice.number(1, len(place.devices))]
        fields["battery_j"] = {name: near(drawn_j(like, name, place, accounting) or 5.0) for name in names}
        priced("battery_price", 5.0)
    if "headroom" in terms:
        most = max(device.memory_bytes for device in like.devices)
        usable = place.devices[0].usable_memory_bytes
        if dice.pick((True, False)):
            fields["headroom_bytes"] = max(usable - near(most), 0.0)
        else:
            fields["headroom_fraction"] = max(1 - near(most) / usable, 0.0)
        priced("headroom_price", most)
    return QoE(**fields)


def random_case(dice: Dice, **options: Any) -> tuple[Workload, Cluster, Dice]:
    """A question on devices of little memory, so that headroom matters."""
    work, place = random_question(dice, **options)
    per_parameter = 16 if work.trains else 4
    whole = work.parameters * per_parameter + sum(each.stash_elements for each in work.layers) * 4 * work.batch + 4e6
    devices = [each.replace(memory_bytes=2.0 * whole) for each in place.devices]
    return work, place.replace(devices=tuple(devices)), dice

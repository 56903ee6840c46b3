"""Requests that arrive at a rate: one program over all of them, in which the first stage waits for each to arrive.

A request is a batch in the plan's micro-batches. A stage takes requests one after the other, so that the stages work on
several at once, and what they hand over leaves in the order planned for every period, or as soon as it is there.
"""

from __future__ import annotations

from collections.abc import Sequence

from dora_nb.domain.plan import Plan
from dora_nb.executor.device.instructions import AllReduce, Arrive, Forward, Instruction, Step, TiedSum


def over_requests(plan: Plan, requests: int, first: int = 0) -> Plan:
    """A plan of one request as one over so many, micro-batches counted on.

    The order of transfers repeats with every request that arrives: one with a lag is then that of a request which
    arrived so many before it.

    Parameters
    ----------
    plan
        Of one request.
    requests
        How many there are.
    first
        The first of them whose transfers are left, counted from 0.
    """
    order, size = plan.transfer_order, plan.micro_batches
    if requests == 1 and not any(each.lag for each in order):  # every step of every run comes by here
        return plan
    turns = [
        transfer.replace(micro_batch=transfer.micro_batch + (arrived - transfer.lag) * size, lag=0)
        for arrived in range(requests + max((each.lag for each in order), default=0))
        for transfer in order
        if first <= arrived - transfer.lag < requests
    ]
    return plan.replace(micro_batches=requests * size, transfer_order=tuple(turns))


def arrivals_s(plan: Plan, requests: int, arrival_s: float) -> list[float]:
    """When each micro-batch of :func:`over_requests` arrives, after the first one."""
    return [request * arrival_s for request in range(requests) for _ in range(plan.micro_batches)]


def from_request(program: Sequence[Instruction], plan: Plan, first: int) -> tuple[Instruction, ...]:
    """A device's program without the requests before one.

    Parameters
    ----------
    program
        Over all requests.
    plan
        Of one request.
    first
        The first request that is left, counted from 0.
    """
    before = first * plan.micro_batches
    return tuple(each for each in program if isinstance(each, AllReduce | TiedSum | Step) or each.micro_batch >= before)


def with_arrivals(program: Sequence[Instruction], moments_s: Sequence[float]) -> tuple[Instruction, ...]:
    """A device's program, in which passes of the first stage wait for what they need to arrive.

    Parameters
    ----------
    program
        Over all requests, without training.
    moments_s
        See :func:`arrivals_s`.
    """
    waiting: list[Instruction] = []
    for instruction in program:
        if isinstance(instruction, Forward) and instruction.stage == 0:
            waiting.append(Arrive(0, instruction.micro_batch, moments_s[instruction.micro_batch]))
        waiting.append(instruction)
    return tuple(waiting)

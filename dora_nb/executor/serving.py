"""Serves requests that want tokens for real, and holds every request's tokens against those that it gets alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from dora_nb.costs.serving.rounds import Played, play_rounds
from dora_nb.costs.serving.service import Service, check_joining
from dora_nb.domain.cluster import Cluster
from dora_nb.domain.fits import check_fits
from dora_nb.domain.plan import Plan
from dora_nb.domain.serving import Batching, Joining
from dora_nb.domain.workload import Workload
from dora_nb.errors import InputError
from dora_nb.executor.control.orders import NetworkUse
from dora_nb.executor.control.process import expect_workers
from dora_nb.executor.pool import WorkerPool, require_torch
from dora_nb.executor.predict import machine_cluster, measured_table
from dora_nb.executor.session import Session
from dora_nb.units import counted, format_seconds

if TYPE_CHECKING:  # torch is loaded once it is known to be there
    from dora_nb.domain.run_record import Link
    from dora_nb.executor.control.replies import Served
    from dora_nb.executor.tasks.assemble import Assembled

#: Seconds for a request behind which something must be wrong.
_LONGEST_S = 30.0


@dataclass(frozen=True)
class ServedRun:
    """What became of requests that were served: measured on this machine, whose devices nothing slows down.

    Attributes
    ----------
    arrivals_s
        When each came.
    tokens
        That each got.
    first_token_at_s, last_token_at_s
        When each had these.
    rounds
        (how many joined, how many were there before) of every round, in the order in which they began.
    differing
        Requests whose tokens are not those that they get alone, in one process and without a cache.
    predicted_first_token_s, predicted_latency_s
        From arrival to the first and to the last token of each, as predicted before the run from a profile of the
        layers on this machine and a probe of its network; the same arrivals, by the rules of
        :mod:`dora_nb.costs.serving.rounds`.
    """

    arrivals_s: tuple[float, ...]
    tokens: tuple[tuple[int, ...], ...]
    first_token_at_s: tuple[float, ...]
    last_token_at_s: tuple[float, ...]
    rounds: tuple[tuple[int, int], ...]
    differing: tuple[int, ...]
    predicted_first_token_s: tuple[float, ...]
    predicted_latency_s: tuple[float, ...]

    @cached_property
    def first_token_s(self) -> tuple[float, ...]:
        """From arrival to the first token."""
        return tuple(at - came for at, came in zip(self.first_token_at_s, self.arrivals_s, strict=True))

    @cached_property
    def latency_s(self) -> tuple[float, ...]:
        """From arrival to the last token."""
        return tuple(at - came for at, came in zip(self.last_token_at_s, self.arrivals_s, strict=True))

    def __repr__(self) -> str:
        count = len(self.tokens)
        seconds = (self.first_token_s, self.predicted_first_token_s, self.latency_s, self.predicted_latency_s)
        first_s, first_predicted_s, last_s, last_predicted_s = (format_seconds(sum(each) / count) for each in seconds)
        requests, rounds = counted(count, "request"), counted(len(self.rounds), "round")
        mixed = sum(joining > 0 and going > 0 for joining, going in self.rounds)
        same = "all tokens as alone" if not self.differing else f"{len(self.differing)} with other tokens than alone"
        return (
            f"ServedRun of {requests}, {same}: first token after {first_s} (predicted {first_predicted_s}), "
            f"last after {last_s} (predicted {last_predicted_s}), means; "
            f"{rounds}, in {mixed} of them some joined others"
        )


def serve_requests(
    plan: Plan,
    workload: Workload,
    cluster: Cluster,
    arrivals_s: Sequence[float],
    model: object = None,
    *,
    batching: Batching = "continuous",
    wave: int = 1,
    data: object = None,
    seed: int = 0,
    dtype: str | None = None,
    workers: WorkerPool | None = None,
) -> ServedRun:
    """Serve requests for real with a plan's groups of slots: one process per device, at this machine's own speed.

    Parameters
    ----------
    plan
        That of a :class:`~dora_nb.domain.serving.Serving`.
    workload, cluster
        One request, and what it was planned for.
    arrivals_s
        When each request arrives, in order, from the moment when all devices are ready.
    batching, wave
        Those of the :class:`~dora_nb.domain.serving.Serving`: who joins when, and how many together at least.
    model, data, seed, dtype
        What is computed, as for :func:`~dora_nb.executor.launch.execute`; a prompt is a sample of the data. Without a
        model: a small random network of the workload's structure, in fp64.
    workers
        Warm workers to use, at least one per device; None: started for this run and ended with it.

    Returns
    -------
    ServedRun

    Raises
    ------
    InputError
        If the plan cannot serve such requests, arrivals are not in order, or it cannot have such a wave.
    ExecutionError
        If a worker fails.
    """
    arrivals_s = tuple(arrivals_s)
    if not arrivals_s or arrivals_s[0] < 0 or list(arrivals_s) != sorted(arrivals_s):
        raise InputError("arrivals_s", arrivals_s[:5], "at least one time, from 0 on, in order")
    together = workload.replace(batch=plan.micro_batch * plan.micro_batches)
    check_fits(plan, together, cluster)
    if any(len(stage.replicas) > 1 for stage in plan.stages) or plan.token_groups != plan.micro_batches:
        raise InputError("plan", plan.devices, "one device a stage and a micro-batch a group, as dora_nb.serve plans")
    joining = Joining(batching, wave)
    check_joining(joining, plan)
    require_torch()
    if workers is None:
        expect_workers()
    from dora_nb.executor.reference import reference_run
    from dora_nb.executor.tasks.assemble import task_of
    from dora_nb.executor.threads import one_thread

    longest_s = arrivals_s[-1] + _LONGEST_S * (1 + len(arrivals_s))
    with _closed_on_error(workers) if workers is not None else WorkerPool(len(plan.devices)) as pool:
        batches = -(-len(arrivals_s) // together.batch)
        assembled = task_of(
            model, plan, together, directory=pool.directory, data=data, steps=batches, seed=seed, dtype=dtype
        )
        session = Session(pool, assembled.task, NetworkUse(), pool.seats(plan.devices), lambda _: longest_s)
        session.clear()
        session.prepare(assembled.plan, fresh=True)
        session.commit(assembled.plan)
        predicted = _predicted(assembled, cluster, session.probe(), arrivals_s, joining)
        served = session.serve(arrivals_s, joining)
        one_by_one = assembled.plan.replace(
            micro_batch=1,
            micro_batches=len(arrivals_s),
            token_groups=1,
            stages=tuple(
                stage.replace(replicas=tuple(each.replace(samples=1) for each in stage.replicas), in_flight=1)
                for stage in assembled.plan.stages
            ),
        )
        with one_thread():
            alone = [tuple(each[0].tolist()) for each in reference_run(assembled.task, one_by_one, 0).tokens]
    return _run_of(served, alone, predicted)


@contextlib.contextmanager
def _closed_on_error(given: WorkerPool) -> Iterator[WorkerPool]:
    try:
        yield given
    except BaseException:
        given.close()  # interrupted halfway, they would answer the next run with what is left of this one
        raise


def _predicted(
    assembled: Assembled, cluster: Cluster, link: Link | None, arrivals_s: Sequence[float], joining: Joining
) -> Played:
    """What the cost model expects of this machine, which keeps inputs where they are needed."""
    from dora_nb.executor.measuring.profile import profile_layers

    plan, here = assembled.plan, machine_cluster(assembled.plan, cluster, link)
    counts, factors = sorted({1, plan.micro_batch}), dict.fromkeys(here.device_ids, 1.0)
    tables = {
        weights: measured_table(profile_layers(assembled.task, counts, counts, weights), plan, here, factors)
        for weights in {None, *(stage.weights for stage in plan.stages)}
    }
    table = replace(tables[None], narrower={weights: each for weights, each in tables.items() if weights})
    request = assembled.workload.replace(batch=1, source=None, sink=None)
    return play_rounds(Service(plan, request, here, table), arrivals_s, joining)


def _run_of(served: Served, alone: Sequence[tuple[int, ...]], predicted: Played) -> ServedRun:
    pairs = enumerate(zip(served.tokens, alone, strict=True))
    return ServedRun(
        arrivals_s=tuple(predicted.arrival_s.tolist()),
        tokens=served.tokens,
        first_token_at_s=served.first_token_s,
        last_token_at_s=served.last_token_s,
        rounds=tuple((each.joining, each.going) for each in served.rounds),
        differing=tuple(request for request, (own, expected) in pairs if own != expected),
        predicted_first_token_s=tuple((predicted.first_token_s - predicted.arrival_s).tolist()),
        predicted_latency_s=tuple((predicted.last_token_s - predicted.arrival_s).tolist()),
    )

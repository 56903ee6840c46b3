"""What a plan with slots takes for requests that all keep the limits: from its own seconds to requests per second."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from dora_nb.costs.serving.limits import (
    ROUNDING,
    Batch,
    Case,
    Least,
    further_s,
    least_of_batches,
    least_of_way,
)
from dora_nb.costs.serving.service import Floats, Service, least_s, least_share_s
from dora_nb.costs.serving.turns import PROMPTS, Turns, least_between_prompts_s, waiting_s
from dora_nb.domain.serving import Joining, ServingGoal

#: Steps of the bound on the seconds between requests; it is valid after each of them.
_STEPS = 8


def least_mean(costs: Floats, spent: Floats, allowed: float) -> float:
    """The least mean cost of a mixture whose mean spending is allowed; infinite if there is none.

    Two rows and as many columns as there are choices: some optimum mixes at most two, one on either side of what is
    allowed.

    Parameters
    ----------
    costs, spent
        Of each choice.
    allowed
        Of the mean.
    """
    within = spent <= allowed * (1 + ROUNDING)
    if not within.any():
        return math.inf
    least = float(costs[within].min())
    if within.all():
        return least
    low, high = spent[within][:, None], spent[~within][None, :]
    part = np.clip((allowed - low) / (high - low), 0.0, 1.0)
    mixed = (1 - part) * costs[within][:, None] + part * costs[~within][None, :]
    return min(least, float(mixed.min()))


class Limited:
    """What a plan takes for requests that all keep the limits.

    Parameters
    ----------
    service
        What it takes without.
    goal
        The limits; its objective does not matter.
    """

    def __init__(self, service: Service, goal: ServingGoal) -> None:
        self.service, self.goal = service, goal
        together = np.arange(service.slots + 1)
        prompts_s = service.prompt_s.sum(axis=0)
        sent_s = sum(hop.prompt_bytes * hop.slowest_s_per_byte for hop in service.hops)
        late_s = sum(hop.latency_s for hop in service.hops)
        joined_s = (prompts_s + together * sent_s)[1:]
        self._share_s: Floats = joined_s / together[1:]
        self._token_s: Floats = np.array(
            [
                service.token_s[:, each].sum() + sum(hop.alone_s(0, each) for hop in (*service.hops, service.back))
                for each in range(service.slots + 1)
            ]
        )
        self._least = Least(
            first_s=np.maximum(service.input.alone_s(1, 0) + late_s + joined_s, service.first_token_alone_s),
            token_s=np.asarray(service.token_alone_s),
            joiner_s=self._share_s.min(),
            output_s=service.output.alone_s(1, 0),
        )

    @cached_property
    def batch(self) -> Batch:
        """What it takes where all slots of a group are filled at once."""
        service, full = self.service, self.service.slots
        further = service.tokens - 1
        joined_s = float(service.prompt_s[:, full].sum()) + sum(hop.alone_s(full, 0) for hop in service.hops)
        return Batch(
            first_s=np.asarray(service.input.alone_s(1, 0) + joined_s),
            round_s=self._token_s[full],
            group_s=np.asarray(joined_s + further * self._token_s[full]),
            busiest_s=np.asarray((service.prompt_s[:, full] + further * service.token_s[:, full]).max()),
            output_s=service.output.alone_s(full, 0),
        )

    def of_way(self, between_s: float, joining: Joining | None) -> tuple[int, float]:
        """Requests in a group at once, and seconds between them at least, if they are not less than so far apart."""
        service, at = self.service, np.asarray(between_s)
        is_static = joining is not None and joining.batching == "static"
        joining = None if service.input.seconds_per_byte else joining
        case = Case(self.goal, service.tokens, self._least, at)
        most, apart_s = least_of_way(case, joining, service.groups)
        if is_static:
            whole_s = least_of_batches(self.goal, service.tokens, self.batch, at, service.slots, service.groups)
            apart_s = np.maximum(apart_s, whole_s)
        return int(most), float(apart_s)

    @cached_property
    def turns(self) -> Turns:
        """What it takes to pass prompts, and tokens while there are none."""
        service = self.service
        least, share = least_s(service.prompt_s), least_share_s(service.prompt_s)
        token_s = least_share_s(service.token_s)
        sent_s = sum(
            hop.size_bytes(0, 1) * hop.slowest_s_per_byte + hop.latency_s / service.slots for hop in service.hops
        )
        passed_s = service.first_token_alone_s - service.input.alone_s(1, 0)
        return Turns(
            tokens=service.tokens,
            slots=service.slots,
            groups=service.groups,
            prompt_s=np.asarray(passed_s),
            prompts_s=np.array([max(0.0, float((each * share - least).max())) for each in PROMPTS]),
            token_s=np.asarray(max(float(token_s.sum() + sent_s) / service.groups, float(token_s.max()))),
            waiting_s=waiting_s(self.goal, np.asarray(service.first_token_alone_s), np.asarray(service.alone_s)),
        )

    def slowest_per_s(self, joining: Joining) -> float:
        """Requests per second at least: if fewer arrive, those who join together wait too long for each other.

        The first of them has waited for all others when its prompt is passed, alone or with the whole batch.
        """
        service, others = self.service, joining.together(self.service.slots) - 1
        first_s, whole_s = service.first_token_alone_s, service.alone_s
        if joining.batching == "static":
            first_s = float(self.batch.first_s)
            whole_s = first_s + (service.tokens - 1) * float(self.batch.round_s) + self.batch.output_s
        slowest = 0.0
        for limit, alone_s in ((self.goal.first_token_s, first_s), (self.goal.latency_s, whole_s)):
            if limit is not None and others:
                left_s = limit * (1 + ROUNDING) - alone_s
                slowest = max(slowest, others / left_s if left_s > 0 else math.inf)
        return slowest

    def seconds_each(self, most: int) -> float:
        """Of n requests that all keep the limits, with so many in a group at most: they take at least n times as long.

        As for :attr:`~dora_nb.costs.serving.service.Service.capacity_per_s`, but with no more in a group, and with
        tokens in time: where a share p[g] of all further tokens is computed for g requests at once, the mean seconds of
        a token are at least the sum of p[g] times those of a round with g tokens. By the limits on the time per token,
        or on the latency less what the first token takes at least, that mean is bounded. A stage and a group are busy
        for at least the least mean of seconds per token over all such shares.
        """
        service, further = self.service, self.service.tokens - 1
        if not most:
            return math.inf
        busy_s = [*(service.prompt_s[:, 1 : most + 1] / np.arange(1, most + 1)).min(axis=1)]
        group_s = float(self._share_s[:most].min())
        if further:
            before_s = np.asarray(service.first_token_alone_s + self._least.output_s)
            allowed_s = float(further_s(self.goal, service.tokens, before_s)) / further
            together, spent_s = np.arange(1, most + 1), self._token_s[1 : most + 1]
            busy_s = [
                prompt_s + further * least_mean(each[1 : most + 1] / together, spent_s, allowed_s)
                for prompt_s, each in zip(busy_s, service.token_s, strict=True)
            ]
            group_s += further * least_mean(spent_s / together, spent_s, allowed_s)
        return max(*map(float, busy_s), group_s / service.groups, *service.held_s.values(), 0.0)

    def least_between_s(self, joining: Joining | None = None) -> float:
        """Seconds between requests, evenly spaced, that are kept up with within the limits: no fewer.

        How many may be in a group is the fewer the further apart requests arrive, and what n requests take for each
        (:meth:`seconds_each`) is then the longer, and no longer than that time if they are kept up with. So from a time
        that is no longer than any that will do, here that of the capacity or of prompts in turn, each step leads to
        another such time.

        Parameters
        ----------
        joining
            How requests join; None: in whatever way.
        """
        between_s = max(1.0 / self.service.capacity_per_s, float(least_between_prompts_s(self.turns)))
        for _ in range(_STEPS):
            most, apart_s = self.of_way(between_s, joining)
            longer_s = max(between_s, apart_s, self.seconds_each(most))
            if longer_s <= between_s * (1 + ROUNDING) or math.isinf(longer_s):
                return longer_s
            between_s = longer_s
        return between_s

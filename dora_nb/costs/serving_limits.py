"""What limits on every request cost a plan with slots in requests per second.

A group that goes round with many requests serves more of them, but its tokens come later, and each prompt that joins
delays all who are there. So limits bound from above how many may be in a group at once, and how many tokens are
computed together on the mean; with fewer, stages and groups are busy for longer with each request.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.serving import Floats, Service
from dora_nb.domain.serving import ServingGoal

#: A limit is broken by more than this part of it; sums in another order differ by less.
ROUNDING = 1e-9

#: Steps of the bound on the seconds between requests; it is valid after each of them.
_STEPS = 8


def most_at_once(
    goal: ServingGoal,
    tokens: int,
    first_s: Floats,
    token_s: Floats,
    joiner_s: Floats,
    *,
    between_s: Floats,
    output_s: float = 0.0,
) -> NDArray[np.int64]:
    """Requests that may be in a group at once where each of them keeps the limits; 0: none may.

    Take a round of a group, those of its requests that joined first, j of them together, and the one of these that
    arrived first. It waited at least ``(j - 1) between_s`` for the last of them, and has its first token no sooner than
    that and ``first_s[j]`` after it arrived. All others in the round joined while it went round for its further tokens,
    ``tokens - 1`` rounds of at least ``token_s`` each, and every one of them added at least ``joiner_s``. So there are
    at most j and as many others as what is left of the time per token, or of the latency, has room for; the largest
    sum over j bounds what may be there in any round.

    Parameters
    ----------
    goal
        The limits.
    tokens
        Of every request.
    first_s
        Seconds from arrival to the first token at least, of j requests that join together; the waiting for each other
        left out. The last axis is j, from 1 to the slots; those before it are any number of plans.
    token_s
        Seconds of a round at least, by plan.
    joiner_s
        Seconds that each prompt adds to a round at least, by plan.
    between_s
        Seconds between the arrivals of two requests at least, by plan.
    output_s
        Seconds of sending what a request has got.
    """
    slots, further = first_s.shape[-1], tokens - 1
    together = np.arange(1, slots + 1)
    first_s = first_s + (together - 1) * between_s[..., None]
    left_s = np.full(first_s.shape, math.inf)
    if goal.token_s is not None:
        left_s = np.minimum(left_s, further * goal.token_s * (1 + ROUNDING))
    if goal.latency_s is not None:
        left_s = np.minimum(left_s, goal.latency_s * (1 + ROUNDING) - first_s - output_s)
    left_s = left_s - further * token_s[..., None]
    possible = left_s >= 0
    if goal.first_token_s is not None:
        possible &= first_s <= goal.first_token_s * (1 + ROUNDING)
    added_s = np.maximum(joiner_s, np.finfo(float).tiny)[..., None]
    others = np.floor(np.clip(left_s / added_s, 0, slots)) if further else 0.0
    most = np.where(possible, np.minimum(together + others, slots), 0)
    return np.asarray(most.max(axis=-1), dtype=np.int64)


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
        self._joined_s: Floats = prompts_s + together * sent_s
        self._first_s: Floats = (service.input.alone_s(1, 0) + late_s + self._joined_s)[1:]
        self._share_s: Floats = self._joined_s[1:] / together[1:]
        self._token_s: Floats = np.array(
            [
                service.token_s[:, each].sum() + sum(hop.alone_s(0, each) for hop in (*service.hops, service.back))
                for each in range(service.slots + 1)
            ]
        )

    def most_at_once(self, between_s: float) -> int:
        """Requests that may be in a group at once, if they arrive so far apart; 0: none may."""
        service = self.service
        most = most_at_once(
            self.goal,
            service.tokens,
            self._first_s,
            np.asarray(service.token_alone_s),
            self._share_s.min(),
            between_s=np.asarray(between_s),
            output_s=service.output.alone_s(1, 0),
        )
        return int(most)

    def seconds_each(self, between_s: float) -> float:
        """N requests that arrive so far apart, and all keep the limits, take at least n times as long.

        As for :attr:`~dora_nb.costs.serving.Service.capacity_per_s`, but with no more than :func:`most_at_once` in a
        group, and with tokens in time: where a share p[g] of all further tokens is computed for g requests at once, the
        mean seconds of a token are at least the sum of p[g] times those of a round with g tokens. By the limits on the
        time per token, or on the latency less what the first token takes at least, that mean is bounded. A stage and a
        group are busy for at least the least mean of seconds per token over all such shares.

        Parameters
        ----------
        between_s
            Seconds between the arrivals of two requests.
        """
        service, further, most = self.service, self.service.tokens - 1, self.most_at_once(between_s)
        if not most:
            return math.inf
        busy_s = [*(service.prompt_s[:, 1 : most + 1] / np.arange(1, most + 1)).min(axis=1)]
        group_s = float(self._share_s[:most].min())
        if further:
            together, spent_s, allowed_s = np.arange(1, most + 1), self._token_s[1 : most + 1], self._allowed_s()
            busy_s = [
                prompt_s + further * least_mean(each[1 : most + 1] / together, spent_s, allowed_s)
                for prompt_s, each in zip(busy_s, service.token_s, strict=True)
            ]
            group_s += further * least_mean(spent_s / together, spent_s, allowed_s)
        return max(*map(float, busy_s), group_s / service.groups, *service.held_s.values(), 0.0)

    def _allowed_s(self) -> float:
        """Seconds of a token on the mean over all requests, at most."""
        service, further, allowed_s = self.service, self.service.tokens - 1, math.inf
        if self.goal.token_s is not None:
            allowed_s = self.goal.token_s
        if self.goal.latency_s is not None:
            outside_s = service.first_token_alone_s + service.output.alone_s(1, 0)
            allowed_s = min(allowed_s, (self.goal.latency_s - outside_s) / further)
        return allowed_s

    def least_between_s(self) -> float:
        """Seconds between requests, evenly spaced, that are kept up with within the limits: no fewer.

        What n requests take for each (:meth:`seconds_each`) is longer the further apart they arrive, and no longer than
        that time if they are kept up with. So from a time that is no longer than any that will do, here that of the
        capacity, its value leads to another such time.
        """
        between_s = 1.0 / self.service.capacity_per_s
        for _ in range(_STEPS):
            longer_s = max(between_s, self.seconds_each(between_s))
            if longer_s <= between_s * (1 + ROUNDING):
                break
            between_s = longer_s
        return between_s

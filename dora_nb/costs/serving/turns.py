"""What passing prompts in turn costs in requests per second, where requests may not wait for long to join.

A prompt that is passed holds all groups up: those that come to a boundary go behind it through all stages, so that none
has another boundary before the prompt has its first token. All of them have tokens at their own pace only while no
prompt is on its way. Where requests may wait for long, they can join close together, and leave time between; a limit
on the first token, or on the latency, spreads them as they arrive. Our own proof, whoever joins when and whether inputs
are sent or not; n are the tokens of a request, s the slots of a group, G the groups.

Call the time from when requests join at a boundary until they have their first token their *window*, at least F long.
In the order in which groups come to boundaries, each group has one boundary at most in a window, its own with whom it
takes along included. Take *runs* of windows that overlap, with m requests each, and the times between runs.

- In a run with M windows a group's boundaries are at most M: behind each, a window ends before its next one. The group
  whose prompt is passed in any window but the first has none in the window before until it joins itself, as it could
  not be back so soon; behind that boundary both windows end. So all groups have at most G M - (M - 1), which is no more
  than (G - 1) m + 1.
- Between runs nobody joins, so that a round of g tokens takes at least g times ``token_s``: of its group, one of G, and
  of every stage, for which groups take turns. So in x seconds rounds that end between the runs as well have x /
  ``token_s`` tokens at most, and one round more of each group may have begun.
- A run takes at least F, and so much more as the busiest stage is for the other prompts. Its last request arrived (m -
  1) b after its first, if one arrives every b seconds; it was free to join at once, and the first had waited for W at
  most. So the run takes at least F + (m - 1) b - W.

A request has n tokens in as many rounds. Say that N requests take T seconds in all, and that a run with m takes U(m)
at least. Then the sum over all runs of ``s ((G - 1) m + 1 + G) + (m T / N - U(m)) / token_s - n m`` is not negative,
and so it is for some m: ``T / N >= (U(m) + token_s (n m - s ((G - 1) m + 1 + G))) / m``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from dora_nb.costs.serving.limits import ROUNDING
from dora_nb.costs.serving.service import Floats
from dora_nb.domain.serving import ServingGoal

#: Numbers of prompts in a run for which the busiest stage is told apart; for more it counts as for the last.
PROMPTS = (2, 3, 4)

#: Requests in a run that are looked at one by one; what more take is bounded together.
_MOST = 8


class Turns(NamedTuple):
    """What any number of plans take for prompts in turn; arrays are by plan.

    Attributes
    ----------
    tokens, slots, groups
        Of a request, a group and all plans.
    prompt_s
        Seconds from when a request joins to its first token at least.
    prompts_s
        Seconds by which a run of as many prompts as :data:`PROMPTS` is longer at least, on the last axis.
    token_s
        Seconds for each token at least, of all groups together while no prompt is on its way.
    waiting_s
        Seconds for which a request may be kept from joining at most.
    """

    tokens: int
    slots: int
    groups: int
    prompt_s: Floats
    prompts_s: Floats
    token_s: Floats
    waiting_s: Floats

    def between_runs_s(self, requests: int) -> Floats:
        """Seconds between runs of so many requests at least; less than none where there is room for more."""
        in_rounds = self.slots * ((self.groups - 1) * requests + 1 + self.groups)
        return np.asarray((self.tokens * requests - in_rounds) * self.token_s)

    def run_s(self, requests: int) -> Floats:
        """Seconds of a run of so many requests at least, whenever they arrive."""
        if requests == 1:
            return self.prompt_s
        return np.asarray(self.prompt_s + self.prompts_s[..., min(requests, PROMPTS[-1]) - PROMPTS[0]])


def waiting_s(goal: ServingGoal, first_s: Floats, whole_s: Floats) -> Floats:
    """Seconds for which a request may be kept from joining, by what its first token and all of them take alone."""
    left_s = np.full(np.shape(first_s), math.inf)
    for limit, alone_s in ((goal.first_token_s, first_s), (goal.latency_s, whole_s)):
        if limit is not None:
            left_s = np.minimum(left_s, limit * (1 + ROUNDING) - alone_s)
    return left_s


def least_between_prompts_s(turns: Turns) -> Floats:
    """Seconds between requests, evenly spaced, that are kept up with within the limits: no fewer; 0 if nothing follows.

    If they are kept up with, n of them take no more than n b in the long run. So for some m both ``m b >= U(m) + x(m)``
    and ``m b >= F + (m - 1) b - W + x(m)``, where U is :meth:`Turns.run_s` and x :meth:`Turns.between_runs_s`. The
    least b of the second one rises with m, unless all groups but one have room for all tokens in runs.
    """
    if turns.tokens <= turns.slots * (turns.groups - 1) or np.all(np.isinf(turns.waiting_s)):
        return np.zeros(np.shape(turns.prompt_s))
    sooner_s = turns.prompt_s - turns.waiting_s
    by_requests = [sooner_s + turns.between_runs_s(_MOST + 1)]  # and more
    for m in range(1, _MOST + 1):
        between_s = turns.between_runs_s(m)
        by_requests.append(np.maximum((turns.run_s(m) + between_s) / m, sooner_s + between_s))
    return np.asarray(np.maximum(np.min(by_requests, axis=0), 0.0))

"""What limits on every request cost a plan with slots in requests per second.

A group that goes round with many requests serves more of them, but its tokens come later, and each prompt that joins
delays all who are there. So limits bound from above how many may be in a group at once, and how many tokens are
computed together on the mean; with fewer, stages and groups are busy for longer with each request.

Groups take turns besides: each stage and each way from one stage to the next takes them in the order in which they
come, so that none overtakes another. A group that comes to a boundary while another one passes a prompt has its next
token behind that prompt, when it has gone through all stages.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dora_nb.costs.serving.service import Floats
from dora_nb.domain.serving import AT_ONCE, Joining, ServingGoal

#: A limit is broken by more than this part of it; sums in another order differ by less.
ROUNDING = 1e-9

_TINY = float(np.finfo(float).tiny)


class Least(NamedTuple):
    """What any number of plans take at least; arrays are by plan, and what is by requests has those on a last axis.

    Attributes
    ----------
    first_s
        Seconds from arrival to the first token, of j requests that join together, from 1 to the slots; the waiting for
        each other left out.
    token_s
        Seconds of a round.
    joiner_s
        Seconds that each prompt adds to a round.
    output_s
        Seconds of sending what a request has got.
    """

    first_s: Floats
    token_s: Floats
    joiner_s: Floats
    output_s: float = 0.0


class Batch(NamedTuple):
    """What any number of plans take where all slots of a group are filled at once; arrays are by plan.

    Attributes
    ----------
    first_s
        Seconds from the arrival of a batch's last request to the first token of all.
    round_s
        Seconds of a round.
    group_s
        Seconds that a group is busy with a batch at least.
    busiest_s
        Seconds that the busiest stage computes for a batch.
    output_s
        Seconds of sending what a batch has got at least.
    """

    first_s: Floats
    round_s: Floats
    group_s: Floats
    busiest_s: Floats
    output_s: float = 0.0


class Case(NamedTuple):
    """Any number of plans with as many slots, and what is asked of them.

    Attributes
    ----------
    goal, tokens
        The limits, and the tokens of every request.
    least
        What plans take.
    between_s
        Seconds between the arrivals of two requests at least, by plan.
    """

    goal: ServingGoal
    tokens: int
    least: Least
    between_s: Floats

    @property
    def slots(self) -> int:
        """Of a group."""
        return int(self.least.first_s.shape[-1])


def further_s(goal: ServingGoal, tokens: int, before_s: Floats) -> Floats:
    """Seconds that a request's further tokens may take together, if it had its first one so many after it arrived."""
    left_s = np.full(np.shape(before_s), math.inf)
    if goal.token_s is not None:
        left_s = np.minimum(left_s, (tokens - 1) * goal.token_s * (1 + ROUNDING))
    if goal.latency_s is not None:
        left_s = np.minimum(left_s, goal.latency_s * (1 + ROUNDING) - before_s)
    return left_s


def least_of_batches(
    goal: ServingGoal, tokens: int, batch: Batch, between_s: Floats, slots: int, groups: int
) -> Floats:
    """Seconds between requests at least where each group waits until its slots are filled; infinity if they cannot be.

    Every batch but the last has as many requests as there are slots. The first of them has waited at least ``(slots -
    1) between_s`` for the last, and all take part in each of ``tokens - 1`` further rounds: if that is too long at some
    rate, it is at every lower one. Stages do one thing at a time, and there are so many groups.

    Parameters
    ----------
    goal, tokens, batch, between_s
        As of a :class:`Case`.
    slots, groups
        Of every plan.
    """
    apart_s = np.maximum(between_s, np.maximum(batch.busiest_s, batch.group_s / groups) / slots)
    first_s = batch.first_s + (slots - 1) * apart_s
    allowed_s = math.inf if goal.first_token_s is None else goal.first_token_s * (1 + ROUNDING)
    possible = (tokens - 1) * batch.round_s <= further_s(goal, tokens, first_s + batch.output_s) * (1 + ROUNDING)
    return np.asarray(np.where(possible & (first_s <= allowed_s), apart_s, math.inf))


def most_at_once(case: Case, most_joining: Floats | float = math.inf) -> NDArray[np.int64]:
    """Requests that may be in a group at once where each of them keeps the limits; 0: none may.

    Take a round of a group, those of its requests that joined first, j of them together, and the one of these that
    arrived first. It waited at least ``(j - 1) between_s`` for the last of them, and has its first token no sooner than
    that and ``first_s[j]`` after it arrived. All others in the round joined while it went round for its further tokens,
    ``tokens - 1`` rounds of at least ``token_s`` each, and every one of them added at least ``joiner_s``. So there are
    at most j and as many others as what is left of the time per token, or of the latency, has room for; the largest
    sum over j bounds what may be there in any round.

    Parameters
    ----------
    case
        Plans and limits.
    most_joining
        No more requests join a group in one round.
    """
    joining, others = _joining_and_others(case, most_joining)
    return np.asarray(np.minimum(joining + others, case.slots).max(axis=-1), dtype=np.int64)


def _joining_and_others(case: Case, most_joining: Floats | float) -> tuple[Floats, Floats]:
    """Requests that join together, and as many others as have room beside them; 0 and 0 where so many may not join."""
    goal, tokens, least, between_s = case
    together, further = np.arange(1, least.first_s.shape[-1] + 1), tokens - 1
    first_s = least.first_s + (together - 1) * np.asarray(between_s)[..., None]
    left_s = further_s(goal, tokens, first_s + least.output_s) - further * np.asarray(least.token_s)[..., None]
    possible = (left_s >= 0) & (together <= np.asarray(most_joining)[..., None])
    if goal.first_token_s is not None:
        possible &= first_s <= goal.first_token_s * (1 + ROUNDING)
    added_s = np.asarray(least.joiner_s)[..., None]
    room = np.floor(np.maximum(left_s, 0.0) / np.where(added_s > 0, added_s, 1.0))
    others = np.where(added_s > 0, room, math.inf) if further else np.zeros(left_s.shape)
    return np.where(possible, together, 0.0), np.where(possible, others, 0.0)


def most_by_waiting(case: Case) -> NDArray[np.int64]:
    """The same where whoever waits joins wherever a slot is free, and inputs need not be sent; our own proof.

    As long as no group has had all its slots taken, nobody waits behind a boundary of any group. So those who join a
    group at a boundary arrived since its boundary before, or woke it, one alone. If somebody in it had a further token
    in between, that took no longer than ``further_s - (tokens - 2) token_s``, so that no more joined than arrive in
    that time, J. If not, all who were in it had joined a round earlier.

    Take the first round in which a group has all slots taken, and those in it that joined first. If these are no more
    than J, there are as many others as in :func:`most_at_once`. If they are more, others had joined a round earlier,
    and have left, as they had their last token in the round before this one; all who are there but those who join now
    joined beside them, and those who join now are no more than J, too. Either way there are no more than J and the
    most others. If that is fewer than the slots, there is no such round.
    """
    goal, tokens, least, between_s = case
    may_s = further_s(goal, tokens, least.first_s[..., 0] + least.output_s)
    longest_s = np.maximum(may_s - (tokens - 2) * least.token_s, 0.0) if tokens > 1 else np.full(may_s.shape, math.inf)
    arrive = np.floor(longest_s / np.maximum(between_s, _TINY)) + 1
    joining, others = _joining_and_others(case, arrive)
    most = np.asarray(np.minimum(joining.max(axis=-1) + others.max(axis=-1), case.slots), dtype=np.int64)
    return np.where(most < case.slots, most, most_at_once(case))


def least_between_turns_s(case: Case, passed: int) -> Floats:
    """Seconds between requests at least where whoever waits joins wherever a slot is free; our own proof.

    Let F be the seconds of a first token alone, ``least.first_s[0]``, and d those of a round, ``least.token_s``. From
    when a request arrives until it has its first token, at least F later, any group has at most p boundaries. One is
    before the request joins, if the group may have all slots taken, and none if not, as it would join there. When it
    joins, its own group has one, and the next one is behind the first token; afterwards a group has one if it was ahead
    of the prompt, and is then behind it, as groups do not overtake each other.

    Take a request, its group, and its n = tokens - 1 further rounds. Their boundaries are at least d apart, the first
    and the last at most ``L = further_s - d``. Requests arrive every b seconds. If b >= F, let m of the times [arrival,
    arrival + F) be within these L; they have at most p boundaries each, as have two more at the ends. What lies between
    the times has room for ``(b - F) / d`` boundaries and one more, in at most m + 1 places. So ``n <= (m + 1) (floor((b
    - F) / d) + 1) + p (m + 2)``; the m times lie in at most (p + 1) m of the n - 1 rounds between boundaries, and so
    ``m F + max(n - 1 - (p + 1) m, 0) d <= L``; and ``(m - 1) b + F <= L``. The bound is the least b over all m. If b <
    F, the same with times of b seconds, which leave nothing between them, is ``(n / p - 2) b <= L``.

    Parameters
    ----------
    case
        Plans and limits.
    passed
        Boundaries of a group from when a request arrives until it has its first token, at most.
    """
    goal, tokens, least, between_s = case
    points = tokens - 1
    first_s, round_s = least.first_s[..., 0], least.token_s
    longest_s = further_s(goal, tokens, first_s + least.output_s) - round_s
    if points < 2 or np.all(np.isinf(longest_s)):
        return between_s
    within = np.arange(points)  # m
    each_s = np.maximum(round_s, _TINY)[..., None]
    first, allowed = first_s[..., None], longest_s[..., None] * (1 + ROUNDING)
    places = np.ceil((points - passed * (within + 2)) / (within + 1))
    apart_s = np.maximum(between_s[..., None], first + np.maximum(places - 1, 0.0) * each_s)
    possible = within * first + np.maximum(points - 1 - (passed + 1) * within, 0) * each_s <= allowed
    possible &= (within == 0) | ((within - 1) * apart_s + first <= allowed)
    apart = np.where(possible, apart_s, math.inf).min(axis=-1)
    overlapping = (between_s < first_s) & ((points / passed - 2) * between_s <= longest_s * (1 + ROUNDING))
    return np.asarray(np.where(overlapping, between_s, apart))


def always_have_room(case: Case, groups: int) -> NDArray[np.bool_]:
    """Whether all groups together have a slot for every request that is there, so that none waits for long.

    Those that are there arrived within the longest time from arrival to the last token. Then each joins before any
    group has its second boundary after that: groups do not overtake each other, so that all have one before, and among
    them they have a free slot for each who waits.
    """
    goal, tokens, least, between_s = case
    longest_s = np.full(np.shape(between_s), math.inf)
    if goal.first_token_s is not None:
        longest_s = goal.first_token_s * (1 + ROUNDING) + further_s(goal, tokens, least.first_s[..., 0])
    if goal.latency_s is not None:
        longest_s = np.minimum(longest_s, goal.latency_s * (1 + ROUNDING) - least.output_s)
    return np.asarray(np.floor(longest_s / np.maximum(between_s, _TINY)) + 1 <= case.slots * groups)


def least_of_way(case: Case, joining: Joining | None, groups: int) -> tuple[NDArray[np.int64], Floats]:
    """Requests in a group at once, and seconds between them at least; 0 and infinity where limits are not kept.

    Parameters
    ----------
    case
        Plans and limits.
    joining
        How requests join. In waves of several they join one in each round of a group, and the first has waited for the
        last. None: in whatever way; also where inputs are sent, so that requests need not come to wait evenly spaced,
        and for static batching, which :func:`least_of_batches` knows more of.
    groups
        Of every plan.
    """
    between_s, slots = case.between_s, case.slots
    if joining is None or joining.batching == "static":
        most = most_at_once(case)
    elif joining == AT_ONCE:
        most = most_by_waiting(case)
        have_room = (most == slots) & always_have_room(case, groups)
        for passed, those in ((1, most < slots), (2, have_room)):
            if np.any(those):
                turns_s = least_between_turns_s(case._replace(between_s=between_s), passed)
                between_s = np.where(those, turns_s, between_s)
    else:
        one = case._replace(least=case.least._replace(first_s=case.least.first_s[..., :1]))
        waited_s = one.least.first_s + (joining.wave - 1) * between_s[..., None]
        possible = most_at_once(one._replace(least=one.least._replace(first_s=waited_s))) > 0
        alone, others = _joining_and_others(one, 1.0)
        most = np.where(possible, np.minimum(alone + others, slots)[..., 0], 0).astype(np.int64)
    return most, np.where(most > 0, between_s, math.inf)

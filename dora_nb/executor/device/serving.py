"""Requests that want tokens, served by the stages of a plan with slots: who comes joins at token boundaries.

The first stage decides. When a group's tokens are back, requests that have all of theirs leave their rows of the
key-value caches, and waiting ones take the free rows, or all rows once none is taken; then the group goes round again.
Every other stage learns of a round from what comes ahead of it. Each stage passes the prompts of those who have just
joined, and one token of all others together, however old they are.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dora_nb.costs.serving.rounds import Gate
from dora_nb.domain.plan import Plan
from dora_nb.domain.serving import AT_ONCE, Joining
from dora_nb.executor.device.cache import KeyValueCache
from dora_nb.executor.device.transport import Transport
from dora_nb.executor.tasks.task import Task, torch_dtype

#: Tags of what passes: who is in a round, prompts, further tokens, tokens chosen.
WHO, PROMPTS, TOKENS, CHOSEN = range(4)

#: What is sent is kept until it has left; this many rounds at most.
MOST_KEPT = 64

#: Instead of the number of requests that join: there are no more rounds.
_OVER = -1

#: Requests that have come, after so many rounds were begun.
Come = Callable[[int], int]


class Round(NamedTuple):
    """Rows of the caches that take part in a round: those of requests that have just joined, and of all others."""

    joining: tuple[int, ...]
    going: tuple[int, ...]


class ServedHere(NamedTuple):
    """What became of the requests.

    Attributes
    ----------
    tokens
        Of every request.
    first_token_s, last_token_s
        When it had these, of ``time.perf_counter``.
    rounds
        All rounds, in the order in which they began.
    """

    tokens: list[list[int]]
    first_token_s: list[float]
    last_token_s: list[float]
    rounds: list[Round]


class SlotStage:
    """One stage's part of every round.

    Parameters
    ----------
    modules
        Its layers, by index.
    caches
        Theirs, with a row for every slot of every group.
    task
        What is computed.
    """

    def __init__(self, modules: Mapping[int, nn.Module], caches: Mapping[int, KeyValueCache], task: Task) -> None:
        self._modules, self._caches, self._last = modules, caches, task.layer_count - 1
        first, last = min(modules), max(modules)
        self.is_last = last == self._last
        self._cut = None if first == 0 else task.cuts[first - 1]

    def passed(self, who: Round, prompts: Tensor | None, tokens: Tensor | None) -> list[Tensor]:
        """Run a round's prompts and tokens through the stage.

        Parameters
        ----------
        who
            Takes part.
        prompts
            (joining, tokens, ...); None where nobody has joined.
        tokens
            (going, 1, ...); None where nobody was there before.

        Returns
        -------
        what the next stage gets of both; behind the last layer the tokens chosen, ids
        """
        for cache in self._caches.values():
            cache.rows(who.joining).forget()
        left = []
        with torch.no_grad():
            for rows, entering in zip(who, (prompts, tokens), strict=True):
                if entering is not None:
                    x = entering
                    for layer, module in self._modules.items():
                        x = module(x[:, -1:] if layer == self._last else x, self._caches[layer].rows(rows))
                    left.append(x[:, -1].argmax(-1) if self.is_last else x)
        return left

    def empty(self, who: Round) -> tuple[Tensor | None, Tensor | None]:
        """Tensors for what the stage before hands over."""
        assert self._cut is not None, "the first stage has the inputs"
        dtype, shape = torch_dtype(self._cut.dtype), self._cut.shape
        prompts = torch.empty((len(who.joining), *shape), dtype=dtype) if who.joining else None
        tokens = torch.empty((len(who.going), 1, *shape[1:]), dtype=dtype) if who.going else None
        return prompts, tokens


def follow(stage: SlotStage, transport: Transport, plan: Plan, device: str) -> None:
    """Take part in every round as a stage behind the first, until there are no more.

    Parameters
    ----------
    stage
        This device's.
    transport
        To the other devices.
    plan, device
        Which of them this is.
    """
    place = plan.devices.index(device)
    before, after = plan.devices[place - 1], plan.devices[(place + 1) % len(plan.devices)]
    for number in itertools.count(1):
        head = torch.empty(2 + plan.micro_batch, dtype=torch.int64)
        transport.receive(head, before, WHO, "hand-over").wait()
        if number % MOST_KEPT == 0:
            transport.flush()
        if not stage.is_last:
            transport.send(head, after, WHO, "hand-over")
        who = _read(head)
        if who is None:
            break
        entering = stage.empty(who)
        for tag, into in ((PROMPTS, entering[0]), (TOKENS, entering[1])):
            if into is not None:
                transport.receive(into, before, tag, "hand-over").wait()
        _hand_on(stage, transport, who, stage.passed(who, *entering), after)
    transport.flush()


def lead(
    stage: SlotStage,
    transport: Transport,
    plan: Plan,
    prompts: Sequence[Tensor],
    new_tokens: int,
    come: Come,
    joining: Joining = AT_ONCE,
) -> ServedHere:
    """Serve requests as the first stage.

    Parameters
    ----------
    stage
        This device's.
    transport
        To the other devices.
    plan
        With groups of slots.
    prompts
        (tokens,) ids of every request, in the order in which they come.
    new_tokens
        That each gets.
    come
        How many of them have come.
    joining
        Who takes a slot when.
    """
    return _Lead(stage, transport, plan, prompts, new_tokens, come, joining).run()


class _Lead:
    def __init__(
        self,
        stage: SlotStage,
        transport: Transport,
        plan: Plan,
        prompts: Sequence[Tensor],
        new_tokens: int,
        come: Come,
        joining: Joining,
    ) -> None:
        self.stage, self.transport, self.plan = stage, transport, plan
        self.gate = Gate(joining, plan.micro_batch)
        self.prompts, self.new_tokens, self.come = prompts, new_tokens, come
        self.members: list[dict[int, int]] = [{} for _ in range(plan.token_groups)]  # request by row
        self.under_way: deque[tuple[int, Round, Tensor | None]] = deque()
        self.joined = 0
        count = len(prompts)
        self.served = ServedHere([[] for _ in range(count)], [0.0] * count, [0.0] * count, [])

    def run(self) -> ServedHere:
        """Until all have their tokens."""
        while self.under_way or self.joined < len(self.prompts):
            for group, members in enumerate(self.members):
                if not members:  # nobody of it is under way either
                    self._begin(group)
            if self.under_way:
                group, who, chosen = self.under_way.popleft()
                self._have_tokens(group, who, self._returned(who, chosen))
                if self.members[group]:
                    self._begin(group)
            else:
                time.sleep(1e-4)
        if not self.stage.is_last:
            over = torch.full((2 + self.plan.micro_batch,), _OVER)
            self.transport.send(over, self.plan.devices[1], WHO, "hand-over")
        self.transport.flush()
        return self.served

    def _begin(self, group: int) -> None:
        """At a boundary who waits joins; the group goes round if there is anybody in it."""
        slots, members = self.plan.micro_batch, self.members[group]
        rows = range(group * slots, (group + 1) * slots)
        going = tuple(members)
        free = tuple(row for row in rows if row not in members)
        joining = free[: self._let_in(len(free))]
        if not going and not joining:
            return
        for row in joining:
            members[row] = self.joined
            self.joined += 1
        who = Round(joining, going)
        self.served.rounds.append(who)
        if len(self.served.rounds) % MOST_KEPT == 0:
            self.transport.flush()
        prompts = torch.stack([self.prompts[members[row]] for row in joining]) if joining else None
        last = [self.served.tokens[members[row]][-1] for row in going]
        left = self.stage.passed(who, prompts, torch.tensor(last)[:, None] if going else None)
        if self.stage.is_last:
            self.under_way.append((group, who, torch.cat(left)))
            return
        self.transport.send(_head(who, slots), self.plan.devices[1], WHO, "hand-over")
        _hand_on(self.stage, self.transport, who, left, self.plan.devices[1])
        self.under_way.append((group, who, None))

    def _let_in(self, here: int) -> int:
        """How many requests join a group now that has so many slots free."""
        come = min(self.come(len(self.served.rounds)), len(self.prompts))
        free = self.plan.micro_batch * self.plan.token_groups - sum(map(len, self.members))
        return self.gate.let_in(here, come - self.joined, free, come < len(self.prompts))

    def _returned(self, who: Round, chosen: Tensor | None) -> Tensor:
        """Tokens chosen for all of a round."""
        if chosen is None:
            chosen = torch.empty(len(who.joining) + len(who.going), dtype=torch.int64)
            self.transport.receive(chosen, self.plan.devices[-1], CHOSEN, "hand-over").wait()
        return chosen

    def _have_tokens(self, group: int, who: Round, chosen: Tensor) -> None:
        """Everybody has one token more; who has all of them leaves."""
        now_s, members = time.perf_counter(), self.members[group]
        for row, token in zip((*who.joining, *who.going), chosen.tolist(), strict=True):
            request = members[row]
            own = self.served.tokens[request]
            own.append(token)
            if len(own) == 1:
                self.served.first_token_s[request] = now_s
            if len(own) == self.new_tokens:
                self.served.last_token_s[request] = now_s
                del members[row]


def _hand_on(stage: SlotStage, transport: Transport, who: Round, left: Sequence[Tensor], after: str) -> None:
    """Send what a stage gives: the tokens chosen to the first one, else to the next."""
    if stage.is_last:
        transport.send(torch.cat(list(left)), after, CHOSEN, "hand-over")
        return
    tags = [PROMPTS] * bool(who.joining) + [TOKENS] * bool(who.going)
    for tag, each in zip(tags, left, strict=True):
        transport.send(each, after, tag, "hand-over")


def _head(who: Round, slots: int) -> Tensor:
    """Who is in a round, as numbers: how many join, how many go on, their rows."""
    rows = (*who.joining, *who.going)
    return torch.tensor([len(who.joining), len(who.going), *rows, *(0 for _ in range(slots - len(rows)))])


def _read(head: Tensor) -> Round | None:
    """The reverse; None: there are no more rounds."""
    joining, going, *rows = head.tolist()
    if joining == _OVER:
        return None
    return Round(tuple(rows[:joining]), tuple(rows[joining : joining + going]))

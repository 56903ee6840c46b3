"""What a largest rate needs to be known of chains: rows of what is taken, and the bound that follows from them."""

from __future__ import annotations

import numpy as np

from dora_nb.costs.serving.limits import Batch, Case, Least, least_of_batches, least_of_way
from dora_nb.costs.serving.service import Floats, Hop, least_s, least_share_s
from dora_nb.costs.serving.turns import PROMPTS, Turns, least_between_prompts_s, waiting_s
from dora_nb.domain.serving import Joining, ServingGoal
from dora_nb.domain.workload import Workload

#: What a prompt is passed in, a token of a group and of the busiest stage while there are no prompts, and what the
#: busiest stage adds to several prompts.
_OF_TURNS = 3 + len(PROMPTS)

#: Of a batch that fills a group: its first token, a round, all that the group is busy with, and the busiest stage.
_OF_BATCH = 4


class Rates:
    """Rows of what is taken, by plan; of other objectives there are none.

    First, where limits bound how many requests are in a group, the seconds between requests by what is busiest if at
    most one, two, ... are: one group, or of several the stages and media. Then, where a limit keeps requests from
    waiting, those of prompts in turn; last, where batches are static, those of a batch.

    Parameters
    ----------
    goal
        Objective and limits.
    workload
        One request.
    slots, groups
        Of every plan.
    ways
        In which requests may join; None stands for any.
    """

    def __init__(
        self, goal: ServingGoal, workload: Workload, slots: int, groups: int, ways: tuple[Joining | None, ...]
    ) -> None:
        self._goal, self._workload, self._slots, self._groups, self._ways = goal, workload, slots, groups, ways
        is_rate, keeps_waiting = goal.objective == "rate", (goal.first_token_s, goal.latency_s) != (None, None)
        self._is_limited = is_rate and (keeps_waiting or goal.token_s is not None)
        self._takes_turns = is_rate and keeps_waiting
        are_static = [way is not None and way.batching == "static" for way in ways]
        self._fills_groups, self.must_fill_groups = is_rate and any(are_static), is_rate and all(are_static)
        self._at_most = range(1, slots + 1) if self._is_limited else range(0)
        self._turns = slice(len(self._at_most), len(self._at_most) + _OF_TURNS * self._takes_turns)
        self.count = self._turns.stop + _OF_BATCH * self._fills_groups

    def of_hop(self, hop: Hop) -> list[float]:
        """What a hand-over takes."""
        further, slots = self._workload.decode_steps, self._slots
        held_s = hop.size_bytes(1, further) * hop.slowest_s_per_byte
        taken = [held_s + further * hop.latency_s / each * (self._groups == 1) for each in self._at_most]
        if self._takes_turns:
            taken += [hop.alone_s(1, 0), hop.least_token_s(slots), 0.0, *(0.0 for _ in PROMPTS)]
        if self._fills_groups:
            joined_s, round_s = hop.alone_s(slots, 0), hop.alone_s(0, slots) if further else 0.0
            taken += [joined_s, round_s, joined_s + further * round_s, 0.0]
        return taken

    def of_input(self, sent_s: float) -> list[float]:
        """What sending a request's input takes, which no group waits for; nothing if it is an output."""
        taken = [0.0] * self.count
        if self._fills_groups:
            taken[-_OF_BATCH] = sent_s
        return taken

    def of_stages(self, prompt_s: Floats, token_s: Floats) -> list[Floats]:
        """What stages take, from seconds of prompts and further tokens by how many there are, on the last axis."""
        further = self._workload.decode_steps
        at_most = [slice(0, each + 1) for each in self._at_most]
        taken = [least_share_s(prompt_s[..., n]) + further * least_share_s(token_s[..., n]) for n in at_most]
        if self._takes_turns:
            first_s, share_s, each_s = least_s(prompt_s), least_share_s(prompt_s), least_share_s(token_s)
            taken += [first_s, each_s, each_s, *(np.maximum(each * share_s - first_s, 0.0) for each in PROMPTS)]
        if self._fills_groups:
            joined_s, round_s = prompt_s[..., self._slots], token_s[..., self._slots]
            taken += [joined_s, round_s, joined_s + further * round_s, joined_s + further * round_s]
        return taken

    def join(self, both: Floats, one: Floats, other: Floats) -> None:
        """Let the rows of the busiest be the larger of two instead of their sum."""
        busiest = [slice(0, len(self._at_most))] * (self._groups > 1)
        busiest += [slice(self._turns.start + 2, self._turns.stop)] * self._takes_turns
        busiest += [slice(self.count - 1, self.count)] * self._fills_groups
        for rows in busiest:
            both[rows] = np.maximum(one[rows], other[rows])

    def least_between_s(self, rows: Floats, least: Least, whole_s: Floats, between_s: Floats) -> Floats:
        """Seconds between requests at least, however they join; infinite where that breaks a limit.

        Parameters
        ----------
        rows
            Those of whole plans.
        least
            What they take; of the first token, with its last axis, for one request alone.
        whole_s
            From arrival to the last token at least.
        between_s
            Seconds between requests that are known without.
        """
        if self._takes_turns:
            prompt_s, token_s, busiest_s, *prompts_s = rows[self._turns]
            turns = Turns(
                tokens=self._workload.new_tokens,
                slots=self._slots,
                groups=self._groups,
                prompt_s=prompt_s,
                prompts_s=np.stack(prompts_s, axis=-1),
                token_s=np.maximum(token_s / self._groups, busiest_s),
                waiting_s=waiting_s(self._goal, least.first_s[..., 0], whole_s),
            )
            between_s = np.maximum(between_s, least_between_prompts_s(turns))
        each_s = [self._of_way(rows, least, between_s, way) for way in self._ways]
        return np.asarray(np.min(each_s, axis=0))

    def _of_way(self, rows: Floats, least: Least, between_s: Floats, way: Joining | None) -> Floats:
        tokens = self._workload.new_tokens
        if way is not None and way.batching == "static":
            batch = Batch(*rows[-_OF_BATCH:])
            return least_of_batches(self._goal, tokens, batch, between_s, self._slots, self._groups)
        if not self._is_limited:
            return between_s
        first_s = np.maximum(least.first_s, least.joiner_s[..., None] * np.array(self._at_most))
        case = Case(self._goal, tokens, least._replace(first_s=first_s), between_s)
        is_sent = self._workload.source is not None and self._workload.input_bytes > 0
        most, apart_s = least_of_way(case, None if is_sent else way, self._groups)
        busiest_s = rows[np.maximum(most, 1) - 1, np.arange(len(most))]
        return np.asarray(np.maximum(apart_s, np.maximum(between_s, busiest_s)))

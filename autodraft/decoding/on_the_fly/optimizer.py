"""`DraftOptimizer`: keeps the best draft found so far, and challenges it with one candidate per step.

Knows nothing of drafting or of how much time there is. A candidate is scored by the speedup that theory predicts from
its matchness on the most recent window and from its cost (not by matchness alone, as in SWIFT). The incumbent is scored
again whenever the window has moved on, and always before a challenger may take its place, so that a change of domain
lowers the bar instead of leaving it where the last domain put it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autodraft.decoding.drafters import DraftContext
from autodraft.decoding.on_the_fly.costs import OnlineCosts
from autodraft.decoding.on_the_fly.matchness import Matchness, Window, measure_matchness
from autodraft.decoding.on_the_fly.proposals import Proposals
from autodraft.decoding.on_the_fly.recent_noise import RecentNoise
from autodraft.decoding.on_the_fly.settings import OnTheFlySettings
from autodraft.policy import DraftPolicy
from autodraft.runtime import TransformerRuntime

LEAST_WINDOW = 8
"""Generated tokens below which nothing can be judged."""


@dataclass(frozen=True)
class Score:
    """What a draft promises on one window; all figures predicted.

    Attributes:
        speedup: tau / (n * c + v) at the best longest draft.
        num_draft_tokens: that longest draft.
        top1_agreement: its matchness.
        cost: c at the time of scoring.
    """

    speedup: float
    num_draft_tokens: int
    top1_agreement: float
    cost: float


def predicted_score(
    matchness: Matchness, cost: float, verify_costs: Sequence[float], settings: OnTheFlySettings
) -> Score:
    """The best longest draft and its speedup, with SWIFT's confidence stop.

    Args:
        matchness: of the draft.
        cost: c.
        verify_costs: v of 1, 2, .. `settings.max_draft_tokens` + 1 tokens.
        settings: longest draft and stop threshold.
    """
    taus, drafted = matchness.chains(settings.max_draft_tokens, settings.stop_threshold)
    verify = np.interp(drafted + 1.0, np.arange(1, len(verify_costs) + 1), verify_costs)
    speedups = taus / (drafted * cost + verify)
    best = int(speedups.argmax())
    return Score(float(speedups[best]), best + 1, matchness.top1_agreement, cost)


class DraftOptimizer:
    """The incumbent and its challengers.

    Args:
        runtime: the target.
        settings: window, patience, when a loss counts as a shift.
        proposals: where challengers come from.
        costs: c and v; kept up to date by the owner.
        noise: of the latest tokens, `settings.window` of them; kept up to date by the owner.
        start_policy: the first incumbent.

    Attributes:
        incumbent: the best policy so far.
        score: its score on the window that it was last judged on; None before that.
        steps: candidates judged.
        shifts: times that the incumbent's matchness fell by more than `settings.shift_drop`.
    """

    def __init__(
        self,
        runtime: TransformerRuntime,
        settings: OnTheFlySettings,
        proposals: Proposals,
        costs: OnlineCosts,
        noise: RecentNoise,
        start_policy: DraftPolicy,
    ) -> None:
        self._runtime, self._settings, self._proposals, self._costs = runtime, settings, proposals, costs
        self._noise = noise
        self.incumbent = start_policy
        self.score: Score | None = None
        self.steps = 0
        self.shifts = 0
        self._window: Window | None = None  # of `score`
        self._steps_since_shift = 0
        self._failures = 0
        self._interval = 1
        self._next_cycle = 0
        self._sequence = 0
        self._prompt_length = 0

    def start(self, prompt_length: int) -> None:
        """A new sequence: the incumbent stays, its score is no longer current; a pause goes on."""
        self._sequence += 1
        self._prompt_length = prompt_length
        if self.pays:
            self._next_cycle = 0

    @property
    def is_warming_up(self) -> bool:
        """Whether few candidates have been judged since the beginning or the last shift."""
        return self._steps_since_shift < self._settings.warm_steps

    @property
    def pays(self) -> bool:
        """Whether the incumbent promises to be faster than plain decoding."""
        return self.score is not None and self.score.speedup > 1.0

    def suspect_shift(self) -> None:
        """Drafting went far worse than the score promised: look at the incumbent again soon."""
        self._window = None
        self._next_cycle = 0

    def is_due(self, context: DraftContext, cycle: int) -> bool:
        """Whether a step makes sense in this cycle: not too soon, something to judge on, room to do it in."""
        if cycle < self._next_cycle:
            return False
        room = context.cache.capacity - context.cache.length
        return LEAST_WINDOW <= len(self._recent(context)) <= room

    def expected_s(self, context: DraftContext, cycle: int) -> float:
        """Seconds that a step may take: proposing, and judging two policies."""
        rows = 2 * len(self._recent(context)) + self._proposals.rows_ahead(cycle)
        return self._costs.expected_s(rows)

    def step(self, context: DraftContext, cycle: int) -> None:
        """Judge one challenger on the most recent window; the winner is the incumbent."""
        self._costs.set_context(len(context.tokens))
        window = self._recent(context)
        if self._is_stale(window):
            self._judge_incumbent(context, window)
        challenger = self._proposals.ask(context, cycle)
        if challenger == self.incumbent and self.score is not None:
            self._proposals.tell(self.incumbent, math.log(self.score.speedup))
        elif challenger is not None:
            self._challenge(context, window, challenger)
        self._next_cycle = cycle + self._interval

    def _challenge(self, context: DraftContext, window: Window, challenger: DraftPolicy) -> None:
        score = self._judge(context, window, challenger)
        self._count(challenger, score)
        assert self.score is not None
        if score.speedup > self.score.speedup and self._window != window:
            self._judge_incumbent(context, window)
        if score.speedup > self.score.speedup:
            self.incumbent, self.score, self._window = challenger, score, window
            if self.pays:  # the less slow of two that are too slow is no reason to hurry
                self._hurry()
                return
        self._failures += 1
        if self._failures % self._settings.patience == 0:
            longest = self._settings.max_interval if self.pays else self._settings.max_pause
            self._interval = min(2 * self._interval, longest)

    def _hurry(self) -> None:
        self._failures, self._interval = 0, 1

    def _judge_incumbent(self, context: DraftContext, window: Window) -> None:
        before, paid = self.score, self.pays
        self.score, self._window = self._judge(context, window, self.incumbent), window
        if self.pays and not paid:
            self._hurry()
        self._proposals.tell(self.incumbent, math.log(self.score.speedup))
        # Not by the speedup: that also falls when the machine gets busy.
        least = (1 - self._settings.shift_drop) * before.top1_agreement if before is not None else 0.0
        if self.score.top1_agreement < least:
            self._restart()

    def _restart(self) -> None:
        self.shifts += 1
        self._proposals.restart()
        self._steps_since_shift = 0
        self._hurry()

    def _count(self, policy: DraftPolicy, score: Score) -> None:
        self.steps += 1
        self._steps_since_shift += 1
        self._proposals.tell(policy, math.log(score.speedup))

    def _judge(self, context: DraftContext, window: Window, policy: DraftPolicy) -> Score:
        plan = self._runtime.plan(policy)
        tokens, stretch = context.tokens, self._settings.stretch
        noise = self._noise.last(len(window))
        matchness = measure_matchness(self._runtime, plan, context.cache, tokens, window, stretch, noise)
        verify_costs = [self._costs.verify_cost(rows) for rows in range(1, self._settings.max_draft_tokens + 2)]
        return predicted_score(matchness, self._costs.cost(policy), verify_costs, self._settings)

    def _recent(self, context: DraftContext) -> Window:
        return Window.recent(self._sequence, context.tokens, self._prompt_length, self._settings.window)

    def _is_stale(self, window: Window) -> bool:
        """Whether less than half of `window` was seen when the incumbent was judged."""
        seen = self._window
        return seen is None or seen.sequence != window.sequence or 2 * (window.last - seen.last) > len(window)

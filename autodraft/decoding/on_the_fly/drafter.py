"""`OnTheFlyDrafter`: a self-draft that needs no profile, because it looks for its policy while decoding.

Knows nothing of verification. Drafting is SWIFT's (arXiv 2410.06916): a chain that stops after the first unsure token.
Between cycles, within a bounded share of the decoding time, `DraftOptimizer` judges one more candidate. What was found
outlives the sequence; no candidate, however bad, can change the output.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autodraft.cascade import Cascade, SelfDraft
from autodraft.decoding.drafters import DraftContext, Outcome
from autodraft.decoding.on_the_fly.budget import TimeBudget
from autodraft.decoding.on_the_fly.costs import OnlineCosts
from autodraft.decoding.on_the_fly.hidden_states import KnapsackProposals
from autodraft.decoding.on_the_fly.live import LiveFigures
from autodraft.decoding.on_the_fly.optimizer import DraftOptimizer, Score
from autodraft.decoding.on_the_fly.proposals import Proposals, SwiftProposals, every_second_block
from autodraft.decoding.on_the_fly.settings import OnTheFlySettings
from autodraft.decoding.tree import TokenTree
from autodraft.policy import DraftPolicy
from autodraft.runtime import ChainStop, TransformerRuntime

_TIMED_CYCLES = 4
"""First cycles without a draft, in which the target's step is timed."""

_UNJUDGED_DRAFT_TOKENS = 4
_SHIFT_CYCLES = 32
_LARGEST_OVERRUN = 4.0


@dataclass(frozen=True)
class Found:
    """The best draft so far.

    Attributes:
        cascade: it alone, with the settings that it was run with: what a profile stores.
        alpha: measured acceptance of recent cycles; None where it has not drafted.
        cost: c, measured if it has drafted, else estimated from bytes.
        score: what the last window promised (predicted); None where it was never judged.
        measured_speedup: tokens per target step of time in recent cycles, looking for drafts not counted; None until it
            has drafted for some cycles.
        steps: candidates judged.
        time_share: share of the decoding time that looking took.
    """

    cascade: Cascade
    alpha: float | None
    cost: float
    score: Score | None
    measured_speedup: float | None
    steps: int
    time_share: float


class OnTheFlyDrafter:
    """Drafts with the best policy found so far and goes on looking; see `Drafter` for the contract.

    Args:
        runtime: the target.
        settings: mode, window, share of time.
        start_policy: where to start, such as a policy found earlier; SWIFT's every second block if None.
        clock: seconds; the wall clock unless a test brings its own.

    Attributes:
        model_s: seconds of drafting; looking for drafts is the decoder's `scheduling_s`.
        optimizer: the best policy so far, and how it is challenged.
        budget: what looking may cost and has cost.
    """

    num_drafts = 1

    def __init__(
        self,
        runtime: TransformerRuntime,
        settings: OnTheFlySettings | None = None,
        *,
        start_policy: DraftPolicy | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.settings = settings = settings or OnTheFlySettings()
        self._runtime, self._clock = runtime, clock
        self._costs = OnlineCosts(runtime)
        self._bits = settings.bits or runtime.available_bits
        start = start_policy or every_second_block(runtime.spec.num_blocks, max(self._bits))
        # Packing weights takes as long as many tokens: it belongs to loading, not to the first steps.
        for policy in (start, *(DraftPolicy.uniform(runtime.spec.num_blocks, bits) for bits in self._bits)):
            runtime.plan(policy)
        self.optimizer = DraftOptimizer(runtime, settings, self._proposals(), self._costs, start)
        self.budget = TimeBudget(settings.warm_time_share, clock)
        self._live = LiveFigures()
        self.model_s = 0.0
        self._cycle = 0
        self._overrun = 1.0  # time of recent steps over the time that was expected
        self._draft_s = 0.0  # of this cycle's chain
        self._shift_checked = 0

    def _proposals(self) -> Proposals:
        settings, runtime = self.settings, self._runtime
        if settings.mode == "knapsack":
            return KnapsackProposals(runtime, self._costs, settings)
        return SwiftProposals(runtime.spec.num_blocks, self._bits, settings.bayes_interval, settings.seed)

    def start(self, tokens: Sequence[int]) -> None:
        self.optimizer.start(len(tokens))
        self.budget.resume()

    def propose(self, context: DraftContext) -> TokenTree | None:
        self.budget.tick()
        self._optimize(context)
        score = self.optimizer.score
        predicted = None if score is None else score.speedup
        if self._cycle < _TIMED_CYCLES or not self._live.should_draft(self._cycle, self._costs.target_s, predicted):
            return None
        longest = _UNJUDGED_DRAFT_TOKENS if score is None else score.num_draft_tokens
        return self._chain(context, min(longest, context.max_depth))

    def observe(self, outcome: Outcome) -> None:
        self._costs.note_verify(len(outcome.tree), outcome.verify_s)
        if outcome.tree.num_drafted:
            seconds = self._draft_s + outcome.verify_s
            self._live.note(outcome.tree.num_drafted, len(outcome.path) - 1, seconds)
            self._look_for_a_shift()
        self._cycle += 1
        self.budget.tick()

    def found(self) -> Found:
        """The best draft so far and what is known of it."""
        policy, score = self.optimizer.incumbent, self.optimizer.score
        longest = _UNJUDGED_DRAFT_TOKENS if score is None else score.num_draft_tokens
        draft = SelfDraft(policy=policy, num_draft_tokens=longest, stop_threshold=self.settings.stop_threshold)
        return Found(
            Cascade(drafts=(draft,)),
            self._live.alpha,
            self._costs.cost(policy),
            score,
            self._live.speedup(self._costs.target_s),
            self.optimizer.steps,
            self.budget.spent_share,
        )

    def _optimize(self, context: DraftContext) -> None:
        """One step, if it is due and paid for."""
        optimizer, budget, settings = self.optimizer, self.budget, self.settings
        budget.share = settings.warm_time_share if optimizer.is_warming_up else settings.time_share
        if not self._costs.target_s or not optimizer.is_due(context, self._cycle):
            return
        expected_s = optimizer.expected_s(context, self._cycle)
        if not budget.allows(expected_s * self._overrun):
            return
        incumbent, spent_s = optimizer.incumbent, budget.spent_s
        with budget.spending():
            optimizer.step(context, self._cycle)
        overrun = (budget.spent_s - spent_s) / expected_s
        self._overrun = min(max((self._overrun + overrun) / 2, 1.0), _LARGEST_OVERRUN)
        if optimizer.incumbent != incumbent:
            self._live.replaced()

    def _chain(self, context: DraftContext, num_tokens: int) -> TokenTree:
        policy, token = self.optimizer.incumbent, context.tokens[-1]
        started = self._clock()
        drafted = self._runtime.draft_chain(
            self._runtime.plan(policy),
            context.cache,
            [token],
            num_tokens,
            stop=ChainStop(self.settings.stop_threshold),
            noise=context.noise(0, num_tokens),
        )
        self._draft_s = self._clock() - started
        self.model_s += self._draft_s
        self._costs.note_chain(policy, len(drafted), self._draft_s)
        return TokenTree.chain(token, [candidates.tokens[0] for candidates in drafted])

    def _look_for_a_shift(self) -> None:
        """Have the draft judged again where cycles show far less than its score promised."""
        score, speedup = self.optimizer.score, self._live.speedup(self._costs.target_s)
        if score is None or speedup is None or self._cycle < self._shift_checked + _SHIFT_CYCLES:
            return
        if speedup < (1 - self.settings.shift_drop) * score.speedup:
            self._shift_checked = self._cycle
            self.optimizer.suspect_shift()

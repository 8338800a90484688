"""`OnTheFlyDrafter`: a self-draft that needs no profile, because it looks for its policy while decoding.

Knows nothing of verification. Drafting is SWIFT's (arXiv 2410.06916): a chain that stops after the first unsure token.
Between cycles, within a bounded share of the decoding time, `DraftOptimizer` judges one more candidate. What tries of
a draft and looks at others may lose is bounded by a `Stake` each, so that decoding is hardly slower than plain decoding
where nothing pays. What was found outlives the sequence; no candidate, however bad, can change the output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autodraft.cascade import Cascade, SelfDraft
from autodraft.decoding.drafters import DraftContext, Drafter, Outcome
from autodraft.decoding.on_the_fly.budget import TimeBudget
from autodraft.decoding.on_the_fly.costs import OnlineCosts
from autodraft.decoding.on_the_fly.hidden_states import KnapsackProposals
from autodraft.decoding.on_the_fly.live import LiveFigures
from autodraft.decoding.on_the_fly.optimizer import DraftOptimizer, Score
from autodraft.decoding.on_the_fly.proposals import Proposals, SwiftProposals, first_draft
from autodraft.decoding.on_the_fly.recent_noise import RecentNoise
from autodraft.decoding.on_the_fly.settings import OnTheFlySettings
from autodraft.decoding.plain_time import PlainTime
from autodraft.decoding.stake import Stake
from autodraft.decoding.step_times import LARGEST_JUMP
from autodraft.decoding.tree import TokenTree
from autodraft.policy import DraftPolicy
from autodraft.runtime import ChainStop, ChoiceNoise, TransformerRuntime

_UNJUDGED_DRAFT_TOKENS = 4
_SHIFT_CYCLES = 32
_LARGEST_OVERRUN = 8.0
_LOOKS_SHARE = 0.5
_FIRST_SOLVING_OVERRUN = 4.0
_ASLEEP_CYCLES, _LONGEST_ASLEEP = 32, 128
"""Tokens decoded without a thought after a cycle in which nothing was done, twice as many after each in a row: a cycle
costs time too, and pushes weights out of the processor's caches."""


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


class OnTheFlyDrafter(Drafter):
    """Drafts with the best policy found so far and goes on looking; see `Drafter` for the contract.

    Args:
        runtime: the target.
        settings: mode, window, share of time.
        start_policy: where to start, such as a policy found earlier; `first_draft` if None.
        clock: seconds; the wall clock unless a test brings its own.

    Attributes:
        model_s: seconds of drafting; looking for drafts is the decoder's `scheduling_s`.
        optimizer: the best policy so far, and how it is challenged.
        budget: what looking may cost and has cost.
        tries, looks: what drafting, and looking for drafts, may still lose against plain decoding.
    """

    num_drafts = 1

    def __init__(
        self,
        runtime: TransformerRuntime,
        settings: OnTheFlySettings | None = None,
        *,
        start_policy: DraftPolicy | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.settings = settings = settings or OnTheFlySettings()
        self._runtime, self._clock = runtime, clock or runtime.clock
        self._costs = OnlineCosts(runtime)
        self._bits = settings.bits or runtime.available_bits
        start = start_policy or first_draft(runtime.spec.num_blocks, self._bits)
        # Packing weights takes as long as many tokens: it belongs to loading, not to the first steps.
        for policy in (start, *(DraftPolicy.uniform(runtime.spec.num_blocks, bits) for bits in self._bits)):
            runtime.plan(policy)
        self._proposals = self._make_proposals()
        self._noise = RecentNoise(settings.window)
        self.optimizer = DraftOptimizer(runtime, settings, self._proposals, self._costs, self._noise, start)
        self.budget = TimeBudget(settings.warm_time_share, self._clock)
        self.tries, self.looks = Stake(settings.most_lost / 2), Stake(settings.most_lost / 2)
        self._live = LiveFigures()
        self._plain = PlainTime(runtime.target.weight_bytes)
        self._model_s = 0.0
        self._cycle = 0
        # Time of recent steps over the time that was expected, without and with a run of the dynamic programme.
        self._overrun = {False: 1.0, True: _FIRST_SOLVING_OVERRUN}
        self._asleep_until, self._asleep_cycles = 0, _ASLEEP_CYCLES
        self._is_timed_alone = self._is_after_look = False
        self._is_try = True  # of a draft that is not known to pay
        self._accounted = 0  # cycles that the stakes know of
        self._chain_started = 0.0
        self._shift_checked = 0

    def _make_proposals(self) -> Proposals:
        settings, runtime = self.settings, self._runtime
        if settings.mode == "knapsack":
            return KnapsackProposals(runtime, self._costs, settings)
        return SwiftProposals(runtime.spec.num_blocks, self._bits, settings.bayes_interval, settings.seed)

    @property
    def model_s(self) -> float:
        return self._model_s

    @property
    def idle_tokens(self) -> int:
        return self._plain.together(max(self._asleep_until - self._cycle, self._plain.wanted))

    def start(self, tokens: Sequence[int]) -> None:
        self.optimizer.start(len(tokens))
        self.budget.pause()
        self._noise.start()

    def propose(self, context: DraftContext) -> TokenTree | None:
        tree = self._propose(context)
        self._noise.expect(context.noise(0, len(tree) if tree is not None else 1))
        return tree

    def _propose(self, context: DraftContext) -> TokenTree | None:
        if self.idle_tokens:
            return None
        self.budget.tick()
        self._account_plain_cycles()
        looked = self._optimize(context)
        if not self._should_draft():
            if not looked:
                self._asleep_until = self._cycle + self._asleep_cycles
                self._asleep_cycles = min(2 * self._asleep_cycles, _LONGEST_ASLEEP)
            return None
        self._asleep_cycles = _ASLEEP_CYCLES
        score = self.optimizer.score
        longest = _UNJUDGED_DRAFT_TOKENS if score is None else score.num_draft_tokens
        return self._chain(context, min(longest, context.max_depth))

    def _should_draft(self) -> bool:
        """Whether the draft is seen to pay, or a try of it is due and paid for."""
        live, score = self._live, self.optimizer.score
        if live.is_paused(self._cycle):
            return False
        if not live.should_draft(self._cycle, self._plain_s, None if score is None else score.speedup):
            return False
        self._is_try = live.speedup(self._plain_s) is None
        return not self._is_try or self.tries.affords(0.0)

    def observe(self, outcome: Outcome) -> None:
        self._noise.commit(len(outcome.path))
        # Plain decoding is timed where it is as fast as it gets: in `observe_alone`, unless the decoder cannot do that.
        if outcome.tree.num_drafted or not self._is_timed_alone:
            self._costs.note_verify(len(outcome.tree), outcome.verify_s)
        if not outcome.tree.num_drafted and (self._plain.wanted or not self._is_timed_alone):
            self._plain.record(1, outcome.verify_s)
        if outcome.tree.num_drafted:
            self._accounted += 1
            seconds = self._clock() - self._chain_started
            self._live.note(outcome.tree.num_drafted, len(outcome.path) - 1, seconds)
            self._account(len(outcome.path), seconds / self._plain_s, 0.0 if self._is_try else _LOOKS_SHARE)
            self._look_for_a_shift()
            self._plain.record_cycle(len(outcome.path), seconds)
            self._is_after_look = False
        self._cycle += 1
        self.budget.tick()

    def observe_alone(self, tokens: Sequence[int], seconds: float, noise: ChoiceNoise | None) -> None:
        self._noise.expect(noise)
        self._noise.commit(len(tokens))
        if self._plain.record(len(tokens), seconds):
            self._costs.note_verify(1, seconds / len(tokens), len(tokens))
            self._is_timed_alone, self._is_after_look = True, False
        elif self._is_after_look and self._plain.token_s:  # looking pays for what it makes the tokens after it take
            steps = min(seconds / self._plain.token_s, LARGEST_JUMP * len(tokens))
            self.looks.account(0.0, max(steps - len(tokens), 0.0))
        self._cycle += len(tokens)
        self.budget.tick()

    @property
    def _plain_s(self) -> float:
        """Seconds of a token of plain decoding; 0 before any was timed."""
        return self._plain.token_s or self._costs.target_s

    def _account_plain_cycles(self) -> None:
        """Those since the last account; counted, not timed, for they cost nothing beyond themselves."""
        cycles, self._accounted = self._cycle - self._accounted, self._cycle
        self._account(cycles, cycles)

    def _account(self, plain: float, spent: float, looks_share: float = 0.0) -> None:
        """Cycles for which plain decoding takes `plain` steps took `spent`; looking may spend a share of the gain."""
        self.tries.account(plain, spent)
        self.looks.account(plain, plain - looks_share * (plain - spent))

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
            self._live.speedup(self._plain_s),
            self.optimizer.steps,
            self.budget.spent_share,
        )

    def _optimize(self, context: DraftContext) -> bool:
        """One step, if it is due and paid for; whether there was one."""
        optimizer, budget, settings = self.optimizer, self.budget, self.settings
        budget.share = settings.warm_time_share if optimizer.is_warming_up else settings.time_share
        if not optimizer.is_due(context, self._cycle):
            return False
        solves = self._proposals.rows_ahead(self._cycle) > 0
        plain_s, expected_s = self._plain_s, optimizer.expected_s(context, self._cycle)
        likely_s = expected_s * self._overrun[solves]
        if not (plain_s and budget.allows(likely_s) and self.looks.affords(likely_s / plain_s)):
            return False
        incumbent, before_s = optimizer.incumbent, budget.spent_s
        with budget.spending():
            optimizer.step(context, self._cycle)
        spent_s = budget.spent_s - before_s
        self.looks.account(0.0, spent_s / plain_s)
        self._plain.interrupt()
        self._is_after_look = True
        overrun = (self._overrun[solves] + spent_s / expected_s) / 2
        self._overrun[solves] = min(max(overrun, 1.0), _LARGEST_OVERRUN)
        if optimizer.incumbent != incumbent:
            self._live.replaced()
        return True

    def _chain(self, context: DraftContext, num_tokens: int) -> TokenTree:
        policy, token = self.optimizer.incumbent, context.tokens[-1]
        started = self._chain_started = self._clock()
        drafted = self._runtime.draft_chain(
            self._runtime.plan(policy),
            context.cache,
            [token],
            num_tokens,
            stop=ChainStop(self.settings.stop_threshold),
            noise=context.noise(0, num_tokens),
        )
        draft_s = self._clock() - started
        self._model_s += draft_s
        self._costs.note_chain(policy, len(drafted), draft_s)
        return TokenTree.chain(token, [candidates.tokens[0] for candidates in drafted])

    def _look_for_a_shift(self) -> None:
        """Have the draft judged again where cycles show far less than its score promised."""
        score, speedup = self.optimizer.score, self._live.speedup(self._plain_s)
        if score is None or speedup is None or self._cycle < self._shift_checked + _SHIFT_CYCLES:
            return
        if speedup < (1 - self.settings.shift_drop) * score.speedup:
            self._shift_checked = self._cycle
            self.optimizer.suspect_shift()

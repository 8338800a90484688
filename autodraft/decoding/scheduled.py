"""`ScheduledDrafter`: the drafts and the scheduler of a cascade, as one drafter.

Knows nothing of how trees are verified. It makes the drafts from their descriptions, gives the scheduler a workbench in
each cycle, and passes on what the target accepted, how long it took, and what else the target would have said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autodraft.cascade import (
    Cascade,
    Draft,
    ModelDraft,
    PromptLookup,
    RoutedDraft,
    SelfDraft,
    SuffixAutomaton,
    TokenRecycling,
)
from autodraft.decoding.acceptance import FreeEvidence
from autodraft.decoding.cache_workbench import CacheWorkbench
from autodraft.decoding.drafters import DraftContext, Drafter, Outcome, Standing
from autodraft.decoding.growth import ROOT
from autodraft.decoding.plain_time import PlainTime
from autodraft.decoding.schedulers import make_scheduler
from autodraft.decoding.sources import PromptLookupSource, SuffixAutomatonSource, TokenRecyclingSource, TokenSource
from autodraft.decoding.standing import AlikeSeconds, standing_draft
from autodraft.decoding.step_times import LARGEST_JUMP, TARGET, CostPrior, StepTimes
from autodraft.decoding.tree import TokenTree
from autodraft.decoding.workbench import DraftLevel
from autodraft.errors import ProfileError
from autodraft.profile_parts import Priors
from autodraft.runtime import ChoiceNoise, Cycle, DraftPlan, RoutedPlan, TransformerRuntime

_UNKNOWN_VERIFY_COST = {1: 1.0, 8: 1.2, 16: 1.5, 32: 2.2}
_UNKNOWN_ALPHA = 0.8


def make_source(draft: Draft) -> TokenSource | None:
    """The source behind a free draft; None for a model."""
    match draft:
        case PromptLookup():
            return PromptLookupSource(draft)
        case SuffixAutomaton():
            return SuffixAutomatonSource(draft)
        case TokenRecycling():
            return TokenRecyclingSource(draft)
        case SelfDraft() | RoutedDraft():
            return None


def num_classes(draft: Draft) -> int:
    """Classes of evidence that a free draft's tokens come with, where a model has chosen another token included."""
    source = make_source(draft)
    assert source is not None, "a model's classes are those of its probabilities"
    return 2 * source.num_classes


def make_plan(draft: Draft, runtime: TransformerRuntime) -> DraftPlan | RoutedPlan | None:
    """What runs a model draft's forward passes; None for a free draft."""
    match draft:
        case SelfDraft():
            return runtime.plan(draft.policy, draft.weights)
        case RoutedDraft():
            return runtime.routed_plan(draft.router, draft.passed_keys, bits=draft.bits, weights=draft.weights)
        case _:
            return None


class ScheduledDrafter(Drafter):
    """A `Drafter`; keeps what it learns from one sequence to the next.

    Args:
        runtime: target and drafts.
        cascade: what to draft with.
        priors: acceptance and times to expect of the cascade's drafts, in its order.
        guarded: whether drafting is suspended while plain decoding is faster.
    """

    def __init__(
        self,
        runtime: TransformerRuntime,
        cascade: Cascade,
        priors: Priors | None = None,
        *,
        guarded: bool = True,
        clock: Callable[[], float] | None = None,
    ) -> None:
        priors = priors or Priors()
        self.cascade, self.num_drafts = cascade, len(cascade.drafts)
        self._runtime, self._clock = runtime, clock or runtime.clock
        self._plans = [make_plan(draft, runtime) for draft in cascade.drafts]
        self._sources = [make_source(draft) for draft in cascade.drafts]
        self.levels = [_level(draft, priors, number) for number, draft in enumerate(cascade.drafts)]
        self.times = StepTimes(
            CostPrior(1.0, dict(priors.verify_cost) or _UNKNOWN_VERIFY_COST),
            [_cost_prior(plan, runtime, priors, number) for number, plan in enumerate(self._plans)],
        )
        self.scheduler = make_scheduler(cascade.scheduler, self.levels, guarded=guarded, rate=priors.rate)
        self._standing = standing_draft(cascade, self._plans) if runtime.runs_cycles else None
        self._bench = CacheWorkbench(runtime, self.levels, self._plans, self._sources, self.times, self._clock)
        self._order: list[int] | None = None
        self._prompt: list[int] = []
        self._untold: list[int] = []
        self._started = self._model_s_before = self._standing_s = 0.0
        # With a curve of verification every cycle tells what a target step takes.
        self._plain = PlainTime(runtime.target.weight_bytes, at_once=not priors.verify_cost)
        self._guarded = guarded
        self._is_timed_alone = self._is_after_cycle = False
        self._jump = LARGEST_JUMP  # what the next cycle may take at most, over what is usual

    @property
    def model_s(self) -> float:
        """Seconds that drafts have spent in forward passes, over all sequences."""
        return self._bench.model_s + self._standing_s

    @property
    def idle_tokens(self) -> int:
        return self._plain.together(self.scheduler.idle_cycles or self._untimed)

    @property
    def _untimed(self) -> int:
        """Coming tokens that are not drafted so that plain decoding can be timed."""
        return self._plain.wanted if self._guarded else 0

    @property
    def acceptance_by_class(self) -> tuple[tuple[float, ...], ...]:
        """Of each draft, what its scheduler has learnt: see `DraftPrior`."""
        learnt = map(self.scheduler.acceptance_by_class, range(self.num_drafts))
        return tuple(tuple(round(share, 4) for share in shares) for shares in learnt)

    def start(self, tokens: Sequence[int]) -> None:
        self._is_after_cycle = False
        self._prompt, self._untold = list(tokens), []
        if self._standing is None:
            self._tell_sources()

    def _tell_sources(self) -> None:
        """What they have not heard of the text; where the engine looks things up, only once they are asked."""
        for source in self._sources:
            if source is not None and self._prompt:
                source.start(self._prompt)
            if source is not None and self._untold:
                source.commit(self._untold)
        self._prompt, self._untold = [], []

    def _note(self, tokens: Sequence[int]) -> None:
        """Tokens were committed."""
        self._untold += tokens
        if self._standing is None:
            self._tell_sources()

    def propose(self, context: DraftContext) -> TokenTree | None:
        if self._untimed:
            return None
        self._tell_sources()
        self._started, self._model_s_before = self._clock(), self._bench.model_s
        self._bench.begin(context)
        self.scheduler.grow(self._bench)
        growth = self._bench.growth
        tree, self._order = growth.tree(growth.kept_nodes())
        return tree if tree.num_drafted else None

    def standing(self, context: DraftContext) -> Standing | None:
        token_s = self._plain_s
        if self._standing is None or not token_s or self._untimed or self.scheduler.idle_cycles:
            return None
        self.times.set_context(len(context.tokens))
        return Standing(*self._standing, token_s, self.scheduler.credit * token_s)

    def observe_cycles(self, tokens: Sequence[int], cycles: Sequence[Cycle], seconds: float) -> None:
        assert self._standing is not None, "cycles that it did not ask for"
        self._record_steps(cycles, self._standing[1][1])
        self._note(tokens)
        slower = seconds / sum(cycle.draft_s + cycle.verify_s for cycle in cycles)
        for drafted in (True, False):
            alike = [cycle for cycle in cycles if (cycle.drafted > 0) == drafted]
            if alike:
                took = slower * sum(cycle.draft_s + cycle.verify_s for cycle in alike)
                steps = self._steps(took, self._usual(alike))
                committed = sum(cycle.committed for cycle in alike)
                self.scheduler.pass_cycles(len(alike), committed, steps, drafted=drafted)
        if any(cycle.drafted for cycle in cycles):
            self._plain.record_cycle(len(tokens), seconds)
            self._is_after_cycle = True

    def _record_steps(self, cycles: Sequence[Cycle], model: int) -> None:
        """What forward passes took, those alike together."""
        verified, chains = AlikeSeconds(), AlikeSeconds()
        for cycle in cycles:
            verified.add(cycle.drafted + 1, cycle.verify_s)
            if cycle.drafted and not cycle.looked_up:
                chains.add(cycle.drafted, cycle.draft_s)
        for rows, count, mean_s in verified.means:
            self.times.record(TARGET, rows, mean_s, count)
        for drafted, _, mean_s in chains.means:
            self.times.record_chain(model, drafted, mean_s)
        self._standing_s += chains.total

    def _usual(self, cycles: Sequence[Cycle]) -> float:
        """Target steps that the cycles take on average."""
        assert self._standing is not None
        cost, model = self.times.cost, self._standing[1][1]
        drafting = sum(cycle.drafted * cost(model, 1) for cycle in cycles if cycle.drafted and not cycle.looked_up)
        return drafting + sum(cost(TARGET, cycle.drafted + 1) for cycle in cycles)

    def observe(self, outcome: Outcome) -> None:
        if outcome.tree.num_drafted or not self._is_timed_alone:
            self.times.record(TARGET, len(outcome.tree), outcome.verify_s)
        self._teach(outcome)
        if self._order is None:
            self._plain.record(1, outcome.verify_s)
            return
        seconds = self._clock() - self._started
        self.times.record_decisions(
            self._bench.cycle_calls + 1, seconds - outcome.verify_s - (self._bench.model_s - self._model_s_before)
        )
        steps = self._steps(seconds, self.times.cost(TARGET, len(outcome.tree)) + self._bench.cycle_steps)
        accepted = [self._order[node] for node in outcome.path]
        self.scheduler.observe(self._bench, accepted or [ROOT], steps)
        if outcome.tree.num_drafted or self._bench.cycle_steps:
            self._plain.record_cycle(len(accepted) or 1, seconds)
            self._is_after_cycle = True
        elif not self._is_timed_alone:
            self._plain.record(1, outcome.verify_s)
        self._order = None

    def observe_alone(self, tokens: Sequence[int], seconds: float, noise: ChoiceNoise | None) -> None:
        # What the target would have said beside its choices nobody asked: tables of it are as they were.
        steps = float(len(tokens))
        if self._plain.record(len(tokens), seconds):
            self.times.record(TARGET, 1, seconds / len(tokens), len(tokens))
            self._is_timed_alone, self._is_after_cycle = True, False
        elif self._is_after_cycle and self._plain.token_s:
            # Drafting pays for what it makes the tokens after it take.
            steps = min(seconds / self._plain.token_s, LARGEST_JUMP * steps)
        self._note(tokens)
        if self.scheduler.idle_cycles:
            self.scheduler.pass_idle(len(tokens), steps)

    @property
    def _plain_s(self) -> float:
        """Seconds of a token of plain decoding; 0 before any was timed."""
        return self._plain.token_s or self.times.target_s

    def _steps(self, seconds: float, usual: float) -> float:
        """What cycles took that usually take `usual`, in tokens of plain decoding.

        A hiccup counts as `LARGEST_JUMP` times what such cycles take at most; what comes again is none. Averages of
        steps would not do: they fall faster than they rise, which flatters what takes many short steps.
        """
        steps = seconds / self._plain_s
        most = self._jump * usual
        self._jump = LARGEST_JUMP * self._jump if steps > LARGEST_JUMP * usual else LARGEST_JUMP
        return min(steps, most)

    def _teach(self, outcome: Outcome) -> None:
        """The free drafts learn from what the target would have said after every verified token."""
        wanted = max((source.top_successors for source in self._sources if source is not None), default=0)
        best = self._runtime.best_tokens(outcome.logits, wanted) if wanted else []
        for source in self._sources:
            if source is not None and source.top_successors:
                source.learn(outcome.tree.tokens, [tokens[: source.top_successors] for tokens in best])
        self._note(outcome.committed)


def _level(draft: Draft, priors: Priors, number: int) -> DraftLevel:
    if isinstance(draft, ModelDraft):
        alpha = priors.drafts[number].alpha if priors.drafts else _UNKNOWN_ALPHA
        return DraftLevel(True, draft.num_draft_tokens, draft.stop_threshold, alpha)
    source = make_source(draft)
    assert source is not None
    expected = tuple(FreeEvidence.priors(_class_priors(draft, source.num_classes)))
    learnt = priors.drafts[number].acceptance_by_class if priors.drafts else ()
    if learnt and len(learnt) != len(expected):
        raise ProfileError(
            f"the priors of draft {number + 1}, {draft.kind}, have {len(learnt)} classes of tokens instead of"
            f" {len(expected)}: the profile was changed, or is of another version; export it again"
        )
    return DraftLevel(False, draft.num_draft_tokens, class_priors=learnt or expected)


def _class_priors(draft: Draft, num_classes: int) -> tuple[float, ...]:
    """Rough first guesses: longer matches are better, and so are lower ranks."""
    if isinstance(draft, TokenRecycling):
        return tuple(0.4 * 0.45**rank for rank in range(num_classes))
    recent = num_classes // 2 if isinstance(draft, SuffixAutomaton) else num_classes
    rising = [0.4 + 0.5 * (number + 1) / recent for number in range(recent)]
    return (*rising, *(0.15 for _ in range(num_classes - recent)))


def _cost_prior(
    plan: DraftPlan | RoutedPlan | None, runtime: TransformerRuntime, priors: Priors, number: int
) -> CostPrior | None:
    """As measured, else by the bytes that a step reads."""
    if plan is None:
        return None
    if priors.drafts:
        prior = priors.drafts[number]
        return CostPrior(prior.cost, dict(prior.cost_by_rows) or _grown(prior.cost))
    return CostPrior(cost := plan.weight_bytes / runtime.target.weight_bytes, _grown(cost))


def _grown(cost: float) -> dict[int, float]:
    return {rows: cost * factor for rows, factor in _UNKNOWN_VERIFY_COST.items()}

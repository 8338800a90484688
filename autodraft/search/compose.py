"""From predicted policies to a measured cascade: the survivors, the settings around the best one, the conclusion.

Knows nothing of models. Predictions only choose what is measured; from here on every decision rests on measured
speedups, and the last word has one session in which all finalists run on the same prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from autodraft.cascade import (
    AUTOREGRESSIVE,
    Cascade,
    Chain,
    DyTC,
    Horizontal,
    PromptLookup,
    SelfDraft,
    StaticTree,
    SuffixAutomaton,
    TokenRecycling,
    Vertical,
    VerticalHorizontal,
)
from autodraft.evaluator import Evaluation, chain_of
from autodraft.policy import DraftPolicy
from autodraft.search.codec import cascade_digest
from autodraft.search.loop import Best, SearchLoop
from autodraft.search.plans import Found, is_bits_only, is_skip_only

LOOKUPS = (PromptLookup(num_draft_tokens=6, max_ngram=3, min_ngram=2), PromptLookup(num_draft_tokens=8, max_ngram=3))
AUTOMATON, RECYCLING = SuffixAutomaton(num_draft_tokens=15), TokenRecycling()  # 15 and the root: one tile of rows
FREE_CASCADES = (
    *(Cascade(drafts=(lookup,)) for lookup in LOOKUPS),
    Cascade(drafts=(AUTOMATON,)),
    Cascade(drafts=(RECYCLING,), scheduler=StaticTree(branching=3, max_nodes=8)),
    Cascade(drafts=(AUTOMATON, RECYCLING), scheduler=DyTC()),
)
"""What costs no forward pass: prompt lookup, a suffix automaton, Token Recycling, and the two latter together."""

_INNER_LOOKUP = PromptLookup(num_draft_tokens=4, max_ngram=3)
_THRESHOLDS = (0.3, 0.5, 0.7)
_MEASURE_UNTIL, _COMPOSE_UNTIL = 0.46, 0.72
_SECOND_DRAFT_COST = 0.75
_DYNAMIC_LENGTH = 16
_RUNNERS_UP = 3


@dataclass(frozen=True)
class ComposeOptions:
    """Limits of the cascade.

    Attributes:
        num_finalists: predicted policies that are measured.
        max_draft_tokens: longest draft.
        free_drafts: whether prompt lookup and other free drafts may be part of it.
    """

    num_finalists: int = 4
    max_draft_tokens: int = 8
    free_drafts: bool = True


@dataclass(frozen=True)
class Conclusion:
    """How a search ended.

    Attributes:
        cascade: what to decode with; autoregressive where nothing is faster with confidence.
        best: the fastest finalist, whether or not it is fast enough.
        finalists: every finalist by name, all of one session.
    """

    cascade: Cascade
    best: Best | None
    finalists: dict[str, Best]


def survivors(found: Found, options: ComposeOptions) -> list[tuple[DraftPolicy, Evaluation]]:
    """The best predicted policies, and in any case the best skip-only and the best bits-only one."""
    ordered = sorted((pair for pair in found if not pair[0].is_full), key=lambda pair: -pair[1].speedup)
    chosen = ordered[: options.num_finalists]
    for rule in (is_skip_only, is_bits_only):
        best = next((pair for pair in ordered if rule(pair[0])), None)
        if best is not None and best not in chosen:
            chosen.append(best)
    return chosen


def measure_survivors(loop: SearchLoop, options: ComposeOptions) -> None:
    """F2 of the survivors as chains, and of free drafts alone."""
    cascades = [chain_of(*pair, longest=options.max_draft_tokens) for pair in survivors(_found(loop), options)]
    if options.free_drafts:
        cascades += FREE_CASCADES
    incumbent: Evaluation | None = None
    for number, cascade in enumerate(cascades):
        result = loop.measure("measure", cascade, incumbent, done=number, total=len(cascades), until=_MEASURE_UNTIL)
        if (
            result is not None
            and not result.stopped_early
            and (incumbent is None or result.speedup > incumbent.speedup)
        ):
            incumbent = result


def compose(loop: SearchLoop, options: ComposeOptions) -> None:
    """Which drafts, in which order, under which scheduler: every kind of cascade, then single settings of the best.

    One change at a time, as long as measuring says that it helps and time is left.
    """
    best = best_measured(loop, with_draft=True)
    if best is None:
        return
    tried = {cascade_digest(best.cascade)}
    done = 0

    def attempt(cascade: Cascade) -> bool:
        """Measure a cascade that was not tried yet; whether there is time for more."""
        nonlocal best, done
        assert best is not None
        if cascade_digest(cascade) in tried:
            return True
        tried.add(cascade_digest(cascade))
        result = loop.measure("compose", cascade, best.evaluation, done=done, total=done + 8, until=_COMPOSE_UNTIL)
        if result is None:
            return not loop.clock.is_past(_COMPOSE_UNTIL)
        done += 1
        if not result.stopped_early and result.speedup > best.evaluation.speedup:
            best = Best(cascade, result, "")
        return True

    if not all(attempt(cascade) for cascade in arrangements(best.cascade, cheaper_draft(loop, best.cascade), options)):
        return
    while True:
        before = best.cascade
        for cascade in neighbours(before, options):
            if not attempt(cascade):
                return
            if best.cascade is not before:
                break
        else:
            return


def cheaper_draft(loop: SearchLoop, cascade: Cascade) -> DraftPolicy | None:
    """The policy of the Pareto front that is best among those that cost clearly less than the cascade's own."""
    own = cascade.policies[0]
    found = _found(loop)
    cost = next((evaluation.cost for policy, evaluation in found if policy == own), None)
    if cost is None:
        return None
    cheaper = [pair for pair in found if pair[1].cost < _SECOND_DRAFT_COST * cost and not pair[0].is_full]
    return max(cheaper, key=lambda pair: pair[1].speedup, default=(None, None))[0]


def arrangements(cascade: Cascade, second: DraftPolicy | None, options: ComposeOptions) -> Iterator[Cascade]:
    """The draft of a chain in every kind of cascade, the most promising ones first; `second` is a cheaper policy."""
    chain = _self_draft(cascade)
    dynamic = chain.model_copy(update={"num_draft_tokens": _DYNAMIC_LENGTH, "stop_threshold": 0.0})
    long = chain.model_copy(update={"num_draft_tokens": min(chain.num_draft_tokens + 2, options.max_draft_tokens)})
    lower = None if second is None else dynamic.model_copy(update={"policy": second})
    if options.free_drafts:
        yield Cascade(drafts=(dynamic, AUTOMATON), scheduler=DyTC())
        yield Cascade(drafts=(LOOKUPS[0], chain))
        yield Cascade(drafts=(AUTOMATON.model_copy(update={"min_match": 3}), chain))
        yield Cascade(drafts=(dynamic, AUTOMATON, RECYCLING), scheduler=DyTC())
        yield Cascade(drafts=(long, _INNER_LOOKUP), scheduler=Vertical())
    yield Cascade(drafts=(dynamic,), scheduler=DyTC())
    if lower is not None:
        yield Cascade(drafts=(dynamic, lower, *((AUTOMATON,) if options.free_drafts else ())), scheduler=DyTC())
        if options.free_drafts:
            yield Cascade(drafts=(lower, AUTOMATON, RECYCLING), scheduler=DyTC())
        yield Cascade(drafts=(chain, lower.model_copy(update={"num_draft_tokens": 2})), scheduler=Horizontal())
    if options.free_drafts:
        yield Cascade(drafts=(long, _INNER_LOOKUP), scheduler=VerticalHorizontal())
    yield Cascade(drafts=(chain,), scheduler=StaticTree(branching=2, max_nodes=min(2 * chain.num_draft_tokens, 16)))


def neighbours(cascade: Cascade, options: ComposeOptions) -> Iterator[Cascade]:
    """Cascades that differ in one setting, the most promising changes first."""
    match cascade.scheduler:
        case DyTC() as dytc:
            for changes in ({"siblings": 2}, {"siblings": 1}, {"max_nodes": 16}, {"max_nodes": 8}, {"window": 40}):
                yield cascade.model_copy(update={"scheduler": dytc.model_copy(update=changes)})
            return
        case StaticTree() as tree:
            for changes in ({"max_nodes": 2 * tree.max_nodes}, {"max_nodes": max(tree.max_nodes // 2, 2)}):
                yield cascade.model_copy(update={"scheduler": tree.model_copy(update=changes)})
    draft = _self_draft(cascade)

    def changed(**settings: float) -> Cascade:
        other = draft.model_copy(update=settings)
        return cascade.model_copy(update={"drafts": tuple(other if each is draft else each for each in cascade.drafts)})

    if options.free_drafts and isinstance(cascade.scheduler, Chain):
        for lookup in (*LOOKUPS, AUTOMATON):
            yield Cascade(drafts=(lookup, draft))
        if len(cascade.drafts) > 1:
            yield Cascade(drafts=(draft,))
    length = draft.num_draft_tokens
    for other in (length + 1, length - 1, length + 2, length - 2):
        if 1 <= other <= options.max_draft_tokens:
            yield changed(num_draft_tokens=other)
    for threshold in (*_THRESHOLDS, 0.0):
        if threshold != draft.stop_threshold:
            longer = min(length + 2, options.max_draft_tokens) if threshold > draft.stop_threshold else length
            yield changed(stop_threshold=threshold, num_draft_tokens=longer)


def _self_draft(cascade: Cascade) -> SelfDraft:
    """The first self-draft of a cascade that has one."""
    return next(draft for draft in cascade.drafts if isinstance(draft, SelfDraft))


def conclude(loop: SearchLoop, options: ComposeOptions, seconds: float) -> Conclusion:
    """Let the best cascade meet the best of each simpler kind in one session; the fastest wins if it beats 1."""
    cascades = finalists(loop, options)
    if not cascades:
        return Conclusion(AUTOREGRESSIVE, loop.best, {})
    results = loop.compare(cascades, seconds)
    fitting = {name: best for name, best in results.items() if loop.fits(best.evaluation)}
    if not fitting:
        return Conclusion(AUTOREGRESSIVE, None, results)
    winner = max(fitting.values(), key=lambda best: best.evaluation.speedup)
    convincing = winner.evaluation.ci_low is not None and winner.evaluation.ci_low > 1.0
    return Conclusion(winner.cascade if convincing else AUTOREGRESSIVE, winner, results)


def finalists(loop: SearchLoop, options: ComposeOptions) -> dict[str, Cascade]:
    """The best cascade, its runners-up, and the best of each simpler kind, where the best one is not of that kind.

    Runners-up, because the best of many short measurements owes something to luck. Simpler kinds: skip-only and
    bits-only policies in its place, the best chain and the best dytc, prompt lookup, and the best without any model.
    """
    chosen: dict[str, Cascade] = {}
    best = best_measured(loop, with_draft=True)
    if best is None:
        best = next((Best(chain_of(*pair, longest=options.max_draft_tokens), pair[1], "")
                     for pair in survivors(_found(loop), options)), None)  # fmt: skip
    if best is not None:
        chosen["joint"] = best.cascade
        for name, rule in (("skip-only", is_skip_only), ("bits-only", is_bits_only)):
            simpler = _best_of_kind(loop, rule)
            if simpler is not None and not rule(best.cascade.policies[0]):
                chosen[name] = chain_of(*simpler, longest=options.max_draft_tokens)
        for kind in ("chain", "dytc"):
            other = _best_among(loop, _models_under(kind))
            if other is not None:
                chosen[kind] = other
    if options.free_drafts:
        chosen["prompt-lookup"] = _best_among(loop, _is_prompt_lookup) or Cascade(drafts=LOOKUPS[:1])
        free = _best_among(loop, lambda cascade: not cascade.policies)
        if free is not None:
            chosen["free"] = free
    if best is not None:
        for number, cascade in enumerate(_runners_up(loop, best.cascade), start=1):
            chosen[f"runner-up {number}"] = cascade
    unique = {cascade_digest(cascade): name for name, cascade in reversed(chosen.items())}
    return {name: cascade for name, cascade in chosen.items() if unique[cascade_digest(cascade)] == name}


def _runners_up(loop: SearchLoop, best: Cascade) -> list[Cascade]:
    """The next fastest cascades with a model that were measured to the end."""
    others = [
        pair for pair in loop.measured.values() if pair[0].policies and pair[0] != best and not pair[1].stopped_early
    ]
    return [cascade for cascade, _ in sorted(others, key=lambda pair: -pair[1].speedup)[:_RUNNERS_UP]]


def _models_under(kind: str) -> Callable[[Cascade], bool]:
    return lambda cascade: bool(cascade.policies) and cascade.scheduler.kind == kind


def _is_prompt_lookup(cascade: Cascade) -> bool:
    return [type(draft) for draft in cascade.drafts] == [PromptLookup]


def _best_among(loop: SearchLoop, rule: Callable[[Cascade], bool]) -> Cascade | None:
    """The fastest measured cascade of a kind, measurements that were stopped early included."""
    found = [pair for pair in loop.measured.values() if rule(pair[0])]
    return max(found, key=lambda pair: (not pair[1].stopped_early, pair[1].speedup))[0] if found else None


def best_measured(loop: SearchLoop, *, with_draft: bool) -> Best | None:
    """The fastest cascade that was measured to the end."""
    results = [
        Best(cascade, result, key)
        for key, (cascade, result) in loop.measured.items()
        if not result.stopped_early and (cascade.policies or not with_draft)
    ]
    return max(results, key=lambda best: best.evaluation.speedup, default=None)


def _best_of_kind(loop: SearchLoop, rule: Callable[[DraftPolicy], bool]) -> tuple[DraftPolicy, Evaluation] | None:
    """The best policy of a kind, as predicted."""
    found = [pair for pair in _found(loop) if rule(pair[0]) and not pair[0].is_full]
    return max(found, key=lambda pair: pair[1].speedup, default=None)


def _found(loop: SearchLoop) -> list[tuple[DraftPolicy, Evaluation]]:
    return list(loop.predicted.values())

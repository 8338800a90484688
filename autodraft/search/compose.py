"""From predicted drafts to a measured cascade: the survivors, and the settings around the best one.

Knows nothing of models. Predictions only choose what is measured; from here on every decision rests on measured
speedups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from autodraft.cascade import (
    MOST_NODES,
    Cascade,
    Chain,
    DyTC,
    Horizontal,
    ModelDraft,
    PromptLookup,
    RoutedDraft,
    SelfDraft,
    StaticTree,
    SuffixAutomaton,
    TokenRecycling,
    Vertical,
    VerticalHorizontal,
    unbounded,
)
from autodraft.evaluator import Evaluation, draft_of
from autodraft.policy import DraftPolicy
from autodraft.search.codec import cascade_digest
from autodraft.search.loop import Best, SearchLoop
from autodraft.search.plans import is_bits_only, is_skip_only

Predicted = tuple[SelfDraft, Evaluation]
"""A draft as the chain that its prediction speaks of."""

LOOKUPS = (
    PromptLookup(num_draft_tokens=6, max_ngram=3, min_ngram=2),
    PromptLookup(num_draft_tokens=4, max_ngram=6, min_ngram=3),  # surer, for where verification is dear
    PromptLookup(num_draft_tokens=8, max_ngram=3),
)
AUTOMATON, RECYCLING = SuffixAutomaton(num_draft_tokens=15), TokenRecycling()  # 15 and the root: one tile of rows
FREE_CASCADES = (
    *(Cascade(drafts=(lookup,)) for lookup in LOOKUPS),
    Cascade(drafts=(AUTOMATON,)),
    Cascade(drafts=(RECYCLING,), scheduler=StaticTree(branching=3, max_nodes=8)),
    Cascade(drafts=(AUTOMATON, RECYCLING), scheduler=DyTC()),
)
"""What costs no forward pass: prompt lookup, a suffix automaton, Token Recycling, and the two latter together."""

_LONG_MATCHES = AUTOMATON.model_copy(update={"min_match": 3})  # beside a model short ones say too little
_INNER_LOOKUP = PromptLookup(num_draft_tokens=4, max_ngram=3)
_THRESHOLDS = (0.3, 0.5, 0.7)
_MEASURE_UNTIL, COMPOSE_UNTIL = 0.50, 0.72
_SECOND_DRAFT_COST = 0.75
_OTHER_MODELS = 3


@dataclass(frozen=True)
class ComposeOptions:
    """Limits of the cascade.

    Attributes:
        num_finalists: predicted drafts that are measured.
        max_draft_tokens: longest draft.
        free_drafts: whether prompt lookup and other free drafts may be part of it.
        routed: drafts with a trained router, as the chains they are measured as.
    """

    num_finalists: int = 4
    max_draft_tokens: int = 8
    free_drafts: bool = True
    routed: tuple[RoutedDraft, ...] = ()


def predicted_drafts(loop: SearchLoop, longest: int = 64) -> list[Predicted]:
    """Everything that was predicted, on the target's own weights or refitted ones."""
    own = [(draft_of(policy, evaluation, longest), evaluation) for policy, evaluation in loop.predicted.values()]
    return own + list(loop.refitted.values())


def survivors(found: Sequence[Predicted], options: ComposeOptions) -> list[Predicted]:
    """The best predicted drafts, and in any case the best skip-only, the best bits-only and the best refitted one."""
    ordered = sorted((pair for pair in found if not pair[0].policy.is_full), key=lambda pair: -pair[1].speedup)
    chosen = ordered[: options.num_finalists]
    for rule in (untrained(is_skip_only), untrained(is_bits_only), is_refitted):
        best = next((pair for pair in ordered if rule(pair[0])), None)
        if best is not None and best not in chosen:
            chosen.append(best)
    return chosen


def untrained(rule: Callable[[DraftPolicy], bool]) -> Callable[[ModelDraft], bool]:
    """Whether a draft is a policy of a kind for the target's own weights."""
    return lambda draft: isinstance(draft, SelfDraft) and draft.weights is None and rule(draft.policy)


def is_refitted(draft: ModelDraft) -> bool:
    """Whether a draft runs on weights of its own."""
    return isinstance(draft, SelfDraft) and draft.weights is not None


def is_routed(draft: ModelDraft) -> bool:
    """Whether a router picks what a draft runs."""
    return isinstance(draft, RoutedDraft)


def measure_survivors(loop: SearchLoop, options: ComposeOptions) -> None:
    """F2 of the survivors and the routed drafts as chains, and of free drafts alone."""
    found = predicted_drafts(loop, options.max_draft_tokens)
    models: list[ModelDraft] = [*(draft for draft, _ in survivors(found, options)), *options.routed]
    cascades = [Cascade(drafts=(draft,)) for draft in models]
    if options.free_drafts:
        cascades += FREE_CASCADES
    incumbent: Best | None = None
    for number, cascade in enumerate(cascades):
        result = loop.measure("measure", cascade, incumbent, done=number, total=len(cascades), until=_MEASURE_UNTIL)
        if result is None or result.stopped_early:
            continue
        if incumbent is None or result.score > incumbent.evaluation.score:
            incumbent = Best(cascade, result, "")


def compose(loop: SearchLoop, options: ComposeOptions) -> None:
    """Which drafts, in which order, under which scheduler: every kind of cascade, then other models, single settings.

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
        result = loop.measure("compose", cascade, best, done=done, total=done + 8, until=COMPOSE_UNTIL)
        if result is None:
            return not loop.clock.is_past(COMPOSE_UNTIL)
        done += 1
        if not result.stopped_early and result.score > best.evaluation.score:
            best = Best(cascade, result, "")
        return True

    for start in _starts(loop, best.cascade):
        if not all(attempt(cascade) for cascade in arrangements(start, cheaper_draft(loop, start), options)):
            return
    while True:
        before = best.cascade
        for cascade in (*with_other_models(loop, before), *neighbours(before, options)):
            if not attempt(cascade):
                return
            if best.cascade is not before:
                break
        else:
            return


def _starts(loop: SearchLoop, best: Cascade) -> list[Cascade]:
    """The best chain, and the fastest of a refitted and of a routed draft: what loses alone may win behind a lookup."""
    starts = [best]
    for rule in (is_refitted, is_routed):
        trained = [pair for pair in loop.measured.values() if pair[0].models and rule(first_model(pair[0]))]
        fastest = max(trained, key=lambda pair: pair[1].score, default=None)
        if fastest is not None and fastest[0] not in starts:
            starts.append(fastest[0])
    return starts


def with_other_models(loop: SearchLoop, cascade: Cascade) -> list[Cascade]:
    """The cascade with the model of another measured chain in the place of its first one, the fastest chains first.

    Behind a lookup the fastest model need not be the one that is fastest alone.
    """
    own = first_model(cascade)
    if not isinstance(own, SelfDraft):
        return []
    chains = sorted(
        ((evaluation.score, each.drafts[0]) for each, evaluation in loop.measured.values() if len(each.drafts) == 1),
        key=lambda pair: -pair[0],
    )
    others = [draft for _, draft in chains if isinstance(draft, SelfDraft) and not _same(draft, own)]
    swapped = []
    for other in others[:_OTHER_MODELS]:
        model = unbounded(other) if own == unbounded(own) else other
        drafts = tuple(model if draft is own else draft for draft in cascade.drafts)
        swapped.append(cascade.model_copy(update={"drafts": drafts}))
    return swapped


def cheaper_draft(loop: SearchLoop, cascade: Cascade) -> SelfDraft | None:
    """The draft that is predicted to be best among those that cost clearly less than the cascade's own."""
    own, found = first_model(cascade), predicted_drafts(loop)
    if isinstance(own, RoutedDraft):  # is not predicted here, but was measured alone
        costs = (evaluation.cost for measured, evaluation in loop.measured.values() if measured.drafts == (own,))
    else:
        costs = (evaluation.cost for draft, evaluation in found if _same(draft, own))
    cost = next(costs, None)
    if cost is None:
        return None
    cheaper = [pair for pair in found if pair[1].cost < _SECOND_DRAFT_COST * cost and not pair[0].policy.is_full]
    return max(cheaper, key=lambda pair: pair[1].speedup, default=(None, None))[0]


def _same(one: SelfDraft, other: SelfDraft) -> bool:
    """Whether two drafts are the same model."""
    return (one.policy, one.weights) == (other.policy, other.weights)


def arrangements(cascade: Cascade, second: SelfDraft | None, options: ComposeOptions) -> Iterator[Cascade]:
    """The draft of a chain in every kind of cascade, the most promising ones first; `second` is a cheaper draft."""
    chain = first_model(cascade)
    dynamic = unbounded(chain)
    long = chain.model_copy(update={"num_draft_tokens": min(chain.num_draft_tokens + 2, options.max_draft_tokens)})
    lower = None if second is None else unbounded(second)
    if options.free_drafts:
        yield Cascade(drafts=(_LONG_MATCHES, chain))
        yield Cascade(drafts=(long, _LONG_MATCHES), scheduler=VerticalHorizontal())
        yield Cascade(drafts=(dynamic, _LONG_MATCHES), scheduler=DyTC())
        yield Cascade(drafts=(dynamic, _LONG_MATCHES, RECYCLING), scheduler=DyTC())
        yield Cascade(drafts=(LOOKUPS[0], chain))
        yield Cascade(drafts=(long, _INNER_LOOKUP), scheduler=Vertical())
    yield Cascade(drafts=(dynamic,), scheduler=DyTC())
    if lower is not None:
        yield Cascade(drafts=(dynamic, lower, *((_LONG_MATCHES,) if options.free_drafts else ())), scheduler=DyTC())
        if options.free_drafts:
            yield Cascade(drafts=(lower, _LONG_MATCHES, RECYCLING), scheduler=DyTC())
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
            for nodes in (min(2 * tree.max_nodes, MOST_NODES), max(tree.max_nodes // 2, 2)):
                if nodes != tree.max_nodes:
                    yield cascade.model_copy(update={"scheduler": tree.model_copy(update={"max_nodes": nodes})})
    draft = first_model(cascade)

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


def best_measured(loop: SearchLoop, *, with_draft: bool) -> Best | None:
    """The fastest cascade that was measured to the end."""
    results = [
        Best(cascade, result, key)
        for key, (cascade, result) in loop.measured.items()
        if not result.stopped_early and (cascade.models or not with_draft)
    ]
    return max(results, key=lambda best: best.evaluation.score, default=None)


def first_model(cascade: Cascade) -> ModelDraft:
    """The first model of a cascade that has one."""
    return cascade.models[0]

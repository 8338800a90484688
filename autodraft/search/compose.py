"""From predicted policies to a measured cascade: the survivors, the settings around the best one, the conclusion.

Knows nothing of models. Predictions only choose what is measured; from here on every decision rests on measured
speedups, and the last word has one session in which all finalists run on the same prompts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from autodraft.cascade import AUTOREGRESSIVE, Cascade, PromptLookup, SelfDraft
from autodraft.policy import DraftPolicy
from autodraft.search.codec import cascade_digest
from autodraft.search.evaluator import Evaluation
from autodraft.search.loop import Best, SearchLoop
from autodraft.search.plans import Found, is_bits_only, is_skip_only
from autodraft.search.records import chain_of

LOOKUPS = (PromptLookup(num_draft_tokens=6, max_ngram=3, min_ngram=2), PromptLookup(num_draft_tokens=8, max_ngram=3))
_THRESHOLDS = (0.3, 0.5, 0.7)
_MEASURE_UNTIL, _COMPOSE_UNTIL = 0.50, 0.70


@dataclass(frozen=True)
class ComposeOptions:
    """Limits of the cascade.

    Attributes:
        num_finalists: predicted policies that are measured.
        max_draft_tokens: longest draft.
        prompt_lookup: whether prompt lookup may stand in front.
    """

    num_finalists: int = 4
    max_draft_tokens: int = 8
    prompt_lookup: bool = True


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
    """F2 of the survivors as chains, and of prompt lookup alone."""
    cascades = [chain_of(*pair, longest=options.max_draft_tokens) for pair in survivors(_found(loop), options)]
    if options.prompt_lookup:
        cascades += [Cascade(drafts=(lookup,)) for lookup in LOOKUPS]
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
    """Change one setting of the best cascade at a time, as long as measuring says that it helps and time is left."""
    best = best_measured(loop, with_draft=True)
    if best is None:
        return
    tried = {cascade_digest(best.cascade)}
    done, improved = 0, True
    while improved:
        improved = False
        for cascade in neighbours(best.cascade, options):
            if cascade_digest(cascade) in tried:
                continue
            tried.add(cascade_digest(cascade))
            result = loop.measure("compose", cascade, best.evaluation, done=done, total=done + 8, until=_COMPOSE_UNTIL)
            if result is None and loop.clock.is_past(_COMPOSE_UNTIL):
                return
            done += 1
            if result is not None and not result.stopped_early and result.speedup > best.evaluation.speedup:
                best, improved = Best(cascade, result, ""), True
                break


def neighbours(cascade: Cascade, options: ComposeOptions) -> Iterator[Cascade]:
    """Cascades that differ in one setting, the most promising changes first."""
    position = next(index for index, draft in enumerate(cascade.drafts) if isinstance(draft, SelfDraft))
    draft = cascade.drafts[position]
    assert isinstance(draft, SelfDraft)
    if options.prompt_lookup:
        for lookup in LOOKUPS:
            yield Cascade(drafts=(lookup, draft))
        if position:
            yield Cascade(drafts=(draft,))

    def changed(**settings: float) -> Cascade:
        drafts = list(cascade.drafts)
        drafts[position] = draft.model_copy(update=settings)
        return Cascade(drafts=tuple(drafts))

    length = draft.num_draft_tokens
    for other in (length + 1, length - 1, length + 2, length - 2):
        if 1 <= other <= options.max_draft_tokens:
            yield changed(num_draft_tokens=other)
    for threshold in (*_THRESHOLDS, 0.0):
        if threshold != draft.stop_threshold:
            longer = min(length + 2, options.max_draft_tokens) if threshold > draft.stop_threshold else length
            yield changed(stop_threshold=threshold, num_draft_tokens=longer)
    if draft.branching == 1:
        yield changed(branching=2, max_nodes=min(2 * length, 16))


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
    """The best cascade, and skip-only, bits-only and prompt lookup alone, where the best one is not of that kind."""
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
                chosen[name] = _transplant(best.cascade, simpler, options)
    if options.prompt_lookup:
        lookups = [pair for pair in loop.measured.values() if not pair[0].policies]
        chosen["prompt-lookup"] = (
            max(lookups, key=lambda pair: pair[1].speedup)[0] if lookups else Cascade(drafts=LOOKUPS[:1])
        )
    unique = {cascade_digest(cascade): name for name, cascade in reversed(chosen.items())}
    return {name: cascade for name, cascade in chosen.items() if unique[cascade_digest(cascade)] == name}


def best_measured(loop: SearchLoop, *, with_draft: bool) -> Best | None:
    """The fastest cascade that was measured to the end."""
    results = [
        Best(cascade, result, key)
        for key, (cascade, result) in loop.measured.items()
        if not result.stopped_early and (cascade.policies or not with_draft)
    ]
    return max(results, key=lambda best: best.evaluation.speedup, default=None)


def _best_of_kind(loop: SearchLoop, rule: object) -> tuple[DraftPolicy, Evaluation] | None:
    """The best policy of a kind: by measurement where there is one, else as predicted."""
    assert callable(rule)
    found = [pair for pair in _found(loop) if rule(pair[0]) and not pair[0].is_full]
    return max(found, key=lambda pair: pair[1].speedup, default=None)


def _transplant(cascade: Cascade, simpler: tuple[DraftPolicy, Evaluation], options: ComposeOptions) -> Cascade:
    """The same cascade around another policy, at that policy's own best draft length."""
    policy, evaluation = simpler
    own = chain_of(policy, evaluation, options.max_draft_tokens).drafts[0]
    assert isinstance(own, SelfDraft)
    drafts = [
        draft if isinstance(draft, PromptLookup) else draft.model_copy(
            update={"policy": policy, "num_draft_tokens": own.num_draft_tokens}
        )
        for draft in cascade.drafts
    ]  # fmt: skip
    return Cascade(drafts=tuple(drafts))


def _found(loop: SearchLoop) -> list[tuple[DraftPolicy, Evaluation]]:
    return list(loop.predicted.values())

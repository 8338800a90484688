"""The end of a search: which cascades meet in one session, and which of them the profile gets.

Knows nothing of models. All finalists run on the same prompts; that session has the last word.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autodraft.cascade import AUTOREGRESSIVE, Cascade, ModelDraft, PromptLookup
from autodraft.evaluator import Evaluation, chain_of
from autodraft.policy import DraftPolicy
from autodraft.search.codec import cascade_digest
from autodraft.search.compose import (
    COMPOSE_UNTIL,
    LOOKUPS,
    ComposeOptions,
    best_measured,
    first_model,
    is_refitted,
    is_routed,
    predicted_drafts,
    survivors,
    untrained,
)
from autodraft.search.effort import CONTESTANTS, FEWEST_FINAL_PROMPTS
from autodraft.search.loop import Best, SearchLoop
from autodraft.search.plans import is_bits_only, is_skip_only

CONCLUDE_UNTIL = 0.87
"""Share of the time after calibration; baselines come after it."""
_RUNNERS_UP = 3
_DEAREST = ("joint", "prompt-lookup", "free", "runner-up 1", "skip-only")
"""Finalists that are kept longest where time is short, and how many of them in any case."""
_FEWEST = 3


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


def conclude(loop: SearchLoop, options: ComposeOptions, seconds: float) -> Conclusion:
    """Let the best cascade meet the best of each simpler kind in one session; the fastest wins if it beats 1."""
    cascades = _affordable(finalists(loop, options), loop)
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
    bits-only policies in its place, the best chain and the best dytc, the best with refitted and with routed drafts and
    without either, prompt lookup, and the best without any model.
    """
    best = best_measured(loop, with_draft=True) or _best_predicted(loop, options)
    chosen: dict[str, Cascade] = {}
    if best is not None:
        chosen = {"joint": best.cascade, **_simpler_policies(loop, best.cascade, options), **_kinds(loop)}
    if options.free_drafts:
        chosen["prompt-lookup"] = _best_among(loop, _is_prompt_lookup) or Cascade(drafts=LOOKUPS[:1])
        free = _best_among(loop, lambda cascade: not cascade.models)
        if free is not None:
            chosen["free"] = free
    if best is not None:
        for number, cascade in enumerate(_runners_up(loop, best.cascade), start=1):
            chosen[f"runner-up {number}"] = cascade
    unique = {cascade_digest(cascade): name for name, cascade in reversed(chosen.items())}
    return {name: cascade for name, cascade in chosen.items() if unique[cascade_digest(cascade)] == name}


def _affordable(cascades: dict[str, Cascade], loop: SearchLoop) -> dict[str, Cascade]:
    """The finalists that a slow model has time for: all of them, or the first of those that matter most.

    Depends only on the whole budget and on what was recorded, so that a search that is run again has the same ones.
    """
    results = [evaluation for _, evaluation in loop.measured.values()]
    runs = sum(CONTESTANTS * len(result.per_prompt) for result in results)
    if loop.clock.budget_s is None or not runs:
        return cascades
    run_s = sum(result.wall_s for result in results) / runs
    contestants = (CONCLUDE_UNTIL - COMPOSE_UNTIL) * loop.clock.budget_s / max(FEWEST_FINAL_PROMPTS * run_s, 1e-9)
    most = max(int(contestants) - 1, _FEWEST)  # one is autoregressive decoding
    ordered = sorted(cascades, key=lambda name: _DEAREST.index(name) if name in _DEAREST else len(_DEAREST))
    return {name: cascade for name, cascade in cascades.items() if name in ordered[:most]}


def _best_predicted(loop: SearchLoop, options: ComposeOptions) -> Best | None:
    """The best draft where nothing was measured."""
    found = survivors(predicted_drafts(loop, options.max_draft_tokens), options)
    return next((Best(Cascade(drafts=(draft,)), evaluation, "") for draft, evaluation in found), None)


def _simpler_policies(loop: SearchLoop, best: Cascade, options: ComposeOptions) -> dict[str, Cascade]:
    """Chains of the best skip-only and bits-only policies on the target's own weights."""
    chosen = {}
    for name, rule in (("skip-only", is_skip_only), ("bits-only", is_bits_only)):
        simpler = _best_of_kind(loop, rule)
        if simpler is not None and not untrained(rule)(first_model(best)):
            chosen[name] = chain_of(*simpler, longest=options.max_draft_tokens)
    return chosen


def _kinds(loop: SearchLoop) -> dict[str, Cascade]:
    """The best measured cascade with a model of each kind."""
    rules: dict[str, Callable[[Cascade], bool]] = {"chain": _is_under("chain"), "dytc": _is_under("dytc")}
    trained = {"refitted": _has(is_refitted), "routed": _has(is_routed)}
    rules |= {**trained, "untrained": lambda cascade: not any(rule(cascade) for rule in trained.values())}
    best = {name: _best_among(loop, _with_model(rule)) for name, rule in rules.items()}
    return {name: cascade for name, cascade in best.items() if cascade is not None}


def _with_model(rule: Callable[[Cascade], bool]) -> Callable[[Cascade], bool]:
    return lambda cascade: bool(cascade.models) and rule(cascade)


def _runners_up(loop: SearchLoop, best: Cascade) -> list[Cascade]:
    """The next fastest cascades with a model that were measured to the end."""
    others = [
        pair for pair in loop.measured.values() if pair[0].models and pair[0] != best and not pair[1].stopped_early
    ]
    return [cascade for cascade, _ in sorted(others, key=lambda pair: -pair[1].score)[:_RUNNERS_UP]]


def _has(rule: Callable[[ModelDraft], bool]) -> Callable[[Cascade], bool]:
    return lambda cascade: any(rule(draft) for draft in cascade.models)


def _is_under(kind: str) -> Callable[[Cascade], bool]:
    return lambda cascade: cascade.scheduler.kind == kind


def _is_prompt_lookup(cascade: Cascade) -> bool:
    return [type(draft) for draft in cascade.drafts] == [PromptLookup]


def _best_among(loop: SearchLoop, rule: Callable[[Cascade], bool]) -> Cascade | None:
    """The fastest measured cascade of a kind, measurements that were stopped early included."""
    found = [pair for pair in loop.measured.values() if rule(pair[0])]
    return max(found, key=lambda pair: (not pair[1].stopped_early, pair[1].score))[0] if found else None


def _best_of_kind(loop: SearchLoop, rule: Callable[[DraftPolicy], bool]) -> tuple[DraftPolicy, Evaluation] | None:
    """The best policy of a kind, as predicted."""
    found = [pair for pair in loop.predicted.values() if rule(pair[0]) and not pair[0].is_full]
    return max(found, key=lambda pair: pair[1].speedup, default=None)

"""`compare_searchers`: what each way of searching finds at an equal number of evaluations.

Knows nothing of models. Every method gets the same evaluator and the same number of policies to predict; the
winners then meet in one measured session, as chains at their own predicted settings: nothing else differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.storages import InMemoryStorage

from autodraft.cascade import Cascade
from autodraft.evaluator import Evaluation, Evaluator, chain_of
from autodraft.policies.features import PolicyFeatures
from autodraft.policy import DraftPolicy
from autodraft.policy_text import encode_policy
from autodraft.search.loop import Clock, SearchLoop
from autodraft.search.objectives import Objectives
from autodraft.search.pipeline import PipelineOptions, explore_policies
from autodraft.search.plans import SpaceOptions, skip_proposals, uniform_proposals
from autodraft.search.proposals import Proposal, SequenceSearcher
from autodraft.search.study import SearchStudy

METHODS = ("random", "uniform bits", "block influence", "knapsack", "evolution", "tpe", "staged")


@dataclass(frozen=True)
class SearcherResult:
    """The best policy of one method.

    Attributes:
        method: its name.
        num_evaluations: policies that it predicted (simple methods have fewer than they were allowed).
        policy: the best of them.
        predicted: its prediction.
        measured: its measurement beside the other methods' policies; None where it was not measured.
        history: best predicted speedup after each evaluation.
    """

    method: str
    num_evaluations: int
    policy: DraftPolicy
    predicted: Evaluation
    measured: Evaluation | None
    history: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "num_evaluations": self.num_evaluations,
            "policy": encode_policy(self.policy),
            "predicted": self.predicted.to_json(),
            "measured": self.measured.to_json() if self.measured else None,
            "history": list(self.history),
        }


def compare_searchers(
    evaluator: Evaluator,
    *,
    num_trials: int,
    seed: int = 0,
    methods: Sequence[str] = METHODS,
    measure_s: float | None = None,
    on_method: Callable[[str], None] | None = None,
) -> list[SearcherResult]:
    """Every method's best policy within `num_trials` predictions; measured together if `measure_s` is given."""
    evaluator.calibrate()
    results: list[SearcherResult] = []
    for method in methods:
        if on_method is not None:
            on_method(method)
        found = _explored(evaluator, method, num_trials, seed)
        if not found:
            continue
        best = max(found, key=lambda pair: pair[1].speedup)
        results.append(SearcherResult(method, len(found), *best, None, _history(found)))
    if measure_s is None:
        return results
    cascades: dict[str, Cascade] = {result.method: chain_of(result.policy, result.predicted) for result in results}
    measured = evaluator.compare(cascades, measure_s)
    return [SearcherResult(**{**result.__dict__, "measured": measured.get(result.method)}) for result in results]


def _explored(evaluator: Evaluator, method: str, num_trials: int, seed: int) -> list[tuple[DraftPolicy, Evaluation]]:
    """Everything that a method predicted, in its order; each method has a study of its own."""
    study = SearchStudy(InMemoryStorage(), method, Objectives())
    loop = SearchLoop(study, evaluator, Clock(None))
    fixed = _fixed_methods(evaluator.features)
    if method in fixed:
        loop.explore("explore", SequenceSearcher(method, fixed[method]), most=num_trials)
    else:
        explore_policies(loop, PipelineOptions(method, num_trials, seed))
    return list(loop.predicted.values())


def _fixed_methods(features: PolicyFeatures) -> Mapping[str, list[Proposal]]:
    options = SpaceOptions()
    skips = [proposal for bits in features.available_bits for proposal in skip_proposals(features, bits, options)]
    return {"uniform bits": uniform_proposals(features), "block influence": skips}


def _history(found: Sequence[tuple[DraftPolicy, Evaluation]]) -> tuple[float, ...]:
    best, history = 0.0, []
    for _, evaluation in found:
        best = max(best, evaluation.speedup)
        history.append(best)
    return tuple(history)

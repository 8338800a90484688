"""One search of the controllers' benchmark: what a method finds with a seed, and what it costs.

Knows nothing of models. Seconds are those that this process spent on a core, so they do not depend on what else ran.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from optuna.storages import InMemoryStorage

from autodraft.evaluator import Evaluation, Evaluator
from autodraft.policy import DraftPolicy
from autodraft.policy_text import encode_policy
from autodraft.profile_parts import WeightsFile
from autodraft.search.loop import Clock, SearchLoop
from autodraft.search.objectives import Objectives
from autodraft.search.pipeline import PipelineOptions, explore_policies
from autodraft.search.study import SearchStudy


class _Timed:
    """An evaluator that counts the seconds of a core spent in its predictions."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self.spent_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._evaluator, name)

    def predict(self, policy: DraftPolicy, weights: WeightsFile | None = None) -> Evaluation:
        started = time.process_time()
        try:
            return self._evaluator.predict(policy, weights)
        finally:
            self.spent_s += time.process_time() - started


def search_row(evaluator: Evaluator, method: str, seed: int, num_evaluations: int) -> dict[str, Any]:
    """A method's curve, its best policy, and the seconds of its own work and of its evaluations."""
    timed = _Timed(evaluator)
    loop = SearchLoop(SearchStudy(InMemoryStorage(), method, Objectives()), timed, Clock(None))
    started = time.process_time()
    explore_policies(loop, PipelineOptions(method, num_evaluations, seed))
    own_s = time.process_time() - started - timed.spent_s
    found = list(loop.predicted.values())
    policy, evaluation = max(found, key=lambda pair: pair[1].speedup)
    return {
        "method": method,
        "seed": seed,
        "num_evaluations": len(found),
        "curve": improvements([result.speedup for _, result in found]),
        "best": {"policy": encode_policy(policy), "evaluation": evaluation.to_json()},
        "own_s": own_s,
        "evaluations_s": timed.spent_s,
    }


def improvements(scores: Sequence[float]) -> list[tuple[int, float]]:
    """(number of the evaluation, score) of every one that was better than all before it."""
    best, steps = 0.0, []
    for number, score in enumerate(scores, start=1):
        if score > best:
            best = score
            steps.append((number, score))
    return steps

"""The budget part of the controllers' benchmark: one controller for every budget against a search for each.

Knows nothing of models. The controller learns with budgets drawn at random and is then asked for budgets it was never
given, one rollout each. A search for a budget is the better one of two: MaskablePPO with that budget, and evolution
that begins with the knapsack's policies and never evaluates what exceeds it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optuna.storages import InMemoryStorage

from autodraft.evaluator import Evaluation, Evaluator
from autodraft.policies.choices import Budgets
from autodraft.policies.features import PolicyFeatures
from autodraft.policy import DraftPolicy
from autodraft.policy_text import encode_policy
from autodraft.search.agents.curve import Episode
from autodraft.search.agents.files import load_decider
from autodraft.search.agents.searcher import AgentSearcher
from autodraft.search.agents.training import ControllerTraining
from autodraft.search.agents.training_options import TrainingOptions
from autodraft.search.evolution import EvolutionSearcher
from autodraft.search.knapsack_search import KnapsackSearcher
from autodraft.search.loop import Clock, SearchLoop
from autodraft.search.objectives import Objectives
from autodraft.search.proposals import Proposal, Searcher
from autodraft.search.study import SearchStudy

COST_SHARES = (0.08, 0.17, 0.31)
"""Budgets of time: so far between the least that a policy takes and the target's own time."""
MEMORY_SHARES = (0.07, 0.16)
"""Budgets of memory, in shares of the target's weights."""
_NUM_PARENTS = 12


class Late(Exception):
    """The time for this run of the benchmark is over; the training goes on from its checkpoint in the next."""


def five_budgets(features: PolicyFeatures) -> list[Budgets]:
    """Three of time and two of memory."""
    least = min(features.base_ms.values()) / features.target_ms
    costs = [Budgets(max_cost=least + share * (1.0 - least)) for share in COST_SHARES]
    return costs + [Budgets(max_extra_bytes=int(share * features.target_bytes)) for share in MEMORY_SHARES]


def train(evaluator: Evaluator, folder: Path, episodes: int, is_late: Callable[[], bool]) -> dict[str, Any]:
    """Train the budget-conditioned controller, or go on with it; raises `Late`."""

    def stop(episode: Episode) -> None:
        if is_late():
            raise Late

    started = time.perf_counter()
    training = ControllerTraining(evaluator, TrainingOptions("maskable-ppo", episodes), folder, stop)
    path = training.run()
    rows = [episode.speedup for episode in training.episodes]
    return {"episodes": len(rows), "path": str(path), "last_run_s": time.perf_counter() - started}


def budget_rows(evaluator: Evaluator, agent: Path, num_evaluations: int) -> list[dict[str, Any]]:
    """For every budget what the controller's rollout gives, and what searches find."""
    rows = []
    for budgets in five_budgets(evaluator.features):
        policy = load_decider(agent, evaluator.features, budgets).decide(evaluator.features)
        rollout = evaluator.predict(policy)
        searches = {
            name: _best(evaluator, searcher, num_evaluations)
            for name, searcher in (
                ("maskable-ppo", AgentSearcher("maskable-ppo", evaluator.features, 0, budgets=budgets)),
                ("evolution", _Within(evolution(evaluator.features, budgets), evaluator.features, budgets)),
            )
        }
        rows.append(
            {
                "max_cost": budgets.max_cost,
                "max_extra_bytes": budgets.max_extra_bytes,
                "rollout": _entry(policy, rollout),
                "searches": searches,
            }
        )
    return rows


def fits(features: PolicyFeatures, policy: DraftPolicy, budgets: Budgets) -> bool:
    """Whether a policy keeps both budgets."""
    if budgets.max_cost is not None and features.cost(policy) > budgets.max_cost:
        return False
    return budgets.max_extra_bytes is None or features.extra_bytes(policy) <= budgets.max_extra_bytes


def evolution(features: PolicyFeatures, budgets: Budgets) -> EvolutionSearcher:
    """Mutations of the knapsack's policies within the budgets, of skips alone too, which take no memory."""
    proposals = KnapsackSearcher(features, num_coarse=_NUM_PARENTS).coarse()
    proposals += KnapsackSearcher(features, choices=(0, 16), num_coarse=_NUM_PARENTS).coarse()
    parents = [(proposal.policy, None) for proposal in proposals if fits(features, proposal.policy, budgets)]
    return EvolutionSearcher(features, Objectives(), 0, parents)


class _Within(Searcher):
    """Another searcher without what exceeds the budgets."""

    def __init__(self, searcher: Searcher, features: PolicyFeatures, budgets: Budgets) -> None:
        self.name = searcher.name
        self._searcher, self._features, self._budgets = searcher, features, budgets

    def ask(self) -> Proposal | None:
        proposal = self._searcher.ask()
        while proposal is not None and not fits(self._features, proposal.policy, self._budgets):
            self._searcher.tell(proposal, None)
            proposal = self._searcher.ask()
        return proposal

    def tell(self, proposal: Proposal, evaluation: Evaluation | None) -> None:
        self._searcher.tell(proposal, evaluation)


def _best(evaluator: Evaluator, searcher: Searcher, num_evaluations: int) -> dict[str, Any]:
    loop = SearchLoop(SearchStudy(InMemoryStorage(), searcher.name, Objectives()), evaluator, Clock(None))
    loop.explore("explore", searcher, most=num_evaluations)
    policy, evaluation = max(loop.predicted.values(), key=lambda pair: pair[1].speedup)
    return {"num_evaluations": len(loop.predicted), **_entry(policy, evaluation)}


def _entry(policy: DraftPolicy, evaluation: Evaluation) -> dict[str, Any]:
    return {
        "policy": encode_policy(policy),
        "cost": evaluation.cost,
        "extra_bytes": evaluation.extra_bytes,
        "speedup": evaluation.speedup,
    }
